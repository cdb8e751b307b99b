// Shared by the bindings: the process's one Client, the Python types, and how errors become exceptions.
// Everything here runs under the GIL; it is let go only around copies, spins and sleeps, never inside a Tx.
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <cxxabi.h>
#include <structmember.h>
#include <unistd.h>

#include "client.h"
#include "deadlock.h"

namespace shoal::py {

// Keeps the arena mapped while views of it live, also after shutdown(). A window is a mapping of one object's pages
// of its own (bindings_memory.cpp); it has no `ro`.
struct Mapping {
  u8* rw;
  u8* ro;
  u64 bytes;
  u64 users;
  Offset start = 0;  // of the first byte in the arena
};
void drop_mapping(Mapping* m);  // one user less

struct State {
  Client client;
  bool attached = false;
  bool guest = false;  // the session goes on when this process leaves it
  u32 epoch = 0;  // counts sessions of this process (and forks): references of older ones are dead
  Mapping* mapping = nullptr;
  int inside = 0;  // threads that let go of the GIL in a copy, spin or sleep: the arena must stay mapped for them
  int handlers = 0;  // waits of the main thread that run signal handlers, which may end the session
  u32 block_depth = 0;
  u32 help_depth = 0;
  unsigned long main_thread = 0;  // the one that joined the session
  // Python callables, see set_hooks() in bindings.cpp
  PyObject* serialize = nullptr;          // value -> (bytes, [buffers])
  PyObject* serialize_mutable = nullptr;
  PyObject* deserialize = nullptr;        // meta, [buffers] -> value
  PyObject* deserialize_private = nullptr;  // the same, and all arrays are writable
  PyObject* make_error = nullptr;         // code, text -> exception
  PyObject* raised = nullptr;             // stored exception -> exception to raise
  PyObject* help = nullptr;               // runs a call inline
  PyObject* submitter = nullptr;          // -> the id of the task that submits; in the process of an async actor only
  PyObject* full_error = nullptr;         // the class ObjectStoreFullError
  PyObject* lock_died = nullptr;          // pid, label, age_s, name, Died bits, whether the lock is held -> exception
  PyObject* deadlock = nullptr;           // texts -> exception
  PyObject* threads = nullptr;            // -> how many of the program's own threads there are
  PyObject* memory_low = nullptr;         // bytes: somebody waits for so much, and has done so for a second
};
extern State S;

#define C (::shoal::py::S.client)

void set_error(const Error& e);
bool usable();  // false: an exception is set
PyObject* not_initialized();
bool same_session(u32 epoch);  // ... also if the process has joined another one meanwhile
// Runs the handlers of signals that came. False: one raised, or ended the session that the caller is in.
bool run_handlers();
inline bool arity(const char* name, Py_ssize_t n, Py_ssize_t want) {
  if (n == want) return true;
  PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, got %zd", name, want, n);
  return false;
}

template <class F>
auto guarded(F f, decltype(f()) failed) -> decltype(f()) {
  try {
    return f();
  } catch (const Error& e) {
    set_error(e);
    return failed;
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
    return failed;
  }
}

class NoGil {
 public:
  NoGil() {
    S.inside++;
    s_ = PyEval_SaveThread();
  }
  ~NoGil() {
    try {
      PyEval_RestoreThread(s_);
    } catch (abi::__forced_unwind&) {
      // The interpreter is ending and makes its daemon threads vanish here (pthread_exit). That would unwind our frames, which
      // touch Python and the arena, and end in std::terminate. From Python 3.14 on it stops them instead; so do we.
      for (;;) pause();
    }
    S.inside--;
  }

 private:
  PyThreadState* s_;
};

// ----------------------------------------------------------------------------- refs (bindings_refs.cpp)

struct Ref {
  PyObject_HEAD
  Handle handle;
  PyObject* weakrefs;
  u32 epoch;
};
extern PyTypeObject* RefType;
inline bool is_ref(PyObject* o) { return Py_TYPE(o) == RefType || PyType_IsSubtype(Py_TYPE(o), RefType); }
PyObject* new_ref(Handle h);            // takes over one local reference
PyObject* share_ref(Handle h);          // makes its own; nullptr + exception if the object is gone
bool live_ref(PyObject* o, Handle* h);  // o is a Ref of this session; else TypeError / SessionEndedError
// Exports a piece of the arena. Holds a reference to the object, so a view keeps its object alive; holds the mapping,
// so a view stays readable after shutdown().
struct Buffer {
  PyObject_HEAD
  Handle handle;
  u8* start;
  Py_ssize_t size;
  Mapping* mapping;
  u32 epoch;
  bool writable;
  bool counted;  // as a writable view of a mutable object
  bool pinned;   // as a view of a large value
  Buffer *next, **link;  // in a guest: the list of all of them
};
extern Buffer* buffers;  // a guest's, see bindings_leave.cpp
// While one of these is open on a large value, its payload stays where it is, in memory.
class Look {
 public:
  Look() = default;
  Look(const Look&) = delete;
  bool open(Handle h);  // false: an exception is set
  ~Look();

