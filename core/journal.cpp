#include <sched.h>

#include <cstdio>
#include <cstdlib>

#include "client.h"

namespace shoal {

void broken(const char* what, const char* file, int line) {
  std::fprintf(stderr, "shoal: broken invariant: %s (%s:%d); this is a bug in Shoal, please report it\n", what, file, line);
  std::abort();
}

static inline void fence() { std::atomic_signal_fence(std::memory_order_seq_cst); }

Tx::Tx(Client& c) : client(c), j_(c.me->journal) {
  SHOAL_CHECK(!c.in_tx);
  c.in_tx = true;
}

void Tx::record(void* field, u64 size, [[maybe_unused]] Place where) {
  u32 n = j_.count;
  SHOAL_CHECK(n < JOURNAL_RECORDS);
  u64 old = 0;
  std::memcpy(&old, field, size);
  j_.rec[n] = {size << 56 | client.offset(field), old};
  fence();
  j_.count = n + 1;
  fence();
  CRASH_POINT_AT("tx.set", where);
}

void Tx::lock(SpinLock& l, [[maybe_unused]] Place where) {
  u32 n = j_.nlocks;
  SHOAL_CHECK(n < JOURNAL_LOCKS);
  j_.locks[n] = client.offset(&l);
  fence();
  j_.nlocks = n + 1;
  fence();
  CRASH_POINT_AT("tx.lock", where);
  u32 free = 0;
  u64 next_look = 0;
  for (u32 spins = 0; !l.owner.compare_exchange_weak(free, client.slot + 1, std::memory_order_acquire, std::memory_order_relaxed);
       free = 0) {
    SHOAL_CHECK(free != client.slot + 1);
    if (++spins < 200) {
      cpu_relax();
    } else {
      // The holder lost its core, or died and waits for its repair. By the clock: on a busy machine a yield may take long.
      sched_yield();
      u64 now = now_ns();
      if (now < next_look) continue;
      next_look = now + 1'000'000;
      if (client.h->dead.load(std::memory_order_relaxed) || peek(client.cut)) throw Error(Error::ENDED, "the session has ended: its supervisor is gone");
      // Nobody else frees a dead one's locks while the supervisor waits here, busy with another one's death. It may be
      // that of the holder itself, or one that a living holder waits for in its turn: so all the dead let go.
      if (client.slot == SUPERVISOR_SLOT) client.unlock_all_dead();
    }
  }
  CRASH_POINT_AT("tx.locked", where);
}

void Tx::settle([[maybe_unused]] Place where) {
  CRASH_POINT_AT("tx.settle", where);
  fence();
  j_.count = 0;
  fence();
  CRASH_POINT_AT("tx.settled", where);
}

void Tx::unlock([[maybe_unused]] Place where) {
  while (j_.nlocks > 0) {
    auto& l = *client.at<SpinLock>(j_.locks[j_.nlocks - 1]);
    if (l.owner.load(std::memory_order_relaxed) == client.slot + 1) l.owner.store(0, std::memory_order_release);
    CRASH_POINT_AT("tx.unlocked", where);
    fence();
    j_.nlocks--;
  }
}

void Tx::commit(Place where) {
  settle(where);
  unlock(where);
}

Tx::~Tx() {
  if (j_.count > 0) client.rollback(client.slot);
  unlock();
  client.in_tx = false;
}

}  // namespace shoal
