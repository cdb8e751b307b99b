// Semaphore, Event, Condition, Barrier: the Python face of a Sync in the arena. One type; shoal.sync makes a class of
// each kind of it.
#include "bindings.h"

namespace shoal::py {

namespace {

struct Face {
  PyObject_HEAD
  PyObject* ref;  // keeps the object alive
  PyObject* name;
  Sync* sync;
  Handle handle;
  u32 epoch;
};
PyTypeObject* SyncType;
PyObject* broken_barrier;

// The Sync of self, if its session lives and it is of that kind; else nullptr and an exception.
Sync* live(PyObject* self, u32 type = 0) {
  auto* f = reinterpret_cast<Face*>(self);
  Handle h;
  if (!live_ref(f->ref, &h)) return nullptr;
  if (!type || f->sync->type == type) return f->sync;
  PyErr_SetString(PyExc_TypeError, "this is another kind of synchronisation object");
  return nullptr;
}

Handle handle_of(PyObject* self) { return reinterpret_cast<Face*>(self)->handle; }

bool rung(WaitNode* n) { return n->woken.load(std::memory_order_relaxed) != 0; }

// threading's rule: None is without end, what is not positive is only a look
bool deadline_of(PyObject* timeout, u64* deadline, bool* now) {
  *deadline = 0;
  *now = false;
  if (timeout == Py_None) return true;
  double s = PyFloat_AsDouble(timeout);
  if (s == -1 && PyErr_Occurred()) return false;
  *now = !(s > 0);
  if (s > 0 && s < 1e9) *deadline = now_ns() + u64(s * 1e9) + 1;
  return true;
}

WaitNode* node_of(PyObject* number) {
  unsigned long i = PyLong_AsUnsignedLong(number);
  if (i < WAIT_NODES) return &C.me->waits[i];
  if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no such wait");
  return nullptr;
}

// Runs a wait whose node is queued; what `leave` does about it otherwise says whether it was over all the same.
template <class Check, class Hint, class Leave>
int wait_queued(Check check, Hint hint, Leave leave, u64 deadline, Handle barrier = 0) {
  int r = -1;
  u32 epoch = S.epoch;
  try {
    Watch watch(WAIT_BARRIER, barrier, deadline);
    r = wait_until(check, hint, deadline, watch);
  } catch (const Error& e) {
    set_error(e);
  }
  if (r != 1 && S.attached && epoch == S.epoch) {
    bool late = guarded([&] { return leave(r == 0); }, false);
    if (late && r == 0) r = 1;
  }
  return r;
}

// ------------------------------------------------------------------------------------------ semaphores

int sem_acquire(PyObject* self, u64 deadline, bool now) {
  Sync* s = live(self, SYNC_SEMAPHORE);
  if (!s) return -1;
  Handle h = handle_of(self);
  int r = guarded([&] { return int(C.sem_try(h, s)); }, -1);
  if (r || now) return r;
  WaitNode* n = guarded([&] { return C.sync_enqueue(s, WAIT_PERMIT, thread_id()); }, nullptr);
  if (!n) return -1;
  return wait_queued([=] { return C.sem_check(h, s, n); }, [n] { return rung(n); },
                     [=](bool) { return C.sem_leave(s, n), false; }, deadline);
}

PyObject* py_sem_acquire(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* kwnames) {
  u64 deadline = 0;
  bool now = false;
  if (!parse_blocking(args, n, kwnames, &deadline, &now)) return nullptr;
  int r = sem_acquire(self, deadline, now);
  return r < 0 ? nullptr : PyBool_FromLong(r);
}

PyObject* py_sem_enter(PyObject* self, PyObject*) {
  int r = sem_acquire(self, 0, false);
  return r < 0 ? nullptr : PyBool_FromLong(r);
}

bool sem_release(PyObject* self, long long n) {
  Sync* s = live(self, SYNC_SEMAPHORE);
  if (!s) return false;
  if (n < 1) return PyErr_SetString(PyExc_ValueError, "n must be one or more"), false;
  int r = guarded([&] { return int(C.sem_release(s, u64(n))); }, -1);
  if (r == 0) PyErr_SetString(PyExc_ValueError, "Semaphore released too many times");
  return r == 1;
}

PyObject* py_sem_release(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* kwnames) {
  Py_ssize_t named = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
  if (n + named > 1 || (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, 0), "n")))
    return PyErr_SetString(PyExc_TypeError, "release() takes n=1"), nullptr;
  long long k = n + named ? PyLong_AsLongLong(args[0]) : 1;
  if ((k == -1 && PyErr_Occurred()) || !sem_release(self, k)) return nullptr;
  Py_RETURN_NONE;
}

PyObject* py_sem_exit(PyObject* self, PyObject* const*, Py_ssize_t) {
  if (!sem_release(self, 1)) return nullptr;
  Py_RETURN_FALSE;
}

