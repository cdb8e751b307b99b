// Lock: the Python face of a Mutex in the arena.
#include "bindings.h"

namespace shoal::py {

namespace {

struct Lock {
  PyObject_HEAD
  PyObject* ref;  // keeps the mutex's object alive
  PyObject* name;
  Mutex* mutex;
  bool reentrant;
};
PyTypeObject* LockType;
PyObject* lock_function;
thread_local u32 thread_token = 0;
u32 next_token = 0;

u64 self_id() {
  if (!thread_token) thread_token = ++next_token;  // under the GIL
  return u64(C.slot + 1) << 32 | thread_token;
}

bool live(Lock* l, u64* me) {
  Handle h;
  if (!live_ref(l->ref, &h)) return false;
  *me = self_id();
  return true;
}

struct Free {
  Mutex* m;
  u64 me;
};
bool looks_free(void* p) {
  auto* f = static_cast<Free*>(p);
  u64 owner = f->m->owner.load(std::memory_order_relaxed);
  return owner == 0 || owner == f->me;
}

// The lock is ours; was its last holder able to let go of it?
bool told(Mutex* m, PyObject* name) {
  if (!m->died.load(std::memory_order_acquire)) return true;
  if (C.h->stopping.load()) {  // of the session's end: there is nothing to look after
    set_error(Error(Error::ENDED, "the session has ended: shoal.shutdown() was called"));
    return false;
  }
  m->died.store(0);
  char label[sizeof m->died_label + 1] = {};
  std::memcpy(label, m->died_label, sizeof m->died_label);
  PyObject* e = PyObject_CallFunction(S.lock_died, "isdO", int(m->died_pid), label, double(now_ns() - m->died_ns) / 1e9, name);
  if (e) PyErr_SetObject((PyObject*)Py_TYPE(e), e);
  Py_XDECREF(e);
  return false;
}

bool sleep_until(u64 deadline) {  // false: exception
  for (;;) {
    Waited w = nap(C.me->ring.load(std::memory_order_seq_cst), deadline);
    if (w != Waited::DONE) return w == Waited::TIMEOUT;
  }
}

// 1: ours; 0: not within the time; -1: exception; -2: LockHolderDied, and it is ours all the same
int acquire(Lock* l, u64 deadline, bool now) {
  u64 me;
  if (!live(l, &me)) return -1;
  Mutex* m = l->mutex;
  if (C.mutex_try(m, me)) return told(m, l->name) ? 1 : -2;
  if (m->owner.load(std::memory_order_relaxed) == me) {
    if (l->reentrant) {
      m->depth++;
      return 1;
    }
    if (now) return 0;
    if (!deadline) {
      PyErr_SetString(PyExc_RuntimeError,
                      "this thread already holds the lock and would wait for itself for ever; release it first, or make it "
                      "with shoal.lock(..., reentrant=True)");
      return -1;
    }
    return sleep_until(deadline) ? 0 : -1;  // nobody else can release it
  }
  if (now) return 0;
  WaitNode* node = nullptr;
  u32 epoch = S.epoch;
  int result = -1;
  bool blocked = false;
  try {
    node = C.mutex_enqueue(m, me);
    for (;;) {
      if (C.mutex_check(m, node)) {
        node = nullptr;
        result = 1;
        break;
      }
      Free f{m, me};
      bool found;
      {
        NoGil nogil;
        found = C.spin(looks_free, &f);
      }
      if (found) continue;
      u32 seen = C.me->ring.load(std::memory_order_seq_cst);
      if (C.mutex_check(m, node)) {
        node = nullptr;
        result = 1;
        break;
      }
      if (!blocked && S.block_depth++ == 0) C.block_begin();
      blocked = true;
      Waited w = nap(seen, deadline);
      if (w == Waited::FAILED) break;
      if (w == Waited::TIMEOUT) {
        bool ours = C.mutex_leave(m, node);
        node = nullptr;
        result = ours ? 1 : 0;
        break;
      }
    }
    if (epoch != S.epoch) return -1;  // the session is gone, and with it the queue
    if (node) {  // interrupted
      if (C.mutex_leave(m, node)) C.mutex_release(m, me);
    }
    if (blocked && --S.block_depth == 0) C.block_end();
  } catch (const Error& e) {
    set_error(e);
    return -1;
  }
  if (result == 1 && !told(m, l->name)) return -2;
  return result;
}

bool release(Lock* l) {
  u64 me;
  if (!live(l, &me)) return false;
  Mutex* m = l->mutex;
  u64 owner = m->owner.load(std::memory_order_relaxed);
  if (owner != me) {
    if (owner)
      PyErr_Format(PyExc_RuntimeError, "cannot release a lock that this thread does not hold: it is held by process %d",
                   int(C.slots[(owner >> 32) - 1].pid));
    else PyErr_SetString(PyExc_RuntimeError, "cannot release a lock that is not held");
    return false;
  }
  if (m->depth) {
    m->depth--;
    return true;
  }
  return guarded([&] { return C.mutex_release(m, me), true; }, false);
}

PyObject* py_acquire(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* names[] = {"blocking", "timeout", nullptr};
  int blocking = 1;
  PyObject* timeout = Py_None;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|pO:acquire", const_cast<char**>(names), &blocking, &timeout)) return nullptr;
  u64 deadline = 0;
  bool now = !blocking;
  if (timeout != Py_None) {
    double s = PyFloat_AsDouble(timeout);
    if (s == -1 && PyErr_Occurred()) return nullptr;
    if (!blocking && s != -1) return PyErr_SetString(PyExc_ValueError, "can't specify a timeout for a non-blocking call"), nullptr;
    if (s != -1) {  // -1 is threading.Lock's "for ever"
      bool zero = false;
      if (!parse_timeout(timeout, &deadline, &zero)) return nullptr;
      now = now || zero;
    }
  }
  int r = acquire(reinterpret_cast<Lock*>(self), deadline, now);
  return r < 0 ? nullptr : PyBool_FromLong(r);
}

PyObject* py_release(PyObject* self, PyObject*) {
  if (!release(reinterpret_cast<Lock*>(self))) return nullptr;
  Py_RETURN_NONE;
}

PyObject* py_enter(PyObject* self, PyObject*) {
  auto* l = reinterpret_cast<Lock*>(self);
  int r = acquire(l, 0, false);
  if (r < 0) {
    if (r == -2) {
      // A `with` whose entry raises never runs its exit, so it must not keep the lock. Nobody has looked after what the
      // lock guards yet: the next one is told too, until somebody uses acquire().
      PyObject *type, *error, *trace;
      PyErr_Fetch(&type, &error, &trace);
      l->mutex->died.store(1);
      release(l);
      PyErr_Restore(type, error, trace);
    }
    return nullptr;
  }
  return Py_NewRef(self);
}

PyObject* py_exit(PyObject* self, PyObject* const*, Py_ssize_t) {
  if (!release(reinterpret_cast<Lock*>(self))) return nullptr;
  Py_RETURN_FALSE;
}

PyObject* py_locked(PyObject* self, PyObject*) {
  u64 me;
  auto* l = reinterpret_cast<Lock*>(self);
  if (!live(l, &me)) return nullptr;
  return PyBool_FromLong(l->mutex->owner.load() != 0);
}

PyObject* py_reduce(PyObject* self, PyObject*) {
  auto* l = reinterpret_cast<Lock*>(self);
  return Py_BuildValue("O(OOO)", lock_function, l->ref, l->name, l->reentrant ? Py_True : Py_False);
}

PyObject* py_repr(PyObject* self) {
  auto* l = reinterpret_cast<Lock*>(self);
  const char* kind = l->reentrant ? "reentrant lock" : "lock";
  u64 owner = S.attached && reinterpret_cast<Ref*>(l->ref)->epoch == S.epoch ? l->mutex->owner.load() : 0;
  if (!owner) return PyUnicode_FromFormat("<shoal %s %R, free>", kind, l->name);
  return PyUnicode_FromFormat("<shoal %s %R, held by process %d>", kind, l->name, int(C.slots[(owner >> 32) - 1].pid));
}

void dealloc(PyObject* self) {
  auto* l = reinterpret_cast<Lock*>(self);
  Py_XDECREF(l->ref);
  Py_XDECREF(l->name);
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

// _lock(ref, name, reentrant): the lock of a mutable object or of a lock object
PyObject* make(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (n != 3) return PyErr_SetString(PyExc_TypeError, "_lock takes 3 arguments"), nullptr;
  Handle h;
  if (!live_ref(args[0], &h)) return nullptr;
  const Entry& e = C.entry(h);
  if (e.kind != KIND_MUTABLE && e.kind != KIND_LOCK) {
    set_error(Error(Error::INVALID, "immutable"));
    return nullptr;
  }
  Lock* l = PyObject_New(Lock, LockType);
  if (!l) return nullptr;
  l->ref = Py_NewRef(args[0]);
  l->name = Py_NewRef(args[1]);
  l->mutex = C.mutex(h);
  l->reentrant = args[2] == Py_True;
  return reinterpret_cast<PyObject*>(l);
}

// _new_lock() -> ref of a lock object
PyObject* new_lock(PyObject*, PyObject*) {
  if (!usable()) return nullptr;
  Handle h = guarded([&] {
    Handle h = C.create(KIND_LOCK);
    try {
      C.begin_payload(h, FORMAT_PICKLE, 0, 0, 0, nullptr);
    } catch (...) {
      C.release(h);
      throw;
    }
    C.publish(h, false);
    return h;
  }, Handle(0));
  return h ? new_ref(h) : nullptr;
}

PyMethodDef methods[] = {
    {"acquire", (PyCFunction)(void*)py_acquire, METH_VARARGS | METH_KEYWORDS,
     "acquire(blocking=True, timeout=None) -> bool\n\nTakes the lock; False if it could not be had in time (timeout in seconds, None or -1: no limit).\n"
     "Raises LockHolderDied if the last holder died holding it: the lock is yours then, what it guards may be half changed."},
    {"release", py_release, METH_NOARGS, "release()\n\nGives the lock back. RuntimeError if this thread does not hold it."},
    {"locked", py_locked, METH_NOARGS, "locked() -> bool\n\nWhether anybody holds it at this moment."},
    {"__enter__", py_enter, METH_NOARGS, nullptr},
    {"__exit__", (PyCFunction)(void*)py_exit, METH_FASTCALL, nullptr},
    {"__reduce__", py_reduce, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyMemberDef members[] = {
    {"name", T_OBJECT, offsetof(Lock, name), READONLY, "what the lock was asked for by, or None"},
    {nullptr, 0, 0, 0, nullptr},
};
PyType_Slot slots[] = {
    {Py_tp_dealloc, (void*)dealloc}, {Py_tp_repr, (void*)py_repr}, {Py_tp_methods, methods}, {Py_tp_members, members},
    {Py_tp_doc, (void*)"A fair lock that every participant of the session can hold; made by shoal.lock().\n\n"
                       "Free, it is taken and released without a system call. It can be passed to tasks and actors."},
    {0, nullptr},
};
PyType_Spec spec = {"shoal.Lock", sizeof(Lock), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};

PyMethodDef functions[] = {
    {"_lock", (PyCFunction)(void*)make, METH_FASTCALL, nullptr},
    {"_new_lock", new_lock, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool ready_sync(PyObject* module) {
  LockType = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  if (!LockType || PyModule_AddFunctions(module, functions) < 0) return false;
  lock_function = PyObject_GetAttrString(module, "_lock");
  return lock_function && PyModule_AddObjectRef(module, "Lock", (PyObject*)LockType) == 0;
}

}  // namespace shoal::py
