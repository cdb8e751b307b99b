// Scenes of writable views, freezing and versions.
#include "scene.h"

namespace shoal::stress {

namespace {

Handle make_mutable(Client& c) {
  Handle h = c.create(KIND_MUTABLE);
  u64 size = 100;
  c.begin_payload(h, FORMAT_PICKLE, 0, 1, 10, &size);
  c.publish(h, false);
  return h;
}
void prepare_mutable(Stage& s) { s.sure = {make_mutable(s.c)}; }
void hold(Stage& s) { s.c.acquire(s.sure[0]); }
void let_go(Stage& s) { s.c.release(s.sure[0]); }

// Nobody writes any more, so it can be frozen; then nobody ever does.
void freeze_it(Stage& s) {
  REQUIRE(s.c.freeze(s.sure[0]).empty());
  REQUIRE(s.c.entry(s.sure[0]).kind == KIND_FROZEN);
  REQUIRE(!s.c.begin_view(s.sure[0]));
}

// A cell and the value of its first version.
void prepare_cell(Stage& s) {
  Handle first = make(s.c, 100);
  s.sure = {s.c.create_cell(first)};
  s.c.release(first);
}
Cell* cell(Stage& s) { return s.c.cell(s.sure[0]); }
void publish(Stage& s, u64 bytes) {
  u64 version;
  REQUIRE(s.c.cell_publish(cell(s), make(s.c, bytes), nullptr, &version));
}

// The newest version is whole and held by the cell alone, and there can be a next one.
void read_cell(Stage& s) {
  u64 version, next;
  Handle h = s.c.cell_acquire(cell(s), &version);
  REQUIRE(state_of(s.c, h) == ENTRY_READY && s.c.entry(h).contained == 1);
  REQUIRE(version == s.c.cell_version(cell(s)));
  s.c.release(h);
  REQUIRE(s.c.cell_publish(cell(s), make(s.c, 10), &version, &next) && next == version + 1);
}

void views(std::vector<Scene>& all) {
  all.push_back({"views: first and last", prepare_mutable, nothing,
                 [](Stage& s) {
                   hold(s);
                   REQUIRE(s.c.begin_view(s.sure[0]) && s.c.begin_view(s.sure[0]));
                   REQUIRE(s.c.freeze(s.sure[0]).size() == 1);
                   s.c.end_view(s.sure[0]);
                   s.c.end_view(s.sure[0]);
                   let_go(s);
                 },
                 nullptr, freeze_it});
  all.push_back({"views: beside another's",
                 [](Stage& s) {
                   prepare_mutable(s);
                   REQUIRE(s.c.begin_view(s.sure[0]));
                 },
                 hold,
                 [](Stage& s) {
                   REQUIRE(s.c.begin_view(s.sure[0]));
                   s.c.end_view(s.sure[0]);
                   REQUIRE(s.c.freeze(s.sure[0]).size() == 1);
                   let_go(s);
                 },
                 nullptr,
                 [](Stage& s) {
                   REQUIRE(s.c.freeze(s.sure[0]) == std::vector<u32>{s.c.slot});
                   s.c.end_view(s.sure[0]);
                   freeze_it(s);
                 }});
  all.push_back({"frozen, then looked at", prepare_mutable, hold,
                 [](Stage& s) {
                   freeze_it(s);
                   freeze_it(s);
                   let_go(s);
                 },
                 nullptr, freeze_it});
}

void cells(std::vector<Scene>& all) {
  all.push_back({"cell: made, disposed of with its version", nothing, nothing, [](Stage& s) {
                   Handle first = make(s.c, 100);
                   Handle h = s.c.create_cell(first);
                   s.c.release(first);
                   s.c.release(h);
                 }});
  all.push_back({"cell: published and read", prepare_cell, hold,
                 [](Stage& s) {
                   u64 version = 7;
                   publish(s, 100);
                   Handle h = s.c.cell_acquire(cell(s), &version);
                   REQUIRE(version == 1);
                   publish(s, 200);  // the old one is ours alone now
                   s.c.release(h);
                   h = make(s.c, 10);
                   u64 found;
                   REQUIRE(!s.c.cell_publish(cell(s), h, &version, &found) && found == 2);
                   REQUIRE(s.c.cell_publish(cell(s), h, &found, &version) && version == 3);
                   let_go(s);
                 },
                 nullptr, read_cell});
  all.push_back({"cell: published while it is held here and there",
                 [](Stage& s) {
                   u64 version;
                   prepare_cell(s);
                   s.sure.push_back(s.c.cell_acquire(cell(s), &version));
                 },
                 hold,
                 [](Stage& s) {
                   u64 version;
                   Handle old = s.c.cell_acquire(cell(s), &version);
                   Handle item = make(s.c, 100, {old});
                   s.c.acquire(item);  // as a draft's arrays do
                   REQUIRE(s.c.cell_publish(cell(s), item, nullptr, &version));
                   s.c.release(old);
                   publish(s, 10);
                   s.c.release(item);
                   let_go(s);
                 },
                 nullptr, read_cell});
  all.push_back({"cell: waited for",
                 [](Stage& s) {
                   prepare_cell(s);
                   REQUIRE(!s.c.cell_watch(cell(s), 0));
                 },
                 hold,
                 [](Stage& s) {
                   REQUIRE(!s.c.cell_watch(cell(s), 0));
                   publish(s, 10);
                   REQUIRE(s.c.cell_watch(cell(s), 0) == 1);
                   u32 seen = s.c.me->ring.load();
                   REQUIRE(!s.c.cell_watch(cell(s), 1));
                   s.meet();
                   s.c.sleep_ring(seen, 0);
                   REQUIRE(s.c.cell_version(cell(s)) == 2);
                   let_go(s);
                 },
                 [](Stage& s) { publish(s, 10); }, read_cell});
}

}  // namespace

void version_scenes(std::vector<Scene>& all) {
  views(all);
  cells(all);
}

}  // namespace shoal::stress
