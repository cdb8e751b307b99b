// What a participant does about values, references, names and locks; the client's mixture of everything.
#include "peer.h"

#include <sched.h>
#include <unistd.h>

namespace shoal::stress {

constexpr u32 MAX_HELD = 48;

//                 put big read drop submit wait cancel stream name actor call kill section pass queue table version view ring owned
const Theme themes[] = {
    {"everything", {12, 1, 10, 14, 16, 8, 3, 2, 5, 1, 8, 1, 10, 6, 6, 6, 5, 5, 3, 4}, 1 << 30, false, false},
    {"objects", {30, 1, 20, 30, 0, 0, 0, 0, 6, 0, 0, 0, 0, 30, 0, 0, 0, 0, 0, 0}, 1 << 30, false, false},
    {"tasks", {4, 0, 4, 20, 40, 14, 8, 4, 1, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0}, 1 << 30, false, false},
    {"actors", {4, 0, 2, 16, 6, 6, 4, 0, 6, 3, 40, 2, 0, 2, 0, 0, 0, 0, 0, 0}, 1 << 30, false, false},
    {"locks", {2, 0, 0, 2, 2, 1, 0, 0, 4, 0, 0, 0, 90, 2, 0, 0, 0, 0, 0, 10}, 1 << 30, false, false},
    {"containers", {8, 0, 2, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 40, 40, 0, 0, 0, 0}, 1 << 30, false, false},
    {"versions", {8, 0, 4, 6, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 30, 30, 20, 20}, 1 << 30, false, false},
    {"memory", {20, 30, 12, 40, 4, 2, 0, 0, 1, 0, 0, 0, 0, 6, 4, 4, 4, 1, 0, 1}, 48 << 20, true, false},
    {"spilling", {12, 30, 50, 16, 4, 2, 0, 0, 1, 0, 0, 0, 0, 0, 6, 6, 4, 0, 0, 1}, 24 << 20, true, true},
};
const u32 num_themes = sizeof themes / sizeof themes[0];

Peer::Peer(World& w, Client client, const Theme& theme, Flight* flight, u64 seed)
    : c(client), rnd{seed}, w_(w), theme_(theme), flight_(flight), participant_(board->participants.fetch_add(1)) {}

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
// A large value is looked at only while it is pinned: otherwise it may be spilled at any moment.
struct Pin {
  Client& c;
  Handle h;
  bool on;
  Pin(Client& client, Handle handle) : c(client), h(handle), on(c.large(h)) {
    if (on) c.begin_pin(h);
  }
  ~Pin() {
    if (on) c.end_pin(h);
  }
  Pin(const Pin&) = delete;
};
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
  Pin pin(c, h);
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
    if (state != ENTRY_READY || c.entry(child).flags & FLAG_INLINE) continue;
    Pin inside(c, child);
    if (c.payload(child)->format != FORMAT_PICKLE) continue;
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

// What comes out of a container may be anybody's: nobody knows what to expect, but it is whole.
void Peer::taken(Handle h) {
  if (!h) return;
  keep({h});
  look({h});
}

// A finished value must be what was expected.
void Peer::look(const Held& x) {
  u32 state = state_of(c, x.h);
  if (state == ENTRY_READY) {
    u64 value = read(x.h);
    if (x.known) REQUIRE(value == x.expect);
  } else if (state == ENTRY_FAILED) {
    REQUIRE(!x.sure);
  }
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
        giving(h, [&] { return c.name_set(space, text, h), false; });
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
    drop_contained(c, x.h);
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
      keep({h, mix(seed), VALUE, true, true, false, true});
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
    case KILL: kill(); break;
    case SECTION: section(); break;
    case PASS: pass(); break;
    case QUEUE: queue(); break;
    case TABLE: table(); break;
    case VERSION: version(); break;
    case VIEW: view(); break;
    case RING: ring(); break;
    case OWNED: owned(); break;
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
