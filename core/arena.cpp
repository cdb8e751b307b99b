// The arena: a memfd, mapped twice. Its whole address range is reserved once, so nothing ever moves; memory is
// committed (fallocate) before it is first used, so that running out is an error code and not a SIGBUS.
//
//   Header | slots | entries | page table | heap
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

#include "client.h"

namespace shoal {

static u64 round_up(u64 n, u64 to) { return (n + to - 1) / to * to; }
constexpr u64 SLOTS_AT = (sizeof(Header) + PAGE - 1) / PAGE * PAGE;
constexpr u64 ENTRIES_AT = (SLOTS_AT + sizeof(Slot) * MAX_PROCESSES + PAGE - 1) / PAGE * PAGE;
constexpr u64 PAGES_AT = ENTRIES_AT + sizeof(Entry) * u64(MAX_OBJECTS);
constexpr u32 FIRST_ENTRY = 1;  // index 0 is "no object"

u64 now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return u64(t.tv_sec) * 1000000000ull + u64(t.tv_nsec);
}

u64 Client::arena_bytes(u64 heap_bytes) {
  u64 pages = heap_bytes / PAGE;
  return PAGES_AT + round_up(pages * sizeof(PageInfo), PAGE) + pages * PAGE;
}

u64 Client::address_space(u64 heap_bytes) {
  return 2 * arena_bytes(heap_bytes) + COUNTS_BYTES + sizeof(u32) * u64(MAX_OBJECTS);  // the last: see next_mark()
}

void Client::format(int fd, u64 heap_bytes, u32 cpus) {
  if (heap_bytes / PAGE >= 0xfffffff0ull) throw Error(Error::INVALID, "an arena may have at most 16 TB");
  u64 bytes = arena_bytes(heap_bytes);
  if (ftruncate(fd, off_t(bytes)) != 0)
    throw Error(Error::FULL, std::string("cannot size the arena: ") + std::strerror(errno) +
                                 (errno == EFBIG ? "; `ulimit -f` is too low for its " + std::to_string(bytes >> 20) + " MB" : ""));
  // Whoever joins gets this descriptor: nobody may cut the memory off under the others, which would end them with SIGBUS.
  fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  commit_pages(fd, 0, SLOTS_AT + 16 * sizeof(Slot));  // claim_slot() sees to the others
  commit_pages(fd, ENTRIES_AT, PAGE * 64);
  void* p = mmap(nullptr, SLOTS_AT, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) throw Error(Error::FULL, std::string("cannot map the arena: ") + std::strerror(errno));
  auto* h = static_cast<Header*>(p);
  h->version = ABI_VERSION;
  h->cpus = cpus;
  h->bytes = bytes;
  h->slots = SLOTS_AT;
  h->entries = ENTRIES_AT;
  h->pages = PAGES_AT;
  u64 pages = heap_bytes / PAGE;
  h->heap_base = PAGES_AT + round_up(pages * sizeof(PageInfo), PAGE);
  if (getrandom(&h->session, sizeof h->session, 0) != sizeof h->session) h->session = now_ns();
  h->heap.pages_limit = u32(pages);
  h->heap.top = 1;  // page 0 stands for "none"
  h->heap.used = 0;
  h->heap.entry_top = FIRST_ENTRY;
  h->heap.entry_committed = u32(PAGE * 64 / sizeof(Entry));
  h->slots_top = 2;
  h->slots_committed = 16;
  h->heap.wait_ns = 60'000'000'000ull;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  h->magic = ABI_MAGIC;
  munmap(p, SLOTS_AT);
}

