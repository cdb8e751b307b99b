#include "harness.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <map>

namespace shoal::stress {

constexpr u32 STALL_S = 90;  // without any finished operation: something hangs

Board* board = static_cast<Board*>(mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));

static Client* shown = nullptr;  // what failed() dumps

void failed(const char* what, const char* file, int line, const std::string& more) {
  std::fprintf(stderr, "stress: FAILED: %s (%s:%d) in process %d\n%s\nin %s\n", what, file, line, int(getpid()), more.c_str(), board->doing);
  if (shown) dump(*shown);
  std::fflush(nullptr);
  std::abort();
}

void doing(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(board->doing, sizeof board->doing, format, args);
  va_end(args);
}

std::string take_counts() {
  static const char* names[NCOUNTS] = {"operations", "puts",     "tasks", "steals", "cancels",      "actor calls", "of them checked for order",
                                       "stream items", "actors killed", "critical sections", "changes of containers", "of versions", "views", "ring records", "ownerships", "values spilled", "read back",
                                       "time-outs",    "names",    "refused for lack of memory", "deaths", "tasks run again"};
  std::string text;
  for (u32 i = 0; i < NCOUNTS; i++)
    if (u64 n = board->counts[i].exchange(0)) text += (text.empty() ? "" : ", ") + std::to_string(n) + " " + names[i];
  return text;
}

// ------------------------------------------------------------------------------------------- watchdog

void start_watchdog() {
  board->memfd.store(-1);
  pid_t parent = getpid(), pid = fork();
  if (pid != 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  u64 seen = 0;
  for (u32 idle = 0; getppid() == parent; idle++) {
    timespec t{1, 0};
    nanosleep(&t, nullptr);
    u64 now = board->progress.load();
    if (now != seen) idle = 0;
    seen = now;
    if (idle < STALL_S) continue;
    std::fprintf(stderr, "stress: FAILED: nothing has happened for %u seconds in %s\n", STALL_S, board->doing);
    std::string path = "/proc/" + std::to_string(parent) + "/fd/" + std::to_string(board->memfd.load());
    int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
      Client c;
      c.attach(fd, -1);
      dump(c);
    }
    std::fflush(nullptr);
    kill(parent, SIGABRT);
    break;
  }
  _exit(1);
}

static std::string place(Client& c, Offset o) {
  char text[64];
  if (o >= c.h->entries && o < c.h->pages) {
    std::snprintf(text, sizeof text, "entry %llu", (unsigned long long)((o - c.h->entries) / sizeof(Entry)));
  } else if (o >= c.h->slots) {
    std::snprintf(text, sizeof text, "heap +%#llx", (unsigned long long)(o - c.h->heap_base));
  } else {
    auto in = [&](const void* p, u64 size) { return o >= c.offset(p) && o < c.offset(p) + size; };
    if (in(&c.h->names, sizeof(Names))) return "names";
    if (in(c.h->sched.shapes, sizeof c.h->sched.shapes)) return "shape " + std::to_string((o - c.offset(c.h->sched.shapes)) / sizeof(Shape));
    if (in(&c.h->sched, sizeof(Scheduler))) return "scheduler";
    if (o == c.offset(&c.h->heap.lock)) return "heap lock";
    if (o == c.offset(&c.h->heap.entry_lock)) return "entry lock";
    if (in(c.h->heap.classes, sizeof c.h->heap.classes)) return "class " + std::to_string((o - c.offset(c.h->heap.classes)) / sizeof(SizeClass));
    std::snprintf(text, sizeof text, "header +%#llx", (unsigned long long)o);
  }
  return text;
}

static std::string task_text(Client& c, Offset o) {
  Task* t = c.at<Task>(o);
  return "task " + std::to_string(t->id) + " kind " + std::to_string(t->kind) + " state " + std::to_string(t->state.load()) + " unready " +
         std::to_string(t->unready.load()) + " flags " + std::to_string(t->flags) + " deps " + std::to_string(t->ndeps);
}

