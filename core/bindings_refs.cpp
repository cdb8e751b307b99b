// ObjectRef, and the Buffer behind every zero-copy view.
#include <sys/mman.h>

#include "bindings.h"

namespace shoal::py {

PyTypeObject* RefType;
static PyTypeObject* BufferType;
static PyObject* restore_function;
thread_local Collector* collector = nullptr;

Collector::Collector() : outer(collector) { collector = this; }
Collector::~Collector() {
  collector = outer;
  for (PyObject* o : refs) Py_DECREF(o);
}

bool current(u32 epoch) { return S.attached && epoch == S.epoch && !C.forked; }

PyObject* new_ref(Handle h) {
  Ref* r = PyObject_New(Ref, RefType);
  if (!r) {
    C.release(h);
    return nullptr;
  }
  r->handle = h;
  r->epoch = S.epoch;
  r->weakrefs = nullptr;
  return reinterpret_cast<PyObject*>(r);
}

PyObject* share_ref(Handle h) {
  return guarded([&]() -> PyObject* {
    C.acquire(h);
    return new_ref(h);
  }, nullptr);
}

bool live_ref(PyObject* o, Handle* h) {
  if (!is_ref(o)) {
    PyErr_Format(PyExc_TypeError,
                 "expected an ObjectRef (what put() and .remote() return), got %R of type %.100s", o, Py_TYPE(o)->tp_name);
    return false;
  }
  auto* r = reinterpret_cast<Ref*>(o);
  if (!usable()) return false;
  if (r->epoch != S.epoch) {
    set_error(Error(Error::ENDED, "this ObjectRef belongs to a session that has ended; its object is gone. Make it again in the present session"));
    return false;
  }
  *h = r->handle;
  return true;
}

static void ref_dealloc(PyObject* self) {
  auto* r = reinterpret_cast<Ref*>(self);
  if (r->weakrefs) PyObject_ClearWeakRefs(self);
  if (current(r->epoch)) {
    try {
      C.release(r->handle);
    } catch (const Error&) {
      // The session has ended under us: there is nothing left to give back.
    }
  }
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

static PyObject* ref_repr(PyObject* self) {
  auto* r = reinterpret_cast<Ref*>(self);
  return PyUnicode_FromFormat("ObjectRef(%08x%08x)", unsigned(r->handle >> 32), unsigned(r->handle));
}

static Py_hash_t ref_hash(PyObject* self) {
  u64 x = reinterpret_cast<Ref*>(self)->handle * 0x9e3779b97f4a7c15ull;
  Py_hash_t v = Py_hash_t(x >> 1);
  return v == -1 ? -2 : v;
}

static PyObject* ref_compare(PyObject* a, PyObject* b, int op) {
  if ((op != Py_EQ && op != Py_NE) || !is_ref(a) || !is_ref(b)) Py_RETURN_NOTIMPLEMENTED;
  auto *x = reinterpret_cast<Ref*>(a), *y = reinterpret_cast<Ref*>(b);
  bool same = x->handle == y->handle && x->epoch == y->epoch;
  return PyBool_FromLong((op == Py_EQ) == same);
}

// Inside one of our own pickles the reference is counted by the object or task that contains it. In a pickle made by
// anybody else nobody can know when it is dropped: the object is then kept until the session ends.
static PyObject* ref_reduce(PyObject* self, PyObject*) {
  Handle h;
  if (!live_ref(self, &h)) return nullptr;
  if (collector) {
    Py_INCREF(self);
    collector->refs.push_back(self);
  } else if (!guarded([&] { return C.pin(h), true; }, false)) {
    return nullptr;
  }
  return Py_BuildValue("O(KK)", restore_function, (unsigned long long)C.h->session, (unsigned long long)h);
}

static PyObject* restore(PyObject*, PyObject* const* args, Py_ssize_t n) {
  if (n != 2) return PyErr_SetString(PyExc_TypeError, "_restore_ref takes 2 arguments"), nullptr;
  u64 session = PyLong_AsUnsignedLongLong(args[0]), h = PyLong_AsUnsignedLongLong(args[1]);
  if (PyErr_Occurred()) return nullptr;
  if (!S.attached || C.forked) {
    // Of no use here, and whoever tries to is told. An error now would end the workers of a multiprocessing.Pool, one after
    // the other, without a word.
    Ref* r = PyObject_New(Ref, RefType);
    if (!r) return nullptr;
    r->handle = h;
    r->epoch = 0;  // no session has this
    r->weakrefs = nullptr;
    return reinterpret_cast<PyObject*>(r);
  }
  if (!usable()) return nullptr;
  if (session != C.h->session) {
    set_error(Error(Error::ENDED, "this ObjectRef was pickled in another session; its object is not here"));
    return nullptr;
  }
  if (!C.valid(h)) {
    set_error(Error(Error::GONE, "the object of this ObjectRef no longer exists: its last reference was dropped"));
    return nullptr;
  }
  return share_ref(h);
}

static PyObject* ref_handle(PyObject* self, void*) { return PyLong_FromUnsignedLongLong(reinterpret_cast<Ref*>(self)->handle); }
static PyObject* ref_live(PyObject* self, void*) { return PyBool_FromLong(current(reinterpret_cast<Ref*>(self)->epoch)); }

static PyMethodDef ref_methods[] = {
    {"__reduce__", ref_reduce, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
static PyGetSetDef ref_getset[] = {
    {"_handle", ref_handle, nullptr, nullptr, nullptr},
    {"_live", ref_live, nullptr, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};
static PyMemberDef ref_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Ref, weakrefs), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};
static PyType_Slot ref_slots[] = {
    {Py_tp_dealloc, (void*)ref_dealloc},   {Py_tp_repr, (void*)ref_repr},       {Py_tp_hash, (void*)ref_hash},
    {Py_tp_richcompare, (void*)ref_compare}, {Py_tp_methods, ref_methods},       {Py_tp_getset, ref_getset},
    {Py_tp_members, ref_members},
    {Py_tp_doc, (void*)"A reference to an object of the session: the future value of a task, or what put() stored.\n\n"
                       "Made by put() and .remote(), read by get(). The object lives while any reference to it does, in any process."},
    {0, nullptr},
};
static PyType_Spec ref_spec = {"shoal.ObjectRef", sizeof(Ref), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, ref_slots};

// ---------------------------------------------------------------------------------------------- Buffer

Buffer* buffers = nullptr;

bool Look::open(Handle h) {
  if (!C.large(h)) return true;
  return guarded([&] {
    C.begin_pin(h);
    h_ = h;
    return true;
  }, false);
}

Look::~Look() {
  if (!h_ || !current(epoch_)) return;
  try {
    C.end_pin(h_);
  } catch (const Error&) {
  }
}

PyObject* new_buffer(Handle h, u64 start, u64 size, bool writable, Mapping* window) {
  Buffer* b = PyObject_New(Buffer, BufferType);
  if (!b) return nullptr;
  b->handle = h;
  b->size = Py_ssize_t(size);
  b->epoch = S.epoch;
  b->mapping = window ? window : S.mapping;
  try {
    C.acquire(h);
    b->counted = writable && !window && C.begin_view(h);
    b->pinned = C.large(h);
    if (b->pinned) C.begin_pin(h);  // the caller has it open, so it does not move
  } catch (const Error&) {
    PyTypeObject* type = Py_TYPE(b);
    PyObject_Free(b);
    Py_DECREF(type);
    throw;
  }
  b->writable = window || b->counted;
  b->start = window ? window->rw + (start - window->start) : b->counted ? C.rw + start : const_cast<u8*>(C.ro) + start;
  b->mapping->users++;
  b->link = nullptr;
  if (S.guest) {
    b->next = buffers;
    b->link = &buffers;
    if (buffers) buffers->link = &b->next;
    buffers = b;
  }
  return reinterpret_cast<PyObject*>(b);
}

void drop_mapping(Mapping* m) {
  if (--m->users) return;
  munmap(m->rw, m->bytes);
  if (m->ro) munmap(m->ro, m->bytes);
  delete m;
}

static int buffer_get(PyObject* self, Py_buffer* view, int flags) {
  auto* b = reinterpret_cast<Buffer*>(self);
  return PyBuffer_FillInfo(view, self, b->start, b->size, !b->writable, flags);
}

static void buffer_dealloc(PyObject* self) {
  auto* b = reinterpret_cast<Buffer*>(self);
  if (current(b->epoch)) {
    try {
      if (b->counted) C.end_view(b->handle);
      if (b->pinned) C.end_pin(b->handle);
      C.release(b->handle);
    } catch (const Error&) {
    }
  }
  if (b->link) {
    *b->link = b->next;
    if (b->next) b->next->link = b->link;
  }
  drop_mapping(b->mapping);
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

static PyType_Slot buffer_slots[] = {
    {Py_tp_dealloc, (void*)buffer_dealloc},
    {Py_bf_getbuffer, (void*)buffer_get},
    {Py_tp_doc, (void*)"Memory of the session's arena."},
    {0, nullptr},
};
static PyType_Spec buffer_spec = {"shoal._core.Buffer", sizeof(Buffer), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, buffer_slots};

static PyMethodDef functions[] = {
    {"_restore_ref", (PyCFunction)(void*)restore, METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

bool ready_refs(PyObject* module) {
  RefType = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&ref_spec));
  BufferType = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&buffer_spec));
  if (!RefType || !BufferType || PyModule_AddFunctions(module, functions) < 0) return false;
  restore_function = PyObject_GetAttrString(module, "_restore_ref");
  return restore_function && PyModule_AddObjectRef(module, "ObjectRef", (PyObject*)RefType) == 0 &&
         PyModule_AddObjectRef(module, "Buffer", (PyObject*)BufferType) == 0;
}

}  // namespace shoal::py
