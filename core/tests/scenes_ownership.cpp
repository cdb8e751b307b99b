// Scenes of objects with an owner. Its bytes are all the same whenever it is committed; in between each may be another.
#include "scene.h"

namespace shoal::stress {

namespace {

using Owned = Client::Owned;
using Claim = Client::Claim;
constexpr u64 BYTES = 150'000;  // three pieces

u8* bytes(Client& c, Handle h) {
  u64 size;
  u8* p = c.rw + c.buffers_of(h, &size);
  REQUIRE(size == BYTES);
  return p;
}
bool uniform(Client& c, Handle h) {
  u8* p = bytes(c, h);
  for (u64 i = 1; i < BYTES; i++)
    if (p[i] != p[0]) return false;
  return true;
}
// What an owner writes: not all at once.
void write(Client& c, Handle h, u8 value) { std::memset(bytes(c, h), value, BYTES); }
void write_half(Client& c, Handle h, u8 value) { std::memset(bytes(c, h), value, BYTES / 2); }

Handle make_owned(Client& c) {
  Handle h = c.create(KIND_MUTABLE);
  c.entry(h).flags |= FLAG_OWNED;
  u64 size = BYTES;
  c.begin_payload(h, FORMAT_PICKLE, 0, 1, 10, &size);
  write(c, h, 1);
  c.owner_begin(h, 0);
  c.publish(h, false);
  return h;
}
Handle thing(Stage& s) { return s.sure[0]; }
void nobodys(Stage& s) {
  s.sure = {make_owned(s.c)};
  REQUIRE(s.c.owner_transfer(thing(s), 0) == Owned::YES);
}
void supervisors(Stage& s) {
  s.sure = {make_owned(s.c)};
  write_half(s.c, thing(s), 2);  // not committed
}
void hold(Stage& s) { s.c.acquire(thing(s)); }
void let_go(Stage& s) { s.c.release(thing(s)); }
void claim(Stage& s) {
  Client::Notice notice;
  hold(s);
  REQUIRE(s.c.owner_claim(thing(s), true, &notice) == Claim::GOT && !notice.died);
}

// It is nobody's and whole; then it can be owned, committed and handed on.
void take_over(Stage& s) {
  Client::Notice notice;
  Ownership* o = s.c.ownership(thing(s));
  if (s.c.entry(thing(s)).kind == KIND_FROZEN) return;
  REQUIRE(!o->q.head && !o->requests);
  REQUIRE(s.c.owner_claim(thing(s), false, &notice) == Claim::GOT);
  REQUIRE(uniform(s.c, thing(s)));
  write(s.c, thing(s), 100);
  REQUIRE(s.c.owner_commit(thing(s)) == Owned::YES);
  write_half(s.c, thing(s), 101);
  REQUIRE(s.c.owner_rollback(thing(s)) == Owned::YES);
  REQUIRE(uniform(s.c, thing(s)) && *bytes(s.c, thing(s)) == 100);
  REQUIRE(s.c.owner_transfer(thing(s), 0) == Owned::YES);
}

// The same, unless it was never taken from the supervisor.
void take_over_or_keep(Stage& s) {
  if (s.c.owns(s.c.ownership(thing(s)))) {
    REQUIRE(s.c.owner_rollback(thing(s)) == Owned::YES && uniform(s.c, thing(s)));
    REQUIRE(s.c.owner_transfer(thing(s), 0) == Owned::YES);
  }
  take_over(s);
}

}  // namespace

void ownership_scenes(std::vector<Scene>& all) {
  all.push_back({"owned: made, disposed of", nothing, nothing, [](Stage& s) {
                   Handle h = make_owned(s.c);
                   REQUIRE(s.c.owner_commit(h) == Owned::YES);
                   s.c.release(h);
                 }});
  all.push_back({"owned: committed, rolled back, handed on", nobodys, claim,
                 [](Stage& s) {
                   write(s.c, thing(s), 2);
                   REQUIRE(s.c.owner_commit(thing(s)) == Owned::YES);
                   write_half(s.c, thing(s), 3);
                   REQUIRE(s.c.owner_rollback(thing(s)) == Owned::YES);
                   REQUIRE(uniform(s.c, thing(s)) && *bytes(s.c, thing(s)) == 2);
                   write(s.c, thing(s), 4);
                   REQUIRE(s.c.owner_transfer(thing(s), 0) == Owned::YES);
                   REQUIRE(s.c.owner_commit(thing(s)) == Owned::STALE);
                   let_go(s);
                 },
                 nullptr, take_over});
  all.push_back({"owned: claimed, abandoned with half of a change", nobodys, hold,
                 [](Stage& s) {
                   Client::Notice notice;
                   REQUIRE(s.c.owner_claim(thing(s), false, &notice) == Claim::GOT);
                   write_half(s.c, thing(s), 3);
                   s.c.owner_abandon(thing(s));
                   REQUIRE(uniform(s.c, thing(s)));
                   REQUIRE(s.c.owner_claim(thing(s), false, &notice) == Claim::GOT && notice.died == OWNER_TASK_ENDED);
                   s.c.owner_abandon(thing(s));
                   let_go(s);
                 },
                 nullptr, take_over});
  all.push_back({"owned: stolen", supervisors, hold,
                 [](Stage& s) {
                   Client::Notice notice;
                   REQUIRE(s.c.owner_claim(thing(s), false, &notice) == Claim::NO);
                   REQUIRE(s.c.owner_claim(thing(s), true, &notice) == Claim::GOT);
                   REQUIRE(uniform(s.c, thing(s)));
                   write(s.c, thing(s), 5);
                   REQUIRE(s.c.owner_transfer(thing(s), 0) == Owned::YES);
                   let_go(s);
                 },
                 nullptr, take_over_or_keep});
  all.push_back({"owned: waited for", [](Stage& s) { s.sure = {make_owned(s.c)}; }, hold,
                 [](Stage& s) {
                   Client::Notice notice;
                   Ownership* o = s.c.ownership(thing(s));
                   u64 me = u64(s.c.slot + 1) << 32 | 1;
                   WaitNode* n = s.c.owner_enqueue(thing(s), true, me);
                   REQUIRE(o->requests == 1 && !s.c.owner_check(thing(s), n, &notice));
                   REQUIRE(!s.c.owner_leave(o, n, false) && o->requests == 0);
                   n = s.c.owner_enqueue(thing(s), false, me);
                   WaitNode* second = s.c.owner_enqueue(thing(s), true, me | 2);
                   s.meet();
                   REQUIRE(s.c.owner_check(thing(s), n, &notice));
                   REQUIRE(s.c.owner_check(thing(s), second, &notice));  // it is this process's already
                   write(s.c, thing(s), 6);
                   REQUIRE(s.c.owner_transfer(thing(s), 0) == Owned::YES);
                   let_go(s);
                 },
                 [](Stage& s) { REQUIRE(s.c.owner_transfer(thing(s), 0) == Owned::YES); }, take_over_or_keep});
  all.push_back({"owned: given to one that has had enough", [](Stage& s) { s.sure = {make_owned(s.c)}; }, hold,
                 [](Stage& s) {
                   u64 me = u64(s.c.slot + 1) << 32 | 1;
                   WaitNode* n = s.c.owner_enqueue(thing(s), false, me);
                   s.meet();
                   REQUIRE(s.c.owner_leave(s.c.ownership(thing(s)), n, false));
                   let_go(s);
                 },
                 [](Stage& s) { REQUIRE(s.c.owner_transfer(thing(s), 0) == Owned::YES); }, take_over_or_keep});
  all.push_back({"owned: handed to one who waits",
                 [](Stage& s) {
                   s.sure = {make_owned(s.c)};
                   s.node = s.c.owner_enqueue(thing(s), true, u64(s.c.slot + 1) << 32 | 1);  // by the owner itself, which serves
                 },
                 claim,
                 [](Stage& s) {
                   write(s.c, thing(s), 7);
                   REQUIRE(s.c.owner_transfer(thing(s), 0) == Owned::YES);
                   let_go(s);
                 },
                 nullptr,
                 [](Stage& s) {
                   Client::Notice notice;
                   REQUIRE(s.c.owner_check(thing(s), s.node, &notice));
                   REQUIRE(uniform(s.c, thing(s)) && s.c.owns(s.c.ownership(thing(s))));
                   take_over_or_keep(s);
                 }});
  all.push_back({"owned: frozen", nobodys, claim,
                 [](Stage& s) {
                   write(s.c, thing(s), 8);
                   REQUIRE(s.c.freeze(thing(s)).empty());
                   REQUIRE(uniform(s.c, thing(s)) && *bytes(s.c, thing(s)) == 8);
                   let_go(s);
                 },
                 nullptr,
                 [](Stage& s) {
                   bool frozen = s.c.entry(thing(s)).kind == KIND_FROZEN;
                   REQUIRE(uniform(s.c, thing(s)) && *bytes(s.c, thing(s)) == (frozen ? 8 : 1));
                   take_over(s);
                 }});
}

}  // namespace shoal::stress
