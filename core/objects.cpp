// Objects: creation, publication, references, disposal.
//
// Life of an entry:   FREE -> CREATING -> READY            -> DISPOSING -> FREE      (put)
//                     FREE -> PENDING  -> READY or FAILED  -> DISPOSING -> FREE      (a task's return)
//
// Publication is one release store of `state`; everything a reader then looks at was written before it. What else
// belongs to publication (waking, counting) follows under the entry's lock and can be done again by the
// supervisor: an entry that is READY but still names its task was left half way.
#include "client.h"

namespace shoal {

static u64 align64(u64 n) { return (n + 63) & ~63ull; }

u64 Client::refs_at(u8 kind, u8 flags, u64 size) {
  switch (kind) {
    case KIND_MUTABLE:
    case KIND_FROZEN: return 64 + sizeof(Mutex) + sizeof(Writers) + (flags & FLAG_OWNED ? sizeof(Ownership) : 0);
    case KIND_LOCK: return 64 + sizeof(Mutex);
    case KIND_SYNC: return 64 + sizeof(Mutex) + sizeof(Sync);
    case KIND_VERSIONED: return 64 + sizeof(Cell);
    case KIND_ACTOR: return 64 + sizeof(Actor);
    case KIND_QUEUE: return 64 + sizeof(Queue);
    case KIND_TABLE: return 64 + sizeof(Table);
    default: return size >= SPILL_FROM ? sizeof(Large) : sizeof(Payload);
  }
}

bool Client::valid(Handle h) const {
  u32 i = index_of(h);
  if (i == 0 || i >= this->h->heap.entry_top.load(std::memory_order_relaxed)) return false;
  const Entry& e = entries[i];
  return e.gen.load(std::memory_order_relaxed) == gen_of(h) && e.state.load(std::memory_order_acquire) != ENTRY_FREE;
}

// [Entry::lock] To be asked after something was read from the entry: did it belong to the object `h`? An entry is freed
// and made again without its lock, since nobody refers to it then; but one who comes late may still look.
bool Client::same_life(Handle h) const {
  std::atomic_thread_fence(std::memory_order_acquire);
  return entry(h).gen.load(std::memory_order_relaxed) == gen_of(h);
}

// [Entry::lock] Is it `h` still, and finished? It stays so while the lock is held: the fields that it guards may be read.
bool Client::sealed(Handle h) const {
  u32 state = entry(h).state.load(std::memory_order_acquire);
  return (state == ENTRY_READY || state == ENTRY_FAILED) && same_life(h);
}

Handle Client::create(Kind kind) {
  ensure_entry();
  Tx tx(*this);
  u32 i = pop_entry(tx);
  Entry& e = entries[i];
  tx.set(e.kind, u8(kind));
  tx.set(e.creator, u16(slot));
  tx.set(e.holders, 1u);
  tx.set(e.holder_bits[slot / 64], 1ull << slot % 64);
  tx.set(e.state, u32(ENTRY_CREATING));
  tx.commit();
  local[i] = 1;
  return handle_of(i);
}

u8* Client::attach_block(Handle h, u64 size) {
  Entry& e = entry(h);
  Offset block = with_room(size, true, [&] {
    fill_cache(size);
    Tx tx(*this);
    Offset place = alloc_block(tx, size);
    tx.set(e.payload, place);
    tx.set(e.flags, u8(e.flags | FLAG_HAS_BLOCK));
    tx.commit();
    return place;
  });
  commit_block(block, size);
  return rw + block;
}

u8* Client::begin_payload(Handle h, u32 format, u32 nrefs, u32 nbuffers, u64 meta_size, const u64* sizes) {
  u64 refs_start, spans_start, meta, size = 0;
  for (;;) {
    refs_start = refs_at(entry(h).kind, entry(h).flags, size);
    spans_start = refs_start + nrefs * sizeof(Handle);
    meta = spans_start + nbuffers * sizeof(BufferSpan);
    u64 all = meta + meta_size;
    for (u32 i = 0; i < nbuffers; i++) all = align64(all) + sizes[i];
    bool fits = refs_at(entry(h).kind, entry(h).flags, all) == refs_start;  // a large one has a larger header, and is larger still
    size = all;
    if (fits) break;
  }
  u8* p = attach_block(h, size);
  std::memset(p, 0, refs_start);
  auto* head = reinterpret_cast<Payload*>(p);
  head->format = format;
  head->nrefs_max = nrefs;
  head->nbuffers = nbuffers;
  head->meta = meta;
  head->meta_size = meta_size;
  if (entry(h).kind == KIND_VALUE && size >= SPILL_FROM) reinterpret_cast<Large*>(p)->used_ns.store(now_ns(), std::memory_order_relaxed);
  auto* span = reinterpret_cast<BufferSpan*>(p + spans_start);
  u64 place = meta + meta_size;
  for (u32 i = 0; i < nbuffers; i++) {
    place = align64(place);
    span[i] = {place, sizes[i]};
    place += sizes[i];
  }
  CRASH_POINT("payload.header");
  std::atomic_signal_fence(std::memory_order_seq_cst);
  __atomic_store_n(&entry(h).size, size, __ATOMIC_RELAXED);  // from here on the header counts
  CRASH_POINT("payload.counts");
  return p;
}

void Client::contain(Handle container, Handle target) {
  Payload* p = payload(container);
  SHOAL_CHECK(p->nrefs < p->nrefs_max);
  refs(container)[p->nrefs] = target;
  Tx tx(*this);
  Entry& e = entry(target);
  tx.lock(e.lock);
  tx.set(e.contained, e.contained + 1);
  tx.set(p->nrefs, p->nrefs + 1);
  tx.commit();
}

void Client::set_inline(Handle h, u64 tag, u64 value) {
  Entry& e = entry(h);
  __atomic_store_n(&e.payload, value, __ATOMIC_RELAXED);  // whole, for a sweep that peeks
  __atomic_store_n(&e.size, tag, __ATOMIC_RELAXED);
  std::atomic_signal_fence(std::memory_order_seq_cst);
  e.flags = FLAG_INLINE;
}

void Client::publish(Handle h, bool failed) {
  Entry& e = entry(h);
  EntryState how = failed ? ENTRY_FAILED : ENTRY_READY;
  if (e.state.load(std::memory_order_relaxed) == ENTRY_CREATING) {
    CRASH_POINT("publish.before");
    e.state.store(how, std::memory_order_release);  // nobody else has the handle yet
    CRASH_POINT("publish.done");
  } else {
    seal(h, how);
  }
}

void Client::seal(Handle h, EntryState how) {
  Entry& e = entry(h);
  {
    Tx tx(*this);
    tx.lock(e.lock);
    SHOAL_CHECK(e.state.load(std::memory_order_relaxed) == ENTRY_PENDING);
    CRASH_POINT("seal.before");
    e.state.store(how, std::memory_order_release);
    CRASH_POINT("seal.published");
  }
  finish_seal(h);
}

// What follows the publication of a task's return. The task still counts as a reference until `contained` goes
// down here, so the entry cannot vanish between the two.
void Client::finish_seal(Handle h) {
  Entry& e = entry(h);
  u32 waiter;
  bool dead, dependents;
  {
    Tx tx(*this);
    tx.lock(e.lock);
    if (!sealed(h) || !e.task) return;  // done already, by the supervisor's sweep
    waiter = e.waiter;
    tx.set(e.waiter, 0u);
    tx.set(e.task, Offset(0));
    tx.set(e.contained, e.contained - 1);
    dead = unreferenced(tx, h);
    dependents = e.dependents != 0;
    tx.commit();
  }
  CRASH_POINT("seal.ring");
  ring_waiter(waiter);
  if (dependents) drain_dependents(h);
  if (dead) dispose(h);
}

void Client::drain_dependents(Handle h) {
  Entry& e = entry(h);
  for (;;) {
    {
      Tx tx(*this);
      tx.lock(e.lock);
      // The last one that we made ready may have run by now, and with it the object may have gone.
      if (!sealed(h)) return;
      Offset first = e.dependents;
      if (!first) return;
      Dep* d = at<Dep>(first);
      Task* t = at<Task>(d->task);
      tx.set(e.dependents, d->next);
      tx.set(d->waiting, 0u);
      tx.lock(t->lock);
      u32 left = t->unready.load(std::memory_order_relaxed) - 1;
      if (!left) ready(tx, t);  // first, so that an actor's host, which looks at `unready` under its lock, waits for our commit
      tx.set(t->unready, left);
      tx.commit();
    }
    after_tx();
  }
}

// Does nobody but the actor itself refer to it? [lock Entry::lock]
bool Client::actor_alone(Handle h) const {
  Entry& e = entry(h);
  if (e.contained != 1 || !e.holders) return e.contained == 1;
  Actor* a = actor(h);
  u32 self = a->slot.load(std::memory_order_relaxed);
  return e.holders == 1 && e.holder_bits[self / 64].load(std::memory_order_relaxed) >> (self % 64) & 1 &&
         a->state.load(std::memory_order_relaxed) == ACTOR_ALIVE;
}

// Is nothing left that refers to it? An actor lives on until it has been told (its process counts as one).
bool Client::unreferenced(Tx& tx, Handle h) {
  Entry& e = entry(h);
  if (e.kind == KIND_ACTOR && e.contained == 1 && e.state.load(std::memory_order_relaxed) == ENTRY_READY) {
    // Here and not after the change: then the actor itself could be gone already.
    Actor* a = actor(h);
    u32 open = 0, state = a->state.load(std::memory_order_relaxed);
    if (actor_alone(h) && state != ACTOR_DEAD && a->closing.compare_exchange_strong(open, 1) && a->state.load() == ACTOR_ALIVE)
      to_ring.push_back(a->slot.load());
    return false;
  }
  if (e.holders || e.contained) return false;
  tx.set(e.creator, u16(slot));
  tx.set(e.state, u32(ENTRY_DISPOSING));
  return true;
}

void Client::acquire(Handle h) {
  u32 i = index_of(h);
  Entry& e = entries[i];
  if (local[i] && same_life(h)) {
    local[i]++;
    return;
  }
  Tx tx(*this);
  tx.lock(e.lock);
  u32 state = e.state.load(std::memory_order_relaxed);
  if (!same_life(h) || state == ENTRY_FREE || state == ENTRY_DISPOSING)
    throw Error(Error::GONE, "the object no longer exists: its last reference was dropped before this one was made");
  auto& word = e.holder_bits[slot / 64];
  tx.set(word, word.load(std::memory_order_relaxed) | 1ull << slot % 64);
  tx.set(e.holders, e.holders + 1);
  tx.commit();
  local[i] = 1;
}

void Client::release(Handle h) {
  u32 i = index_of(h);
  SHOAL_CHECK(local[i] > 0);
  if (--local[i]) return;
  Entry& e = entries[i];
  bool dead;
  {
    Tx tx(*this);
    tx.lock(e.lock);
    auto& word = e.holder_bits[slot / 64];
    tx.set(word, word.load(std::memory_order_relaxed) & ~(1ull << slot % 64));
    tx.set(e.holders, e.holders - 1);
    dead = unreferenced(tx, h);
    tx.commit();
  }
  CRASH_POINT("release.dispose");
  if (dead) dispose(h);
  if (!to_ring.empty()) after_tx();
}

// A writable view is counted before anybody can write through it, under the lock that freeze() holds when it looks. The
// object is ours already. False: it is not mutable (any more).
bool Client::begin_view(Handle h) {
  u32 i = index_of(h);
  if (!views[i]) {
    Entry& e = entries[i];
    Tx tx(*this);
    tx.lock(e.lock);
    if (e.kind.load(std::memory_order_relaxed) != KIND_MUTABLE) return false;
    auto& word = writers(h)->bits[slot / 64];
    tx.set(word, word.load(std::memory_order_relaxed) | 1ull << slot % 64);
    tx.commit();
  }
  views[i]++;
  return true;
}

void Client::end_view(Handle h) {
  u32 i = index_of(h);
  SHOAL_CHECK(views[i] > 0);
  if (--views[i]) return;
  Tx tx(*this);
  tx.lock(entries[i].lock);
  auto& word = writers(h)->bits[slot / 64];
  tx.set(word, word.load(std::memory_order_relaxed) & ~(1ull << slot % 64));
  tx.commit();
}

// One store, and no journal: there are readers without the lock, for whom it must not be taken back.
std::vector<u32> Client::freeze(Handle h) {
  Entry& e = entry(h);
  u8 kind = e.kind.load(std::memory_order_relaxed);
  if (e.state.load(std::memory_order_acquire) != ENTRY_READY || (kind != KIND_MUTABLE && kind != KIND_FROZEN))
    throw Error(Error::INVALID, "not mutable");
  std::vector<u32> who;
  Ownership* o = ownership(h);
  bool owned = has_ownership(h) && kind == KIND_MUTABLE;
  if (owned && owner_known(h) != Owned::YES) throw Error(Error::INVALID, "not the owner");
  {
    Tx tx(*this);
    tx.lock(e.lock);
    if (mutex(h)->before)
      throw Error(Error::INVALID, "cannot freeze it while its lock is held with rollback=True: it may still become what it was before");
    for (u32 w = 0; w < MAX_PROCESSES / 64; w++)
      for (u64 bits = writers(h)->bits[w].load(std::memory_order_relaxed); bits; bits &= bits - 1)
        who.push_back(w * 64 + u32(__builtin_ctzll(bits)));
    if (owned) {  // another owner begins, and copies back what was committed, in the guard only
      tx.lock(o->q.guard);
      if (!owns(o)) throw Error(Error::INVALID, "not the owner");
      if (who.empty())
        for (Offset n = o->q.head; n; n = at<WaitNode>(n)->next) wake(at<WaitNode>(n));  // they wait in vain now
    }
    CRASH_POINT("freeze.before");
    if (who.empty()) e.kind.store(KIND_FROZEN, std::memory_order_release);
    CRASH_POINT("freeze.done");
  }
  if (owned && who.empty()) owner_drop(h);
  if (!to_ring.empty()) after_tx();
  return who;
}

// Supervisor: the dead `s` writes no more.
void Client::end_views_of(Handle h, u32 s) {
  auto& word = writers(h)->bits[s / 64];
  u64 bit = 1ull << s % 64;
  Tx tx(*this);
  tx.lock(entry(h).lock);
  if (word.load(std::memory_order_relaxed) & bit) tx.set(word, word.load(std::memory_order_relaxed) & ~bit);
  tx.commit();
}

void Client::add_contained(Handle h) {
  Entry& e = entry(h);
  Tx tx(*this);
  tx.lock(e.lock);
  tx.set(e.contained, e.contained + 1);
  tx.commit();
}

bool Client::drop_contained_tx(Tx& tx, Handle h) {
  Entry& e = entry(h);
  tx.lock(e.lock);
  SHOAL_CHECK(e.contained > 0);
  tx.set(e.contained, e.contained - 1);
  return unreferenced(tx, h);
}

// Takes an object apart that nothing refers to. Chains of objects that contain one another are followed with a
// list of our own, not by recursion. Each step leaves an entry in DISPOSING whose payload tells what is left.
void Client::dispose(Handle first) {
  std::vector<Handle> more;
  Handle h = first;
  bool freed = false;  // a large block
  for (;;) {
    Entry& e = entry(h);
    SHOAL_CHECK(e.state.load() == ENTRY_DISPOSING);
    if (e.flags & FLAG_HAS_BLOCK && e.size) {
      Payload* p = payload(h);
      while (p->nrefs) {
        Handle target = refs(h)[p->nrefs - 1];
        Tx tx(*this);
        bool dead = drop_contained_tx(tx, target);
        tx.set(p->nrefs, p->nrefs - 1);
        tx.commit();
        if (dead) more.push_back(target);
      }
      while (has_mutex(e.kind) && mutex(h)->before) before_drop(mutex(h));
      if (e.flags & FLAG_OWNED) owner_drop(h);
      if (e.kind == KIND_TABLE) {
        Handle dead = 0;
        while (table_drop_one(table(h), &dead))
          if (dead) more.push_back(dead);
      }
      if (e.kind == KIND_QUEUE) {
        Handle dead = 0;
        while (queue_drop_first(queue(h), &dead))
          if (dead) more.push_back(dead);
      }
      Handle* one = e.kind == KIND_ACTOR ? &actor(h)->death : e.kind == KIND_VERSIONED ? &cell(h)->current : nullptr;
      for (Handle* last : {one, e.kind == KIND_ACTOR ? &actor(h)->saved : nullptr}) {
        if (!last || !*last) continue;
        Handle target = *last;
        Tx tx(*this);
        bool dead = drop_contained_tx(tx, target);
        tx.set(*last, Handle(0));
        tx.commit();
        if (dead) more.push_back(target);
      }
    }
    CRASH_POINT("dispose.free");
    u64 extent = e.flags & FLAG_SPILLED ? e.payload : 0, size = e.size;
    if (extent) punch(extent, size);  // while it still is nobody else's
    {
      Tx tx(*this);
      if (extent) {
        drop_extent(tx, extent, size);
        tx.set(this->h->spill.bytes, this->h->spill.bytes.load(std::memory_order_relaxed) - size);
        tx.set(this->h->spill.objects, this->h->spill.objects.load(std::memory_order_relaxed) - 1);
      }
      if (e.flags & FLAG_HAS_BLOCK) free_block(tx, e.payload);
      freed |= size > SMALL_LIMIT;
      tx.set(e.payload, Offset(0));
      tx.set(e.size, u64(0));
      tx.set(e.kind, u8(0));
      tx.set(e.flags, u8(0));
      tx.set(e.waiter, 0u);
      tx.set(e.gen, e.gen.load(std::memory_order_relaxed) + 1);
      tx.set(e.state, u32(ENTRY_FREE));
      push_entry(tx, index_of(h));
      tx.commit();
    }
    if (more.empty()) break;
    h = more.back();
    more.pop_back();
  }
  if (surplus || entry_surplus) trim_caches();
  if (freed) ring_starved();
  if (!to_ring.empty()) after_tx();
}

bool Client::owes(const Task* t, Handle r) {
  Entry& e = entry(r);
  Tx tx(*this);
  tx.lock(e.lock);
  return e.state.load(std::memory_order_acquire) == ENTRY_PENDING && same_life(r) && e.task == offset(t);
}

void Client::reset_payload(Handle h) {
  Entry& e = entry(h);
  if (e.flags & FLAG_HAS_BLOCK) {
    if (e.size) {
      Payload* p = payload(h);
      while (p->nrefs) {
        Handle target = refs(h)[p->nrefs - 1];
        bool dead;
        {
          Tx tx(*this);
          dead = drop_contained_tx(tx, target);
          tx.set(p->nrefs, p->nrefs - 1);
          tx.commit();
        }
        if (dead) dispose(target);
      }
    }
    Tx tx(*this);
    free_block(tx, e.payload);
    tx.set(e.flags, u8(0));
    tx.set(e.payload, Offset(0));
    tx.set(e.size, u64(0));
    tx.commit();
  } else {
    e.flags = 0;
    __atomic_store_n(&e.payload, Offset(0), __ATOMIC_RELAXED);
    __atomic_store_n(&e.size, u64(0), __ATOMIC_RELAXED);
  }
}

// Wake-ups and notices that a change called for: they come after its commit, when they can do no harm.
void Client::after_tx() {
  if (work_added) {
    work_added = false;
    CRASH_POINT("wake.worker");
    wake_worker();
  }
  while (!to_ring.empty()) {
    u32 s = to_ring.back();
    to_ring.pop_back();
    CRASH_POINT("ring.one");
    ring(s);
  }
}

}  // namespace shoal
