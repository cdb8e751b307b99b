// Tasks: records, ready queues, resources, dependencies.
//
// A record is always in exactly one place, and moves between places in one transaction:
//   Slot::building -> (dependents' lists only, TASK_WAITING) -> Shape queue or Actor mailbox -> Slot::running -> freed
// so the death of any process leaves it where the supervisor finds it.
// Locks are taken in the order  Names -> Entry -> Task -> Actor -> Scheduler -> Shape -> SizeClass -> Heap.
#include <algorithm>

#include "client.h"

namespace shoal {

// ------------------------------------------------------------------------------------------- resources

u32 Client::resource_id(const std::string& name) {
  Scheduler& s = h->sched;
  if (name.size() >= sizeof(Resource::name)) throw Error(Error::INVALID, "a resource name may have at most 63 bytes: " + name);
  Tx tx(*this);
  tx.lock(s.lock);
  for (u32 i = 0; i < s.nresources; i++)
    if (name == s.resources[i].name) return i;
  if (s.nresources == MAX_RESOURCES)
    throw Error(Error::LIMIT, "MAX_RESOURCES: a session knows at most " + std::to_string(MAX_RESOURCES) + " resource names");
  u32 id = s.nresources;
  std::memcpy(s.resources[id].name, name.c_str(), name.size() + 1);
  tx.set(s.nresources, id + 1);
  tx.commit();
  return id;
}

u32 Client::shape_of(const std::vector<std::pair<std::string, i64>>& demand, bool* feasible) {
  Scheduler& s = h->sched;
  if (demand.size() > MAX_DEMANDS)
    throw Error(Error::LIMIT, "MAX_DEMANDS: a task may demand at most " + std::to_string(MAX_DEMANDS) + " different resources");
  std::vector<std::pair<u32, i64>> want;
  for (auto& [name, amount] : demand) want.emplace_back(resource_id(name), amount);
  std::sort(want.begin(), want.end());
  *feasible = true;
  Tx tx(*this);
  tx.lock(s.lock);
  for (auto& [id, amount] : want)
    if (amount > s.resources[id].total) *feasible = false;
  u32 n = s.nshapes.load(std::memory_order_relaxed);
  for (u32 i = 0; i < n; i++) {
    Shape& x = s.shapes[i];
    bool same = x.ndemands == want.size();
    for (u32 k = 0; same && k < x.ndemands; k++) same = x.resource[k] == want[k].first && x.amount[k] == want[k].second;
    if (same) return i;
  }
  if (n == MAX_SHAPES)
    throw Error(Error::LIMIT, "MAX_SHAPES: a session knows at most " + std::to_string(MAX_SHAPES) + " different resource demands");
  Shape& x = s.shapes[n];
  x.ndemands = u32(want.size());
  for (u32 k = 0; k < x.ndemands; k++) {
    x.resource[k] = u16(want[k].first);
    x.amount[k] = want[k].second;
  }
  tx.set(s.nshapes, n + 1);
  tx.commit();
  return n;
}

constexpr u16 CPU = 0, GPU = 1;
constexpr i64 UNIT = 10000;

// The GPUs that would be given for a demand of `amount`: whole ones, or a share of one, the fullest that has room, so
// that others stay whole. 0: there are none.
static u64 choose_gpus(const Scheduler& s, i64 amount) {
  u64 chosen = 0;
  if (amount >= UNIT) {
    for (u32 g = 0; g < MAX_GPUS && amount >= UNIT; g++)
      if (s.gpu_available[g] == UNIT) {
        chosen |= 1ull << g;
        amount -= UNIT;
      }
    return amount < UNIT ? chosen : 0;
  }
  i64 least = UNIT + 1;
  for (u32 g = 0; g < MAX_GPUS; g++)
    if (s.gpu_available[g] >= amount && s.gpu_available[g] < least) {
      least = s.gpu_available[g];
      chosen = 1ull << g;
    }
  return chosen;
}

bool Client::fits(const Shape& x) const {
  for (u32 k = 0; k < x.ndemands; k++)
    if (h->sched.resources[x.resource[k]].available.load(std::memory_order_relaxed) < x.amount[k]) return false;
  return true;
}

// [Scheduler::lock] Grants the demand of shape `i` to this process; false: something is missing.
bool Client::grant(Tx& tx, u32 i) {
  Scheduler& s = h->sched;
  const Shape& x = s.shapes[i];
  if (!fits(x)) return false;
  for (u32 k = 0; k < x.ndemands; k++) {
    if (x.resource[k] != GPU) continue;
    u64 gpus = choose_gpus(s, x.amount[k]);
    if (!gpus) return false;  // there is enough in all, but not of one GPU
    i64 share = x.amount[k] >= UNIT ? UNIT : x.amount[k];
    for (u32 g = 0; g < MAX_GPUS; g++)
      if (gpus >> g & 1) tx.set(s.gpu_available[g], s.gpu_available[g] - share);
    tx.set(me->gpus, gpus);
    tx.set(me->gpu_share, share);
  }
  take_resources(tx, x, 1, false);
  tx.set(me->lease, i + 1);
  return true;
}

void Client::take_resources(Tx& tx, const Shape& x, i64 sign, bool cpu_only) {
  for (u32 k = 0; k < x.ndemands; k++) {
    if (cpu_only && x.resource[k] != CPU) continue;
    auto& a = h->sched.resources[x.resource[k]].available;
    tx.set(a, a.load(std::memory_order_relaxed) - sign * x.amount[k]);
  }
}

void Client::release_lease_of(Slot& s) {
  Tx tx(*this);
  tx.lock(h->sched.lock);
  if (!s.lease) return;
  const Shape& x = h->sched.shapes[s.lease - 1];
  for (u32 k = 0; k < x.ndemands; k++) {
    if (s.blocked && x.resource[k] == CPU) continue;
    auto& a = h->sched.resources[x.resource[k]].available;
    tx.set(a, a.load(std::memory_order_relaxed) + x.amount[k]);
  }
  for (u32 g = 0; s.gpus && g < MAX_GPUS; g++)
    if (s.gpus >> g & 1) tx.set(h->sched.gpu_available[g], h->sched.gpu_available[g] + s.gpu_share);
  if (s.gpus) tx.set(s.gpus, u64(0));
  tx.set(s.lease, 0u);
  tx.set(s.blocked, 0u);
  tx.commit();
}

void Client::release_lease() {
  if (me->lease) release_lease_of(*me);
}

// A task that waits for others gives its CPU (resource 0) to them, and takes it back when it goes on, even if that
// makes more run than there are CPUs for the moment: making it queue for its CPU could deadlock.
void Client::block_begin() {
  if (!me->lease || me->blocked) return;
  {
    Tx tx(*this);
    tx.lock(h->sched.lock);
    take_resources(tx, h->sched.shapes[me->lease - 1], -1, true);
    tx.set(me->blocked, 1u);
    tx.commit();
  }
  if (runnable()) wake_worker();
}

void Client::block_end() {
  if (!me->lease || !me->blocked) return;
  Tx tx(*this);
  tx.lock(h->sched.lock);
  take_resources(tx, h->sched.shapes[me->lease - 1], 1, true);
  tx.set(me->blocked, 0u);
  tx.commit();
}

// --------------------------------------------------------------------------------------------- records

u64 Client::task_bytes(const Task* t) const {
  return sizeof(Task) + t->ndeps_max * sizeof(Dep) + t->nreturns_max * sizeof(Handle) + t->args_size;
}

Task* Client::new_task(u32 nreturns, u32 ndeps, u64 args_size, TaskKind kind) {
  u64 size = sizeof(Task) + ndeps * sizeof(Dep) + nreturns * sizeof(Handle) + args_size;
  Offset block = with_room(size, true, [&] {
    fill_cache(size);
    SHOAL_CHECK(!me->building);
    Tx tx(*this);
    Offset place = alloc_block(tx, size);
    tx.set(me->building, place | 1);  // odd: the header does not count yet
    tx.commit();
    return place;
  });
  try {
    commit_block(block, size, false);  // `building` is the whole process's: no other thread may submit meanwhile
  } catch (...) {
    discard_building(*me);
    throw;
  }
  Task* t = at<Task>(block);
  std::memset(static_cast<void*>(t), 0, sizeof(Task));
  t->id = h->sched.next_task.fetch_add(1, std::memory_order_relaxed) + 1;
  t->kind = kind;
  t->caller = slot;
  t->unready.store(1, std::memory_order_relaxed);
  t->ndeps_max = ndeps;
  t->nreturns_max = nreturns;
  t->args_size = args_size;
  CRASH_POINT("task.header");
  std::atomic_signal_fence(std::memory_order_seq_cst);
  me->building = block;
  CRASH_POINT("task.counts");
  return t;
}

Handle Client::add_return(Task* t) {
  ensure_entry();
  Tx tx(*this);
  u32 i = pop_entry(tx);
  Entry& e = entries[i];
  Handle handle = handle_of(i);
  returns(t)[t->nreturns] = handle;
  tx.set(e.holders, 1u);
  tx.set(e.contained, 1u);
  tx.set(e.task, offset(t));
  tx.set(e.holder_bits[slot / 64], 1ull << slot % 64);
  tx.set(e.state, u32(ENTRY_PENDING));
  tx.set(t->nreturns, t->nreturns + 1);
  tx.commit();
  local[i] = 1;
  return handle;
}

void Client::add_dep(Task* t, Handle object, bool wait) {
  SHOAL_CHECK(t->ndeps < t->ndeps_max);
  Dep& d = deps(t)[t->ndeps];
  d = {object, 0, offset(t), 0, 0};
  Entry& e = entry(object);
  Tx tx(*this);
  tx.lock(e.lock);
  tx.set(e.contained, e.contained + 1);
  tx.set(t->ndeps, t->ndeps + 1);
  u32 state = e.state.load(std::memory_order_relaxed);
  if (wait && (state == ENTRY_PENDING || state == ENTRY_CREATING)) {
    d.next = e.dependents;
    d.waiting = 1;
    tx.set(e.dependents, offset(&d));
    tx.lock(t->lock);
    tx.set(t->unready, t->unready.load(std::memory_order_relaxed) + 1);
  }
  tx.commit();
}

void Client::unlink_dep(Tx& tx, Dep* d) {  // [Entry::lock of the object]
  Entry& e = entry(d->object);
  Offset mine = offset(d);
  if (e.dependents == mine) {
    tx.set(e.dependents, d->next);
  } else {
    Dep* before = at<Dep>(e.dependents);
    while (before->next != mine) before = at<Dep>(before->next);
    tx.set(before->next, d->next);
  }
  tx.set(d->waiting, 0u);
}

void Client::drop_deps(Task* t) {
  while (t->ndeps) {
    Dep* d = &deps(t)[t->ndeps - 1];
    bool dead;
    {
      Tx tx(*this);
      dead = drop_contained_tx(tx, d->object);
      if (d->waiting) unlink_dep(tx, d);
      tx.set(t->ndeps, t->ndeps - 1);
      tx.commit();
    }
    if (dead) dispose(d->object);
    if (!to_ring.empty()) after_tx();
  }
}

void Client::discard_building(Slot& s) {
  Offset o = s.building;
  if (!o) return;
  Offset block = o & ~Offset(1);
  if (!(o & 1)) {
    Task* t = at<Task>(block);
    drop_deps(t);
    for (u32 i = 0; i < t->nreturns; i++) {
      Handle r = returns(t)[i];
      if (!owes(t, r)) continue;
      bool dead;
      {
        Tx tx(*this);
        dead = drop_contained_tx(tx, r);
        tx.set(entry(r).task, Offset(0));
        tx.commit();
      }
      if (dead) dispose(r);
    }
  }
  Tx tx(*this);
  free_block(tx, block);
  tx.set(s.building, Offset(0));
  tx.commit();
}

// ---------------------------------------------------------------------------------------------- queues

// [Task::lock, unless nobody else can have the record in hand] The last dependency is done.
void Client::ready(Tx& tx, Task* t) {
  if (t->kind == TASK_ACTOR_CALL) {
    Actor* a = actor(t->actor);
    tx.lock(a->lock);
    if (t->state.load(std::memory_order_relaxed) != TASK_QUEUED) return;  // taken out of a dead actor's mailbox meanwhile
    tx.set(a->unready, a->unready.load(std::memory_order_relaxed) - 1);
    if (a->state.load(std::memory_order_relaxed) == ACTOR_ALIVE) to_ring.push_back(a->slot.load());
    return;
  }
  Shape& x = h->sched.shapes[t->shape];
  tx.lock(x.lock);
  Offset o = offset(t);
  tx.set(t->qnext, Offset(0));
  tx.set(t->qprev, x.tail);
  if (x.tail) tx.set(at<Task>(x.tail)->qnext, o);
  else tx.set(x.head, o);
  tx.set(x.tail, o);
  tx.set(x.length, x.length.load(std::memory_order_relaxed) + 1);
  tx.set(t->state, u32(TASK_QUEUED));
  work_added = true;
}

// While it waits for something its record is shared with those who finish that. Otherwise it is ours alone, until it
// stands in a queue: from then on it may be run, and its memory be used for something else, before we have unlocked
// anything in it. So its own lock is not held when it gets there.
void Client::submit(Task* t) {
  {
    Tx tx(*this);
    tx.lock(t->lock);
    u32 left = t->unready.load(std::memory_order_relaxed) - 1;
    if (left) {
      tx.set(t->unready, left);
      if (t->kind == TASK_CREATE_ACTOR) tx.set(actor(t->actor)->submitted, 1u);
      tx.set(t->state, u32(TASK_WAITING));
      tx.set(me->building, Offset(0));
      tx.commit();
      return;
    }
  }
  {
    Tx tx(*this);
    tx.set(t->unready, 0u);
    if (t->kind == TASK_CREATE_ACTOR) tx.set(actor(t->actor)->submitted, 1u);
    tx.set(me->building, Offset(0));
    ready(tx, t);
    tx.commit();
  }
  after_tx();
}

void Client::unlink_queued(Tx& tx, Task* t) {  // [Shape::lock]
  Shape& x = h->sched.shapes[t->shape];
  if (t->qprev) tx.set(at<Task>(t->qprev)->qnext, t->qnext);
  else tx.set(x.head, t->qnext);
  if (t->qnext) tx.set(at<Task>(t->qnext)->qprev, t->qprev);
  else tx.set(x.tail, t->qprev);
  tx.set(x.length, x.length.load(std::memory_order_relaxed) - 1);
}

void Client::link_running(Tx& tx, Task* t) {
  tx.set(t->state, u32(TASK_RUNNING));
  tx.set(t->runner, slot + 1);
  tx.set(t->qprev, Offset(0));
  tx.set(t->qnext, me->running);
  if (me->running) tx.set(at<Task>(me->running)->qprev, offset(t));
  tx.set(me->running, offset(t));
}

void Client::unlink_running(Tx& tx, Task* t) {
  Slot& s = slots[t->runner - 1];
  if (t->qprev) tx.set(at<Task>(t->qprev)->qnext, t->qnext);
  else tx.set(s.running, t->qnext);
  if (t->qnext) tx.set(at<Task>(t->qnext)->qprev, t->qprev);
}

// Is the record one that we run, or the supervisor finishes for a dead process? Who is in a list is pointed to by the one before it.
// It tells one that has been given back and is not in use again, as after an interrupt that came too late.
bool Client::runs(const Task* t) const {
  u32 runner = t->runner;
  if (!offset(t) || t->state.load() != TASK_RUNNING || !runner || runner > MAX_PROCESSES || (runner != slot + 1 && slot != SUPERVISOR_SLOT)) return false;
  Offset o = offset(t), before = t->qprev;
  if (!before) return slots[runner - 1].running == o;
  return before % alignof(Task) == 0 && before < h->bytes - sizeof(Task) && at<Task>(before)->qnext == o;
}

// Whoever put the record where we found it may not have unlocked it yet; afterwards it may be freed.
void Client::wait_for_lock(Task* t) {
  Tx tx(*this);
  tx.lock(t->lock);
}

Task* Client::pop(Tx& tx, Shape& x) {  // [Shape::lock]
  if (!x.head) return nullptr;
  Task* t = at<Task>(x.head);
  unlink_queued(tx, t);
  link_running(tx, t);
  return t;
}

// The next task for this worker. While its queue lasts a worker keeps what it was granted, so that the usual task
// costs one lock; now and then it gives the grant back, so that other demands have their turn.
Task* Client::take_task() {
  Scheduler& s = h->sched;
  u32 served = me->served.load(std::memory_order_relaxed) + 1;
  if (me->lease) {
    Shape& x = s.shapes[me->lease - 1];
    if (served % LEASE_TASKS && x.length.load(std::memory_order_relaxed)) {
      Tx tx(*this);
      tx.lock(x.lock);
      Task* t = pop(tx, x);
      tx.commit();
      me->served.store(served, std::memory_order_relaxed);
      if (t) return t;
    }
  }
  u32 n = s.nshapes.load(std::memory_order_acquire);
  bool any = false;
  for (u32 i = 0; i < n && !any; i++) any = s.shapes[i].length.load(std::memory_order_relaxed) != 0;
  if (!any) return nullptr;
  release_lease();
  for (u32 k = 0; k < n; k++) {
    u32 i = rotor++ % n;
    Shape& x = s.shapes[i];
    if (!x.length.load(std::memory_order_relaxed) || !fits(x)) continue;
    Tx tx(*this);
    tx.lock(s.lock);
    tx.lock(x.lock);
    if (!x.head || !grant(tx, i)) continue;
    Task* t = pop(tx, x);
    tx.commit();
    me->served.store(served, std::memory_order_relaxed);
    wake_worker();  // what we gave back may be enough for more than this one
    return t;
  }
  return nullptr;
}

// Takes the task that makes `handle` out of its queue, if it waits there and what this process has been granted
// covers it. The entry's lock keeps the record alive: it is freed only after all its returns were sealed.
bool Client::steal(Handle handle, Task** out) {
  Entry& e = entry(handle);
  if (!me->lease) return false;
  Tx tx(*this);
  tx.lock(e.lock);
  if (!e.task || e.state.load(std::memory_order_relaxed) != ENTRY_PENDING) return false;
  Task* t = at<Task>(e.task);
  if (t->kind != TASK_NORMAL || t->state.load(std::memory_order_acquire) != TASK_QUEUED) return false;
  Shape& x = h->sched.shapes[t->shape];
  if ((t->shape + 1 != me->lease && x.ndemands) || t->flags & TASK_ALONE) return false;
  tx.lock(x.lock);
  if (t->state.load(std::memory_order_relaxed) != TASK_QUEUED) return false;
  unlink_queued(tx, t);
  link_running(tx, t);
  tx.commit();
  *out = t;
  return true;
}

void Client::free_task(Task* t) {
  Tx tx(*this);
  unlink_running(tx, t);
  free_block(tx, offset(t));
  tx.commit();
}

void Client::finish(Task* t) {
  drop_deps(t);
  CRASH_POINT("finish.free");
  free_task(t);
  if (surplus || entry_surplus) trim_caches();
}

// Runs it once more: to the front for actor calls, whose order counts, to the back of the queue for tasks.
void Client::requeue(Task* t) {
  for (u32 i = 0; i < t->nreturns; i++) {
    Handle r = returns(t)[i];
    if (owes(t, r)) reset_payload(r);
  }
  CRASH_POINT("requeue.reset");
  {
    Tx tx(*this);
    tx.set(t->attempt, t->attempt + 1);
    if (t->kind == TASK_ACTOR_CALL) {
      Actor* a = actor(t->actor);
      tx.lock(a->lock);
      unlink_running(tx, t);
      Offset o = offset(t);
      tx.set(t->qprev, Offset(0));
      tx.set(t->qnext, a->head);
      if (a->head) tx.set(at<Task>(a->head)->qprev, o);
      else tx.set(a->tail, o);
      tx.set(a->head, o);
      tx.set(a->count, a->count.load(std::memory_order_relaxed) + 1);
      if (t->unready.load(std::memory_order_relaxed)) tx.set(a->unready, a->unready.load(std::memory_order_relaxed) + 1);
      tx.set(t->state, u32(TASK_QUEUED));
      if (a->state.load() == ACTOR_ALIVE) to_ring.push_back(a->slot.load());
    } else {
      unlink_running(tx, t);
      ready(tx, t);
    }
    tx.commit();
  }
  after_tx();
}

// A streaming generator's returns form a chain: each is a list of (item, next return). The next one is noted in
// `scratch` until the present one, which refers to it, has been sealed.
Handle Client::stream_next(Task* t) {
  ensure_entry();
  Tx tx(*this);
  u32 i = pop_entry(tx);
  Entry& e = entries[i];
  Handle handle = handle_of(i);
  tx.set(e.holders, 1u);
  tx.set(e.contained, 1u);
  tx.set(e.task, offset(t));
  tx.set(e.holder_bits[slot / 64], 1ull << slot % 64);
  tx.set(e.state, u32(ENTRY_PENDING));
  tx.set(t->scratch, handle);
  tx.commit();
  local[i] = 1;
  return handle;
}

void Client::stream_advance(Task* t) {
  Tx tx(*this);
  tx.set(returns(t)[0], t->scratch);
  tx.set(t->scratch, Handle(0));
  tx.set(t->streamed, u8(1));  // streamed: to run it again would repeat items
  tx.commit();
}

}  // namespace shoal
