// Waiting and waking.
//
// Every process has one word, Slot::ring, that goes up for each event that may concern it; its threads sleep on it
// as a futex. The protocol of every wait is the same:
//
//     seen = ring;  ask to be rung (watch, idle bit, waiter queue);  look once more;  sleep unless ring != seen
//
// and of every wake: change the state, then ring. The one who changes the state either sees the request and rings
// (then ring != seen and the sleep returns at once), or changed it before the request was made (then the last look
// sees the change). For objects the request and the change are ordered by the entry's lock; for ready tasks by a
// full fence on both sides (set idle bit, fence, look at queues / push, fence, look at idle bits).
// A ring too many is harmless. A ring lost with a process that died between the change and the ring is made up for
// by the supervisor, which rings everybody after each repair.
//
// Spinning: before it sleeps a process may look for a moment, but only while no more processes are awake than there
// are cores, so it never keeps a runnable one off a core; the budget halves when spinning did not help.
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "client.h"

namespace shoal {

constexpr u64 SPIN_MAX_NS = 50000, SPIN_MIN_NS = 1000;

static bool any(const std::atomic<u64>* bits) {
  u64 all = 0;
  for (u32 i = 0; i < MAX_PROCESSES / 64; i++) all |= bits[i].load(std::memory_order_relaxed);
  return all != 0;
}

void Client::set_awake(bool on) {
  auto& word = h->sched.awake[slot / 64];
  u64 bit = 1ull << slot % 64;
  if (on) word.fetch_or(bit, std::memory_order_relaxed);
  else word.fetch_and(~bit, std::memory_order_relaxed);
}

bool Client::may_spin() const {
  u32 n = 0;
  for (const auto& w : h->sched.awake) n += u32(__builtin_popcountll(w.load(std::memory_order_relaxed)));
  return n <= h->cpus;
}

void Client::ring(u32 s) {
  Slot& to = slots[s];
  to.ring.fetch_add(1, std::memory_order_seq_cst);
  if (to.sleepers.load(std::memory_order_seq_cst))
    syscall(SYS_futex, &to.ring, FUTEX_WAKE, 0x7fffffff, nullptr, nullptr, 0);
}

void Client::ring_all() {
  for (u32 i = 0, n = h->slots_top.load(); i < n; i++)
    if (slots[i].state.load() == SLOT_ALIVE) ring(i);
}

bool Client::sleep_ring(u32 seen, u64 deadline_ns) {
  Slot& s = *me;
  s.sleepers.fetch_add(1, std::memory_order_seq_cst);
  set_awake(false);
  timespec t{time_t(deadline_ns / 1000000000ull), long(deadline_ns % 1000000000ull)};
  // FUTEX_WAIT_BITSET takes an absolute time of the monotonic clock.
  long rc = syscall(SYS_futex, &s.ring, FUTEX_WAIT_BITSET, seen, deadline_ns ? &t : nullptr, nullptr, FUTEX_BITSET_MATCH_ANY);
  bool interrupted = rc != 0 && errno == EINTR;
  set_awake(true);
  s.sleepers.fetch_sub(1, std::memory_order_seq_cst);
  return !interrupted;
}

bool Client::spin(bool (*done)(void*), void* arg) {
  if (done(arg)) return true;
  if (!may_spin()) return false;
  u64 start = now_ns(), budget = spin_ns;
  for (u32 round = 0;; round++) {
    for (int i = 0; i < 24; i++) {
      cpu_relax();
      if (done(arg)) {
        spin_ns = std::min(SPIN_MAX_NS, spin_ns + spin_ns / 4);
        return true;
      }
    }
    u64 spent = now_ns() - start;
    if (spent > budget) break;
    if (round % 8 == 7) {
      if (!may_spin()) return false;
      // Somebody else may want this core: the other participants are not the only programs of the machine.
      if (spent > 4000) sched_yield();
    }
  }
  spin_ns = std::max(SPIN_MIN_NS, spin_ns / 2);
  return false;
}

// After a sleep: was it so short that spinning a little longer would have caught the event?
void Client::slept(u64 ns) {
  if (ns < SPIN_MAX_NS * 2) spin_ns = std::min(SPIN_MAX_NS, spin_ns * 2 + 2000);
}

void Client::watch(Handle handle) {
  Entry& e = entry(handle);
  Tx tx(*this);
  tx.lock(e.lock);
  u32 state = e.state.load(std::memory_order_relaxed);
  if (state == ENTRY_PENDING || state == ENTRY_CREATING)
    tx.set(e.waiter, e.waiter == 0 || e.waiter == slot + 1 ? slot + 1 : WAITER_MANY);
  tx.commit();
}

bool Client::work_visible() const {
  const Scheduler& s = h->sched;
  for (u32 i = 0, n = s.nshapes.load(std::memory_order_acquire); i < n; i++)
    if (s.shapes[i].length.load(std::memory_order_relaxed) && (me->lease == i + 1 || fits(s.shapes[i]))) return true;
  return false;
}

bool Client::runnable() const {
  const Scheduler& s = h->sched;
  // Pairs with the fence of wake_worker(): whoever gives resources back and looks here, or adds a task and looks
  // there, the later of the two sees both.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  for (u32 i = 0, n = s.nshapes.load(std::memory_order_acquire); i < n; i++)
    if (s.shapes[i].length.load(std::memory_order_relaxed) && fits(s.shapes[i])) return true;
  return false;
}

// One more task can run: sees to it that somebody looks. A spinning worker will find it by itself, and wakes the
// next one if there is still more.
void Client::wake_worker() {
  Scheduler& s = h->sched;
  if (!runnable()) return;  // whoever gives back what it needs will look again
  if (any(s.spinning)) return;
  for (u32 w = 0; w < MAX_PROCESSES / 64; w++) {
    u64 bits = s.idle[w].load(std::memory_order_relaxed);
    while (bits) {
      u64 bit = bits & -bits;
      if (s.idle[w].fetch_and(~bit, std::memory_order_seq_cst) & bit) {
        ring(w * 64 + u32(__builtin_ctzll(bit)));
        return;
      }
      bits &= ~bit;
    }
  }
  if (!h->wanted.load(std::memory_order_relaxed)) ring_supervisor();
}

}  // namespace shoal
