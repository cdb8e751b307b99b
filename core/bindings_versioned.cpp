// VersionedCell: the Python face of a Cell; shoal.Versioned is its subclass. Draft: the next version while it is made.
#include <memory>
#include <optional>
#include <unordered_set>
#include <utility>

#include "bindings.h"

namespace shoal::py {

namespace {

constexpr u64 META_SLACK = 512;  // a draft's pickle may grow by so much and still go into its place

// What get() returned last, as a plan by which to make it once more: containers are made anew, numbers and short strings
// are kept, and of arrays there are weak references to those behind the views that went out. So nothing here keeps a
// version alive; the plan works for as long as somebody holds all its arrays, and saves the unpickling.
struct Plan {
  enum Kind { VALUE, ARRAY, DICT, LIST, TUPLE } kind = VALUE;
  PyObject* object = nullptr;  // VALUE: itself; ARRAY: a weak reference
  std::vector<Plan> parts;     // DICT: key, value, key, value, ...
  Plan() = default;
  Plan(Plan&& o) noexcept : kind(o.kind), object(std::exchange(o.object, nullptr)), parts(std::move(o.parts)) {}
  ~Plan() { Py_XDECREF(object); }
};
constexpr size_t PLAN_PARTS = 512;
constexpr Py_ssize_t PLAN_TEXT = 1024;

struct Versioned {
  PyObject_HEAD
  PyObject* ref;   // keeps the cell alive
  PyObject* name;
  std::shared_ptr<Plan> plan;  // of version `seen_version`, or none
  Cell* cell;
  Handle seen;     // the object of version `seen_version`; valid while this process holds it
  u64 seen_version;
  u32 loads;       // of that version, see worth_a_plan()
};
struct Draft {
  PyObject_HEAD
  PyObject* value;
  Mapping* window;
  Handle handle;   // being made, held by us; 0: it is over
  u64 meta_room;
  u32 epoch;
};
PyTypeObject *VersionedType, *DraftType;
PyTypeObject* ndarray = nullptr;  // once NumPy has been seen
PyObject* view_name;

bool live(Versioned* v) {
  Handle h;
  return live_ref(v->ref, &h);
}

// One more reference of this process to the newest version. If the version is the one we saw last and we still hold its
// object, the answer is known without a lock: a handle is never used twice, and what we hold cannot be freed.
Handle newest(Versioned* v, u64* version) {
  u64 now = v->cell->version.load(std::memory_order_acquire);
  u32 i = index_of(v->seen);
  if (now == v->seen_version && v->seen && C.local[i] && C.handle_of(i) == v->seen) {
    C.local[i]++;
    *version = now;
    return v->seen;
  }
  v->seen = C.cell_acquire(v->cell, version);
  if (v->seen_version != *version) v->loads = 0;
  v->seen_version = *version;
  return v->seen;
}

PyObject* weak_target(PyObject* weak) {  // new reference, or nullptr without an exception
#if PY_VERSION_HEX >= 0x030d0000
  PyObject* o = nullptr;
  if (PyWeakref_GetRef(weak, &o) < 0) PyErr_Clear();
  return o;
#else
  PyObject* o = PyWeakref_GetObject(weak);
  return o == Py_None ? nullptr : Py_NewRef(o);
#endif
}

// The plan for `value`, and the value itself with views in the place of its arrays. nullptr: there can be none (an
// exception may be set; `value` is as good as before).
PyObject* make_plan(PyObject* value, Plan& plan, std::unordered_set<PyObject*>& seen) {
  PyTypeObject* type = Py_TYPE(value);
  bool text = (type == &PyUnicode_Type && PyUnicode_GET_LENGTH(value) <= PLAN_TEXT) ||
              (type == &PyBytes_Type && PyBytes_GET_SIZE(value) <= PLAN_TEXT);
  if (value == Py_None || type == &PyBool_Type || type == &PyLong_Type || type == &PyFloat_Type || text) {
    plan.object = Py_NewRef(value);
    return Py_NewRef(value);
  }
  // What occurs twice would come out as two things.
  if (!seen.insert(value).second || seen.size() > PLAN_PARTS) return nullptr;
  if (!ndarray && !std::strcmp(type->tp_name, "numpy.ndarray"))
    ndarray = reinterpret_cast<PyTypeObject*>(Py_NewRef(reinterpret_cast<PyObject*>(type)));
  if (type == ndarray) {
    plan.kind = Plan::ARRAY;
    plan.object = PyWeakref_NewRef(value, nullptr);
    return plan.object ? PyObject_CallMethodNoArgs(value, view_name) : nullptr;
  }
  PyObject* copy = nullptr;
  if (type == &PyDict_Type) {
    plan.kind = Plan::DICT;
    copy = PyDict_New();
    PyObject *key, *part;
    for (Py_ssize_t at = 0; copy && PyDict_Next(value, &at, &key, &part);) {
      Plan k, p;
      bool plain = PyUnicode_CheckExact(key) || PyLong_CheckExact(key);
      PyObject* made = plain ? make_plan(part, p, seen) : nullptr;
      k.object = Py_NewRef(key);
      plan.parts.push_back(std::move(k));
      plan.parts.push_back(std::move(p));
      if (!made || PyDict_SetItem(copy, key, made) < 0) Py_CLEAR(copy);
      Py_XDECREF(made);
    }
  } else if (type == &PyList_Type || type == &PyTuple_Type) {
    plan.kind = type == &PyList_Type ? Plan::LIST : Plan::TUPLE;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(value);
    copy = type == &PyList_Type ? PyList_New(n) : PyTuple_New(n);
    for (Py_ssize_t i = 0; copy && i < n; i++) {
      Plan p;
      PyObject* made = make_plan(PySequence_Fast_GET_ITEM(value, i), p, seen);
      plan.parts.push_back(std::move(p));
      if (!made) Py_CLEAR(copy);
      else if (type == &PyList_Type) PyList_SET_ITEM(copy, i, made);
      else PyTuple_SET_ITEM(copy, i, made);
    }
  }
  return copy;
}

// nullptr: some array is gone (or an exception is set).
PyObject* follow(const Plan& plan) {
  PyObject* out = nullptr;
  switch (plan.kind) {
    case Plan::VALUE: return Py_NewRef(plan.object);
    case Plan::ARRAY: {
      PyObject* array = weak_target(plan.object);
      if (array) out = PyObject_CallMethodNoArgs(array, view_name);
      Py_XDECREF(array);
      return out;
    }
    case Plan::DICT:
      out = PyDict_New();
      for (size_t i = 0; out && i < plan.parts.size(); i += 2) {
        PyObject* part = follow(plan.parts[i + 1]);
        if (!part || PyDict_SetItem(out, plan.parts[i].object, part) < 0) Py_CLEAR(out);
        Py_XDECREF(part);
      }
      return out;
    default: {
      bool list = plan.kind == Plan::LIST;
      out = list ? PyList_New(Py_ssize_t(plan.parts.size())) : PyTuple_New(Py_ssize_t(plan.parts.size()));
      for (size_t i = 0; out && i < plan.parts.size(); i++) {
        PyObject* part = follow(plan.parts[i]);
        if (!part) Py_CLEAR(out);
        else if (list) PyList_SET_ITEM(out, Py_ssize_t(i), part);
        else PyTuple_SET_ITEM(out, Py_ssize_t(i), part);
      }
      return out;
    }
  }
}

// A plan costs about as much as it saves once, and is lost when the arrays are dropped: it is made at the second load of
// a version, and now and then again.
bool worth_a_plan(u32 loads) { return loads < 64 ? loads > 1 && !(loads & (loads - 1)) : loads % 64 == 0; }

PyObject* get_newest(Versioned* v, u64* version) {
  if (!live(v)) return nullptr;
  if (v->plan && v->cell->version.load(std::memory_order_acquire) == v->seen_version) {
    std::shared_ptr<Plan> plan = v->plan;  // what follows may run other code, which may get() a newer version
    *version = v->seen_version;
    if (PyObject* value = follow(*plan)) return value;
    if (PyErr_Occurred()) return nullptr;
  }
  v->plan.reset();
  Handle h = guarded([&] { return newest(v, version); }, Handle(0));
  if (!h) return nullptr;
  u32 epoch = S.epoch;
  PyObject* value = load(h);
  if (current(epoch)) {
    try {
      C.release(h);
    } catch (const Error&) {
    }
  }
  if (value && v->seen == h && v->seen_version == *version && worth_a_plan(++v->loads)) {
    auto plan = std::make_shared<Plan>();
    std::unordered_set<PyObject*> seen;
    PyObject* views = make_plan(value, *plan, seen);
    if (!views && PyErr_Occurred()) PyErr_Clear();
    if (views) {
      Py_SETREF(value, views);
      if (v->seen == h && v->seen_version == *version) v->plan = std::move(plan);
    }
  }
  return value;
}

PyObject* make(PyTypeObject* type, PyObject* args, PyObject*) {
  PyObject *ref, *name = Py_None;
  Handle h;
  if (!PyArg_ParseTuple(args, "O|O", &ref, &name) || !live_ref(ref, &h)) return nullptr;
  if (C.entry(h).kind != KIND_VERSIONED) return PyErr_SetString(PyExc_TypeError, "this reference is not a Versioned's"), nullptr;
  auto* v = reinterpret_cast<Versioned*>(type->tp_alloc(type, 0));
  if (!v) return nullptr;
  v->ref = Py_NewRef(ref);
  v->name = Py_NewRef(name);
  v->cell = C.cell(h);
  new (&v->plan) std::shared_ptr<Plan>();
  return reinterpret_cast<PyObject*>(v);
}

void dealloc(PyObject* self) {
  auto* v = reinterpret_cast<Versioned*>(self);
  Py_XDECREF(v->ref);
  Py_XDECREF(v->name);
  v->plan.~shared_ptr();
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyObject* py_get(PyObject* self, PyObject*) {
  u64 version;
  return get_newest(reinterpret_cast<Versioned*>(self), &version);
}

PyObject* py_get_with_version(PyObject* self, PyObject*) {
  u64 version = 0;
  PyObject* value = get_newest(reinterpret_cast<Versioned*>(self), &version);
  return value ? Py_BuildValue("NK", value, (unsigned long long)version) : nullptr;
}

PyObject* py_version(PyObject* self, void*) {
  auto* v = reinterpret_cast<Versioned*>(self);
  if (!live(v)) return nullptr;
  return guarded([&] { return PyLong_FromUnsignedLongLong(C.cell_version(v->cell)); }, nullptr);
}

bool parse_version(PyObject* o, u64* out) {
  if (!PyLong_Check(o)) return PyErr_Format(PyExc_TypeError, "a version is an integer, not %R", o), false;
  *out = PyLong_AsUnsignedLongLong(o);
  return !PyErr_Occurred();
}

// Publishes h, which is finished, and gives our reference to it away. -> the version it got, or the negative number - 1 of
// the one that was there instead
PyObject* publish(Versioned* v, Handle h, const u64* expected) {
  u64 version = 0;
  bool done = false;
  bool ok = guarded([&] {
    done = C.cell_publish(v->cell, h, expected, &version);
    if (!done) C.release(h);
    return true;
  }, false);
  return ok ? PyLong_FromLongLong(done ? i64(version) : -1 - i64(version)) : nullptr;
}

// _publish(value, expected version or None) -> see publish()
PyObject* py_publish(PyObject* self, PyObject* const* args, Py_ssize_t n) {
  auto* v = reinterpret_cast<Versioned*>(self);
  if (n != 2) return PyErr_SetString(PyExc_TypeError, "_publish takes 2 arguments"), nullptr;
  u64 expected = 0;
  bool compare = args[1] != Py_None;
  if (!live(v) || (compare && !parse_version(args[1], &expected))) return nullptr;
  if (compare) {  // spares the copy, if it is too late already
    PyObject* now = py_version(self, nullptr);
    if (!now) return nullptr;
    u64 version = PyLong_AsUnsignedLongLong(now);
    Py_DECREF(now);
    if (version != expected) return PyLong_FromLongLong(-1 - i64(version));
  }
  Handle h = guarded([] { return C.create(KIND_VALUE); }, Handle(0));
  if (!h) return nullptr;
  if (!store(h, args[0])) return C.release(h), nullptr;
  C.publish(h, false);
  return publish(v, h, compare ? &expected : nullptr);
}

// _watch(newer than) -> the version if it is newer; else None, and this process is rung when one comes
PyObject* py_watch(PyObject* self, PyObject* arg) {
  auto* v = reinterpret_cast<Versioned*>(self);
  u64 newer_than;
  if (!live(v) || !parse_version(arg, &newer_than)) return nullptr;
  return guarded([&]() -> PyObject* {
    u64 version = C.cell_watch(v->cell, newer_than);
    if (!version) Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(version);
  }, nullptr);
}

struct Newer {
  Cell* cell;
  u64 than;
};
bool looks_newer(void* p) {
  auto* n = static_cast<Newer*>(p);
  return n->cell->version.load(std::memory_order_acquire) > n->than;
}

// wait(newer_than=None, timeout=None)
PyObject* py_wait(PyObject* self, PyObject* args, PyObject* kwargs) {
  static const char* names[] = {"newer_than", "timeout", nullptr};
  auto* v = reinterpret_cast<Versioned*>(self);
  PyObject *newer = Py_None, *timeout = Py_None;
  u64 deadline;
  bool now;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:wait", const_cast<char**>(names), &newer, &timeout)) return nullptr;
  if (!live(v) || !parse_timeout(timeout, &deadline, &now)) return nullptr;
  Newer want{v->cell, 0};
  if (newer != Py_None && !parse_version(newer, &want.than)) return nullptr;
  PyObject* keep = Py_NewRef(self);  // other threads run meanwhile
  PyObject* result = nullptr;
  try {
    if (newer == Py_None) want.than = C.cell_version(v->cell);
    Blocking blocking;
    for (;;) {
      u32 seen = C.me->ring.load(std::memory_order_seq_cst);
      u64 version = C.cell_version(v->cell);
      if (version > want.than) {
        result = PyLong_FromUnsignedLongLong(version);
        break;
      }
      if (now) {
        result = Py_NewRef(Py_None);
        break;
      }
      bool found;
      {
        NoGil nogil;
        found = C.spin(looks_newer, &want);
      }
      if (!usable()) break;
      if (found) continue;  // what was seen without the lock is only a hint
      version = C.cell_watch(v->cell, want.than);
      if (version) continue;
      blocking.begin();
      Waited w = nap(seen, deadline);
      if (w == Waited::FAILED) break;
      now = w == Waited::TIMEOUT;
    }
  } catch (const Error& e) {
    set_error(e);
  }
  Py_DECREF(keep);
  return result;
}

// ---------------------------------------------------------------------------------------------- drafts

// _draft(value) -> a Draft: an object in the making with the same contents, and a value whose arrays lie in it
PyObject* py_draft(PyObject* self, PyObject* value) {
  if (!live(reinterpret_cast<Versioned*>(self))) return nullptr;
  std::optional<Collector> c(std::in_place);
  PyObject* pair = PyObject_CallOneArg(S.serialize, value);
  if (!pair) return nullptr;
  PyObject *meta = PyTuple_GET_ITEM(pair, 0), *buffers = PyTuple_GET_ITEM(pair, 1);
  Draft* d = nullptr;
  Handle h = !live(reinterpret_cast<Versioned*>(self)) ? 0 : guarded([] { return C.create(KIND_VALUE); }, Handle(0));
  if (h) {
    // pickle.loads() ignores what follows the end of a pickle: room for a longer one.
    u64 size = u64(PyBytes_GET_SIZE(meta)), room = size + META_SLACK;
    PyObject* padded = PyBytes_FromStringAndSize(nullptr, Py_ssize_t(room));
    if (padded) {
      std::memcpy(PyBytes_AS_STRING(padded), PyBytes_AS_STRING(meta), size);
      std::memset(PyBytes_AS_STRING(padded) + size, 0, META_SLACK);
    }
    Mapping* window = nullptr;
    if (padded && fill_pickle(h, padded, buffers, *c)) window = guarded([&] { return open_window(h, false); }, window);
    Py_XDECREF(padded);
    c.reset();
    if (window && (d = PyObject_New(Draft, DraftType))) {
      d->window = window;
      d->handle = h;
      d->meta_room = room;
      d->epoch = S.epoch;
      d->value = load(h, window);
      if (!d->value) Py_CLEAR(d);
    } else {
      if (window) drop_mapping(window);
      C.release(h);
    }
  }
  Py_DECREF(pair);
  return reinterpret_cast<PyObject*>(d);
}

// Nobody reaches the object through the draft's arrays any more; what is left of it is ours to publish or drop.
bool close_draft(Draft* d) {
  return guarded([&] { return make_private(d->window), true; }, false);
}

void end_draft(Draft* d) {
  Handle h = d->handle;
  d->handle = 0;
  if (!h || !current(d->epoch)) return;
  try {
    // Whoever still has an array of it keeps it alive: then it is an object like any other, which nobody else knows.
    if (C.entry(h).state.load() == ENTRY_CREATING) C.publish(h, false);
    C.release(h);
  } catch (const Error&) {
  }
}

// Are the draft's buffers where they were, or at least as many and as large? Then the object becomes what the draft is.
bool settle_in_place(Draft* d, PyObject* meta, PyObject* buffers, Collector& c) {
  Handle h = d->handle;
  Payload* p = C.payload(h);
  BufferSpan* spans = C.spans(h);
  u64 size = u64(PyBytes_GET_SIZE(meta));
  Py_ssize_t n = PyList_GET_SIZE(buffers);
  if (size > d->meta_room || u64(n) != p->nbuffers || c.refs.size() != p->nrefs) return false;
  for (size_t i = 0; i < c.refs.size(); i++)
    if (reinterpret_cast<Ref*>(c.refs[i])->handle != C.refs(h)[i]) return false;
  Offset base = C.entry(h).payload;
  std::vector<const u8*> elsewhere(size_t(n), nullptr);
  for (Py_ssize_t i = 0; i < n; i++) {
    Py_buffer view;
    if (PyObject_GetBuffer(PyList_GET_ITEM(buffers, i), &view, PyBUF_ANY_CONTIGUOUS) != 0) return PyErr_Clear(), false;
    auto* at = static_cast<const u8*>(view.buf);
    bool same_size = u64(view.len) == spans[i].size;
    PyBuffer_Release(&view);  // the list keeps the memory
    if (!same_size) return false;
    if (at == d->window->rw + (base + spans[i].start - d->window->start)) continue;
    if (at < d->window->rw + d->window->bytes && at + spans[i].size > d->window->rw) return false;  // arrays changed places
    elsewhere[size_t(i)] = at;
  }
  for (Py_ssize_t i = 0; i < n; i++)
    if (elsewhere[size_t(i)]) copy_large(C.rw + base + spans[i].start, elsewhere[size_t(i)], spans[i].size);
  std::memcpy(C.rw + base + p->meta, PyBytes_AS_STRING(meta), size);
  p->meta_size = size;
  return true;
}

// _publish_draft(draft, expected version or None) -> as _publish()
PyObject* py_publish_draft(PyObject* self, PyObject* const* args, Py_ssize_t n) {
  auto* v = reinterpret_cast<Versioned*>(self);
  if (n != 2 || Py_TYPE(args[0]) != DraftType)
    return PyErr_SetString(PyExc_TypeError, "_publish_draft takes a draft and a version"), nullptr;
  auto* d = reinterpret_cast<Draft*>(args[0]);
  u64 expected = 0;
  bool compare = args[1] != Py_None;
  if (!live(v) || (compare && !parse_version(args[1], &expected))) return nullptr;
  if (!d->handle) return PyErr_SetString(PyExc_RuntimeError, "this draft is over already"), nullptr;
  // First the walls, then the look: what is pickled now cannot change any more through another thread's array.
  if (!close_draft(d)) return nullptr;
  Collector c;
  PyObject* pair = PyObject_CallOneArg(S.serialize, d->value);
  PyObject* r = nullptr;
  if (pair && live(v) && d->handle) {  // pickling runs Python, which may do anything
    if (settle_in_place(d, PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1), c)) {
      C.publish(d->handle, false);
      r = publish(v, std::exchange(d->handle, 0), compare ? &expected : nullptr);
    } else if (Handle h = make_object(PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1), c)) {
      r = publish(v, h, compare ? &expected : nullptr);
    }
  } else if (pair && !PyErr_Occurred()) {
    PyErr_SetString(PyExc_RuntimeError, "this draft is over already");
  }
  Py_XDECREF(pair);
  end_draft(d);
  return r;
}

PyObject* draft_discard(PyObject* self, PyObject*) {
  auto* d = reinterpret_cast<Draft*>(self);
  if (d->handle && usable() && !close_draft(d)) return nullptr;
  end_draft(d);
  Py_RETURN_NONE;
}

void draft_dealloc(PyObject* self) {
  auto* d = reinterpret_cast<Draft*>(self);
  Py_XDECREF(d->value);
  end_draft(d);
  drop_mapping(d->window);
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

PyObject* draft_take(PyObject* self, PyObject*) { return Py_NewRef(reinterpret_cast<Draft*>(self)->value); }

PyMethodDef draft_methods[] = {
    {"value", draft_take, METH_NOARGS, nullptr},
    {"discard", draft_discard, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyType_Slot draft_slots[] = {{Py_tp_dealloc, (void*)draft_dealloc}, {Py_tp_methods, draft_methods}, {0, nullptr}};
PyType_Spec draft_spec = {"shoal._core.Draft", sizeof(Draft), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                          draft_slots};

// _new_versioned(value) -> ref of a cell
PyObject* new_versioned(PyObject*, PyObject* value) {
  if (!usable()) return nullptr;
  Handle first = guarded([] { return C.create(KIND_VALUE); }, Handle(0)), h = 0;
  if (!first) return nullptr;
  if (store(first, value)) {
    C.publish(first, false);
    h = guarded([&] { return C.create_cell(first); }, Handle(0));
  }
  C.release(first);
  return h ? new_ref(h) : nullptr;
}

PyMethodDef methods[] = {
    {"get", py_get, METH_NOARGS,
     "get($self)\n--\n\nThe newest complete version.\n\n"
     "Its arrays are read-only views of the shared memory, without a copy. They never change, and the version lives, for\n"
     "as long as you hold any of them; to see a newer version call get() again. Waits for nobody: about a microsecond."},
    {"get_with_version", py_get_with_version, METH_NOARGS,
     "get_with_version($self)\n--\n\n(value, version): get(), and which version it is."},
    {"wait", (PyCFunction)(void*)py_wait, METH_VARARGS | METH_KEYWORDS,
     "wait($self, newer_than=None, timeout=None)\n--\n\n"
     "Waits for a version newer than `newer_than` (default: than the present one) and returns the number of the newest,\n"
     "or None if there was none within `timeout` seconds (None: no limit; 0: only look)."},
    {"_publish", (PyCFunction)(void*)py_publish, METH_FASTCALL, nullptr},
    {"_watch", py_watch, METH_O, nullptr},
    {"_draft", py_draft, METH_O, nullptr},
    {"_publish_draft", (PyCFunction)(void*)py_publish_draft, METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyMemberDef members[] = {
    {"_ref", T_OBJECT, offsetof(Versioned, ref), READONLY, nullptr},
    {"name", T_OBJECT, offsetof(Versioned, name), READONLY, "what it was asked for by, or None"},
    {nullptr, 0, 0, 0, nullptr},
};
PyGetSetDef getset[] = {
    {"version", py_version, nullptr, "number of the newest version: 0 at first, one more with each publication", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};
PyType_Slot slots[] = {
    {Py_tp_new, (void*)make}, {Py_tp_dealloc, (void*)dealloc}, {Py_tp_methods, methods},
    {Py_tp_members, members}, {Py_tp_getset, getset},          {0, nullptr},
};
PyType_Spec spec = {"shoal._core.VersionedCell", sizeof(Versioned), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};

PyMethodDef functions[] = {
    {"_new_versioned", new_versioned, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool ready_versioned(PyObject* module) {
  VersionedType = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  DraftType = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&draft_spec));
  view_name = PyUnicode_InternFromString("view");
  return VersionedType && DraftType && view_name && PyModule_AddFunctions(module, functions) == 0 &&
         PyModule_AddObjectRef(module, "VersionedCell", (PyObject*)VersionedType) == 0 &&
         PyModule_AddObjectRef(module, "Draft", (PyObject*)DraftType) == 0;
}

}  // namespace shoal::py
