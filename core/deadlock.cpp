// Deadlocks: does a thread wait for something that only a thread can bring about that waits for it?
//
// A thread that waits without a limit of time publishes what for (Slot::waiting) when it goes to sleep, and looks now and
// then whether it is in a circle. The look takes all published waits for hopeless at first, and then takes away, until
// nothing changes, each that somebody might end who is not among them:
//
//   a lock      unless one of its holders waits hopelessly
//   an object   unless it is made by a call that runs in a thread that does, or lies in the mailbox of an actor whose main
//               thread does, or needs another such object first
//   a claim     unless all threads of the owner's process do: any of them might let go (that a third one steals is not counted on)
//   a barrier   unless nobody could still come there: no process that refers to it has a thread that does not wait
//
// Whatever else can be waited for (permits, events, notifications, items, anything with a time-out) is taken for something
// that may come. What is left is hopeless; a circle in it through the one who looks is what is reported.
//
// No false alarm. Nothing here is locked for longer than a moment, so a single look may put together what never was at the
// same time. But a circle counts only if the same threads were found in the same waits (`since`) twice. Then each of them
// was in its wait all the time between the two looks: it has released no lock and finished no call, so what was found to
// be held by it in both looks was held by it throughout.
//
// Several results. A thread that needs all of several results publishes one of them. When it looks and finds no circle, it
// looks at the others too (find_circle_through), and publishes the one that it finds a circle through instead.
//
// One raises. The thread whose wait is the youngest has closed the circle: it alone reports it (unless it must not be
// interrupted: then the youngest that may).
#include "deadlock.h"

#include <algorithm>

namespace shoal {

namespace {

constexpr u32 MAX_CHAIN = 64;  // tasks that wait for tasks

struct Search {
  Client& c;
  std::vector<Stuck> all{};
  std::vector<char> hopeless{};

  u32 top() const { return c.h->slots_top.load(); }

  void collect() {
    for (u32 s = 0; s < top(); s++) {
      Slot& slot = c.slots[s];
      if (slot.state.load() != SLOT_ALIVE) continue;
      for (auto& w : slot.waiting) {
        Stuck x{w.thread.load(), w.since.load(), w.what.load(), u32(w.mode.load()), u32(w.flags.load()), w.task.load()};
        if (x.thread && x.what && x.thread >> 32 == s + 1) all.push_back(x);
      }
    }
    hopeless.assign(all.size(), 1);
  }

  // The hopeless wait of a thread, of a process's main thread, of the thread that runs a call; or none.
  template <class F>
  bool find(F match, std::vector<size_t>& on) {
    for (size_t i = 0; i < all.size(); i++)
      if (hopeless[i] && match(all[i])) return on.push_back(i), true;
    return false;
  }
  bool thread(u64 id, std::vector<size_t>& on) {
    return find([=](const Stuck& x) { return x.thread == id; }, on);
  }
  bool main_thread(u32 s, std::vector<size_t>& on) {
    return find([=](const Stuck& x) { return x.thread >> 32 == s + 1 && x.flags & WAITING_MAIN; }, on);
  }

  bool lock(const Stuck& w, std::vector<size_t>& on) {
    Mutex* m = c.mutex(w.what);
    u64 owner = m->owner.load();
    if (!owner || owner == w.thread) return false;
    if (owner != LOCK_SHARED) return thread(owner, on);
    for (u32 s = 0; s < top(); s++)
      for (auto& hold : c.slots[s].holds)
        if (peek(hold.queue) == c.offset(m) && peek(hold.count)) thread(u64(s + 1) << 32 | peek(hold.thread), on);
    return !on.empty();
  }

  bool object(Handle h, std::vector<size_t>& on, u32 depth = 0) {
    if (depth > MAX_CHAIN) return false;
    std::vector<Handle> needs;
    Offset task = 0;
    u32 state = 0, runner = 0, host = 0;
    {
      Entry& e = c.entry(h);
      Tx tx(c);
      tx.lock(e.lock);  // it keeps the record
      if (e.state.load() != ENTRY_PENDING || !c.same_life(h) || !e.task) return false;
      task = e.task;
      auto* t = c.at<Task>(task);
      state = t->state.load();
      runner = t->runner;
      if (state == TASK_WAITING || t->unready.load())
        for (u32 i = 0; i < t->ndeps; i++)
          if (c.deps(t)[i].waiting) needs.push_back(c.deps(t)[i].object);
      if (t->kind == TASK_ACTOR_CALL && state != TASK_RUNNING && c.actor(t->actor)->state.load() == ACTOR_ALIVE)
        host = c.actor(t->actor)->slot.load() + 1;
    }
    for (Handle need : needs)
      if (object(need, on, depth + 1)) return true;
    if (state == TASK_RUNNING && runner)
      return main_thread(runner - 1, on) || find([=](const Stuck& x) { return x.task == task; }, on);
    return host && main_thread(host - 1, on);
  }

