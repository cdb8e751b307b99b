// Scenes of queues, lists, dictionaries and rings.
#include "scene.h"

namespace shoal::stress {

namespace {

// Two values and a container, held by the supervisor.
void prepare_with(Stage& s, Handle container) { s.sure = {container, make(s.c, 10), make(s.c, 200)}; }
void prepare_queue(Stage& s) { prepare_with(s, s.c.create_queue(0)); }
void prepare_table(Stage& s) { prepare_with(s, s.c.create_table()); }
Queue* queue(Stage& s) { return s.c.queue(s.sure[0]); }
Table* table(Stage& s) { return s.c.table(s.sure[0]); }

void put(Stage& s, Handle item) {
  s.c.acquire(item);
  REQUIRE(s.c.queue_put(queue(s), item));
}
void set(Stage& s, u64 key, Handle value, bool replace = true) {
  s.c.acquire(value);
  if (!s.c.table_set(table(s), key, std::to_string(key), value, replace)) s.c.release(value);
}
void take(Stage& s, Handle item) {
  REQUIRE(item);
  s.c.release(item);
}

// What was given to the container is not ours any more, and what came out of it we have let go of.
void holds_nothing(Stage& s) { REQUIRE(!s.c.local[index_of(s.sure[1])] && !s.c.local[index_of(s.sure[2])]); }

void fill_queue(Stage& s, u32 n) {
  for (u32 i = 0; i < n; i++) put(s, s.sure[1]);
}
void fill_table(Stage& s, u32 n) {
  for (u32 i = 0; i < n; i++) set(s, i, s.sure[1]);
}

// Whatever lies in it can be taken out, and is whole.
void empty_queue(Stage& s) {
  u64 n = queue(s)->tail.load() - queue(s)->head.load();
  while (Handle item = s.c.queue_get(queue(s))) {
    REQUIRE(state_of(s.c, item) == ENTRY_READY);
    s.c.release(item);
    n--;
  }
  REQUIRE(n == 0);
  put(s, s.sure[2]);
}
void empty_table(Stage& s) {
  u64 n = table(s)->count.load();
  REQUIRE(s.c.table_keys(table(s)).size() == n);
  std::string key;
  Handle value;
  for (; s.c.table_pop_end(table(s), n & 1, &key, &value); n--) take(s, value);
  REQUIRE(n == 0);
  set(s, 7, s.sure[2]);
}

void queues(std::vector<Scene>& all) {
  all.push_back({"queue: made, disposed of with its items", prepare_queue, nothing,
                 [](Stage& s) {
                   Handle q = s.c.create_queue(3);
                   for (u32 i = 0; i < 3; i++) REQUIRE(s.c.queue_put(s.c.queue(q), make(s.c, 10)));
                   Handle more = make(s.c, 10);
                   REQUIRE(!s.c.queue_put(s.c.queue(q), more));
                   s.c.release(more);
                   s.c.release(q);
                 },
                 nullptr, empty_queue});
  all.push_back({"queue: put and get", prepare_queue, [](Stage& s) { s.c.acquire(s.sure[0]); },
                 [](Stage& s) {
                   put(s, s.sure[1]);
                   s.c.acquire(s.sure[2]);
                   put(s, s.sure[2]);
                   REQUIRE(s.c.queue_put(queue(s), make(s.c, 10)));
                   take(s, s.c.queue_get(queue(s)));
                   take(s, s.c.queue_get(queue(s)));
                   take(s, s.c.queue_get(queue(s)));
                   s.c.release(s.sure[2]);
                   REQUIRE(!s.c.queue_get(queue(s)));
                 },
                 nullptr, empty_queue});
  all.push_back({"queue: grows", prepare_queue, [](Stage& s) { fill_queue(s, 64); },
                 [](Stage& s) {
                   put(s, s.sure[2]);
                   take(s, s.c.queue_get(queue(s)));
                 },
                 nullptr, empty_queue});
  all.push_back({"queue: grows into a run of pages", prepare_queue, [](Stage& s) { fill_queue(s, 4096); },
                 [](Stage& s) { put(s, s.sure[2]); }, nullptr, empty_queue});
  all.push_back({"queue: waited for",
                 [](Stage& s) {
                   prepare_queue(s);
                   REQUIRE(s.c.queue_watch(queue(s), true));
                 },
                 nothing,
                 [](Stage& s) {
                   REQUIRE(s.c.queue_watch(queue(s), true));
                   put(s, s.sure[1]);
                   REQUIRE(!s.c.queue_watch(queue(s), true));
                   take(s, s.c.queue_get(queue(s)));
                   u32 seen = s.c.me->ring.load();
                   REQUIRE(s.c.queue_watch(queue(s), true));
                   s.meet();
                   s.c.sleep_ring(seen, 0);
                   take(s, s.c.queue_get(queue(s)));
                 },
                 [](Stage& s) { put(s, s.sure[2]); }, empty_queue});
  all.push_back({"queue: full, waited for",
                 [](Stage& s) {
                   prepare_with(s, s.c.create_queue(1));
                   put(s, s.sure[1]);
                   REQUIRE(s.c.queue_watch(queue(s), false));
                 },
                 nothing,
                 [](Stage& s) {
                   REQUIRE(s.c.queue_watch(queue(s), false));
                   take(s, s.c.queue_get(queue(s)));
                   put(s, s.sure[2]);
                 },
                 nullptr, empty_queue});
  all.push_back({"list: set, insert, pop", prepare_queue, [](Stage& s) { fill_queue(s, 5); },
                 [](Stage& s) {
                   Queue* q = queue(s);
                   take(s, s.c.queue_at(q, -1));
                   for (u32 i = 0; i < 2; i++) {  // the second finds it there
                     s.c.acquire(s.sure[2]);
                     REQUIRE(s.c.queue_set(q, 2, s.sure[2]));
                   }
                   for (u32 i = 0; i < 2; i++) REQUIRE(s.c.queue_set(q, 2, make(s.c, 10)));  // the second disposes of the first
                   s.c.acquire(s.sure[2]);
                   REQUIRE(s.c.queue_insert(q, 1, s.sure[2]));
                   take(s, s.c.queue_pop(q, 3));
                   take(s, s.c.queue_pop(q, 0));
                   take(s, s.c.queue_pop(q, -1));
                   s.c.queue_clear(q);
                   holds_nothing(s);
                 },
                 nullptr, empty_queue});
  all.push_back({"list: another order, and a certain item out", prepare_queue,
                 [](Stage& s) {
                   fill_queue(s, 4);
                   put(s, s.sure[2]);
                 },
                 [](Stage& s) {
                   Queue* q = queue(s);
                   std::vector<Handle> before, after;
                   while (Handle item = s.c.queue_at(q, i64(before.size()))) before.push_back(item);
                   after.assign(before.rbegin(), before.rend());
                   REQUIRE(s.c.queue_reorder(q, before, after));
                   REQUIRE(!s.c.queue_reorder(q, before, after));  // they are not in that order any more
                   REQUIRE(!s.c.queue_pop(q, 0, s.sure[1]));
                   take(s, s.c.queue_pop(q, 0, s.sure[2]));
                   take(s, s.c.queue_pop(q, 2, s.sure[1]));
                   for (Handle item : before) s.c.release(item);
                   s.c.queue_clear(q);
                   holds_nothing(s);
                 },
                 nullptr, empty_queue});
}

void tables(std::vector<Scene>& all) {
  all.push_back({"dictionary: made, disposed of with its values", prepare_table, nothing,
                 [](Stage& s) {
                   Handle lock = make(s.c, 10), t = s.c.create_table(lock);
                   s.c.release(lock);
                   for (u32 i = 0; i < 3; i++) REQUIRE(s.c.table_set(s.c.table(t), i, "key", make(s.c, 10), false));
                   s.c.release(t);
                 },
                 nullptr, empty_table});
  all.push_back({"dictionary: set, get, pop", prepare_table, nothing,
                 [](Stage& s) {
                   set(s, 1, s.sure[1]);
                   set(s, 1, s.sure[2]);
                   set(s, 1, s.sure[2]);
                   set(s, 1, s.sure[1], false);
                   s.c.table_set(table(s), 2, "2", make(s.c, 10), true);
                   s.c.table_set(table(s), 2, "2", make(s.c, 10), true);
                   take(s, s.c.table_get(table(s), 1, "1"));
                   take(s, s.c.table_pop(table(s), 1, "1"));
                   std::string key;
                   Handle value;
                   REQUIRE(s.c.table_pop_end(table(s), true, &key, &value) && key == "2");
                   s.c.release(value);
                   REQUIRE(!s.c.table_get(table(s), 1, "1"));
                   holds_nothing(s);
                 },
                 nullptr, empty_table});
  all.push_back({"dictionary: grows", prepare_table, [](Stage& s) { fill_table(s, 64); },
                 [](Stage& s) {
                   for (u32 i = 64; i < 68; i++) set(s, i, s.sure[1]);
                   take(s, s.c.table_pop(table(s), 3, "3"));
                 },
                 nullptr, empty_table});
  all.push_back({"dictionary: has grown", prepare_table, [](Stage& s) { fill_table(s, 74); },
                 [](Stage& s) {
                   set(s, 80, s.sure[2]);
                   for (u32 i = 81; i < 84; i++) set(s, i, s.sure[2]);
                   REQUIRE(!table(s)->buckets[1]);
                 },
                 nullptr, empty_table});
  all.push_back({"dictionary: large key", prepare_table, nothing,
                 [](Stage& s) {
                   std::string key(50000, 'x');
                   s.c.acquire(s.sure[1]);
                   REQUIRE(s.c.table_set(table(s), 5, key, s.sure[1], false));
                   take(s, s.c.table_pop(table(s), 5, key));
                 },
                 nullptr, empty_table});
}

void rings(std::vector<Scene>& all) {
  all.push_back({"ring: a record is written", [](Stage& s) { s.sure = {new_mutable(s.c, sizeof(Records))}; },
                 [](Stage& s) { s.c.acquire(s.sure[0]); },
                 [](Stage& s) {
                   Records* r = records(s.c, s.sure[0]);
                   auto& place = r->places[0];
                   CRASH_POINT("ring.before");
                   i64 number = r->claimed.fetch_add(1);
                   CRASH_POINT("ring.number");
                   REQUIRE(s.c.ring_claim(place.stamp, number));
                   CRASH_POINT("ring.claimed");
                   s.meet();
                   place.a.store(5);
                   CRASH_POINT("ring.half");
                   place.b.store(5);
                   CRASH_POINT("ring.whole");
                   place.stamp.store(2 * (number + 1));
                   CRASH_POINT("ring.done");
                   s.c.release(s.sure[0]);
                 },
                 // One round on: who writes is not disturbed.
                 [](Stage& s) { REQUIRE(!s.c.ring_claim(records(s.c, s.sure[0])->places[0].stamp, Records::CAPACITY)); },
                 // But his death does not keep the place, not even if somebody else has his slot now.
                 [](Stage& s) {
                   auto& place = records(s.c, s.sure[0])->places[0];
                   i64 stamp = place.stamp.load();
                   REQUIRE(stamp & 1 || place.a.load() == place.b.load());
                   u32 slot = s.c.claim_slot();
                   REQUIRE(s.c.ring_claim(place.stamp, 2 * Records::CAPACITY));
                   s.c.slots[slot].state.store(SLOT_FREE);
                 }});
}

}  // namespace

void container_scenes(std::vector<Scene>& all) {
  queues(all);
  tables(all);
  rings(all);
}

}  // namespace shoal::stress
