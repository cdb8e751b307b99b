// Copies of large arrays, past the caches.
//
// An ordinary copy reads each cache line of the target before it overwrites it, and throws out of the caches what others
// still need, for data that fits into none of them. Streaming stores do neither. The C library uses them too, but only for
// sizes that depend on its guess of the machine, and it loses a third where source and target lie differently in their
// pages, which is always so here: a payload begins with its header, an array of NumPy 16 bytes into a page.
// SSE2 belongs to every x86-64; wider stores are no faster, since both fill lines of 64 bytes.
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "client.h"

namespace shoal {

constexpr u64 STREAM_FROM = 8 << 20;  // smaller ones may still be in a cache when they are read
constexpr u64 LINE = 64, AHEAD = 1024;

void copy_large(void* to, const void* from, u64 size) {
#if defined(__x86_64__)
  if (size >= STREAM_FROM) {
    auto* target = static_cast<u8*>(to);
    auto* source = static_cast<const u8*>(from);
    u64 head = (LINE - reinterpret_cast<u64>(target) % LINE) % LINE;
    std::memcpy(target, source, head);
    u64 at = head;
    for (; at + LINE <= size; at += LINE) {
      auto* s = reinterpret_cast<const __m128i*>(source + at);
      auto* t = reinterpret_cast<__m128i*>(target + at);
      _mm_prefetch(reinterpret_cast<const char*>(s) + AHEAD, _MM_HINT_NTA);  // beyond the end it does nothing
      __m128i a = _mm_loadu_si128(s), b = _mm_loadu_si128(s + 1), c = _mm_loadu_si128(s + 2), d = _mm_loadu_si128(s + 3);
      _mm_stream_si128(t, a);
      _mm_stream_si128(t + 1, b);
      _mm_stream_si128(t + 2, c);
      _mm_stream_si128(t + 3, d);
    }
    _mm_sfence();  // streaming stores keep no order: publication must come after them
    std::memcpy(target + at, source + at, size - at);
    return;
  }
#endif
  std::memcpy(to, from, size);
}

}  // namespace shoal
