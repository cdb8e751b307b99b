#include "peer.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>

namespace shoal::stress {

constexpr u32 MAX_HELD = 48;

//                                  put big read drop submit wait cancel stream name actor call section pass
const Theme themes[] = {
    {"everything", {12, 1, 10, 14, 16, 8, 3, 2, 5, 1, 8, 10, 6}, 1 << 30, false},
    {"objects", {30, 1, 20, 30, 0, 0, 0, 0, 6, 0, 0, 0, 30}, 1 << 30, false},
    {"tasks", {4, 0, 4, 20, 40, 14, 8, 4, 1, 0, 0, 0, 6}, 1 << 30, false},
    {"actors", {4, 0, 2, 16, 6, 6, 4, 0, 6, 3, 40, 0, 2}, 1 << 30, false},
    {"locks", {2, 0, 0, 2, 2, 1, 0, 0, 4, 0, 0, 90, 2}, 1 << 30, false},
    {"memory", {20, 30, 12, 40, 4, 2, 0, 0, 1, 0, 0, 0, 6}, 48 << 20, true},
};
const u32 num_themes = sizeof themes / sizeof themes[0];

static bool done(void* e) { return static_cast<Entry*>(e)->state.load(std::memory_order_acquire) >= ENTRY_READY; }
static u32 state_of(Client& c, Handle h) { return c.entry(h).state.load(std::memory_order_acquire); }

Peer::Peer(World& w, Client client, const Theme& theme, Flight* flight, u64 seed)
    : c(client), rnd{seed}, w_(w), theme_(theme), flight_(flight), participant_(board->participants.fetch_add(1)) {}

void Peer::leave() {
  if (flight_) throw Died{};
  _exit(0);
}

// --------------------------------------------------------------------------------------------- values

namespace {
struct Head {
  u64 value, seed;
  u32 bytes, pad;
};
// Touches each block that a wrongly given one could share, not each byte.
template <class F>
void each(u32 bytes, F f) {
  u32 step = bytes > 65536 ? 1024 : 64;
  for (u32 i = 0; i < bytes; i += step) f(i);
  if (bytes) f(bytes - 1);
}
u8 pattern(u64 value, u32 i) { return u8(value >> (i / 64 & 7) * 8) ^ u8(i >> 6); }
}  // namespace

u32 Peer::random_size(bool big) {
  if (big) return 1u << 15 | rnd.below(1u << (16 + rnd.below(7)));
  switch (rnd.below(8)) {
    case 0:
    case 1: return 0;
    case 2: return 1 + rnd.below(32);
    case 7: return 1 + rnd.below(40000);
    default: return 1 + rnd.below(1u << (6 + rnd.below(7)));
  }
}

void Peer::fill(Handle h, u64 seed, u32 bytes, const std::vector<Handle>& children) {
  u64 value = mix(seed);
  if (!bytes && children.empty()) return c.set_inline(h, TAG_INT, value);
  bool buffer = bytes > 200;
  u64 size = bytes;
  u8* p = c.begin_payload(h, FORMAT_PICKLE, u32(children.size()), buffer, sizeof(Head) + (buffer ? 0 : bytes), &size);
  here();
  auto* head = reinterpret_cast<Head*>(p + c.payload(h)->meta);
  *head = {value, seed, bytes, 0};
  u8* data = buffer ? p + c.spans(h)[0].start : reinterpret_cast<u8*>(head + 1);
  each(bytes, [&](u32 i) { data[i] = pattern(value, i); });
  for (Handle child : children) {
    c.contain(h, child);
    here();
  }
}

u64 Peer::read(Handle h) {
  REQUIRE(state_of(c, h) == ENTRY_READY);
  Entry& e = c.entry(h);
  if (e.flags & FLAG_INLINE) return e.payload;
  Payload* p = c.payload(h);
  u8* base = c.rw + e.payload;
  if (p->format != FORMAT_PICKLE || p->meta_size < sizeof(Head)) return 0;
  auto* head = reinterpret_cast<Head*>(base + p->meta);
  REQUIRE(head->value == mix(head->seed));
  u8* data = p->nbuffers ? base + c.spans(h)[0].start : reinterpret_cast<u8*>(head + 1);
  each(head->bytes, [&](u32 i) { REQUIRE(data[i] == pattern(head->value, i)); });
  for (u32 i = 0; i < p->nrefs; i++) {
    Handle child = c.refs(h)[i];
    REQUIRE(c.valid(child));
    u32 state = state_of(c, child);
    REQUIRE(state == ENTRY_PENDING || state == ENTRY_READY || state == ENTRY_FAILED);
    if (state != ENTRY_READY || c.entry(child).flags & FLAG_INLINE || c.payload(child)->format != FORMAT_PICKLE) continue;
    auto* inner = reinterpret_cast<Head*>(c.rw + c.entry(child).payload + c.payload(child)->meta);
    REQUIRE(inner->value == mix(inner->seed));
  }
  return head->value;
}

Handle Peer::put(u64 seed, u32 bytes, const std::vector<Handle>& children) {
  Handle h = c.create(KIND_VALUE);
  here();
  try {
    fill(h, seed, bytes, children);
  } catch (const Error&) {
    c.release(h);
    throw;
  }
  here();
  c.publish(h, false);
  return h;
}

// ----------------------------------------------------------------------------------------- references

Held* Peer::any(What what) {
  for (u32 tries = 0; tries < 6 && !held_.empty(); tries++) {
    Held& x = held_[rnd.below(u32(held_.size()))];
    if (x.what == what) return &x;
  }
  return nullptr;
}

void Peer::keep(const Held& x) {
  held_.push_back(x);
  if (held_.size() > MAX_HELD) drop(rnd.below(MAX_HELD / 2));
}

void Peer::drop(size_t i) {
  Handle h = held_[i].h;
  held_[i] = held_.back();
  held_.pop_back();
  c.release(h);
}

void Peer::drop_all() {
  while (!held_.empty()) drop(held_.size() - 1);
}

// A finished value must be what was expected.
void Peer::look(const Held& x) {
  u32 state = state_of(c, x.h);
  if (state == ENTRY_READY) {
    u64 value = read(x.h);
    if (x.known) REQUIRE_TEXT(value == x.expect, "flags " + std::to_string(c.entry(x.h).flags) + " size " + std::to_string(c.entry(x.h).size) + " op " + std::to_string(x.pad) + " sure " + std::to_string(x.sure) + " h " + std::to_string(x.h)+" value "+std::to_string(value));
  } else if (state == ENTRY_FAILED) {
    REQUIRE(!x.sure);
  }
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
    for (u32 i = 0; i < nreturns; i++) results.push_back({c.add_return(t), mix(mix(r.expect + i)), VALUE, r.known, sure, !sure, int(op*10+kind*100+i+args.size()*1000), prompt});
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
      t->submitted_ns = 1;
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
    if (state == ENTRY_FAILED) failed = true;
    else fold = mix(fold ^ read(h));
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

// --------------------------------------------------------------------------------- client's operations

void Peer::consume_stream() {
  auto results = submit(TASK_NORMAL, ITEMS, w_.shapes[rnd.below(2)], 0, false);
  Handle at = results[0].h;
  for (;;) {
    if (!results[0].prompt || rnd.one_in(8)) break;
    wait(at, 0);
    if (state_of(c, at) != ENTRY_READY || c.entry(at).flags & FLAG_INLINE || c.payload(at)->format != FORMAT_REF_LIST) break;
    REQUIRE(c.payload(at)->nrefs == 2);
    Handle item = c.refs(at)[0], next = c.refs(at)[1];
    c.acquire(item);
    c.acquire(next);
    c.release(at);
    read(item);
    c.release(item);
    at = next;
    count(STREAMED);
  }
  c.release(at);
}

void Peer::cancel() {
  Held* x = any(VALUE);
  if (!x || !x->loose) return;
  Task* t = nullptr;
  if (!c.cancel_queued(x->h, &t)) return;
  here();
  REQUIRE(t->state.load() == TASK_RUNNING && t->runner == c.slot + 1);
  count(CANCELS);
  fail_task(c, t);
}

void Peer::name() {
  What what = What(rnd.below(3));
  NameSpace space = what == VALUE ? NAMES_OBJECT : what == LOCK ? NAMES_LOCK : NAMES_ACTOR;
  std::string text = "n" + std::to_string(rnd.below(6)) + std::string(rnd.one_in(4) ? 100 : 0, 'x');
  count(NAMED);
  switch (rnd.below(5)) {
    case 0:
      if (Held* x = any(what)) c.name_set(space, text, x->h);
      break;
    case 1:
      if (what == LOCK) {
        Handle h = new_lock(c);
        here();
        c.name_set(space, text, h);
        c.release(h);
      }
      break;
    case 2:
      c.name_remove(space, text, 0);
      if (rnd.one_in(8)) c.name_list(space);
      break;
    default:
      if (Handle h = c.name_get(space, text, true)) {
        u8 kind = c.entry(h).kind;
        REQUIRE(kind == (what == VALUE ? KIND_VALUE : what == LOCK ? KIND_MUTABLE : KIND_ACTOR));
        keep({h, 0, what});
      }
  }
}

void Peer::make_actor() {
  Handle cls = put(rnd.next(), 40, {});
  Handle h = 0;
  i32 restarts = i32(rnd.below(4)) - 1;
  try {
    h = c.create_actor(w_.actor_shape, cls, "Stress", restarts, rnd.one_in(4) ? 6 : -1, 0, false);
  } catch (const Error&) {
    c.release(cls);
    throw;
  }
  c.release(cls);
  here();
  Task* t;
  try {
    t = c.new_task(0, 0, 0, TASK_CREATE_ACTOR);
  } catch (const Error&) {
    Handle death = put_nothing(c, true);
    c.actor_dead(h, death);
    c.release(death);
    c.actor_drop_life(h);
    c.release(h);
    throw;
  }
  t->actor = h;
  t->shape = w_.actor_shape;
  t->retries = restarts;
  here();
  c.submit(t);
  keep({h, 0, ACTOR});
}

void Peer::pass() {
  if (!flight_) return;
  if (rnd.one_in(2)) {
    Held* x = any(rnd.one_in(3) ? LOCK : VALUE);
    if (!x) return;
    {
      std::lock_guard<std::mutex> hold(flight_->mutex);
      if (flight_->queue.size() > MAX_HELD) return;
    }
    c.add_contained(x->h);
    std::lock_guard<std::mutex> hold(flight_->mutex);
    flight_->queue.push_back(*x);
  } else {
    Held x;
    {
      std::lock_guard<std::mutex> hold(flight_->mutex);
      if (flight_->queue.empty()) return;
      x = flight_->queue.front();
      flight_->queue.pop_front();
    }
    c.acquire(x.h);
    c.drop_contained(x.h);
    look(x);
    keep(x);
  }
}

void Peer::one(ClientOp op) {
  switch (op) {
    case PUT:
    case BIG: {
      std::vector<Handle> children;
      if (rnd.one_in(4))
        for (u32 i = 1 + rnd.below(3); i > 0; i--)
          if (Held* x = any(VALUE)) children.push_back(x->h);
      u64 seed = rnd.next();
      Handle h = put(seed, random_size(op == BIG), children);
      count(PUTS);
      keep({h, mix(seed), VALUE, true, true, false,-1, true});
      break;
    }
    case READ:
      if (Held* x = any(VALUE)) look(*x);
      break;
    case DROP:
      for (u32 i = rnd.below(4); i > 0 && !held_.empty(); i--) drop(rnd.below(u32(held_.size())));
      break;
    case SUBMIT: {
      TaskOp what = TaskOp(rnd.one_in(4) ? rnd.below(ITEMS) : u32(COMPUTE));
      auto results = submit(TASK_NORMAL, what, w_.shapes[rnd.below(u32(w_.shapes.size()))], 0, !theme_.scarce && !rnd.one_in(6));
      for (auto& x : results) keep(x);
      break;
    }
    case WAIT:
      if (Held* x = any(VALUE)) {
        Held mine = *x;
        if (wait(mine.h, mine.prompt && rnd.one_in(2) ? 0 : now_ns() + rnd.below(1000000) + 1)) look(mine);
      }
      break;
    case CANCEL: cancel(); break;
    case STREAM: consume_stream(); break;
    case NAME: name(); break;
    case MAKE_ACTOR: make_actor(); break;
    case CALL:
      if (Held* x = any(ACTOR)) {
        Handle actor = x->h;
        c.acquire(actor);
        try {
          for (u32 i = 1 + rnd.below(4); i > 0; i--)
            for (auto& r : submit(TASK_ACTOR_CALL, COMPUTE, 0, actor, false)) keep(r);
        } catch (const Error&) {
          c.release(actor);
          throw;
        }
        c.release(actor);
      }
      break;
    case SECTION: section(); break;
    case PASS: pass(); break;
    case NUM_OPS: break;
  }
}

void Peer::client(u64& ops) {
  u32 all = 0;
  for (u32 w : theme_.weights) all += w;
  for (; ops && !board->stop.load(std::memory_order_relaxed); ops--) {
    u32 pick = rnd.below(all), op = 0;
    while (pick >= theme_.weights[op]) pick -= theme_.weights[op++];
    here();
    try {
      one(ClientOp(op));
    } catch (const Error& e) {
      REQUIRE_TEXT(e.code == Error::PENDING_LIMIT || (e.code == Error::FULL && theme_.scarce), e.what());
      if (e.code == Error::FULL) {
        count(FULL);
        while (held_.size() > MAX_HELD / 2) drop(rnd.below(u32(held_.size())));
      }
    }
    count(OPS);
    progress();
  }
  drop_all();
}

}  // namespace shoal::stress
