// Test builds: the marked steps at which a process can be killed.
//
// A mark is CRASH_POINT("name"), or a step of a Tx: each place in the source where a field is set, a lock taken or a
// change committed is a mark of its own, "objects.cpp:140 tx.set". A test arms one in two ways:
//   SHOAL_CRASH=name:n or arm_crash_point()   this process dies at its n-th passage of the marks of that name
//   SHOAL_CRASH_BOARD=file                    a file that all processes of a session map: it counts the passages by kind of
//                                             process, and names the mark and the kind that is to die next
// Nothing of this is in a build for users.
#ifdef SHOAL_CRASH_POINTS
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "client.h"

namespace shoal {

static struct {
  char name[32];
  size_t length = 0;  // 0: none is armed
  std::atomic<long> left;
} crash;

void arm_crash_point(const char* spec) {
  const char* colon = std::strrchr(spec, ':');
  crash.length = colon && size_t(colon - spec) < sizeof crash.name ? size_t(colon - spec) : 0;
  std::memcpy(crash.name, spec, crash.length);
  crash.left.store(crash.length ? std::atol(colon + 1) : 0);
}

void (*at_crash_point)(const char* name) = nullptr;
const Slot* crash_slot = nullptr;

namespace {

constexpr u32 ROLES = 8, POINTS = 4096, NAME = 64;
struct Point {
  std::atomic<u32> ready;
  u32 pad;
  char name[NAME - 8];
  std::atomic<u64> passed[ROLES];
};
struct Board {
  std::atomic<u32> points;
  std::atomic<u32> armed;   // the role that is to die + 1
  std::atomic<i64> left;    // passages until then
  std::atomic<i32> victim;  // its pid
  u32 pad;
  char target[NAME];
  Point all[POINTS];
};
Board* board = nullptr;

// Two processes that pass a mark for the first time at once may both enter it: the reader adds them up.
Point* find(const char* name) {
  u32 n = std::min(board->points.load(), POINTS);
  for (u32 i = 0; i < n; i++)
    if (board->all[i].ready.load() && !std::strcmp(board->all[i].name, name)) return &board->all[i];
  u32 i = board->points.fetch_add(1);
  SHOAL_CHECK(i < POINTS);
  std::strncpy(board->all[i].name, name, sizeof board->all[i].name - 1);
  board->all[i].ready.store(1);
  return &board->all[i];
}

void open_board(const char* path) {
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void* p = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (p != MAP_FAILED) board = static_cast<Board*>(p);
}

void pass(const char* name, const Place& where) {
  struct Known {
    const char *file, *name;
    u32 line;
    Point* point;
  };
  static thread_local Known known[1024];
  u64 hash = (u64(where.line()) * 31 + u64(name)) * 31 + u64(where.file_name());
  Known& k = known[(hash ^ hash >> 17) % 1024];
  if (!k.point || k.file != where.file_name() || k.name != name || k.line != where.line()) {
    const char* slash = std::strrchr(where.file_name(), '/');
    char text[NAME - 8];
    std::snprintf(text, sizeof text, "%s:%u %s", slash ? slash + 1 : where.file_name(), u32(where.line()), name);
    k = {where.file_name(), name, u32(where.line()), find(text)};
  }
  u32 role = crash_slot ? crash_slot->role.load(std::memory_order_relaxed) : 0;
  k.point->passed[role % ROLES].fetch_add(1, std::memory_order_relaxed);
  if (board->armed.load() != role + 1 || std::strcmp(board->target, k.point->name)) return;
  if (board->left.fetch_sub(1) != 1) return;
  board->armed.store(0);
  board->victim.store(i32(getpid()));
  kill(getpid(), SIGKILL);
}

}  // namespace

void crash_point(const char* name, Place where) {
  if (at_crash_point) at_crash_point(name);
  static const bool from_environment = [] {
    if (const char* spec = std::getenv("SHOAL_CRASH")) arm_crash_point(spec);
    if (const char* path = std::getenv("SHOAL_CRASH_BOARD")) open_board(path);
    return true;
  }();
  (void)from_environment;
  if (board) pass(name, where);
  if (!crash.length || std::strlen(name) != crash.length || std::memcmp(crash.name, name, crash.length)) return;
  if (crash.left.fetch_sub(1) == 1) kill(getpid(), SIGKILL);
}

}  // namespace shoal
#endif
