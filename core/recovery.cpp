// What the supervisor does about a process that died, in this order:
//
//   recover()    undo its half-made change and free the short locks it held; give back its caches, grant and the
//                record it was building. Afterwards nobody spins on anything of the dead.
//   (Python)     its running tasks are queued again or failed, its actor is started again or its calls failed
//   sweep()      what it waited for and held in company; one pass over all entries: clear its holder bits, finish what
//                it left half published or half disposed of, free its mutexes
//   free_slot()  the slot may be used again; everybody is rung, since a wake-up may have died with it
//
// Each step may be repeated. If the supervisor itself dies the session ends, so it needs no repair of its own.
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "client.h"

namespace shoal {

u32 Client::claim_slot() {
  for (u32 i = 2; i < MAX_PROCESSES; i++) {
    if (i >= h->slots_committed.load()) {
      u32 to = std::min(MAX_PROCESSES, i + 16);
      commit_pages(memfd, h->slots + u64(i) * sizeof(Slot), u64(to - i) * sizeof(Slot));
      h->slots_committed.store(to);
    }
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
    u8* field = rw + (r.where & 0x00ffffffffffffffull);
    switch (r.where >> 56) {  // whole: there are readers without a lock
      case 1: __atomic_store_n(field, u8(r.old), __ATOMIC_RELEASE); break;
      case 2: __atomic_store_n(reinterpret_cast<u16*>(field), u16(r.old), __ATOMIC_RELEASE); break;
      case 4: __atomic_store_n(reinterpret_cast<u32*>(field), u32(r.old), __ATOMIC_RELEASE); break;
      default: __atomic_store_n(reinterpret_cast<u64*>(field), r.old, __ATOMIC_RELEASE);
    }
    std::atomic_signal_fence(std::memory_order_seq_cst);
    CRASH_POINT("undo.field");
    j.count--;
  }
}

void Client::unlock_dead(u32 s) {
  rollback(s);
  Journal& j = slots[s].journal;
  while (j.nlocks) {
    auto* l = at<SpinLock>(j.locks[j.nlocks - 1]);
    if (l->owner.load() == s + 1) l->owner.store(0, std::memory_order_release);
    j.nlocks--;
  }
}

void Client::unlock_all_dead() {
  for (u32 s = 0, n = h->slots_top.load(); s < n; s++)
    if (s != slot && ended(s)) unlock_dead(s);
}

// Only the supervisor may ask. Its children cannot vanish before it has reaped them, and it recovers what it has reaped.
bool Client::ended(u32 s) const {
  u32 state = slots[s].state.load();
  if (state != SLOT_ALIVE) return state == SLOT_DEAD;
  if (s < lives.size() && lives[s].fd >= 0) {  // a guest; its pid may be that of somebody else here
    pollfd p{lives[s].fd, lives[s].events, 0};
    return poll(&p, 1, 0) == 1 && p.revents & (p.events | POLLHUP);
  }
  pid_t pid = slots[s].pid;
  siginfo_t info{};
  if (waitid(P_PID, id_t(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0) return info.si_pid == pid;
  if (s != DRIVER_SLOT) return false;
  int fd = int(syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0) return errno == ESRCH;
  pollfd p{fd, POLLIN, 0};
  bool gone = poll(&p, 1, 0) == 1;
  close(fd);
  return gone;
}

void Client::watch_life(u32 s, int fd, short events) {
  if (lives.size() <= s) lives.resize(MAX_PROCESSES);
  lives[s] = {fd, events};
}

Task* Client::recover(u32 s, bool death) {
  Slot& dead = slots[s];
  dead.state.store(SLOT_DEAD);
  unlock_dead(s);
  u64 bit = 1ull << s % 64;
  h->sched.idle[s / 64].fetch_and(~bit);
  h->sched.spinning[s / 64].fetch_and(~bit);
  h->sched.awake[s / 64].fetch_and(~bit);
  h->heap.starved[s / 64].fetch_and(~bit);
  discard_building(dead);
  for (Offset& draft : dead.drafts)
    if (draft) before_forget(draft);
  repair_spills(dead);
  return_caches(dead);
  release_lease_of(dead);
  if (death) h->stats.deaths++;  // not: it left, or its program came to its end
  return dead.running ? at<Task>(dead.running) : nullptr;
}

bool Client::hold_ready(Handle handle) {
  u32 i = index_of(handle);
  Entry& e = entries[i];
  Tx tx(*this);
  tx.lock(e.lock);
  if (e.state.load(std::memory_order_acquire) != ENTRY_READY || !same_life(handle)) return false;
  if (!local[i]) {
    auto& word = e.holder_bits[slot / 64];
    tx.set(word, word.load(std::memory_order_relaxed) | 1ull << slot % 64);
    tx.set(e.holders, e.holders + 1);
    tx.commit();
  }
  local[i]++;
  return true;
}

// An object with more to it than a value: does the dead `s` hold its mutex or wait for it, or did it write to it? Was it to
// become an actor?
void Client::repair_object(Handle handle, u32 s) {
  if (!hold_ready(handle)) return;  // it may go while we look at it
  Slot& dead = slots[s];
  if (entry(handle).kind == KIND_ACTOR) {
    Actor* a = actor(handle);
    if (a->life && !a->submitted && entry(handle).creator == s) stillborn.push_back(handle);
  } else {
    if (entry(handle).kind == KIND_MUTABLE) end_views_of(handle, s);
    mutex_repair(mutex(handle), s, dead.pid, dead.label);
    if (entry(handle).flags & FLAG_OWNED) owner_repair(handle, s);  // last: what was committed counts
  }
  release(handle);
}

// Others go on meanwhile: what is seen of an entry without its lock only says where to look.
void Client::sweep(u32 s) {
  // Before its references go: what it waits for and holds exists as long as they do.
  repair_waits(slots[s]);
  repair_holds(slots[s]);
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
      if (!to_ring.empty()) after_tx();
      state = e.state.load(std::memory_order_acquire);
    }
    if (state == ENTRY_DISPOSING && peek(e.creator) == s) {
      dispose(handle);
      continue;
    }
    if (state != ENTRY_READY && state != ENTRY_FAILED) continue;
    if (peek(e.task)) finish_seal(handle);
    if (peek(e.dependents)) drain_dependents(handle);
    u8 kind = e.kind.load(std::memory_order_relaxed);
    if (kind == KIND_VALUE && peek(e.size) >= SPILL_FROM) end_pins_of(handle, s);
    if (has_mutex(kind) || (kind == KIND_ACTOR && peek(e.creator) == s)) repair_object(handle, s);
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
  for (auto& w : dead.waits) w.queue = 0;
  for (auto& hold : dead.holds) hold.queue = 0;
  for (auto& w : dead.waiting) w.thread.store(0);
  dead.threads.store(0);
  dead.deadline.store(0);
  dead.timed.store(0);
  dead.said.of = 0;
  dead.said.count.store(0);
  dead.state.store(SLOT_FREE);
  if (surplus || entry_surplus) trim_caches();
  ring_all();
  if (runnable()) wake_worker();
}

}  // namespace shoal
