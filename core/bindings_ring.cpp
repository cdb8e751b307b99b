// Sampling from a ring: drawing by priority, and gathering the records drawn into one batch.
#include <algorithm>
#include <cmath>

#include "bindings.h"

namespace shoal::py {
namespace {

constexpr u64 LONG_GATHER = 1 << 16;  // from here on other threads run meanwhile

typedef u8 Line __attribute__((vector_size(64), aligned(1), may_alias));  // of a cache, loaded and stored at once

// The memory of an array, for as long as this lives.
class Array {
 public:
  Array(PyObject* o, bool writable, Py_ssize_t itemsize) {
    ok = PyObject_GetBuffer(o, &view_, PyBUF_ND | (writable ? PyBUF_WRITABLE : 0)) == 0;  // ND: C-contiguous
    if (ok && (view_.ndim < 1 || (itemsize && view_.itemsize != itemsize))) {
      PyErr_SetString(PyExc_TypeError, "an array of another type was expected");
      ok = false;
      PyBuffer_Release(&view_);
    }
  }
  ~Array() {
    if (ok) PyBuffer_Release(&view_);
  }
  Array(const Array&) = delete;
  Py_ssize_t length() const { return view_.shape[0]; }
  u64 bytes() const { return u64(view_.len); }
  template <class T>
  T* as() const {
    return static_cast<T*>(view_.buf);
  }
  bool ok;

