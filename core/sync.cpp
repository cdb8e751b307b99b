// The mutex.
//
// Free and unwanted, it is taken and released by one atomic instruction each. A thread that must wait queues up,
// then tries, spins and sleeps. A released lock may be taken by whoever comes first (handing it over to a sleeper each
// time would cost a wake-up per turn), but the first waiter waits no longer than FAIR_NS: after that the releaser makes
// it the owner directly, and nobody can get in between. So nobody starves. (Eventual fairness, as in WebKit's
// ParkingLot.)
//
// No wake-up is lost: a releaser stores owner = 0, then reads `waiters`; a waiter raises `waiters` (in the queue's
// lock), then looks at owner. Both are sequentially consistent, so one of them sees the other. The same holds for
// `woken`: the waiter clears it, then looks at owner; the releaser stores owner, then exchanges `woken`.
//
// Whose it is, is in `owner` alone: a waiter knows that it was given the lock by finding its own name there.
#include "client.h"

namespace shoal {

constexpr u64 FAIR_NS = 500000;

bool Client::mutex_try(Mutex* m, u64 owner) {
  u64 free = 0;
  return m->owner.compare_exchange_strong(free, owner, std::memory_order_seq_cst);
}

WaitNode* Client::mutex_enqueue(Mutex* m, u64 owner) {
  WaitNode* n = nullptr;
  for (auto& w : me->waits)
    if (!w.mutex) {
      n = &w;
      break;
    }
  if (!n) throw Error(Error::LIMIT, "WAIT_NODES: at most " + std::to_string(WAIT_NODES) + " threads of one process can wait for locks");
  n->owner = owner;
  n->since_ns = now_ns();
  n->woken.store(0);
  Tx tx(*this);
  tx.lock(m->guard);
  tx.set(n->mutex, offset(m));
  tx.set(n->next, Offset(0));
  tx.set(n->prev, m->tail);
  if (m->tail) tx.set(at<WaitNode>(m->tail)->next, offset(n));
  else tx.set(m->head, offset(n));
  tx.set(m->tail, offset(n));
  tx.set(m->waiters, m->waiters.load(std::memory_order_relaxed) + 1);
  tx.commit();
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return n;
}

static void unlink(Tx& tx, Mutex* m, WaitNode* n) {  // [Mutex::guard]
  Client& c = tx.client;
  if (n->prev) tx.set(c.at<WaitNode>(n->prev)->next, n->next);
  else tx.set(m->head, n->next);
  if (n->next) tx.set(c.at<WaitNode>(n->next)->prev, n->prev);
  else tx.set(m->tail, n->prev);
  tx.set(m->waiters, m->waiters.load(std::memory_order_relaxed) - 1);
  tx.set(n->mutex, Offset(0));
}

bool Client::mutex_check(Mutex* m, WaitNode* n) {
  n->woken.store(0, std::memory_order_seq_cst);
  if (m->owner.load(std::memory_order_seq_cst) != n->owner && !mutex_try(m, n->owner)) return false;
  Tx tx(*this);
  tx.lock(m->guard);
  unlink(tx, m, n);
  tx.commit();
  return true;
}

bool Client::mutex_leave(Mutex* m, WaitNode* n) {
  Tx tx(*this);
  tx.lock(m->guard);
  // It may have been woken just now, and nobody else was: a lock that is free must not be left to sleepers.
  bool ours = m->owner.load(std::memory_order_seq_cst) == n->owner || mutex_try(m, n->owner);
  unlink(tx, m, n);
  tx.commit();
  return ours;
}

static u32 wake_first(Client& c, Mutex* m) {  // [Mutex::guard] slot + 1 to ring, or 0
  if (!m->head) return 0;
  auto* n = c.at<WaitNode>(m->head);
  return n->woken.exchange(1, std::memory_order_seq_cst) ? 0 : u32(n->owner >> 32);
}

void Client::mutex_release(Mutex* m, u64 owner) {
  if (m->waiters.load(std::memory_order_relaxed) == 0) {
    m->owner.store(0, std::memory_order_seq_cst);
    if (m->waiters.load(std::memory_order_seq_cst) == 0) return;
    owner = 0;
  }
  u32 to_wake = 0;
  {
    Tx tx(*this);
    tx.lock(m->guard);
    if (owner) {
      WaitNode* n = m->head ? at<WaitNode>(m->head) : nullptr;
      bool starving = n && now_ns() - n->since_ns > FAIR_NS;
      m->owner.store(starving ? n->owner : 0, std::memory_order_seq_cst);
    }
    to_wake = wake_first(*this, m);
    tx.commit();
  }
  if (to_wake) ring(to_wake - 1);
}

// The supervisor's part: `dead` waits for nothing any more, and holds nothing any more.
void Client::mutex_repair(Mutex* m, u32 dead, i32 pid, const char* label) {
  u64 waited[WAIT_NODES];
  u32 n_waited = 0;
  for (auto& n : slots[dead].waits) {
    if (n.mutex != offset(m)) continue;
    waited[n_waited++] = n.owner;
    Tx tx(*this);
    tx.lock(m->guard);
    unlink(tx, m, &n);
    tx.commit();
  }
  // Only now: until it had left the queue, a releaser could still make it the owner.
  u64 owner = m->owner.load(std::memory_order_seq_cst);
  if (owner >> 32 == dead + 1) {
    bool never_knew = false;  // it was given the lock and died before it looked
    for (u32 i = 0; i < n_waited; i++) never_knew |= waited[i] == owner;
    if (!never_knew) {
      m->died_pid = pid;
      m->died_ns = now_ns();
      std::strncpy(m->died_label, label, sizeof m->died_label - 1);
      m->died.store(1, std::memory_order_seq_cst);
      h->stats.lock_deaths++;
    }
    m->depth = 0;
    m->owner.store(0, std::memory_order_seq_cst);
  }
  u32 to_wake;
  {
    Tx tx(*this);
    tx.lock(m->guard);
    to_wake = m->owner.load(std::memory_order_seq_cst) == 0 ? wake_first(*this, m) : 0;
    tx.commit();
  }
  if (to_wake) ring(to_wake - 1);
}

}  // namespace shoal