  bool record(Offset o) const { return o >= c.h->heap_base && o < c.h->bytes - sizeof(Task) && o % 8 == 0; }

  // How often the calls that hopeless threads run refer to `h`: these references bring nobody new.
  u32 referred(Handle h) const {
    u32 n = 0;
    for (size_t i = 0; i < all.size(); i++) {
      if (!hopeless[i] || !(all[i].flags & WAITING_MAIN)) continue;
      u32 most = MAX_CHAIN;
      for (Offset o = c.slots[(all[i].thread >> 32) - 1].running; record(o) && most--; o = c.at<Task>(o)->qnext) {
        auto* t = c.at<Task>(o);
        if (t->ndeps > t->ndeps_max || !record(o + t->ndeps_max * sizeof(Dep))) break;
        for (u32 k = 0; k < t->ndeps; k++) n += c.deps(t)[k].object == h;
      }
    }
    return n;
  }

  bool barrier(const Stuck& w, std::vector<size_t>& on) {
    Sync* s = c.sync(w.what);
    if (!s->value.load() || s->broken.load()) return false;
    Entry& e = c.entry(w.what);
    bool named = !c.name_of(w.what).empty();
    if (peek(e.contained) != referred(w.what) + named) return false;
    // If as many workers and actors refer to it as there are parties, they are the parties, and a program (the driver, a
    // guest) only made it.
    auto refers = [&](u32 i) { return e.holder_bits[i / 64].load() >> i % 64 & 1; };
    u32 others = 0;
    auto program = [&](u32 i) { return i == DRIVER_SLOT || c.slots[i].role.load() == ROLE_GUEST; };
    for (u32 i = 0; i < top(); i++) others += u32(!program(i) && refers(i));
    bool all_known = others == s->limit;
    for (u32 i = 0; i < top(); i++) {
      Slot& slot = c.slots[i];
      if (i == SUPERVISOR_SLOT || slot.state.load() != SLOT_ALIVE) continue;
      if ((!named || all_known) && !refers(i)) continue;
      if (all_known && program(i)) continue;
      u32 waiting = 0;
      for (size_t k = 0; k < all.size(); k++) {
        if (!hopeless[k] || all[k].thread >> 32 != i + 1) continue;
        waiting++;
        if (all[k].what != w.what || all[k].mode != w.mode) on.push_back(k);
      }
      bool idle = !waiting && slot.role.load() == ROLE_WORKER && !peek(slot.running) && !c.runnable();
      if (!idle && (!waiting || waiting < slot.threads.load() || !slot.threads.load())) return on.clear(), false;
    }
    return true;
  }

  bool claim(const Stuck& w, std::vector<size_t>& on) {
    u64 host = c.has_ownership(w.what) ? c.ownership(w.what)->host.load() : 0;
    if (!host) return false;
    u32 s = u32(host) - 1;
    if (c.host_word(s) != host || c.slots[s].state.load() != SLOT_ALIVE) return false;
    for (size_t k = 0; k < all.size(); k++)
      if (hopeless[k] && all[k].thread >> 32 == s + 1) on.push_back(k);
    if (!on.empty() && c.slots[s].threads.load() && on.size() >= c.slots[s].threads.load()) return true;
    return on.clear(), false;
  }

  bool is_hopeless(const Stuck& w, std::vector<size_t>& on) {
    switch (w.mode) {
      case WAIT_EXCLUSIVE:
      case WAIT_SHARED: return lock(w, on);
      case WAIT_BARRIER: return barrier(w, on);
      case WAIT_CLAIM:
      case WAIT_REQUEST: return claim(w, on);
      case WAIT_OBJECT: return object(w.what, on);
      default: return false;
    }
  }

  // Takes away what somebody else might end; the wait `sure` stays.
  void reduce(size_t sure) {
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t i = 0; i < all.size(); i++) {
        std::vector<size_t> on;
        if (i != sure && hopeless[i] && !is_hopeless(all[i], on)) {
          hopeless[i] = 0;
          changed = true;
        }
      }
    }
  }