// Looks at everything without a lock: what it says of a live arena may be a little off.
__attribute__((no_sanitize("thread"))) void dump(Client& c) {
  std::fprintf(stderr, "slots: (wanted %u, heap %llu pages)\n", c.h->wanted.load(), (unsigned long long)c.h->heap.used.load());
  auto bit = [](const std::atomic<u64>* words, u32 i) { return int(words[i / 64].load() >> i % 64 & 1); };
  for (u32 i = 0; i < c.h->slots_top.load(); i++) {
    Slot& s = c.slots[i];
    if (s.state.load() == SLOT_FREE) continue;
    std::fprintf(stderr, "  %u: state %u role %u pid %d ring %u sleepers %u lease %u blocked %u idle %d spinning %d command %u actor %llx\n", i,
                 s.state.load(), s.role.load(), s.pid, s.ring.load(), s.sleepers.load(), s.lease, s.blocked, bit(c.h->sched.idle, i),
                 bit(c.h->sched.spinning, i), s.command.load(), (unsigned long long)s.actor.load());
    if (s.journal.count) std::fprintf(stderr, "     journal: %u records\n", s.journal.count);
    for (u32 k = 0; k < s.journal.nlocks && k < JOURNAL_LOCKS; k++)
      std::fprintf(stderr, "     lock %s, its owner is %u\n", place(c, s.journal.locks[k]).c_str(), c.at<SpinLock>(s.journal.locks[k])->owner.load());
    u32 most = 20;
    for (Offset o = s.running; o && most--; o = c.at<Task>(o)->qnext) std::fprintf(stderr, "     runs %s\n", task_text(c, o).c_str());
    for (auto& w : s.waits)
      if (w.queue)
        std::fprintf(stderr, "     waits for mutex %s, mode %u, owner %llx, waiters %u, woken %u\n", place(c, w.queue).c_str(), w.mode,
                     (unsigned long long)c.at<Mutex>(w.queue)->owner.load(), c.at<WaitQueue>(w.queue)->waiters.load(), w.woken.load());
    for (auto& hold : s.holds)
      if (hold.queue) std::fprintf(stderr, "     holds %s, %u times\n", place(c, hold.queue).c_str(), hold.count);
  }
  for (u32 i = 0; i < c.h->sched.nresources; i++)
    std::fprintf(stderr, "resource %s: %lld of %lld\n", c.h->sched.resources[i].name, (long long)c.h->sched.resources[i].available.load(),
                 (long long)c.h->sched.resources[i].total);
  for (u32 i = 0; i < c.h->sched.nshapes.load(); i++) {
    Shape& x = c.h->sched.shapes[i];
    std::fprintf(stderr, "shape %u: length %u\n", i, x.length.load());
    u32 most = 10;
    for (Offset o = x.head; o && most--; o = c.at<Task>(o)->qnext) std::fprintf(stderr, "     %s\n", task_text(c, o).c_str());
  }
  u32 most = 40;
  for (u32 i = 1; i < c.h->heap.entry_top.load() && most; i++) {
    Entry& e = c.entries[i];
    u32 state = e.state.load();
    if (state == ENTRY_FREE) continue;
    most--;
    std::fprintf(stderr, "entry %u: gen %u state %u kind %u flags %u holders %u (%llx) contained %u waiter %u lock %u creator %u%s\n", i,
                 e.gen.load(), state, e.kind.load(), e.flags, e.holders, (unsigned long long)e.holder_bits[0].load(), e.contained, e.waiter,
                 e.lock.owner.load(), e.creator, e.dependents ? ", awaited by tasks" : "");
    if (e.task) std::fprintf(stderr, "     made by %s\n", task_text(c, e.task).c_str());
    if (e.kind != KIND_ACTOR || state != ENTRY_READY) continue;
    Actor* a = c.at<Actor>(e.payload + 64);
    std::fprintf(stderr, "     actor: state %u count %u unready %u slot %u closing %u restarts %d\n", a->state.load(), a->count.load(),
                 a->unready.load(), a->slot.load(), a->closing.load(), a->restarts);
    u32 calls = 10;
    for (Offset o = a->head; o && calls--; o = c.at<Task>(o)->qnext) std::fprintf(stderr, "     %s\n", task_text(c, o).c_str());
  }
}

