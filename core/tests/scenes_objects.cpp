// Scenes of memory, objects, names, mutexes and waiting.
#include <unistd.h>

#include "scene.h"

namespace shoal::stress {

namespace {

constexpr u64 SPAN_OF_FEW = 16000;  // bytes: eight blocks make a span, and the cache keeps eight

u64 owner(Client& c) { return u64(c.slot + 1) << 32 | 1; }

void make_some(Stage& s, u32 n, u64 bytes) {
  for (u32 i = 0; i < n; i++) s.mine.push_back(make(s.c, bytes));
}
void drop_mine(Stage& s, size_t keep = 0) {
  for (; s.mine.size() > keep; s.mine.pop_back()) s.c.release(s.mine.back());
}
void prepare_value(Stage& s) { s.sure = {make(s.c, 100)}; }
void alone_at_the_end(Stage& s) {
  for (Handle h : s.sure) REQUIRE(s.c.entry(h).holders == 1 && s.c.entry(h).contained == 0);
}

void memory(std::vector<Scene>& all) {
  all.push_back({"blocks: refill", nothing, nothing, [](Stage& s) { make_some(s, 10, SPAN_OF_FEW); }});
  all.push_back({"blocks: flush, spans freed", nothing, [](Stage& s) { make_some(s, 26, SPAN_OF_FEW); },
                 [](Stage& s) { drop_mine(s); }});
  all.push_back({"entries: flush", nothing,
                 [](Stage& s) {
                   for (u32 i = 0; i < 520; i++) s.mine.push_back(put_nothing(s.c, false));
                   drop_mine(s, 12);
                 },
                 [](Stage& s) { drop_mine(s); }});
  all.push_back({"runs: split and joined", nothing, nothing, [](Stage& s) {
                   make_some(s, 4, 200000);
                   std::swap(s.mine[1], s.mine[3]);
                   drop_mine(s, 1);
                   make_some(s, 2, 50000);
                   drop_mine(s);
                 }});
  all.push_back({"trim", nothing,
                 [](Stage& s) {
                   make_some(s, 4, 5 << 20);
                   std::swap(s.mine[1], s.mine[3]);
                   std::swap(s.mine[1], s.mine[2]);
                   drop_mine(s, 2);
                 },
                 [](Stage& s) {
                   REQUIRE(s.c.trim(0) >= 10 << 20);
                   make_some(s, 1, 5 << 20);
                   std::memset(s.c.payload(s.mine.back()) + 1, 1, 5 << 20);
                   drop_mine(s);
                   s.c.trim(0);
                 },
                 nullptr, [](Stage& s) {
                   s.c.trim(0);
                   make_some(s, 3, 6 << 20);
                   drop_mine(s);
                 }});
}

void objects(std::vector<Scene>& all) {
  all.push_back({"put: inline", nothing, nothing, [](Stage& s) { s.c.release(put_nothing(s.c, false)); }});
  all.push_back({"put: small", nothing, nothing, [](Stage& s) { s.c.release(make(s.c, 100)); }});
  all.push_back({"put: large", nothing, nothing, [](Stage& s) { s.c.release(make(s.c, 1 << 20)); }});
  all.push_back({"containment", prepare_value, nothing,
                 [](Stage& s) {
                   s.c.acquire(s.sure[0]);
                   Handle a = make(s.c, 10, {s.sure[0]}), b = make(s.c, 10, {a, s.sure[0], a});
                   s.c.release(a);
                   s.c.release(s.sure[0]);
                   s.c.release(b);
                 },
                 nullptr, alone_at_the_end});
  all.push_back({"get", prepare_value, nothing,
                 [](Stage& s) {
                   s.c.acquire(s.sure[0]);
                   s.c.acquire(s.sure[0]);
                   s.c.release(s.sure[0]);
                   s.c.release(s.sure[0]);
                 },
                 nullptr, alone_at_the_end});
  all.push_back(last_reference("last reference", [](Stage& s) {
    Handle inner = make(s.c, 10);
    s.h = {make(s.c, 10, {inner})};
    s.c.release(inner);
  }));
}

void names(std::vector<Scene>& all) {
  all.push_back({"names", prepare_value, nothing,
                 [](Stage& s) {
                   s.c.acquire(s.sure[0]);
                   REQUIRE(s.c.name_set(NAMES_OBJECT, "one", s.sure[0]) && !s.c.name_set(NAMES_OBJECT, "one", s.sure[0]));
                   REQUIRE(s.c.name_set(NAMES_OBJECT, "two", s.sure[0]));
                   REQUIRE(s.c.name_get(NAMES_OBJECT, "one", true) == s.sure[0]);
                   s.c.release(s.sure[0]);
                   REQUIRE(s.c.name_list(NAMES_OBJECT).size() == 2);
                   REQUIRE(s.c.name_remove(NAMES_OBJECT, "one", s.sure[0]));
                   s.c.release(s.sure[0]);
                   Handle own = make(s.c, 10);
                   REQUIRE(s.c.name_set(NAMES_LOCK, "own", own));
                   s.c.release(own);
                   REQUIRE(s.c.name_remove(NAMES_LOCK, "own", 0));
                 },
                 nullptr, [](Stage& s) {
                   u32 named = u32(s.c.name_list(NAMES_OBJECT).size());
                   REQUIRE(s.c.entry(s.sure[0]).contained == named && s.c.entry(s.sure[0]).holders == 1);
                 }});
}

// ------------------------------------------------------------------------------------------------ mutex

void prepare_mutex(Stage& s) { s.w.make_locks(1); }
Mutex* mutex(Stage& s) { return s.c.mutex(s.w.locks[0]); }
void change(Stage& s) {
  Guarded* g = guarded(s.c, s.w.locks[0]);
  g->a++;
  CRASH_POINT("section");
  g->b++;
}
// Free or ours to take: whoever died, the next one gets it; and was told if something is half changed.
void free_at_the_end(Stage& s) {
  Mutex* m = mutex(s);
  REQUIRE(m->died.load() || guarded(s.c, s.w.locks[0])->a == guarded(s.c, s.w.locks[0])->b);
  if (s.node) {  // the supervisor waits for it
    REQUIRE(s.c.mutex_check(s.w.locks[0], m, s.node));
    s.node = nullptr;
  } else {
    REQUIRE(m->owner.load() == owner(s.c) || s.c.mutex_try(m, owner(s.c)));
  }
  s.c.mutex_release(m, owner(s.c));
}

void mutexes(std::vector<Scene>& all) {
  all.push_back({"mutable object", nothing, nothing, [](Stage& s) { s.c.release(new_lock(s.c)); }});
  all.push_back({"mutex: free", prepare_mutex, nothing,
                 [](Stage& s) {
                   s.c.acquire(s.w.locks[0]);
                   REQUIRE(s.c.mutex_try(mutex(s), owner(s.c)));
                   change(s);
                   s.c.mutex_release(mutex(s), owner(s.c));
                   s.c.release(s.w.locks[0]);
                 },
                 nullptr, free_at_the_end});
  auto held = [](Stage& s) {
    prepare_mutex(s);
    REQUIRE(s.c.mutex_try(mutex(s), owner(s.c)));
  };
  auto let_go = [](Stage& s) { s.c.mutex_release(mutex(s), owner(s.c)); };
  for (u32 wait_us : {0, 700})  // the second is handed the lock by the releaser
    all.push_back({wait_us ? "mutex: handed over" : "mutex: waited for", held, nothing,
                   [wait_us](Stage& s) {
                     WaitNode* n = s.c.mutex_enqueue(mutex(s), WAIT_EXCLUSIVE, owner(s.c));
                     REQUIRE(!s.c.mutex_check(s.w.locks[0], mutex(s), n));
                     usleep(wait_us);
                     s.meet();
                     REQUIRE(s.c.mutex_check(s.w.locks[0], mutex(s), n));
                     change(s);
                     s.c.mutex_release(mutex(s), owner(s.c));
                   },
                   let_go, free_at_the_end});
  for (bool late : {false, true})
    all.push_back({late ? "mutex: given up, but it is free" : "mutex: given up", held, nothing,
                   [late](Stage& s) {
                     WaitNode* n = s.c.mutex_enqueue(mutex(s), WAIT_EXCLUSIVE, owner(s.c));
                     if (late) s.meet();
                     if (s.c.mutex_leave(mutex(s), n)) s.c.mutex_release(mutex(s), owner(s.c));
                   },
                   late ? Play(let_go) : nullptr, free_at_the_end});
  auto queue_up = [](Stage& s) { s.node = s.c.mutex_enqueue(mutex(s), WAIT_EXCLUSIVE, owner(s.c)); };
  for (u32 wait_us : {0, 700})
    all.push_back({wait_us ? "mutex: hand over" : "mutex: released to a waiter", prepare_mutex,
                   [](Stage& s) { REQUIRE(s.c.mutex_try(mutex(s), owner(s.c))); },
                   [wait_us](Stage& s) {
                     s.meet();
                     usleep(wait_us);
                     change(s);
                     s.c.mutex_release(mutex(s), owner(s.c));
                   },
                   queue_up, free_at_the_end});
}

}  // namespace

void object_scenes(std::vector<Scene>& all) {
  memory(all);
  objects(all);
  names(all);
  mutexes(all);
}

}  // namespace shoal::stress
