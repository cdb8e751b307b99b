// Scenes of tasks, dependencies, streams, waiting for objects, and actors.
#include "scene.h"

namespace shoal::stress {

namespace {

struct Call {
  u32 shape = 0;
  TaskKind kind = TASK_NORMAL;
  Handle actor = 0;
  u32 nreturns = 1;
  i32 retries = -1;
  u16 flags = 0;
  std::vector<Handle> waits = {}, refs = {};
};

// A record being built; its returns are added to `out`.
Task* build(Stage& s, const Call& x, std::vector<Handle>* out) {
  Task* t = s.c.new_task(x.nreturns, u32(x.waits.size() + x.refs.size()), 100, x.kind);
  t->shape = x.kind == TASK_ACTOR_CALL ? 0 : s.w.shapes[x.shape];
  t->actor = x.actor;
  t->retries = x.retries;
  t->flags = x.flags;
  for (u32 i = 0; i < x.nreturns; i++) out->push_back(s.c.add_return(t));
  for (Handle h : x.waits) s.c.add_dep(t, h, true);
  for (Handle h : x.refs) s.c.add_dep(t, h, false);
  return t;
}
void submit(Stage& s, const Call& x, std::vector<Handle>* out) { s.c.submit(build(s, x, out)); }
void mail(Stage& s, Call x, Handle actor, std::vector<Handle>* out) {
  x.kind = TASK_ACTOR_CALL;
  x.actor = actor;
  REQUIRE(s.c.mail(build(s, x, out)));
}
void release_all(Stage& s, std::vector<Handle>& all) {
  for (; !all.empty(); all.pop_back()) s.c.release(all.back());
}

// The work of a task: values with a reference in them, or, the odd ones, plain ones.
void seal(Client& c, Task* t) {
  for (u32 i = 0; i < t->nreturns; i++) {
    Handle h = c.returns(t)[i];
    if (!c.owes(t, h)) continue;
    if (i & 1) {
      c.set_inline(h, TAG_INT, 5);
    } else {
      Handle inner = make(c, 30);
      c.begin_payload(h, FORMAT_PICKLE, 1, 0, 20, nullptr);
      c.contain(h, inner);
      c.release(inner);
    }
    c.publish(h, false);
  }
}
void run(Client& c, Task* t) {
  REQUIRE(t && t->state.load() == TASK_RUNNING);
  seal(c, t);
  c.finish(t);
}
void run_next(Stage& s) { run(s.c, s.c.take_task()); }

// The supervisor's: a task in the queue (sure[0] is its return), and those that wait for it.
void prepare_queued(Stage& s) { submit(s, {}, &s.sure); }
void prepare_chain(Stage& s) {
  s.sure = {make(s.c, 10)};
  submit(s, {.nreturns = 2, .waits = {s.sure[0]}, .refs = {s.sure[0]}}, &s.sure);
  submit(s, {.shape = 1, .waits = {s.sure[1], s.sure[0], s.sure[2]}}, &s.sure);
  submit(s, {.shape = 2, .waits = {s.sure[2]}, .refs = {s.sure[3]}}, &s.sure);
}

void submitting(std::vector<Scene>& all) {
  all.push_back({"submit: ready", nothing, nothing, [](Stage& s) {
                   Handle arg = make(s.c, 10);
                   submit(s, {.nreturns = 2, .retries = 0, .waits = {arg}, .refs = {arg}}, &s.mine);
                   submit(s, {.shape = 1, .retries = 0}, &s.mine);
                   s.c.release(arg);
                   release_all(s, s.mine);
                 }});
  all.push_back({"submit: waits for others", prepare_queued, nothing, [](Stage& s) {
                   s.c.acquire(s.sure[0]);
                   submit(s, {.shape = 2, .nreturns = 2, .waits = {s.sure[0], s.sure[0]}, .refs = {s.sure[0]}}, &s.mine);
                   submit(s, {.waits = {s.mine[0], s.sure[0]}}, &s.mine);
                   s.c.release(s.sure[0]);
                   release_all(s, s.mine);
                 }});
  all.push_back({"submit: thrown away", prepare_queued, nothing, [](Stage& s) {
                   s.c.acquire(s.sure[0]);
                   build(s, {.nreturns = 2, .waits = {s.sure[0]}, .refs = {s.sure[0]}}, &s.mine);
                   s.c.discard_building(*s.c.me);
                   s.c.release(s.sure[0]);
                   release_all(s, s.mine);
                 }});
  all.push_back({"submit: large", nothing, nothing, [](Stage& s) {
                   Task* t = s.c.new_task(1, 0, 100000, TASK_NORMAL);
                   t->shape = s.w.shapes[0];
                   s.mine = {s.c.add_return(t)};
                   s.c.submit(t);
                   release_all(s, s.mine);
                 }});
  all.push_back({"demands: a resource and a shape", nothing, nothing, [](Stage& s) {
                   bool feasible;
                   u32 x = s.c.shape_of({{"CPU", 1000}, {"new", 10}}, &feasible);
                   REQUIRE(!feasible && s.c.shape_of({{"new", 10}, {"CPU", 1000}}, &feasible) == x);
                 }});
}

void running(std::vector<Scene>& all) {
  all.push_back({"run: others wait for it", prepare_chain, nothing, [](Stage& s) {
                   run_next(s);
                   s.c.release_lease();
                 }});
  all.push_back({"run: one after the other", prepare_chain, nothing, [](Stage& s) {
                   for (u32 i = 0; i < 3; i++) run_next(s);
                   s.c.release_lease();
                 }});
  all.push_back({"run: without retries", [](Stage& s) { submit(s, {.nreturns = 3, .retries = 0}, &s.h); }, nothing, run_next});
  all.push_back({"run: on a GPU", [](Stage& s) { submit(s, {.shape = 3}, &s.sure); }, nothing, [](Stage& s) {
                   run_next(s);
                   s.c.release_lease();
                 }});
  all.push_back({"run: nobody wants the result", [](Stage& s) {
                   submit(s, {.nreturns = 2}, &s.mine);
                   release_all(s, s.mine);
                 },
                 nothing, run_next});
  all.push_back({"run: the next under the same grant, then another",
                 [](Stage& s) {
                   for (u32 i = 0; i < 2; i++) submit(s, {}, &s.sure);
                   submit(s, {.shape = 2}, &s.sure);
                 },
                 run_next, [](Stage& s) {
                   run_next(s);
                   run_next(s);
                 }});
  all.push_back({"run: waits inside, and runs another one",
                 [](Stage& s) {
                   prepare_queued(s);
                   submit(s, {}, &s.sure);
                 },
                 [](Stage& s) { s.c.acquire(s.sure[1]); },
                 [](Stage& s) {
                   Task *outer = s.c.take_task(), *inner = nullptr;
                   s.c.block_begin();
                   s.c.block_end();
                   REQUIRE(s.c.steal(s.sure[1], &inner));
                   run(s.c, inner);
                   run(s.c, outer);
                   s.c.release(s.sure[1]);
                 }});
  all.push_back({"run: waits inside for another process",
                 [](Stage& s) {
                   prepare_queued(s);
                   submit(s, {.shape = 1}, &s.sure);
                 },
                 nothing,
                 [](Stage& s) {
                   Task* t = s.c.take_task();
                   s.c.acquire(s.sure[1]);
                   u32 seen = s.c.me->ring.load();
                   s.c.watch(s.sure[1]);
                   s.c.block_begin();
                   s.meet();
                   s.c.sleep_ring(seen, 0);
                   s.c.block_end();
                   REQUIRE(state_of(s.c, s.sure[1]) == ENTRY_READY);
                   s.c.release(s.sure[1]);
                   run(s.c, t);
                 },
                 [](Stage& s) { run_next(s); }});
  all.push_back({"run: half done, to be run again", prepare_chain, nothing, [](Stage& s) {
                   Task* t = s.c.take_task();
                   Handle h = s.c.returns(t)[0], inner = make(s.c, 30);
                   s.c.begin_payload(h, FORMAT_PICKLE, 2, 0, 20, nullptr);
                   s.c.contain(h, inner);
                   s.c.release(inner);
                   s.c.requeue(t);
                   run_next(s);
                 }});
  all.push_back({"wait: two who wait are rung", [](Stage& s) {
                   prepare_queued(s);
                   s.c.watch(s.sure[0]);
                 },
                 [](Stage& s) { s.c.acquire(s.sure[0]); },
                 [](Stage& s) {
                   s.c.watch(s.sure[0]);
                   run_next(s);
                   s.c.watch(s.sure[0]);
                   s.c.release(s.sure[0]);
                 }});
}

void cancelling(std::vector<Scene>& all) {
  auto cancel = [](Stage& s) {
    Task* t = nullptr;
    s.c.acquire(s.h[0]);
    REQUIRE(s.c.cancel_queued(s.h[0], &t) && !s.c.cancel_queued(s.h[0], &t));
    fail_task(s.c, t);
    s.c.release(s.h[0]);
  };
  auto unfinished = [](Stage& s) {  // either it has been cancelled, or nothing has happened
    if (state_of(s.c, s.h[0]) == ENTRY_PENDING) {
      REQUIRE(s.c.at<Task>(s.c.entry(s.h[0]).task)->state.load() <= TASK_QUEUED);
    } else {
      REQUIRE(state_of(s.c, s.h[0]) == ENTRY_FAILED);
    }
  };
  all.push_back({"cancel: queued", [](Stage& s) { submit(s, {.nreturns = 2}, &s.h); }, nothing, cancel, nullptr, unfinished});
  all.push_back({"cancel: waits for an argument",
                 [](Stage& s) {
                   prepare_queued(s);
                   submit(s, {.waits = {s.sure[0], s.sure[0]}}, &s.h);
                   submit(s, {.waits = {s.h[0]}}, &s.h);
                 },
                 nothing, cancel, nullptr, unfinished});
}

// A generator of two items. Its chain of returns can be followed from sure[0] as far as it came.
void streaming(std::vector<Scene>& all) {
  all.push_back({"stream", [](Stage& s) { submit(s, {.flags = TASK_STREAMING}, &s.h); }, nothing,
                 [](Stage& s) {
                   Task* t = s.c.take_task();
                   for (u32 i = 0; i < 2; i++) {
                     Handle item = make(s.c, 30), next = s.c.stream_next(t), now = s.c.returns(t)[0];
                     s.c.begin_payload(now, FORMAT_REF_LIST, 2, 0, 0, nullptr);
                     s.c.contain(now, item);
                     s.c.contain(now, next);
                     s.c.publish(now, false);
                     s.c.stream_advance(t);
                     s.c.release(next);
                     s.c.release(item);
                   }
                   run(s.c, t);
                 },
                 nullptr, [](Stage& s) {
                   s.w.drain();
                   auto more = [&](Handle h) {
                     return state_of(s.c, h) == ENTRY_READY && s.c.entry(h).flags & FLAG_HAS_BLOCK && s.c.payload(h)->format == FORMAT_REF_LIST;
                   };
                   while (more(s.h[0])) {
                     Handle next = s.c.refs(s.h[0])[1];
                     REQUIRE(state_of(s.c, s.c.refs(s.h[0])[0]) == ENTRY_READY);
                     s.c.acquire(next);
                     s.c.release(s.h[0]);
                     s.h[0] = next;
                   }
                 }});
}

// ----------------------------------------------------------------------------------------------- actors

Handle make_actor(Stage& s, i32 restarts, i32 max_pending = -1, bool detached = false) {
  Handle cls = make(s.c, 40);
  Handle h = s.c.create_actor(s.w.actor_shape, cls, "Stress", restarts, max_pending, 0, detached);
  s.c.release(cls);
  return h;
}
void submit_creation(Stage& s, Handle actor) {
  Task* t = s.c.new_task(0, 0, 0, TASK_CREATE_ACTOR);
  t->actor = actor;
  t->shape = s.w.actor_shape;
  t->retries = s.c.actor(actor)->restarts;
  s.c.submit(t);
}
void prepare_actor(Stage& s, i32 restarts) {
  s.h = {make_actor(s, restarts)};
  submit_creation(s, s.h[0]);
}

void hosting(std::vector<Scene>& all) {
  for (i32 restarts : {0, 1})
    all.push_back({restarts ? "actor: hosted, may restart" : "actor: hosted",
                   [restarts](Stage& s) {
                     prepare_actor(s, restarts);
                     submit(s, {.shape = 1}, &s.sure);
                     mail(s, {}, s.h[0], &s.h);
                     mail(s, {.waits = {s.sure[0]}}, s.h[0], &s.h);
                     mail(s, {.retries = 1, .refs = {s.sure[0]}}, s.h[0], &s.h);
                   },
                   nothing,
                   [](Stage& s) {
                     Task* creation = s.c.take_task();
                     while (creation->kind != TASK_CREATE_ACTOR) {  // whose argument this is comes later
                       s.c.requeue(creation);
                       creation = s.c.take_task();
                     }
                     Handle actor = creation->actor;
                     s.c.actor_starts(actor);
                     s.c.acquire(actor);
                     bool keep = creation->retries != 0;
                     s.c.actor_alive(actor);
                     s.c.actor(actor)->creation = keep ? s.c.offset(creation) : 0;
                     if (!keep) s.c.finish(creation);
                     run(s.c, s.c.take_mail(actor));
                     REQUIRE(!s.c.take_mail(actor) && !s.c.actor_leaves(actor));
                     s.meet();
                     run(s.c, s.c.take_mail(actor));
                     run(s.c, s.c.take_mail(actor));
                     REQUIRE(!s.c.take_mail(actor) && s.c.actor_leaves(actor));
                   },
                   [](Stage& s) {
                     s.w.drain();
                     s.c.release(s.h[0]);
                     s.h.erase(s.h.begin());
                   }});
}

void calling(std::vector<Scene>& all) {
  all.push_back({"actor: made and forgotten", nothing, nothing, [](Stage& s) {
                   Handle h = make_actor(s, 0);
                   submit_creation(s, h);
                   s.c.release(h);
                 }});
  all.push_back({"actor: detached, named, killed before it has started", nothing, nothing, [](Stage& s) {
                   Handle h = make_actor(s, 0, -1, true);
                   REQUIRE(s.c.name_set(NAMES_ACTOR, "name", h) && !s.c.name_set(NAMES_ACTOR, "name", h));
                   submit_creation(s, h);
                   mail(s, {.retries = 0}, h, &s.mine);
                   s.c.actor(h)->closing.store(2);
                   Handle death = put_nothing(s.c, true);
                   REQUIRE(s.c.actor_dead(h, death) && !s.c.actor_dead(h, death));
                   s.c.release(death);
                   fail_task(s.c, s.c.take_all_mail(h));
                   Task* t = s.c.cancel_creation(h);
                   REQUIRE(t && !s.c.cancel_creation(h));
                   Handle other = make_actor(s, 0);  // takes the name over
                   REQUIRE(s.c.name_set(NAMES_ACTOR, "name", other));
                   REQUIRE(s.c.name_remove(NAMES_ACTOR, "name", other));
                   submit_creation(s, other);
                   s.c.release(other);
                   // While its creation is in our hands our death is the actor's too. So that goes last.
                   s.c.release(h);
                   s.c.actor_drop_life(h);
                   s.c.finish(t);
                   release_all(s, s.mine);
                 }});
  all.push_back({"actor: called", [](Stage& s) { prepare_actor(s, 0); submit(s, {}, &s.sure); }, nothing, [](Stage& s) {
                   Handle actor = s.h[0];
                   s.c.acquire(actor);
                   s.c.acquire(s.sure[0]);
                   mail(s, {.retries = 0}, actor, &s.mine);
                   mail(s, {.nreturns = 2, .retries = 0, .waits = {s.sure[0], s.mine[0]}}, actor, &s.mine);
                   mail(s, {.retries = 0, .refs = {s.sure[0]}}, actor, &s.mine);
                   for (u32 i : {1, 3}) {  // one that waits, one that does not
                     Task* t = nullptr;
                     REQUIRE(s.c.cancel_queued(s.mine[i], &t));
                     fail_task(s.c, t);
                   }
                   release_all(s, s.mine);
                   s.c.release(s.sure[0]);
                   s.c.release(actor);
                 }});
  all.push_back({"actor: an argument of its calls is made",
                 [](Stage& s) {
                   prepare_actor(s, 0);
                   submit(s, {.shape = 1}, &s.sure);
                   mail(s, {.waits = {s.sure[0]}}, s.h[0], &s.h);
                   mail(s, {.waits = {s.sure[0], s.h[1]}}, s.h[0], &s.h);
                 },
                 nothing, [](Stage& s) {
                   for (u32 i = 0; i < 2; i++) {
                     Task* t = s.c.take_task();
                     if (t->kind == TASK_NORMAL) return run(s.c, t);
                     s.c.requeue(t);
                   }
                   REQUIRE(false);
                 }});
  all.push_back({"actor: a call is refused",
                 [](Stage& s) {
                   s.h = {make_actor(s, 0, 1)};
                   submit_creation(s, s.h[0]);
                   mail(s, {}, s.h[0], &s.h);
                 },
                 nothing, [](Stage& s) {
                   Task* t = build(s, {.kind = TASK_ACTOR_CALL, .actor = s.h[0], .retries = 0}, &s.mine);
                   bool refused = false;
                   try {
                     s.c.mail(t);
                   } catch (const Error& e) {
                     refused = e.code == Error::PENDING_LIMIT;
                   }
                   REQUIRE(refused);
                   s.c.discard_building(*s.c.me);
                   release_all(s, s.mine);
                 }});
}

}  // namespace

void task_scenes(std::vector<Scene>& all) {
  submitting(all);
  running(all);
  cancelling(all);
  streaming(all);
  hosting(all);
  calling(all);
}

}  // namespace shoal::stress
