// Memory of the heap.
//
//   small blocks (up to SMALL_LIMIT)  process cache -> span of the size class -> run of pages
//   large blocks                      run of pages, newest freed first (its pages are warm), then never used ones
//
// A process takes and frees small blocks in its own cache without any lock; caches are refilled and flushed many
// blocks at a time. Descriptions of runs and spans are in the page table, not in the memory they describe.
// A death leaves at most: blocks in the dead process's cache (return_caches), a half-made change (its journal).
// Runs are joined with free neighbours by boundary tags (Knuth, TAOCP vol. 1, 2.5).
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "client.h"

namespace shoal {

static u32 class_of(u64 size) {
  if (size <= 512) return size == 0 ? 0 : u32((size + 63) / 64 - 1);
  u64 s = size - 1;
  u32 top = 63 - u32(__builtin_clzll(s));
  return 8 + (top - 9) * 4 + u32((s >> (top - 2)) & 3);
}
static u64 class_size(u32 cls) {
  if (cls < 8) return 64 * (u64(cls) + 1);
  u64 base = 512ull << ((cls - 8) / 4);
  return base + base / 4 * ((cls - 8) % 4 + 1);
}
static u32 span_pages(u32 cls) { return u32(std::max<u64>(65536, 8 * class_size(cls)) / PAGE); }
static u32 span_blocks(u32 cls) { return u32(span_pages(cls) * PAGE / class_size(cls)); }
static u32 cache_limit(u32 cls) { return u32(std::clamp<u64>(131072 / class_size(cls), 4, 512)); }
static u32 bin_of(u64 npages) { return std::min(NUM_BINS - 1, 63 - u32(__builtin_clzll(npages))); }
static u32 seconds() { return u32(now_ns() / 1000000000ull); }
constexpr u32 ENTRY_BATCH = 128, ENTRY_LIMIT = 512;
constexpr u64 TRIM_PAGES = (64ull << 20) / PAGE;  // idle memory that is worth waking the supervisor for
constexpr u32 TRIM_STEP = (4 << 20) / PAGE;       // pages given back at a time
constexpr u64 LONG_CALL = 1 << 20;
constexpr u64 POPULATE_FROM = 256 << 10;          // larger blocks get their page tables filled in one call

void commit_pages(int fd, Offset start, u64 size) {
  while (fallocate(fd, 0, off_t(start), off_t(size)) != 0)
    if (errno == EBADF) throw Error(Error::ENDED, "the session has ended here: this process has closed the files of it (os.closerange()?)");
    else if (errno != EINTR)
      throw Error(Error::FULL, std::string("the system has no memory left for the arena: ") + std::strerror(errno));
}

// ------------------------------------------------------------------------------------------------ runs

void Client::mark_run(Tx& tx, u32 first, u32 len, u8 state, u8 warmth) {
  PageInfo& p = pages[first];
  tx.set(p.state, state);
  tx.set(p.warmth, warmth);
  tx.set(p.len, len);
  tx.set(p.first, first);
  PageInfo& last = pages[first + len - 1];
  if (len > 1) {
    tx.set(last.state, state);
    tx.set(last.first, first);
  }
}

void Client::link_run(Tx& tx, u32 first, u32 len, u8 warmth, u32 freed_at) {
  mark_run(tx, first, len, PAGE_FREE, warmth);
  u32 b = bin_of(len), old = h->heap.bins[b];
  tx.set(pages[first].freed_at, freed_at);
  tx.set(pages[first].prev, 0u);
  tx.set(pages[first].next, old);
  if (old) tx.set(pages[old].prev, first);
  tx.set(h->heap.bins[b], first);
  tx.set(h->heap.nonempty, h->heap.nonempty | 1ull << b);
  if (warmth & WARM_SOME) tx.set(h->heap.warm_free, h->heap.warm_free.load(std::memory_order_relaxed) + len);
}

void Client::unlink_run(Tx& tx, u32 first) {
  PageInfo& p = pages[first];
  u32 b = bin_of(p.len);
  if (p.prev) tx.set(pages[p.prev].next, p.next);
  else tx.set(h->heap.bins[b], p.next);
  if (p.next) tx.set(pages[p.next].prev, p.prev);
  if (!h->heap.bins[b]) tx.set(h->heap.nonempty, h->heap.nonempty & ~(1ull << b));
  if (p.warmth & WARM_SOME) tx.set(h->heap.warm_free, h->heap.warm_free.load(std::memory_order_relaxed) - p.len);
}

u32 Client::alloc_run(Tx& tx, u64 n) {
  Heap& heap = h->heap;
  auto full = [&]() -> u32 {
    u64 used = heap.used.load() * PAGE, all = u64(heap.pages_limit) * PAGE;
    throw Error(Error::FULL, "cannot get " + std::to_string(n * PAGE) + " bytes: " + std::to_string(used) + " of the arena's " +
                                 std::to_string(all) + " bytes are in use; drop references to objects, or pass a larger object_store_memory to init()");
  };
  if (n >= heap.pages_limit)
    throw Error(Error::FULL, std::to_string(n * PAGE) + " bytes are more than the whole arena has (" +
                                 std::to_string(u64(heap.pages_limit) * PAGE) +
                                 "): pass a larger object_store_memory to init(), or divide the object into parts");
  u32 b = bin_of(n), found = 0;
  auto search = [&](u32 limit) {
    u32 tries = 0;
    for (u32 p = heap.bins[b]; p && tries < limit; p = pages[p].next, tries++)
      if (pages[p].len >= n) return p;
    return 0u;
  };
  found = search(16);
  if (!found) {
    u64 above = b + 1 < 64 ? heap.nonempty >> (b + 1) << (b + 1) : 0;
    if (above) found = heap.bins[__builtin_ctzll(above)];
  }
  if (!found && heap.top + n > heap.pages_limit) found = search(~0u);
  if (!found) {
    if (heap.top + n > heap.pages_limit) return full();
    u32 first = heap.top;
    if (first + n > heap.info_committed) {
      u64 to = std::min<u64>(heap.pages_limit, first + n + 4096);
      commit_pages(memfd, h->pages + u64(heap.info_committed) * sizeof(PageInfo), (to - heap.info_committed) * sizeof(PageInfo));
      tx.set(heap.info_committed, u32(to));
    }
    tx.set(heap.top, u32(first + n));
    mark_run(tx, first, u32(n), PAGE_RUN, COLD_SOME);
    found = first;
  } else {
    u32 len = pages[found].len, freed_at = pages[found].freed_at;
    u8 warmth = pages[found].warmth;
    unlink_run(tx, found);
    if (len > n) link_run(tx, u32(found + n), u32(len - n), warmth, freed_at);
    mark_run(tx, found, u32(n), PAGE_RUN, warmth & COLD_SOME);
  }
  u64 used = heap.used.load(std::memory_order_relaxed) + n;
  tx.set(heap.used, used);
  if (used > heap.peak.load(std::memory_order_relaxed)) tx.set(heap.peak, used);
  return found;
}

void Client::free_run(Tx& tx, u32 first, u8 warmth) {
  Heap& heap = h->heap;
  u32 len = pages[first].len, start = first, freed_at = warmth & WARM_SOME ? seconds() : 0;
  tx.set(heap.used, heap.used.load(std::memory_order_relaxed) - len);
  u32 next = first + len;
  if (next < heap.top && pages[next].state == PAGE_FREE) {
    warmth |= pages[next].warmth;
    freed_at = std::max(freed_at, pages[next].freed_at);
    len += pages[next].len;
    unlink_run(tx, next);
  }
  if (first > 1 && pages[first - 1].state == PAGE_FREE) {
    u32 before = pages[first - 1].first;
    warmth |= pages[before].warmth;
    freed_at = std::max(freed_at, pages[before].freed_at);
    len += pages[before].len;
    unlink_run(tx, before);
    start = before;
  }
  link_run(tx, start, len, warmth, freed_at);
}

// Makes the pages of a large block present.
void Client::commit_block(Offset block, u64 size, bool let_go) {
  if (size <= SMALL_LIMIT) return;
  PageInfo& p = pages[page_of(block)];
  bool cold = p.warmth & COLD_SOME;
  if (!cold && size < POPULATE_FROM) return;
  populate(block, u64(p.len) * PAGE, cold, let_go);
  p.warmth = 0;
}

// MADV_POPULATE_WRITE allocates pages and maps them in one pass and reports a lack of memory as an error; older kernels
// (before 5.14) get the two steps one after the other. The call walks over every page, which takes as long as copying it:
// so what this process has populated before is left out. That is exact also for a run of which some pages may be cold.
// Pages are given back only from free runs, under the heap's lock, and `trims` goes up there too; so who has taken the run
// out of the free ones under that lock has seen every trim that ever touched it, and forgets all bits if there was one.
void Client::populate(Offset start, u64 len, bool cold, bool let_go) {
  u64 trims = h->heap.trims.load(std::memory_order_acquire);
  if (trims != trims_seen || populated.empty()) {
    populated.assign(h->bytes / POPULATE_FROM + 1, false);
    trims_seen = trims;
  }
  // The parts of pieces at both ends have no bit. Warm ones are there, and cost page faults at most.
  u64 end = start + len, first = (start + POPULATE_FROM - 1) / POPULATE_FROM, last = std::max(first, end / POPULATE_FROM);
  Offset from = cold ? start : first * POPULATE_FROM;
  for (u64 piece = first; piece < last; piece++) {
    if (!populated[piece]) continue;
    if (from < piece * POPULATE_FROM) fill(from, piece * POPULATE_FROM, cold, let_go);
    from = (piece + 1) * POPULATE_FROM;
  }
  Offset to = cold ? end : last * POPULATE_FROM;
  if (from < to) fill(from, to, cold, let_go);
  // Another thread may have forgotten all bits meanwhile, for a trim that happened elsewhere.
  if (trims == trims_seen && last <= populated.size())
    for (u64 piece = first; piece < last; piece++) populated[piece] = true;
}

void Client::fill(Offset from, Offset to, bool cold, bool let_go) {
  void* others = let_go && to - from >= LONG_CALL && let_others_run && !in_tx ? let_others_run() : nullptr;
  int error = madvise(rw + from, to - from, 23 /* MADV_POPULATE_WRITE */) != 0 ? errno : 0;
  if (others) come_back(others);
  if (!error || !cold) return;  // what is warm is there
  if (error != EINVAL && error != EINTR)
    throw Error(Error::FULL, std::string("the system has no memory left for the arena: ") + std::strerror(error));
  commit_pages(memfd, from, to - from);
}

// The run stays free all the while: taken away, it could be just what somebody needs. So the lock is held while pages
// are given back, a piece at a time.
u64 Client::trim(u32 older_than_s) {
  Heap& heap = h->heap;
  u64 given = 0;
  u32 now = seconds();
  for (;;) {
    u32 found = 0, len = 0, freed_at = 0;
    {
      Tx tx(*this);
      tx.lock(heap.lock);
      for (u32 b = 0; b < NUM_BINS && !found; b++)
        for (u32 p = heap.bins[b]; p && !found; p = pages[p].next)
          if (pages[p].warmth & WARM_SOME && now - pages[p].freed_at >= older_than_s) found = p;
      if (!found) return given;
      len = pages[found].len;
      freed_at = pages[found].freed_at;
      tx.set(pages[found].warmth, u8(COLD_SOME | WARM_SOME));
      tx.commit();
    }
    for (u32 done = 0; done < len;) {
      Tx tx(*this);
      tx.lock(heap.lock);
      // The descriptions of pages inside a run are stale: only the list says that the run still is one.
      u32 listed = heap.bins[bin_of(len)];
      while (listed && listed != found) listed = pages[listed].next;
      PageInfo& p = pages[found];
      if (!listed || p.len != len || p.freed_at != freed_at) break;  // it is in use, or joined with others
      u32 n = std::min(TRIM_STEP, len - done);
      if (fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(page_offset(found + done)), off_t(n * PAGE)) == 0)
        given += n * PAGE;
      heap.trims.fetch_add(1, std::memory_order_release);
      done += n;
      if (done == len) {
        tx.set(p.warmth, u8(COLD_SOME));
        tx.set(heap.warm_free, heap.warm_free.load(std::memory_order_relaxed) - len);
      }
      tx.commit();
    }
  }
}

