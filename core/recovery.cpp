// What the supervisor does about a process that died, in this order:
//
//   recover()    undo its half-made change and free the short locks it held; give back its caches, grant and the
//                record it was building. Afterwards nobody spins on anything of the dead.
//   (Python)     its running tasks are queued again or failed, its actor is started again or its calls failed
//   sweep()      one pass over all entries: clear its holder bits, finish what it left half published or half
//                disposed of, free its mutexes
//   free_slot()  the slot may be used again; everybody is rung, since a wake-up may have died with it
//
// Each step may be repeated. If the supervisor itself dies the session ends, so it needs no repair of its own.
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "client.h"

namespace shoal {

#ifdef SHOAL_CRASH_POINTS
// Test builds: SHOAL_CRASH=name:n kills the process at the n-th passage of that point.
void crash_point(const char* name) {
  static const char* want = std::getenv("SHOAL_CRASH");
  if (!want) return;
  static const std::string spec = want;
  static const auto colon = spec.rfind(':');
  static thread_local long left = std::atol(spec.c_str() + colon + 1);
  if (spec.compare(0, colon, name) == 0 && colon == std::strlen(name) && --left == 0) kill(getpid(), 9);
}
#endif

u32 Client::claim_slot() {
  for (u32 i = 2; i < MAX_PROCESSES; i++) {
    u32 free = SLOT_FREE;
    if (slots[i].state.compare_exchange_strong(free, SLOT_STARTING)) {
      if (i >= h->slots_top.load()) h->slots_top.store(i + 1);
      slots[i].epoch.fetch_add(1);
      return i;
    }
  }
  throw Error(Error::LIMIT, "MAX_PROCESSES: a session can have at most " + std::to_string(MAX_PROCESSES) + " processes");
}

// Puts back what the journal of `s` says, newest change first. Doing it twice does no harm.
void Client::rollback(u32 s) {
  Journal& j = slots[s].journal;
  while (j.count > 0) {
    const JournalRecord& r = j.rec[j.count - 1];
    std::memcpy(rw + (r.where & 0x00ffffffffffffffull), &r.old, r.where >> 56);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    j.count--;
  }
}

Task* Client::recover(u32 s) {
  Slot& dead = slots[s];
  dead.state.store(SLOT_DEAD);
  rollback(s);
  Journal& j = dead.journal;
  while (j.nlocks) {
    auto* l = at<SpinLock>(j.locks[j.nlocks - 1]);
    if (l->owner.load() == s + 1) l->owner.store(0, std::memory_order_release);
    j.nlocks--;
  }
  u64 bit = 1ull << s % 64;
  h->sched.idle[s / 64].fetch_and(~bit);
  h->sched.spinning[s / 64].fetch_and(~bit);
  h->sched.awake[s / 64].fetch_and(~bit);
  discard_building(dead);
  return_caches(dead);
  release_lease_of(dead);
  h->stats.deaths++;
  return dead.running ? at<Task>(dead.running) : nullptr;
}

void Client::sweep(u32 s) {
  Slot& dead = slots[s];
  for (u32 i = 1, n = h->heap.entry_top.load(); i < n; i++) {
    Entry& e = entries[i];
    u32 state = e.state.load(std::memory_order_acquire);
    if (state == ENTRY_FREE) continue;
    Handle handle = handle_of(i);
    auto& word = e.holder_bits[s / 64];
    u64 bit = 1ull << s % 64;
    if (word.load(std::memory_order_relaxed) & bit) {
      bool ours = false;
      {
        Tx tx(*this);
        tx.lock(e.lock);
        tx.set(word, word.load(std::memory_order_relaxed) & ~bit);
        tx.set(e.holders, e.holders - 1);
        ours = unreferenced(tx, handle);
        tx.commit();
      }
      if (ours) dispose(handle);
      if (!closing_actors.empty()) after_tx();
      state = e.state.load(std::memory_order_acquire);
    }
    if (state == ENTRY_DISPOSING && e.creator == s) {
      dispose(handle);
      continue;
    }
    if (state != ENTRY_READY && state != ENTRY_FAILED) continue;
    if (e.task) finish_seal(handle);
    if (e.dependents) drain_dependents(handle);
    u8 kind = e.kind.load(std::memory_order_relaxed);
    if (state == ENTRY_READY && kind == KIND_MUTABLE && writers(handle)->bits[s / 64].load(std::memory_order_relaxed) & bit) {
      auto& views = writers(handle)->bits[s / 64];
      Tx tx(*this);
      tx.lock(e.lock);
      tx.set(views, views.load(std::memory_order_relaxed) & ~bit);
      tx.commit();
    }
    if (state == ENTRY_READY && (kind == KIND_MUTABLE || kind == KIND_FROZEN || kind == KIND_LOCK)) {
      Mutex* m = mutex(handle);
      bool waits = false;
      for (auto& w : dead.waits) waits |= w.mutex == offset(m);
      if (waits || m->owner.load() >> 32 == s + 1) mutex_repair(m, s, dead.pid, dead.label);
    }
  }
}

void Client::free_slot(u32 s) {
  Slot& dead = slots[s];
  SHOAL_CHECK(!dead.running && !dead.building && !dead.lease && !dead.journal.count);
  dead.actor = 0;
  dead.command.store(0);
  dead.ring.fetch_add(1);
  dead.sleepers.store(0);
  dead.pid = 0;
  dead.role.store(ROLE_NONE);
  std::memset(dead.label, 0, sizeof dead.label);
  for (auto& w : dead.waits) w.mutex = 0;
  dead.state.store(SLOT_FREE);
  if (surplus || entry_surplus) trim_caches();
  for (u32 i = 0, n = h->slots_top.load(); i < n; i++)
    if (slots[i].state.load() == SLOT_ALIVE) ring(i);
  if (runnable()) wake_worker();
}

}  // namespace shoal
