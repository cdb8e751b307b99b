// put, get and wait, and how a process waits.
#include <sys/mman.h>

#include <algorithm>

#include "bindings.h"

namespace shoal::py {

constexpr u32 MAX_HELP_DEPTH = 48;  // calls run inside a waiting one; each costs stack

namespace {

// ----------------------------------------------------------------------------------------- put and get

PyObject* put(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (!arity("put", n, 2) || !usable()) return nullptr;
  bool mut = args[1] == Py_True;
  Handle h = guarded([&] { return C.create(mut ? KIND_MUTABLE : KIND_VALUE); }, Handle(0));
  if (!h) return nullptr;
  if (!(mut ? store_mutable(h, args[0]) : store(h, args[0]))) {
    C.release(h);
    return nullptr;
  }
  C.publish(h, false);
  return new_ref(h);
}

bool entry_done(void* e) { return static_cast<Entry*>(e)->state.load(std::memory_order_acquire) >= ENTRY_READY; }

u64 deadline_in(double seconds) { return now_ns() + u64(seconds * 1e9) + 1; }

// May this thread run a task inside the one that waits? Only where tasks run anyway: in a worker's main thread. And
// only if the wait is one for that task, without a limit of time (the callers see to that).
bool may_help() {
  return S.help_depth < MAX_HELP_DEPTH && C.me->role.load(std::memory_order_relaxed) == ROLE_WORKER &&
         S.main_thread == PyThread_get_thread_ident();
}

// Runs a stolen task inside the present one.
bool run_inline(Task* t) {
  PyObject* call = call_of(t);
  if (!call) return false;
  S.help_depth++;
  PyObject* r = PyObject_CallOneArg(S.help, call);
  S.help_depth--;
  Py_DECREF(call);
  Py_XDECREF(r);
  return r != nullptr;
}

}  // namespace

void Blocking::begin() {
  if (on) return;
  on = true;
  if (S.block_depth++ == 0) C.block_begin();
}
void Blocking::end() {
  if (!on) return;
  on = false;
  if (epoch == S.epoch && --S.block_depth == 0) C.block_end();
}
Blocking::~Blocking() {
  try {
    end();
  } catch (const Error&) {
  }
}

// A signal that comes after the handlers were asked and before the kernel sleeps interrupts nothing. So the main thread,
// which alone runs handlers, first sleeps for a moment only and then `growth` times as long each time: such a signal waits
// about as long as this call had waited already, and a long wait costs next to nothing. Who has nothing to do (IDLE_GROWTH)
// sleeps through after a quarter of a second: an idle session uses no processor time.
constexpr u64 FIRST_SLICE_NS = 4'000'000;

Waited nap(u32 seen, u64 deadline, u64 growth) {
  u64 start = now_ns(), end = start, slice = FIRST_SLICE_NS;
  bool main_thread = PyThread_get_thread_native_id() == static_cast<unsigned long>(getpid());
  do {
    if (!run_handlers()) return Waited::FAILED;
    // After `seen` was read: whoever ends the session says so first and rings then, so we see one or the other.
    if (!usable()) return Waited::FAILED;
    u64 until = main_thread && (!deadline || deadline > end + slice) ? end + slice : deadline;
    bool quiet;
    {
      NoGil nogil;
      quiet = C.sleep_ring(seen, until);
    }
    end = now_ns();
    slice *= growth;
    if (!quiet && !run_handlers()) return Waited::FAILED;
    if (!usable()) return Waited::FAILED;
    if (deadline && end >= deadline) break;
  } while (C.me->ring.load(std::memory_order_seq_cst) == seen);
  C.slept(end - start);
  return deadline && end >= deadline ? Waited::TIMEOUT : Waited::DONE;
}

Waited wait_done(Handle h, u64 deadline, bool now, const std::vector<Handle>* all) {
  Entry& e = C.entry(h);
  if (entry_done(&e)) return Waited::DONE;
  if (now) return Waited::TIMEOUT;
  Blocking blocking;
  Watch watch(WAIT_OBJECT, h, deadline);
  if (all && all->size() > 1) watch.all_of(*all);
  try {
    for (;;) {
      C.check_usable();
      Task* t = nullptr;
      if (!deadline && may_help() && C.steal(h, &t)) {
        blocking.end();
        watch.stop();
        if (!run_inline(t)) return Waited::FAILED;
      } else {
        bool found;
        {
          NoGil nogil;
          found = C.spin(entry_done, &e);
        }
        if (found) return Waited::DONE;
        u32 seen = C.me->ring.load(std::memory_order_seq_cst);
        C.watch(h);
        if (entry_done(&e)) return Waited::DONE;
        blocking.begin();
        Waited w = watch.nap(seen);
        if (w == Waited::FAILED) return w;
        if (w == Waited::TIMEOUT && !entry_done(&e)) return w;
      }
      if (entry_done(&e)) return Waited::DONE;
    }
  } catch (const Error& error) {
    set_error(error);
    return Waited::FAILED;
  }
}

bool parse_timeout(PyObject* o, u64* deadline, bool* now) {
  *deadline = 0;
  *now = false;
  if (o == Py_None) return true;
  double s = PyFloat_AsDouble(o);
  if (s == -1 && PyErr_Occurred()) {
    PyErr_Format(PyExc_TypeError, "timeout must be None or a number of seconds, not %R", o);
    return false;
  }
  if (!(s >= 0)) {
    PyErr_Format(PyExc_ValueError, "timeout must not be negative, got %R (None waits without limit)", o);
    return false;
  }
  *now = s == 0;
  if (s < 1e9) *deadline = deadline_in(s);
  return true;
}

namespace {

PyObject* timed_out;  // returned instead of a value, which could be any other object

// get(ref, timeout): the value; raises what the task raised. Returns TIMED_OUT on a time-out.
PyObject* get(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Handle h;
  if (!arity("get", n, 2) || !live_ref(args[0], &h)) return nullptr;
  u64 deadline;
  bool now;
  if (!parse_timeout(args[1], &deadline, &now)) return nullptr;
  Entry& e = C.entry(h);
  if (e.state.load(std::memory_order_acquire) == ENTRY_READY) return load(h);
  switch (wait_done(h, deadline, now)) {
    case Waited::FAILED: return nullptr;
    case Waited::TIMEOUT: return Py_NewRef(timed_out);
    default: return load_or_raise(h);
  }
}

// get_many(list, timeout). A process that may not run the tasks itself waits for the last one first: by then the
// others are mostly done, and it was woken once.
PyObject* get_many(PyObject*, PyObject* const* args, Py_ssize_t n) {
  u64 deadline;
  bool now;
  if (!arity("get_many", n, 2) || !parse_timeout(args[1], &deadline, &now)) return nullptr;
  PyObject* seq = PySequence_Tuple(args[0]);  // of our own: another thread may change the list while we wait
  if (!seq) return nullptr;
  Py_ssize_t count = PySequence_Fast_GET_SIZE(seq);
  std::vector<Handle> handles(static_cast<size_t>(count));
  PyObject* out = nullptr;
  bool ok = true, in_time = true;
  for (Py_ssize_t i = 0; ok && i < count; i++) ok = live_ref(PySequence_Fast_GET_ITEM(seq, i), &handles[size_t(i)]);
  bool helps = ok && count && C.me->role.load() == ROLE_WORKER;
  for (Py_ssize_t k = 0; ok && in_time && k < count; k++) {
    Waited w = wait_done(handles[size_t(helps ? k : count - 1 - k)], deadline, now, &handles);
    ok = w != Waited::FAILED;
    in_time = w != Waited::TIMEOUT;
  }
  if (ok && !in_time) {
    Py_DECREF(seq);
    return Py_NewRef(timed_out);
  }
  if (ok) out = PyList_New(count);
  for (Py_ssize_t i = 0; out && i < count; i++) {
    PyObject* v = load_or_raise(handles[size_t(i)]);
    if (!v) Py_CLEAR(out);
    else PyList_SET_ITEM(out, i, v);
  }
  Py_DECREF(seq);
  return out;
}

struct Many {
  std::vector<Entry*> entries;
  size_t want;
};
bool enough_done(void* p) {
  auto* m = static_cast<Many*>(p);
  size_t done = 0;
  for (Entry* e : m->entries) {
    done += e->state.load(std::memory_order_acquire) >= ENTRY_READY;
    if (done >= m->want) return true;
  }
  return false;
}

// Which call of wait() met an entry last, for each: how it notices that it was given one twice. Private to this process.
u32* marks;
u32 mark;

bool next_mark() {
  if (!marks) {
    void* p = mmap(nullptr, MAX_OBJECTS * sizeof(u32), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return PyErr_NoMemory(), false;
    marks = static_cast<u32*>(p);
  }
  if (++mark == 0) {  // after four thousand million calls
    madvise(marks, MAX_OBJECTS * sizeof(u32), MADV_DONTNEED);
    mark = 1;
  }
  return true;
}

// Sleeps, or runs what it waits for, until as many as wanted are done or it is too late. False: an exception is set.
bool wait_for(const std::vector<Handle>& handles, size_t want, u64 deadline) {
  Many many;
  many.want = want;
  for (Handle h : handles) many.entries.push_back(&C.entry(h));
  bool help = !deadline && want == handles.size();  // else one that is not needed might keep us from the others
  return guarded([&] {
    Blocking blocking;
    Watch watch(WAIT_OBJECT, 0, deadline);
    if (want == handles.size()) watch.all_of(handles);
    while (!enough_done(&many)) {
      Task* t = nullptr;
      if (help && may_help()) {
        for (size_t i = 0; i < handles.size() && !t; i++)
          if (!entry_done(many.entries[i])) C.steal(handles[i], &t);
        if (t) {
          blocking.end();
          watch.stop();
          if (!run_inline(t)) return false;
          continue;
        }
      }
      bool found;
      {
        NoGil nogil;
        found = C.spin(enough_done, &many);
      }
      if (found) break;
      u32 seen = C.me->ring.load(std::memory_order_seq_cst);
      for (size_t i = 0; i < handles.size(); i++)
        if (!entry_done(many.entries[i])) C.watch(handles[i]);
      if (enough_done(&many)) break;
      if (want == handles.size() && (!watch.what() || entry_done(&C.entry(watch.what())))) {  // all are needed, so each is
        size_t i = 0;
        while (i < handles.size() - 1 && entry_done(many.entries[i])) i++;
        watch.change(handles[i]);
      }
      blocking.begin();
      Waited w = watch.nap(seen);
      if (w == Waited::FAILED) return false;
      if (w == Waited::TIMEOUT) break;
    }
    return true;
  }, false);
}

// An empty list with room for `n`, which is not cleared first as PyList_New(n) does it.
PyObject* roomy_list(Py_ssize_t n) {
  PyObject* list = PyList_New(0);
  if (!list || !n) return list;
  auto* l = reinterpret_cast<PyListObject*>(list);
  l->ob_item = static_cast<PyObject**>(PyMem_Malloc(size_t(n) * sizeof(PyObject*)));
  if (!l->ob_item) return Py_DECREF(list), PyErr_NoMemory();
  l->allocated = n;
  return list;
}

// Divides a list into two: those that are done, `want` at most, and the rest. With a long list wait() is called again
// and again for what is left of it: so each reference is looked at once, and none after the last wanted for its state.
bool divide(PyObject* list, Py_ssize_t want, PyObject** ready, PyObject** rest) {
  Py_ssize_t count;
  *ready = *rest = nullptr;
  do {  // a new list may start the garbage collector, which may change the other
    count = PyList_GET_SIZE(list);
    Py_XSETREF(*ready, roomy_list(std::min(want, count)));
    Py_XSETREF(*rest, roomy_list(count));
  } while (*ready && *rest && count != PyList_GET_SIZE(list));
  bool ok = *ready && *rest && next_mark();
  if (ok) {
    Py_ssize_t found = 0;
    // In locals, as nothing but the loops change them: the compiler cannot know that a mark is none of them.
    PyObject **items = reinterpret_cast<PyListObject*>(list)->ob_item, **const end = items + count;
    PyObject **done = reinterpret_cast<PyListObject*>(*ready)->ob_item, **out = reinterpret_cast<PyListObject*>(*rest)->ob_item;
    PyTypeObject* const type = RefType;
    u32 *const seen = marks, now = mark, epoch = S.epoch;
    // Whether it is an ObjectRef of this session that the list has not had yet.
    auto fresh = [=](PyObject* o) {
      auto* r = reinterpret_cast<Ref*>(o);
      if (Py_TYPE(o) != type || r->epoch != epoch || seen[index_of(r->handle)] == now) [[unlikely]] return false;
      seen[index_of(r->handle)] = now;
      return true;
    };
    for (; items < end && found < want && fresh(*items); items++) {
      if (entry_done(&C.entry(reinterpret_cast<Ref*>(*items)->handle))) done[found++] = Py_NewRef(*items);
      else *out++ = Py_NewRef(*items);
    }
    while (items < end && found == want && fresh(*items)) *out++ = Py_NewRef(*items++);
    Py_SET_SIZE(*ready, found);
    Py_SET_SIZE(*rest, out - reinterpret_cast<PyListObject*>(*rest)->ob_item);
    ok = items == end;
    Handle h;
    if (!ok && live_ref(*items, &h)) PyErr_SetString(PyExc_ValueError, "wait() was given the same ObjectRef twice");
  }
  if (ok) return true;
  Py_CLEAR(*ready);
  Py_CLEAR(*rest);
  return false;
}

// How many wait() is to wait for. False: an exception is set.
bool parse_wanted(PyObject* o, Py_ssize_t count, Py_ssize_t* want) {
  if (!PyLong_Check(o) || PyBool_Check(o)) return PyErr_Format(PyExc_TypeError, "num_returns must be an integer, not %R", o), false;
  *want = PyLong_AsSsize_t(o);
  if (*want >= 1 && *want <= count) return true;
  PyErr_Clear();  // too large for any number
  return PyErr_Format(PyExc_ValueError, "num_returns must be between 1 and the number of references (%zd), not %R", count, o), false;
}

// wait(list, num_returns, timeout) -> (ready, not ready)
PyObject* wait(PyObject*, PyObject* const* args, Py_ssize_t n) {
  u64 deadline;
  bool now;
  if (!arity("wait", n, 3) || !parse_timeout(args[2], &deadline, &now) || !usable()) return nullptr;
  Py_ssize_t want = 0;
  if (PyList_GET_SIZE(args[0]) && !parse_wanted(args[1], PyList_GET_SIZE(args[0]), &want)) return nullptr;
  PyObject *ready, *rest;
  if (!divide(args[0], want, &ready, &rest)) return nullptr;
  if (PyList_GET_SIZE(ready) < want && !now) {
    Py_DECREF(ready);
    Py_DECREF(rest);
    PyObject* mine = PySequence_List(args[0]);  // another thread may change the list while we wait
    if (!mine) return nullptr;
    std::vector<Handle> handles(size_t(PyList_GET_SIZE(mine)));
    bool ok = true;
    for (size_t i = 0; ok && i < handles.size(); i++) ok = live_ref(PyList_GET_ITEM(mine, Py_ssize_t(i)), &handles[i]);
    ok = ok && wait_for(handles, std::min(size_t(want), handles.size()), deadline) && divide(mine, want, &ready, &rest);
    Py_DECREF(mine);
    if (!ok) return nullptr;
  }
  PyObject* both = PyTuple_Pack(2, ready, rest);
  Py_DECREF(ready);
  Py_DECREF(rest);
  return both;
}

// first_done(list) -> indices of those that are done
PyObject* first_done(PyObject*, PyObject* seq) {
  PyObject* out = PyList_New(0);
  for (Py_ssize_t i = 0, n = PyList_GET_SIZE(seq); out && i < n; i++) {
    Handle h;
    if (!live_ref(PyList_GET_ITEM(seq, i), &h)) return Py_DECREF(out), nullptr;
    if (!entry_done(&C.entry(h))) continue;
    PyObject* index = PyLong_FromSsize_t(i);
    if (!index || PyList_Append(out, index) < 0) Py_CLEAR(out);
    Py_XDECREF(index);
  }
  return out;
}

PyObject* is_done(PyObject*, PyObject* ref) {
  Handle h;
  if (!live_ref(ref, &h)) return nullptr;
  return PyBool_FromLong(entry_done(&C.entry(h)));
}

PyMethodDef functions[] = {
    {"put", (PyCFunction)(void*)put, METH_FASTCALL, nullptr},
    {"get", (PyCFunction)(void*)get, METH_FASTCALL, nullptr},
    {"get_many", (PyCFunction)(void*)get_many, METH_FASTCALL, nullptr},
    {"wait", (PyCFunction)(void*)wait, METH_FASTCALL, nullptr},
    {"first_done", first_done, METH_O, nullptr},
    {"is_done", is_done, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

PyObject* not_in_time() { return Py_NewRef(timed_out); }

bool ready_objects(PyObject* module) {
  timed_out = PyObject_CallNoArgs((PyObject*)&PyBaseObject_Type);
  return timed_out && PyModule_AddObjectRef(module, "TIMED_OUT", timed_out) == 0 && PyModule_AddFunctions(module, functions) == 0;
}

}  // namespace shoal::py