// --------------------------------------------------------------------------------------- small blocks

void Client::refill_class(u32 cls) {
  SizeClass& c = h->heap.classes[cls];
  BlockCache& cache = me->blocks[cls];
  u64 size = class_size(cls);
  Tx tx(*this);
  tx.lock(c.lock);
  u32 page = c.partial;
  if (!page) {
    tx.lock(h->heap.lock);
    u32 n = span_pages(cls);
    page = alloc_run(tx, n);
    if (pages[page].warmth & COLD_SOME) commit_pages(memfd, page_offset(page), n * PAGE);
    mark_run(tx, page, n, PAGE_SPAN, 0);
    // The pages between belong to nobody else now: their descriptions need no journal.
    for (u32 i = 1; i < n; i++) {
      pages[page + i].first = page;
      if (i + 1 < n) pages[page + i].state = PAGE_SPAN;
      pages[page + i].cls = u8(cls);
    }
    PageInfo& p = pages[page];
    tx.set(p.cls, u8(cls));
    tx.set(p.free_head, 0u);
    tx.set(p.nfree, u16(0));
    tx.set(p.fresh, u16(0));
    tx.set(p.prev, 0u);
    tx.set(p.next, 0u);
    tx.set(c.partial, page);
  }
  PageInfo& p = pages[page];
  Offset base = page_offset(page);
  u32 want = std::max(1u, cache_limit(cls) / 2), got = 0;
  Offset head = 0;
  if (p.nfree) {
    // Take a chain off the front of the span's list; the links inside it stay as they are.
    Offset first = base + (p.free_head - 1) * size, last = first;
    for (got = 1; got < want && got < p.nfree; got++) last = *at<Offset>(last);
    Offset rest = *at<Offset>(last);
    tx.set(p.free_head, rest ? u32((rest - base) / size + 1) : 0u);
    tx.set(p.nfree, u16(p.nfree - got));
    tx.set(*at<Offset>(last), cache.head);
    head = first;
  } else {
    // Blocks never handed out: link them up; until the commit nobody looks at them.
    u32 left = span_blocks(cls) - p.fresh;
    got = std::min(want, left);
    Offset first = base + p.fresh * size;
    for (u32 i = 0; i < got; i++) *at<Offset>(first + i * size) = i + 1 < got ? first + (i + 1) * size : cache.head;
    tx.set(p.fresh, u16(p.fresh + got));
    head = first;
  }
  tx.set(cache.head, head);
  tx.set(cache.count, cache.count + got);
  if (!p.nfree && p.fresh == span_blocks(cls)) {
    tx.set(c.partial, p.next);
    if (p.next) tx.set(pages[p.next].prev, 0u);
  }
  tx.commit();
}

