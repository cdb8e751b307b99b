// Part 3: each marked step of each kind of change.
//
// A scene is played again and again, each time in a new arena; the n-th time its victim is killed at the n-th step that
// it passes, until it comes to the end. Then, for the rest of the time, it is killed some instructions after a step,
// both drawn at random: it stops itself at the step and is led on from there by single steps (ptrace).
// Each time the supervisor buries the victim, the arena is checked, what is left to do is done, and in the end every
// object, block, name and resource must be back. So a death at any step leaves nothing that is not repaired.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

namespace shoal::stress {

namespace {

enum Meeting : u32 { NONE, VICTIM_WAITS, OVER };
struct Shared {
  std::atomic<u32> meeting;
  std::atomic<u64> steps;  // that the victim passed
  char step[32];           // the last one
};
Shared* shared = static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));

struct Death {
  u64 step;
  u32 instructions;  // later
};
// In the victim:
Death fate;
Client* self;

void at_step(const char* name) {
  if (!std::strcmp(name, "tx.lock")) check_lock_order(*self);
  if (shared->steps.fetch_add(1, std::memory_order_relaxed) + 1 != fate.step) return;
  std::strncpy(shared->step, name, sizeof shared->step - 1);
  syscall(SYS_kill, getpid(), fate.instructions ? SIGSTOP : SIGKILL);
}

[[noreturn]] void victim(const Scene& scene, Stage& s, u32 slot, Death death) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (death.instructions) REQUIRE(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
  Client c = s.c;
  c.surplus = 0;
  c.entry_surplus = false;
  madvise(c.local, COUNTS_BYTES, MADV_DONTNEED);
  c.become(slot, ROLE_WORKER, i32(getpid()));
  Stage mine{s.w, c, s.h, s.sure, {}, s.node};
  scene.warm(mine);
  fate = death;
  self = &c;
  at_crash_point = at_step;
  scene.act(mine);
  _exit(0);
}

// The victim's end: true if it was killed.
bool wait_for(const Scene& scene, Stage& s, pid_t pid, Death death) {
  u32 left = death.instructions;
  for (;;) {
    int status;
    pid_t ended = waitpid(pid, &status, scene.meanwhile || left ? WNOHANG : 0);
    if (ended == pid && WIFSTOPPED(status)) {
      int signal = WSTOPSIG(status);
      REQUIRE_TEXT(signal == SIGSTOP || signal == SIGTRAP, "signal " + std::to_string(signal));
      if (left && --left) REQUIRE(ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr) == 0);
      else kill(pid, SIGKILL);
    } else if (ended == pid) {
      bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
      REQUIRE_TEXT(killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0), "wait status " + std::to_string(status));
      return killed;
    } else {
      REQUIRE(ended == 0);
      if (shared->meeting.load() == VICTIM_WAITS) {
        scene.meanwhile(s);
        s.met = true;
        shared->meeting.store(OVER);
      }
      sched_yield();
    }
  }
}

// True if the victim was killed, false if it came to its end first.
bool play(const Scene& scene, Death death) {
  doing("scene '%s', death %u instructions after step %llu", scene.name, death.instructions, (unsigned long long)death.step);
  World w(64 << 20, 2, 2, true);
  Stage s{w, w.c, {}, {}, {}};
  scene.prepare(s);
  shared->meeting.store(NONE);
  shared->steps.store(0);
  shared->step[0] = 0;
  u32 slot = w.c.claim_slot();
  pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) victim(scene, s, slot, death);
  bool killed = wait_for(scene, s, pid, death);
  doing("scene '%s', after a death %u instructions after step %llu, '%s'", scene.name, death.instructions,
        (unsigned long long)death.step, shared->step);
  w.bury(slot);
  std::string report = w.c.check();
  REQUIRE_TEXT(report.empty(), report);
  if (scene.after) scene.after(s);
  w.drain();
  for (Handle h : s.sure) REQUIRE(state_of(w.c, h) == ENTRY_READY);
  s.h.insert(s.h.end(), s.sure.begin(), s.sure.end());
  for (Handle h : s.h) {
    REQUIRE(state_of(w.c, h) == ENTRY_READY || state_of(w.c, h) == ENTRY_FAILED);
    w.c.release(h);
  }
  w.forget();
  w.drain();
  w.audit();
  progress();
  return killed;
}

bool may_trace() {
  pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) _exit(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0);
  int status;
  REQUIRE(waitpid(pid, &status, 0) == pid);
  return status == 0;
}

}  // namespace

void Stage::meet() {
  shared->meeting.store(VICTIM_WAITS);
  while (shared->meeting.load() != OVER) sched_yield();
}

Scene last_reference(const char* name, Play prepare, Play after) {
  return {name, prepare, [](Stage& s) { s.c.acquire(s.h[0]); },
          [](Stage& s) {
            s.meet();
            s.c.release(s.h[0]);
          },
          [](Stage& s) {
            s.c.release(s.h[0]);
            s.h.clear();
          },
          after};
}

Handle make(Client& c, u64 bytes, std::initializer_list<Handle> refs) {
  Handle h = c.create(KIND_VALUE);
  c.begin_payload(h, FORMAT_PICKLE, u32(refs.size()), 0, bytes, nullptr);
  for (Handle r : refs) c.contain(h, r);
  c.publish(h, false);
  return h;
}

void steps(const Options& o) {
  std::vector<Scene> scenes;
  object_scenes(scenes);
  container_scenes(scenes);
  task_scenes(scenes);
  version_scenes(scenes);
  ownership_scenes(scenes);
  spill_scenes(scenes);
  if (!o.scene.empty()) std::erase_if(scenes, [&](const Scene& x) { return o.scene != x.name; });
  REQUIRE_TEXT(!scenes.empty(), "there is no scene of that name");
  u64 start = now_ns(), all = 0;
  std::vector<u64> walked;
  for (auto& scene : scenes) {
    u64 n = 0;
    while (play(scene, {n + 1, 0})) n++;
    if (std::getenv("STRESS_VERBOSE")) std::printf("  %s: %llu steps\n", scene.name, (unsigned long long)n);
    REQUIRE(n > 0);
    all += n;
    walked.push_back(n);
  }
  std::printf("steps: %llu marked steps of %zu kinds of change walked in %.1f s\n", (unsigned long long)all, scenes.size(),
              double(now_ns() - start) / 1e9);
  if (!may_trace()) return void(std::printf("steps: not between them, for lack of ptrace\n"));
  Random rnd{mix(o.seed ^ 3)};
  u64 end = now_ns() + u64(o.seconds * 1e9), between = 0;
  for (; now_ns() < end; between++) {
    size_t i = rnd.below(u32(scenes.size()));
    Death death{1 + rnd.below(u32(walked[i])), 1 + rnd.below(1u << (1 + rnd.below(11)))};
    play(scenes[i], death);
  }
  std::printf("steps: %llu deaths at instructions between them, drawn at random\n", (unsigned long long)between);
  take_counts();
}

}  // namespace shoal::stress
