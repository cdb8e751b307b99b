// Queue and Counter: the Python face of Queue, and of a number in shared memory that changes by single instructions.
#include <sched.h>

#include <algorithm>

#include "bindings.h"

namespace shoal::py {

namespace {

bool queue_arg(PyObject* ref, Queue** q) {
  Handle h;
  if (!live_ref(ref, &h)) return false;
  if (C.entry(h).kind != KIND_QUEUE) return PyErr_SetString(PyExc_TypeError, "this reference is not a queue's"), false;
  *q = C.queue(h);
  return true;
}

struct Watched {
  Queue* q;
  bool get;
};
bool can_go_on(void* p) {
  auto* w = static_cast<Watched*>(p);
  u64 n = w->q->tail.load(std::memory_order_relaxed) - w->q->head.load(std::memory_order_relaxed);
  return w->get ? n > 0 : !w->q->limit || n < w->q->limit;
}

// Until there is an item (or room), or the time is over.
Waited wait_queue(Queue* q, bool get, u64 deadline) {
  Watched w{q, get};
  bool found;
  {
    NoGil nogil;
    found = C.spin(can_go_on, &w);
  }
  if (found) return usable() ? Waited::DONE : Waited::FAILED;
  u32 seen = C.me->ring.load(std::memory_order_seq_cst);
  if (!C.queue_watch(q, get)) return Waited::DONE;
  Blocking blocking;
  blocking.begin();
  return nap(seen, deadline);
}

// queue_put(ref, [values], timeout): how many went in; fewer than all when the time was over
PyObject* queue_put(PyObject*, PyObject* const* args, Py_ssize_t n) {
  u64 deadline;
  bool now;
  Queue* q;
  if (n != 3) return PyErr_SetString(PyExc_TypeError, "queue_put takes 3 arguments"), nullptr;
  if (!queue_arg(args[0], &q) || !parse_timeout(args[2], &deadline, &now)) return nullptr;
  PyObject* seq = PySequence_Fast(args[1], "expected a list");
  if (!seq) return nullptr;
  Py_ssize_t done = 0, all = PySequence_Fast_GET_SIZE(seq);
  bool ok = true, late = false;
  while (ok && !late && done < all) {
    Handle h = guarded([&] { return C.create(KIND_VALUE); }, Handle(0));
    ok = h != 0;
    if (!ok) break;
    ok = store(h, PySequence_Fast_GET_ITEM(seq, done));
    if (ok) C.publish(h, false);
    bool in = false;
    while (ok && !in && !late) {
      ok = guarded([&] { return in = C.queue_put(q, h), true; }, false);
      if (!ok || in) break;
      if (now) {
        late = true;
      } else {
        Waited w = guarded([&] { return wait_queue(q, false, deadline); }, Waited::FAILED);
        ok = w != Waited::FAILED;
        now = w == Waited::TIMEOUT;  // one last try
      }
    }
    if (in) done++;
    else if (S.attached) C.release(h);
  }
  Py_DECREF(seq);
  return ok ? PyLong_FromSsize_t(done) : nullptr;
}

// queue_get(ref, most, timeout): a list of 1 to `most` values; [] when the time was over
PyObject* queue_get(PyObject*, PyObject* const* args, Py_ssize_t n) {
  u64 deadline;
  bool now;
  Queue* q;
  if (n != 3) return PyErr_SetString(PyExc_TypeError, "queue_get takes 3 arguments"), nullptr;
  if (!queue_arg(args[0], &q) || !parse_timeout(args[2], &deadline, &now)) return nullptr;
  Py_ssize_t most = PyLong_AsSsize_t(args[1]);
  if (most == -1 && PyErr_Occurred()) return nullptr;
  PyObject* out = PyList_New(0);
  while (out && PyList_GET_SIZE(out) < most) {
    Handle h = guarded([&] { return C.queue_get(q); }, Handle(0));
    if (PyErr_Occurred()) return Py_DECREF(out), nullptr;
    if (h) {
      PyObject* v = load(h);
      if (S.attached) C.release(h);
      if (!v || PyList_Append(out, v) < 0) {
        Py_XDECREF(v);
        return Py_DECREF(out), nullptr;
      }
      Py_DECREF(v);
      continue;
    }
    if (PyList_GET_SIZE(out) || now) break;
    Waited w = guarded([&] { return wait_queue(q, true, deadline); }, Waited::FAILED);
    if (w == Waited::FAILED) return Py_DECREF(out), nullptr;
    if (w == Waited::TIMEOUT) now = true;
  }
  return out;
}

PyObject* queue_length(PyObject*, PyObject* ref) {
  Queue* q;
  if (!queue_arg(ref, &q)) return nullptr;
  u64 head = q->head.load(), tail = q->tail.load();
  return Py_BuildValue("(KKI)", (unsigned long long)(tail > head ? tail - head : 0), (unsigned long long)tail, q->limit);
}

PyObject* queue_watch(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Queue* q;
  if (n != 2) return PyErr_SetString(PyExc_TypeError, "queue_watch takes 2 arguments"), nullptr;
  if (!queue_arg(args[0], &q)) return nullptr;
  bool get = args[1] == Py_True;
  return guarded([&] { return PyBool_FromLong(C.queue_watch(q, get)); }, nullptr);
}

// new_queue(limit, lock or None)
PyObject* new_queue(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Handle lock = 0;
  if (!arity("new_queue", n, 2)) return nullptr;
  u64 limit = PyLong_AsUnsignedLongLong(args[0]);
  if (PyErr_Occurred() || !usable() || (args[1] != Py_None && !live_ref(args[1], &lock))) return nullptr;
  if (limit > 0x7fffffff) limit = 0;
  Handle h = guarded([&] { return C.create_queue(u32(limit), lock); }, Handle(0));
  return h ? new_ref(h) : nullptr;
}

// container_lock(ref) -> ref of the lock that a list or a dictionary was made with
PyObject* container_lock(PyObject*, PyObject* ref) {
  Handle h;
  if (!live_ref(ref, &h)) return nullptr;
  if ((C.entry(h).kind != KIND_QUEUE && C.entry(h).kind != KIND_TABLE) || !C.payload(h)->nrefs)
    return PyErr_SetString(PyExc_TypeError, "this reference is not that of a container with a lock"), nullptr;
  return guarded([&] { return share_ref(C.refs(h)[0]); }, nullptr);
}

// --------------------------------------------------------------------------------------------- Counter

// The number is the first 8 bytes of a mutable object's first buffer.
struct Counter {
  PyObject_HEAD
  PyObject* ref;
  std::atomic<i64>* word;
};
PyTypeObject* CounterType;
PyObject* counter_function;

std::atomic<i64>* word_of(PyObject* self) {
  auto* c = reinterpret_cast<Counter*>(self);
  auto* r = reinterpret_cast<Ref*>(c->ref);
  Handle h;
  if (S.attached && r->epoch == S.epoch && !C.forked) return c->word;
  return live_ref(c->ref, &h) ? c->word : nullptr;
}

bool number(PyObject* o, i64* v) {
  *v = PyLong_AsLongLong(o);
  return !(*v == -1 && PyErr_Occurred());
}

PyObject* counter_add(PyObject* self, PyObject* const* args, Py_ssize_t n) {
  i64 v = 1;
  if (n > 1) return PyErr_SetString(PyExc_TypeError, "add() takes at most one argument"), nullptr;
  if (n && !number(args[0], &v)) return nullptr;
  auto* w = word_of(self);
  return w ? PyLong_FromLongLong(i64(u64(w->fetch_add(v)) + u64(v))) : nullptr;
}
PyObject* counter_fetch_add(PyObject* self, PyObject* arg) {
  i64 v;
  auto* w = word_of(self);
  return w && number(arg, &v) ? PyLong_FromLongLong(w->fetch_add(v)) : nullptr;
}
PyObject* counter_exchange(PyObject* self, PyObject* arg) {
  i64 v;
  auto* w = word_of(self);
  return w && number(arg, &v) ? PyLong_FromLongLong(w->exchange(v)) : nullptr;
}
PyObject* counter_compare_exchange(PyObject* self, PyObject* const* args, Py_ssize_t n) {
  i64 expected, v;
  if (n != 2) return PyErr_SetString(PyExc_TypeError, "compare_exchange() takes the expected and the new value"), nullptr;
  auto* w = word_of(self);
  if (!w || !number(args[0], &expected) || !number(args[1], &v)) return nullptr;
  return PyBool_FromLong(w->compare_exchange_strong(expected, v));
}
PyObject* counter_get(PyObject* self, void*) {
  auto* w = word_of(self);
  return w ? PyLong_FromLongLong(w->load()) : nullptr;
}
int counter_set(PyObject* self, PyObject* value, void*) {
  i64 v;
  auto* w = word_of(self);
  if (!value) return PyErr_SetString(PyExc_AttributeError, "value cannot be deleted"), -1;
  if (!w || !number(value, &v)) return -1;
  w->store(v);
  return 0;
}
PyObject* counter_statistics(PyObject* self, PyObject*) {
  auto* w = word_of(self);
  return w ? Py_BuildValue("{s:L}", "value", (long long)w->load()) : nullptr;
}
PyObject* counter_int(PyObject* self) { return counter_get(self, nullptr); }
PyObject* counter_repr(PyObject* self) {
  auto* c = reinterpret_cast<Counter*>(self);
  if (!S.attached || reinterpret_cast<Ref*>(c->ref)->epoch != S.epoch) return PyUnicode_FromString("<Counter of an ended session>");
  return PyUnicode_FromFormat("Counter(%lld)", (long long)c->word->load());
}
PyObject* counter_reduce(PyObject* self, PyObject*) { return Py_BuildValue("O(O)", counter_function, reinterpret_cast<Counter*>(self)->ref); }
void counter_dealloc(PyObject* self) {
  Py_XDECREF(reinterpret_cast<Counter*>(self)->ref);
  PyTypeObject* type = Py_TYPE(self);
  PyObject_Free(self);
  Py_DECREF(type);
}

PyObject* make_counter(PyObject*, PyObject* ref) {
  Handle h;
  if (!live_ref(ref, &h)) return nullptr;
  const Entry& e = C.entry(h);
  if (e.kind != KIND_MUTABLE || C.payload(h)->nbuffers < 1 || C.spans(h)[0].size < 8)
    return PyErr_SetString(PyExc_TypeError, "a Counter needs a mutable object of at least 8 bytes"), nullptr;
  Counter* c = PyObject_New(Counter, CounterType);
  if (!c) return nullptr;
  c->ref = Py_NewRef(ref);
  c->word = C.at<std::atomic<i64>>(e.payload + C.spans(h)[0].start);
  return reinterpret_cast<PyObject*>(c);
}

// _counter_at(ref, address): a number inside a mutable object's memory, given by where a view of it lies
PyObject* make_counter_at(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Handle h;
  if (n != 2 || !live_ref(args[0], &h)) return nullptr;
  u64 address = PyLong_AsUnsignedLongLong(args[1]);
  if (PyErr_Occurred()) return nullptr;
  const Entry& e = C.entry(h);
  u64 start = u64(C.rw + e.payload);
  if (e.kind != KIND_MUTABLE || address % 8 || address < start || address + 8 > start + e.size)
    return PyErr_SetString(PyExc_ValueError, "this is no number inside that object"), nullptr;
  Counter* c = PyObject_New(Counter, CounterType);
  if (!c) return nullptr;
  c->ref = Py_NewRef(args[0]);
  c->word = reinterpret_cast<std::atomic<i64>*>(address);
  return reinterpret_cast<PyObject*>(c);
}

PyMethodDef counter_methods[] = {
    {"add", (PyCFunction)(void*)counter_add, METH_FASTCALL, "add($self, n=1, /)\n--\n\nAdds n and returns the new value, in one step that nobody can get into."},
    {"fetch_add", counter_fetch_add, METH_O, "fetch_add($self, n, /)\n--\n\nAdds n and returns the value before."},
    {"exchange", counter_exchange, METH_O, "exchange($self, n, /)\n--\n\nSets the value and returns the one before."},
    {"compare_exchange", (PyCFunction)(void*)counter_compare_exchange, METH_FASTCALL,
     "compare_exchange($self, expected, new, /)\n--\n\nSets the value to new if it is `expected`; says whether it did."},
    {"statistics", counter_statistics, METH_NOARGS, "statistics($self)\n--\n\n`value`, as of this moment."},
    {"__reduce__", counter_reduce, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};
PyGetSetDef counter_getset[] = {{"value", counter_get, counter_set, "the number", nullptr}, {nullptr, nullptr, nullptr, nullptr, nullptr}};
PyType_Slot counter_slots[] = {
    {Py_tp_dealloc, (void*)counter_dealloc}, {Py_tp_repr, (void*)counter_repr}, {Py_tp_methods, counter_methods},
    {Py_tp_getset, counter_getset},          {Py_nb_int, (void*)counter_int},   {Py_nb_index, (void*)counter_int},
    {Py_tp_doc, (void*)"A 64-bit number that all participants change without a lock; made by shoal.Counter()."},
    {0, nullptr},
};
PyType_Spec counter_spec = {"shoal._core.Counter", sizeof(Counter), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, counter_slots};

// ---------------------------------------------------------------------------------------- List and Dict

Handle make_item(PyObject* value) {
  Handle h = guarded([&] { return C.create(KIND_VALUE); }, Handle(0));
  if (h && !store(h, value)) {
    C.release(h);
    return 0;
  }
  if (h) C.publish(h, false);
  return h;
}

// The value of an item in our hands, which we let go of. No item: NotImplemented.
PyObject* take_value(Handle h) {
  if (PyErr_Occurred()) return nullptr;
  if (!h) return Py_NewRef(Py_NotImplemented);
  PyObject* v = load(h);
  if (S.attached) C.release(h);
  return v;
}

// Takes out the first item that is equal to `value`; says whether there was one. What is compared is what is taken out.
PyObject* list_remove(PyObject* ref, PyObject* value) {
  for (i64 i = 0;;) {
    Queue* q;
    if (!queue_arg(ref, &q)) return nullptr;
    Handle h = guarded([&] { return C.queue_at(q, i); }, Handle(0)), taken = 0;
    if (PyErr_Occurred()) return nullptr;
    if (!h) Py_RETURN_FALSE;
    u32 epoch = S.epoch;
    PyObject* v = load(h);
    int equal = v ? PyObject_RichCompareBool(v, value, Py_EQ) : -1;  // which may do anything, ending the session too
    Py_XDECREF(v);
    if (equal > 0 && queue_arg(ref, &q)) taken = guarded([&] { return C.queue_pop(q, i, h); }, Handle(0));
    if (S.attached && S.epoch == epoch && !C.forked) {
      C.release(h);
      if (taken) C.release(taken);
    }
    if (equal < 0 || PyErr_Occurred()) return nullptr;
    if (taken) Py_RETURN_TRUE;
    i = equal ? 0 : i + 1;  // equal, but somebody has moved it: from the beginning
  }
}

// The places that `function` gives for a list of all values, each once; -1: an error.
bool order_of(PyObject* values, PyObject* function, std::vector<Py_ssize_t>& places) {
  Py_ssize_t n = PyList_GET_SIZE(values);
  PyObject* order = PyObject_CallOneArg(function, values);
  PyObject* list = order ? PySequence_Tuple(order) : nullptr;
  Py_XDECREF(order);
  if (!list) return false;
  std::vector<bool> seen(size_t(n), false);
  bool ok = PyTuple_GET_SIZE(list) == n;
  for (Py_ssize_t i = 0; ok && i < n; i++) {
    Py_ssize_t k = PyLong_AsSsize_t(PyTuple_GET_ITEM(list, i));
    ok = k >= 0 && k < n && !seen[size_t(k)];
    if (ok) seen[size_t(k)] = true, places.push_back(k);
  }
  Py_DECREF(list);
  if (!ok && !PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "an order has each place once");
  return ok;
}

// Puts the items into the order that `function` says, in one step; begins again if the list changes meanwhile.
PyObject* list_order(PyObject* ref, PyObject* function) {
  for (bool done = false; !done;) {
    Queue* q;
    if (!queue_arg(ref, &q)) return nullptr;
    u32 epoch = S.epoch;
    std::vector<Handle> before, after;
    PyObject* values = PyList_New(0);
    bool ok = values;
    while (ok) {
      Handle h = guarded([&] { return C.queue_at(q, i64(before.size())); }, Handle(0));
      ok = !PyErr_Occurred();
      if (!ok || !h) break;
      before.push_back(h);
      PyObject* v = load(h);
      ok = v && PyList_Append(values, v) == 0;
      Py_XDECREF(v);
      ok = ok && queue_arg(ref, &q);  // unpickling may do anything
    }
    std::vector<Py_ssize_t> places;
    ok = ok && order_of(values, function, places) && queue_arg(ref, &q);
    Py_XDECREF(values);
    for (Py_ssize_t k : places) after.push_back(before[size_t(k)]);
    ok = ok && guarded([&] { return done = C.queue_reorder(q, before, after), true; }, false);
    if (S.attached && S.epoch == epoch && !C.forked)
      for (Handle h : before) C.release(h);
    if (!ok) return nullptr;
    if (!done && !run_handlers()) return nullptr;
  }
  Py_RETURN_NONE;
}

// list_op(ref, op, index, value): "at", "pop" -> the value or NotImplemented; "set", "insert" -> whether it could be done;
// "remove" -> whether it was there; "order": value is a function
PyObject* list_op(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Queue* q;
  if (n != 4) return PyErr_SetString(PyExc_TypeError, "list_op takes 4 arguments"), nullptr;
  if (!queue_arg(args[0], &q)) return nullptr;
  const char* op = PyUnicode_AsUTF8(args[1]);
  i64 index;
  if (!op || !number(args[2], &index)) return nullptr;
  switch (op[0]) {
    case 'a': return take_value(guarded([&] { return C.queue_at(q, index); }, Handle(0)));
    case 'p': return take_value(guarded([&] { return C.queue_pop(q, index); }, Handle(0)));
    case 'c': return guarded([&] { return C.queue_clear(q), Py_NewRef(Py_None); }, nullptr);
    case 'r': return list_remove(args[0], args[3]);
    case 'o': return list_order(args[0], args[3]);
  }
  Handle h = make_item(args[3]);
  if (!h) return nullptr;
  bool done = false;
  bool ok = guarded([&] { return done = op[0] == 's' ? C.queue_set(q, index, h) : C.queue_insert(q, index, h), true; }, false);
  if (!done) C.release(h);
  return ok ? PyBool_FromLong(done) : nullptr;
}

PyObject* new_table(PyObject*, PyObject* lock_ref) {
  Handle lock;
  if (!live_ref(lock_ref, &lock)) return nullptr;
  Handle h = guarded([&] { return C.create_table(lock); }, Handle(0));
  return h ? new_ref(h) : nullptr;
}

u64 hash_bytes(const char* p, Py_ssize_t n) {
  u64 x = 1469598103934665603ull;  // FNV-1a, then mixed
  for (Py_ssize_t i = 0; i < n; i++) x = (x ^ u8(p[i])) * 1099511628211ull;
  return (x ^ x >> 29) * 0xbf58476d1ce4e5b9ull ^ x >> 32;
}

// table_op(ref, op, key bytes, value): "get", "pop" -> the value or NotImplemented; "set", "default" -> whether it went in;
// "keys" -> their bytes; "length"; "fF", "fL" (first, last) -> (key bytes, value), taken out, or None
PyObject* table_op(PyObject*, PyObject* const* args, Py_ssize_t n) {
  Handle h;
  if (n != 4) return PyErr_SetString(PyExc_TypeError, "table_op takes 4 arguments"), nullptr;
  if (!live_ref(args[0], &h)) return nullptr;
  if (C.entry(h).kind != KIND_TABLE) return PyErr_SetString(PyExc_TypeError, "this reference is not a dictionary's"), nullptr;
  Table* t = C.table(h);
  const char* op = PyUnicode_AsUTF8(args[1]);
  if (!op) return nullptr;
  std::string_view key;
  u64 hash = 0;
  if (PyBytes_Check(args[2])) {
    key = {PyBytes_AS_STRING(args[2]), size_t(PyBytes_GET_SIZE(args[2]))};
    hash = hash_bytes(key.data(), Py_ssize_t(key.size()));
  }
  switch (op[0]) {
    case 'g': return take_value(guarded([&] { return C.table_get(t, hash, key); }, Handle(0)));
    case 'p': return take_value(guarded([&] { return C.table_pop(t, hash, key); }, Handle(0)));
    case 'f': {
      std::string name;
      Handle value = 0;
      if (!guarded([&] { return C.table_pop_end(t, op[1] == 'L', &name, &value), true; }, false)) return nullptr;
      if (!value) Py_RETURN_NONE;
      PyObject* v = take_value(value);
      return v ? Py_BuildValue("(y#N)", name.data(), Py_ssize_t(name.size()), v) : nullptr;
    }
    case 'k': {
      std::vector<std::string> keys;
      if (!guarded([&] { return keys = C.table_keys(t), true; }, false)) return nullptr;
      PyObject* out = PyList_New(Py_ssize_t(keys.size()));
      for (size_t i = 0; out && i < keys.size(); i++)
        PyList_SET_ITEM(out, Py_ssize_t(i), PyBytes_FromStringAndSize(keys[i].data(), Py_ssize_t(keys[i].size())));
      return out;
    }
    case 'l': return PyLong_FromUnsignedLongLong(t->count.load());
  }
  Handle value = make_item(args[3]);
  if (!value) return nullptr;
  bool done = false;
  bool ok = guarded([&] { return done = C.table_set(t, hash, key, value, op[0] == 's'), true; }, false);
  if (!done) C.release(value);
  return ok ? PyBool_FromLong(done) : nullptr;
}

PyObject* fence(PyObject*, PyObject*) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  Py_RETURN_NONE;
}

// ring_claim(claimed, skipped, stamp of place 0, capacity, count) -> the numbers of `count` records to be written by us,
// as the bytes of 64-bit integers. Numbers whose places are just being written by others are skipped.
PyObject* ring_claim(PyObject*, PyObject* const* args, Py_ssize_t n) {
  i64 capacity, count;
  if (n != 5) return PyErr_SetString(PyExc_TypeError, "ring_claim takes 5 arguments"), nullptr;
  std::atomic<i64>* words[3];
  for (int i = 0; i < 3; i++) {
    if (Py_TYPE(args[i]) != CounterType) return PyErr_SetString(PyExc_TypeError, "ring_claim takes counters"), nullptr;
    if (!(words[i] = word_of(args[i]))) return nullptr;
  }
  if (!number(args[3], &capacity) || !number(args[4], &count)) return nullptr;
  std::vector<i64> numbers;
  numbers.reserve(size_t(count));
  for (i64 tried = 0; i64(numbers.size()) < count;) {
    i64 want = count - i64(numbers.size());
    i64 first = words[0]->fetch_add(want), got = 0;
    for (i64 k = first; k < first + want; k++) {
      if (C.ring_claim(words[2][k % capacity], k)) numbers.push_back(k), got++;
    }
    if (got < want) words[1]->fetch_add(want - got);
    tried += want;
    if (tried >= capacity && !got) {  // every place is being written
      if (!run_handlers()) break;
      {
        NoGil nogil;
        sched_yield();
      }
      if (!usable()) break;
    }
  }
  if (!PyErr_Occurred()) return PyBytes_FromStringAndSize(reinterpret_cast<char*>(numbers.data()), Py_ssize_t(numbers.size() * 8));
  if (S.attached)
    for (i64 k : numbers) words[2][k % capacity].store(0);
  return nullptr;
}

PyMethodDef functions[] = {
    {"ring_claim", (PyCFunction)(void*)ring_claim, METH_FASTCALL, nullptr},
    {"list_op", (PyCFunction)(void*)list_op, METH_FASTCALL, nullptr},
    {"table_op", (PyCFunction)(void*)table_op, METH_FASTCALL, nullptr},
    {"new_table", new_table, METH_O, nullptr},
    {"container_lock", container_lock, METH_O, nullptr},
    {"fence", fence, METH_NOARGS, nullptr},
    {"queue_put", (PyCFunction)(void*)queue_put, METH_FASTCALL, nullptr},
    {"queue_get", (PyCFunction)(void*)queue_get, METH_FASTCALL, nullptr},
    {"queue_watch", (PyCFunction)(void*)queue_watch, METH_FASTCALL, nullptr},
    {"queue_length", queue_length, METH_O, nullptr},
    {"new_queue", (PyCFunction)(void*)new_queue, METH_FASTCALL, nullptr},
    {"_counter_at", (PyCFunction)(void*)make_counter_at, METH_FASTCALL, nullptr},
    {"_counter", make_counter, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

bool ready_containers(PyObject* module) {
  CounterType = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&counter_spec));
  if (!CounterType || PyModule_AddFunctions(module, functions) < 0) return false;
  counter_function = PyObject_GetAttrString(module, "_counter");
  return counter_function && PyModule_AddObjectRef(module, "Counter", (PyObject*)CounterType) == 0;
}

}  // namespace shoal::py
