// One participant of a run, a thread or a process: a client, which does a random mixture of everything, or a worker,
// which runs tasks and hosts actors as src/shoal/engine/local/worker.py and the bindings do.
//
// Every value can be checked by whoever reads it: value = mix(seed), both stored, and a pattern made from it. What a
// task returns follows from its arguments alone, so whoever submits it knows what to expect, however often and wherever
// it is run.
#pragma once
#include <deque>
#include <map>
#include <mutex>

#include "harness.h"

namespace shoal::stress {

struct Died {};  // thrown where a thread plays dead: it leaves everything as it is

enum What : u8 { VALUE, LOCK, ACTOR };

struct Held {  // a reference
  Handle h;
  u64 expect = 0;
  What what = VALUE;
  bool known = false;   // `expect` counts
  bool sure = false;    // it will not fail
  bool loose = false;   // nobody counts on it: it may be cancelled
  bool prompt = false;  // it does not wait for an actor, which may wait for a place to live
};

// References on their way from one thread to another: each is counted as contained while it is here.
struct Flight {
  std::mutex mutex;
  std::deque<Held> queue;
};

enum ClientOp : u32 { PUT, BIG, READ, DROP, SUBMIT, WAIT, CANCEL, STREAM, NAME, MAKE_ACTOR, CALL, KILL, SECTION, PASS, QUEUE, TABLE,
                     VERSION, VIEW, RING, OWNED, NUM_OPS };
struct Theme {
  const char* name;
  u32 weights[NUM_OPS];
  u64 heap_bytes;
  bool scarce;  // memory runs out: anything may fail
  bool spills;  // there is a file for what nobody looks at
};
extern const Theme themes[];
extern const u32 num_themes;

class Peer {
 public:
  Peer(World& w, Client client, const Theme& theme, Flight* flight, u64 seed);
  void client(u64& ops);    // so many, counted down; ends early when the board says stop; then drops everything
  void worker();            // until commanded to leave
  void one(ClientOp op);
  void drop_all();

  Client c;
  Random rnd;
  u32 die_one_in = 0;       // threads only: play dead at one in so many of the marked places

 private:
  enum TaskOp : u32 { COMPUTE, NEST, CHILDREN, ITEMS };
  struct Call {
    TaskOp op;
    u32 bytes;
    u64 seed;
    u32 waited;  // the first so many dependencies are arguments
    u32 participant;
    u64 sequence;
  };
  struct Result {
    u64 expect;
    bool known;
  };

  void here() {  // a place to die
    if (die_one_in && rnd.one_in(die_one_in)) throw Died{};
    if (flight_ && c.me->command.load(std::memory_order_relaxed) & CMD_KILL) throw Died{};
  }
  [[noreturn]] void leave();

  // values
  void fill(Handle h, u64 seed, u32 bytes, const std::vector<Handle>& children);
  u64 read(Handle h);
  Handle put(u64 seed, u32 bytes, const std::vector<Handle>& children);
  u32 random_size(bool big);

  // references
  Held* any(What what);
  void keep(const Held& x);
  void drop(size_t i);
  void look(const Held& x);

  // tasks
  Result expected(const Call& call, const std::vector<Held>& args) const;
  static u64 nested(u64 fold, u64* call_seed, u64* put_seed);
  std::vector<Held> submit(TaskKind kind, TaskOp op, u32 shape, Handle actor, bool sure);
  bool wait(Handle h, u64 deadline);
  void execute(Task* t);
  u64 nest(Task* t, u64 fold);
  void stream(Task* t, u64 fold);
  void seal(Task* t, u32 i, u64 seed, u32 bytes);
  void host(Task* t);
  Task* next_task();
  Task* next_mail(Handle actor);

  // the client's operations
  void consume_stream();
  void cancel();
  void name();
  void make_actor();
  void section();
  bool lock(Handle h, WaitMode mode, u64 me, u64 deadline, bool now);
  void pass();
  void kill();

  // what many share (peer_shared.cpp)
  void queue();
  void table();
  void version();
  void view();
  void ring();
  void owned();
  void taken(Handle h);
  // Gives a reference of ours away, unless that fails or is not wanted.
  template <class F>
  void giving(Handle h, F give) {
    bool given;
    try {
      given = give();
    } catch (const Error&) {
      c.release(h);
      throw;
    }
    if (!given) c.release(h);
  }

  World& w_;
  const Theme& theme_;
  Flight* flight_;
  std::vector<Held> held_;
  u32 participant_;
  u64 sequence_ = 0;
  u64 newest_ = 0;  // version that was seen
  u32 block_depth_ = 0, help_depth_ = 0;
  std::map<u32, u64> last_call_;  // of each participant, to the actor hosted here
};

}  // namespace shoal::stress
