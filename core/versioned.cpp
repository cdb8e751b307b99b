// Versions of a value: a cell in the arena that holds the newest one. Locks: Cell::lock before Entry::lock.
//
// The cell's lock is held for the exchange of a handle and a number, and for taking a reference; never while a value
// is made, copied, read or freed. So readers and writers wait for each other a few instructions at most.
//
// A version is an ordinary immutable object. The cell counts as one `contained`; every reader holds its own reference
// for as long as it looks; the last one to let go frees the memory, which the next version of the same size then
// gets back warm. Publication is one transaction: the new object's `contained`, `current`, `version` and the old
// object's `contained` change together or not at all.
#include "client.h"

namespace shoal {

Handle Client::create_cell(Handle first) {
  Handle h = create(KIND_VERSIONED);
  try {
    begin_payload(h, FORMAT_PICKLE, 0, 0, 0, nullptr);
    Entry& e = entry(first);
    Tx tx(*this);
    tx.lock(e.lock);
    tx.set(e.contained, e.contained + 1);
    tx.set(cell(h)->current, first);
    tx.commit();
  } catch (...) {
    release(h);
    throw;
  }
  publish(h, false);
  return h;
}

Handle Client::cell_acquire(Cell* c, u64* version) {
  Tx tx(*this);
  tx.lock(c->lock);
  Handle h = c->current;
  *version = c->version.load(std::memory_order_relaxed);
  hand_out(tx, h, true);  // the cell's own reference keeps it alive until ours is counted
  tx.commit();
  local[index_of(h)]++;
  return h;
}

u64 Client::cell_version(Cell* c) {
  Tx tx(*this);
  tx.lock(c->lock);
  return c->version.load(std::memory_order_relaxed);
}

// No wake-up is lost: the bit is set and the version is looked at under the lock under which a writer publishes and
// takes the bits. The writer rings after its commit; if it dies in between, the supervisor rings everybody.
u64 Client::cell_watch(Cell* c, u64 newer_than) {
  Tx tx(*this);
  tx.lock(c->lock);
  u64 version = c->version.load(std::memory_order_relaxed);
  if (version > newer_than) return version;
  u64& word = c->waiters[slot / 64];
  if (!(word >> slot % 64 & 1)) tx.set(word, word | 1ull << slot % 64);
  tx.commit();
  return 0;
}

bool Client::cell_publish(Cell* c, Handle item, const u64* expected, u64* version) {
  u64 waiters[MAX_PROCESSES / 64];
  Handle old;
  bool dead;
  {
    Tx tx(*this);
    tx.lock(c->lock);
    u64 now = c->version.load(std::memory_order_relaxed);
    *version = now;
    if (expected && now != *expected) return false;
    old = c->current;
    dead = exchange(tx, item, old);
    tx.set(c->current, item);
    CRASH_POINT("cell.half");
    tx.set(c->version, now + 1);
    for (u32 w = 0; w < MAX_PROCESSES / 64; w++)
      if ((waiters[w] = c->waiters[w])) tx.set(c->waiters[w], u64(0));
    tx.commit();
    local[index_of(item)]--;
    *version = now + 1;
  }
  CRASH_POINT("cell.ring");
  for (u32 w = 0; w < MAX_PROCESSES / 64; w++)
    for (u64 bits = waiters[w]; bits; bits &= bits - 1) ring(w * 64 + u32(__builtin_ctzll(bits)));
  if (dead) dispose(old);
  return true;
}

}  // namespace shoal
