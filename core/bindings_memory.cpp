// Objects made, frozen and copied in place: empty arrays, freeze(), and windows.
//
// A window maps the pages of one object a second time, apart from the two mappings of the whole arena:
//   copy-on-write   get(private=True): what is written goes to pages of the process's own
//   shared          the draft of a Versioned, while it is made; then it becomes copy-on-write in one system call, so
//                   that whoever still has an array of the draft cannot reach the published version through it
// Pages at the ends belong to neighbours too; nobody is given an array that reaches there. A window lives as long as
// the last Buffer in it, and each Buffer holds the object.
#include <sys/mman.h>

#include <cerrno>

#include "bindings.h"

namespace shoal::py {

static u8* map_window(u8* where, u64 bytes, Offset start, bool copy) {
  int flags = (copy ? MAP_PRIVATE : MAP_SHARED) | MAP_NORESERVE | (where ? MAP_FIXED : 0);
  void* p = mmap(where, bytes, PROT_READ | PROT_WRITE, flags, C.memfd, off_t(start));
  if (p == MAP_FAILED)
    throw Error(Error::FULL, std::string("cannot map ") + std::to_string(bytes) + " bytes once more: " + std::strerror(errno) +
                                 "; every private copy and every draft that lives needs a mapping (/proc/sys/vm/max_map_count)");
  madvise(p, bytes, MADV_DONTDUMP);
  return static_cast<u8*>(p);
}

Mapping* open_window(Handle h, bool copy) {
  const Payload* p = C.payload(h);
  const BufferSpan* spans = C.spans(h);
  Offset base = C.entry(h).payload, from = base, to = base;
  if (p->nbuffers) {
    from = base + spans[0].start;
    to = base + spans[p->nbuffers - 1].start + spans[p->nbuffers - 1].size;
  }
  from = from / PAGE * PAGE;
  u64 bytes = std::max((to - from + PAGE - 1) / PAGE * PAGE, PAGE);
  u8* at = map_window(nullptr, bytes, from, copy);
  return new Mapping{at, nullptr, bytes, 1, from};
}

void make_private(Mapping* w) { map_window(w->rw, w->bytes, w->start, true); }

namespace {

// _new_array(meta, nbytes, zero) -> ref of a mutable object with one buffer
PyObject* new_array(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (n != 3 || !PyBytes_Check(args[0])) return PyErr_SetString(PyExc_TypeError, "_new_array takes meta, nbytes, zero"), nullptr;
  u64 size = PyLong_AsUnsignedLongLong(args[1]);
  if (PyErr_Occurred() || !usable()) return nullptr;
  Handle h = guarded([&] { return C.create(KIND_MUTABLE); }, Handle(0));
  if (!h) return nullptr;
  bool ok = guarded([&] {
    u64 meta = u64(PyBytes_GET_SIZE(args[0]));
    u8* p = C.begin_payload(h, FORMAT_PICKLE, 0, 1, meta, &size);
    std::memcpy(p + reinterpret_cast<Payload*>(p)->meta, PyBytes_AS_STRING(args[0]), meta);
    if (args[2] == Py_True) {
      u8* data = p + C.spans(h)[0].start;
      if (size < 1 << 20) {
        std::memset(data, 0, size);
      } else {
        NoGil nogil;
        std::memset(data, 0, size);
      }
    }
    C.publish(h, false);
    return true;
  }, false);
  if (!ok) {
    C.release(h);
    return nullptr;
  }
  return new_ref(h);
}

// _freeze(ref) -> None, or the process ids of those who have writable views. The views of a process that is known to be dead
// are gone as soon as the supervisor comes to it; it rings everybody then.
PyObject* freeze(PyObject*, PyObject* ref) {
  Handle h;
  if (!live_ref(ref, &h)) return nullptr;
  return guarded([&]() -> PyObject* {
    Blocking blocking;
    for (;;) {
      u32 seen = C.me->ring.load(std::memory_order_seq_cst);
      std::vector<u32> who = C.freeze(h);
      if (who.empty()) Py_RETURN_NONE;
      std::erase_if(who, [](u32 s) { return C.slots[s].state.load() == SLOT_DEAD; });
      if (!who.empty()) {
        PyObject* pids = PyTuple_New(Py_ssize_t(who.size()));
        for (size_t i = 0; pids && i < who.size(); i++)
          PyTuple_SET_ITEM(pids, Py_ssize_t(i), PyLong_FromLong(C.slots[who[i]].pid));
        return pids;
      }
      blocking.begin();
      if (nap(seen, 0) == Waited::FAILED) return nullptr;
    }
  }, nullptr);
}

// _load_private(ref) -> the value of a finished object, with writable arrays of its own
PyObject* load_private(PyObject*, PyObject* ref) {
  Handle h;
  if (!live_ref(ref, &h)) return nullptr;
  const Entry& e = C.entry(h);
  u8 kind = e.kind.load(std::memory_order_acquire);
  if (kind == KIND_MUTABLE)
    return PyErr_SetString(PyExc_ValueError,
                           "private=True is for immutable objects: of a mutable one it would show what others write until "
                           "a page is written here. Copy it (under its lock), or freeze() it first"), nullptr;
  Look look;
  if (e.state.load(std::memory_order_acquire) >= ENTRY_READY && !look.open(h)) return nullptr;
  bool plain = e.flags & FLAG_INLINE || (kind != KIND_VALUE && kind != KIND_FROZEN) ||
               e.state.load(std::memory_order_acquire) != ENTRY_READY || C.payload(h)->format != FORMAT_PICKLE;
  if (plain) return load_or_raise(h);
  Mapping* window = guarded([&] { return open_window(h, true); }, static_cast<Mapping*>(nullptr));
  if (!window) return nullptr;
  PyObject* value = load(h, window);
  drop_mapping(window);
  return value;
}

PyMethodDef functions[] = {
    {"_new_array", (PyCFunction)(void*)new_array, METH_FASTCALL, nullptr},
    {"_freeze", freeze, METH_O, nullptr},
    {"_load_private", load_private, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool ready_memory(PyObject* module) { return PyModule_AddFunctions(module, functions) == 0; }

}  // namespace shoal::py