// ------------------------------------------------------------------------------- events and conditions

PyObject* wait_ticket(Sync* s, WaitNode* n, u64 deadline, bool now) {
  int r = -1;
  if (now) r = guarded([&] { return int(C.ticket_leave(s, n)); }, -1);
  else
    r = wait_queued([=] { return C.ticket_check(s, n); }, [=] { return C.ticket_done(s, n); },
                    [=](bool) {
                      bool done = C.ticket_leave(s, n);
                      // An exception cuts the wait short: the notification is for somebody else.
                      if (done && s->type == SYNC_CONDITION && PyErr_Occurred()) C.cond_notify(s, 1);
                      return done;
                    }, deadline);
  return r < 0 ? nullptr : PyBool_FromLong(r);
}

PyObject* py_event_wait(PyObject* self, PyObject* timeout) {
  Sync* s = live(self, SYNC_EVENT);
  u64 deadline;
  bool now;
  if (!s || !deadline_of(timeout, &deadline, &now)) return nullptr;
  if (s->value.load(std::memory_order_acquire)) Py_RETURN_TRUE;
  if (now) Py_RETURN_FALSE;
  WaitNode* n = guarded([&] { return C.sync_enqueue(s, WAIT_TICKET, thread_id()); }, nullptr);
  return n ? wait_ticket(s, n, deadline, false) : nullptr;
}

PyObject* py_event_set(PyObject* self, PyObject*) {
  Sync* s = live(self, SYNC_EVENT);
  if (!s || !guarded([&] { return C.event_set(s), true; }, false)) return nullptr;
  Py_RETURN_NONE;
}

PyObject* py_event_clear(PyObject* self, PyObject*) {
  Sync* s = live(self, SYNC_EVENT);
  if (!s || !guarded([&] { return C.event_clear(s), true; }, false)) return nullptr;
  Py_RETURN_NONE;
}

PyObject* py_event_is_set(PyObject* self, PyObject*) {
  Sync* s = live(self, SYNC_EVENT);
  return s ? PyBool_FromLong(s->value.load(std::memory_order_acquire) != 0) : nullptr;
}

// _cond_enqueue() -> number: from here on notifications count; _cond_wait(number, timeout) -> bool
PyObject* py_cond_enqueue(PyObject* self, PyObject*) {
  Sync* s = live(self, SYNC_CONDITION);
  WaitNode* n = s ? guarded([&] { return C.sync_enqueue(s, WAIT_TICKET, thread_id()); }, nullptr) : nullptr;
  return n ? PyLong_FromLong(n - C.me->waits) : nullptr;
}

PyObject* py_cond_wait(PyObject* self, PyObject* const* args, Py_ssize_t n) {
  Sync* s = live(self, SYNC_CONDITION);
  u64 deadline;
  bool now;
  if (!s || n != 2 || !deadline_of(args[1], &deadline, &now)) return nullptr;
  WaitNode* node = node_of(args[0]);
  return node ? wait_ticket(s, node, deadline, now) : nullptr;
}

PyObject* py_cond_notify(PyObject* self, PyObject* number) {
  Sync* s = live(self, SYNC_CONDITION);
  if (!s) return nullptr;
  long long n = PyLong_AsLongLong(number);
  if (n == -1 && PyErr_Occurred()) return nullptr;
  if (n > 0 && !guarded([&] { return C.cond_notify(s, u64(n)), true; }, false)) return nullptr;
  Py_RETURN_NONE;
}

// -------------------------------------------------------------------------------------------- barriers

PyObject* broken() {
  if (!PyErr_Occurred()) PyErr_SetNone(broken_barrier);
  return nullptr;
}

// _barrier_wait(timeout, action) -> index
PyObject* py_barrier_wait(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  Sync* s = live(self, SYNC_BARRIER);
  u64 deadline;
  bool now;
  if (!s || nargs != 2 || !deadline_of(args[0], &deadline, &now)) return nullptr;
  if (now) deadline = now_ns();
  using Arrival = Client::Arrival;
  using Leave = Client::Leave;
  for (;;) {
    WaitNode* n = nullptr;
    u64 index = 0;
    Arrival how = guarded([&] { return C.barrier_arrive(s, thread_id(), args[1] != Py_None, &n, &index); }, Arrival::BROKEN);
    if (how == Arrival::BROKEN) return broken();
    if (how == Arrival::LAST) return PyLong_FromUnsignedLongLong(index);
    u32 result = 0;
    if (how == Arrival::ACTION) {
      PyObject* r = PyObject_CallNoArgs(args[1]);
      if (!S.attached || live(self) != s) {  // the action ended the session
        Py_XDECREF(r);
        return nullptr;
      }
      PyObject *type, *error, *trace;
      PyErr_Fetch(&type, &error, &trace);
      result = guarded([&] { return C.barrier_leave(s, n, r ? Leave::PASS : Leave::BREAK); }, 0u);
      Py_XDECREF(r);
      if (type) return PyErr_Restore(type, error, trace), nullptr;
    } else {
      int r = wait_queued([&] { return (result = C.barrier_check(s, n)) != 0; },
                          [=] { return n->ticket < s->next.load(std::memory_order_acquire); },
                          [&](bool late) { return (result = C.barrier_leave(s, n, late ? Leave::BREAK : Leave::QUIT)) != 0; }, deadline,
                          how == Arrival::WAIT ? handle_of(self) : 0);
      if (r < 0) return nullptr;
      if (how == Arrival::FULL && result == 1) continue;  // the others are through; now it is our turn to come
    }
    return result == 1 ? PyLong_FromUnsignedLongLong(index) : broken();
  }
}

