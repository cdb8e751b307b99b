// Ending tasks: cancelled, with those that they submitted; or because their time is over.
//
// A task that has not started is taken away from where it waits, by whoever cancels it. One that runs gets a mark in its
// record, and the supervisor is asked to send its process a signal. The mark is set under the entry's lock, so while the
// record is that task's; the process looks for the mark when the signal comes, so an interrupt hits no other task. Nor
// does a kill: the supervisor stops the process first, and looks whether it still runs what is to end (kill_due).
//
// Time limits. A worker that starts such a task notes when it must be over; the supervisor sleeps until the first such time.
//     worker:     deadline = 0; timed = a return of the task; deadline = d;  if watched is 0 or later than d: ring
//     supervisor: watched = 0;  look at all deadlines;  watched = the first one, or 0
// all sequentially consistent. Either the worker reads `watched` after the supervisor's 0, and rings unless the supervisor
// looks again in time; or before, and then its deadline is there when the supervisor looks. The deadline is not cleared when
// the task ends: a time that comes for a task that is over finds its return sealed, and nothing happens.
#include <unordered_map>
#include <unordered_set>

#include "client.h"

namespace shoal {

// Takes the task that makes `handle` away from wherever it waits; it is in our running list then, for us to fail.
// If it still waits for arguments, one more `unready` sees to it that their arrival cannot make it ready behind our
// back; finish() takes it out of their lists.
bool Client::cancel_queued(Handle handle, Task** out) {
  Entry& e = entry(handle);
  Tx tx(*this);
  tx.lock(e.lock);
  if (!e.task || e.state.load(std::memory_order_acquire) != ENTRY_PENDING || !same_life(handle)) return false;
  Task* t = at<Task>(e.task);
  tx.lock(t->lock);
  u32 state = t->state.load(std::memory_order_acquire), unready = t->unready.load(std::memory_order_relaxed);
  if (state == TASK_QUEUED && t->kind == TASK_ACTOR_CALL) {
    Actor* a = actor(t->actor);
    tx.lock(a->lock);
    if (t->state.load(std::memory_order_relaxed) != TASK_QUEUED) return false;
    unlink_mail(tx, a, t);
  } else if (state == TASK_QUEUED) {
    Shape& x = h->sched.shapes[t->shape];
    tx.lock(x.lock);
    if (t->state.load(std::memory_order_relaxed) != TASK_QUEUED) return false;
    unlink_queued(tx, t);
  } else if (state != TASK_WAITING) {
    return false;
  }
  if (unready) tx.set(t->unready, unready + 1);
  tx.set(t->flags, u16(t->flags | TASK_CANCELLED));
  link_running(tx, t);
  tx.commit();
  *out = t;
  return true;
}

// Takes the creation of an actor out of its queue, likewise. Null: it runs, or waits for arguments.
Task* Client::cancel_creation(Handle handle) {
  Shape& x = h->sched.shapes[actor(handle)->shape];
  Tx tx(*this);
  tx.lock(x.lock);
  for (Offset o = x.head; o; o = at<Task>(o)->qnext) {
    Task* t = at<Task>(o);
    if (t->kind != TASK_CREATE_ACTOR || t->actor != handle) continue;
    unlink_queued(tx, t);
    link_running(tx, t);
    tx.commit();
    return t;
  }
  return nullptr;
}

// Marks the task that makes `handle`, if it runs. Its slot, or -1: there is nothing to interrupt. What ends with another task
// may be found by several who look for it, and its clean-up is not to be interrupted: only who asks for this very task
// does so `again`.
int Client::mark_running(Handle handle, u16 flags, bool again) {
  if (!valid(handle)) return -1;
  Entry& e = entry(handle);
  Tx tx(*this);
  tx.lock(e.lock);
  if (!e.task || e.state.load(std::memory_order_acquire) != ENTRY_PENDING || !same_life(handle)) return -1;
  Task* t = at<Task>(e.task);
  tx.lock(t->lock);
  if (t->state.load() != TASK_RUNNING) return -1;
  if (t->kind == TASK_ACTOR_CALL) flags &= u16(~TASK_FORCED);  // that would end the actor
  bool interrupt = again || flags & ~t->flags & (TASK_CANCELLED | TASK_TIMED_OUT | TASK_FORCED);
  tx.set(t->flags, u16(t->flags | flags | (interrupt ? TASK_INTERRUPT : 0)));
  int s = int(t->runner) - 1;
  // Before the commit: if we die after it, the supervisor finds the command when it buries us; a signal without a mark does nothing.
  if (flags & TASK_CANCELLED && interrupt) slots[s].command.fetch_or(CMD_CANCEL | (flags & TASK_FORCED ? u32(CMD_KILL) : 0));
  tx.commit();
  return interrupt ? s : -1;
}

// Of a task that we run: is it to be interrupted now? Each mark interrupts it once.
bool Client::take_interrupt(Task* t) {
  Tx tx(*this);
  tx.lock(t->lock);
  if (!(t->flags & TASK_INTERRUPT)) return false;
  tx.set(t->flags, u16(t->flags & ~TASK_INTERRUPT));
  tx.commit();
  return true;
}

// The marks of a run are not those of the next one. Ours alone to set until it is queued, but for those who mark it.
void Client::clear_marks(Task* t) {
  Tx tx(*this);
  tx.lock(t->lock);
  tx.set(t->flags, u16(t->flags & ~(TASK_TIMED_OUT | TASK_FORCED | TASK_RECURSIVE | TASK_INTERRUPT)));
  tx.commit();
}

// One return each of the unfinished tasks that task `id` has submitted, up to the task `last`, and of all that those
// have in their turn. A pass over all entries. Tasks without a return are not found.
std::vector<Handle> Client::descendants(u64 id, u64 last) {
  struct Child {
    u64 id;
    Handle handle;
  };
  std::unordered_map<u64, std::vector<Child>> children;
  for (u32 i = 1, n = h->heap.entry_top.load(); i < n; i++) {
    Entry& e = entries[i];
    if (e.state.load(std::memory_order_relaxed) != ENTRY_PENDING) continue;
    Tx tx(*this);
    tx.lock(e.lock);
    if (!e.task || e.state.load(std::memory_order_acquire) != ENTRY_PENDING) continue;
    const Task* t = at<Task>(e.task);  // it is freed only after this entry was sealed
    if (t->parent) children[t->parent].push_back({t->id, handle_of(i)});
  }
  std::vector<Handle> found;
  std::vector<u64> open{id};
  std::unordered_set<u64> met{id};
  while (!open.empty()) {
    u64 parent = open.back();
    open.pop_back();
    auto it = children.find(parent);
    if (it == children.end()) continue;
    for (const Child& c : it->second) {
      if ((parent == id && c.id > last) || !met.insert(c.id).second) continue;
      found.push_back(c.handle);
      open.push_back(c.id);
    }
  }
  return found;
}

// We begin to run a task with a limit of time.
void Client::start_clock(Task* t) {
  u64 deadline = now_ns() + u64(t->timeout_ms) * 1'000'000;
  me->deadline.store(0);
  me->timed.store(returns(t)[t->nreturns - 1]);
  me->deadline.store(deadline);
  u64 watched = h->watched.load();
  if (!watched || watched > deadline) ring_supervisor();
}

// Supervisor: a return each of the tasks whose time is over; `next`: when the first of the others will be, or 0.
std::vector<Handle> Client::late(u64* next) {
  std::vector<Handle> over;
  h->watched.store(0);
  u64 now = now_ns(), first = 0;
  for (u32 i = 2, n = h->slots_top.load(); i < n; i++) {
    Slot& s = slots[i];
    u64 deadline = s.deadline.load();
    if (!deadline) continue;
    if (deadline <= now) {
      Handle timed = s.timed.load();
      // If it has begun another one meanwhile, `timed` may be that one's; but then the deadline was 0 before it was.
      if (s.deadline.compare_exchange_strong(deadline, 0)) over.push_back(timed);
      if (!(deadline = s.deadline.load())) continue;
    }
    if (!first || deadline < first) first = deadline;
  }
  h->watched.store(first);
  *next = first;
  return over;
}

// Supervisor, of a process that it has stopped: does it run what is to end by force? Everybody else's memory may be half
// changed, so no lock is taken; the list can be walked at every step of a change.
bool Client::kill_due(u32 s) const {
  const Slot& slot_ = slots[s];
  Handle host = slot_.actor.load();
  if (host && valid(host)) {
    const Actor* a = actor(host);
    if (a->closing.load() == 2 || a->kill.load()) return true;
  }
  for (Offset o = peek(slot_.running); o; o = peek(at<Task>(o)->qnext)) {
    const Task* t = at<Task>(o);
    if (!(peek(t->flags) & TASK_FORCED)) continue;
    for (u32 i = 0; i < t->nreturns; i++) {
      const Entry& e = entry(const_cast<Client*>(this)->returns(const_cast<Task*>(t))[i]);
      if (e.state.load() == ENTRY_PENDING && peek(e.task) == o) return true;
    }
  }
  return false;
}

}  // namespace shoal
