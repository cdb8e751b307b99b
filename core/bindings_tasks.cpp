// Submission, and the worker's side of a call.
//
// Arguments of a call are encoded one by one: small plain values as they are, references as the index of a dependency,
// anything else as a pickle, and pickles that are large or have buffers as an object of their own.
#include <algorithm>

#include "bindings.h"

namespace shoal::py {

constexpr u64 INLINE_ARGUMENT = 64 << 10;  // larger pickled arguments become objects

enum ArgTag : u8 { ARG_NONE, ARG_FALSE, ARG_TRUE, ARG_INT, ARG_FLOAT, ARG_STR, ARG_BYTES, ARG_PICKLE, ARG_DEP };

namespace {

struct Encoder {
  std::string bytes;
  std::vector<Handle> deps;      // waited for
  std::vector<PyObject*> owned;  // objects made for large arguments: kept until the task refers to them
  Collector nested;              // references inside pickles

  ~Encoder() {
    for (PyObject* o : owned) Py_DECREF(o);
  }
  void tag(u8 t) { bytes.push_back(char(t)); }
  template <class T>
  void raw(T v) {
    bytes.append(reinterpret_cast<const char*>(&v), sizeof v);
  }
  void blob(u8 t, const char* data, u64 size) {
    tag(t);
    raw(u32(size));
    bytes.append(data, size);
  }
  void dep(Handle h) {
    tag(ARG_DEP);
    raw(u32(deps.size()));
    deps.push_back(h);
  }

  bool value(PyObject* v) {
    if (v == Py_None) return tag(ARG_NONE), true;
    if (v == Py_True) return tag(ARG_TRUE), true;
    if (v == Py_False) return tag(ARG_FALSE), true;
    if (PyLong_CheckExact(v)) {
      int overflow;
      long long x = PyLong_AsLongLongAndOverflow(v, &overflow);
      if (!overflow) return tag(ARG_INT), raw(i64(x)), true;
    } else if (PyFloat_CheckExact(v)) {
      return tag(ARG_FLOAT), raw(PyFloat_AS_DOUBLE(v)), true;
    } else if (PyUnicode_CheckExact(v)) {
      Py_ssize_t size;
      const char* data = PyUnicode_AsUTF8AndSize(v, &size);
      if (data && u64(size) <= INLINE_ARGUMENT) return blob(ARG_STR, data, u64(size)), true;
      PyErr_Clear();
    } else if (PyBytes_CheckExact(v) && u64(PyBytes_GET_SIZE(v)) <= INLINE_ARGUMENT) {
      return blob(ARG_BYTES, PyBytes_AS_STRING(v), u64(PyBytes_GET_SIZE(v))), true;
    } else if (is_ref(v)) {
      Handle h;
      if (!live_ref(v, &h)) return false;
      return dep(h), true;
    }
    if (PyBytes_CheckExact(v) || PyUnicode_CheckExact(v)) return object(v);
    size_t before = nested.refs.size();
    PyObject* pair = PyObject_CallOneArg(S.serialize, v);
    if (!pair) return false;
    PyObject *meta = PyTuple_GET_ITEM(pair, 0), *buffers = PyTuple_GET_ITEM(pair, 1);
    bool ok = true;
    if (PyList_GET_SIZE(buffers) == 0 && u64(PyBytes_GET_SIZE(meta)) <= INLINE_ARGUMENT) {
      blob(ARG_PICKLE, PyBytes_AS_STRING(meta), u64(PyBytes_GET_SIZE(meta)));
    } else {
      Collector mine;  // the references belong to the object, not to the task
      mine.refs.assign(nested.refs.begin() + long(before), nested.refs.end());
      nested.refs.resize(before);
      Handle h = make_object(meta, buffers, mine);
      ok = h != 0 && keep(h);
    }
    Py_DECREF(pair);
    return ok;
  }

  bool object(PyObject* v) {
    Handle h = guarded([&] { return C.create(KIND_VALUE); }, Handle(0));
    if (!h) return false;
    if (!store(h, v)) {
      C.release(h);
      return false;
    }
    C.publish(h, false);
    return keep(h);
  }

  bool keep(Handle h) {
    PyObject* r = new_ref(h);
    if (!r) return false;
    owned.push_back(r);
    dep(h);
    return true;
  }