PyObject* py_barrier_break(PyObject* self, PyObject* for_good) {
  Sync* s = live(self, SYNC_BARRIER);
  if (!s || !guarded([&] { return C.barrier_break(s, for_good == Py_True), true; }, false)) return nullptr;
  Py_RETURN_NONE;
}

// ------------------------------------------------------------------ for coroutines, as in bindings_sync.cpp

PyObject* py_async_begin(PyObject* self, PyObject*) {
  Sync* s = live(self);
  if (!s) return nullptr;
  bool permit = s->type == SYNC_SEMAPHORE;
  if (!permit && s->type != SYNC_EVENT) return PyErr_SetString(PyExc_TypeError, "only semaphores and events can be awaited"), nullptr;
  int r = guarded([&] { return int(permit ? C.sem_try(handle_of(self), s) : s->value.load() != 0); }, -1);
  if (r) return r < 0 ? nullptr : PyLong_FromLong(-1);
  WaitNode* n = guarded([&] { return C.sync_enqueue(s, permit ? WAIT_PERMIT : WAIT_TICKET, coroutine_id()); }, nullptr);
  return n ? PyLong_FromLong(n - C.me->waits) : nullptr;
}

PyObject* py_async_check(PyObject* self, PyObject* const* args, Py_ssize_t nargs) {
  Sync* s = live(self);
  if (!s || nargs < 1) return nullptr;
  WaitNode* n = node_of(args[0]);
  if (!n) return nullptr;
  int r = guarded([&] { return int(s->type == SYNC_SEMAPHORE ? C.sem_check(handle_of(self), s, n) : C.ticket_check(s, n)); }, -1);
  return r < 0 ? nullptr : PyBool_FromLong(r);
}

PyObject* py_async_leave(PyObject* self, PyObject* number) {
  Sync* s = live(self);
  WaitNode* n = s ? node_of(number) : nullptr;
  if (!n || !guarded([&] { return s->type == SYNC_SEMAPHORE ? C.sem_leave(s, n) : void(C.ticket_leave(s, n)), true; }, false)) return nullptr;
  Py_RETURN_NONE;
}

// ------------------------------------------------------------------------------------------- all of them

PyObject* py_facts(PyObject* self, PyObject*) {
  Sync* s = live(self);
  if (!s) return nullptr;
  PyObject* holders = PyDict_New();
  if (!holders) return nullptr;
  for (u32 i = 0, top = C.h->slots_top.load(); i < top; i++)
    for (auto& hold : C.slots[i].holds) {
      if (hold.queue != C.offset(s) || !hold.count) continue;
      PyObject *pid = PyLong_FromLong(C.slots[i].pid), *count = PyLong_FromUnsignedLong(hold.count);
      if (pid && count) PyDict_SetItem(holders, pid, count);
      Py_XDECREF(pid);
      Py_XDECREF(count);
    }
  using ull = unsigned long long;
  return Py_BuildValue("{sKsKsIsNsKsKsOsO}", "value", (ull)s->value.load(), "limit", (ull)s->limit, "waiters", s->q.waiters.load(),
                       "holders", holders, "count", (ull)s->taken, "generation", (ull)s->next.load(), "broken",
                       s->broken.load() ? Py_True : Py_False, "full", s->full ? Py_True : Py_False);
}

PyObject* create(PyTypeObject* type, PyObject* args, PyObject*) {
  PyObject *ref, *name;
  Handle h;
  if (!PyArg_ParseTuple(args, "OO", &ref, &name) || !live_ref(ref, &h)) return nullptr;
  if (C.entry(h).kind != KIND_SYNC) return PyErr_SetString(PyExc_TypeError, "not a synchronisation object"), nullptr;
  auto* f = reinterpret_cast<Face*>(type->tp_alloc(type, 0));
  if (!f) return nullptr;
  f->ref = Py_NewRef(ref);
  f->name = Py_NewRef(name);
  f->sync = C.sync(h);
  f->handle = h;
  f->epoch = S.epoch;
  return reinterpret_cast<PyObject*>(f);
}

