// The spill file, and how a process waits for memory.
#include <fcntl.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstdlib>

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

PyMethodDef functions[] = {
    {"_open_spill_file", open_file, METH_O, nullptr},
    {"_use_spill_file", use_file, METH_O, nullptr},
    {"_spill", spill, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

void ready_pressure() {
  C.pause = [](u32 seen, u64 deadline) {
    Blocking blocking;
    blocking.begin();
    if (nap(seen, deadline) == Waited::FAILED) throw Error(Error::RAISED, "interrupted");
  };
}

bool ready_spill(PyObject* module) { return PyModule_AddFunctions(module, functions) == 0; }

}  // namespace shoal::py