void Client::flush_class(BlockCache& cache, u32 cls, u32 keep) {
  SizeClass& c = h->heap.classes[cls];
  u64 size = class_size(cls);
  while (cache.count > keep) {
    Tx tx(*this);
    tx.lock(c.lock);
    bool heap_locked = false;
    for (u32 i = 0; i < 8 && cache.count > keep; i++) {
      Offset block = cache.head;
      u32 page = pages[page_of(block)].first;
      PageInfo& p = pages[page];
      Offset base = page_offset(page);
      tx.set(cache.head, *at<Offset>(block));
      tx.set(cache.count, cache.count - 1);
      tx.set(*at<Offset>(block), p.free_head ? base + (p.free_head - 1) * size : Offset(0));
      bool was_full = !p.nfree && p.fresh == span_blocks(cls);
      tx.set(p.free_head, u32((block - base) / size + 1));
      tx.set(p.nfree, u16(p.nfree + 1));
      if (was_full) {
        tx.set(p.prev, 0u);
        tx.set(p.next, c.partial);
        if (c.partial) tx.set(pages[c.partial].prev, page);
        tx.set(c.partial, page);
      }
      // A span with nothing in use goes back, except the last one: the next block would need it at once.
      if (p.nfree == p.fresh && (p.next || p.prev)) {
        if (p.prev) tx.set(pages[p.prev].next, p.next);
        else tx.set(c.partial, p.next);
        if (p.next) tx.set(pages[p.next].prev, p.prev);
        if (!heap_locked) tx.lock(h->heap.lock);
        heap_locked = true;
        free_run(tx, page, WARM_SOME);
        break;  // keeps the journal short
      }
    }
    tx.commit();
  }
}