void dealloc(PyObject* self) {
  auto* f = reinterpret_cast<Face*>(self);
  bool ours = f->sync && S.attached && !C.forked && f->epoch == S.epoch;
  Hold* hold = ours && f->sync->type == SYNC_SEMAPHORE ? C.find_hold(f->sync, 0) : nullptr;
  Py_XDECREF(f->ref);  // the record keeps the object
  if (hold) {
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    guarded([&] { return C.reclaim_hold(hold); }, false);
    PyErr_Restore(type, error, trace);
  }
  Py_XDECREF(f->name);
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

// _new_sync(type, value, limit, flags) -> ref
PyObject* new_sync(PyObject*, PyObject* args) {
  unsigned type, flags;
  unsigned long long value, limit;
  if (!PyArg_ParseTuple(args, "IKKI", &type, &value, &limit, &flags) || !usable()) return nullptr;
  Handle h = guarded([&] {
    Handle h = C.create(KIND_SYNC);
    try {
      C.begin_payload(h, FORMAT_PICKLE, 0, 0, 0, nullptr);
    } catch (...) {
      C.release(h);
      throw;
    }
    Sync* s = C.sync(h);
    s->type = type;
    s->flags = flags;
    s->limit = limit;
    s->value.store(value);
    C.publish(h, false);
    return h;
  }, Handle(0));
  return h ? new_ref(h) : nullptr;
}

PyMethodDef methods[] = {
    {"_sem_acquire", (PyCFunction)(void*)py_sem_acquire, METH_FASTCALL | METH_KEYWORDS,
     "_sem_acquire($self, blocking=True, timeout=None)\n--\n\nTakes a permit; False if none could be had in time."},
    {"_sem_release", (PyCFunction)(void*)py_sem_release, METH_FASTCALL | METH_KEYWORDS,
     "_sem_release($self, n=1)\n--\n\nGives n permits back: this process's own first, then such as other processes took, then new ones."},
    {"_sem_enter", py_sem_enter, METH_NOARGS, nullptr},
    {"_sem_exit", (PyCFunction)(void*)py_sem_exit, METH_FASTCALL, nullptr},
    {"_event_wait", py_event_wait, METH_O, nullptr},
    {"_event_set", py_event_set, METH_NOARGS, "_event_set($self)\n--\n\nSets the flag; all who wait go on, also if it is cleared at once."},
    {"_event_clear", py_event_clear, METH_NOARGS, "_event_clear($self)\n--\n\nClears the flag; those who come to wait now wait."},
    {"_event_is_set", py_event_is_set, METH_NOARGS, "_event_is_set($self)\n--\n\nWhether the flag is set now."},
    {"_cond_enqueue", py_cond_enqueue, METH_NOARGS, nullptr},
    {"_cond_wait", (PyCFunction)(void*)py_cond_wait, METH_FASTCALL, nullptr},
    {"_cond_notify", py_cond_notify, METH_O, nullptr},
    {"_barrier_wait", (PyCFunction)(void*)py_barrier_wait, METH_FASTCALL, nullptr},
    {"_barrier_break", py_barrier_break, METH_O, nullptr},
    {"_async_begin", py_async_begin, METH_O, nullptr},
    {"_async_check", (PyCFunction)(void*)py_async_check, METH_FASTCALL, nullptr},
    {"_async_leave", py_async_leave, METH_O, nullptr},
    {"_facts", py_facts, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyMemberDef members[] = {
    {"name", T_OBJECT, offsetof(Face, name), READONLY, "by which every participant finds it, or None"},
    {"_ref", T_OBJECT, offsetof(Face, ref), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};
PyType_Slot slots[] = {
    {Py_tp_new, (void*)create}, {Py_tp_dealloc, (void*)dealloc}, {Py_tp_methods, methods}, {Py_tp_members, members}, {0, nullptr},
};
PyType_Spec spec = {"shoal._core.Sync", sizeof(Face), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};

PyMethodDef functions[] = {{"_new_sync", new_sync, METH_VARARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};

}  // namespace

bool ready_signals(PyObject* module) {
  SyncType = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  if (!SyncType || PyModule_AddFunctions(module, functions) < 0) return false;
  PyObject* threading = PyImport_ImportModule("threading");
  if (!threading) return false;
  broken_barrier = PyObject_GetAttrString(threading, "BrokenBarrierError");
  Py_DECREF(threading);
  return broken_barrier && PyModule_AddObjectRef(module, "Sync", (PyObject*)SyncType) == 0;
}

}  // namespace shoal::py
