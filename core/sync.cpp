// The mutex, and the queue of waiters that it shares with what is in semaphore.cpp and signals.cpp.
//
// Free and unwanted, it is taken (exclusive mode) and released by one atomic instruction each. A thread that must wait
// queues up, then tries, spins and sleeps. A released lock may be taken by whoever comes first (handing it over to a
// sleeper each time would cost a wake-up per turn), but the first waiter waits no longer than FAIR_NS: after that the
// releaser makes it the owner directly, and nobody can get in between. So nobody starves. (Eventual fairness, as in
// WebKit's ParkingLot.)
//
// Shared mode: readers come and go in the guard, by a Tx that changes `readers` and the reader's Hold together, so
// the two always agree. While a writer is queued no new reader enters (except a thread that reads already, which would
// wait for itself), so writers do not starve; a reader that has waited for FAIR_NS at the head of the queue finds the
// word set to LOCK_SHARED by the releaser, which shuts writers out, so readers do not starve either.
// Only the step 0 -> LOCK_SHARED competes with writers outside the guard. It is one compare-and-swap and not in the
// journal (to undo it would overwrite a writer who got in first). A process that dies after it, or before the last
// reader's store of 0, leaves LOCK_SHARED with no readers: a state in which the next reader just enters and which the
// supervisor, who looks at every lock after a death, passes on.
//
// No wake-up is lost:
//   exclusive: a releaser stores owner, then reads `waiters`; a waiter raises `waiters` (in the guard), then looks at
//     owner. Both are sequentially consistent, so one of them sees the other. The same holds for `woken`: the waiter
//     clears it, then looks at owner; the releaser stores owner, then exchanges `woken`.
//   shared: what lets a queued reader in (a release, the last writer before it leaving the queue) happens or is followed
//     up in the guard, where the one who does it wakes all readers that stand before the first writer; a reader that
//     queues up looks once more, in the guard, afterwards.
//   One who leaves the queue without the lock wakes those who are first then: the wake-up may have been meant for them.
//
// Whose it is in exclusive mode is in `owner` alone: a waiter knows that it was given the lock by its own name there.
#include "client.h"

