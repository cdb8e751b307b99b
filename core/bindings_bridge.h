// Threads of our own that run no Python, and the one that lets an event loop wait for rings.
#pragma once
#include <linux/futex.h>
#include <nanobind/nanobind.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <thread>

#include "bindings.h"

namespace shoal::py {

// Forgets a thread that cannot be joined: it belongs to the process we were forked from, or the program is ending.
inline void abandon(std::thread& t) { new std::thread(std::move(t)); }

// A descriptor, or the OSError of the call that was to give it.
inline int descriptor(int fd, const char* by) {
  if (fd >= 0) return fd;
  PyErr_SetFromErrnoWithFilename(PyExc_OSError, by);
  throw nanobind::python_error();
}

// A thread that runs no Python. The program's signals are for its own threads. Throws std::system_error.
template <class F>
std::thread own_thread(F run) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  struct Back {
    sigset_t& mask;
    ~Back() { pthread_sigmask(SIG_SETMASK, &mask, nullptr); }
  } back{before};
  return std::thread(std::move(run));
}

// Turns rings of this process into an eventfd that an event loop can poll. The thread runs no Python; it sleeps on the
// ring while armed, writes once, and waits to be armed again.
class Bridge {
 public:
  Bridge() : fd_(descriptor(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd")), slot_(C.me) {
    try {
      thread_ = own_thread([this] { run(); });
    } catch (...) {
      ::close(fd_);
      throw;
    }
    S.mapping->users++;
    mapping_ = S.mapping;
  }
  ~Bridge() { close_(); }
  int fileno() const { return fd_; }
  // Arms it for rings after `seen`.
  void arm(u32 seen) {
    if (state_ != OPEN) return;
    seen_.store(seen);
    gate_.store(1);
    gate_.notify_all();
  }
  // From now on it does not look at the arena any more; whoever has the descriptor is told nothing. From any thread: the session
  // may end before the loop comes to close it.
  void leave() {
    if (state_ != OPEN) return;
    state_ = LEAVING;
    gate_.store(2);
    gate_.notify_all();
    if (getpid() == process_) {
      slot_->ring.fetch_add(1);
      syscall(SYS_futex, &slot_->ring, FUTEX_WAKE, 0x7fffffff, nullptr, nullptr, 0);
      NoGil nogil;
      thread_.join();
    } else {
      abandon(thread_);
    }
    state_ = LEFT;
    drop_mapping(mapping_);
    if (closed_) close_();
  }
  void close_() {
    closed_ = true;
    leave();
    if (state_ != LEFT || fd_ < 0) return;  // not while another thread waits for ours, which may be writing
    ::close(fd_);
    fd_ = -1;
  }

 private:
  void run() {
    for (;;) {
      u32 g;
      while ((g = gate_.load()) == 0) gate_.wait(0);
      if (g == 2) return;
      u32 seen = seen_.load();
      slot_->sleepers.fetch_add(1, std::memory_order_seq_cst);
      while (slot_->ring.load(std::memory_order_seq_cst) == seen && gate_.load() != 2)
        syscall(SYS_futex, &slot_->ring, FUTEX_WAIT, seen, nullptr, nullptr, 0);
      slot_->sleepers.fetch_sub(1, std::memory_order_seq_cst);
      u32 armed = 1;
      if (!gate_.compare_exchange_strong(armed, 0)) return;
      u64 one = 1;
      if (::write(fd_, &one, sizeof one) < 0 && errno != EAGAIN) return;
    }
  }
  enum { OPEN, LEAVING, LEFT } state_ = OPEN;  // under the GIL, as all but run()
  bool closed_ = false;
  int fd_;
  pid_t process_ = getpid();
  Slot* slot_;
  Mapping* mapping_;
  std::atomic<u32> seen_{0}, gate_{0};  // gate: 0 idle, 1 armed, 2 closed
  std::thread thread_;
};

}  // namespace shoal::py
