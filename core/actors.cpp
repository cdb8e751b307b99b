// Actors and their mailboxes.
//
// Calls lie in the mailbox in the order of their submission; the host takes the first one whose arguments are there
// and that no earlier, still waiting call of the same caller precedes. So each caller sees its own order kept, and a
// call that waits for an argument does not hold up other callers.
#include <bitset>

#include "client.h"

namespace shoal {

Handle Client::create_actor(u32 shape, Handle class_object, const std::string& name, i32 restarts, i32 max_pending, bool detached) {
  Handle handle = create(KIND_ACTOR);
  try {
    begin_payload(handle, FORMAT_PICKLE, 1, 0, 0, nullptr);
  } catch (...) {
    release(handle);
    throw;
  }
  Actor* a = actor(handle);
  a->class_object = class_object;
  a->restarts = restarts;
  a->max_pending = max_pending;
  a->shape = shape;
  a->detached = detached;
  std::strncpy(a->name, name.c_str(), MAX_NAME - 1);
  contain(handle, class_object);
  {
    Entry& e = entry(handle);
    Tx tx(*this);
    tx.set(e.contained, 1u + detached);  // the actor's own life; a detached one needs no handle
    tx.commit();
  }
  publish(handle, false);
  h->actors.fetch_add(1);
  return handle;
}

bool Client::mail(Task* t) {
  Actor* a = actor(t->actor);
  {
    Tx tx(*this);
    tx.lock(t->lock);
    tx.lock(a->lock);
    u32 state = a->state.load(std::memory_order_relaxed);
    if (state == ACTOR_DEAD) return false;
    u32 count = a->count.load(std::memory_order_relaxed);
    if (a->max_pending > 0 && count >= u32(a->max_pending))
      throw Error(Error::PENDING_LIMIT, "actor " + std::string(a->name) + " has " + std::to_string(count) +
                                            " calls waiting, its max_pending_calls; wait for some of them, or raise the limit");
    u32 left = t->unready.load(std::memory_order_relaxed) - 1;
    tx.set(t->unready, left);
    if (left) tx.set(a->unready, a->unready.load(std::memory_order_relaxed) + 1);
    Offset o = offset(t);
    tx.set(t->qprev, a->tail);
    tx.set(t->qnext, Offset(0));
    if (a->tail) tx.set(at<Task>(a->tail)->qnext, o);
    else tx.set(a->head, o);
    tx.set(a->tail, o);
    tx.set(a->count, count + 1);
    tx.set(t->state, u32(TASK_QUEUED));
    tx.set(me->building, Offset(0));
    tx.commit();
    if (state == ACTOR_ALIVE) to_ring.push_back(a->slot.load(std::memory_order_relaxed));
  }
  after_tx();
  return true;
}

void Client::unlink_mail(Tx& tx, Actor* a, Task* t) {  // [Actor::lock]
  if (t->qprev) tx.set(at<Task>(t->qprev)->qnext, t->qnext);
  else tx.set(a->head, t->qnext);
  if (t->qnext) tx.set(at<Task>(t->qnext)->qprev, t->qprev);
  else tx.set(a->tail, t->qprev);
  tx.set(a->count, a->count.load(std::memory_order_relaxed) - 1);
  if (t->unready.load(std::memory_order_relaxed)) tx.set(a->unready, a->unready.load(std::memory_order_relaxed) - 1);
}

Task* Client::take_mail_any(Handle handle, bool also_unready) {
  Actor* a = actor(handle);
  if (!a->count.load(std::memory_order_acquire)) return nullptr;
  Tx tx(*this);
  tx.lock(a->lock);
  Task* t = nullptr;
  if (a->unready.load(std::memory_order_relaxed) == 0 || also_unready) {
    if (a->head) t = at<Task>(a->head);
  } else {
    std::bitset<MAX_PROCESSES> held;  // callers with an earlier call that is not ready
    for (Offset o = a->head; o; o = at<Task>(o)->qnext) {
      Task* x = at<Task>(o);
      if (held[x->caller]) continue;
      if (x->unready.load(std::memory_order_relaxed) == 0) {
        t = x;
        break;
      }
      held[x->caller] = true;
    }
  }
  if (!t) return nullptr;
  unlink_mail(tx, a, t);
  link_running(tx, t);
  tx.commit();
  return t;
}

Task* Client::take_mail(Handle handle) { return take_mail_any(handle, false); }
Task* Client::take_all_mail(Handle handle) { return take_mail_any(handle, true); }

// We host it from now on.
void Client::actor_alive(Handle handle) {
  Actor* a = actor(handle);
  Tx tx(*this);
  tx.lock(a->lock);
  tx.set(a->slot, slot);
  tx.set(a->state, u32(ACTOR_ALIVE));
  tx.set(me->actor, handle);
  tx.commit();
  me->role.store(ROLE_ACTOR);
}

void Client::actor_restarting(Handle handle) {
  Actor* a = actor(handle);
  Tx tx(*this);
  tx.lock(a->lock);
  tx.set(a->state, u32(ACTOR_RESTARTING));
  if (a->restarts > 0) tx.set(a->restarts, a->restarts - 1);
  tx.commit();
}

// No call is accepted any more, and the actor's own reference to itself is gone. `death`: the exception that calls get.
void Client::actor_dead(Handle handle, Handle death) {
  Actor* a = actor(handle);
  if (a->state.load() == ACTOR_DEAD) return;
  add_contained(death);
  {
    Tx tx(*this);
    tx.lock(a->lock);
    tx.set(a->state, u32(ACTOR_DEAD));
    tx.set(a->death, death);
    tx.commit();
  }
}

void Client::actor_unreferenced(Handle handle) {
  Actor* a = actor(handle);
  u32 open = 0;
  if (a->closing.compare_exchange_strong(open, 1) && a->state.load() == ACTOR_ALIVE) ring(a->slot.load());
}

}  // namespace shoal