 private:
  Handle h_ = 0;
  u32 epoch_ = S.epoch;
};
PyObject* new_buffer(Handle h, u64 start, u64 size, bool writable, Mapping* window);
bool take_views_along();                // bindings_leave.cpp
void forget_views();
bool current(u32 epoch);                // is that session the present one, and may it be touched?
bool ready_refs(PyObject* module);

// Collects the references met while a value is pickled, so that the arena knows what the value contains.
struct Collector {
  std::vector<PyObject*> refs;  // owned
  Collector* outer;
  Collector();
  ~Collector();
};
extern thread_local Collector* collector;  // pickling runs Python, so threads take turns in the middle of it

// --------------------------------------------------------------------------- values (bindings_values.cpp)

bool store(Handle h, PyObject* value);            // payload of an object being made; false: exception set
bool store_mutable(Handle h, PyObject* value);
PyObject* load(Handle h, Mapping* window = nullptr);  // of a finished object; an exception object if it failed
PyObject* load_or_raise(Handle h);
Handle make_object(PyObject* meta, PyObject* buffers, Collector& c);  // from a pickle; 0: exception set
bool fill_pickle(Handle h, PyObject* meta, PyObject* buffers, Collector& c);

// ------------------------------------------------------------------------ objects (bindings_objects.cpp)

enum class Waited { DONE, TIMEOUT, FAILED };
Waited wait_done(Handle h, u64 deadline, bool now, const std::vector<Handle>* all = nullptr);  // all: that are needed, `h` among them
bool parse_timeout(PyObject* o, u64* deadline, bool* now);
PyObject* not_in_time();  // TIMED_OUT
bool ready_objects(PyObject* module);

// This process waits: its CPU is lent out.
struct Blocking {
  bool on = false;
  u32 epoch = S.epoch;
  void begin();
  void end();
  ~Blocking();
};
// The threads that wait for one another in a circle: see bindings_watch.cpp. A wait sleeps through it.
class Watch {
 public:
  Watch(u32 mode, Handle what, u64 deadline, bool willing = true);  // what = 0: only sleeps
  ~Watch();
  Watch(const Watch&) = delete;
  void change(Handle what);
  void all_of(const std::vector<Handle>& handles) { all_ = &handles; }  // all are needed; `what` is one of them
  Handle what() const { return what_; }
  void stop();  // the thread does something else now
  Waited nap(u32 seen);

 private:
  void publish();
  bool look();
  u32 mode_;
  Handle what_;
  u64 deadline_;
  bool willing_;
  u32 epoch_ = S.epoch;
  Waiting* at_ = nullptr;
  const std::vector<Handle>* all_ = nullptr;
  u64 since_ = 0, next_ = 0, pause_ = 0;
  std::vector<Stuck> seen_{};
};
void set_thread_task(Offset task);  // what this thread runs, if it is not the main one
Offset thread_task_now();
// One sleep until something happens to this process. FAILED: an exception is set.
constexpr u64 IDLE_GROWTH = 64;
Waited nap(u32 seen, u64 deadline, u64 growth = 2);

// ---------------------------------------------------------------------------- tasks (bindings_tasks.cpp)

PyObject* call_of(Task* t);  // what a worker needs to run it
bool store_error(Handle h, PyObject* error);  // an exception, or None where there is no room for it
bool ready_tasks(PyObject* module);

// --------------------------------------------------------------------- ends and deaths (bindings_ends.cpp)
bool ready_ends(PyObject* module);

// ------------------------------------------------------------------------- memory (bindings_memory.cpp)

// A writable mapping of the object's buffers: shared with the arena or (`copy`) with private copies of what is written.
Mapping* open_window(Handle h, bool copy);  // throws FULL; one user
void make_private(Mapping* window);         // from now on writing to it changes nothing but itself; throws FULL
bool ready_memory(PyObject* module);

// --------------------------------------------------------------------------- spill (bindings_spill.cpp)
void ready_pressure();  // the process has joined a session
bool ready_spill(PyObject* module);

// ------------------------------------------------------------------- versioned (bindings_versioned.cpp)
bool ready_versioned(PyObject* module);

// ------------------------------------------------------------------- ownership (bindings_ownership.cpp)
bool ready_ownership(PyObject* module);
void end_task_ownerships();  // a task of this worker is over: what it still owns is nobody's

// ----------------------------------------------------------------------------- sync (bindings_sync.cpp)
bool ready_sync(PyObject* module);
void task_thread();         // tasks run in this thread
void end_task_locks();      // the task of this thread is over: the locks that it still holds are freed, and marked
u64 thread_id();     // (slot + 1) << 32 | a number of this thread
u64 coroutine_id();  // ... of nobody else
bool parse_blocking(PyObject* const* args, Py_ssize_t n, PyObject* kwnames, u64* deadline, bool* now);

// The wait of all locks and the like. `check` looks whether it is over, and arranges to be rung otherwise; `hint` tells
// without the GIL that a check is worth while. 1: over; 0: not in time; -1: an exception.
template <class Check, class Hint>
int wait_until(Check check, Hint hint, u64 deadline, Watch& watch) {
  Blocking blocking;
  for (;;) {
    if (check()) return 1;
    bool found;
    {
      NoGil nogil;
      found = C.spin([](void* h) { return (*static_cast<Hint*>(h))(); }, &hint);
    }
    if (!same_session(blocking.epoch)) return -1;
    if (found && !(deadline && now_ns() >= deadline)) continue;
    u32 seen = C.me->ring.load(std::memory_order_seq_cst);
    if (check()) return 1;
    blocking.begin();
    Waited w = watch.nap(seen);
    if (w == Waited::FAILED || !same_session(blocking.epoch)) return -1;
    if (w == Waited::TIMEOUT) return check() ? 1 : 0;
  }
}

// --------------------------------------------------- semaphore, event, condition, barrier (bindings_signals.cpp)
bool ready_signals(PyObject* module);

// ------------------------------------------------------------------- containers (bindings_queue.cpp)
bool ready_containers(PyObject* module);

// -------------------------------------------------------------------------- ring (bindings_ring.cpp)
bool ready_ring(PyObject* module);

}  // namespace shoal::py
