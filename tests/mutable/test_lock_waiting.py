"""Waiting for a lock: it costs no CPU of the session, and ends with a signal, a shutdown, the program."""

import textwrap

import numpy as np
import pytest

import shoal
from conftest import run_python, until
from shoal import _core


@pytest.fixture(scope="module", autouse=True)
def one_cpu():
    from conftest import audit

    shoal.init(num_cpus=1)
    yield
    try:
        audit()
    finally:
        shoal.shutdown()


@shoal.remote
def wait_for(lock):
    with lock:
        return "had it"


@shoal.remote
def one():
    return 1


def test_a_task_that_waits_lends_its_cpu():
    lock = shoal.lock()
    with lock:
        waiting = [wait_for.remote(lock) for _ in range(3)]
        assert shoal.get([one.remote() for _ in range(5)], timeout=20) == [1] * 5
        until(lambda: sum(p["blocked"] for p in _core.processes()) == 3)
        assert shoal.get(one.remote(), timeout=20) == 1
        assert shoal.wait(waiting, timeout=0)[0] == []
    assert shoal.get(waiting) == ["had it"] * 3
    until(lambda: shoal.available_resources().get("CPU") == 1)


def test_an_actor_that_waits_lends_its_cpu():
    @shoal.remote(num_cpus=1)
    class Waiter:
        def wait(self, lock):
            with lock:
                return "had it"

    lock, waiter = shoal.lock(), Waiter.remote()
    with lock:
        ref = waiter.wait.remote(lock)
        assert shoal.get(one.remote(), timeout=20) == 1
    assert shoal.get(ref) == "had it"


def test_a_task_that_holds_a_lock_and_waits_for_another_task():
    lock = shoal.lock()

    @shoal.remote
    def outer(lock):
        with lock:
            return shoal.get(one.remote())

    assert shoal.get([outer.remote(lock) for _ in range(4)], timeout=30) == [1] * 4


def test_a_timeout_gives_the_cpu_back_too():
    lock = shoal.lock()

    @shoal.remote
    def try_for(lock, seconds):
        return lock.acquire(timeout=seconds)

    with lock:
        assert shoal.get(try_for.remote(lock, 0.02)) is False
    until(lambda: shoal.available_resources().get("CPU") == 1)
    assert not any(p["blocked"] for p in _core.processes())


def test_a_cancelled_waiter():
    ref = shoal.put(np.zeros(1), mutable=True)

    @shoal.remote
    def announce_and_wait(array, lock):
        array[0] = 1
        with lock:
            return "had it"

    lock = shoal.lock()
    with lock:
        waiting = announce_and_wait.remote(ref, lock)
        until(lambda: shoal.get(ref)[0] == 1 and any(p["blocked"] for p in _core.processes()))
        shoal.cancel(waiting)
        with pytest.raises(shoal.exceptions.TaskCancelledError):
            shoal.get(waiting, timeout=20)
    assert shoal.get(wait_for.remote(lock)) == "had it"


# -- in programs of their own -------------------------------------------------------------------------------

_PROGRAM = """
import os, signal, sys, threading, shoal

@shoal.remote
class Holder:
    def take(self, lock):
        lock.acquire()

shoal.init(num_cpus=1)
lock = shoal.lock()
holder = Holder.remote()
shoal.get(holder.take.remote(lock))

def soon(action):  # when the main thread sleeps in acquire()
    import time
    def run():
        time.sleep(0.2)
        action()
    threading.Thread(target=run, daemon=True).start()
"""


def program(text):
    result = run_python(_PROGRAM + textwrap.dedent(text))
    return result.stdout.split(), result


def test_ctrl_c_ends_the_wait():
    out, result = program("""
        try:
            soon(lambda: os.kill(os.getpid(), signal.SIGINT))
            lock.acquire()
        except KeyboardInterrupt:
            print("interrupted")
        try:
            soon(lambda: os.kill(os.getpid(), signal.SIGINT))
            with lock:
                print("never")
        except KeyboardInterrupt:
            print("again")
        try:
            soon(lambda: os.kill(os.getpid(), signal.SIGINT))
            lock.acquire(timeout=30)
        except KeyboardInterrupt:
            print("and again")
        shoal.kill(holder)
        try:
            lock.acquire()
        except shoal.exceptions.LockHolderDied:
            lock.release()
        with lock:
            print("usable")
        import time
        end = time.monotonic() + 20
        while shoal._core.check() and time.monotonic() < end:  # what the holder had is cleared away later than its lock
            time.sleep(0.001)
        print(repr(shoal._core.check()))
    """)
    assert out == ["interrupted", "again", "and", "again", "usable", "''"], result.stderr


def test_a_handler_that_returns_does_not_end_it():
    out, result = program("""
        seen = []
        signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        import time
        start = time.monotonic()
        while len(seen) < 4:  # a busy machine makes one of several
            print(lock.acquire(timeout=0.3), time.monotonic() - start >= 0.3)
        signal.setitimer(signal.ITIMER_REAL, 0)
    """)
    assert set(zip(out[::2], out[1::2], strict=True)) == {("False", "True")}, result.stderr


def test_a_handler_that_uses_locks():
    out, result = program("""
        mine, inner = shoal.lock(), shoal.lock()

        def handler(*_):
            with inner:
                print(inner.locked())

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        print(lock.acquire(timeout=0.3))
    """)
    assert out == ["True", "False"], result.stderr


@pytest.mark.parametrize("threads", [1, 25])
def test_shutdown_ends_the_waits(threads):
    out, result = program(f"""
        ends = []

        def wait():
            try:
                lock.acquire()
            except shoal.exceptions.SessionEndedError as error:
                ends.append(error)

        threads = [threading.Thread(target=wait) for _ in range({threads})]
        for thread in threads:
            thread.start()
        import time
        time.sleep(0.1)
        shoal.shutdown()
        for thread in threads:
            thread.join(20)
        print(len(ends), any(t.is_alive() for t in threads))
    """)
    assert out == [str(threads), "False"], result.stdout + result.stderr


def test_the_programs_end_ends_the_waits():
    _, result = program("""
        threading.Thread(target=lock.acquire, daemon=True).start()
        holder2 = Holder.remote()
        holder2.take.remote(lock)
        sys.exit(3)
    """)
    assert result.returncode == 3 and "LockHolderDied" not in result.stderr, result.stderr


def test_the_supervisors_death_ends_the_waits():
    out, result = program("""
        supervisor = next(p["pid"] for p in shoal._core.processes() if p["slot"] == 1)
        try:
            soon(lambda: os.kill(supervisor, signal.SIGKILL))
            lock.acquire()
        except shoal.exceptions.SessionError as error:
            print(type(error).__name__)
    """)
    assert out == ["SessionEndedError"], result.stderr


def test_a_forked_child_cannot_use_the_lock():
    out, result = program("""
        free = shoal.lock()
        pid = os.fork()
        if pid == 0:
            for use in (free.acquire, free.release, free.locked, lock.acquire):
                try:
                    use()
                except shoal.exceptions.ForkedError:
                    os.write(1, b"refused\\n")
            os._exit(0)
        os.waitpid(pid, 0)
        with free:
            print("fine")
    """)
    assert out == ["refused"] * 4 + ["fine"], result.stdout + result.stderr
