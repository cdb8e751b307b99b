// How tasks and processes end: cancelling, limits of time, what the dead have said, the states that actors leave behind.
#include <algorithm>

#include "bindings.h"

namespace shoal::py {

namespace {

bool number(PyObject* o, u64* v) {
  *v = PyLong_AsUnsignedLongLong(o);
  return !PyErr_Occurred() && (S.attached || usable());
}

template <size_t N>
bool numbers(const char* name, PyObject* const* args, Py_ssize_t n, u64 (&v)[N]) {
  if (!arity(name, n, Py_ssize_t(N))) return false;
  for (size_t i = 0; i < N; i++)
    if (!number(args[i], &v[i])) return false;
  return true;
}

PyObject* handles(const std::vector<Handle>& all) {
  PyObject* out = PyList_New(Py_ssize_t(all.size()));
  for (size_t i = 0; out && i < all.size(); i++) PyList_SET_ITEM(out, Py_ssize_t(i), PyLong_FromUnsignedLongLong(all[i]));
  return out;
}

// ------------------------------------------------------------------------------------------ cancelling

// cancel_queued(handle) -> task, ours to fail | None: it runs or is done
PyObject* cancel_queued(PyObject*, PyObject* arg) {
  u64 h;
  if (!number(arg, &h) || !usable()) return nullptr;
  Task* t = nullptr;
  if (!guarded([&] { return C.valid(h) && C.cancel_queued(h, &t), true; }, false)) return nullptr;
  if (!t) Py_RETURN_NONE;
  return PyLong_FromUnsignedLongLong(C.offset(t));
}

// mark_running(handle, TaskFlags, again) -> the slot of the process that runs it | -1: there is nothing to interrupt
PyObject* mark_running(PyObject*, PyObject* const* args, Py_ssize_t n) {
  u64 v[3];
  if (!numbers("mark_running", args, n, v) || !usable()) return nullptr;
  return guarded([&] { return PyLong_FromLong(C.mark_running(v[0], u16(v[1]), v[2])); }, nullptr);
}

// A record that this process (still) runs, else nullptr. False: an exception is set.
bool running_task(PyObject* arg, Task** t) {
  u64 offset;
  if (!number(arg, &offset)) return false;
  *t = C.at<Task>(offset);
  if (!C.runs(*t)) *t = nullptr;
  return true;
}

// task_cancelled(task) -> the marks that say so, 0: none. 0 too once it is over: its record is another's by then
PyObject* task_cancelled(PyObject*, PyObject* arg) {
  Task* t;
  if (!running_task(arg, &t)) return nullptr;
  u32 marks = t ? t->flags & (TASK_CANCELLED | TASK_TIMED_OUT | TASK_RECURSIVE | TASK_FORCED) : 0;
  return PyLong_FromUnsignedLong(marks & (TASK_CANCELLED | TASK_TIMED_OUT) ? marks : 0);
}

// take_interrupt(task) -> is it to be interrupted now? True once for each time that somebody wants it, and only while it runs here
PyObject* take_interrupt(PyObject*, PyObject* arg) {
  Task* t;
  bool due = false;
  if (!running_task(arg, &t)) return nullptr;
  if (t && t->flags & TASK_INTERRUPT && !guarded([&] { return due = C.take_interrupt(t), true; }, false)) return nullptr;
  return PyBool_FromLong(due);
}

// live_task(task) -> its id if this process (still) runs it, else 0
PyObject* live_task(PyObject*, PyObject* arg) {
  Task* t;
  if (!running_task(arg, &t)) return nullptr;
  return PyLong_FromUnsignedLongLong(t ? t->id : 0);
}

PyObject* clear_marks(PyObject*, PyObject* arg) {
  u64 task;
  if (!number(arg, &task) || !guarded([&] { return C.clear_marks(C.at<Task>(task)), true; }, false)) return nullptr;
  Py_RETURN_NONE;
}

// descendants(task id, last id) -> a handle for each unfinished task that it has submitted, and of theirs
PyObject* descendants(PyObject*, PyObject* const* args, Py_ssize_t n) {
  u64 v[2];
  if (!numbers("descendants", args, n, v) || !usable()) return nullptr;
  std::vector<Handle> found;
  if (!guarded([&] { return found = C.descendants(v[0], v[1]), true; }, false)) return nullptr;
  return handles(found);
}

PyObject* last_task_id(PyObject*, PyObject*) {
  if (!usable()) return nullptr;
  return PyLong_FromUnsignedLongLong(C.h->sched.next_task.load());
}

PyObject* set_submitter(PyObject*, PyObject* f) {
  Py_XSETREF(S.submitter, f == Py_None ? nullptr : Py_NewRef(f));
  Py_RETURN_NONE;
}

// commands() -> the processes that somebody wants to have killed or interrupted: (slot, bits)
PyObject* commands(PyObject*, PyObject*) {
  if (!usable()) return nullptr;
  PyObject* out = PyList_New(0);
  for (u32 i = 2, n = C.h->slots_top.load(); out && i < n; i++) {
    u32 bits = C.slots[i].command.load() & (CMD_KILL | CMD_CANCEL);
    if (!bits) continue;
    C.slots[i].command.fetch_and(~bits);
    if (C.slots[i].state.load() != SLOT_ALIVE) continue;
    PyObject* pair = Py_BuildValue("(II)", i, bits);
    if (!pair || PyList_Append(out, pair) < 0) Py_CLEAR(out);
    Py_XDECREF(pair);
  }
  return out;
}

// ask(slot, CommandBits): has the supervisor kill or interrupt a process
PyObject* ask(PyObject*, PyObject* const* args, Py_ssize_t n) {
  u64 v[2];
  if (!numbers("ask", args, n, v) || v[0] >= MAX_PROCESSES || !usable()) return nullptr;
  C.slots[v[0]].command.fetch_or(u32(v[1]));
  C.ring_supervisor();
  Py_RETURN_NONE;
}

PyObject* kill_due(PyObject*, PyObject* arg) {
  u64 s;
  if (!number(arg, &s)) return nullptr;
  return PyBool_FromLong(C.kill_due(u32(s)));
}

// late() -> (handles of the tasks whose time is over, seconds until the next one's is | None)
PyObject* late(PyObject*, PyObject*) {
  if (!usable()) return nullptr;
  u64 next = 0;
  std::vector<Handle> over;
  if (!guarded([&] { return over = C.late(&next), true; }, false)) return nullptr;
  PyObject* list = handles(over);
  if (!list) return nullptr;
  u64 now = now_ns();
  if (!next) return Py_BuildValue("(NO)", list, Py_None);
  return Py_BuildValue("(Nd)", list, next > now ? double(next - now) * 1e-9 : 0.0);
}

// ------------------------------------------------------------------------------------------ last words

// said(bytes): this process has printed that
PyObject* said(PyObject*, PyObject* text) {
  char* data;
  Py_ssize_t size;
  if (PyBytes_AsStringAndSize(text, &data, &size) < 0) return nullptr;
  if (!S.attached || C.forked) Py_RETURN_NONE;
  LastWords& w = C.me->said;
  u64 of = 0;
  if (!C.me->actor.load(std::memory_order_relaxed) && C.me->running) of = C.at<Task>(C.me->running)->id;
  u64 count = w.count.load(std::memory_order_relaxed);
  if (w.of != of) {
    w.of = of;
    count = 0;
  }
  u64 n = u64(size), skip = n > LAST_WORDS ? n - LAST_WORDS : 0;
  for (u64 k = skip; k < n;) {
    u64 at = (count + k) % LAST_WORDS, piece = std::min(n - k, LAST_WORDS - at);
    std::memcpy(w.text + at, data + k, piece);
    k += piece;
  }
  w.count.store(count + n, std::memory_order_release);
  Py_RETURN_NONE;
}

// last_words(slot) -> (the id of the task that said it or 0, the bytes, whether there was more before)
PyObject* last_words(PyObject*, PyObject* arg) {
  u64 s;
  if (!number(arg, &s) || s >= MAX_PROCESSES) return nullptr;
  const LastWords& w = C.slots[s].said;
  u64 count = w.count.load(std::memory_order_acquire), n = std::min<u64>(count, LAST_WORDS);
  std::string text;
  text.reserve(n);
  for (u64 k = count - n; k < count; k++) text.push_back(w.text[k % LAST_WORDS]);
  return Py_BuildValue("(Ky#O)", (unsigned long long)w.of, text.data(), Py_ssize_t(text.size()), count > n ? Py_True : Py_False);
}

// running_id(slot) -> the id of the task that it has begun last, 0: none. A hint
PyObject* running_id(PyObject*, PyObject* arg) {
  u64 s;
  if (!number(arg, &s) || s >= MAX_PROCESSES) return nullptr;
  Offset o = peek(C.slots[s].running);
  return PyLong_FromUnsignedLongLong(o ? peek(C.at<Task>(o)->id) : 0);
}

// --------------------------------------------------------------------------------------- actors' states

bool owed(Task* t, Handle h) {
  return C.valid(h) && C.entry(h).task == C.offset(t) && C.entry(h).state.load() == ENTRY_PENDING;
}

bool seal_stored(Task* t, bool failed) {
  return guarded([&] {
    for (u32 i = 0; i < t->nreturns; i++)
      if (owed(t, C.returns(t)[i])) C.publish(C.returns(t)[i], failed);
    (failed ? C.h->stats.tasks_failed : C.h->stats.tasks_finished).fetch_add(1, std::memory_order_relaxed);
    C.finish(t);
    return true;
  }, false);
}

// actor_save(actor, state, task | 0, value, failed): the state is what a restart begins with. With a task that call is over
// in the same moment, as by finish(task, value) or fail(task, value, True).
// If it raises nothing was saved, and the call is still to be finished.
PyObject* actor_save(PyObject*, PyObject* const* args, Py_ssize_t n) {
  u64 actor, task;
  if (!arity("actor_save", n, 5) || !number(args[0], &actor) || !number(args[2], &task) || !usable()) return nullptr;
  Task* t = task ? C.at<Task>(task) : nullptr;
  bool failed = args[4] == Py_True;
  Handle item = guarded([&] { return C.create(KIND_VALUE); }, Handle(0));
  if (!item) return nullptr;
  bool ok = store(item, args[1]);
  if (ok) C.publish(item, false);
  for (u32 i = 0; ok && t && i < t->nreturns; i++) {
    Handle h = C.returns(t)[i];
    if (owed(t, h)) ok = failed ? store_error(h, args[3]) : store(h, t->nreturns == 1 ? args[3] : PyTuple_GET_ITEM(args[3], i));
  }
  if (ok) ok = guarded([&] { return C.actor_save(actor, item, t, failed), true; }, false);
  if (!ok) {
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    guarded([&] {
      C.release(item);
      for (u32 i = 0; t && i < t->nreturns; i++)
        if (owed(t, C.returns(t)[i])) C.reset_payload(C.returns(t)[i]);
      return true;
    }, false);
    PyErr_Restore(type, error, trace);
    return nullptr;
  }
  if (t && !seal_stored(t, failed)) return nullptr;
  Py_RETURN_NONE;
}

// finish_saved(task): of a dead process, with TASK_SAVED
PyObject* finish_saved(PyObject*, PyObject* arg) {
  u64 task;
  if (!number(arg, &task)) return nullptr;
  Task* t = C.at<Task>(task);
  if (!seal_stored(t, t->flags & TASK_SAVED_FAILED)) return nullptr;
  Py_RETURN_NONE;
}

// actor_saved(actor) -> a reference to its state | None
PyObject* actor_saved(PyObject*, PyObject* arg) {
  u64 h;
  if (!number(arg, &h) || !usable()) return nullptr;
  Handle state = C.actor(h)->saved;
  if (!state) Py_RETURN_NONE;
  return share_ref(state);
}

// actor_kill(actor): its present process is to be killed; see kill_due()
PyObject* actor_kill(PyObject*, PyObject* arg) {
  u64 h;
  if (!number(arg, &h) || !usable()) return nullptr;
  C.actor(h)->kill.store(1);
  Py_RETURN_NONE;
}

PyMethodDef functions[] = {
    {"cancel_queued", cancel_queued, METH_O, nullptr},
    {"mark_running", (PyCFunction)(void*)mark_running, METH_FASTCALL, nullptr},
    {"task_cancelled", task_cancelled, METH_O, nullptr},
    {"take_interrupt", take_interrupt, METH_O, nullptr},
    {"clear_marks", clear_marks, METH_O, nullptr},
    {"live_task", live_task, METH_O, nullptr},
    {"descendants", (PyCFunction)(void*)descendants, METH_FASTCALL, nullptr},
    {"last_task_id", last_task_id, METH_NOARGS, nullptr},
    {"set_submitter", set_submitter, METH_O, nullptr},
    {"commands", commands, METH_NOARGS, nullptr},
    {"ask", (PyCFunction)(void*)ask, METH_FASTCALL, nullptr},
    {"kill_due", kill_due, METH_O, nullptr},
    {"late", late, METH_NOARGS, nullptr},
    {"said", said, METH_O, nullptr},
    {"last_words", last_words, METH_O, nullptr},
    {"running_id", running_id, METH_O, nullptr},
    {"actor_save", (PyCFunction)(void*)actor_save, METH_FASTCALL, nullptr},
    {"finish_saved", finish_saved, METH_O, nullptr},
    {"actor_saved", actor_saved, METH_O, nullptr},
    {"actor_kill", actor_kill, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool ready_ends(PyObject* module) { return PyModule_AddFunctions(module, functions) == 0; }

}  // namespace shoal::py
