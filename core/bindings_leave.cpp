// A guest leaves a session that goes on. What its arrays show stays as it is from then on: their pages become its own.
//
// The arena's memory under them may belong to another object a moment later. So each page that a view reaches is copied
// to anonymous memory, which then takes its place in one system call, while other threads may read it; and what no view
// reaches is not mapped any more. Costs memory and time for the views that are alive, and nothing without any.
#include <sys/mman.h>

#include <algorithm>

#include "bindings.h"

namespace shoal::py {

namespace {

struct Piece {
  u8 *from, *to;  // whole pages
  u8* copy = nullptr;
};

u8* page_down(u8* p) { return reinterpret_cast<u8*>(reinterpret_cast<u64>(p) / PAGE * PAGE); }

// Everything of [from, to) that no piece covers becomes unusable, but stays taken.
void forget_rest(u8* from, u8* to, const std::vector<Piece>& pieces) {
  auto drop = [](u8* a, u8* b) {
    if (a < b) mmap(a, u64(b - a), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  };
  u8* at = from;
  for (auto& p : pieces) {
    if (p.to <= from || p.from >= to) continue;
    drop(at, p.from);
    at = p.to;
  }
  drop(at, to);
}

}  // namespace

// False: there is no memory for it, or something else than arrays still looks at the arena.
bool take_views_along() {
  std::vector<Piece> pieces;
  u64 known = 1;
  for (Buffer* b = buffers; b; b = b->next) {
    known += b->mapping == S.mapping;
    if (b->size) pieces.push_back({page_down(b->start), page_down(b->start + b->size - 1) + PAGE});
  }
  if (known != S.mapping->users) return false;
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.from < b.from; });
  std::vector<Piece> whole;
  for (auto& p : pieces) {
    if (!whole.empty() && p.from < whole.back().to) whole.back().to = std::max(whole.back().to, p.to);
    else whole.push_back(p);
  }
  bool ok = true;
  for (auto& p : whole) {
    void* copy = mmap(nullptr, u64(p.to - p.from), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) {
      ok = false;
      break;
    }
    p.copy = static_cast<u8*>(copy);
    std::memcpy(copy, p.from, u64(p.to - p.from));
  }
  for (auto& p : whole) {
    u64 size = u64(p.to - p.from);
    bool read_only = S.mapping->ro && p.from >= S.mapping->ro && p.from < S.mapping->ro + S.mapping->bytes;
    if (ok) {
      if (read_only) mprotect(p.copy, size, PROT_READ);
      ok = mremap(p.copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, p.from) != MAP_FAILED;
      if (ok) continue;
    }
    if (p.copy) munmap(p.copy, size);
  }
  if (!ok) return false;
  forget_rest(S.mapping->rw, S.mapping->rw + S.mapping->bytes, whole);
  forget_rest(S.mapping->ro, S.mapping->ro + S.mapping->bytes, whole);
  return true;
}

void forget_views() {
  while (buffers) {
    Buffer* b = buffers;
    buffers = b->next;
    b->next = nullptr;
    b->link = nullptr;
  }
}

}  // namespace shoal::py
