// Copies of a mutable object's buffers, for locks that are taken with rollback=True.
//
//   taken      the bytes are copied into a block of their own, a Before, which is then linked to the lock
//   released   the newest Before of this depth is unlinked and freed
//   undone     the bytes are copied back first: by the holder (an exception), or by the supervisor (his death)
//
// Only the lock's holder uses the list; after his death the supervisor does, before it frees the lock. So nobody sees the
// object half changed who looks at it with the lock. The block has an owner from the start: Slot::drafts while it is being
// filled, and in one transaction with that Mutex::before. A holder that died in the middle of the filling has changed
// nothing yet. Copying back can be done again, since the Before stays until it is done; a list is undone from the newest to
// the oldest, which ends with the state at the outermost acquisition.
#include "client.h"

namespace shoal {

constexpr u64 LONG_COPY = 1 << 20;  // others may run meanwhile

// Where the buffers of an object lie, all in one piece.
Offset Client::buffers_of(Handle handle, u64* size) const {
  const Payload* p = payload(handle);
  const BufferSpan* s = spans(handle);
  u64 start = p->nbuffers ? s[0].start : 0;
  *size = p->nbuffers ? s[p->nbuffers - 1].start + s[p->nbuffers - 1].size - start : 0;
  return entry(handle).payload + start;
}

void Client::copy_bytes(Offset to, Offset from, u64 size) {
  void* others = size >= LONG_COPY && let_others_run ? let_others_run() : nullptr;
  copy_large(rw + to, rw + from, size);
  if (others) come_back(others);
}

Offset* Client::draft_block(u64 bytes) {
  Offset* draft = nullptr;
  for (auto& d : me->drafts)
    if (!d) draft = &d;
  if (!draft)
    throw Error(Error::LIMIT, "DRAFTS: at most " + std::to_string(DRAFTS) + " threads of one process can copy an object, for a rollback or a commit, at a time");
  with_room(bytes, false, [&] {
    fill_cache(bytes);
    Tx tx(*this);
    tx.set(*draft, alloc_block(tx, bytes));
    tx.commit();
  });
  CRASH_POINT("before.draft");
  try {
    commit_block(*draft, bytes);
  } catch (...) {
    before_forget(*draft);
    throw;
  }
  return draft;
}

// The lock of `handle` has just been taken by us.
void Client::before_make(Handle handle, Mutex* m) {
  u64 size;
  Offset from = buffers_of(handle, &size);
  u64 bytes = sizeof(Before) + size;
  Offset* draft = draft_block(bytes);
  Offset block = *draft;
  auto* b = at<Before>(block);
  b->older = m->before;
  b->at = from;
  b->size = size;
  b->depth = m->depth;
  copy_bytes(block + sizeof(Before), b->at, size);
  CRASH_POINT("before.copied");
  bool frozen;
  {
    Tx tx(*this);
    tx.lock(entry(handle).lock);  // freeze() holds it when it looks at `before`
    frozen = entry(handle).kind != KIND_MUTABLE;
    if (!frozen) {
      tx.set(m->before, block);
      tx.set(*draft, Offset(0));
      tx.commit();
    }
  }
  if (!frozen) return;
  before_forget(*draft);
  throw Error(Error::INVALID, "immutable");
}

// The bytes are as they were when the newest copy was made.
void Client::before_undo(Mutex* m) {
  auto* b = at<Before>(m->before);
  copy_bytes(b->at, m->before + sizeof(Before), b->size);
}

// The newest copy is not needed any more.
void Client::before_drop(Mutex* m) {
  {
    Tx tx(*this);
    Offset block = m->before;
    tx.set(m->before, at<Before>(block)->older);
    free_block(tx, block);
    tx.commit();
  }
  if (surplus) trim_caches();
}

// A block that no lock knows of.
void Client::before_forget(Offset& draft) {
  {
    Tx tx(*this);
    free_block(tx, draft);
    tx.set(draft, Offset(0));
    tx.commit();
  }
  if (surplus) trim_caches();
}

// Everything a dead holder has changed since; true: that was all since he had it.
bool Client::before_undo_all(Mutex* m) {
  bool whole = false;
  while (m->before) {
    whole = at<Before>(m->before)->depth == 0;
    before_undo(m);
    CRASH_POINT("before.undone");
    before_drop(m);
  }
  return whole;
}

}  // namespace shoal