  bool call(PyObject* args, PyObject* kwargs) {
    Py_ssize_t n = PyTuple_GET_SIZE(args), k = kwargs == Py_None ? 0 : PyDict_GET_SIZE(kwargs);
    if (n == 0 && k == 0) return true;
    raw(u32(n));
    raw(u32(k));
    for (Py_ssize_t i = 0; i < n; i++)
      if (!value(PyTuple_GET_ITEM(args, i))) return false;
    if (k) {
      Py_ssize_t at = 0;
      PyObject *name, *v;
      while (PyDict_Next(kwargs, &at, &name, &v))
        if (!value(name) || !value(v)) return false;
    }
    return true;
  }
};

struct Decoder {
  Task* t;
  const char* at;
  const char* end;
  template <class T>
  T raw() {
    T v;
    std::memcpy(&v, at, sizeof v);
    at += sizeof v;
    return v;
  }
  PyObject* value() {
    switch (raw<u8>()) {
      case ARG_NONE: Py_RETURN_NONE;
      case ARG_FALSE: Py_RETURN_FALSE;
      case ARG_TRUE: Py_RETURN_TRUE;
      case ARG_INT: return PyLong_FromLongLong(raw<i64>());
      case ARG_FLOAT: return PyFloat_FromDouble(raw<double>());
      case ARG_STR: {
        u32 n = raw<u32>();
        return PyUnicode_DecodeUTF8((at += n) - n, n, nullptr);
      }
      case ARG_BYTES: {
        u32 n = raw<u32>();
        return PyBytes_FromStringAndSize((at += n) - n, n);
      }
      case ARG_PICKLE: {
        u32 n = raw<u32>();
        PyObject* view = PyMemoryView_FromMemory(const_cast<char*>(at), n, PyBUF_READ);
        at += n;
        if (!view) return nullptr;
        PyObject* v = PyObject_CallOneArg(S.deserialize, view);
        Py_DECREF(view);
        return v;
      }
      default: return load_or_raise(C.deps(t)[raw<u32>()].object);
    }
  }
};

bool ints(PyObject* const* args, Py_ssize_t n, i64* out) {
  for (Py_ssize_t i = 0; i < n; i++) {
    out[i] = PyLong_AsLongLong(args[i]);
    if (out[i] == -1 && PyErr_Occurred()) return false;
  }
  return true;
}

// ------------------------------------------------------------------------------------------ submission

// The id of the task that submits in this thread; 0: none does. In an event loop only Python knows.
u64 submitter() {
  u32 role = C.me->role.load(std::memory_order_relaxed);
  if (role != ROLE_WORKER && role != ROLE_ACTOR) return 0;
  Offset o = thread_task_now();
  if (!o && S.submitter) {
    PyObject* id = PyObject_CallNoArgs(S.submitter);
    u64 n = id ? PyLong_AsUnsignedLongLong(id) : 0;
    Py_XDECREF(id);
    return PyErr_Occurred() ? PyErr_Clear(), 0 : n;
  }
  if (!o) o = C.me->running;
  if (!o) return 0;
  Task* t = C.at<Task>(o);
  if (!t->spawned) t->spawned = 1;
  return t->id;
}

// submit((kind, function, shape | timeout_ms << 32, actor, method, nreturns, retries, flags), args, kwargs)
//   -> ref | [refs] | None; the actor is dead -> NotImplemented (nothing was submitted)
PyObject* submit(PyObject*, PyObject* const* a, Py_ssize_t n) {
  i64 v[8];
  if (!arity("submit", n, 3) || !arity("submit's call", PyTuple_GET_SIZE(a[0]), 8) || !ints(&PyTuple_GET_ITEM(a[0], 0), 8, v) || !usable())
    return nullptr;
  Encoder enc;
  if (!enc.call(a[1], a[2])) return nullptr;
  u64 parent = submitter();
  u32 nreturns = u32(v[5]);
  PyObject* out = nullptr;
  std::vector<PyObject*> refs;
  bool dead = false;
  bool ok = guarded([&] {
    u32 ndeps = u32(enc.deps.size() + enc.nested.refs.size());
    Task* t = C.new_task(nreturns, ndeps, enc.bytes.size(), TaskKind(v[0]));
    try {
      t->function = Handle(v[1]);
      t->shape = u32(v[2]);
      t->timeout_ms = u32(u64(v[2]) >> 32);
      t->parent = parent;
      t->actor = Handle(v[3]);
      t->method = u32(v[4]);
      t->retries = i32(v[6]);
      t->flags = u16(v[7]);
      std::memcpy(C.args(t), enc.bytes.data(), enc.bytes.size());
      for (u32 i = 0; i < nreturns; i++) {
        PyObject* r = new_ref(C.add_return(t));
        if (!r) throw std::bad_alloc();
        refs.push_back(r);
      }
      for (Handle h : enc.deps) C.add_dep(t, h, true);
      for (PyObject* r : enc.nested.refs) C.add_dep(t, reinterpret_cast<Ref*>(r)->handle, false);
      if (t->kind == TASK_ACTOR_CALL) {
        if (!C.mail(t)) {
          dead = true;
          C.discard_building(*C.me);
        }
      } else {
        C.submit(t);
      }
    } catch (...) {
      C.discard_building(*C.me);
      throw;
    }
    C.h->stats.tasks_submitted.fetch_add(1, std::memory_order_relaxed);
    return true;
  }, false);
  if (ok && dead) {
    out = Py_NewRef(Py_NotImplemented);
  } else if (ok && nreturns == 1) {
    return refs[0];
  } else if (ok && nreturns == 0) {
    out = Py_NewRef(Py_None);
  } else if (ok) {
    out = PyList_New(nreturns);
    for (u32 i = 0; out && i < nreturns; i++) PyList_SET_ITEM(out, i, Py_NewRef(refs[i]));
  }
  for (PyObject* r : refs) Py_DECREF(r);
  return out;
}

}  // namespace

// Stores an exception. In a full arena it stores None, which needs no memory: who waits must be told something.
bool store_error(Handle h, PyObject* error) {
  patient = false;
  bool stored = store(h, error);
  patient = true;
  if (stored) return true;
  if (!PyErr_ExceptionMatches(S.full_error)) return false;
  PyErr_Clear();
  return guarded([&] { return C.reset_payload(h), C.set_inline(h, TAG_NONE, 0), true; }, false);
}

namespace {

// A finished reference to an error, for calls that cannot even be submitted.
PyObject* put_error(PyObject*, PyObject* error) {
  if (!usable()) return nullptr;
  Handle h = guarded([&] { return C.create(KIND_VALUE); }, Handle(0));
  if (!h) return nullptr;
  if (!store_error(h, error)) {
    C.release(h);
    return nullptr;
  }
  C.publish(h, true);
  return new_ref(h);
}

// -------------------------------------------------------------------------------------------- workers

// To finish a record twice would give its memory back twice. (An exception out of nowhere, such as a KeyboardInterrupt of a signal handler
// that the user's code has set, may come just after a call was finished.)
Task* task_arg(PyObject* o) {
  u64 offset = PyLong_AsUnsignedLongLong(o);
  if (PyErr_Occurred() || !usable()) return nullptr;
  if (Task* t = C.at<Task>(offset); C.runs(t)) return t;
  PyErr_SetString(PyExc_RuntimeError, "this call is over");
  return nullptr;
}

bool told() { return C.me->command.load(std::memory_order_relaxed) || C.h->stopping.load(std::memory_order_relaxed); }
bool worker_has_reason(void*) { return C.work_visible() || told(); }

// next_task() -> call, or None: leave
PyObject* next_task(PyObject*, PyObject*) {
  if (!usable()) return nullptr;
  task_thread();
  Task* t = nullptr;
  bool ok = guarded([&] {
    Scheduler& s = C.h->sched;
    u64 bit = 1ull << C.slot % 64;
    u32 word = C.slot / 64;
    for (;;) {
      C.check_usable();
      if (C.h->stopping.load() || C.me->command.load() & CMD_EXIT) return true;
      bool surplus = C.surplus_worker();
      if (!surplus) t = C.take_task();
      if (!t && !surplus) {
        s.spinning[word].fetch_or(bit, std::memory_order_seq_cst);
        bool found;
        {
          NoGil nogil;
          found = C.spin(worker_has_reason, nullptr);
        }
        s.spinning[word].fetch_and(~bit, std::memory_order_seq_cst);
        if (found) {
          t = C.take_task();
          if (C.runnable()) C.wake_worker();
        }
      }
      if (t) {
        return true;
      }
      if (C.me->lease) {
        C.release_lease();
        if (C.runnable()) C.wake_worker();
      }
      u32 seen = C.me->ring.load(std::memory_order_seq_cst);
      s.idle[word].fetch_or(bit, std::memory_order_seq_cst);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      Waited w = Waited::DONE;
      if (surplus) C.tell_crowd();
      if (surplus ? !told() : !worker_has_reason(nullptr)) w = nap(seen, 0, IDLE_GROWTH);
      s.idle[word].fetch_and(~bit, std::memory_order_seq_cst);
      if (w == Waited::FAILED) return false;
    }
  }, false);
  if (!ok) return nullptr;
  if (!t) Py_RETURN_NONE;
  if (t->flags & TASK_TIMED) C.start_clock(t);
  return call_of(t);
}

struct Rung {
  u32 seen;
};
bool rung(void* p) { return C.me->ring.load(std::memory_order_relaxed) != static_cast<Rung*>(p)->seen; }

// next_mail(actor handle, block) -> call; None: no mail now (block false) or the actor shall leave (block true).
// Everything an actor waits for rings it, so the ring is all it looks at between two looks into the mailbox.
PyObject* next_mail(PyObject*, PyObject* const* args, Py_ssize_t n) {
  i64 handle;
  if (!arity("next_mail", n, 2) || !ints(args, 1, &handle) || !usable()) return nullptr;
  bool block = args[1] == Py_True;
  Actor* actor = C.actor(Handle(handle));
  Task* t = nullptr;
  bool ok = guarded([&] {
    for (;;) {
      C.check_usable();
      Rung r{C.me->ring.load(std::memory_order_seq_cst)};
      if (C.h->stopping.load() || actor->closing.load() >= 2) return true;  // CMD_EXIT was meant for the idle worker it was
      t = C.take_mail(Handle(handle));
      if (t || !block) return true;
      if (actor->closing.load() && C.actor_leaves(Handle(handle))) return true;
      bool found;
      {
        NoGil nogil;
        found = C.spin(rung, &r);
      }
      if (!found && nap(r.seen, 0, IDLE_GROWTH) == Waited::FAILED) return false;
    }
  }, false);
  if (!ok) return nullptr;
  if (!t) Py_RETURN_NONE;
  return call_of(t);
}

// What the task of this thread took and did not give back. The locks last: until then nobody sees that it is undone.
void end_task() {
  end_task_ownerships();
  end_task_locks();
}

// A return of a call gets its value, or its error. False: an exception is set.
bool seal_value(Task* t, u32 i, PyObject* value, bool failed) {
  Handle h = C.returns(t)[i];
  Entry& e = C.entry(h);
  if (!C.valid(h) || e.task != C.offset(t) || e.state.load() != ENTRY_PENDING) return true;
  if (!(failed ? store_error(h, value) : store(h, value))) {
    guarded([&] { return C.reset_payload(h), true; }, false);
    return false;
  }
  return guarded([&] { return C.publish(h, failed), true; }, false);
}

// finish(task, value): seals the returns, and gives the record back. True: it was to be interrupted, which has not happened (no
// mark is set once all is sealed). If storing raises, what was not sealed yet can still be failed with fail().
PyObject* finish(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (!arity("finish", n, 2)) return nullptr;
  Task* t = task_arg(args[0]);
  if (!t) return nullptr;
  if (t->kind == TASK_NORMAL) end_task();
  u32 nreturns = t->nreturns;
  if (nreturns == 1) {
    if (!seal_value(t, 0, args[1], false)) return nullptr;
  } else {
    for (u32 i = 0; i < nreturns; i++)
      if (!seal_value(t, i, PyTuple_GET_ITEM(args[1], i), false)) return nullptr;
  }
  C.h->stats.tasks_finished.fetch_add(1, std::memory_order_relaxed);
  bool due = t->flags & TASK_INTERRUPT;
  if (!guarded([&] { return C.finish(t), true; }, false)) return nullptr;
  return PyBool_FromLong(due);
}

// fail(task, exception, finish): the returns that are not sealed yet get the exception
PyObject* fail(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (!arity("fail", n, 3)) return nullptr;
  Task* t = task_arg(args[0]);
  if (!t) return nullptr;
  if (t->kind == TASK_NORMAL) end_task();
  for (u32 i = 0; i < t->nreturns; i++) {
    Handle h = C.returns(t)[i];
    if (C.valid(h) && C.entry(h).task == C.offset(t) && C.entry(h).state.load() == ENTRY_PENDING)
      guarded([&] { return C.reset_payload(h), true; }, false);
    if (!seal_value(t, i, args[1], true)) return nullptr;
  }
  if (t->scratch) {  // a generator's next return, of a process that died between two items
    Handle h = t->scratch;
    guarded([&] { return C.stream_advance(t), true; }, false);
    if (C.valid(h) && !seal_value(t, 0, args[1], true)) return nullptr;
  }
  C.h->stats.tasks_failed.fetch_add(1, std::memory_order_relaxed);
  if (args[2] == Py_True && !guarded([&] { return C.finish(t), true; }, false)) return nullptr;
  Py_RETURN_NONE;
}

// stream_item(task, value): one more item of a streaming generator
PyObject* stream_item(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (!arity("stream_item", n, 2)) return nullptr;
  Task* t = task_arg(args[0]);
  if (!t) return nullptr;
  Handle item = guarded([&] { return C.create(KIND_VALUE); }, Handle(0));
  if (!item) return nullptr;
  if (!store(item, args[1])) {
    C.release(item);
    return nullptr;
  }
  C.publish(item, false);
  bool ok = guarded([&] {
    Handle next = C.stream_next(t);
    Handle old = C.returns(t)[0];
    C.begin_payload(old, FORMAT_REF_LIST, 2, 0, 0, nullptr);
    C.contain(old, item);
    C.contain(old, next);
    C.publish(old, false);
    C.stream_advance(t);
    C.release(next);
    C.release(item);
    return true;
  }, false);
  if (!ok) return nullptr;
  Py_RETURN_NONE;
}

PyObject* requeue(PyObject*, PyObject* task) {
  Task* t = task_arg(task);
  if (t && t->kind == TASK_NORMAL) end_task();
  if (!t || !guarded([&] { return C.requeue(t), true; }, false)) return nullptr;
  Py_RETURN_NONE;
}

// running(task): this thread, not the main one, runs that call; 0: none any more
PyObject* running(PyObject*, PyObject* task) {
  u64 t = PyLong_AsUnsignedLongLong(task);
  if (PyErr_Occurred()) return nullptr;
  set_thread_task(t);
  Py_RETURN_NONE;
}

PyMethodDef functions[] = {
    {"running", running, METH_O, nullptr},
    {"submit", (PyCFunction)(void*)submit, METH_FASTCALL, nullptr},
    {"put_error", put_error, METH_O, nullptr},
    {"next_task", next_task, METH_NOARGS, nullptr},
    {"next_mail", (PyCFunction)(void*)next_mail, METH_FASTCALL, nullptr},
    {"finish", (PyCFunction)(void*)finish, METH_FASTCALL, nullptr},
    {"fail", (PyCFunction)(void*)fail, METH_FASTCALL, nullptr},
    {"stream_item", (PyCFunction)(void*)stream_item, METH_FASTCALL, nullptr},
    {"requeue", requeue, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

// (task, kind, function, method, args, kwargs, nreturns, flags). If an argument cannot be had (the task that made it
// failed, or it does not unpickle here), args is None and kwargs the exception.
PyObject* call_of(Task* t) {
  if (C.h->unwatched.load(std::memory_order_relaxed) && C.h->unwatched.exchange(0)) C.ring_supervisor();
  PyObject *args = nullptr, *kwargs = nullptr;
  if (t->args_size == 0) {
    args = PyTuple_New(0);
    kwargs = Py_NewRef(Py_None);
  } else {
    const char* start = reinterpret_cast<const char*>(C.args(t));
    Decoder d{t, start, start + t->args_size};
    u32 n = d.raw<u32>(), k = d.raw<u32>();
    args = PyTuple_New(n);
    for (u32 i = 0; args && i < n; i++) {
      PyObject* v = d.value();
      if (!v) Py_CLEAR(args);
      else PyTuple_SET_ITEM(args, i, v);
    }
    if (args) kwargs = k ? PyDict_New() : Py_NewRef(Py_None);
    for (u32 i = 0; kwargs && i < k; i++) {
      PyObject *name = d.value(), *v = name ? d.value() : nullptr;
      if (!v || PyDict_SetItem(kwargs, name, v) < 0) Py_CLEAR(kwargs);
      Py_XDECREF(name);
      Py_XDECREF(v);
    }
    if (!args || !kwargs) {
      Py_CLEAR(args);
      Py_CLEAR(kwargs);
      PyObject *type, *error, *trace;
      PyErr_Fetch(&type, &error, &trace);
      PyErr_NormalizeException(&type, &error, &trace);
      if (trace) PyException_SetTraceback(error, trace);
      Py_XDECREF(type);
      Py_XDECREF(trace);
      args = Py_NewRef(Py_None);
      kwargs = error ? error : Py_NewRef(Py_None);
    }
  }
  return Py_BuildValue("(KiKINNIi)", (unsigned long long)C.offset(t), int(t->kind), (unsigned long long)t->function, t->method, args,
                       kwargs, t->nreturns, int(t->flags));
}

bool ready_tasks(PyObject* module) { return PyModule_AddFunctions(module, functions) == 0; }

}  // namespace shoal::py
