// The module shoal._core: sessions, actors, names, and what the supervisor needs. The hot calls are in the other
// bindings*.cpp; here nanobind does the conversions.
#include <linux/futex.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <poll.h>
#include <pthread.h>
#include <csignal>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "bindings_bridge.h"

namespace nb = nanobind;

namespace shoal::py {

State S;

void set_error(const Error& e) {
  if (e.code == Error::RAISED && PyErr_Occurred()) return;
  if (!S.make_error) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
    return;
  }
  PyObject* error = PyObject_CallFunction(S.make_error, "is", int(e.code), e.what());
  if (!error) return;
  PyErr_SetObject((PyObject*)Py_TYPE(error), error);
  Py_DECREF(error);
}

bool usable() {
  if (!S.attached) {
    set_error(Error(Error::ENDED, S.epoch ? "the session has ended: shoal.shutdown() was called" : "no session"));
    return false;
  }
  return guarded([] { return C.check_usable(), true; }, false);
}

bool same_session(u32 epoch) {
  if (!usable()) return false;
  if (epoch == S.epoch) return true;
  set_error(Error(Error::ENDED, "the session ended while this call was waiting"));
  return false;
}

bool run_handlers() {
  u32 epoch = S.epoch;
  S.handlers++;
  int result = PyErr_CheckSignals();
  S.handlers--;
  if (result < 0) return false;
  if (epoch == S.epoch) return true;
  set_error(Error(Error::ENDED, "the session was ended by a signal handler while this call was waiting"));
  return false;
}

