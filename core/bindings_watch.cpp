// A wait without a limit of time looks now and then whether it can ever end (deadlock.cpp), and whether a task was forgotten.
#include <algorithm>

#include "bindings.h"

namespace shoal::py {

namespace {
constexpr u64 FIRST_LOOK_NS = 250'000'000, SECOND_LOOK_NS = 100'000'000, LONGEST_NS = 5'000'000'000;
// Of a wait for several results only one is published. Who closes a circle through another of them cannot find it, so here
// the one who waits has to look, however long it has waited.
constexpr u64 LONGEST_OF_SEVERAL_NS = 300'000'000;
thread_local Offset thread_task = 0;  // the call that this thread runs, if it is not the main one
}  // namespace

Watch::Watch(u32 mode, Handle what, u64 deadline, bool willing) : mode_(mode), what_(what), deadline_(deadline), willing_(willing) {}

Watch::~Watch() { stop(); }

void Watch::stop() {
  if (at_ && S.attached && epoch_ == S.epoch) at_->thread.store(0);
  at_ = nullptr;
}

void Watch::change(Handle what) {
  if (what == what_) return;
  what_ = what;
  if (at_) publish();
}

void Watch::publish() {
  if (!at_)
    for (auto& w : C.me->waiting)
      if (!w.thread.load(std::memory_order_relaxed)) {
        at_ = &w;
        break;
      }
  if (!at_) return;  // then nobody finds it
  at_->thread.store(0);
  since_ = now_ns();
  at_->since.store(since_);
  at_->what.store(what_);
  at_->mode.store(mode_);
  at_->task.store(thread_task);
  at_->flags.store((S.main_thread == PyThread_get_thread_ident() ? u64(WAITING_MAIN) : 0) | (willing_ ? 0 : u64(WAITING_UNWILLING)));
  at_->thread.store(thread_id());
  next_ = since_ + FIRST_LOOK_NS;
  pause_ = FIRST_LOOK_NS;
  seen_.clear();
}

Waited Watch::nap(u32 seen) {
  if (deadline_ || !what_) return py::nap(seen, deadline_);
  if (!at_) publish();
  if (!at_) return py::nap(seen, 0);
  Waited w = py::nap(seen, next_);
  if (w == Waited::FAILED || !same_session(epoch_)) return Waited::FAILED;
  if (now_ns() >= next_ && !look()) return Waited::FAILED;
  return Waited::DONE;
}

// False: this thread is to end a deadlock; DeadlockError is set.
bool Watch::look() {
  PyObject* n = S.threads ? PyObject_CallNoArgs(S.threads) : nullptr;
  if (!n) return !PyErr_Occurred();
  C.me->threads.store(u32(PyLong_AsUnsignedLong(n)));
  Py_DECREF(n);
  if (!same_session(epoch_)) return false;
  return guarded([&] {
    C.look_for_forgotten();
    std::vector<Stuck> circle = find_circle(C, thread_id(), since_);
    if (!circle.empty() && circle == seen_ && is_victim(circle)) {
      PyObject* texts = PyList_New(0);
      for (auto& text : describe(C, circle)) {
        PyObject* t = PyUnicode_DecodeUTF8(text.data(), Py_ssize_t(text.size()), "replace");
        if (texts && t) PyList_Append(texts, t);
        Py_XDECREF(t);
      }
      PyObject* e = texts ? PyObject_CallOneArg(S.deadlock, texts) : nullptr;
      if (e) PyErr_SetObject((PyObject*)Py_TYPE(e), e);
      Py_XDECREF(texts);
      Py_XDECREF(e);
      return false;
    }
    if (circle.empty() && all_) {
      Handle other = find_circle_through(C, thread_id(), since_, *all_);
      if (other) {  // published, it can be found like any other; and it is looked at again
        change(other);
        next_ = now_ns() + SECOND_LOOK_NS;
        return true;
      }
    }
    bool new_one = !circle.empty() && circle != seen_;
    seen_ = std::move(circle);
    if (!new_one) pause_ = std::min(pause_ * 2, all_ ? LONGEST_OF_SEVERAL_NS : LONGEST_NS);
    next_ = now_ns() + (new_one ? SECOND_LOOK_NS : pause_);
    return true;
  }, false);
}

void set_thread_task(Offset task) { thread_task = task; }
Offset thread_task_now() { return thread_task; }

}  // namespace shoal::py
