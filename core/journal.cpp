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

void Tx::record(void* field, u64 size) {
  u32 n = j_.count;
  SHOAL_CHECK(n < JOURNAL_RECORDS);
  u64 old = 0;
  std::memcpy(&old, field, size);
  j_.rec[n] = {size << 56 | client.offset(field), old};
  fence();
  j_.count = n + 1;
  fence();
  CRASH_POINT("tx.set");
}

void Tx::lock(SpinLock& l) {
  u32 n = j_.nlocks;
  SHOAL_CHECK(n < JOURNAL_LOCKS);
  j_.locks[n] = client.offset(&l);
  fence();
  j_.nlocks = n + 1;
  fence();
  CRASH_POINT("tx.lock");
  u32 free = 0;
  for (u32 spins = 0; !l.owner.compare_exchange_weak(free, client.slot + 1, std::memory_order_acquire, std::memory_order_relaxed);
       free = 0) {
    SHOAL_CHECK(free != client.slot + 1);
    if (++spins < 200) {
      cpu_relax();
    } else {
      // The holder lost its core, or died and waits for its repair.
      sched_yield();
      if ((spins & 1023) != 0) continue;
      if (client.h->dead.load(std::memory_order_relaxed) || peek(client.cut)) throw Error(Error::ENDED, "the session has ended: its supervisor is gone");
      // Nobody else frees a dead one's locks while the supervisor waits here, busy with another one's death. It may be
      // that of the holder itself, or one that a living holder waits for in its turn: so all the dead let go.
      if (client.slot == SUPERVISOR_SLOT) client.unlock_all_dead();
    }
  }
  CRASH_POINT("tx.locked");
}

void Tx::settle() {
  CRASH_POINT("tx.settle");
  fence();
  j_.count = 0;
  fence();
  CRASH_POINT("tx.settled");
}

void Tx::unlock() {
  while (j_.nlocks > 0) {
    auto& l = *client.at<SpinLock>(j_.locks[j_.nlocks - 1]);
    if (l.owner.load(std::memory_order_relaxed) == client.slot + 1) l.owner.store(0, std::memory_order_release);
    CRASH_POINT("tx.unlocked");
    fence();
    j_.nlocks--;
  }
}

void Tx::commit() {
  settle();
  unlock();
}

Tx::~Tx() {
  if (j_.count > 0) client.rollback(client.slot);
  unlock();
  client.in_tx = false;
}

}  // namespace shoal