void Client::attach(int fd, int event) {
  Header head;
  if (pread(fd, &head, offsetof(Header, session), 0) != ssize_t(offsetof(Header, session)) || head.magic != ABI_MAGIC)
    throw Error(Error::INVALID, "this is not a Shoal arena");
  if (head.version != ABI_VERSION)
    throw Error(Error::INVALID, "the session was made by another version of Shoal (arena format " +
                                    std::to_string(head.version) + ", ours is " + std::to_string(ABI_VERSION) + ")");
  void* mapped[2] = {};
  auto unmap = [&] {
    for (void* p : mapped)
      if (p) munmap(p, head.bytes);
  };
  auto map = [&](int prot) {
    void* p = mmap(nullptr, head.bytes, prot, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (p == MAP_FAILED) {
      std::string why = std::strerror(errno);
      unmap();
      throw Error(Error::FULL, "cannot reserve " + std::to_string(head.bytes >> 20) + " MB of addresses for the arena: " +
                                   why + "; raise `ulimit -v` or pass a smaller object_store_memory to init()");
    }
    madvise(p, head.bytes, MADV_DONTDUMP);
    return p;
  };
  mapped[0] = map(PROT_READ | PROT_WRITE);
  mapped[1] = map(PROT_READ);
  void* counts = mmap(nullptr, COUNTS_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (counts == MAP_FAILED) {
    int error = errno;
    unmap();
    throw Error(Error::FULL, std::string("cannot reserve ") + std::to_string(COUNTS_BYTES >> 20) +
                                 " MB of addresses for the counts of references: " + std::strerror(error) +
                                 "; `ulimit -v`, `ulimit -d` or vm.overcommit_memory=2 forbids it");
  }
  rw = static_cast<u8*>(mapped[0]);
  ro = static_cast<const u8*>(mapped[1]);
  local = static_cast<u32*>(counts);
  views = local + MAX_OBJECTS;
  h = at<Header>(0);
  slots = at<Slot>(h->slots);
  entries = at<Entry>(h->entries);
  pages = at<PageInfo>(h->pages);
  memfd = fd;
  eventfd = event;
}

void Client::detach() {
  if (!rw) return;
  u64 bytes = h->bytes;
  munmap(rw, bytes);
  munmap(const_cast<u8*>(ro), bytes);
  munmap(local, COUNTS_BYTES);
  if (memfd >= 0) close(memfd);
  if (eventfd >= 0) close(eventfd);
  rw = nullptr;
  ro = nullptr;
  h = nullptr;
  populated.clear();
  memfd = eventfd = -1;
}

void Client::become(u32 s, Role role, i32 pid) {
  slot = s;
  me = &slots[s];
  in_tx = false;
  forked = false;
  spin_ns = 50000;
  populated.clear();  // fork() copies no page tables of shared memory
  epochs.clear();
  me->pid = pid;
  me->started_ns = now_ns();
  me->role.store(role);
  me->state.store(SLOT_ALIVE);
  set_awake(role != ROLE_SUPERVISOR);  // the supervisor sleeps in a poll of its own
}

void Client::check_usable() const {
  if (forked)
    throw Error(Error::FORKED,
                "this process was forked from a participant of a Shoal session and is not one itself; call shoal.init() "
                "in the child to start its own session, or use tasks and actors instead of fork()");
  if (h->dead.load(std::memory_order_acquire) || peek(cut)) {
    if (h->stopping.load())
      throw Error(Error::ENDED, "the session has ended: it was shut down by the process that started it, or by `shoal stop`");
    std::string why(h->end_reason, strnlen(h->end_reason, sizeof h->end_reason));
    if (i32 status = h->supervisor_status.load(); why.empty())
      why = status < 0     ? "was killed by signal " + std::to_string(-status)
            : status < 256 ? "exited with code " + std::to_string(status) + "; what it said is in the error output above"
                           : "is gone (killed?)";
    throw Error(Error::ENDED, "the session has ended: its supervisor process " + why +
                                  "; call shoal.shutdown() and shoal.init() to start a new one");
  }
}

void Client::ring_supervisor() {
  if (h->wanted.exchange(1) == 0) poke_supervisor();
}

void Client::poke_supervisor() {
  u64 one = 1;
  while (write(eventfd, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

}  // namespace shoal
