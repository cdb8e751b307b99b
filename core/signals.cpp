// Events, conditions, barriers: many wait for one to say something.
//
// Who is let go is not written to each waiter: a waiter has a number (its ticket, or its barrier's generation), and one
// store to the Sync lets all go up to that number. So a signal happens whole or not at all, however many wait, and it
// reaches those who waited when it was given even if the event is cleared or the barrier reused before they look.
// They take themselves out of the queue, in the guard, where an unfinished Tx of the signaller cannot be seen.
//
// No wake-up is lost: a waiter draws its number in the guard, then reads its ring, then looks; the signaller moves
// the number in the guard and rings afterwards all that were in the queue. If it dies before, the supervisor rings everybody.
#include "client.h"

namespace shoal {

constexpr auto RELAXED = std::memory_order_relaxed;
constexpr auto ACQUIRE = std::memory_order_acquire;

// ------------------------------------------------------------------------------- events and conditions

// The flag is one word, and its store the whole change: who sees it set may go on. `released` is for those who look only
// after it was cleared again.
void Client::event_set(Sync* s) {
  if (s->value.load(std::memory_order_seq_cst)) return;
  {
    Tx tx(*this);
    tx.lock(s->q.guard);
    s->value.store(1, std::memory_order_seq_cst);
    CRASH_POINT("event.set");
    s->taken++;
    for (Offset o = s->q.head; o; o = at<WaitNode>(o)->next) wake(at<WaitNode>(o));
    tx.commit();
  }
  after_tx();
}

void Client::event_clear(Sync* s) {
  Tx tx(*this);
  tx.lock(s->q.guard);
  if (!s->value.load(RELAXED)) return;
  tx.set(s->released, s->next.load(RELAXED));
  tx.settle();
  CRASH_POINT("event.cleared");
  s->value.store(0, std::memory_order_seq_cst);
  tx.commit();
}

bool Client::ticket_done(Sync* s, WaitNode* n) const {
  return n->ticket < s->released.load(ACQUIRE) || (s->type == SYNC_EVENT && s->value.load(ACQUIRE));
}

bool Client::ticket_check(Sync* s, WaitNode* n) {
  n->woken.store(0, std::memory_order_seq_cst);
  if (!ticket_done(s, n)) return false;
  Tx tx(*this);
  tx.lock(s->q.guard);
  if (!ticket_done(s, n)) return false;  // the signaller died and was undone, or it was cleared again
  unlink_wait(tx, s->q, n);
  tx.commit();
  return true;
}

bool Client::ticket_leave(Sync* s, WaitNode* n) {
  Tx tx(*this);
  tx.lock(s->q.guard);
  bool done = ticket_done(s, n);
  unlink_wait(tx, s->q, n);
  tx.commit();
  return done;
}

void Client::cond_notify(Sync* s, u64 n) {
  {
    Tx tx(*this);
    tx.lock(s->q.guard);
    u64 before = s->released.load(RELAXED), upto = before;
    for (Offset o = s->q.head; o && n; o = at<WaitNode>(o)->next) {
      auto* w = at<WaitNode>(o);
      if (w->ticket < before) continue;  // notified, and has not looked yet
      upto = w->ticket + 1;
      n--;
    }
    if (upto == before) return;
    tx.set(s->released, upto);
    tx.settle();
    CRASH_POINT("condition.notified");
    s->taken++;
    for (Offset o = s->q.head; o; o = at<WaitNode>(o)->next) {
      auto* w = at<WaitNode>(o);
      if (w->ticket >= upto) break;
      wake(w);
    }
    tx.commit();
  }
  after_tx();
}

// -------------------------------------------------------------------------------------------- barriers

static u32 outcome(const Sync* s, const WaitNode* n) {
  if (n->result) return u32(n->result);
  return s->aborted >> n->ticket % 64 & 1 ? 2 : 1;
}

// The present generation is over; the next begins. [guard; what tx has set so far belongs to the same change]
void Client::barrier_end(Tx& tx, Sync* s, bool aborted, bool broken) {
  u64 generation = s->next.load(RELAXED), bit = 1ull << generation % 64;
  tx.set(s->aborted, aborted ? s->aborted | bit : s->aborted & ~bit);
  tx.set(s->broken, u32(broken));
  tx.set(s->value, u64(0));
  tx.set(s->full, 0u);
  tx.set(s->next, generation + 1);
  tx.settle();
  CRASH_POINT("barrier.over");
  s->taken++;
  for (Offset o = s->q.head; o; o = at<WaitNode>(o)->next) wake(at<WaitNode>(o));
}

// The outcomes of 64 generations are kept; a waiter that is about to fall behind that gets its own noted down, which is
// nothing new, so each note is final at once. [guard, settled]
static void note_late(Tx& tx, Sync* s) {
  for (Offset o = s->q.head; o;) {
    auto* n = tx.client.at<WaitNode>(o);
    if (n->ticket + 60 > s->next.load(RELAXED)) return;
    if (!n->result) tx.set(n->result, u64(outcome(s, n)));
    tx.settle();
    o = n->next;
  }
}

Client::Arrival Client::barrier_arrive(Sync* s, u64 owner, bool action, WaitNode** out, u64* index) {
  WaitNode* n = wait_node(WAIT_BARRIER, owner);
  Arrival how;
  {
    Tx tx(*this);
    tx.lock(s->q.guard);
    if (s->broken.load(RELAXED)) return Arrival::BROKEN;
    note_late(tx, s);
    n->ticket = s->next.load(RELAXED);
    *index = s->value.load(RELAXED);
    if (s->full) {
      n->mode = WAIT_VISITOR;
      link_wait(tx, s->q, n);
      how = Arrival::FULL;
    } else if (*index + 1 == s->limit && !action) {
      barrier_end(tx, s, false, false);
      how = Arrival::LAST;
    } else {
      link_wait(tx, s->q, n);
      tx.set(s->value, *index + 1);
      how = *index + 1 == s->limit ? Arrival::ACTION : Arrival::WAIT;
      if (how == Arrival::ACTION) tx.set(s->full, 1u);
    }
    tx.commit();
  }
  *out = how == Arrival::LAST ? nullptr : n;
  after_tx();
  return how;
}

u32 Client::barrier_check(Sync* s, WaitNode* n) {
  n->woken.store(0, std::memory_order_seq_cst);
  if (n->ticket >= s->next.load(ACQUIRE)) return 0;
  Tx tx(*this);
  tx.lock(s->q.guard);
  if (n->ticket >= s->next.load(RELAXED)) return 0;
  u32 how = outcome(s, n);
  unlink_wait(tx, s->q, n);
  tx.commit();
  return how;
}

u32 Client::barrier_leave(Sync* s, WaitNode* n, Leave how) {
  u32 result;
  {
    Tx tx(*this);
    tx.lock(s->q.guard);
    note_late(tx, s);
    unlink_wait(tx, s->q, n);
    if (n->ticket < s->next.load(RELAXED)) {
      result = outcome(s, n);
    } else if (how == Leave::QUIT) {
      if (n->mode == WAIT_BARRIER) tx.set(s->value, s->value.load(RELAXED) - 1);
      result = 0;
    } else {
      barrier_end(tx, s, how == Leave::BREAK, how == Leave::BREAK);
      result = how == Leave::BREAK ? 2 : 1;
    }
    tx.commit();
  }
  after_tx();
  return result;
}

// abort(), and reset() which leaves it usable.
void Client::barrier_break(Sync* s, bool for_good) {
  {
    Tx tx(*this);
    tx.lock(s->q.guard);
    note_late(tx, s);
    if (s->value.load(RELAXED)) barrier_end(tx, s, true, for_good);
    else tx.set(s->broken, u32(for_good));
    tx.commit();
  }
  after_tx();
}

}  // namespace shoal
