// The spill file, and how a process waits for memory.
#include <fcntl.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "bindings.h"

namespace shoal::py {

namespace {

constexpr long TMPFS = 0x01021994, RAMFS = long(0x858458f6);

// _open_spill_file(directory) -> (fd, is it on a disk?). Raises OSError.
PyObject* open_file(PyObject*, PyObject* directory) {
  PyObject* path = nullptr;
  if (!PyUnicode_FSConverter(directory, &path)) return nullptr;
  const char* where = PyBytes_AS_STRING(path);
  int fd = open(where, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
  if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {  // the file system or the kernel cannot do it
    std::string name = std::string(where) + "/shoal-spill-XXXXXX";
    fd = mkostemp(name.data(), O_CLOEXEC);
    if (fd >= 0) unlink(name.c_str());
  }
  struct statfs fs;
  PyObject* result = nullptr;
  if (fd < 0 || fstatfs(fd, &fs) != 0) {
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, directory);
    if (fd >= 0) close(fd);
  } else {
    result = Py_BuildValue("(iO)", fd, fs.f_type == TMPFS || fs.f_type == RAMFS ? Py_False : Py_True);
  }
  Py_DECREF(path);
  return result;
}

// _use_spill_file(fd): from now on this process spills to it. The descriptor is the session's.
PyObject* use_file(PyObject*, PyObject* fd) {
  long n = PyLong_AsLong(fd);
  if (n == -1 && PyErr_Occurred()) return nullptr;
  if (!usable()) return nullptr;
  C.spillfd = int(n);
  Py_RETURN_NONE;
}

// _spill(bytes) -> bytes of memory that are free now: writes out what nobody looks at, least recently used first
PyObject* spill(PyObject*, PyObject* bytes) {
  u64 want = PyLong_AsUnsignedLongLong(bytes);
  if (PyErr_Occurred() || !usable()) return nullptr;
  return guarded([&] { return PyLong_FromUnsignedLongLong(C.spill(want, true)); }, nullptr);
}

}  // namespace

// ----------------------------------------------------------------------------------------------- waiting

namespace {

constexpr u64 WARN_NS = 1'000'000'000, STILL_NS = 200'000'000, LOOK_NS = 250'000'000;

// What others could free, as far as can be told from counts: objects that only they refer to, and, if there is a spill
// file, large values that only they look at.
u64 held_by_others() {
  u64 bytes = 0;
  for (u32 i = 1, n = C.h->heap.entry_top.load(); i < n; i++) {
    Entry& e = C.entries[i];
    u32 state = e.state.load(std::memory_order_acquire);
    if (state == ENTRY_FREE || !(peek(e.flags) & FLAG_HAS_BLOCK)) continue;
    u64 size = peek(e.size);
    if (!(e.holder_bits[C.slot / 64].load(std::memory_order_relaxed) >> C.slot % 64 & 1)) {
      bytes += size;
    } else if (C.spillfd >= 0 && size >= SPILL_FROM && state == ENTRY_READY && !C.views[i]) {
      Handle h = C.handle_of(i);
      Tx tx(C);
      tx.lock(e.lock);
      if (!C.sealed(h) || !C.large(h) || !(e.flags & FLAG_HAS_BLOCK) || C.head(h)->head.nrefs) continue;
      bool seen = C.head(h)->spiller != 0;
      for (auto& word : C.head(h)->viewers) seen |= word.load(std::memory_order_relaxed) != 0;
      if (seen) bytes += size;
    }
  }
  return bytes;
}

// Does anybody but us move? Processes that sleep in a wait of ours do not, and what they hold they keep.
bool others_awake(u64* activity) {
  bool awake = C.runnable();
  *activity = C.h->stats.tasks_finished.load() + C.h->stats.tasks_submitted.load();
  for (u32 i = 0, n = C.h->slots_top.load(); i < n; i++) {
    if (i == C.slot || i == SUPERVISOR_SLOT || C.slots[i].state.load() != SLOT_ALIVE) continue;
    *activity += C.slots[i].ring.load();
    awake |= C.h->sched.awake[i / 64].load() >> i % 64 & 1;
    for (SpillJob& job : C.slots[i].spills) awake |= peek(job.object) != 0;
  }
  return awake;
}

std::string seconds_since(u64 since) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", double(now_ns() - since) * 1e-9);
  return text;
}

// Nothing is left to spill. True: try again, somebody may have freed something. False: it is of no use to wait (longer).
bool wait_for_room(Client::Pressure& p) {
  u64 now = now_ns();
  if (!p.since) {
    p.since = p.still = now;
    PyGC_Collect();  // garbage in circles may hold views
    if (!usable()) throw Error(Error::RAISED, "the session has ended");
    C.set_starved(true);
    p.registered = true;
    p.seen = C.me->ring.load(std::memory_order_seq_cst);
    return true;
  }
  if (held_by_others() < p.need) {
    p.note = "; nobody else holds so much, so it is of no use to wait";
    return false;
  }
  u64 activity;
  if (others_awake(&activity) || activity != p.activity) p.still = now;
  p.activity = activity;
  if (now - p.still > STILL_NS) {
    p.note = "; waited " + seconds_since(p.since) + " s: all who hold it wait themselves";
    return false;
  }
  if (now - p.since > C.h->heap.wait_ns) {
    p.note = "; waited " + seconds_since(p.since) + " s for others to free some (init(memory_timeout=...))";
    return false;
  }
  if (!p.warned && now - p.since > WARN_NS) {
    p.warned = true;
    PyObject* r = PyObject_CallFunction(S.memory_low, "K", (unsigned long long)p.need);
    if (!r) throw Error(Error::RAISED, "the warning");
    Py_DECREF(r);
    if (!usable()) throw Error(Error::RAISED, "the session has ended");
  }
  u64 until = std::min(now + (now - p.since < WARN_NS ? LOOK_NS / 5 : LOOK_NS), p.since + C.h->heap.wait_ns + 1);
  // The CPU is not lent meanwhile, as in other waits: more tasks at a time would want still more memory.
  if (nap(p.seen, until) == Waited::FAILED) throw Error(Error::RAISED, "interrupted");
  p.seen = C.me->ring.load(std::memory_order_seq_cst);
  C.h->heap.starving.store(1, std::memory_order_seq_cst);
  return true;
}

}  // namespace

