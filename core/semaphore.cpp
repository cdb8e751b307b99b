// Semaphores, and the records of who holds what (Hold).
//
// Every change is a Tx in the guard. A permit goes to whoever comes first, unless the first in the queue has waited for
// FAIR_NS; of the queue only the first takes one. No wake-up is lost: whoever makes a permit available, or leaves the
// head of the queue to another while one is, wakes the first in the same turn of the guard; a waiter queues up in the
// guard and looks once more afterwards.
//
// value + all Holds = the permits that exist. A release is booked on the releaser's own Hold, else on another holder's
// (permits may be taken in one process and given back in another), else it makes a new permit, as threading's does.
#include <algorithm>

#include "client.h"

namespace shoal {

constexpr u64 FAIR_NS = 500000;
constexpr auto RELAXED = std::memory_order_relaxed;

// -------------------------------------------------------------------------------------------- holdings

Hold* Client::find_hold(const void* what, u32 thread) {
  Offset queue = offset(what);
  for (auto& h : me->holds)
    if (h.queue == queue && h.thread == thread) return &h;
  return nullptr;
}

Hold* Client::hold_for(const void* what, u32 thread) {
  Offset queue = offset(what);
  Hold* free = nullptr;
  for (auto& h : me->holds) {
    if (h.queue == queue && h.thread == thread) return &h;
    if (!h.queue && !free) free = &h;
  }
  if (free) return free;
  for (auto& h : me->holds)
    if (reclaim_hold(&h)) return &h;
  throw Error(Error::LIMIT, "HOLDS: a process can hold at most " + std::to_string(HOLDS) + " shared locks and semaphores at a time");
}

// Frees a record of ours if nothing is held by it any more, or nobody can know: no reference is left but the record's
// own. Others change the `count` of a semaphore's record, and if they die it is changed back: it is final in the guard.
bool Client::reclaim_hold(Hold* hold) {
  Handle object = hold->object;
  Entry& e = entry(object);
  bool lost = false;
  if (local[index_of(object)] == 1) {
    Tx tx(*this);
    tx.lock(e.lock);
    lost = e.holders == 1 && e.contained == 0;
  }
  if (!lost && (hold->thread || hold->count)) return false;
  {
    Tx tx(*this);
    tx.lock(at<WaitQueue>(hold->queue)->guard);
    if (hold->count) {
      if (!lost) return false;
      u32 n = hold->count;
      drop_hold(tx, hold, hold->thread ? nullptr : &at<Sync>(hold->queue)->holders, n);
      if (hold->thread) tx.set(at<Mutex>(hold->queue)->readers, at<Mutex>(hold->queue)->readers - n);
    }
    tx.set(hold->queue, Offset(0));
    tx.commit();
  }
  release(object);
  return true;
}

void Client::add_hold(Tx& tx, Hold* hold, Handle h, const void* what, u32 thread, Offset* list, u32 n) {
  if (!hold->queue) {
    tx.set(hold->queue, offset(what));
    tx.set(hold->count, 0u);
    tx.set(hold->thread, thread);
    tx.set(hold->object, h);
    local[index_of(h)]++;  // the caller has a reference, so this is all that acquire() would do
  }
  if (list && !hold->count) {
    tx.set(hold->next, *list);
    tx.set(hold->prev, Offset(0));
    if (*list) tx.set(at<Hold>(*list)->prev, offset(hold));
    tx.set(*list, offset(hold));
  }
  tx.set(hold->count, hold->count + n);
}

void Client::drop_hold(Tx& tx, Hold* hold, Offset* list, u32 n) {
  tx.set(hold->count, hold->count - n);
  if (!list || hold->count) return;
  if (hold->prev) tx.set(at<Hold>(hold->prev)->next, hold->next);
  else tx.set(*list, hold->next);
  if (hold->next) tx.set(at<Hold>(hold->next)->prev, hold->prev);
}

// ------------------------------------------------------------------------------------------- semaphores

bool Client::sem_take(Tx& tx, Handle h, Sync* s, Hold* hold, WaitNode* n) {  // [guard]
  u64 value = s->value.load(RELAXED);
  if (!value) return false;
  WaitNode* first = s->q.head ? at<WaitNode>(s->q.head) : nullptr;
  if (n ? n != first : first && now_ns() - first->since_ns > FAIR_NS) return false;
  tx.set(s->value, value - 1);
  if (hold) add_hold(tx, hold, h, s, 0, &s->holders, 1);
  if (n) unlink_wait(tx, s->q, n);
  CRASH_POINT("semaphore.taken");
  tx.settle();
  s->taken++;
  if (n && value > 1 && s->q.head) wake(at<WaitNode>(s->q.head));
  return true;
}

bool Client::sem_try(Handle h, Sync* s) {
  if (!s->value.load(std::memory_order_seq_cst)) return false;
  Hold* hold = s->flags & SYNC_KEEP ? nullptr : hold_for(s, 0);
  Tx tx(*this);
  tx.lock(s->q.guard);
  if (!sem_take(tx, h, s, hold, nullptr)) return false;
  tx.commit();
  return true;
}

WaitNode* Client::sync_enqueue(Sync* s, WaitMode mode, u64 owner) {
  WaitNode* n = wait_node(mode, owner);
  Tx tx(*this);
  tx.lock(s->q.guard);
  if (mode == WAIT_TICKET) {
    n->ticket = s->next.load(RELAXED);
    tx.set(s->next, n->ticket + 1);
  }
  link_wait(tx, s->q, n);
  tx.commit();
  return n;
}

bool Client::sem_check(Handle h, Sync* s, WaitNode* n) {
  n->woken.store(0, std::memory_order_seq_cst);
  if (!s->value.load(std::memory_order_seq_cst)) return false;
  Hold* hold = s->flags & SYNC_KEEP ? nullptr : hold_for(s, 0);
  {
    Tx tx(*this);
    tx.lock(s->q.guard);
    if (!sem_take(tx, h, s, hold, n)) return false;
    tx.commit();
  }
  after_tx();
  return true;
}

void Client::sem_leave(Sync* s, WaitNode* n) {
  {
    Tx tx(*this);
    tx.lock(s->q.guard);
    unlink_wait(tx, s->q, n);
    tx.settle();
    if (s->value.load(RELAXED) && s->q.head) wake(at<WaitNode>(s->q.head));
    tx.commit();
  }
  after_tx();
}

bool Client::sem_release(Sync* s, u64 n) {
  Hold* own = find_hold(s, 0);
  {
    Tx tx(*this);
    tx.lock(s->q.guard);
    u64 value = s->value.load(RELAXED) + n;
    if (s->flags & SYNC_BOUNDED && value > s->limit) return false;
    tx.set(s->value, value);
    u64 left = n;
    for (int turn = 0; left && turn < 30; turn++) {  // 30 holders at a time fit into the journal
      Hold* from = own && own->count ? own : s->holders ? at<Hold>(s->holders) : nullptr;
      if (!from) break;
      u32 k = u32(std::min<u64>(left, from->count));
      drop_hold(tx, from, &s->holders, k);
      left -= k;
    }
    tx.settle();
    CRASH_POINT("semaphore.released");
    if (s->q.head) wake(at<WaitNode>(s->q.head));
    tx.commit();
  }
  after_tx();
  return true;
}

}  // namespace shoal
