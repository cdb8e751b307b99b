// Part 2: processes as participants, killed all the time.
//
//   main process  the supervisor: forks, kills, buries and replaces the others, gives memory back, audits each round
//   clients       a random mixture of operations; who is killed is replaced and does what was left of its operations
//   workers       run tasks and host actors
//
// A process dies in one of two ways: by a SIGKILL at any moment, at any instruction that is; or at one of the marked
// steps of its changes, the n-th that it passes, n drawn anew for each life. The second finds short windows more often.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#include "peer.h"

namespace shoal::stress {

namespace {

constexpr u32 CLIENTS = 4, WORKERS = 5, ACTORS = 2, MEMBERS = CLIENTS + WORKERS;

// In memory that all share: what a life leaves to the next one.
struct Shared {
  u64 ops[MEMBERS];            // left to do
  std::atomic<u64> steps;      // at which somebody died
  char step[MEMBERS][32];      // where, of the latest
};
Shared* shared = static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));

// Of a member's process.
u32 number;
u64 steps_to_live;
Client* self;

void step(const char* name) {
  if (!std::strcmp(name, "tx.lock")) check_lock_order(*self);
  if (--steps_to_live) return;
  std::strncpy(shared->step[number], name, sizeof shared->step[number] - 1);
  shared->steps.fetch_add(1);
  kill(getpid(), SIGKILL);
}

struct Member {
  pid_t pid = 0;  // 0: not alive
  u32 slot = 0;
  bool is_client = false, killed = false;
};

class Round {
 public:
  Round(const Theme& theme, u64 seed) : theme_(theme), rnd_{seed}, w_(theme.heap_bytes, WORKERS, ACTORS, theme.spills) {
    for (u32 i = 0; i < CLIENTS; i++) members_[i].is_client = true;
  }

  void run(u64 ops) {
    board->stop.store(0);
    w_.make_locks(3);
    w_.make_containers();
    for (u64& left : shared->ops) left = ops;
    for (u32 i = 0; i < MEMBERS; i++) start(i);
    while (alive(true)) supervise(true);
    w_.forget();
    while (!w_.settled()) supervise(rnd_.one_in(2));
    leaving_ = true;
    while (alive(false)) {
      for (auto& m : members_)
        if (m.pid && !m.is_client) {
          w_.c.slots[m.slot].command.store(CMD_EXIT);
          w_.c.ring(m.slot);
        }
      supervise(false);
    }
    leaving_ = false;
    w_.audit();
    if (!theme_.spills) return;
    count(SPILLS, w_.c.h->spill.writes.exchange(0));
    count(RESTORES, w_.c.h->spill.reads.exchange(0));
  }

 private:
  u32 alive(bool clients) const {
    u32 n = 0;
    for (auto& m : members_) n += m.pid && m.is_client == clients;
    return n;
  }

  void start(u32 i) {
    Member& m = members_[i];
    m.killed = false;
    m.slot = w_.c.claim_slot();
    u64 seed = rnd_.next(), steps = rnd_.one_in(3) ? 0 : 1 + rnd_.next() % (1ull << (4 + rnd_.below(12)));
    m.pid = fork();
    REQUIRE(m.pid >= 0);
    if (m.pid) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Client c = w_.c;
    c.to_ring.clear();
    c.surplus = 0;
    c.entry_surplus = c.work_added = false;
    madvise(c.local, COUNTS_BYTES, MADV_DONTNEED);
    c.become(m.slot, m.is_client ? ROLE_GUEST : ROLE_WORKER, i32(getpid()));
    number = i;
    steps_to_live = steps;
    Peer peer(w_, c, theme_, nullptr, seed);
    self = &peer.c;
    if (steps && !leaving_) at_crash_point = step;
    if (m.is_client) peer.client(shared->ops[i]);
    else peer.worker();
    _exit(0);
  }

  // Whoever ended is buried; and replaced, unless it had nothing left to do.
  void reap() {
    for (u32 i = 0; i < MEMBERS; i++) {
      Member& m = members_[i];
      int status;
      if (!m.pid || waitpid(m.pid, &status, WNOHANG) != m.pid) continue;
      bool well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
      bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
      REQUIRE_TEXT(well || killed, "member " + std::to_string(i) + " of theme " + theme_.name + ", wait status " + std::to_string(status));
      m.pid = 0;
      w_.bury(m.slot);
      if (m.is_client ? killed : !leaving_) start(i);
    }
  }

  void supervise(bool kills) {
    reap();
    for (auto& asked : members_)
      if (asked.pid && w_.c.slots[asked.slot].command.fetch_and(~CMD_KILL) & CMD_KILL) kill(asked.pid, SIGKILL);
    Member& m = members_[rnd_.below(MEMBERS)];
    if (kills && m.pid && !m.killed && rnd_.one_in(24)) {
      m.killed = true;
      kill(m.pid, SIGKILL);
    }
    w_.c.h->wanted.store(0);
    if (rnd_.one_in(64)) w_.c.trim(0);
    usleep(rnd_.below(400));
  }

  const Theme& theme_;
  Random rnd_;
  World w_;
  Member members_[MEMBERS];
  bool leaving_ = false;
};

}  // namespace

void deaths(const Options& o) {
  u64 start = now_ns(), end = start + u64(o.seconds * 1e9);
  u32 rounds = 0, worlds = 0;
  Random rnd{mix(o.seed ^ 2)};
  while (now_ns() < end || worlds < num_themes) {
    const Theme& theme = themes[worlds % num_themes];
    u64 seed = rnd.next();
    doing("deaths, theme %s, seed of the arena %llu", theme.name, (unsigned long long)seed);
    Round round(theme, seed);
    for (u32 i = 0; i < 2; i++, rounds++) round.run(300);
    worlds++;
  }
  std::printf("deaths: %u rounds in %u arenas, %.1f s, %llu deaths at marked steps: %s\n", rounds, worlds, double(now_ns() - start) / 1e9,
              (unsigned long long)shared->steps.exchange(0), take_counts().c_str());
}

}  // namespace shoal::stress
