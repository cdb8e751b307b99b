// Ownership: at any time one process may write to an object that was put with an owner, and says when what it wrote counts.
//
//   commit     the bytes are copied into a draft, which then takes the place of the committed copy, in the guard
//   rollback   the committed copy is copied back, piece by piece, each in the guard
//   transfer   a commit, then the next owner begins; `claim` waits for that, or (steal) makes itself the next owner
//
// An epoch is one owner's time. Everything that an owner does to the object through Shoal is done in the guard after a look
// at the epoch, so a stale owner, who is not stopped from running, can neither commit nor roll back: it finds another
// epoch. What it writes through arrays that it kept is plain memory, and nobody can prevent that.
//
// Committed is always whole. A commit fills a block that is its own (Slot::drafts), and exchanges it with the old one in one
// transaction; a death before that leaves the old state, one after it the new.
//
// Copying back is done by whoever is the owner in that epoch, or for him by the supervisor, once he is dead. It is not
// atomic, and need not be: if he dies half way, or it is stolen from him, the next one begins by doing all of it again. An
// old one cannot go on copying then, since the epoch is looked at for each piece.
//
// The next owner begins with live bytes that equal the committed ones: a transfer has just committed; a steal, a death, the
// end of a task and the end of an actor copy back.
//
// No wake-up is lost: a claim is entered, and looked at once more, in the guard in which an owner begins and ends; who ends
// gives it to the first waiter in the same transaction and rings after it. So nobody starves: it is first come, first served.
// A waiter that was given it stays in the queue until it has looked, as only its process may free the node.
//
// Locks: Entry before guard (freeze); the guard before nothing.
#include "client.h"

