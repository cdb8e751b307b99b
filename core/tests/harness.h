// What all parts of the stress program share: randomness, a board in shared memory, the arena they work on, the
// supervisor's part of a death, the audit at the end of a round, and a watchdog.
#pragma once
#include <sys/types.h>

#include <cstdio>
#include <string>
#include <vector>

#include "client.h"

#if defined(__SANITIZE_THREAD__)
#define SHOAL_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHOAL_TSAN 1
#endif
#endif

namespace shoal::stress {

// A failed expectation: says where, shows the arena, and ends the program.
[[noreturn]] void failed(const char* what, const char* file, int line, const std::string& more = "");
#define REQUIRE(x) ((x) ? (void)0 : ::shoal::stress::failed(#x, __FILE__, __LINE__))
#define REQUIRE_TEXT(x, more) ((x) ? (void)0 : ::shoal::stress::failed(#x, __FILE__, __LINE__, more))

inline u64 mix(u64 x) {  // the finalizer of splitmix64 (Steele, Lea, Flood 2014)
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ x >> 27) * 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

struct Random {
  u64 state;
  u64 next() { return state = mix(state); }
  u32 below(u32 n) { return u32((next() >> 32) * n >> 32); }
  bool one_in(u32 n) { return below(n) == 0; }
};

struct Options {
  u64 seed = 0;
  double seconds = 20;  // for each part
  std::string part;     // only this one
  std::string scene;    // of the steps, only this one
};

// What happened, for the summary lines.
enum Count : u32 { OPS, PUTS, TASKS, STEALS, CANCELS, CALLS, ORDERED, STREAMED, KILLS, SECTIONS, ITEMS_MOVED, VERSIONS, VIEWS,
                   RECORDS, OWNERSHIPS, SPILLS, RESTORES, TIMEOUTS, NAMED, FULL, DIED, RETRIED, NCOUNTS };

// Anonymous memory shared by all processes of the program.
struct Board {
  std::atomic<u64> progress;      // goes up with each finished operation; the watchdog looks at it
  std::atomic<u32> stop;          // 1: clients finish and drop everything
  std::atomic<u32> participants;  // numbers the participants
  std::atomic<u64> counts[NCOUNTS];
  std::atomic<int> memfd;         // of the present world, for the watchdog
  char doing[256];
};
extern Board* board;
// What is being done now, for the report of a failure, in whichever process it happens.
[[gnu::format(printf, 1, 2)]] void doing(const char* format, ...);
inline void count(Count what, u64 n = 1) { board->counts[what].fetch_add(n, std::memory_order_relaxed); }
inline void progress() { board->progress.fetch_add(1, std::memory_order_relaxed); }
std::string take_counts();  // as text; starts them anew

void start_watchdog();  // first thing in the program: it is a process of its own
void dump(Client& c);   // the arena's state, for people

// One arena, with a supervisor (slot 1) in this process. Threads share its mapping.
class World {
 public:
  World(u64 heap_bytes, u32 workers, u32 actors, bool spills = false);
  ~World();
  World(const World&) = delete;

  Client c;  // the supervisor's
  u32 actor_shape = 0;
  std::vector<u32> shapes;        // of ordinary tasks
  std::vector<Handle> locks;      // mutable objects that everybody works on, kept by the supervisor
  Handle queue = 0, table = 0, cell = 0, ring = 0, owned[2] = {};  // the same

  Client client() const;          // the same mapping for one more thread; become() is up to the caller
  void bury(u32 slot);            // all that is to be done about a dead participant
  bool settled();                 // no object is alive but what the supervisor keeps, no task waits anywhere
  void forget();                  // names, and what lies in the containers
  void drain();                   // does what is left to do, as a worker would; but no actor lives on
  void audit();                   // nobody else runs, nobody else holds anything: is all well, is every byte back?
  void make_locks(u32 n);
  void make_containers();

 private:
  void orphan(Task* t);
  bool restart(Task* t);
  void bury_actor(Handle actor);
  std::vector<std::pair<std::string, i64>> resources_;
};

// The plain data of a mutable object of `locks`: whoever holds its mutex may touch it.
struct Guarded {
  u64 a, b;
  u64 inside;
};

// The numbers of a ring.
struct Records {
  static constexpr u32 CAPACITY = 4;
  std::atomic<i64> claimed, skipped;
  struct {
    std::atomic<i64> stamp;
    std::atomic<u64> a, b;
  } places[CAPACITY];
};

inline u32 state_of(Client& c, Handle h) { return c.entry(h).state.load(std::memory_order_acquire); }
Handle put_nothing(Client& c, bool failed);         // an object without a value
Handle new_mutable(Client& c, u64 size);            // of zeroes
Handle new_owned(Client& c, u64 size);              // of zeroes, and nobody's
inline Handle new_lock(Client& c) { return new_mutable(c, sizeof(Guarded)); }
inline Guarded* guarded(Client& c, Handle h) { return reinterpret_cast<Guarded*>(c.rw + c.entry(h).payload + c.spans(h)[0].start); }
inline Records* records(Client& c, Handle h) { return reinterpret_cast<Records*>(c.rw + c.entry(h).payload + c.spans(h)[0].start); }
void mourn(Client& c, Handle actor);                // it is dead: no call of it is run any more
void check_lock_order(Client& c);                   // may the last lock in its journal be taken after the others?
void drop_contained(Client& c, Handle h);           // what add_contained() counted
void fail_task(Client& c, Task* t);                 // what is not sealed yet gets an exception; then finish()

void threads(const Options& o);
void deaths(const Options& o);
void steps(const Options& o);

}  // namespace shoal::stress
