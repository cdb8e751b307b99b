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
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "client.h"

namespace shoal {

constexpr u64 SPIN_MAX_NS = 50000, SPIN_MIN_NS = 1000;
constexpr u64 SHORT_US = 250;  // a task that is not worth another process's waking up

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
//
// A worker more than there are cores helps only if those that are awake do not get on, because their tasks are long or
// sleep. With short ones it would cost a wake-up, two changes of context and a share of everybody's caches for a task or
// two. So then nobody is woken at once: the supervisor compares a moment later what was done meanwhile (spread()).
// No task is forgotten: `crowd` is set after the task was queued, and cleared before the supervisor looks at the queues.
void Client::wake_worker() {
  Scheduler& s = h->sched;
  if (!runnable()) return;  // whoever gives back what it needs will look again
  if (any(s.spinning)) return;
  if (any(s.idle) && crowded(h->cpus)) return tell_crowd();
  if (!wake_idle(1) && !h->wanted.load(std::memory_order_relaxed)) ring_supervisor();
}

// For who has waited long: the worker that was woken may not come (it is stopped, say by a debugger), while others are idle.
// The supervisor wakes them if it finds that nothing gets on.
void Client::look_for_forgotten() {
  if (runnable() && any(h->sched.idle)) tell_crowd();
}

void Client::tell_crowd() {
  if (!h->crowd.load(std::memory_order_seq_cst) && h->crowd.exchange(1, std::memory_order_seq_cst) == 0) poke_supervisor();
}

// Are so many workers awake?
bool Client::crowded(u32 limit) const {
  u32 workers = 0;
  for (u32 w = 0; w < MAX_PROCESSES / 64; w++)
    for (u64 bits = h->sched.awake[w].load(std::memory_order_relaxed); bits; bits &= bits - 1)
      if (slots[w * 64 + u32(__builtin_ctzll(bits))].role.load(std::memory_order_relaxed) == ROLE_WORKER && ++workers >= limit)
        return true;
  return false;
}

u32 Client::wake_idle(u32 most) {
  Scheduler& s = h->sched;
  u32 woken = 0;
  for (u32 w = 0; w < MAX_PROCESSES / 64; w++)
    for (u64 bits = s.idle[w].load(std::memory_order_relaxed); bits && woken < most; bits &= bits - 1) {
      u64 bit = bits & -bits;
      if (!(s.idle[w].fetch_and(~bit, std::memory_order_seq_cst) & bit)) continue;
      ring(w * 64 + u32(__builtin_ctzll(bit)));
      woken++;
    }
  return woken;
}

// Who is one too many, and has run short tasks only, sleeps although there are more: it has set its idle bit, and after that
// tells of the crowd, so the supervisor sees both. Asked now and then; short is what took little time and never slept.
bool Client::surplus_worker() {
  if (me->served.load(std::memory_order_relaxed) % LEASE_TASKS || !crowded(h->cpus + 1)) return false;
  rusage use;
  getrusage(RUSAGE_THREAD, &use);
  u64 cpu_us = u64(use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000 + u64(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
  bool awake = use.ru_nvcsw == slept_before, quick = cpu_us - cpu_before < LEASE_TASKS * SHORT_US;
  slept_before = use.ru_nvcsw;
  cpu_before = cpu_us;
  return awake && quick;
}

// `last`: the tasks that had been taken at the look before, `ms` milliseconds ago; < 0: this is the first. Returns them as
// they are now, if there must be another look; -1: nothing waits, or all who can help were woken.
i64 Client::spread(i64 last, double ms) {
  h->crowd.store(0, std::memory_order_seq_cst);
  if (!runnable() || !any(h->sched.idle)) return -1;
  u64 taken = 0;
  for (u32 i = 0, n = h->slots_top.load(std::memory_order_acquire); i < n; i++) taken += slots[i].served.load(std::memory_order_relaxed);
  if (last >= 0 && double(taken - u64(last)) * SHORT_US < 1000 * ms * h->cpus) {
    if (slow_look) {  // twice in a row: those that are awake may have been kept off their cores for a moment
      slow_look = false;
      wake_idle(could_run());
      return -1;
    }
    slow_look = true;
  } else {
    slow_look = false;
  }
  h->crowd.store(1, std::memory_order_seq_cst);
  return i64(taken);
}

// Who looks for a task: workers that are idle, and those that will look in a moment, since they were woken or have just finished
// a call. On a busy machine it takes a while until they run; to fork others meanwhile would make it busier still. Whoever has been
// on the way for LATE_NS does not count any more (it is stopped, or waits for a reader of what its call has printed); so who
// relies on those has to look again after that time.
Client::Looking Client::looking() {
  constexpr u64 LATE_NS = 50'000'000;
  u64 now = now_ns();
  u32 n = h->slots_top.load(std::memory_order_acquire);
  Looking found{};
  on_the_way.resize(n);
  for (u32 i = 0; i < n; i++) {
    Slot& s = slots[i];
    OnTheWay& known = on_the_way[i];
    bool idle = (h->sched.idle[i / 64].load() | h->sched.spinning[i / 64].load()) >> i % 64 & 1;
    u32 served = s.served.load(std::memory_order_relaxed);
    found.idle += idle;
    if (idle || s.state.load() != SLOT_ALIVE || s.role.load() != ROLE_WORKER || peek(s.running)) {
      known.since = 0;
    } else {
      if (!known.since || known.served != served) known = {now, served};
      found.coming += now - known.since < LATE_NS;
    }
  }
  return found;
}

// How many queued tasks could run now, as far as resources go.
u32 Client::could_run() const {
  const Scheduler& s = h->sched;
  u64 sum = 0;
  for (u32 i = 0, n = s.nshapes.load(std::memory_order_acquire); i < n; i++) {
    const Shape& x = s.shapes[i];
    i64 fit = x.length.load(std::memory_order_relaxed);
    for (u32 k = 0; k < x.ndemands; k++)
      if (x.amount[k] > 0) fit = std::min(fit, std::max<i64>(0, s.resources[x.resource[k]].available.load() / x.amount[k]));
    sum += u64(fit);
  }
  return u32(std::min<u64>(sum, ~0u));
}

}  // namespace shoal