// ---------------------------------------------------------------------------------------------- world

World::World(u64 heap_bytes, u32 workers, u32 actors, bool spills) {
  int fd = memfd_create("shoal-stress", MFD_CLOEXEC);
  REQUIRE(fd >= 0);
  Client::format(fd, heap_bytes, 2);
  c.attach(fd, eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  c.become(SUPERVISOR_SLOT, ROLE_SUPERVISOR, i32(getpid()));
  if (spills) {  // a memfd would not do: its file system does not say how much room there is
    c.spillfd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    REQUIRE(c.spillfd >= 0);
  }
  shown = &c;
  board->memfd.store(fd);
  resources_ = {{"CPU", i64(workers) * 10000}, {"GPU", 10000}, {"ACTOR", i64(actors) * 10000}};
  for (auto& [name, total] : resources_) {
    u32 id = c.resource_id(name);
    Resource& r = c.h->sched.resources[id];
    r.total = total;
    r.available.store(total);
  }
  c.h->sched.gpu_available[0] = 10000;
  bool feasible;
  shapes = {c.shape_of({{"CPU", 10000}}, &feasible), c.shape_of({}, &feasible), c.shape_of({{"CPU", 5000}}, &feasible),
            c.shape_of({{"GPU", 10000}, {"CPU", 5000}}, &feasible)};
  actor_shape = c.shape_of({{"ACTOR", 10000}}, &feasible);
}

World::~World() {
  shown = nullptr;
  board->memfd.store(-1);
  if (c.spillfd >= 0) close(c.spillfd);
  c.spillfd = -1;
  c.detach();
}

Client World::client() const {
  Client mine = c;
  void* counts = mmap(nullptr, COUNTS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(counts != MAP_FAILED);
  mine.local = static_cast<u32*>(counts);
  mine.views = mine.local + MAX_OBJECTS;
  return mine;
}

Handle put_nothing(Client& c, bool failed) {
  Handle h = c.create(KIND_VALUE);
  c.set_inline(h, TAG_NONE, 0);
  c.publish(h, failed);
  return h;
}

Handle new_mutable(Client& c, u64 size) {
  Handle h = c.create(KIND_MUTABLE);
  try {
    c.begin_payload(h, FORMAT_PICKLE, 0, 1, 0, &size);
  } catch (const Error&) {
    c.release(h);
    throw;
  }
  std::memset(static_cast<void*>(guarded(c, h)), 0, size);
  c.publish(h, false);
  return h;
}

Handle new_owned(Client& c, u64 size) {
  Handle h = c.create(KIND_MUTABLE);
  c.entry(h).flags |= FLAG_OWNED;
  c.begin_payload(h, FORMAT_PICKLE, 0, 1, 0, &size);
  std::memset(c.rw + c.entry(h).payload + c.spans(h)[0].start, 0, size);
  c.owner_begin(h, 0);
  c.publish(h, false);
  REQUIRE(c.owner_transfer(h, 0) == Client::Owned::YES);
  return h;
}

void World::make_locks(u32 n) {
  for (u32 i = 0; i < n; i++) locks.push_back(new_lock(c));
}

void World::make_containers() {
  queue = c.create_queue(0);
  table = c.create_table();
  Handle first = put_nothing(c, false);
  cell = c.create_cell(first);
  c.release(first);
  ring = new_mutable(c, sizeof(Records));
  for (Handle& h : owned) h = new_owned(c, 64);
}

// The order of docs/design.md, section 4. A lock that lies in the heap is a container's, which comes before its values'
// entries, or a task's, an actor's, a mutex's, which come after; of two entries the lower comes first.
void check_lock_order(Client& c) {
  auto rank = [&](Offset o) {
    if (o >= c.h->heap_base) return 0;
    if (o == c.offset(&c.h->names.lock)) return 1;
    if (o >= c.h->entries) return 2;
    if (o == c.offset(&c.h->sched.lock)) return 3;
    if (o >= c.offset(c.h->sched.shapes) && o < c.offset(c.h->sched.shapes + MAX_SHAPES)) return 4;
    if (o == c.offset(&c.h->spill.lock)) return 5;
    if (o >= c.offset(c.h->heap.classes) && o < c.offset(c.h->heap.classes + NUM_CLASSES)) return 6;
    return 7;  // the heap's, and that of the free entries, which is taken alone
  };
  const Journal& j = c.me->journal;
  Offset last = j.locks[j.nlocks - 1];
  for (u32 k = 0; k + 1 < j.nlocks; k++) {
    int before = rank(j.locks[k]), now = rank(last);
    bool right = before < now || (before == now && (now == 0 || (now == 2 && j.locks[k] < last))) || (now == 0 && before <= 2);
    REQUIRE_TEXT(right, place(c, last) + " after " + place(c, j.locks[k]));
  }
}

// --------------------------------------------------------------------------------------------- deaths
// What src/shoal/engine/local/supervisor.py does, with an exception that says nothing.

static bool owes(Client& c, Task* t) {
  for (u32 i = 0; i < t->nreturns; i++)
    if (c.owes(t, c.returns(t)[i])) return true;
  return t->scratch != 0;
}

static void end_task(Client& c, Task* t, bool failed) {
  auto seal = [&](Handle h) {
    if (!c.owes(t, h)) return;
    c.reset_payload(h);
    c.set_inline(h, TAG_NONE, 0);
    c.publish(h, failed);
  };
  for (u32 i = 0; i < t->nreturns; i++) seal(c.returns(t)[i]);
  if (t->scratch) {
    Handle h = t->scratch;
    c.stream_advance(t);
    seal(h);
  }
  c.finish(t);
}

void fail_task(Client& c, Task* t) { end_task(c, t, true); }

void drop_contained(Client& c, Handle h) {
  bool dead;
  {
    Tx tx(c);
    dead = c.drop_contained_tx(tx, h);
    tx.commit();
  }
  if (dead) c.dispose(h);
  if (!c.to_ring.empty()) c.after_tx();
}

static bool retry(Task* t) {
  if (t->retries == 0) return false;
  if (t->retries > 0) t->retries--;
  count(RETRIED);
  return true;
}

void World::orphan(Task* t) {
  if (!owes(c, t)) return c.finish(t);
  if (t->flags & TASK_CANCELLED) return fail_task(c, t);
  bool again;
  if (t->kind == TASK_ACTOR_CALL) {
    Actor* a = c.actor(t->actor);
    again = a->restarts != 0 && a->closing.load() != 2 && retry(t);
  } else {
    bool streamed = t->flags & TASK_STREAMING && (t->scratch || t->streamed);
    again = !streamed && retry(t);
  }
  if (again) c.requeue(t);
  else fail_task(c, t);
}

bool World::restart(Task* t) {
  if (!c.sealed(t->actor)) return false;  // killed before it had started, by the one who is dead now
  Actor* a = c.actor(t->actor);
  u32 closing = a->closing.load();
  bool wanted = closing == 0 || (closing == 1 && a->count.load());  // calls of handles that are gone
  if (!wanted || a->restarts == 0) return false;
  if (!c.actor_restarting(t->actor)) return false;
  retry(t);
  c.requeue(t);
  return true;
}

void mourn(Client& c, Handle actor) {
  Handle death = put_nothing(c, true);
  c.actor_dead(actor, death);
  for (auto& [name, object] : c.name_list(NAMES_ACTOR))
    if (object == actor) c.name_remove(NAMES_ACTOR, name, actor);
  while (Task* t = c.take_all_mail(actor)) fail_task(c, t);
  c.release(death);
}

void World::bury_actor(Handle actor) {
  if (!c.sealed(actor)) return;
  mourn(c, actor);
  c.actor_drop_life(actor);
}

void World::bury(u32 slot) {
  count(DIED);
  Handle actor = c.slots[slot].actor;
  c.recover(slot);
  Offset creation = 0;
  while (Offset o = c.slots[slot].running) {
    Task* t = c.at<Task>(o);
    if (t->kind == TASK_CREATE_ACTOR && o != creation) {
      actor = t->actor;
      creation = o;
      if (restart(t)) continue;
      bury_actor(actor);
      c.finish(t);
    } else {
      orphan(t);
    }
  }
  if (actor && !creation) bury_actor(actor);
  c.sweep(slot);
  for (Handle h : c.stillborn) bury_actor(h);
  c.stillborn.clear();
  c.free_slot(slot);
}

// ---------------------------------------------------------------------------------------------- audit

bool World::settled() {
  u32 alive = 0;
  for (u32 i = 1, n = c.h->heap.entry_top.load(); i < n; i++) alive += c.entries[i].state.load() != ENTRY_FREE;
  if (alive > locks.size() + (ring ? 7 : 0)) return false;  // the containers, and the value in the cell
  for (u32 i = 0; i < c.h->sched.nshapes.load(); i++)
    if (c.h->sched.shapes[i].length.load()) return false;
  return true;
}

void World::forget() {
  if (queue) c.queue_clear(c.queue(queue));
  std::string key;
  Handle value;
  while (table && c.table_pop_end(c.table(table), false, &key, &value)) c.release(value);
  u64 version;
  if (cell) REQUIRE(c.cell_publish(c.cell(cell), put_nothing(c, false), nullptr, &version));
  for (NameSpace space : {NAMES_ACTOR, NAMES_LOCK, NAMES_FUNCTION, NAMES_OBJECT})
    for (auto& [name, object] : c.name_list(space)) c.name_remove(space, name, object);
}

void World::drain() {
  while (Task* t = c.take_task()) {
    if (t->kind == TASK_CREATE_ACTOR) {
      bury_actor(t->actor);
      c.finish(t);
    } else {
      end_task(c, t, false);
    }
  }
}

void World::audit() {
  for (Handle h : locks) {
    REQUIRE(c.mutex(h)->owner.load() == 0 && c.mutex(h)->q.head == 0 && c.mutex(h)->q.waiters.load() == 0);
    REQUIRE(c.mutex(h)->died.load() || guarded(c, h)->a == guarded(c, h)->b);
    c.release(h);
  }
  locks.clear();
  for (Handle h : owned) {
    if (!h) continue;
    Ownership* o = c.ownership(h);
    REQUIRE(!o->q.head && !o->actor.load() && !o->host.load() && !o->requests.load());
  }
  for (Handle* h : {&queue, &table, &cell, &ring, &owned[0], &owned[1]}) {
    if (*h) c.release(*h);
    *h = 0;
  }
  u32 top = c.h->slots_top.load();
  for (u32 i = 0; i < top; i++) {
    Slot& s = c.slots[i];
    c.return_caches(s);
    REQUIRE(!s.running && !s.building && !s.journal.count && !s.journal.nlocks && !s.sleepers.load());
    for (auto& w : s.waits) REQUIRE(!w.queue);
    for (auto& hold : s.holds) REQUIRE(!hold.queue);
    if (s.state.load() == SLOT_FREE) REQUIRE(!(c.h->sched.awake[i / 64].load() >> i % 64 & 1));
    if (s.lease) c.release_lease_of(s);
  }
  std::string report = c.check();
  REQUIRE_TEXT(report.empty(), report);
  REQUIRE(settled() && c.h->names.count == 0);
  for (u32 i = 0; i < resources_.size(); i++) REQUIRE(c.h->sched.resources[i].available.load() == resources_[i].second);
  // What is left of the heap are the last, empty spans of each class.
  std::map<u32, u32> spans;
  u64 used = 0;
  for (u32 p = 1; p < c.h->heap.top; p += c.pages[p].len) {
    const PageInfo& i = c.pages[p];
    if (i.state == PAGE_FREE) continue;
    used += i.len;
    REQUIRE(i.state == PAGE_SPAN && i.nfree == i.fresh && ++spans[i.cls] == 1);
  }
  REQUIRE(used == c.h->heap.used.load());
}

}  // namespace shoal::stress