namespace {

// Runs f, turning Error into the Python exception.
template <class F>
auto call(F f) -> decltype(f()) {
  try {
    return f();
  } catch (const Error& e) {
    set_error(e);
    throw nb::python_error();
  }
}
void need_session() {
  if (!usable()) throw nb::python_error();
}

// A thread that sleeps until the supervisor is gone, then tells the waiters. It runs no Python.
struct Watcher {
  std::thread thread;
  int stop = -1;
  int link = -1;        // what it watches
  int connection = -1;  // a guest's, which is the caller's too
  ~Watcher();
} watcher;

void after_fork_in_child() {
  if (S.attached) C.forked = true;
  // The end of its connection tells of a guest's death: a child that lives on must not keep it open.
  if (watcher.connection >= 0) {
    close(watcher.connection);
    close(watcher.link);
    watcher.connection = watcher.link = -1;
  }
}

void attach(int memfd, int eventfd_, u32 slot, int role) {
  call([&] {
    if (S.attached) throw Error(Error::INVALID, "this process already takes part in a session");
    C = Client{};
    try {
      C.attach(memfd, eventfd_);
    } catch (...) {
      close(memfd);
      close(eventfd_);
      throw;
    }
    C.let_others_run = [] { return static_cast<void*>(new NoGil); };
    C.come_back = [](void* nogil) { delete static_cast<NoGil*>(nogil); };
    ready_pressure();
    S.mapping = new Mapping{C.rw, const_cast<u8*>(C.ro), C.h->bytes, 1};
    S.attached = true;
    S.epoch++;
    S.block_depth = S.help_depth = 0;
    S.main_thread = PyThread_get_thread_ident();
    forget_views();
    S.guest = role == ROLE_GUEST;
    C.become(slot, Role(role), i32(getpid()));
  });
}

// In a child made by fork(): it becomes a participant of its own, with no references yet.
void become(u32 slot, int role) {
  S.epoch++;
  S.block_depth = S.help_depth = 0;
  S.main_thread = PyThread_get_thread_ident();
  madvise(C.local, COUNTS_BYTES, MADV_DONTNEED);
  C.become(slot, Role(role), i32(getpid()));
}

Watcher::~Watcher() {
  if (thread.joinable()) abandon(thread);  // the interpreter ended without shutdown()
}

// How a child of ours ended, which its parent may still wait for: its exit code, minus the signal, or 256 if nobody knows.
i32 how_it_ended(int pidfd) {
  siginfo_t info{};
  if (waitid(idtype_t(3) /* P_PIDFD */, id_t(pidfd), &info, WEXITED | WNOWAIT | WNOHANG) != 0 || !info.si_pid) return 256;
  return info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
}

void unwatch();

// The driver's is the one word that tells everybody; a guest that has lost its connection tells its own threads.
// Takes over `link`, which is a pidfd if it is the driver's.
void watch(int link, short events, Header* h, bool* cut) {
  watcher.link = link;
  Slot* slot = C.me;
  try {
    int stop = watcher.stop = descriptor(eventfd(0, EFD_CLOEXEC), "eventfd");
    watcher.thread = own_thread([=] {
      pollfd fds[2] = {{link, events, 0}, {stop, POLLIN, 0}};
      while (poll(fds, 2, -1) < 0 && errno == EINTR) {
      }
      if (fds[0].revents & (events | POLLHUP)) {
        if (h) {
          h->supervisor_status.store(how_it_ended(link));
          h->dead.store(1);
        }
        if (cut) __atomic_store_n(cut, true, __ATOMIC_SEQ_CST);
        slot->ring.fetch_add(1);
        syscall(SYS_futex, &slot->ring, FUTEX_WAKE, 0x7fffffff, nullptr, nullptr, 0);
      }
    });
  } catch (...) {
    unwatch();
    throw;
  }
}

void watch_supervisor(int pidfd) { watch(pidfd, POLLIN, C.h, nullptr); }

void watch_connection(int fd) {
  int link = descriptor(fcntl(fd, F_DUPFD_CLOEXEC, 3), "fcntl");
  watcher.connection = fd;
  watch(link, POLLRDHUP, nullptr, &C.cut);
}

// In the child of a fork too: there the thread is the parent's.
void unwatch() {
  if (watcher.thread.joinable()) {
    u64 one = 1;
    if (C.forked) {
      abandon(watcher.thread);
    } else {
      if (write(watcher.stop, &one, sizeof one) < 0) return;
      NoGil nogil;
      watcher.thread.join();
    }
  }
  for (int* fd : {&watcher.stop, &watcher.link})
    if (*fd >= 0) close(std::exchange(*fd, -1));
  watcher.connection = -1;
}

// False: this process may still touch the arena, or needs what it holds there. A guest must not say that it has left then.
bool detach() {
  if (!S.attached) return true;
  bool guest = !C.forked && C.me->role.load() == ROLE_GUEST;
  unwatch();
  S.attached = false;
  S.epoch++;
  // Other threads of this process may be asleep in the arena. They wake, find the session gone, and raise.
  for (u64 end = now_ns() + 2000000000ull; !C.forked && S.inside > 0 && now_ns() < end;) {
    C.ring(C.slot);
    NoGil nogil;
    usleep(50);
  }
  if ((S.inside > 0 || S.handlers > 0) && !C.forked) {  // somebody is still in there: what they look at stays
    if (guest) __atomic_store_n(&C.cut, true, __ATOMIC_SEQ_CST);
    else C.h->dead.store(1);
    return false;
  }
  if (guest && !C.cut && !C.h->dead.load() && !take_views_along()) return false;
  S.inside = 0;
  Mapping* m = S.mapping;
  S.mapping = nullptr;
  munmap(C.local, COUNTS_BYTES);
  close(C.memfd);
  close(C.eventfd);
  if (C.spillfd >= 0) close(C.spillfd);
  drop_mapping(m);
  C = Client{};
  return true;
}

Task* task_at(u64 offset) { return C.at<Task>(offset); }

// What the supervisor decides upon, for one task of a dead process.
nb::dict task_info(u64 offset) {
  Task* t = task_at(offset);
  nb::dict d;
  d["id"] = t->id;
  d["kind"] = int(t->kind);
  d["flags"] = int(t->flags);
  d["retries"] = t->retries;
  d["attempt"] = t->attempt;
  d["timeout_ms"] = t->timeout_ms;
  d["spawned"] = t->spawned != 0;
  d["function"] = t->function;
  d["actor"] = t->actor;
  d["method"] = t->method;
  d["shape"] = t->shape;
  d["runner"] = i32(t->runner) - 1;
  bool streamed = false;
  if (t->flags & TASK_STREAMING && t->nreturns) streamed = t->scratch != 0 || t->streamed;
  d["streamed"] = streamed;
  u32 pending = 0;
  for (u32 i = 0; i < t->nreturns; i++) {
    Handle r = C.returns(t)[i];
    pending += C.valid(r) && C.entry(r).task == offset && C.entry(r).state.load() == ENTRY_PENDING;
  }
  Handle next = t->scratch;  // of a generator that died between two items
  pending += next && C.valid(next) && C.entry(next).task == offset;
  d["done"] = t->nreturns ? !pending : t->ndeps < t->ndeps_max;  // its process died while it cleared up
  return d;
}

u64 next_running(u32 slot) { return C.slots[slot].running; }

nb::dict actor_info(u64 handle) {
  Actor* a = C.actor(handle);
  nb::dict d;
  d["state"] = int(a->state.load());
  d["slot"] = a->slot.load();
  d["pid"] = a->state.load() == ACTOR_ALIVE ? C.slots[a->slot.load()].pid : 0;
  d["closing"] = a->closing.load();
  d["killed"] = a->closing.load() == 2 || a->kill.load() != 0;
  d["restarts"] = a->restarts;
  d["waiting"] = a->count.load();
  d["name"] = std::string(a->name, strnlen(a->name, MAX_NAME));
  d["class"] = a->class_object;
  d["task_retries"] = a->task_retries;
  d["creation"] = a->creation;
  const Slot& host = C.slots[a->slot.load()];
  d["hosted"] = host.actor == handle && host.state.load() == SLOT_ALIVE;
  return d;
}

nb::dict statistics() {
  need_session();
  Header* h = C.h;
  nb::dict d;
  u32 live = 0, top = h->heap.entry_top.load();
  for (u32 i = 1; i < top; i++) live += C.entries[i].state.load(std::memory_order_relaxed) != ENTRY_FREE;
  d["objects"] = live;
  d["used_bytes"] = h->heap.used.load() * PAGE;
  d["peak_bytes"] = h->heap.peak.load() * PAGE;
  d["limit_bytes"] = u64(h->heap.pages_limit) * PAGE;
  d["idle_bytes"] = h->heap.warm_free.load() * PAGE;
  d["spilled_bytes"] = h->spill.bytes.load();
  d["spilled_objects"] = h->spill.objects.load();
  d["tasks_submitted"] = h->stats.tasks_submitted.load();
  d["tasks_finished"] = h->stats.tasks_finished.load();
  d["tasks_failed"] = h->stats.tasks_failed.load();
  d["deaths"] = h->stats.deaths.load();
  d["lock_deaths"] = h->stats.lock_deaths.load();
  return d;
}

nb::list processes() {
  need_session();
  nb::list all;
  for (u32 i = 0, n = C.h->slots_top.load(); i < n; i++) {
    Slot& s = C.slots[i];
    u32 state = s.state.load();
    if (state == SLOT_FREE) continue;
    nb::dict d;
    d["slot"] = i;
    d["state"] = int(state);
    d["role"] = int(s.role.load());
    d["pid"] = peek(s.pid);  // 0: it is only being started; with a role it has a pid, which was there before the role
    d["label"] = nb::steal(PyUnicode_DecodeUTF8(s.label, Py_ssize_t(strnlen(s.label, MAX_NAME)), "replace"));
    d["actor"] = s.actor.load();
    d["blocked"] = s.blocked != 0;
    d["lease"] = s.lease;
    d["running"] = s.running != 0;
    all.append(d);
  }
  return all;
}

nb::dict resources() {
  need_session();
  nb::dict d;
  for (u32 i = 0; i < C.h->sched.nresources; i++) {
    Resource& r = C.h->sched.resources[i];
    d[r.name] = nb::make_tuple(r.total, r.available.load());
  }
  return d;
}

void set_resource(const std::string& name, i64 total) {
  call([&] {
    u32 id = C.resource_id(name);
    Tx tx(C);
    tx.lock(C.h->sched.lock);
    Resource& r = C.h->sched.resources[id];
    tx.set(r.available, r.available.load() + total - r.total);
    tx.set(r.total, total);
    if (name == "GPU")
      for (u32 g = 0; g < MAX_GPUS; g++) tx.set(C.h->sched.gpu_available[g], i64(g) * 10000 < total ? i64(10000) : i64(0));
    tx.commit();
  });
}

nb::tuple shape(const std::vector<std::pair<std::string, i64>>& demand) {
  need_session();
  bool feasible = false;
  u32 id = call([&] { return C.shape_of(demand, &feasible); });
  return nb::make_tuple(id, feasible);
}

// How many queued tasks could run now, as far as resources go, how many workers are looking for one, and how many will soon.
nb::tuple demand() {
  auto [idle, coming] = C.looking();
  return nb::make_tuple(C.could_run(), idle, coming);
}

u64 ref_handle(nb::handle ref) {
  Handle h;
  if (!live_ref(ref.ptr(), &h)) throw nb::python_error();
  return h;
}

nb::object share(u64 h) { return nb::steal(share_ref(h)); }

void set_hooks(nb::dict hooks) {
  auto take = [&](const char* name) {
    return hooks.contains(name) ? nb::object(hooks[name]).release().ptr() : throw nb::key_error(name);
  };
  S.serialize = take("serialize");
  S.serialize_mutable = take("serialize_mutable");
  S.deserialize = take("deserialize");
  S.deserialize_private = take("deserialize_private");
  S.make_error = take("make_error");
  S.raised = take("raised");
  S.help = take("help");
  S.lock_died = take("lock_died");
  S.deadlock = take("deadlock");
  S.threads = take("threads");
  S.memory_low = take("memory_low");
  S.full_error = take("full_error");
}

}  // namespace
}  // namespace shoal::py