void ready_pressure() {
  C.wait_for_room = wait_for_room;
  C.pause = [](u32 seen, u64 deadline) {
    if (nap(seen, deadline) == Waited::FAILED) throw Error(Error::RAISED, "interrupted");
  };
}

// ------------------------------------------------------------------------------------------- who holds what

namespace {

PyObject* slots_of(const std::atomic<u64>* bits) {
  PyObject* list = PyList_New(0);
  for (u32 s = 0; list && s < MAX_PROCESSES; s++) {
    if (!(bits[s / 64].load(std::memory_order_relaxed) >> s % 64 & 1)) continue;
    PyObject* n = PyLong_FromUnsignedLong(s);
    if (!n || PyList_Append(list, n) < 0) Py_CLEAR(list);
    Py_XDECREF(n);
  }
  return list;
}

struct Seen {
  Handle object;
  u64 bytes, used_ns;
  u32 state, contained, kind;
  bool spilled;
  std::atomic<u64> holders[MAX_PROCESSES / 64], viewers[MAX_PROCESSES / 64];
};

// How many of the calls that wait in a queue have each of these objects as an argument.
void count_queued(std::vector<std::unique_ptr<Seen>>& seen, std::vector<u32>& calls) {
  for (u32 i = 0, n = C.h->sched.nshapes.load(); i < n; i++) {
    Shape& x = C.h->sched.shapes[i];
    Tx tx(C);
    tx.lock(x.lock);
    u32 left = 4096;
    for (Offset o = x.head; o && left--; o = C.at<Task>(o)->qnext) {
      Task* t = C.at<Task>(o);
      for (u32 d = 0; d < t->ndeps; d++)
        for (size_t k = 0; k < seen.size(); k++) calls[k] += C.deps(t)[d].object == seen[k]->object;
    }
  }
}

// _memory(n) -> ([(slot, objects, bytes, viewed objects, viewed bytes)], [(handle, bytes, kind, state, spilled, contained,
// queued calls, holders, viewers)] of the n largest, written, write_ns, read, read_ns, writes, reads)
PyObject* memory(PyObject*, PyObject* most) {
  size_t n = PyLong_AsSize_t(most);
  if (PyErr_Occurred() || !usable()) return nullptr;
  struct Sum {
    u64 objects, bytes, viewed, viewed_bytes;
  };
  std::vector<Sum> sums(MAX_PROCESSES);
  std::vector<std::unique_ptr<Seen>> top;  // a heap: the smallest first
  auto larger = [](auto& a, auto& b) { return a->bytes > b->bytes; };
  for (u32 i = 1, end = C.h->heap.entry_top.load(); i < end; i++) {
    Entry& e = C.entries[i];
    u32 state = e.state.load(std::memory_order_acquire);
    u8 flags = peek(e.flags);
    if (state == ENTRY_FREE || state == ENTRY_DISPOSING || !(flags & (FLAG_HAS_BLOCK | FLAG_SPILLED))) continue;
    auto s = std::make_unique<Seen>();
    s->object = C.handle_of(i);
    s->bytes = peek(e.size);
    s->kind = e.kind.load(std::memory_order_relaxed);
    s->state = state;
    s->contained = peek(e.contained);
    s->spilled = flags & FLAG_SPILLED;
    for (u32 w = 0; w < MAX_PROCESSES / 64; w++) s->holders[w] = e.holder_bits[w].load(std::memory_order_relaxed);
    if ((s->bytes >= SPILL_FROM && s->kind == KIND_VALUE) || s->kind == KIND_MUTABLE) {
      Tx tx(C);
      tx.lock(e.lock);
      if (C.sealed(s->object) && e.flags & FLAG_HAS_BLOCK) {
        const std::atomic<u64>* bits = C.large(s->object) ? C.head(s->object)->viewers
                                       : e.kind == KIND_MUTABLE ? C.writers(s->object)->bits : nullptr;
        for (u32 w = 0; bits && w < MAX_PROCESSES / 64; w++) s->viewers[w] = bits[w].load(std::memory_order_relaxed);
        if (C.large(s->object)) s->used_ns = C.head(s->object)->used_ns.load();
      }
    }
    for (u32 w = 0; w < MAX_PROCESSES / 64; w++) {
      for (u64 bits = s->holders[w]; bits; bits &= bits - 1) {
        Sum& sum = sums[w * 64 + u32(__builtin_ctzll(bits))];
        sum.objects++;
        sum.bytes += s->bytes;
      }
      for (u64 bits = s->viewers[w]; bits; bits &= bits - 1) {
        Sum& sum = sums[w * 64 + u32(__builtin_ctzll(bits))];
        sum.viewed++;
        sum.viewed_bytes += s->bytes;
      }
    }
    if (top.size() >= n) {
      if (!n || top.front()->bytes >= s->bytes) continue;
      std::pop_heap(top.begin(), top.end(), larger);
      top.pop_back();
    }
    top.push_back(std::move(s));
    std::push_heap(top.begin(), top.end(), larger);
  }
  std::sort_heap(top.begin(), top.end(), larger);
  std::vector<u32> calls(top.size());
  if (n) count_queued(top, calls);
  PyObject *processes = PyList_New(0), *objects = PyList_New(0);
  bool ok = processes && objects;
  auto add = [&](PyObject* list, PyObject* item) {
    ok = ok && item && PyList_Append(list, item) == 0;
    Py_XDECREF(item);
  };
  for (u32 s = 0; ok && s < MAX_PROCESSES; s++)
    if (sums[s].objects || sums[s].viewed)
      add(processes, Py_BuildValue("(IKKKK)", s, sums[s].objects, sums[s].bytes, sums[s].viewed, sums[s].viewed_bytes));
  for (size_t k = 0; ok && k < top.size(); k++) {
    Seen& s = *top[k];
    add(objects, Py_BuildValue("(KKIINIINN)", s.object, s.bytes, s.kind, s.state, PyBool_FromLong(s.spilled), s.contained, calls[k],
                               slots_of(s.holders), slots_of(s.viewers)));
  }
  if (!ok) {
    Py_XDECREF(processes);
    Py_XDECREF(objects);
    return nullptr;
  }
  Spill& x = C.h->spill;
  return Py_BuildValue("(NNKKKKKK)", processes, objects, x.written.load(), x.write_ns.load(), x.read.load(), x.read_ns.load(),
                       x.writes.load(), x.reads.load());
}

PyMethodDef functions[] = {
    {"_open_spill_file", open_file, METH_O, nullptr},
    {"_use_spill_file", use_file, METH_O, nullptr},
    {"_spill", spill, METH_O, nullptr},
    {"_memory", memory, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool ready_spill(PyObject* module) { return PyModule_AddFunctions(module, functions) == 0; }

}  // namespace shoal::py
