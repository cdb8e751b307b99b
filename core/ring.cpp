// The places of a Ring: who may write to one. Each has a stamp, a number of 64 bits in a mutable object.
//
// Even: 2 * (number + 1) of the complete record there, 0: none yet. Odd: the record is being written, and by whom:
// 1 | slot << 1 | the slot's epoch (16 bits) << 11 | number (36 bits) << 27.
// The rule: a place is written only by the process named in its stamp, which got there by a compare-and-swap from an even
// stamp or from that of a dead process. So two producers that are a whole round apart never write one place at once.
#include "client.h"

namespace shoal {

static i64 writing_stamp(const Client& c, i64 number) {
  return i64(1 | u64(c.slot) << 1 | u64(c.me->epoch.load() & 0xffff) << 11 | (u64(number) & 0xfffffffff) << 27);
}

static bool is_written(const Client& c, i64 stamp) {
  if (!(stamp & 1)) return false;
  const Slot& s = c.slots[u64(stamp) >> 1 & (MAX_PROCESSES - 1)];
  u32 state = s.state.load();
  return (state == SLOT_STARTING || state == SLOT_ALIVE) && (s.epoch.load() & 0xffff) == (u64(stamp) >> 11 & 0xffff);
}

bool Client::ring_claim(std::atomic<i64>& stamp, i64 number) {
  i64 old = stamp.load();
  return !is_written(*this, old) && stamp.compare_exchange_strong(old, writing_stamp(*this, number));
}

}  // namespace shoal