 private:
  Py_buffer view_;
};

// Copies the records at `places` one behind the other: two at a time, line by line, while the same lines of the next two are
// fetched into the second-level cache. The records lie anywhere, and the processor's own prefetching ends at each page and begins
// anew with each record, so plain memcpy takes half as long again; and fetching into the first-level cache takes longer than
// that, since it has room for few lines on their way.
void gather(u8* to, const u8* from, const i64* places, i64 count, u64 size) {
  for (i64 i = 0; i < count; i += 2) {
    auto row = [&](i64 k) { return std::min(k, count - 1); };  // at the end the last one once more
    const u8 *a = from + u64(places[i]) * size, *b = from + u64(places[row(i + 1)]) * size;
    const u8 *next_a = from + u64(places[row(i + 2)]) * size, *next_b = from + u64(places[row(i + 3)]) * size;
    u8 *to_a = to + u64(i) * size, *to_b = to + u64(row(i + 1)) * size;
    u64 done = 0;
    for (; done + sizeof(Line) <= size; done += sizeof(Line)) {
      __builtin_prefetch(next_a + done, 0, 2);
      __builtin_prefetch(next_b + done, 0, 2);
      *reinterpret_cast<Line*>(to_a + done) = *reinterpret_cast<const Line*>(a + done);
      *reinterpret_cast<Line*>(to_b + done) = *reinterpret_cast<const Line*>(b + done);
    }
    std::memcpy(to_a + done, a + done, size - done);
    std::memcpy(to_b + done, b + done, size - done);
  }
}

// ring_gather(array, places, out): out[i] = array[places[i]].
PyObject* ring_gather(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (!arity("ring_gather", n, 3)) return nullptr;
  Array from(args[0], false, 0), places(args[1], false, 8), out(args[2], true, 0);
  if (!from.ok || !places.ok || !out.ok) return nullptr;
  Py_ssize_t count = places.length();
  u64 size = from.length() ? from.bytes() / u64(from.length()) : 0;
  if (out.length() != count || out.bytes() != size * u64(count))
    return PyErr_SetString(PyExc_ValueError, "the batch has another shape than the records"), nullptr;
  const i64* at = places.as<i64>();
  for (Py_ssize_t i = 0; i < count; i++)
    if (at[i] < 0 || at[i] >= from.length()) return PyErr_SetString(PyExc_IndexError, "the ring has no such place"), nullptr;
  if (out.bytes() >= LONG_GATHER) {
    NoGil nogil;
    gather(out.as<u8>(), from.as<u8>(), at, count, size);
  } else {
    gather(out.as<u8>(), from.as<u8>(), at, count, size);
  }
  Py_RETURN_NONE;
}

// ring_draw(tree, random, places): the leaf of a sum tree that each of the random numbers in [0, 1) falls upon. All go
// down a level at a time, so that their cache misses overlap.
PyObject* ring_draw(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (!arity("ring_draw", n, 3)) return nullptr;
  Array tree(args[0], false, 8), random(args[1], true, 8), places(args[2], true, 8);
  if (!tree.ok || !random.ok || !places.ok) return nullptr;
  i64 leaves = tree.length() / 2;
  Py_ssize_t count = places.length();
  if (random.length() != count) return PyErr_SetString(PyExc_ValueError, "as many random numbers as places"), nullptr;
  const double* sums = tree.as<double>();
  double *left = random.as<double>(), all = leaves ? sums[1] : 0;
  i64* node = places.as<i64>();
  for (Py_ssize_t i = 0; i < count; i++) left[i] *= all, node[i] = 1;
  for (i64 level = 1; level < leaves; level *= 2)
    for (Py_ssize_t i = 0; i < count; i++) {
      i64 child = node[i] * 2;
      double sum = sums[child];
      bool right = left[i] >= sum;
      left[i] -= sum * right;  // no branch: it would be guessed wrong half of the time
      node[i] = child + right;
    }
  for (Py_ssize_t i = 0; i < count; i++) node[i] -= leaves;
  Py_RETURN_NONE;
}

// ring_update(tree, highest, places, priorities, capacity): sets leaves of a sum tree and the sums above them. Under the
// ring's lock: what its holder's death leaves half changed is made good by whoever gets it next.
PyObject* ring_update(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (!arity("ring_update", n, 5)) return nullptr;
  Array tree(args[0], true, 8), highest(args[1], true, 8), places(args[2], false, 8), priorities(args[3], false, 8);
  if (!tree.ok || !highest.ok || !places.ok || !priorities.ok) return nullptr;
  i64 leaves = tree.length() / 2, capacity = PyLong_AsLongLong(args[4]);
  if (capacity == -1 && PyErr_Occurred()) return nullptr;
  Py_ssize_t count = places.length();
  if (priorities.length() != count) return PyErr_SetString(PyExc_ValueError, "as many priorities as places"), nullptr;
  const i64* at = places.as<i64>();
  const double* given = priorities.as<double>();
  for (Py_ssize_t i = 0; i < count; i++) {
    if (at[i] < 0 || at[i] >= std::min(capacity, leaves)) return PyErr_SetString(PyExc_IndexError, "the ring has no such place"), nullptr;
    if (!(given[i] > 0) || !std::isfinite(given[i]))
      return PyErr_SetString(PyExc_ValueError, "a priority is a positive, finite number"), nullptr;
  }
  double* sums = tree.as<double>();
  std::vector<i64> nodes(static_cast<size_t>(count));
  for (Py_ssize_t i = 0; i < count; i++) {
    nodes[size_t(i)] = at[i] + leaves;
    sums[nodes[size_t(i)]] = given[i];
    highest.as<double>()[0] = std::max(highest.as<double>()[0], given[i]);
  }
  for (i64 level = leaves; level > 1; level /= 2) {
    i64 last = 0;
    for (i64& node : nodes) {
      node /= 2;
      if (node != last) sums[node] = sums[2 * node] + sums[2 * node + 1];
      last = node;
    }
  }
  Py_RETURN_NONE;
}

PyMethodDef functions[] = {
    {"ring_update", (PyCFunction)(void*)ring_update, METH_FASTCALL, nullptr},
    {"ring_gather", (PyCFunction)(void*)ring_gather, METH_FASTCALL, nullptr},
    {"ring_draw", (PyCFunction)(void*)ring_draw, METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool ready_ring(PyObject* module) { return PyModule_AddFunctions(module, functions) == 0; }

}  // namespace shoal::py