using namespace shoal;
using namespace shoal::py;

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);
  m.doc() = "Shoal's native core. Private: the public names are in the package shoal.";
  if (!ready_refs(m.ptr()) || !ready_objects(m.ptr()) || !ready_tasks(m.ptr()) || !ready_sync(m.ptr()) || !ready_signals(m.ptr()) ||
      !ready_containers(m.ptr()) || !ready_memory(m.ptr()) || !ready_versioned(m.ptr()) || !ready_ring(m.ptr()) ||
      !ready_spill(m.ptr()) || !ready_ownership(m.ptr()) || !ready_ends(m.ptr()))
    throw nb::python_error();
  pthread_atfork(nullptr, nullptr, after_fork_in_child);

  m.attr("MAX_PROCESSES") = MAX_PROCESSES;
  m.attr("MAX_OBJECTS") = MAX_OBJECTS;
  m.attr("MAX_SHAPES") = MAX_SHAPES;
  m.attr("MAX_RESOURCES") = MAX_RESOURCES;
  m.attr("MAX_DEMANDS") = MAX_DEMANDS;
  m.attr("DRAFTS") = DRAFTS;
  m.attr("HOLDS") = HOLDS;
  m.attr("WAIT_NODES") = WAIT_NODES;
  m.attr("DRIVER") = int(ROLE_DRIVER);
  m.attr("SUPERVISOR") = int(ROLE_SUPERVISOR);
  m.attr("WORKER") = int(ROLE_WORKER);
  m.attr("ACTOR") = int(ROLE_ACTOR);
  m.attr("GUEST") = int(ROLE_GUEST);
  m.attr("VERSION") = SHOAL_VERSION;
  m.attr("ABI_VERSION") = ABI_VERSION;
  // Of the structs: two builds of one version that lay them out differently must not meet.
  m.attr("ABI_LAYOUT") = sizeof(Header) * 31 + sizeof(Slot) * 7 + sizeof(Task) * 5 + sizeof(Actor) * 3 + sizeof(Mutex) + sizeof(Sync);
  m.attr("CRASH_POINTS") =