namespace shoal {

constexpr u64 FAIR_NS = 500000;
constexpr auto SEQ = std::memory_order_seq_cst;
constexpr auto RELAXED = std::memory_order_relaxed;

// ------------------------------------------------------------------------------------------- the queue

WaitNode* Client::wait_node(WaitMode mode, u64 owner) {
  for (auto& n : me->waits)
    if (!n.queue) {
      n.owner = owner;
      n.since_ns = now_ns();
      n.mode = mode;
      n.ticket = n.result = 0;
      n.woken.store(0);
      return &n;
    }
  throw Error(Error::LIMIT, "WAIT_NODES: at most " + std::to_string(WAIT_NODES) +
                                " threads and coroutines of one process can wait for locks and the like at a time");
}

void Client::link_wait(Tx& tx, WaitQueue& q, WaitNode* n) {
  tx.set(n->queue, offset(&q));
  tx.set(n->next, Offset(0));
  tx.set(n->prev, q.tail);
  if (q.tail) tx.set(at<WaitNode>(q.tail)->next, offset(n));
  else tx.set(q.head, offset(n));
  tx.set(q.tail, offset(n));
  tx.set(q.waiters, q.waiters.load(RELAXED) + 1);
}

void Client::unlink_wait(Tx& tx, WaitQueue& q, WaitNode* n) {
  if (n->prev) tx.set(at<WaitNode>(n->prev)->next, n->next);
  else tx.set(q.head, n->next);
  if (n->next) tx.set(at<WaitNode>(n->next)->prev, n->prev);
  else tx.set(q.tail, n->prev);
  tx.set(q.waiters, q.waiters.load(RELAXED) - 1);
  tx.set(n->queue, Offset(0));
}

void Client::wake(WaitNode* n) {
  if (!n->woken.exchange(1, SEQ)) to_ring.push_back(u32(n->owner >> 32) - 1);
}

// --------------------------------------------------------------------------------------- exclusive mode

bool Client::mutex_try(Mutex* m, u64 owner) {
  u64 free = 0;
  return m->owner.compare_exchange_strong(free, owner, SEQ);
}

WaitNode* Client::mutex_enqueue(Mutex* m, WaitMode mode, u64 owner) {
  WaitNode* n = wait_node(mode, owner);
  Tx tx(*this);
  tx.lock(m->q.guard);
  link_wait(tx, m->q, n);
  if (mode == WAIT_EXCLUSIVE) tx.set(m->writers, m->writers + 1);
  tx.commit();
  std::atomic_thread_fence(SEQ);
  return n;
}

static void unlink(Tx& tx, Mutex* m, WaitNode* n) {  // [guard]
  tx.client.unlink_wait(tx, m->q, n);
  if (n->mode == WAIT_EXCLUSIVE) tx.set(m->writers, m->writers - 1);
}

bool Client::mutex_check(Handle h, Mutex* m, WaitNode* n) {
  n->woken.store(0, SEQ);
  u64 word = m->owner.load(SEQ);
  if (n->mode == WAIT_EXCLUSIVE) {
    if (word != n->owner && !mutex_try(m, n->owner)) return false;
    CRASH_POINT("lock.given");
    Tx tx(*this);
    tx.lock(m->q.guard);
    unlink(tx, m, n);
    tx.commit();
    return true;
  }
  if (word && word != LOCK_SHARED) return false;
  Hold* hold = hold_for(m, u32(n->owner));
  Tx tx(*this);
  tx.lock(m->q.guard);
  for (auto* before = at<WaitNode>(m->q.head); before != n; before = at<WaitNode>(before->next))
    if (before->mode == WAIT_EXCLUSIVE) return false;
  if (!shared_enter(tx, h, m, hold, u32(n->owner))) return false;
  unlink(tx, m, n);
  tx.commit();
  return true;
}

// The first in the queue, and if that is a reader, those that can come in with it. [guard]
void Client::mutex_wake_heads(Mutex* m) {
  for (Offset o = m->q.head; o; o = at<WaitNode>(o)->next) {
    auto* n = at<WaitNode>(o);
    if (n->mode == WAIT_SHARED || o == m->q.head) wake(n);
    if (n->mode == WAIT_EXCLUSIVE) return;
  }
}

// The lock is nobody's: whose is it now? [guard, settled]
void Client::mutex_pass(Mutex* m) {
  WaitNode* n = m->q.head ? at<WaitNode>(m->q.head) : nullptr;
  u64 next = 0;
  if (n && now_ns() - n->since_ns > FAIR_NS) next = n->mode == WAIT_SHARED ? LOCK_SHARED : n->owner;
  m->owner.store(next, SEQ);
  CRASH_POINT("lock.passed");
  mutex_wake_heads(m);
}

bool Client::mutex_leave(Mutex* m, WaitNode* n) {
  bool ours;
  {
    Tx tx(*this);
    tx.lock(m->q.guard);
    u64 word = m->owner.load(SEQ);
    ours = n->mode == WAIT_EXCLUSIVE && word == n->owner;
    unlink(tx, m, n);
    tx.settle();
    if (word == LOCK_SHARED && !m->readers) mutex_pass(m);
    else if (!word || word == LOCK_SHARED) mutex_wake_heads(m);
    tx.commit();
  }
  after_tx();
  return ours;
}

void Client::mutex_release(Mutex* m, u64 owner) {
  if (m->q.waiters.load(RELAXED) == 0) {
    m->owner.store(0, SEQ);
    if (m->q.waiters.load(SEQ) == 0) return;
    owner = 0;
  }
  {
    Tx tx(*this);
    tx.lock(m->q.guard);
    if (owner) mutex_pass(m);
    else mutex_wake_heads(m);
    tx.commit();
  }
  after_tx();
}

// ------------------------------------------------------------------------------------------ shared mode

bool Client::shared_enter(Tx& tx, Handle h, Mutex* m, Hold* hold, u32 thread) {  // [guard]
  if (m->owner.load(SEQ) != LOCK_SHARED && !mutex_try(m, LOCK_SHARED)) return false;
  CRASH_POINT("shared.word");
  add_hold(tx, hold, h, m, thread, nullptr, 1);
  tx.set(m->readers, m->readers + 1);
  m->taken.store(m->taken.load(RELAXED) + 1, RELAXED);
  return true;
}

bool Client::shared_try(Handle h, Mutex* m, u32 thread) {
  u64 word = m->owner.load(RELAXED);
  if (word && word != LOCK_SHARED) return false;
  Hold* hold = hold_for(m, thread);
  bool again = hold->queue && hold->count && !(thread & ASYNC_THREAD);
  Tx tx(*this);
  tx.lock(m->q.guard);
  if ((m->writers && !again) || !shared_enter(tx, h, m, hold, thread)) return false;
  tx.commit();
  return true;
}

bool Client::shared_release(Mutex* m, u32 thread) {
  Hold* hold = find_hold(m, thread);
  if (!hold) return false;
  Handle object = hold->object;
  bool last;
  {
    Tx tx(*this);
    tx.lock(m->q.guard);
    drop_hold(tx, hold, nullptr, 1);
    last = !hold->count;
    if (last) tx.set(hold->queue, Offset(0));
    tx.set(m->readers, m->readers - 1);
    tx.settle();
    if (!m->readers) mutex_pass(m);
    tx.commit();
  }
  after_tx();
  if (last) release(object);
  return true;
}

// --------------------------------------------------------------------------------- the supervisor's part

// The next one is to be told, if he is to be, and finds the object as asked for. The lock stays taken.
void Client::mutex_note(Mutex* m, u8 died, i32 pid, const char* label) {
  if (before_undo_all(m) && !m->died.load()) died |= DIED_UNDONE;
  if (m->on_death.load() != DEATH_IGNORE) {
    m->died_pid = pid;
    m->died_ns = now_ns();
    std::strncpy(m->died_label, label, sizeof m->died_label - 1);
    m->died.store(died, SEQ);
  }
  h->stats.lock_deaths++;
  m->depth = 0;
}

// `dead` holds it no more. A reader's death leaves nothing here, see repair_holds().
void Client::mutex_repair(Mutex* m, u32 dead, i32 pid, const char* label) {
  u64 owner = m->owner.load(SEQ);
  bool held = owner >> 32 == dead + 1;
  if (!held && owner != LOCK_SHARED) return;
  if (held) mutex_note(m, DIED, pid, label);
  {
    Tx tx(*this);
    tx.lock(m->q.guard);
    if (held || (m->owner.load(SEQ) == LOCK_SHARED && !m->readers)) mutex_pass(m);
    tx.commit();
  }
  after_tx();
}

void Client::repair_waits(Slot& dead) {
  for (auto& n : dead.waits) {
    if (!n.queue) continue;
    if (n.mode == WAIT_EXCLUSIVE || n.mode == WAIT_SHARED) {
      auto* m = at<Mutex>(n.queue);
      if (!mutex_leave(m, &n)) continue;
      // It was given the lock and died before it looked: nothing can have been changed under it.
      {
        Tx tx(*this);
        tx.lock(m->q.guard);
        mutex_pass(m);
        tx.commit();
      }
      after_tx();
    } else if (n.mode == WAIT_CLAIM || n.mode == WAIT_REQUEST) {
      owner_leave(at<Ownership>(n.queue), &n, false);
    } else {
      auto* s = at<Sync>(n.queue);
      if (n.mode == WAIT_PERMIT) {
        sem_leave(s, &n);
      } else if (n.mode == WAIT_TICKET) {
        bool notified = ticket_leave(s, &n);
        if (notified && s->type == SYNC_CONDITION) cond_notify(s, 1);
      } else {
        barrier_leave(s, &n, n.mode == WAIT_BARRIER ? Leave::BREAK : Leave::QUIT);
      }
    }
  }
}

void Client::repair_holds(Slot& dead) {
  for (auto& hold : dead.holds) {
    if (!hold.queue) continue;
    {
      Tx tx(*this);
      u32 count = hold.count;
      if (hold.thread) {
        auto* m = at<Mutex>(hold.queue);
        tx.lock(m->q.guard);
        tx.set(m->readers, m->readers - count);
        tx.set(hold.count, 0u);
        tx.set(hold.queue, Offset(0));
        tx.settle();
        if (!m->readers && m->owner.load(SEQ) == LOCK_SHARED) mutex_pass(m);
      } else {
        auto* s = at<Sync>(hold.queue);
        tx.lock(s->q.guard);
        count = hold.count;  // others may have given back for it
        if (count) drop_hold(tx, &hold, &s->holders, count);
        tx.set(hold.queue, Offset(0));
        tx.set(s->value, s->value.load(RELAXED) + count);
        tx.settle();
        if (count && s->q.head) wake(at<WaitNode>(s->q.head));
      }
      tx.commit();
    }
    after_tx();
  }
}

}  // namespace shoal
