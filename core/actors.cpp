// Actors and their mailboxes.
//
// Calls lie in the mailbox in the order of their submission; the host takes the first one whose arguments are there
// and that no earlier, still waiting call of the same caller precedes. So each caller sees its own order kept, and a
// call that waits for an argument does not hold up other callers.
//
// The rule: whoever looks at an actor or changes it holds a reference to it, or knows that it has its `life` still. Nobody
// else keeps it: the entry of one that is gone has no payload, and at place 0 lies the arena's header.
#include <bitset>

#include "client.h"

namespace shoal {

Handle Client::create_actor(u32 shape, Handle class_object, const std::string& name, i32 restarts, i32 max_pending, i32 task_retries,
                            bool detached) {
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
  a->task_retries = task_retries;
  a->shape = shape;
  a->life = 1 + detached;
  std::strncpy(a->name, name.c_str(), MAX_NAME - 1);
  contain(handle, class_object);
  CRASH_POINT("actor.made");
  {
    Entry& e = entry(handle);
    Tx tx(*this);
    tx.lock(h->sched.lock);
    tx.set(h->actors, h->actors.load(std::memory_order_relaxed) + 1);
    tx.set(e.contained, a->life);  // a detached one needs no handle
    tx.set(e.state, u32(ENTRY_READY));
    tx.commit();
  }
  return handle;
}

bool Client::post(Tx& tx, Task* t) {
  Actor* a = actor(t->actor);
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
  return true;
}

bool Client::mail(Task* t) {
  bool accepted = false, waits;
  {
    Tx tx(*this);
    tx.lock(t->lock);
    waits = t->unready.load(std::memory_order_relaxed) > 1;
    if (waits) accepted = post(tx, t);
  }
  if (!waits) {  // its lock is not held when it gets where it may be run, see submit()
    Tx tx(*this);
    accepted = post(tx, t);
  }
  after_tx();
  return accepted;
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
  // What is mailed after a kill() is for the process that comes after. We say so once more ourselves: who wanted it may have
  // died before it could tell the supervisor.
  if (!also_unready && a->kill.load(std::memory_order_relaxed)) {
    me->command.fetch_or(CMD_KILL);
    ring_supervisor();
    return nullptr;
  }
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
Task* Client::take_all_mail(Handle handle) {
  Task* t = take_mail_any(handle, true);
  if (t) wait_for_lock(t);
  return t;
}

// We host it from now on.
void Client::actor_alive(Handle handle) {
  Actor* a = actor(handle);
  {
    Tx tx(*this);
    tx.lock(a->lock);
    tx.set(a->slot, slot);
    tx.set(a->state, u32(ACTOR_ALIVE));
    tx.set(me->actor, handle);
    tx.commit();
  }
  CRASH_POINT("actor.alive");
  me->role.store(ROLE_ACTOR);
  // Its last handle may have gone while it was being made, when nobody could see that only its own is left.
  {
    Tx again(*this);
    again.lock(entry(handle).lock);
    unreferenced(again, handle);
    again.commit();
  }
  after_tx();
}

// False: it has been declared dead, which is final (by who failed to make it, and died before its record was gone).
bool Client::actor_restarting(Handle handle) {
  SHOAL_CHECK(entry(handle).kind == KIND_ACTOR && entry(handle).payload);
  Actor* a = actor(handle);
  Tx tx(*this);
  tx.lock(a->lock);
  if (a->state.load(std::memory_order_relaxed) == ACTOR_DEAD) return false;
  tx.set(a->state, u32(ACTOR_RESTARTING));
  tx.set(a->kill, 0u);
  if (a->restarts > 0) tx.set(a->restarts, a->restarts - 1);
  tx.commit();
  return true;
}

// No call is accepted any more. `death`: the exception that calls get. False: it was dead already.
bool Client::actor_dead(Handle handle, Handle death) {
  SHOAL_CHECK(entry(handle).kind == KIND_ACTOR && entry(handle).payload);
  Actor* a = actor(handle);
  Entry& e = entry(death);
  {
    Tx tx(*this);
    tx.lock(e.lock);
    tx.lock(a->lock);
    if (a->state.load(std::memory_order_relaxed) == ACTOR_DEAD) return false;
    tx.set(e.contained, e.contained + 1);
    tx.set(a->state, u32(ACTOR_DEAD));
    tx.set(a->death, death);
    tx.commit();
  }
  ring_all();  // who claims what it owned
  return true;
}

// Nothing will run as this actor any more: its own references to itself go.
void Client::actor_drop_life(Handle handle) {
  SHOAL_CHECK(entry(handle).kind == KIND_ACTOR && entry(handle).payload);
  Actor* a = actor(handle);
  if (Handle state = a->saved; state && a->life) {
    bool dead;
    {
      Tx tx(*this);
      dead = drop_contained_tx(tx, state);
      tx.set(a->saved, Handle(0));
      tx.commit();
    }
    if (dead) dispose(state);
  }
  for (u32 left = a->life; left--;) {
    bool dead;
    {
      Tx tx(*this);
      dead = drop_contained_tx(tx, handle);
      tx.set(a->life, left);
      if (!left) {
        tx.lock(h->sched.lock);
        tx.set(h->actors, h->actors.load(std::memory_order_relaxed) - 1);
      }
      tx.commit();
    }
    if (dead) dispose(handle);
    if (!to_ring.empty()) after_tx();
  }
}

// We are about to make it: kill() finds us from now on. No kill is lost: who kills it sets `closing`, then looks for a host;
// the host makes itself known here, then looks at `closing`. Both are sequentially consistent, so one of them sees the
// other. Were neither to, an actor that has been declared dead would be made all the same.
void Client::actor_starts(Handle handle) {
  SHOAL_CHECK(entry(handle).kind == KIND_ACTOR && entry(handle).payload);
  Actor* a = actor(handle);
  {
    Tx tx(*this);
    tx.lock(a->lock);
    tx.set(a->slot, slot);
    tx.set(a->kill, 0u);  // it was for the process before
    tx.set(me->actor, handle);
    tx.commit();
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

// The host has nothing to do: shall it leave? A result of its last calls may hold a handle that was not there when the
// last one before it went; then the actor lives on.
bool Client::actor_leaves(Handle handle) {
  Actor* a = actor(handle);
  u32 how = a->closing.load();
  if (how != 1) return how >= 2;
  Tx tx(*this);
  tx.lock(entry(handle).lock);
  if (!actor_alone(handle)) {
    a->closing.compare_exchange_strong(how, 0);
    return false;
  }
  if (a->count.load()) return false;  // read after the references: who mails a call holds a handle meanwhile
  a->closing.compare_exchange_strong(how, 3);
  return true;
}

// The state that a restart begins with is `item` from now on. If `t` is given, a call of ours whose returns have been stored
// but not sealed, that is so in the same moment as it is noted that the call is in there: who finds it unfinished after our
// death seals what it has stored (`failed`: an exception), and does not run it again.
void Client::actor_save(Handle handle, Handle item, Task* t, bool failed) {
  Actor* a = actor(handle);
  Handle old = a->saved;
  bool dead = false;
  {
    Tx tx(*this);
    if (old) dead = exchange(tx, item, old);
    else take_over(tx, item);
    if (t) {
      tx.lock(t->lock);
      tx.set(t->flags, u16(t->flags | TASK_SAVED | (failed ? TASK_SAVED_FAILED : 0)));
    }
    tx.lock(a->lock);
    tx.set(a->saved, item);
    tx.commit();
    local[index_of(item)]--;
  }
  CRASH_POINT("save.done");
  if (dead) dispose(old);
}

}  // namespace shoal
