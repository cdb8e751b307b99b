// What happens when memory cannot be had, in this order:
//
//   our own caches are given back;  large values that nobody looks at are spilled (spill.cpp);  we wait until others have
//   freed something (wait_for_room, set by the bindings);  the error that there was at first
//
// Who waits sets its bit in Heap::starved, then Heap::starving, then tries once more, then sleeps on its ring. Who frees a
// large block, or ends the last view of one, looks at Heap::starving afterwards. Both are ordered by the heap's lock, or the
// entry's: who tried in vain had set the word before the other could free. A ring too many is harmless; that of a process
// that died after it had freed something is made up for by the supervisor's ring for everybody.
#include <algorithm>

#include "client.h"

namespace shoal {

thread_local bool patient = true;

void Client::ring_waiter(u32 waiter) {
  if (waiter == WAITER_MANY) {
    for (u32 s = 0, n = h->slots_top.load(); s < n; s++)
      if (slots[s].state.load(std::memory_order_relaxed) == SLOT_ALIVE) ring(s);
  } else if (waiter) {
    ring(waiter - 1);
  }
}

void Client::ring_starved() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!h->heap.starving.load(std::memory_order_relaxed)) return;
  h->heap.starving.store(0, std::memory_order_seq_cst);
  for (u32 w = 0; w < MAX_PROCESSES / 64; w++)
    for (u64 bits = h->heap.starved[w].load(std::memory_order_seq_cst); bits; bits &= bits - 1)
      ring(w * 64 + u32(__builtin_ctzll(bits)));
}

void Client::set_starved(bool on) {
  auto& word = h->heap.starved[slot / 64];
  u64 bit = 1ull << slot % 64;
  if (on) {
    starved_waits++;
    word.fetch_or(bit, std::memory_order_seq_cst);
    h->heap.starving.store(1, std::memory_order_seq_cst);
  } else if (--starved_waits == 0) {
    word.fetch_and(~bit, std::memory_order_seq_cst);
  }
}

void Client::make_room(Pressure& p, const Error& full) {
  u64 limit = u64(h->heap.pages_limit) * PAGE;
  if (in_tx || p.need >= limit) throw full;
  if (!p.tried) {
    p.tried = true;
    u64 before = h->heap.used.load();
    return_caches(*me);
    if (h->heap.used.load() < before) return;
  }
  u64 batch = std::max(p.need, std::min<u64>(64 << 20, limit / 16));
  if (spill(batch, p.let_go)) return;
  if (p.let_go && patient && wait_for_room && slot != SUPERVISOR_SLOT && wait_for_room(p)) return;
  std::string text = full.what() + p.note;
  if (!spill_note.empty()) text += "; " + spill_note;
  throw Error(Error::FULL, text);
}

}  // namespace shoal