#ifdef SHOAL_CRASH_POINTS
      true;
#else
      false;
#endif

#ifdef SHOAL_CRASH_POINTS
  m.def("arm_crash_point", [](const std::string& spec) { arm_crash_point(spec.c_str()); });
#endif
  m.def("set_hooks", &set_hooks);

  // sessions
  m.def("create_arena", [](u64 heap_bytes, u32 cpus) {
    return call([&] {
      int event = descriptor(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd"), fd = -1;
      try {
        fd = descriptor(memfd_create("shoal", MFD_CLOEXEC | MFD_ALLOW_SEALING), "memfd_create");
        Client::format(fd, heap_bytes, cpus);
      } catch (...) {
        if (fd >= 0) close(fd);
        close(event);
        throw;
      }
      return std::make_pair(fd, event);
    });
  });
  m.def("address_space", &Client::address_space);
  m.def("end_reason", [](const std::string& text) { std::strncpy(C.h->end_reason, text.c_str(), sizeof C.h->end_reason - 1); });
  m.def("attach", &attach);
  m.def("become", &become);
  m.def("detach", &detach);
  m.def("watch_supervisor", &watch_supervisor);
  m.def("watch_connection", &watch_connection);
  m.def("attached", [] { return S.attached && !C.forked; });
  m.def("forked", [] { return S.attached && C.forked; });
  m.def("dead", [] { return S.attached && (C.h->dead.load() != 0 || C.cut); });
  m.def("slot", [] { return C.slot; });
  m.def("role", [] { return int(C.me->role.load()); });
  m.def("session_id", [] { need_session(); return C.h->session; });
  m.def("stop", [] {  // tells everybody that the session ends
    if (!S.attached || C.forked) return;
    C.h->stopping.store(1);
    for (u32 i = 0, n = C.h->slots_top.load(); i < n; i++)
      if (C.slots[i].state.load() == SLOT_ALIVE) C.ring(i);
    C.h->wanted.store(0);
    C.ring_supervisor();
  });
  m.def("stopping", [] { return C.h->stopping.load() != 0; });
  m.def("set_config", [](nb::handle ref) {
    Handle h = ref_handle(ref);
    call([&] { C.add_contained(h); });
    C.h->config = h;
  });
  m.def("config", [] { return share(C.h->config); });
  m.def("label", [](const std::string& text) {
    need_session();
    std::strncpy(C.me->label, text.c_str(), MAX_NAME - 1);
  });
  m.def("ring_seen", [] { return S.attached ? C.me->ring.load(std::memory_order_seq_cst) : 0; });
  m.def("watch", [](nb::handle ref) {
    Handle h = ref_handle(ref);
    call([&] { C.watch(h); });
  });
  m.def("collect_refs", [](nb::object f) {  // f() and the references that it pickled, which are not pinned then
    Collector c;
    nb::object value = f();
    nb::list refs;
    for (PyObject* r : c.refs) refs.append(nb::borrow(r));
    return nb::make_tuple(value, refs);
  });
  m.def("statistics", &statistics);
  m.def("processes", &processes);
  m.def("check", [] { need_session(); return call([] { return C.check(); }); });
  m.def("object_info", [](nb::handle ref) {
    Handle h = ref_handle(ref);
    Entry& e = C.entry(h);
    nb::dict d;
    d["state"] = int(e.state.load());
    d["kind"] = int(e.kind);
    d["bytes"] = e.flags & (FLAG_HAS_BLOCK | FLAG_SPILLED) ? e.size : 0;
    d["spilled"] = (e.flags & FLAG_SPILLED) != 0;
    d["holders"] = e.holders;
    d["contained"] = e.contained;
    return d;
  });
  nb::class_<Bridge>(m, "Bridge")
      .def("__init__", [](Bridge* b) {
        need_session();
        new (b) Bridge();
      })
      .def("fileno", &Bridge::fileno)
      .def("arm", &Bridge::arm)
      .def("leave", &Bridge::leave)
      .def("close", &Bridge::close_);

  // scheduling
  m.def("resources", &resources);
  m.def("set_resource", &set_resource);
  m.def("my_gpus", [] { return C.me->gpus; });
  m.def("my_demand", [] {  // what this process has been granted: (resource, amount)
    std::vector<std::pair<std::string, i64>> out;
    if (!C.me->lease) return out;
    const Shape& x = C.h->sched.shapes[C.me->lease - 1];
    for (u32 k = 0; k < x.ndemands; k++) out.emplace_back(C.h->sched.resources[x.resource[k]].name, x.amount[k]);
    return out;
  });
  m.def("actors", [] { return C.h->actors.load(); });
  m.def("shape", &shape);
  m.def("task_attempt", [](u64 task) { return task_at(task)->attempt; });
  m.def("task_id", [](u64 task) { return task_at(task)->id; });
  m.def("retry", [](u64 task) {  // one retry less; false: none is left
    need_session();
    Task* t = task_at(task);
    if (t->retries == 0) return false;
    if (t->retries > 0) t->retries--;
    return true;
  });
  m.def("mark_streamed", [](u64 task) { need_session(); task_at(task)->streamed = 1; });
  m.def("producer", [](nb::handle ref) {  // the task that makes it: (slot that runs it or -1, task id, kind, actor, has it submitted any?) or None
    Handle h = ref_handle(ref);
    Entry& e = C.entry(h);
    Tx tx(C);
    tx.lock(e.lock);
    if (!e.task || e.state.load() != ENTRY_PENDING) return nb::object(nb::none());
    Task* t = task_at(e.task);
    return nb::object(nb::make_tuple(t->state.load() == TASK_RUNNING ? int(t->runner) - 1 : -1, t->id, int(t->kind), t->actor,
                                     t->spawned || t->kind == TASK_ACTOR_CALL));
  });

  // actors
  m.def("create_actor", [](u32 shape, u64 class_object, const std::string& name, int restarts, int max_pending, int task_retries,
                           bool detached) {
    need_session();
    Handle h = call([&] { return C.create_actor(shape, class_object, name, restarts, max_pending, task_retries, detached); });
    return nb::steal(new_ref(h));
  });
  m.def("actor_alive", [](u64 h, u64 creation, bool keep) {
    need_session();
    call([&] { C.actor_alive(h); });
    C.actor(h)->creation = keep ? creation : 0;
  });
  m.def("actor_dead", [](u64 h, nb::handle death) {
    need_session();
    Handle d = ref_handle(death);
    return call([&] { return C.actor_dead(h, d); });
  });
  m.def("actor_restarting", [](u64 h) { need_session(); return call([&] { return C.actor_restarting(h); }); });
  m.def("actor_drop_life", [](u64 h) { need_session(); call([&] { C.actor_drop_life(h); }); });
  m.def("actor_starts", [](u64 h) { need_session(); call([&] { C.actor_starts(h); }); });
  m.def("actor_hold", [](u64 h) {  // a reference, or None if it is gone: whoever reads or changes an actor needs one
    try {
      C.acquire(h);
    } catch (const Error& e) {
      if (e.code == Error::GONE) return nb::object(nb::none());
      set_error(e);
      throw nb::python_error();
    }
    return nb::steal(new_ref(h));
  });
  m.def("actor_death", [](u64 h) {
    Handle d = C.actor(h)->death;
    return d ? share(d) : nb::object(nb::none());
  });
  m.def("actor_info", &actor_info);
  m.def("actor_leaves", [](u64 h) { need_session(); return call([&] { return C.actor_leaves(h); }); });
  m.def("mail_count", [](u64 h) { return C.mail_count(h); });
  m.def("actor_close", [](u64 h, u32 how) {  // 1: after the mailbox, 2: now
    need_session();
    Actor* a = C.actor(h);
    a->closing.store(how);
    if (a->state.load() == ACTOR_ALIVE) C.ring(a->slot.load());
  });
  m.def("cancel_creation", [](u64 h) {
    need_session();
    Task* t = call([&] { return C.cancel_creation(h); });
    return t ? C.offset(t) : 0;
  });
  m.def("take_dead_mail", [](u64 h) {
    need_session();
    Task* t = call([&] { return C.take_all_mail(h); });
    return t ? C.offset(t) : 0;
  });

  // names
  m.def("name_set", [](int space, const std::string& name, nb::handle ref) {
    Handle h = ref_handle(ref);
    return call([&] { return C.name_set(NameSpace(space), name, h); });
  });
  m.def("name_get", [](int space, const std::string& name) {
    need_session();
    Handle h = call([&] { return C.name_get(NameSpace(space), name, true); });
    return h ? nb::steal(new_ref(h)) : nb::object(nb::none());
  });
  m.def("name_remove", [](int space, const std::string& name, u64 h) {
    need_session();
    return call([&] { return C.name_remove(NameSpace(space), name, h); });
  });
  m.def("name_list", [](int space) {
    need_session();
    return call([&] { return C.name_list(NameSpace(space)); });
  });

  // the supervisor
  m.def("ring_supervisor", [] { C.ring_supervisor(); });
  m.def("supervisor_looks", [] { return C.h->wanted.exchange(0) != 0; });  // was it rung?
  m.def("crowd", [] { return C.h->crowd.load() != 0; });
  m.def("spread", [](i64 last, double ms) { return call([&] { return C.spread(last, ms); }); });
  m.def("demand", &demand);
  m.def("die_with_parent", [] { prctl(PR_SET_PDEATHSIG, 9); });
  m.def("share", &share);
  m.def("claim_slot", [] { return call([] { return C.claim_slot(); }); });
  m.def("watch_life", [](u32 slot, int fd, bool pidfd) { C.watch_life(slot, fd, pidfd ? POLLIN : POLLRDHUP); });
  m.def("session_over", [] {  // the supervisor's last word, once its children are gone
    C.h->dead.store(1);
    for (u32 i = 0, n = C.h->slots_top.load(); i < n; i++)
      if (C.slots[i].state.load() == SLOT_ALIVE) C.ring(i);
  });
  m.def("ring", [](u32 slot) { C.ring(slot); });
  m.def("command", [](u32 slot, u32 bits) {
    C.slots[slot].command.fetch_or(bits);
    C.ring(slot);
  });
  m.def("slot_info", [](u32 slot) {
    Slot& s = C.slots[slot];
    return nb::make_tuple(int(s.state.load()), int(s.role.load()), s.pid, s.actor.load(),
                          nb::steal(PyUnicode_DecodeUTF8(s.label, Py_ssize_t(strnlen(s.label, MAX_NAME)), "replace")));
  });
  m.def("recover", [](u32 slot, bool death) { call([&] { C.recover(slot, death); }); });
  m.def("next_running", &next_running);
  m.def("task_info", &task_info);
  m.def("finish_silent", [](u64 task) { need_session(); call([&] { C.finish(task_at(task)); }); });
  m.def("sweep", [](u32 slot) {  // the actors that it had made, but not submitted
    call([&] { C.sweep(slot); });
    return std::exchange(C.stillborn, {});
  });
  m.def("free_slot", [](u32 slot) { call([&] { C.free_slot(slot); }); });
  m.def("set_memory_wait", [](double seconds) { C.h->heap.wait_ns = u64(seconds * 1e9); });
  m.def("unwatch_memory", [] { C.h->unwatched.store(1); });
  m.def("busy", [] {  // processes that run calls, and do not sleep in a wait of ours
    u32 n = 0;
    for (u32 i = 2, top = C.h->slots_top.load(); i < top; i++)
      n += C.slots[i].state.load() == SLOT_ALIVE && peek(C.slots[i].running) && C.h->sched.awake[i / 64].load() >> i % 64 & 1;
    return n;
  });
  // What a live process runs, as a hint: (TaskKind, retries left, attempt) of the innermost call, or None.
  m.def("running_call", [](u32 slot) {
    Offset o = peek(C.slots[slot].running);
    Task* t = task_at(o);
    if (!o || t->runner != slot + 1 || t->state.load() != TASK_RUNNING) return nb::object(nb::none());
    return nb::object(nb::make_tuple(int(t->kind), t->retries, t->attempt));
  });
  m.def("trim", [](u32 older_than_s) { return call([&] { return C.trim(older_than_s); }); });
  m.def("trim_state", [] { return nb::make_tuple(C.h->heap.trim_armed.load() != 0, C.h->heap.warm_free.load() * PAGE); });
  m.def("trim_disarm", [] { C.h->heap.trim_armed.store(0); });
}
