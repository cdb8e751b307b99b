// What a participant does about tasks: submits them, waits for them, runs them, hosts actors.
#include "peer.h"

#include <unistd.h>

namespace shoal::stress {

static bool done(void* e) { return static_cast<Entry*>(e)->state.load(std::memory_order_acquire) >= ENTRY_READY; }

void Peer::leave() {
  if (flight_) throw Died{};
  _exit(0);
}

// ---------------------------------------------------------------------------------------------- tasks

// What a task makes of a value that it had made by another one.
u64 Peer::nested(u64 fold, u64* call_seed, u64* put_seed) {
  *call_seed = mix(fold ^ 1);
  *put_seed = mix(fold ^ 2);
  return mix(fold ^ mix(mix(mix(*call_seed ^ mix(*put_seed)))));
}

Peer::Result Peer::expected(const Call& call, const std::vector<Held>& args) const {
  u64 fold = call.seed, call_seed, put_seed;
  bool known = true;
  for (auto& x : args) {
    fold = mix(fold ^ x.expect);
    known = known && x.known;
  }
  if (call.op == NEST) fold = nested(fold, &call_seed, &put_seed);
  return {fold, known};
}

std::vector<Held> Peer::submit(TaskKind kind, TaskOp op, u32 shape, Handle actor, bool sure) {
  std::vector<Held> args, refs;
  bool prompt = kind == TASK_NORMAL;
  for (u32 i = rnd.below(4); i > 0; i--)
    if (Held* x = any(VALUE))
      if (prompt || x->prompt) args.push_back(*x);  // an actor that waits for another one could wait for ever
  for (u32 i = rnd.below(2); i > 0; i--)
    if (Held* x = any(VALUE)) refs.push_back(*x);
  for (auto& x : args) {
    sure = sure && x.sure;
    prompt = prompt && x.prompt;
  }
  u32 nreturns = op == ITEMS ? 1 : 1 + rnd.one_in(4) * rnd.below(3);
  Call call{op, rnd.one_in(3) ? random_size(false) : 0, rnd.next(), u32(args.size()), participant_, ++sequence_};
  std::vector<Held> results;
  Result r = expected(call, args);
  Task* t = c.new_task(nreturns, u32(args.size() + refs.size()), sizeof call, kind);
  try {
    here();
    t->shape = shape;
    t->actor = actor;
    t->retries = sure ? -1 : i32(rnd.below(2));
    t->flags = op == ITEMS ? TASK_STREAMING : 0;
    std::memcpy(c.args(t), &call, sizeof call);
    for (u32 i = 0; i < nreturns; i++) results.push_back({c.add_return(t), mix(mix(r.expect + i)), VALUE, r.known, sure, !sure, prompt});
    here();
    for (auto& x : args) c.add_dep(t, x.h, true);
    for (auto& x : refs) c.add_dep(t, x.h, false);
    here();
    if (kind == TASK_NORMAL) {
      c.submit(t);
    } else if (!c.mail(t)) {
      c.discard_building(*c.me);
      for (auto& x : results) c.release(x.h);
      results.clear();
    }
  } catch (const Error&) {
    c.discard_building(*c.me);
    for (auto& x : results) c.release(x.h);
    throw;
  }
  return results;
}

bool Peer::wait(Handle h, u64 deadline) {
  Entry& e = c.entry(h);
  bool blocked = false, found = true;
  auto unblock = [&] {
    if (blocked && --block_depth_ == 0) c.block_end();
    blocked = false;
  };
  while (!done(&e)) {
    here();
    Task* t = nullptr;
    if (help_depth_ < 8 && c.me->role.load(std::memory_order_relaxed) == ROLE_WORKER && c.steal(h, &t)) {
      count(STEALS);
      unblock();
      help_depth_++;
      execute(t);
      help_depth_--;
      continue;
    }
    if (c.spin(done, &e)) break;
    u32 seen = c.me->ring.load(std::memory_order_seq_cst);
    c.watch(h);
    if (done(&e)) break;
    if (!blocked && block_depth_++ == 0) c.block_begin();
    blocked = true;
    u64 start = now_ns();
    c.sleep_ring(seen, deadline);
    u64 end = now_ns();
    c.slept(end - start);
    if (deadline && end >= deadline && !done(&e)) {
      found = false;
      break;
    }
  }
  unblock();
  return found;
}

void Peer::seal(Task* t, u32 i, u64 seed, u32 bytes) {
  Handle h = c.returns(t)[i];
  if (!c.owes(t, h)) return;  // an earlier attempt came so far
  try {
    fill(h, seed, bytes, {});
  } catch (const Error&) {
    c.reset_payload(h);
    throw;
  }
  here();
  c.publish(h, false);
}

// Has another task make a value, and waits for it.
u64 Peer::nest(Task* parent, u64 fold) {
  u64 call_seed, put_seed;
  nested(fold, &call_seed, &put_seed);
  Handle arg = put(put_seed, random_size(false), {}), out = 0;
  Call call{COMPUTE, 0, call_seed, 1, participant_, ++sequence_};
  try {
    Task* t = c.new_task(1, 1, sizeof call, TASK_NORMAL);
    try {
      t->shape = parent->shape;
      t->retries = -1;
      std::memcpy(c.args(t), &call, sizeof call);
      out = c.add_return(t);
      c.add_dep(t, arg, true);
      here();
      c.submit(t);
    } catch (const Error&) {
      c.discard_building(*c.me);
      throw;
    }
  } catch (const Error&) {
    if (out) c.release(out);
    c.release(arg);
    throw;
  }
  c.release(arg);
  wait(out, 0);
  bool failed = state_of(c, out) == ENTRY_FAILED;
  REQUIRE(!failed || theme_.scarce);
  u64 value = failed ? 0 : read(out);
  c.release(out);
  if (failed) throw Error(Error::FULL, "the inner task failed");
  return mix(fold ^ value);
}

// A generator: each return is a list of an item and the next return; the last one is a plain value.
void Peer::stream(Task* t, u64 fold) {
  for (u32 i = 0, n = u32(fold % 5); i < n; i++) {
    Handle item = put(fold + i, random_size(false), {}), next = 0;
    try {
      next = c.stream_next(t);
      here();
      Handle old = c.returns(t)[0];
      c.begin_payload(old, FORMAT_REF_LIST, 2, 0, 0, nullptr);
      c.contain(old, item);
      c.contain(old, next);
      here();
      c.publish(old, false);
      here();
      c.stream_advance(t);
      t->streamed = 1;
    } catch (const Error&) {
      if (next) c.release(next);
      c.release(item);
      throw;
    }
    c.release(next);
    c.release(item);
    here();
  }
}

void Peer::execute(Task* t) {
  if (t->kind == TASK_CREATE_ACTOR) return host(t);
  REQUIRE(t->state.load() == TASK_RUNNING && t->runner == c.slot + 1);
  if (t->flags & TASK_CANCELLED) return fail_task(c, t);
  Call call;
  std::memcpy(&call, c.args(t), sizeof call);
  if (t->kind == TASK_ACTOR_CALL) {
    u64& last = last_call_[call.participant];
    REQUIRE(call.sequence > last);
    last = call.sequence;
    count(ORDERED);
  }
  u64 fold = call.seed;
  bool failed = false;
  for (u32 i = 0; i < t->ndeps; i++) {
    Handle h = c.deps(t)[i].object;
    REQUIRE(c.valid(h));
    if (i >= call.waited) continue;
    u32 state = state_of(c, h);
    REQUIRE(state == ENTRY_READY || state == ENTRY_FAILED);
    if (state == ENTRY_FAILED) {
      failed = true;
      continue;
    }
    try {
      fold = mix(fold ^ read(h));
    } catch (const Error& e) {  // it was spilled, and there is no room for it
      REQUIRE_TEXT(theme_.spills && e.code == Error::FULL, e.what());
      count(FULL);
      failed = true;
    }
  }
  here();
  count(t->kind == TASK_ACTOR_CALL ? CALLS : TASKS);
  progress();
  if (failed) return fail_task(c, t);
  try {
    if (call.op == NEST) fold = nest(t, fold);
    if (call.op == ITEMS) stream(t, fold);
    if (call.op == CHILDREN) {
      Handle child = put(fold, random_size(false), {});
      Handle h = c.returns(t)[0];
      if (c.owes(t, h)) {
        try {
          fill(h, mix(fold), call.bytes, {child});
        } catch (const Error&) {
          c.reset_payload(h);
          c.release(child);
          throw;
        }
        c.publish(h, false);
      }
      here();
      c.release(child);
    }
    for (u32 i = 0; i < t->nreturns; i++) {
      seal(t, i, mix(fold + i), call.bytes);
      here();
    }
  } catch (const Error& e) {
    REQUIRE_TEXT(theme_.scarce && e.code == Error::FULL, e.what());
    count(FULL);
    return fail_task(c, t);
  }
  c.finish(t);
}

// What LocalEngine.kill does.
void Peer::kill() {
  Held* x = any(ACTOR);
  if (!x) return;
  Handle actor = x->h;
  Actor* a = c.actor(actor);
  bool for_good = rnd.one_in(2);
  count(KILLS);
  if (for_good) {
    a->closing.store(2);
    if (a->state.load() == ACTOR_ALIVE) c.ring(a->slot.load());
    here();
  }
  u32 state = a->state.load();
  Slot& host = c.slots[a->slot.load()];
  if (host.actor.load() == actor && host.state.load() == SLOT_ALIVE) {
    host.command.fetch_or(CMD_KILL);
  } else if (for_good && (state == ACTOR_PENDING || state == ACTOR_RESTARTING)) {
    mourn(c, actor);
    here();
    if (Task* t = c.cancel_creation(actor)) {
      here();
      c.actor_drop_life(actor);  // the record last: while it is ours, our death is the actor's too
      here();
      c.finish(t);
    }
  }
}

// -------------------------------------------------------------------------------------------- workers

Task* Peer::next_task() {
  Scheduler& s = c.h->sched;
  auto& idle = s.idle[c.slot / 64];
  auto& spinning = s.spinning[c.slot / 64];
  u64 bit = 1ull << c.slot % 64;
  auto reason = [](void* p) {
    auto* c = static_cast<Client*>(p);
    return c->work_visible() || c->me->command.load(std::memory_order_relaxed);
  };
  for (;;) {
    if (c.me->command.load() & CMD_EXIT) return nullptr;
    Task* t = c.take_task();
    if (!t) {
      spinning.fetch_or(bit, std::memory_order_seq_cst);
      bool found = c.spin(reason, &c);
      spinning.fetch_and(~bit, std::memory_order_seq_cst);
      if (found) {
        t = c.take_task();
        if (c.runnable()) c.wake_worker();
      }
    }
    if (t) return t;
    here();
    if (c.me->lease) {
      c.release_lease();
      if (c.runnable()) c.wake_worker();
    }
    u32 seen = c.me->ring.load(std::memory_order_seq_cst);
    idle.fetch_or(bit, std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!reason(&c)) c.sleep_ring(seen, 0);
    idle.fetch_and(~bit, std::memory_order_seq_cst);
  }
}

void Peer::worker() {
  while (Task* t = next_task()) execute(t);
}

Task* Peer::next_mail(Handle actor) {
  struct Ring {
    std::atomic<u32>& ring;
    u32 seen;
  } ring{c.me->ring, 0};
  auto rung = [](void* p) { return static_cast<Ring*>(p)->ring.load(std::memory_order_relaxed) != static_cast<Ring*>(p)->seen; };
  Actor* a = c.actor(actor);
  for (;;) {
    ring.seen = c.me->ring.load(std::memory_order_seq_cst);
    if (a->closing.load() >= 2) return nullptr;
    if (Task* t = c.take_mail(actor)) return t;
    if (a->closing.load() && c.actor_leaves(actor)) return nullptr;
    here();
    if (!c.spin(rung, &ring)) c.sleep_ring(ring.seen, 0);
  }
}

// Serves an actor until nobody wants it any more; this participant's life ends with it.
void Peer::host(Task* t) {
  Handle actor = t->actor;
  c.actor_starts(actor);
  if (c.actor(actor)->closing.load() == 2) leave();
  here();
  c.acquire(actor);
  bool keep = t->retries != 0;
  c.actor_alive(actor);
  c.actor(actor)->creation = keep ? c.offset(t) : 0;
  here();
  if (!keep) c.finish(t);
  while (Task* call = next_mail(actor)) execute(call);
  leave();
}

}  // namespace shoal::stress