  size_t find_wait(u64 thread, u64 since) const {
    size_t i = 0;
    while (i < all.size() && (all[i].thread != thread || all[i].since != since)) i++;
    return i;
  }

  // The shortest circle through the wait `me`.
  std::vector<Stuck> circle(size_t me) {
    std::vector<size_t> from(all.size(), all.size()), next{me};
    for (size_t k = 0; k < next.size(); k++) {
      std::vector<size_t> on;
      is_hopeless(all[next[k]], on);
      for (size_t i : on) {
        if (i == me) {
          std::vector<Stuck> found;
          for (size_t at = next[k]; at != me; at = from[at]) found.push_back(all[at]);
          found.push_back(all[me]);
          std::reverse(found.begin(), found.end());
          return found;
        }
        if (from[i] == all.size()) {
          from[i] = next[k];
          next.push_back(i);
        }
      }
    }
    return {};
  }
};

}  // namespace

std::vector<Stuck> find_circle(Client& c, u64 thread, u64 since) {
  Search s{c};
  s.collect();
  s.reduce(s.all.size());
  size_t me = s.find_wait(thread, since);
  return me < s.all.size() && s.hopeless[me] ? s.circle(me) : std::vector<Stuck>();
}

Handle find_circle_through(Client& c, u64 thread, u64 since, const std::vector<Handle>& objects) {
  Search s{c};
  s.collect();
  size_t me = s.find_wait(thread, since);
  if (me == s.all.size()) return 0;
  s.reduce(me);  // those that are hopeless if it is
  for (Handle object : objects) {
    std::vector<size_t> on;
    s.all[me].what = object;
    if (s.object(object, on) && !s.circle(me).empty()) return object;
  }
  return 0;
}

bool is_victim(const std::vector<Stuck>& circle) {
  const Stuck* youngest = nullptr;
  for (auto& x : circle)
    if (!(x.flags & WAITING_UNWILLING) && (!youngest || x.since > youngest->since)) youngest = &x;
  return youngest == circle.data();
}

// ------------------------------------------------------------------------------------------- in words

static std::string who(Client& c, const Stuck& x) {
  u32 s = u32(x.thread >> 32) - 1;
  Slot& slot = c.slots[s];
  char label[MAX_NAME + 1] = {};
  std::memcpy(label, slot.label, MAX_NAME);
  std::string text = s == DRIVER_SLOT ? "the driver" : *label ? label : "a worker";
  text += " (pid " + std::to_string(slot.pid);
  if (!(x.flags & WAITING_MAIN)) text += ", thread " + std::to_string(u32(x.thread));
  return text + ")";
}

static std::string thing(Client& c, const Stuck& x) {
  std::string name = c.name_of(x.what);
  std::string number = " #" + std::to_string(index_of(x.what));
  if (!name.empty()) name = " '" + name.substr(x.mode == WAIT_BARRIER ? name.find('/') + 1 : 0) + "'";
  if (x.mode == WAIT_BARRIER) return "the barrier" + (name.empty() ? number : name);
  if (x.mode == WAIT_CLAIM || x.mode == WAIT_REQUEST) return "the mutable object" + number;
  if (c.entry(x.what).kind == KIND_MUTABLE) return "the lock of the mutable object" + number;
  return (x.mode == WAIT_SHARED ? "shared mode of the lock" : "the lock") + (name.empty() ? number : name);
}

std::vector<std::string> describe(Client& c, const std::vector<Stuck>& circle) {
  std::vector<std::string> texts;
  for (size_t i = 0; i < circle.size(); i++) {
    const Stuck &before = circle[(i + circle.size() - 1) % circle.size()], &x = circle[i], &after = circle[(i + 1) % circle.size()];
    std::string text = who(c, x);
    if (before.mode == WAIT_OBJECT) text += " is to make object #" + std::to_string(index_of(before.what));
    else if (before.mode == WAIT_BARRIER) text += " has not come to " + thing(c, before);
    else if (before.mode == WAIT_CLAIM || before.mode == WAIT_REQUEST) text += " owns " + thing(c, before);
    else text += " holds " + thing(c, {before.thread, before.since, before.what, WAIT_EXCLUSIVE, before.flags, before.task});
    text += " and waits for ";
    if (x.mode == WAIT_CLAIM || x.mode == WAIT_REQUEST) text += "the ownership of ";
    if (x.mode == WAIT_OBJECT) text += "object #" + std::to_string(index_of(x.what)) + ", a result of " + who(c, after);
    else text += thing(c, x);
    texts.push_back(text);
  }
  return texts;
}

}  // namespace shoal
