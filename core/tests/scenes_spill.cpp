// Scenes of spilling: a value leaves memory for a file, and comes back.
#include <sys/mman.h>

#include "scene.h"

namespace shoal::stress {

namespace {

constexpr u64 SIZE = 300000;

u8* bytes(Client& c, Handle h) { return c.rw + c.entry(h).payload + c.payload(h)->meta; }
Handle make_large(Stage& s) {
  Handle h = s.c.create(KIND_VALUE);
  s.c.begin_payload(h, FORMAT_PICKLE, 0, 0, SIZE, nullptr);
  for (u64 i = 0; i < SIZE; i++) bytes(s.c, h)[i] = u8(i >> 3);
  s.c.publish(h, false);
  return h;
}
void look(Stage& s, Handle h) {
  s.c.begin_pin(h);
  for (u64 i = 0; i < SIZE; i++) REQUIRE(bytes(s.c, h)[i] == u8(i >> 3));
  s.c.end_pin(h);
}
void in_memory(Stage& s) { s.sure = {make_large(s)}; }
void in_file(Stage& s) {
  in_memory(s);
  REQUIRE(s.c.spill_one(s.sure[0], false));
}
bool spilled(Stage& s, Handle h) { return s.c.entry(h).flags & FLAG_SPILLED; }
// It is in one of the two places, whole, and can go to the other.
void whole(Stage& s) {
  for (Handle h : s.sure) {
    look(s, h);
    REQUIRE(!spilled(s, h) && s.c.spill_one(h, false) && spilled(s, h));
    look(s, h);
  }
}

}  // namespace

void spill_scenes(std::vector<Scene>& all) {
  all.push_back({"spill", in_memory, nothing, [](Stage& s) { REQUIRE(s.c.spill_one(s.sure[0], false)); }, nullptr, whole});
  all.push_back({"spill: what nobody looks at", [](Stage& s) {
                   for (u32 i = 0; i < 3; i++) s.sure.push_back(make_large(s));
                 },
                 [](Stage& s) {
                   s.c.acquire(s.sure[1]);
                   s.c.begin_pin(s.sure[1]);
                 },
                 [](Stage& s) {
                   REQUIRE(s.c.spill(64 << 20, false) >= 2 * SIZE && !spilled(s, s.sure[1]) && spilled(s, s.sure[2]));
                   s.c.end_pin(s.sure[1]);
                   s.c.release(s.sure[1]);
                 },
                 nullptr, whole});
  all.push_back({"restore", in_file, [](Stage& s) { s.c.acquire(s.sure[0]); },
                 [](Stage& s) {
                   look(s, s.sure[0]);
                   s.c.release(s.sure[0]);
                 },
                 nullptr, whole});
  all.push_back({"restore: in vain", in_file,
                 [](Stage& s) {
                   s.c.acquire(s.sure[0]);
                   s.c.spillfd = memfd_create("another", MFD_CLOEXEC);  // the victim's alone: nothing is in it
                 },
                 [](Stage& s) {
                   try {
                     s.c.begin_pin(s.sure[0]);
                     REQUIRE(!"it was read");
                   } catch (const Error& e) {
                     REQUIRE(e.code == Error::LOST);
                   }
                   s.c.release(s.sure[0]);
                 },
                 nullptr, whole});
  all.push_back(last_reference(
      "spilled: last reference",
      [](Stage& s) {
        s.h = {make_large(s)};
        REQUIRE(s.c.spill_one(s.h[0], false));
      },
      [](Stage& s) { REQUIRE(s.c.h->spill.objects.load() == 0 && s.c.h->spill.bytes.load() == 0); }));
}

}  // namespace shoal::stress
