// What a participant does about what many share: containers, versions, views of mutable objects, rings.
#include <sched.h>

#include <algorithm>

#include "peer.h"

namespace shoal::stress {

void Peer::queue() {
  Queue* q = c.queue(w_.queue);
  Held* x = any(VALUE);
  u64 n = q->tail.load() - q->head.load();  // a hint
  count(ITEMS_MOVED);
  switch (rnd.below(9)) {
    case 0:
    case 1:
    case 2: {
      if (!x || n > 200) return taken(c.queue_get(q));
      Handle h = x->h;
      c.acquire(h);
      here();
      giving(h, [&] { return rnd.one_in(2) ? c.queue_put(q, h) : c.queue_insert(q, rnd.below(20), h); });
      break;
    }
    case 3:
      if (x) {
        Handle h = x->h;
        c.acquire(h);
        giving(h, [&] { return c.queue_set(q, i64(rnd.below(20)) - 10, h); });
      }
      break;
    case 4: return taken(c.queue_pop(q, i64(rnd.below(20)) - 10));
    case 5: return taken(c.queue_at(q, i64(rnd.below(20)) - 10));
    case 6: {
      u32 seen = c.me->ring.load(std::memory_order_seq_cst);
      if (c.queue_watch(q, true)) c.sleep_ring(seen, now_ns() + rnd.below(300000) + 1);
      break;
    }
    default: return taken(c.queue_get(q));
  }
}

void Peer::table() {
  Table* t = c.table(w_.table);
  u64 hash = mix(rnd.below(150));
  std::string key = std::to_string(hash);
  Held* x = any(VALUE);
  count(ITEMS_MOVED);
  switch (rnd.below(8)) {
    case 0:
    case 1:
    case 2:
    case 3:
      if (x) {
        Handle h = x->h;
        c.acquire(h);
        here();
        giving(h, [&] { return c.table_set(t, hash, key, h, !rnd.one_in(4)); });
      }
      break;
    case 4: return taken(c.table_get(t, hash, key));
    case 5: return taken(c.table_pop(t, hash, key));
    case 6: {
      Handle value;
      if (c.table_pop_end(t, rnd.one_in(2), &key, &value)) taken(value);
      break;
    }
    default: {
      auto keys = c.table_keys(t);
      std::sort(keys.begin(), keys.end());
      REQUIRE(std::unique(keys.begin(), keys.end()) == keys.end());
    }
  }
}

// Nobody ever sees an older version than one that he has seen.
void Peer::version() {
  Cell* cell = c.cell(w_.cell);
  u64 version = newest_;
  count(VERSIONS);
  switch (rnd.below(8)) {
    case 0:
    case 1:
    case 2: {
      Held* x = any(VALUE);
      if (!x || state_of(c, x->h) != ENTRY_READY) return;
      Handle h = x->h;
      c.acquire(h);
      u64 before = c.cell_version(cell);
      here();
      bool compare = rnd.one_in(2);
      giving(h, [&] {
        bool done = c.cell_publish(cell, h, compare ? &before : nullptr, &version);
        REQUIRE(done ? (compare ? version == before + 1 : version > before) : compare && version > before);
        return done;
      });
      break;
    }
    case 3: {
      u32 seen = c.me->ring.load(std::memory_order_seq_cst);
      u64 newer = c.cell_watch(cell, newest_);
      if (newer) version = newer;
      else c.sleep_ring(seen, now_ns() + rnd.below(300000) + 1);
      break;
    }
    default: {
      Handle h = c.cell_acquire(cell, &version);
      REQUIRE(state_of(c, h) == ENTRY_READY);
      here();
      taken(h);
    }
  }
  REQUIRE(version >= newest_);
  newest_ = version;
}

// Mutable objects that anybody may write to until somebody freezes them: while there is a writable view none is frozen,
// and what is frozen does not change.
void Peer::view() {
  std::string text = "shared " + std::to_string(rnd.below(3));
  Handle h = c.name_get(NAMES_OBJECT, text, true);
  if (!h) {
    h = new_lock(c);
    here();
    return giving(h, [&] { return c.name_set(NAMES_OBJECT, text, h), false; });
  }
  here();
  auto& number = *reinterpret_cast<std::atomic<u64>*>(&guarded(c, h)->a);
  auto kind = [&] { return c.entry(h).kind.load(std::memory_order_acquire); };
  count(VIEWS);
  if (rnd.one_in(5)) {
    std::vector<u32> writers = c.freeze(h);
    here();
    if (writers.empty()) c.name_remove(NAMES_OBJECT, text, h);
    else REQUIRE(std::find(writers.begin(), writers.end(), c.slot) == writers.end());
  } else if (c.begin_view(h)) {
    bool twice = rnd.one_in(3);
    if (twice) REQUIRE(c.begin_view(h));
    number.fetch_add(1);
    here();
    if (rnd.one_in(8)) sched_yield();
    if (twice) c.end_view(h);
    number.fetch_add(1);
    REQUIRE(kind() == KIND_MUTABLE);
    c.end_view(h);
  }
  if (kind() == KIND_FROZEN) {
    REQUIRE(!c.begin_view(h));
    u64 was = number.load();
    here();
    if (rnd.one_in(4)) sched_yield();
    REQUIRE(number.load() == was && kind() == KIND_FROZEN);
  }
  c.release(h);
}

// Of the first object the owner sees, and leaves when it is done, only what it or another has committed: equal numbers. The
// second is stolen too, so nobody can say what is in it; but not among threads, where a sanitizer would rightly complain
// that the thief copies back while the one it robs still reads for a commit (which is refused).
void Peer::owned() {
  bool calm = rnd.one_in(2);
  Handle h = w_.owned[calm ? 0 : 1];
  c.acquire(h);
  Ownership* o = c.ownership(h);
  Client::Notice notice{};
  count(OWNERSHIPS);
  if (c.owner_claim(h, !calm && !flight_ && rnd.one_in(3), &notice) == Client::Claim::NO) {
    WaitNode* n = c.owner_enqueue(h, rnd.one_in(2), u64(c.slot + 1) << 32 | 1);
    u64 deadline = now_ns() + rnd.below(400000) + 1;
    for (;;) {
      here();
      u32 seen = c.me->ring.load(std::memory_order_seq_cst);
      if (c.owner_check(h, n, &notice)) break;
      c.sleep_ring(seen, deadline);
      if (now_ns() < deadline) continue;
      if (!c.owner_leave(o, n, rnd.one_in(2))) count(TIMEOUTS);
      if (c.owner_claim(h, false, &notice) != Client::Claim::NO) break;
      return c.release(h);
    }
  }
  here();
  u64 size;
  u64* numbers = c.at<u64>(c.buffers_of(h, &size));
  auto equal = [&] { return std::all_of(numbers, numbers + size / 8, [&](u64 x) { return x == numbers[0]; }); };
  auto expect = [&](Client::Owned verdict) { REQUIRE(calm ? verdict == Client::Owned::YES : verdict != Client::Owned::NEVER); };
  if (calm) REQUIRE(equal());
  for (u32 i = rnd.below(3); i > 0; i--) {
    u64 was = calm ? numbers[0] : 0;
    for (u64 k = 0; calm && k < size / 8; k++) {
      numbers[k] = was + 1;
      if (k == 3) here();
    }
    bool commit = rnd.one_in(2);
    expect(commit ? c.owner_commit(h) : c.owner_rollback(h));
    here();
    if (calm) REQUIRE(equal() && numbers[0] == was + commit);
  }
  if (calm && rnd.one_in(16)) {
    numbers[0]++;
    c.owner_abandon(h);
  } else {
    expect(c.owner_transfer(h, 0));
  }
  here();
  c.release(h);
}

// As in src/shoal/containers/ring.py. One record is two numbers that only a whole one has equal.
void Peer::ring() {
  Records* r = records(c, w_.ring);
  count(RECORDS);
  if (rnd.one_in(2)) {
    auto& place = r->places[rnd.below(Records::CAPACITY)];
    i64 stamp = place.stamp.load();
    u64 a = place.a.load(), b = place.b.load();
    if (rnd.one_in(8)) sched_yield();
    if (stamp > 0 && !(stamp & 1) && place.stamp.load() == stamp) REQUIRE(a == b && a == mix(u64(stamp)));
    return;
  }
  i64 number = r->claimed.fetch_add(1);
  auto& place = r->places[number % Records::CAPACITY];
  here();
  if (!c.ring_claim(place.stamp, number)) return void(r->skipped.fetch_add(1));
  here();
  i64 mine = place.stamp.load(), done = 2 * (number + 1);
  place.a.store(mix(u64(done)));
  here();
  if (rnd.one_in(8)) sched_yield();
  place.b.store(mix(u64(done)));
  REQUIRE(place.stamp.load() == mine && place.a.load() == mix(u64(done)));  // nobody else wrote
  place.stamp.store(done);
}

}  // namespace shoal::stress
