// Values in and out of the arena. The commonest small values need no pickle: None, booleans, integers and floats lie in
// the entry itself; strings, bytes and lists of references have a format of their own.
#include "bindings.h"

namespace shoal::py {

constexpr u64 LONG_COPY = 1 << 20;  // copies from here on let other threads run

static void copy(u8* to, const void* from, u64 size) {
  if (size >= LONG_COPY) {
    NoGil nogil;
    copy_large(to, from, size);
  } else {
    std::memcpy(to, from, size);
  }
}

static bool store_flat(Handle h, u32 format, const char* data, u64 size) {
  u8* p = guarded([&] { return C.begin_payload(h, format, 0, 0, size, nullptr); }, nullptr);
  if (!p) return false;
  copy(p + reinterpret_cast<Payload*>(p)->meta, data, size);
  return true;
}

static bool all_refs(PyObject* seq, Py_ssize_t n, PyObject** items) {
  if (n == 0) return false;
  for (Py_ssize_t i = 0; i < n; i++)
    if (Py_TYPE(items[i]) != RefType) return false;
  (void)seq;
  return true;
}

bool store(Handle h, PyObject* v) {
  if (v == Py_None) return C.set_inline(h, TAG_NONE, 0), true;
  if (v == Py_True) return C.set_inline(h, TAG_TRUE, 0), true;
  if (v == Py_False) return C.set_inline(h, TAG_FALSE, 0), true;
  if (PyLong_CheckExact(v)) {
    int overflow;
    long long x = PyLong_AsLongLongAndOverflow(v, &overflow);
    if (!overflow) return C.set_inline(h, TAG_INT, u64(x)), true;
  } else if (PyFloat_CheckExact(v)) {
    double d = PyFloat_AS_DOUBLE(v);
    u64 x;
    std::memcpy(&x, &d, 8);
    return C.set_inline(h, TAG_FLOAT, x), true;
  } else if (PyUnicode_CheckExact(v)) {
    Py_ssize_t size;
    const char* data = PyUnicode_AsUTF8AndSize(v, &size);
    if (data) return store_flat(h, FORMAT_STR, data, u64(size));
    PyErr_Clear();  // lone surrogates: pickle knows how
  } else if (PyBytes_CheckExact(v)) {
    return store_flat(h, FORMAT_BYTES, PyBytes_AS_STRING(v), u64(PyBytes_GET_SIZE(v)));
  } else if (PyList_CheckExact(v) || PyTuple_CheckExact(v)) {
    Py_ssize_t n = PySequence_Fast_GET_SIZE(v);
    PyObject** items = PySequence_Fast_ITEMS(v);
    if (all_refs(v, n, items)) {
      Handle target;
      for (Py_ssize_t i = 0; i < n; i++)
        if (!live_ref(items[i], &target)) return false;
      return guarded([&] {
        C.begin_payload(h, PyList_CheckExact(v) ? FORMAT_REF_LIST : FORMAT_REF_TUPLE, u32(n), 0, 0, nullptr);
        for (Py_ssize_t i = 0; i < n; i++) C.contain(h, reinterpret_cast<Ref*>(items[i])->handle);
        return true;
      }, false);
    }
  }
  Collector c;
  PyObject* pair = PyObject_CallOneArg(S.serialize, v);
  if (!pair) return false;
  bool ok = fill_pickle(h, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1), c);
  Py_DECREF(pair);
  return ok;
}

bool store_mutable(Handle h, PyObject* v) {
  Collector c;
  PyObject* pair = PyObject_CallOneArg(S.serialize_mutable, v);
  if (!pair) return false;
  bool ok = fill_pickle(h, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1), c);
  Py_DECREF(pair);
  return ok;
}

bool fill_pickle(Handle h, PyObject* meta, PyObject* buffers, Collector& c) {
  Py_ssize_t n = PyList_GET_SIZE(buffers);
  std::vector<Py_buffer> views;
  std::vector<u64> sizes;
  views.reserve(size_t(n));
  bool ok = true;
  for (Py_ssize_t i = 0; ok && i < n; i++) {
    Py_buffer view;
    ok = PyObject_GetBuffer(PyList_GET_ITEM(buffers, i), &view, PyBUF_ANY_CONTIGUOUS) == 0;
    if (ok) {
      views.push_back(view);
      sizes.push_back(u64(view.len));
    }
  }
  ok = ok && guarded([&] {
    u64 size = u64(PyBytes_GET_SIZE(meta));
    u8* p = C.begin_payload(h, FORMAT_PICKLE, u32(c.refs.size()), u32(n), size, sizes.data());
    std::memcpy(p + reinterpret_cast<Payload*>(p)->meta, PyBytes_AS_STRING(meta), size);
    BufferSpan* spans = C.spans(h);
    for (size_t i = 0; i < views.size(); i++) copy(p + spans[i].start, views[i].buf, sizes[i]);
    for (PyObject* r : c.refs) C.contain(h, reinterpret_cast<Ref*>(r)->handle);
    return true;
  }, false);
  for (auto& view : views) PyBuffer_Release(&view);
  return ok;
}

