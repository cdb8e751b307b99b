// Lock: the Python face of a Mutex in the arena.
#include "bindings.h"

namespace shoal::py {

namespace {

struct Lock {
  PyObject_HEAD
  PyObject* ref;  // keeps the mutex's object alive
  PyObject* name;
  Mutex* mutex;
  Handle handle;
  bool reentrant, shared, rollback;
};
PyTypeObject* LockType;
PyObject* lock_function;
thread_local u32 thread_token = 0;
u32 next_token = 0, next_coroutine = 0;

Lock* as_lock(PyObject* self) { return reinterpret_cast<Lock*>(self); }

bool live(Lock* l, u64* me) {
  Handle h;
  if (!live_ref(l->ref, &h)) return false;
  *me = thread_id();
  return true;
}

int pid_of(u64 owner) { return int(C.slots[(owner >> 32) - 1].pid); }

void set_died(Lock* l, u8 died, bool held) {
  Mutex* m = l->mutex;
  char label[sizeof m->died_label + 1] = {};
  std::memcpy(label, m->died_label, sizeof m->died_label);
  PyObject* e = PyObject_CallFunction(S.lock_died, "isdOii", int(m->died_pid), label, double(now_ns() - m->died_ns) / 1e9, l->name, int(died),
                                      int(held));
  if (e) PyErr_SetObject((PyObject*)Py_TYPE(e), e);
  Py_XDECREF(e);
}

void give_back(Lock* l, u64 owner) {
  guarded([&] {
    if (l->shared) C.shared_release(l->mutex, u32(owner));
    else C.mutex_release(l->mutex, owner);
    return 0;
  }, 0);
}

// A copy of the object to go back to. False: an exception is set (and the session may have ended meanwhile).
bool make_copy(Lock* l) {
  u32 epoch = S.epoch;
  return guarded([&] { return C.before_make(l->handle, l->mutex), true; }, false) && same_session(epoch);
}

// What told() does if there is anything to do.
int told_more(Lock* l, u64 owner, bool keep) {
  Mutex* m = l->mutex;
  u8 died = m->died.load(std::memory_order_acquire);
  if (died && C.h->stopping.load()) {  // of the session's end: there is nothing to look after
    give_back(l, owner);
    set_error(Error(Error::ENDED, "the session has ended: shoal.shutdown() was called"));
    return -1;
  }
  if (died && (!keep || l->shared || m->on_death.load() == DEATH_POISON)) {
    give_back(l, owner);
    set_died(l, died, false);
    return -1;
  }
  if (l->rollback && !make_copy(l)) {
    if (S.attached && C.mutex(l->handle) == m && m->owner.load() == owner) give_back(l, owner);
    return -1;
  }
  if (!died) return 1;
  m->died.store(0);
  set_died(l, died, true);
  return -2;
}

// The lock is ours; was its last holder able to let go of it? 1: yes; -2: no, LockHolderDied is set and the lock still
// ours; -1: no, and it was given back: in shared mode nothing can be put right, a poisoned lock is nobody's, and a `with`
// whose entry raises never runs its exit. Then nobody has looked after what it guards yet: the next one is told too.
int told(Lock* l, u64 owner, bool keep) {
  Mutex* m = l->mutex;
  if (!l->shared) m->taken.store(m->taken.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  if (!m->died.load(std::memory_order_acquire) && !l->rollback) return 1;
  return told_more(l, owner, keep);
}

// The locks that the task of the main thread took, of a worker: those that are left at its end were forgotten.
struct TaskLock {
  Handle handle;
  bool shared;
  u32 depth;  // of the task, among those that run inside one another
};
std::vector<TaskLock> task_locks;
u32 task_token = 0;

void note_taken(Lock* l, u64 me) {
  if (u32(me) == task_token) task_locks.push_back({l->handle, l->shared, S.help_depth});
}
void note_released(Lock* l, u64 me) {
  if (u32(me) != task_token) return;
  for (size_t i = task_locks.size(); i-- > 0;)
    if (task_locks[i].handle == l->handle && task_locks[i].shared == l->shared) {
      task_locks.erase(task_locks.begin() + long(i));
      return;
    }
}

// The newest copy, if it is one of this acquisition's, is not needed any more; `undo`: the object becomes what it was.
bool end_copy(Mutex* m, bool undo) {
  if (!m->before || C.at<Before>(m->before)->depth != m->depth) return true;
  u32 epoch = S.epoch;
  return guarded([&] {
    if (undo) C.before_undo(m);
    if (!same_session(epoch)) return false;
    C.before_drop(m);
    return true;
  }, false);
}

// Does this thread hold it in a way that makes waiting for it hopeless?
bool holds(Lock* l, u64 me) {
  u64 word = l->mutex->owner.load(std::memory_order_relaxed);
  if (l->shared || word != LOCK_SHARED) return word == me;
  return C.find_hold(l->mutex, u32(me)) != nullptr;
}

bool sleep_until(u64 deadline) {  // false: exception
  for (;;) {
    Waited w = nap(C.me->ring.load(std::memory_order_seq_cst), deadline);
    if (w != Waited::DONE) return w == Waited::TIMEOUT;
  }
}

// 1: ours, by the name of `me`; 0: not within the time; -1: exception
int take_slowly(Lock* l, u64 me, u64 deadline, bool now, bool willing) {
  Mutex* m = l->mutex;
  if (!now && !deadline && holds(l, me)) {
    PyErr_SetString(PyExc_RuntimeError,
                    "this thread already holds the lock and would wait for itself for ever; release it first, or make it "
                    "with shoal.lock(..., reentrant=True)");
    return -1;
  }
  if (now) return 0;
  if (m->owner.load(std::memory_order_relaxed) == me) return sleep_until(deadline) ? 0 : -1;  // nobody else can release it
  WaitNode* node = nullptr;
  u32 epoch = S.epoch;
  int result = -1;
  try {
    node = C.mutex_enqueue(m, l->shared ? WAIT_SHARED : WAIT_EXCLUSIVE, me);
    auto check = [&] { return C.mutex_check(l->handle, m, node); };
    Watch watch(l->shared ? WAIT_SHARED : WAIT_EXCLUSIVE, l->handle, deadline, willing);
    result = l->shared ? wait_until(check, [node] { return node->woken.load(std::memory_order_relaxed) != 0; }, deadline, watch)
                       : wait_until(check, [m, me] {
                           u64 owner = m->owner.load(std::memory_order_relaxed);
                           return owner == 0 || owner == me;
                         }, deadline, watch);
  } catch (const Error& e) {
    set_error(e);
  }
  if (result != 1 && node && S.attached && epoch == S.epoch) {  // else the session is gone, and with it the queue
    bool ours = guarded([&] { return C.mutex_leave(m, node); }, false);
    if (ours && result == 0) result = 1;
    else if (ours) give_back(l, me);
  }
  return result;
}

int take(Lock* l, u64 me, u64 deadline, bool now, bool willing = true) {
  if (!l->shared) {
    if (C.mutex_try(l->mutex, me)) return 1;
  } else {
    int r = guarded([&] { return int(C.shared_try(l->handle, l->mutex, u32(me))); }, -1);
    if (r) return r;
  }
  return take_slowly(l, me, deadline, now, willing);
}

// 1: ours; 0: not within the time; -1: exception; -2: LockHolderDied, and it is ours all the same
int acquire(Lock* l, u64 deadline, bool now, bool keep, bool willing = true) {
  u64 me;
  if (!live(l, &me)) return -1;
  Mutex* m = l->mutex;
  if (l->reentrant && !l->shared && m->owner.load(std::memory_order_relaxed) == me) {
    m->depth++;
    if (!l->rollback || make_copy(l)) return 1;
    if (live(l, &me) && m->owner.load() == me) m->depth--;
    return -1;
  }
  int r = take(l, me, deadline, now, willing);
  if (r == 1) {
    r = told(l, me, keep);
    if (r != -1) note_taken(l, me);
  }
  return r;
}

// `undo`: what happened since the lock was taken did not happen, if the lock has a copy
bool release(Lock* l, bool undo = false) {
  u64 me;
  if (!live(l, &me)) return false;
  Mutex* m = l->mutex;
  u64 owner = m->owner.load(std::memory_order_relaxed);
  if (l->shared) {
    if (guarded([&] { return C.shared_release(m, u32(me)) || C.shared_release(m, ASYNC_THREAD); }, false)) return note_released(l, me), true;
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "cannot release a shared lock that this thread does not hold");
    return false;
  }
  bool coroutine = owner != me && owner >> 32 == me >> 32 && owner & ASYNC_THREAD;
  if (owner != me && !coroutine) {
    if (owner == LOCK_SHARED)
      PyErr_SetString(PyExc_RuntimeError, "cannot release a lock that is held in shared mode; use the object that shared() returned");
    else if (owner)
      PyErr_Format(PyExc_RuntimeError, "cannot release a lock that this thread does not hold: it is held by process %d", pid_of(owner));
    else PyErr_SetString(PyExc_RuntimeError, "cannot release a lock that is not held");
    return false;
  }
  if (m->before && !end_copy(m, undo)) return false;
  if (m->depth) {
    m->depth--;
    return true;
  }
  if (!coroutine) note_released(l, me);
  return guarded([&] { return C.mutex_release(m, owner), true; }, false);
}

PyObject* py_acquire(PyObject* self, PyObject* const* args, Py_ssize_t n, PyObject* kwnames) {
  u64 deadline = 0;
  bool now = false;
  if (!parse_blocking(args, n, kwnames, &deadline, &now)) return nullptr;
  int r = acquire(as_lock(self), deadline, now, true);
  return r < 0 ? nullptr : PyBool_FromLong(r);
}

PyObject* py_release(PyObject* self, PyObject*) {
  if (!release(as_lock(self))) return nullptr;
  Py_RETURN_NONE;
}

PyObject* py_enter(PyObject* self, PyObject*) { return acquire(as_lock(self), 0, false, false) < 0 ? nullptr : Py_NewRef(self); }

PyObject* py_exit(PyObject* self, PyObject* const* args, Py_ssize_t n) {
  if (!release(as_lock(self), n > 0 && args[0] != Py_None && as_lock(self)->rollback)) return nullptr;
  Py_RETURN_FALSE;
}

PyObject* py_locked(PyObject* self, PyObject*) {
  u64 me;
  if (!live(as_lock(self), &me)) return nullptr;
  return PyBool_FromLong(as_lock(self)->mutex->owner.load() != 0);
}

PyObject* new_face(PyObject* ref, PyObject* name, Handle h, bool reentrant, bool shared, bool rollback = false) {
  Lock* l = PyObject_New(Lock, LockType);
  if (!l) return nullptr;
  l->ref = Py_NewRef(ref);
  l->name = Py_NewRef(name);
  l->mutex = C.mutex(h);
  l->handle = h;
  l->reentrant = reentrant;
  l->shared = shared;
  l->rollback = rollback;
  return reinterpret_cast<PyObject*>(l);
}

PyObject* py_shared(PyObject* self, PyObject*) {
  auto* l = as_lock(self);
  Handle h;
  if (!live_ref(l->ref, &h)) return nullptr;
  return new_face(l->ref, l->name, h, l->reentrant, true);
}

// recover(repair=None): clears the mark that a dead holder left, with the lock held and after repair() has returned.
PyObject* py_recover(PyObject* self, PyObject* const* args, Py_ssize_t n) {
  auto* l = as_lock(self);
  u64 me;
  if (n > 1) return PyErr_SetString(PyExc_TypeError, "recover() takes at most one argument"), nullptr;
  if (l->shared) return PyErr_SetString(PyExc_RuntimeError, "recover() is for the lock itself, not for its shared mode"), nullptr;
  if (!live(l, &me) || take(l, me, 0, false) < 0) return nullptr;
  bool was = l->mutex->died.load() != 0, ok = true;
  if (was && n && args[0] != Py_None) {
    PyObject* r = PyObject_CallNoArgs(args[0]);
    ok = r != nullptr;
    Py_XDECREF(r);
  }
  u64 again;
  PyObject *type, *error, *trace;
  PyErr_Fetch(&type, &error, &trace);
  if (live(l, &again) && l->mutex->owner.load() == me) {
    if (ok) l->mutex->died.store(0);
    give_back(l, me);
  }
  if (type) PyErr_Restore(type, error, trace);
  return ok && !PyErr_Occurred() ? PyBool_FromLong(was) : nullptr;
}

PyObject* py_statistics(PyObject* self, PyObject*) {
  u64 me;
  auto* l = as_lock(self);
  if (!live(l, &me)) return nullptr;
  Mutex* m = l->mutex;
  PyObject* readers = PyDict_New();
  if (!readers) return nullptr;
  for (u32 i = 0, top = C.h->slots_top.load(); i < top; i++) {
    u64 n = 0;
    for (auto& hold : C.slots[i].holds)
      if (hold.queue == C.offset(m)) n += hold.count;
    if (!n) continue;
    PyObject *pid = PyLong_FromLong(C.slots[i].pid), *count = PyLong_FromUnsignedLongLong(n);
    if (pid && count) PyDict_SetItem(readers, pid, count);
    Py_XDECREF(pid);
    Py_XDECREF(count);
  }
  u64 owner = m->owner.load();
  PyObject* holder = owner && owner != LOCK_SHARED ? PyLong_FromLong(pid_of(owner)) : Py_NewRef(Py_None);
  return Py_BuildValue("{sNsNsIsKsO}", "holder", holder, "readers", readers, "waiters", m->q.waiters.load(), "acquisitions",
                       (unsigned long long)m->taken.load(), "holder_died", m->died.load() ? Py_True : Py_False);
}

// -- for coroutines (sync/_async.py). The lock is taken by a name of its own, so that two coroutines of one thread
// exclude each other. begin(keep) -> -1: it is ours, else the wait's number; check(number, keep); leave(number)

WaitNode* node_of(PyObject* number) {
  unsigned long i = PyLong_AsUnsignedLong(number);
  if (i < WAIT_NODES) return &C.me->waits[i];
  if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no such wait");
  return nullptr;
}

PyObject* py_async_begin(PyObject* self, PyObject* keep) {
  auto* l = as_lock(self);
  u64 me;
  if (!live(l, &me)) return nullptr;
  me = l->shared ? u64(C.slot + 1) << 32 | ASYNC_THREAD : coroutine_id();
  int r = take(l, me, 0, true);
  if (r == 1) r = told(l, me, keep == Py_True);
  if (r < 0) return nullptr;
  if (r == 1) return PyLong_FromLong(-1);
  WaitNode* node = guarded([&] { return C.mutex_enqueue(l->mutex, l->shared ? WAIT_SHARED : WAIT_EXCLUSIVE, me); }, nullptr);
  return node ? PyLong_FromLong(node - C.me->waits) : nullptr;
}

PyObject* py_async_check(PyObject* self, PyObject* const* args, Py_ssize_t n) {
  auto* l = as_lock(self);
  u64 me;
  if (n != 2) return PyErr_SetString(PyExc_TypeError, "_async_check takes 2 arguments"), nullptr;
  if (!live(l, &me)) return nullptr;
  WaitNode* node = node_of(args[0]);
  if (!node) return nullptr;
  me = node->owner;
  int r = guarded([&] { return int(C.mutex_check(l->handle, l->mutex, node)); }, -1);
  if (r == 1) r = told(l, me, args[1] == Py_True);
  return r < 0 ? nullptr : PyBool_FromLong(r);
}

PyObject* py_async_leave(PyObject* self, PyObject* number) {
  auto* l = as_lock(self);
  u64 me;
  if (!live(l, &me)) return nullptr;
  WaitNode* node = node_of(number);
  if (!node) return nullptr;
  me = node->owner;
  if (guarded([&] { return C.mutex_leave(l->mutex, node); }, false)) give_back(l, me);
  if (PyErr_Occurred()) return nullptr;
  Py_RETURN_NONE;
}

// The end of an `async with` that an exception left.
PyObject* py_release_undone(PyObject* self, PyObject*) {
  if (!release(as_lock(self), true)) return nullptr;
  Py_RETURN_NONE;
}

// Gives back a lock whose holder's death nobody will hear of from us.
PyObject* py_renounce(PyObject* self, PyObject*) {
  as_lock(self)->mutex->died.store(DIED);
  return py_release(self, nullptr);
}

// -- for Condition: lets go of the lock however often it was taken, and takes it again as often

PyObject* py_release_save(PyObject* self, PyObject*) {
  auto* l = as_lock(self);
  u64 me;
  if (!live(l, &me)) return nullptr;
  if (l->shared || l->mutex->owner.load() != me) return PyErr_SetString(PyExc_RuntimeError, "the condition's lock is not held by this thread"), nullptr;
  u32 depth = l->mutex->depth;
  l->mutex->depth = 0;
  return release(l) ? PyLong_FromUnsignedLongLong(depth) : nullptr;
}

PyObject* py_acquire_restore(PyObject* self, PyObject* depth) {
  auto* l = as_lock(self);
  u32 d = u32(PyLong_AsUnsignedLong(depth));
  if (PyErr_Occurred()) return nullptr;
  int r = acquire(l, 0, false, true, false);
  if (r == 1 || r == -2) l->mutex->depth = d;
  if (r < 0) return nullptr;
  Py_RETURN_NONE;
}

PyObject* py_is_owned(PyObject* self, PyObject*) {
  u64 me;
  auto* l = as_lock(self);
  if (!live(l, &me)) return nullptr;
  return PyBool_FromLong(l->mutex->owner.load() == me && !l->shared);
}

PyObject* py_reduce(PyObject* self, PyObject*) {
  auto* l = as_lock(self);
  auto flag = [](bool on) { return on ? Py_True : Py_False; };
  return Py_BuildValue("O(OOOOiO)", lock_function, l->ref, l->name, flag(l->reentrant), flag(l->shared), 0, flag(l->rollback));
}

PyObject* py_repr(PyObject* self) {
  auto* l = as_lock(self);
  const char* kind = l->shared ? "shared mode of lock" : l->reentrant ? "reentrant lock" : "lock";
  u64 owner = S.attached && reinterpret_cast<Ref*>(l->ref)->epoch == S.epoch ? l->mutex->owner.load() : 0;
  if (!owner) return PyUnicode_FromFormat("<shoal %s %R, free>", kind, l->name);
  if (owner == LOCK_SHARED) return PyUnicode_FromFormat("<shoal %s %R, held by %d readers>", kind, l->name, int(l->mutex->readers));
  return PyUnicode_FromFormat("<shoal %s %R, held by process %d>", kind, l->name, pid_of(owner));
}

void dealloc(PyObject* self) {
  auto* l = reinterpret_cast<Lock*>(self);
  Py_XDECREF(l->ref);
  Py_XDECREF(l->name);
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

// _lock(ref, name, reentrant, shared=False, on_death=0, rollback=False): the lock of a mutable object, a lock or a condition
PyObject* make(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (n < 3 || n > 6) return PyErr_SetString(PyExc_TypeError, "_lock takes 3 to 6 arguments"), nullptr;
  Handle h;
  if (!live_ref(args[0], &h)) return nullptr;
  const Entry& e = C.entry(h);
  if (!has_mutex(e.kind) || e.kind == KIND_FROZEN) {
    set_error(Error(Error::INVALID, "immutable"));
    return nullptr;
  }
  long want = n > 4 ? PyLong_AsLong(args[4]) : 0;
  if (PyErr_Occurred()) return nullptr;
  u8 is = DEATH_DEFAULT;
  if (want && !C.mutex(h)->on_death.compare_exchange_strong(is, u8(want)) && is != u8(want)) {
    static const char* choices[] = {"", "raise", "ignore", "poison"};
    return PyErr_Format(PyExc_ValueError, "this lock was made with on_death='%s'; it cannot be '%s' as well", choices[is & 3], choices[want & 3]);
  }
  bool rollback = n > 5 && args[5] == Py_True;
  if (rollback && e.kind != KIND_MUTABLE)
    return PyErr_SetString(PyExc_ValueError, "rollback=True needs the reference of a mutable object: only its own lock knows what to restore"), nullptr;
  if (rollback && e.flags & FLAG_OWNED)
    return PyErr_SetString(PyExc_ValueError, "rollback=True is for objects without an owner: only the owner of this one may change it, and goes "
                                             "back to what was committed last, with shoal.owned(ref)"), nullptr;
  return new_face(args[0], args[1], h, args[2] == Py_True, n > 3 && args[3] == Py_True, rollback);
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
    {"acquire", (PyCFunction)(void*)py_acquire, METH_FASTCALL | METH_KEYWORDS,
     "acquire($self, blocking=True, timeout=None)\n--\n\nTakes the lock; False if it could not be had in time (timeout in seconds, None or -1: no limit).\n"
     "Raises LockHolderDied if the last holder died holding it: the lock is yours then, what it guards may be half changed.\n"
     "In shared mode, and if the lock was made with on_death=\"poison\", it is not yours then."},
    {"release", py_release, METH_NOARGS, "release($self)\n--\n\nGives the lock back. RuntimeError if this thread does not hold it."},
    {"locked", py_locked, METH_NOARGS, "locked($self)\n--\n\nWhether anybody holds it at this moment, in either mode."},
    {"shared", py_shared, METH_NOARGS,
     "shared($self)\n--\n\nThe same lock in shared mode: many can hold it so at a time, while nobody holds it exclusively. A thread that\n"
     "holds it in shared mode may take it so again; it cannot go over to exclusive mode without releasing it first.\n\n"
     ">>> import shoal\n>>> lock = shoal.lock()\n>>> with lock.shared():\n...     with lock.shared():\n...         lock.acquire(blocking=False)\nFalse"},
    {"recover", (PyCFunction)(void*)py_recover, METH_FASTCALL,
     "recover($self, repair=None, /)\n--\n\nDeclares that what the lock guards is whole again after a holder's death; True if a holder had died.\n"
     "`repair()` is called first, with the lock held; if it raises, nothing has changed."},
    {"statistics", py_statistics, METH_NOARGS,
     "statistics($self)\n--\n\nholder (pid or None), readers (pid: times), waiters, acquisitions, holder_died, as of this moment."},
    {"_async_begin", py_async_begin, METH_O, nullptr},
    {"_async_check", (PyCFunction)(void*)py_async_check, METH_FASTCALL, nullptr},
    {"_async_leave", py_async_leave, METH_O, nullptr},
    {"_release_undone", py_release_undone, METH_NOARGS, nullptr},
    {"_renounce", py_renounce, METH_NOARGS, nullptr},
    {"_release_save", py_release_save, METH_NOARGS, nullptr},
    {"_acquire_restore", py_acquire_restore, METH_O, nullptr},
    {"_is_owned", py_is_owned, METH_NOARGS, nullptr},
    {"__enter__", py_enter, METH_NOARGS, nullptr},
    {"__exit__", (PyCFunction)(void*)py_exit, METH_FASTCALL, nullptr},
    {"__reduce__", py_reduce, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyMemberDef members[] = {
    {"name", T_OBJECT, offsetof(Lock, name), READONLY, "what the lock was asked for by, or None"},
    {"_ref", T_OBJECT, offsetof(Lock, ref), READONLY, nullptr},
    {"_rolls_back", T_BOOL, offsetof(Lock, rollback), READONLY, nullptr},
    {"_is_shared", T_BOOL, offsetof(Lock, shared), READONLY, nullptr},
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

void task_thread() {
  if (!task_token) task_token = u32(thread_id());
}

void end_task_locks() {
  while (!task_locks.empty() && task_locks.back().depth >= S.help_depth) {
    TaskLock x = task_locks.back();
    task_locks.pop_back();
    guarded([&] {
      if (!C.hold_ready(x.handle)) return false;  // nobody refers to it any more
      Mutex* m = C.mutex(x.handle);
      u64 me = thread_id();
      if (x.shared) {
        C.shared_release(m, u32(me));
      } else if (m->owner.load() == me) {
        C.mutex_note(m, DIED | DIED_TASK, i32(C.me->pid), C.me->label);
        C.mutex_release(m, me);
      }
      C.release(x.handle);
      return true;
    }, false);
  }
}

u64 thread_id() {
  if (!thread_token) thread_token = ++next_token;  // under the GIL
  return u64(C.slot + 1) << 32 | thread_token;
}

u64 coroutine_id() {
  next_coroutine = (next_coroutine + 1) & (ASYNC_THREAD - 1);
  return u64(C.slot + 1) << 32 | ASYNC_THREAD | next_coroutine;
}

// acquire(blocking=True, timeout=None)
bool parse_blocking(PyObject* const* args, Py_ssize_t n, PyObject* kwnames, u64* deadline, bool* now) {
  PyObject *blocking = n > 0 ? args[0] : Py_True, *timeout = n > 1 ? args[1] : Py_None;
  Py_ssize_t named = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
  bool ok = n <= 2;
  for (Py_ssize_t i = 0; ok && i < named; i++) {
    PyObject* key = PyTuple_GET_ITEM(kwnames, i);
    if (n < 1 && PyUnicode_CompareWithASCIIString(key, "blocking") == 0) blocking = args[n + i];
    else if (n < 2 && PyUnicode_CompareWithASCIIString(key, "timeout") == 0) timeout = args[n + i];
    else ok = false;
  }
  if (!ok) return PyErr_SetString(PyExc_TypeError, "acquire() takes blocking=True and timeout=None"), false;
  int block = PyObject_IsTrue(blocking);
  if (block < 0) return false;
  *now = !block;
  if (timeout == Py_None) return true;
  double s = PyFloat_AsDouble(timeout);
  if (s == -1 && PyErr_Occurred()) return false;
  if (s == -1) return true;  // threading.Lock's "for ever"
  if (!block) return PyErr_SetString(PyExc_ValueError, "can't specify a timeout for a non-blocking call"), false;
  bool zero = false;
  if (!parse_timeout(timeout, deadline, &zero)) return false;
  *now = zero;
  return true;
}

bool ready_sync(PyObject* module) {
  LockType = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  if (!LockType || PyModule_AddFunctions(module, functions) < 0) return false;
  lock_function = PyObject_GetAttrString(module, "_lock");
  return lock_function && PyModule_AddObjectRef(module, "Lock", (PyObject*)LockType) == 0;
}

}  // namespace shoal::py