namespace shoal {

constexpr u64 PIECE = 64 << 10;  // bytes copied back with the guard held
constexpr auto RELAXED = std::memory_order_relaxed;

bool Client::owns(const Ownership* o) const {
  Handle actor = o->actor.load(RELAXED);
  return actor ? actor == me->actor.load(RELAXED) : o->host.load(RELAXED) == host_word(slot);
}

// Is it certain that no process will ever be this actor again?
bool Client::actor_gone(Handle actor) const {
  if (!valid(actor)) return true;
  bool dead = this->actor(actor)->state.load(std::memory_order_acquire) == ACTOR_DEAD;
  return dead || !same_life(actor);
}

void Client::owner_check_mutable(Handle h) const {
  if (entry(h).kind.load(std::memory_order_acquire) != KIND_MUTABLE) throw Error(Error::INVALID, "owned and frozen");
}

// ------------------------------------------------------------------------------------- in the guard

void Client::owner_set(Tx& tx, Ownership* o, Handle actor, u64 host) {
  tx.set(o->epoch, o->epoch.load(RELAXED) + 1);
  tx.set(o->since_ns, now_ns());
  tx.set(o->ticket, u64(0));
  tx.set(o->actor, actor);
  tx.set(o->host, host);
}

// The owner has ended: whose is it now?
void Client::owner_pass(Tx& tx, Ownership* o) {
  Offset first = o->q.head;
  while (first && at<WaitNode>(first)->result) first = at<WaitNode>(first)->next;
  if (!first) {
    tx.set(o->since_ns, now_ns());
    tx.set(o->actor, Handle(0));
    tx.set(o->host, u64(0));
    return;
  }
  auto* n = at<WaitNode>(first);
  u32 s = u32(n->owner >> 32) - 1;
  owner_set(tx, o, slots[s].actor.load(RELAXED), host_word(s));
  tx.set(n->result, o->epoch.load(RELAXED));
  if (n->mode == WAIT_REQUEST) tx.set(o->requests, o->requests.load(RELAXED) - 1);
  wake(n);
}

// It never changes hands without being told of, and the note is complete before it counts.
void Client::owner_note(Tx& tx, Ownership* o, OwnerEnd how, i32 pid, const char* label) {
  tx.set(o->died, 0u);
  std::strncpy(o->died_label, label, sizeof o->died_label - 1);
  tx.set(o->died_pid, pid);
  tx.set(o->died_ns, now_ns());
  tx.set(o->died_epoch, o->epoch.load(RELAXED));
  tx.set(o->died, u32(how));
}

// Once: to the first who owns it after that.
void Client::owner_tell(Tx& tx, Ownership* o, Notice* notice) {
  *notice = {o->died, o->died_pid, o->died_ns, o->died_epoch, {}};
  if (!o->died) return;
  std::memcpy(notice->label, o->died_label, sizeof notice->label - 1);
  tx.set(o->died, 0u);
}

// An actor that ended before any process of it came for the object leaves nothing to repair, so nobody does it for us.
void Client::owner_settle(Tx& tx, Ownership* o) {
  Handle actor = o->actor.load(RELAXED);
  if (!actor || o->host.load(RELAXED) || !actor_gone(actor)) return;
  owner_note(tx, o, OWNER_DIED, 0, "an actor");
  owner_pass(tx, o);
}

// -------------------------------------------------------------------------------------- the owner's part

// The object gets its first committed copy. It is not published yet.
void Client::owner_begin(Handle h, Handle actor) {
  u64 size;
  Offset from = buffers_of(h, &size);
  Offset* draft = draft_block(std::max<u64>(size, 64));
  copy_bytes(*draft, from, size);
  Ownership* o = ownership(h);
  o->epoch.store(1);
  o->since_ns = now_ns();
  o->commits = 1;
  if (!actor) actor = me->actor.load(RELAXED);
  o->actor.store(actor);
  if (actor == me->actor.load(RELAXED)) {
    o->host.store(host_word(slot));
    epochs[h] = 1;
  }
  Tx tx(*this);
  tx.set(o->committed, *draft);
  tx.set(*draft, Offset(0));
  tx.commit();
}

// The epoch in which this process owns it; 0: it does not. The first process of an actor to ask comes for the object here.
u64 Client::owner_epoch(Handle h) {
  Ownership* o = ownership(h);
  if (!owns(o)) return 0;
  u64 epoch, mine = host_word(slot);
  bool inherited = false;
  {
    Tx tx(*this);
    tx.lock(o->q.guard);
    if (!owns(o)) return 0;
    u64 host = o->host.load(RELAXED);
    if (host && host != mine) {  // our actor's last process died, and the supervisor has not come to this object yet
      Slot& last = slots[u32(host) - 1];
      owner_note(tx, o, OWNER_DIED, host_word(u32(host) - 1) == host ? last.pid : 0, last.label);
      owner_set(tx, o, o->actor.load(RELAXED), mine);
      inherited = true;
    } else if (!host) {
      tx.set(o->host, mine);
    }
    epoch = o->epoch.load(RELAXED);
    tx.commit();
  }
  if (inherited && !owner_restore(h, epoch)) return 0;
  return epoch;
}

bool Client::owner_get(Handle h) {
  u64 epoch = owner_epoch(h);
  if (epoch) {
    if (epochs.size() > 1000 && epochs.size() == epochs.bucket_count())  // before it grows: of objects that are no more
      std::erase_if(epochs, [this](auto& known) { return !valid(known.first); });
    epochs[h] = epoch;
  }
  return epoch != 0;
}

u64 Client::owner_known_epoch(Handle h, Owned* verdict) {
  owner_check_mutable(h);
  u64 epoch = owner_epoch(h);
  auto known = epochs.find(h);
  bool looked = known != epochs.end();
  *verdict = epoch && (!looked || known->second == epoch) ? Owned::YES : looked ? Owned::STALE : Owned::NEVER;
  if (*verdict == Owned::YES && !looked) epochs[h] = epoch;
  return *verdict == Owned::YES ? epoch : 0;
}

Client::Owned Client::owner_known(Handle h) {
  Owned verdict;
  owner_known_epoch(h, &verdict);
  return verdict;
}

Client::Owned Client::owner_commit(Handle h) {
  Owned verdict;
  u64 epoch = owner_known_epoch(h, &verdict);
  if (!epoch) return verdict;
  Ownership* o = ownership(h);
  u64 size, ticket = ++commit_tickets;
  Offset from = buffers_of(h, &size);
  Offset* draft = draft_block(std::max<u64>(size, 64));
  copy_bytes(*draft, from, size);
  CRASH_POINT("owner.copied");
  // Others of this process may have run during a long copy, and committed what they wrote meanwhile. What began later and
  // is committed already has all that this one could have.
  {
    Tx tx(*this);
    tx.lock(o->q.guard);
    bool frozen = entry(h).kind.load(std::memory_order_acquire) != KIND_MUTABLE;
    if (o->epoch.load(RELAXED) != epoch || !owns(o)) {
      verdict = Owned::STALE;
    } else if (!frozen && o->ticket < ticket) {
      Offset old = o->committed;
      tx.set(o->ticket, ticket);
      tx.set(o->committed, *draft);
      CRASH_POINT("owner.half");
      tx.set(*draft, old);
      tx.set(o->commits, o->commits + 1);
      tx.commit();
    }
  }
  CRASH_POINT("owner.committed");
  before_forget(*draft);  // the old copy; or ours, if it was refused
  owner_check_mutable(h);
  return verdict;
}

// Piece by piece, so that nobody waits for the guard for long. False: another epoch has begun.
bool Client::owner_restore(Handle h, u64 epoch) {
  Ownership* o = ownership(h);
  u64 size;
  Offset to = buffers_of(h, &size);
  for (u64 done = 0; done < size; done += PIECE) {
    Tx tx(*this);
    tx.lock(o->q.guard);
    if (o->epoch.load(RELAXED) != epoch || entry(h).kind.load(RELAXED) != KIND_MUTABLE) return false;
    std::memcpy(rw + to + done, rw + o->committed + done, std::min(PIECE, size - done));
    CRASH_POINT("owner.restoring");
  }
  return true;
}

Client::Owned Client::owner_rollback(Handle h) {
  Owned verdict;
  u64 epoch = owner_known_epoch(h, &verdict);
  return epoch && !owner_restore(h, epoch) ? Owned::STALE : verdict;
}

Client::Owned Client::owner_transfer(Handle h, Handle to) {
  Ownership* o = ownership(h);
  if (to && actor_gone(to)) throw Error(Error::ACTOR_DEAD, "");
  Owned verdict = owner_commit(h);
  if (verdict != Owned::YES || (to && to == me->actor.load(RELAXED))) return verdict;
  u64 epoch = epochs[h];
  {
    Tx tx(*this);
    tx.lock(o->q.guard);
    owner_check_mutable(h);
    if (o->epoch.load(RELAXED) != epoch || !owns(o)) return Owned::STALE;
    if (to) owner_set(tx, o, to, 0);
    else owner_pass(tx, o);
    if (to)
      for (Offset n = o->q.head; n; n = at<WaitNode>(n)->next) wake(at<WaitNode>(n));  // one may be of the new owner
    tx.commit();
  }
  CRASH_POINT("owner.passed");
  after_tx();
  return verdict;
}

// The task of this process that owned it is over; the process is not.
void Client::owner_abandon(Handle h) {
  if (entry(h).kind.load(std::memory_order_acquire) != KIND_MUTABLE) return;
  Ownership* o = ownership(h);
  u64 epoch = owner_epoch(h);
  epochs.erase(h);
  if (!epoch || !owner_restore(h, epoch)) return;
  {
    Tx tx(*this);
    tx.lock(o->q.guard);
    if (o->epoch.load(RELAXED) != epoch || !owns(o)) return;
    owner_note(tx, o, OWNER_TASK_ENDED, i32(me->pid), me->label);
    owner_pass(tx, o);
    tx.commit();
  }
  after_tx();
}

void Client::owner_drop(Handle h) {
  Ownership* o = ownership(h);
  if (!o->committed) return;
  {
    Tx tx(*this);
    Offset block = o->committed;
    tx.set(o->committed, Offset(0));
    free_block(tx, block);
    tx.commit();
  }
  if (surplus) trim_caches();
}

// ------------------------------------------------------------------------------------------ claims

Client::Claim Client::owner_claim(Handle h, bool steal, Notice* notice) {
  Ownership* o = ownership(h);
  owner_check_mutable(h);
  owner_epoch(h);  // it may be for this process to come for
  Claim result = Claim::HAD;
  bool robbed = false;
  u64 epoch = 0;
  {
    Tx tx(*this);
    tx.lock(o->q.guard);
    owner_check_mutable(h);
    owner_settle(tx, o);
    if (!owns(o)) {
      robbed = o->actor.load(RELAXED) || o->host.load(RELAXED);
      result = robbed && !steal ? Claim::NO : Claim::GOT;
    }
    if (result == Claim::GOT) owner_set(tx, o, me->actor.load(RELAXED), host_word(slot));
    if (result != Claim::NO) owner_tell(tx, o, notice);
    epoch = o->epoch.load(RELAXED);
    tx.commit();
  }
  after_tx();
  if (result == Claim::NO) return result;
  epochs[h] = epoch;
  CRASH_POINT("owner.claimed");
  if (result == Claim::GOT && robbed) owner_restore(h, epoch);
  return result;
}

// If nobody owns it, nobody waits who was not given it: then it is given to us here.
WaitNode* Client::owner_enqueue(Handle h, bool request, u64 thread) {
  Ownership* o = ownership(h);
  WaitNode* n = wait_node(request ? WAIT_REQUEST : WAIT_CLAIM, thread);
  {
    Tx tx(*this);
    tx.lock(o->q.guard);
    link_wait(tx, o->q, n);
    if (request) tx.set(o->requests, o->requests.load(RELAXED) + 1);
    owner_settle(tx, o);
    if (!o->actor.load(RELAXED) && !o->host.load(RELAXED)) owner_pass(tx, o);
    tx.commit();
  }
  after_tx();
  CRASH_POINT("owner.asked");
  return n;
}

static void unlink(Tx& tx, Ownership* o, WaitNode* n) {  // [guard]
  tx.client.unlink_wait(tx, o->q, n);
  if (n->mode == WAIT_REQUEST && !n->result) tx.set(o->requests, o->requests.load(RELAXED) - 1);
}

// It was given to us, even if it has been stolen since: the thief's epoch is another, and a commit will say so.
bool Client::owner_check(Handle h, WaitNode* n, Notice* notice) {
  Ownership* o = ownership(h);
  n->woken.store(0);
  u64 given;
  bool over;
  {
    Tx tx(*this);
    tx.lock(o->q.guard);
    owner_check_mutable(h);
    owner_settle(tx, o);
    given = n->result;
    over = given || owns(o);
    if (over) {
      unlink(tx, o, n);
      if (!given || given == o->epoch.load(RELAXED)) owner_tell(tx, o, notice);
    }
    tx.commit();
  }
  after_tx();
  if (given) epochs[h] = given;
  else if (over) owner_get(h);
  return over;
}

bool Client::owner_leave(Ownership* o, WaitNode* n, bool keep) {
  bool ours;
  {
    Tx tx(*this);
    tx.lock(o->q.guard);
    ours = n->result && n->result == o->epoch.load(RELAXED);
    unlink(tx, o, n);
    if (ours && !keep) owner_pass(tx, o);  // as it is: nobody can have changed it
    tx.commit();
  }
  after_tx();
  return ours;
}

void Client::owner_look(Handle h, Handle* actor, u64* host, u64* epoch, u64* since_ns) {
  Ownership* o = ownership(h);
  {
    Tx tx(*this);
    tx.lock(o->q.guard);
    if (entry(h).kind.load(RELAXED) == KIND_MUTABLE) owner_settle(tx, o);
    *actor = o->actor.load(RELAXED);
    *host = o->host.load(RELAXED);
    *epoch = o->epoch.load(RELAXED);
    *since_ns = o->since_ns;
    tx.commit();
  }
  after_tx();
}

// ------------------------------------------------------------------------------ the supervisor's part

// Was it owned by the process that was in slot `s`? Whoever steals it meanwhile begins a new epoch, and does all this himself.
void Client::owner_repair(Handle h, u32 s) {
  Ownership* o = ownership(h);
  Slot& dead = slots[s];
  u64 epoch;
  bool theirs;
  {
    Tx tx(*this);
    tx.lock(o->q.guard);
    owner_settle(tx, o);
    theirs = o->host.load(RELAXED) == host_word(s);
    epoch = o->epoch.load(RELAXED);
    tx.commit();
  }
  after_tx();
  if (!theirs || !owner_restore(h, epoch)) return;
  {
    Tx tx(*this);
    tx.lock(o->q.guard);
    if (o->epoch.load(RELAXED) != epoch) return;
    owner_note(tx, o, OWNER_DIED, dead.pid, dead.label);
    Handle actor = o->actor.load(RELAXED);
    if (actor && !actor_gone(actor)) owner_set(tx, o, actor, 0);  // it will come again, in another process
    else owner_pass(tx, o);
    tx.commit();
  }
  after_tx();
}

}  // namespace shoal