Handle make_object(PyObject* meta, PyObject* buffers, Collector& c) {
  Handle h = guarded([&] { return C.create(KIND_VALUE); }, Handle(0));
  if (!h) return 0;
  if (!fill_pickle(h, meta, buffers, c)) {
    C.release(h);
    return 0;
  }
  C.publish(h, false);
  return h;
}

static PyObject* load_refs(Handle h, bool list) {
  u32 n = C.payload(h)->nrefs;
  PyObject* out = list ? PyList_New(n) : PyTuple_New(n);
  if (!out) return nullptr;
  const Handle* refs = C.refs(h);
  for (u32 i = 0; i < n; i++) {
    PyObject* r = share_ref(refs[i]);
    if (!r) {
      Py_DECREF(out);
      return nullptr;
    }
    if (list) PyList_SET_ITEM(out, i, r);
    else PyTuple_SET_ITEM(out, i, r);
  }
  return out;
}

PyObject* load(Handle h, Mapping* window) {
  const Entry& e = C.entry(h);
  if (e.flags & FLAG_INLINE) {
    switch (e.size) {
      case TAG_NONE: Py_RETURN_NONE;
      case TAG_FALSE: Py_RETURN_FALSE;
      case TAG_TRUE: Py_RETURN_TRUE;
      case TAG_INT: return PyLong_FromLongLong(i64(e.payload));
      default: {
        double d;
        std::memcpy(&d, &e.payload, 8);
        return PyFloat_FromDouble(d);
      }
    }
  }
  u8 kind = e.kind.load(std::memory_order_acquire);
  if (kind != KIND_VALUE && kind != KIND_MUTABLE && kind != KIND_FROZEN)
    return PyErr_SetString(PyExc_TypeError, "a lock, an actor, a container or a Versioned has no value to get"), nullptr;
  Look look;
  if (!look.open(h)) return nullptr;
  const u8* p = C.ro + e.payload;
  auto* head = reinterpret_cast<const Payload*>(p);
  const char* meta = reinterpret_cast<const char*>(p + head->meta);
  switch (head->format) {
    case FORMAT_STR: return PyUnicode_DecodeUTF8(meta, Py_ssize_t(head->meta_size), nullptr);
    case FORMAT_BYTES: return PyBytes_FromStringAndSize(meta, Py_ssize_t(head->meta_size));
    case FORMAT_REF_LIST: return load_refs(h, true);
    case FORMAT_REF_TUPLE: return load_refs(h, false);
  }
  bool writable = kind == KIND_MUTABLE;
  if (e.flags & FLAG_OWNED && writable) {
    int owner = guarded([&] { return int(C.owner_get(h)); }, -1);
    if (owner < 0) return nullptr;
    writable = owner;
  }
  PyObject* buffers = PyList_New(head->nbuffers);
  if (!buffers) return nullptr;
  const BufferSpan* spans = C.spans(h);
  for (u32 i = 0; i < head->nbuffers; i++) {
    PyObject* b = guarded([&] { return new_buffer(h, e.payload + spans[i].start, spans[i].size, writable, window); }, nullptr);
    if (!b) {
      Py_DECREF(buffers);
      return nullptr;
    }
    PyList_SET_ITEM(buffers, i, b);
  }
  PyObject* view = PyMemoryView_FromMemory(const_cast<char*>(meta), Py_ssize_t(head->meta_size), PyBUF_READ);
  PyObject* value = nullptr;
  if (view) {
    PyObject* args[] = {view, buffers};
    C.acquire(h);  // the pickle may drop the caller's reference while it is being read
    u32 epoch = S.epoch;
    value = PyObject_Vectorcall(window ? S.deserialize_private : S.deserialize, args, 2, nullptr);
    if (S.attached && S.epoch == epoch && !C.forked) C.release(h);
  }
  Py_XDECREF(view);
  Py_DECREF(buffers);
  return value;
}

PyObject* load_or_raise(Handle h) {
  PyObject* v = load(h);
  if (!v || C.entry(h).state.load(std::memory_order_relaxed) != ENTRY_FAILED) return v;
  PyObject* e = PyObject_CallOneArg(S.raised, v);
  Py_DECREF(v);
  if (!e) return nullptr;
  PyErr_SetObject((PyObject*)Py_TYPE(e), e);
  Py_DECREF(e);
  return nullptr;
}

}  // namespace shoal::py
