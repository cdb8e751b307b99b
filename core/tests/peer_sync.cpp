// What a participant of the stress program does with locks: sections in both modes.
#include <sched.h>
#include <unistd.h>

#include "peer.h"

namespace shoal::stress {

bool Peer::lock(Handle h, WaitMode mode, u64 me, u64 deadline, bool now) {
  Mutex* m = c.mutex(h);
  bool shared = mode == WAIT_SHARED;
  if (shared ? c.shared_try(h, m, u32(me)) : c.mutex_try(m, me)) return true;
  if (now || m->owner.load() == me) return false;
  struct Free {
    Mutex* m;
    u64 me;
    WaitNode* node;  // of a reader, who is rung when he can come in
  } free{m, me, nullptr};
  auto looks_free = [](void* p) {
    auto* f = static_cast<Free*>(p);
    if (f->node) return f->node->woken.load(std::memory_order_relaxed) != 0;
    u64 owner = f->m->owner.load(std::memory_order_relaxed);
    return owner == 0 || owner == f->me;
  };
  WaitNode* node = c.mutex_enqueue(m, mode, me);
  if (shared) free.node = node;
  for (;;) {
    here();
    if (c.mutex_check(h, m, node)) return true;
    if (c.spin(looks_free, &free)) continue;
    u32 seen = c.me->ring.load(std::memory_order_seq_cst);
    if (c.mutex_check(h, m, node)) return true;
    c.sleep_ring(seen, deadline);
    if (deadline && now_ns() >= deadline) {
      bool ours = c.mutex_check(h, m, node) || c.mutex_leave(m, node);
      if (!ours) count(TIMEOUTS);
      return ours;
    }
  }
}

// Two numbers that only the lock keeps equal. If a holder died between them, the next one must have been told; a reader
// must see that too, and leaves the note for a writer.
void Peer::section() {
  Handle h = 0;
  if (Held* x = rnd.one_in(4) ? any(LOCK) : nullptr) h = x->h;
  if (!h && !w_.locks.empty()) h = w_.locks[rnd.below(u32(w_.locks.size()))];
  if (!h) return;
  c.acquire(h);
  Mutex* m = c.mutex(h);
  Guarded* g = guarded(c, h);
  u64 me = u64(c.slot + 1) << 32 | 1, deadline = rnd.one_in(3) ? now_ns() + rnd.below(1500000) + 1 : 0;
  bool shared = rnd.one_in(2);
  if (lock(h, shared ? WAIT_SHARED : WAIT_EXCLUSIVE, me, deadline, rnd.one_in(8))) {
    if (shared) {
      REQUIRE(m->died.load(std::memory_order_acquire) || (g->a == g->b && g->inside == 0));
      if (rnd.one_in(4)) sched_yield();
      here();
      REQUIRE(m->died.load(std::memory_order_acquire) || (g->a == g->b && g->inside == 0));
      REQUIRE(c.shared_release(m, u32(me)));
    } else {
      if (m->died.load(std::memory_order_acquire)) {
        m->died.store(0);
        g->b = g->a;
        g->inside = 0;
      }
      REQUIRE(g->a == g->b && g->inside == 0);
      g->inside = me;
      for (u32 i = rnd.below(4); i > 0; i--) {
        g->a++;
        here();
        if (rnd.one_in(16)) sched_yield();
        if (rnd.one_in(200)) usleep(600);  // so that somebody starves
        g->b++;
      }
      REQUIRE(g->inside == me);
      g->inside = 0;
      c.mutex_release(m, me);
    }
    count(SECTIONS);
  }
  here();
  c.release(h);
}

}  // namespace shoal::stress
