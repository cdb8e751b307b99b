// Spilling: large values that nobody looks at leave memory for a file, and come back when somebody wants to look.
//
//   spill:    mark it (Large::spiller), write it out, then, if still nobody looks: switch the entry to the file, free the block
//   restore:  mark it (Entry::payload >> SPILL_MARK), read it into a block, switch the entry to the block, free the extent
//
// Locks: Entry::lock before Spill::lock before Heap::lock. None is held while a file is read or written. The mark keeps
// everybody else from starting the same; it keeps nobody from looking, or from dropping the last reference: that is looked
// at again when the entry is switched, which is one transaction, with the block or the extent changing hands in it.
// A death before the switch leaves the object where it was, and the extent or block with the dead one's SpillJob; a death
// after it leaves the object where it went, and what it left with the SpillJob. repair_spills() gives back what is there.
//
// What is read while an object is being written may be freed meanwhile and be somebody else's memory: then the bytes in
// the file are of no use, and nobody will look at them, as the switch finds that the object is gone.
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "client.h"

namespace shoal {

constexpr u64 LONG_IO = 64 << 10;          // from here on other threads run meanwhile
constexpr u64 PIECE = 64 << 20;            // written or read in one system call
constexpr u64 DISK_RESERVE = 512ull << 20;  // left free on the disk, or a twentieth of a small one
constexpr u64 PLACE = (1ull << SPILL_MARK) - 1;

static std::string megabytes(u64 bytes) { return std::to_string(bytes >> 20) + " MB"; }

// ------------------------------------------------------------------------------------------------ views

void Client::begin_pin(Handle h) {
  u32 i = index_of(h);
  Entry& e = entries[i];
  while (!views[i]) {
    {
      Tx tx(*this);
      tx.lock(e.lock);
      if (!(e.flags & FLAG_SPILLED)) {
        Large* p = head(h);
        p->used_ns.store(now_ns(), std::memory_order_relaxed);
        auto& word = p->viewers[slot / 64];
        tx.set(word, word.load(std::memory_order_relaxed) | 1ull << slot % 64);
        tx.commit();
        views[i] = 1;
        return;
      }
    }
    restore(h);  // other threads of the process run meanwhile: one of them may look at it by then
  }
  views[i]++;
}

void Client::end_pin(Handle h) {
  u32 i = index_of(h);
  SHOAL_CHECK(views[i] > 0);
  if (--views[i]) return;
  Large* p = head(h);
  {
    Tx tx(*this);
    tx.lock(entries[i].lock);
    p->used_ns.store(now_ns(), std::memory_order_relaxed);
    auto& word = p->viewers[slot / 64];
    tx.set(word, word.load(std::memory_order_relaxed) & ~(1ull << slot % 64));
    tx.commit();
  }
  ring_starved();
}

// Supervisor: the dead `s` looks no more.
void Client::end_pins_of(Handle h, u32 s) {
  Entry& e = entry(h);
  Tx tx(*this);
  tx.lock(e.lock);
  if (!sealed(h) || !large(h) || !(e.flags & FLAG_HAS_BLOCK)) return;
  auto& word = head(h)->viewers[s / 64];
  u64 bit = 1ull << s % 64;
  if (word.load(std::memory_order_relaxed) & bit) tx.set(word, word.load(std::memory_order_relaxed) & ~bit);
  tx.commit();
}

// ---------------------------------------------------------------------------------------------- extents

u64 Client::take_extent(Tx& tx, u64 size) {
  Spill& s = h->spill;
  tx.lock(s.lock);
  u64 len = (size + PAGE - 1) / PAGE * PAGE;
  auto start_of = [](u64 segment) { return std::max(segment * SPILL_SEGMENT, PAGE); };  // 0 is no place
  u64 at = s.live[s.segment] ? s.next : start_of(s.segment);
  if (at + len > (s.segment + 1) * SPILL_SEGMENT) {
    u64 want = (len + PAGE) / SPILL_SEGMENT + 1, free = 0;
    u32 first = 0;
    for (u32 i = 0; i < SPILL_SEGMENTS && free < want; i++) {
      if (s.live[i]) free = 0;
      else if (!free++) first = i;
    }
    if (free < want || want > 128) return 0;
    at = start_of(first);
    tx.set(s.segment, u32(first + want - 1));
  }
  for (u64 i = at / SPILL_SEGMENT; i <= (at + len - 1) / SPILL_SEGMENT; i++) tx.set(s.live[i], s.live[i] + 1);
  tx.set(s.next, at + len);
  return at;
}

void Client::drop_extent(Tx& tx, u64 extent, u64 size) {
  Spill& s = h->spill;
  u64 at = extent & PLACE, len = (size + PAGE - 1) / PAGE * PAGE;
  tx.lock(s.lock);
  for (u64 i = at / SPILL_SEGMENT; i <= (at + len - 1) / SPILL_SEGMENT; i++) tx.set(s.live[i], s.live[i] - 1);
}

// Gives the space on the disk back. A file system that knows no holes keeps it until the place is written again.
void Client::punch(u64 extent, u64 size) {
  if (spillfd < 0) return;
  u64 len = (size + PAGE - 1) / PAGE * PAGE;
  while (fallocate(spillfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(extent & PLACE), off_t(len)) != 0 && errno == EINTR) {
  }
}

SpillJob* Client::free_job() {
  for (SpillJob& job : me->spills)
    if (!job.object) return &job;
  return nullptr;
}

void Client::drop_job(SpillJob& job) {
  if (job.extent) punch(job.extent, job.size);
  CRASH_POINT("spill.drop");
  Tx tx(*this);
  if (job.extent) drop_extent(tx, job.extent, job.size);
  if (job.block) free_block(tx, job.block);
  tx.set(job.extent, u64(0));
  tx.set(job.block, Offset(0));
  tx.set(job.object, Handle(0));
  tx.commit();
}

void Client::repair_spills(Slot& dead) {
  u32 s = u32(&dead - slots);
  for (SpillJob& job : dead.spills) {
    if (!job.object) continue;
    Entry& e = entry(job.object);
    {
      Tx tx(*this);
      tx.lock(e.lock);
      if (sealed(job.object)) {
        if (e.flags & FLAG_SPILLED && e.payload >> SPILL_MARK == s + 1) tx.set(e.payload, e.payload & PLACE);
        if (e.flags & FLAG_HAS_BLOCK && large(job.object) && head(job.object)->spiller == s + 1) tx.set(head(job.object)->spiller, 0u);
      }
      tx.commit();
    }
    drop_job(job);
  }
}

// -------------------------------------------------------------------------------------------- to the file

// When the disk gets it is up to the kernel: what is dropped soon never has to go there.
static int write_all(int fd, const u8* from, u64 size, u64 at) {
  for (u64 done = 0; done < size;) {
    u64 n = std::min(PIECE, size - done);
    ssize_t wrote = pwrite(fd, from + done, n, off_t(at + done));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return wrote ? errno : ENOSPC;
    done += u64(wrote);
  }
  return 0;
}

static int read_all(int fd, u8* to, u64 size, u64 at) {
  for (u64 done = 0; done < size;) {
    ssize_t got = pread(fd, to + done, std::min(size - done, PIECE), off_t(at + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got ? errno : ENODATA;
    done += u64(got);
  }
  return 0;
}

bool Client::spillable(Handle h) const {
  const Entry& e = entry(h);
  if (e.state.load(std::memory_order_acquire) != ENTRY_READY || !same_life(h) || !large(h) || !(e.flags & FLAG_HAS_BLOCK)) return false;
  const Large* p = head(h);
  if (p->spiller || p->head.nrefs) return false;  // the references in it would have to be counted from the file
  for (const auto& word : p->viewers)
    if (word.load(std::memory_order_relaxed)) return false;
  return true;
}

u64 Client::spill(u64 want, bool let_go) {
  if (spillfd < 0) return 0;
  struct statvfs disk;
  u64 budget = 0;
  std::string disk_note;
  spill_note.clear();
  if (fstatvfs(spillfd, &disk) == 0) {
    u64 free = u64(disk.f_bavail) * disk.f_frsize, reserve = std::min(DISK_RESERVE, u64(disk.f_blocks) * disk.f_frsize / 20);
    budget = free > reserve ? free - reserve : 0;
    disk_note = "the disk of the spill directory has " + megabytes(free) + " free, of which " + megabytes(reserve) + " are kept";
  } else {
    disk_note = std::string("the spill file cannot be looked at: ") + std::strerror(errno);
  }
  struct Candidate {
    u64 used_ns;
    Handle object;
    u64 size;
  };
  std::vector<Candidate> found;
  for (u32 i = 1, n = h->heap.entry_top.load(); i < n; i++) {
    Entry& e = entries[i];
    if (e.state.load(std::memory_order_acquire) != ENTRY_READY || peek(e.size) < SPILL_FROM) continue;
    Handle object = handle_of(i);
    Tx tx(*this);
    tx.lock(e.lock);
    if (spillable(object)) found.push_back({head(object)->used_ns.load(std::memory_order_relaxed), object, e.size});
  }
  std::sort(found.begin(), found.end(), [](auto& a, auto& b) { return a.used_ns < b.used_ns; });
  u64 freed = 0;
  bool fits = true;
  for (const Candidate& c : found) {
    if (freed >= want) break;
    if (c.size > budget) {
      fits = false;
      continue;
    }
    budget -= c.size;
    freed += spill_one(c.object, let_go);
    if (!spill_note.empty()) break;  // writing failed: the next would fail too
  }
  if (freed) spill_note.clear();
  else if (!fits) spill_note = disk_note;
  if (freed) ring_starved();
  return freed;
}

// Returns the bytes of memory that are free now; 0 if somebody looks at it, it is gone, or it cannot be written.
u64 Client::spill_one(Handle object, bool let_go) {
  Entry& e = entry(object);
  SpillJob* job = free_job();
  if (!job) return 0;
  Offset block;
  u64 size, extent;
  {
    Tx tx(*this);
    tx.lock(e.lock);
    if (!spillable(object)) return 0;
    block = e.payload;
    size = e.size;
    extent = take_extent(tx, size);
    if (!extent) return 0;
    tx.set(head(object)->spiller, slot + 1);
    tx.set(job->object, object);
    tx.set(job->extent, extent);
    tx.set(job->size, size);
    tx.commit();
  }
  CRASH_POINT("spill.marked");
  u64 start = now_ns();
  void* others = let_go && size >= LONG_IO && let_others_run ? let_others_run() : nullptr;
  int error = write_all(spillfd, ro + block, size, extent);
  if (others) come_back(others);
  CRASH_POINT("spill.written");
  u64 freed = 0;
  {
    Tx tx(*this);
    tx.lock(e.lock);
    // Our mark is still on it: it cannot have been spilled by others, nor be another object in the same place.
    if (sealed(object) && e.flags & FLAG_HAS_BLOCK && e.payload == block && head(object)->spiller == slot + 1) {
      tx.set(head(object)->spiller, 0u);
      if (!error && spillable(object)) {
        freed = block_size(block);
        tx.set(e.flags, u8(FLAG_SPILLED));
        tx.set(e.payload, extent);
        Spill& s = h->spill;
        tx.lock(s.lock);
        tx.set(s.bytes, s.bytes.load(std::memory_order_relaxed) + size);
        tx.set(s.objects, s.objects.load(std::memory_order_relaxed) + 1);
        free_block(tx, block);
        tx.set(job->extent, u64(0));
        tx.set(job->object, Handle(0));
      }
    }
    tx.commit();
  }
  CRASH_POINT("spill.switched");
  if (job->object == object) drop_job(*job);
  if (error) spill_note = std::string("writing to the spill file failed: ") + std::strerror(error);
  if (freed) {
    Spill& s = h->spill;
    s.written.fetch_add(size, std::memory_order_relaxed);
    s.write_ns.fetch_add(now_ns() - start, std::memory_order_relaxed);
    s.writes.fetch_add(1, std::memory_order_relaxed);
  }
  return freed;
}

// --------------------------------------------------------------------------------------------- and back

// Afterwards it is in memory, or was for a moment: who wants to look looks again. We hold a reference to it.
void Client::restore(Handle object) {
  Entry& e = entry(object);
  u64 size = e.size, extent = 0;
  u32 seen = me->ring.load(std::memory_order_seq_cst);
  SpillJob* job = free_job();
  {
    Tx tx(*this);
    tx.lock(e.lock);
    if (!(e.flags & FLAG_SPILLED)) return;
    if (job && !(e.payload >> SPILL_MARK)) {
      extent = e.payload;
      tx.set(e.payload, extent | u64(slot + 1) << SPILL_MARK);
      tx.set(job->object, object);
      tx.set(job->size, size);
    } else if (job) {
      tx.set(e.waiter, e.waiter == 0 || e.waiter == slot + 1 ? slot + 1 : WAITER_MANY);
    }
    tx.commit();
  }
  if (!extent) {  // somebody reads it already; or all our jobs are at work, each of which ends soon
    u64 until = job ? 0 : now_ns() + 5000000;
    if (pause) pause(seen, until);
    else sleep_ring(seen, until);
    check_usable();
    return;
  }
  CRASH_POINT("restore.marked");
  u64 start = now_ns();
  int error = 0;
  auto give_up = [&] {
    u32 waiter;
    {
      Tx tx(*this);
      tx.lock(e.lock);
      tx.set(e.payload, extent);
      waiter = e.waiter;
      tx.set(e.waiter, 0u);
      tx.commit();
    }
    drop_job(*job);
    ring_waiter(waiter);
  };
  try {
    with_room(size, true, [&] {
      fill_cache(size);
      Tx tx(*this);
      Offset place = alloc_block(tx, size);
      tx.set(job->block, place);
      tx.commit();
      return place;
    });
    commit_block(job->block, size);
    void* others = let_others_run ? let_others_run() : nullptr;
    error = read_all(spillfd, rw + job->block, size, extent);
    if (others) come_back(others);
  } catch (...) {
    give_up();
    throw;
  }
  Large* p = at<Large>(job->block);
  if (!error && (p->head.nrefs || p->head.meta < sizeof(Large) || p->head.meta + p->head.meta_size > size)) error = EBADMSG;
  if (error) {
    give_up();
    char id[20];
    std::snprintf(id, sizeof id, "%08x%08x", gen_of(object), index_of(object));
    throw Error(Error::LOST, std::string(id) + ": its " + megabytes(size) + " had been spilled, and reading them back from the spill file failed: " + std::strerror(error));
  }
  for (auto& word : p->viewers) word.store(0, std::memory_order_relaxed);
  p->spiller = 0;
  p->used_ns.store(now_ns(), std::memory_order_relaxed);
  CRASH_POINT("restore.read");
  u32 waiter;
  {
    Tx tx(*this);
    tx.lock(e.lock);
    SHOAL_CHECK(e.flags & FLAG_SPILLED && e.payload >> SPILL_MARK == slot + 1);
    tx.set(e.flags, u8(FLAG_HAS_BLOCK));
    tx.set(e.payload, job->block);
    waiter = e.waiter;
    tx.set(e.waiter, 0u);
    tx.set(job->block, Offset(0));
    tx.set(job->extent, extent);
    Spill& s = h->spill;
    tx.lock(s.lock);
    tx.set(s.bytes, s.bytes.load(std::memory_order_relaxed) - size);
    tx.set(s.objects, s.objects.load(std::memory_order_relaxed) - 1);
    tx.commit();
  }
  CRASH_POINT("restore.switched");
  h->spill.read.fetch_add(size, std::memory_order_relaxed);
  h->spill.read_ns.fetch_add(now_ns() - start, std::memory_order_relaxed);
  h->spill.reads.fetch_add(1, std::memory_order_relaxed);
  ring_waiter(waiter);
  drop_job(*job);
}

}  // namespace shoal
