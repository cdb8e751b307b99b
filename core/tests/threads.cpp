// Part 1: threads as participants. All share one mapping, so the thread sanitizer sees how their accesses relate.
//
//   main thread  the supervisor: buries threads that play dead, gives memory back, ends the rounds and audits
//   clients      a random mixture of operations
//   workers      run tasks and host actors
//
// A thread plays dead by leaving everything as it is, at a place between two changes: half-built tasks, running ones,
// locks it holds or waits for. It then takes a slot anew, as a process that took its place would. (Deaths in the middle
// of a change are the subject of deaths.cpp and steps.cpp.)
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <thread>

#include "peer.h"

namespace shoal::stress {

namespace {

constexpr u32 CLIENTS = 4, WORKERS = 5, ACTORS = 2;

struct Member {
  enum State : u32 { PARKED, GO, WORKING, DEAD, BORN_AGAIN, QUIT };
  std::thread thread;
  std::atomic<u32> state{PARKED};
  Client client;
  bool is_client = false;
  u64 seed = 0, ops = 0;
  u32 die_one_in = 0;
};

class Round {
 public:
  Round(const Theme& theme, u64 seed) : theme_(theme), rnd_{seed}, w_(theme.heap_bytes, WORKERS, ACTORS) {
    for (u32 i = 0; i < CLIENTS + WORKERS; i++) {
      auto& m = *members_.emplace_back(std::make_unique<Member>());
      m.is_client = i < CLIENTS;
      m.client = w_.client();
      be_born(m);
      m.thread = std::thread([this, &m] { life(m); });
    }
  }
  ~Round() {
    for (auto& m : members_) {
      set(*m, Member::QUIT);
      m->thread.join();
      munmap(m->client.local, COUNTS_BYTES);
    }
  }

  void run(u64 ops, u32 die_one_in) {
    board->stop.store(0);
    w_.make_locks(3);
    w_.make_containers();
    for (auto& m : members_) {
      m->seed = rnd_.next();
      m->ops = ops;
      m->die_one_in = die_one_in;
      m->client.me->command.store(0);
      set(*m, Member::GO);
    }
    while (!parked(true)) supervise();
    for (auto& x : flight_.queue) drop_contained(w_.c, x.h);
    flight_.queue.clear();
    w_.forget();
    while (!w_.settled()) supervise();
    while (!parked(false)) {
      for (auto& m : members_)
        if (!m->is_client) {
          m->client.me->command.store(CMD_EXIT);
          w_.c.ring(m->client.slot);
        }
      supervise();
    }
    w_.audit();
  }

 private:
  static void set(Member& m, Member::State s) {
    m.state.store(s);
    m.state.notify_all();
  }
  bool parked(bool clients) {
    for (auto& m : members_)
      if (m->is_client == clients && m->state.load() != Member::PARKED) return false;
    return true;
  }

  void be_born(Member& m) {
    u32 slot = w_.c.claim_slot();
    madvise(m.client.local, COUNTS_BYTES, MADV_DONTNEED);
    m.client.become(slot, m.is_client ? ROLE_GUEST : ROLE_WORKER, i32(getpid()));
  }

  void supervise() {
    for (auto& m : members_)
      if (m->state.load() == Member::DEAD) {
        w_.bury(m->client.slot);
        be_born(*m);
        set(*m, Member::BORN_AGAIN);
      }
    w_.c.h->wanted.store(0);
    if (rnd_.one_in(64)) w_.c.trim(0);
    usleep(200);
  }

  void life(Member& m) {
    for (u32 s; (s = m.state.load()) != Member::QUIT;) {
      if (s == Member::PARKED || s == Member::DEAD) {
        m.state.wait(s);
        continue;
      }
      m.state.store(Member::WORKING);
      Client clean = m.client;
      auto peer = std::make_unique<Peer>(w_, clean, theme_, &flight_, m.seed = mix(m.seed));
      peer->die_one_in = m.die_one_in;
      try {
        if (m.is_client) peer->client(m.ops);
        else peer->worker();
        m.client.surplus = 0;
        set(m, Member::PARKED);
      } catch (const Died&) {
        set(m, Member::DEAD);
      }
    }
  }

  const Theme& theme_;
  Random rnd_;
  World w_;
  Flight flight_;
  std::vector<std::unique_ptr<Member>> members_;
};

}  // namespace

void threads(const Options& o) {
  u64 start = now_ns(), end = start + u64(o.seconds * 1e9);
  u32 rounds = 0, worlds = 0;
  Random rnd{mix(o.seed)};
#ifdef SHOAL_TSAN
  constexpr u64 OPS_A_ROUND = 1500;
#else
  constexpr u64 OPS_A_ROUND = 4000;
#endif
  while (now_ns() < end || worlds < num_themes) {
    const Theme& theme = themes[worlds % num_themes];
    doing("threads, theme %s", theme.name);
    Round round(theme, rnd.next());
    for (u32 i = 0; i < 4; i++, rounds++) round.run(OPS_A_ROUND, i < 2 ? 0 : 2000);
    worlds++;
  }
  std::printf("threads: %u rounds in %u arenas, %.1f s: %s\n", rounds, worlds, double(now_ns() - start) / 1e9, take_counts().c_str());
}

}  // namespace shoal::stress