void Client::fill_cache(u64 size) {
  if (size > SMALL_LIMIT) return;
  u32 cls = class_of(size);
  if (!me->blocks[cls].count) refill_class(cls);
}

void Client::ensure_block(u64 size) {
  if (size > SMALL_LIMIT || me->blocks[class_of(size)].count) return;
  with_room(span_pages(class_of(size)) * PAGE, false, [&] { fill_cache(size); });
}

// A change may take and free several large blocks.
void Client::lock_heap(Tx& tx) {
  if (h->heap.lock.owner.load(std::memory_order_relaxed) != slot + 1) tx.lock(h->heap.lock);
}

Offset Client::alloc_block(Tx& tx, u64 size) {
  if (size > SMALL_LIMIT) {
    lock_heap(tx);
    return page_offset(alloc_run(tx, (size + PAGE - 1) / PAGE));
  }
  BlockCache& cache = me->blocks[class_of(size)];
  SHOAL_CHECK(cache.count);
  Offset block = cache.head;
  tx.set(cache.head, *at<Offset>(block));
  tx.set(cache.count, cache.count - 1);
  return block;
}

void Client::free_block(Tx& tx, Offset block) {
  PageInfo& p = pages[page_of(block)];
  SHOAL_CHECK(p.state != PAGE_FREE);
  if (p.state == PAGE_SPAN) {
    u32 cls = p.cls;
    BlockCache& cache = me->blocks[cls];
    tx.set(*at<Offset>(block), cache.head);
    tx.set(cache.head, block);
    tx.set(cache.count, cache.count + 1);
    if (cache.count > cache_limit(cls)) surplus |= 1u << cls;
  } else {
    lock_heap(tx);
    u64 cold = p.warmth & COLD_SOME;
    free_run(tx, page_of(block), u8(WARM_SOME | cold));
    if (h->heap.warm_free.load(std::memory_order_relaxed) > TRIM_PAGES && !h->heap.trim_armed.load(std::memory_order_relaxed) &&
        !h->heap.trim_armed.exchange(1))
      ring_supervisor();
  }
}

