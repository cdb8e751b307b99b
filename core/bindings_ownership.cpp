// Ownership of mutable objects, for src/shoal/ownership.py.
#include "bindings.h"

namespace shoal::py {

namespace {

// What a worker's tasks came to own, in whichever thread.
struct TaskOwned {
  Handle handle;
  u32 depth;
};
std::vector<TaskOwned> task_owned;

void note_owned(Handle h) {
  if (C.me->role.load(std::memory_order_relaxed) == ROLE_WORKER && !C.me->actor.load()) task_owned.push_back({h, S.help_depth});
}

bool owned_ref(PyObject* o, Handle* h) {
  if (!live_ref(o, h)) return false;
  if (C.entry(*h).state.load(std::memory_order_acquire) == ENTRY_READY && C.has_ownership(*h)) return true;
  PyErr_Format(PyExc_ValueError, "%R has no owner: whether an object has one is decided when it is put, with put(value, mutable=True, owner=...)", o);
  return false;
}

// An actor's reference, or None. False: an exception is set.
bool actor_arg(PyObject* o, Handle* actor) {
  *actor = 0;
  if (o == Py_None) return true;
  if (!live_ref(o, actor)) return false;
  if (C.entry(*actor).kind == KIND_ACTOR) return true;
  PyErr_SetString(PyExc_TypeError, "an owner is an actor, or the caller");
  return false;
}

PyObject* text(const char* s, size_t room) { return PyUnicode_DecodeUTF8(s, Py_ssize_t(strnlen(s, room)), "replace"); }

// _put_owned(value, actor reference or None: the caller) -> ref
PyObject* put_owned(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Handle actor;
  if (!arity("_put_owned", n, 2) || !usable() || !actor_arg(args[1], &actor)) return nullptr;
  if (actor && C.actor_gone(actor)) Py_RETURN_NONE;
  Handle h = guarded([&] { return C.create(KIND_MUTABLE); }, Handle(0));
  if (!h) return nullptr;
  u32 epoch = S.epoch;
  C.entry(h).flags |= FLAG_OWNED;
  bool ok = store_mutable(h, args[0]) && same_session(epoch) && guarded([&] { return C.owner_begin(h, actor), true; }, false);
  if (!same_session(epoch)) return nullptr;
  if (!ok) {
    C.release(h);
    return nullptr;
  }
  C.publish(h, false);
  if (!actor) note_owned(h);
  return new_ref(h);
}

// _owner(ref) -> None: nobody, or it has none; else (is an actor, name, pid or 0, epoch, seconds since then, is it us?, how many wait)
PyObject* owner(PyObject*, PyObject* ref) {
  Handle h;
  if (!live_ref(ref, &h)) return nullptr;
  if (C.entry(h).state.load(std::memory_order_acquire) != ENTRY_READY || !C.has_ownership(h) || C.entry(h).kind == KIND_FROZEN) Py_RETURN_NONE;
  Handle actor;
  u64 host, epoch, since;
  if (!guarded([&] { return C.owner_look(h, &actor, &host, &epoch, &since), true; }, false)) return nullptr;
  if (!actor && !host) Py_RETURN_NONE;
  char name[MAX_NAME] = "";
  i32 pid = 0;
  if (actor) {
    const Actor* a = C.actor(actor);
    std::memcpy(name, a->name, MAX_NAME - 1);
    if (!C.valid(actor)) std::strcpy(name, "an actor");  // it ended meanwhile
    else if (u32 state = a->state.load(std::memory_order_relaxed); !host && state == ACTOR_ALIVE) pid = C.slots[a->slot.load()].pid;
  } else {
    std::memcpy(name, C.slots[u32(host) - 1].label, MAX_NAME - 1);
  }
  name[MAX_NAME - 1] = 0;
  if (host) pid = C.slots[u32(host) - 1].pid;
  unsigned waiting = C.ownership(h)->q.waiters.load(std::memory_order_relaxed);
  bool mine = actor ? actor == C.me->actor.load() : host == C.host_word(C.slot);
  PyObject* shown = text(name, MAX_NAME);
  if (!shown) return nullptr;
  return Py_BuildValue("(ONiKdOI)", actor ? Py_True : Py_False, shown, int(pid), (unsigned long long)epoch,
                       double(now_ns() - since) / 1e9, mine ? Py_True : Py_False, waiting);
}

// 0: done; 1: this process never was the owner; 2: it was, until somebody else became it
PyObject* verdict(Client::Owned x) { return PyLong_FromLong(long(x)); }

template <class F>
PyObject* as_owner(PyObject* ref, F f) {
  Handle h;
  if (!owned_ref(ref, &h)) return nullptr;
  u32 epoch = S.epoch;
  int result = guarded([&] { return int(f(h)); }, -1);
  if (result < 0 || !same_session(epoch)) return nullptr;
  return verdict(Client::Owned(result));
}

PyObject* commit(PyObject*, PyObject* ref) {
  return as_owner(ref, [](Handle h) { return C.owner_commit(h); });
}

PyObject* rollback(PyObject*, PyObject* ref) {
  return as_owner(ref, [](Handle h) { return C.owner_rollback(h); });
}

// Is it ours, as far as we know?
PyObject* mine(PyObject*, PyObject* ref) {
  return as_owner(ref, [](Handle h) {
    C.owner_check_mutable(h);
    return C.owner_known(h);
  });
}

// _owner_transfer(ref, actor reference or None) -> as above; 3: that actor is dead
PyObject* transfer(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Handle actor;
  if (!arity("_owner_transfer", n, 2) || !usable() || !actor_arg(args[1], &actor)) return nullptr;
  if (actor && C.actor_gone(actor)) return PyLong_FromLong(3);
  return as_owner(args[0], [&](Handle h) { return C.owner_transfer(h, actor); });
}

PyObject* requested(PyObject*, PyObject* ref) {
  Handle h;
  if (!owned_ref(ref, &h)) return nullptr;
  return PyBool_FromLong(C.ownership(h)->requests.load(std::memory_order_relaxed) != 0);
}

// 1: ours; 0: not in time; -1: an exception
int claim_slowly(Handle h, bool request, u64 deadline, Client::Notice* notice) {
  WaitNode* node = nullptr;
  u32 epoch = S.epoch;
  int result = -1;
  try {
    node = C.owner_enqueue(h, request, thread_id());
    Watch watch(request ? WAIT_REQUEST : WAIT_CLAIM, h, deadline);
    result = wait_until([&] { return C.owner_check(h, node, notice); },
                        [node] { return node->woken.load(std::memory_order_relaxed) != 0; }, deadline, watch);
  } catch (const Error& e) {
    set_error(e);
  }
  if (result == 1 || !node || !S.attached || epoch != S.epoch) return result;  // without the session there is no queue
  bool given = guarded([&] { return C.owner_leave(C.ownership(h), node, result == 0); }, false);
  if (given && result == 0) result = guarded([&] { return C.owner_claim(h, false, notice) != Client::Claim::NO; }, false) ? 1 : 0;
  return result;
}

// _claim(ref, how: 0 wait, 1 request, 2 steal; timeout) -> TIMED_OUT, None, or a notice (task ended?, pid, label, age, epoch)
PyObject* claim(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Handle h;
  u64 deadline;
  bool now;
  if (!arity("_claim", n, 3) || !owned_ref(args[0], &h)) return nullptr;
  long how = PyLong_AsLong(args[1]);
  if (PyErr_Occurred() || !parse_timeout(args[2], &deadline, &now)) return nullptr;
  Client::Notice notice{};
  int got = guarded([&] { return int(C.owner_claim(h, how == 2, &notice)); }, -1);
  if (got < 0) return nullptr;
  bool fresh = Client::Claim(got) == Client::Claim::GOT;
  if (Client::Claim(got) == Client::Claim::NO) {
    int r = now ? 0 : claim_slowly(h, how == 1, deadline, &notice);
    if (r < 0) return nullptr;
    if (r == 0) return not_in_time();
    fresh = true;
  }
  if (fresh) note_owned(h);
  if (!notice.died) Py_RETURN_NONE;
  PyObject* label = text(notice.label, sizeof notice.label);
  if (!label) return nullptr;
  return Py_BuildValue("(OiNdK)", notice.died == OWNER_TASK_ENDED ? Py_True : Py_False, int(notice.pid), label,
                       double(now_ns() - notice.ns) / 1e9, (unsigned long long)notice.epoch);
}

PyMethodDef functions[] = {
    {"_put_owned", (PyCFunction)(void*)put_owned, METH_FASTCALL, nullptr},
    {"_owner", owner, METH_O, nullptr},
    {"_owner_commit", commit, METH_O, nullptr},
    {"_owner_rollback", rollback, METH_O, nullptr},
    {"_owner_mine", mine, METH_O, nullptr},
    {"_owner_transfer", (PyCFunction)(void*)transfer, METH_FASTCALL, nullptr},
    {"_owner_requested", requested, METH_O, nullptr},
    {"_claim", (PyCFunction)(void*)claim, METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void end_task_ownerships() {
  while (!task_owned.empty() && task_owned.back().depth >= S.help_depth) {
    Handle h = task_owned.back().handle;
    task_owned.pop_back();
    guarded([&] {
      if (!C.hold_ready(h)) return false;  // nobody refers to it any more
      C.owner_abandon(h);
      C.release(h);
      return true;
    }, false);
  }
}

bool ready_ownership(PyObject* module) { return PyModule_AddFunctions(module, functions) == 0; }

}  // namespace shoal::py