u64 Client::block_size(Offset block) const {
  const PageInfo& p = pages[page_of(block)];
  return p.state == PAGE_SPAN ? class_size(p.cls) : u64(p.len) * PAGE;
}

void Client::trim_caches() {
  while (surplus) {
    u32 cls = u32(__builtin_ctz(surplus));
    surplus &= surplus - 1;
    flush_class(me->blocks[cls], cls, cache_limit(cls) / 2);
  }
  if (entry_surplus) {
    entry_surplus = false;
    flush_entries(*me, ENTRY_LIMIT / 2);
  }
}

// -------------------------------------------------------------------------------------------- entries

void Client::ensure_entry() {
  if (me->entry_count) return;
  Heap& heap = h->heap;
  Tx tx(*this);
  tx.lock(heap.entry_lock);
  u32 head = heap.entry_head, got = 0;
  if (head) {
    u32 last = head;
    for (got = 1; got < ENTRY_BATCH && entries[last].next; got++) last = entries[last].next;
    tx.set(heap.entry_head, entries[last].next);
    tx.set(heap.entry_free, heap.entry_free - got);
    tx.set(entries[last].next, 0u);
  } else {
    u32 top = heap.entry_top.load(std::memory_order_relaxed);
    got = std::min(ENTRY_BATCH, MAX_OBJECTS - top);
    if (!got)
      throw Error(Error::LIMIT, "MAX_OBJECTS: a session can hold at most " + std::to_string(MAX_OBJECTS - 1) +
                                    " objects at a time; drop references, or put many values into one object");
    if (top + got > heap.entry_committed) {
      u64 to = std::min<u64>(MAX_OBJECTS, top + got + 8192);
      commit_pages(memfd, h->entries + u64(heap.entry_committed) * sizeof(Entry), (to - heap.entry_committed) * sizeof(Entry));
      tx.set(heap.entry_committed, u32(to));
    }
    for (u32 i = 0; i < got; i++) {
      entries[top + i].next = i + 1 < got ? top + i + 1 : 0;
      entries[top + i].gen.store(1, std::memory_order_relaxed);
    }
    tx.set(heap.entry_top, top + got);
    head = top;
  }
  tx.set(me->entry_head, head);
  tx.set(me->entry_count, got);
  tx.commit();
}

u32 Client::pop_entry(Tx& tx) {
  SHOAL_CHECK(me->entry_count);
  u32 i = me->entry_head;
  tx.set(me->entry_head, entries[i].next);
  tx.set(me->entry_count, me->entry_count - 1);
  return i;
}

void Client::push_entry(Tx& tx, u32 i) {
  tx.set(entries[i].next, me->entry_head);
  tx.set(me->entry_head, i);
  tx.set(me->entry_count, me->entry_count + 1);
  if (me->entry_count > ENTRY_LIMIT) entry_surplus = true;
}

void Client::flush_entries(Slot& s, u32 keep) {
  Heap& heap = h->heap;
  while (s.entry_count > keep) {
    Tx tx(*this);
    tx.lock(heap.entry_lock);
    u32 first = s.entry_head, last = first, n = 1;
    for (; n < ENTRY_BATCH && s.entry_count - n > keep; n++) last = entries[last].next;
    tx.set(s.entry_head, entries[last].next);
    tx.set(s.entry_count, s.entry_count - n);
    tx.set(entries[last].next, heap.entry_head);
    tx.set(heap.entry_head, first);
    tx.set(heap.entry_free, heap.entry_free + n);
    tx.commit();
  }
}

void Client::return_caches(Slot& dead) {
  for (u32 cls = 0; cls < NUM_CLASSES; cls++) flush_class(dead.blocks[cls], cls, 0);
  flush_entries(dead, 0);
}

}  // namespace shoal
