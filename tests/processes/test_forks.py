"""A process of a session that forks: its child is told so at each use, and neither its use nor its end disturbs the session."""

import textwrap

import pytest
from programs import PRELUDE, Program

from conftest import until

FORK = """
import gc, signal, threading, traceback, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # from Python 3.12 on; that is the point
from shoal.exceptions import ForkedError
shoal.init(num_cpus=2)

def fork(work, *, normal_exit=False):
    '''Run `work` in a forked child; its text if it raised.'''
    sys.stdout.flush()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            work()
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        if normal_exit:
            os.close(write)
            raise SystemExit(5)
        os._exit(5)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5, text
    return text

def refused(use):
    try:
        use()
    except ForkedError:
        return
    raise AssertionError("no ForkedError")

def whole():
    '''The parent's session works as if nothing had been.'''
    from shoal import _core
    assert shoal.get([double.remote(i) for i in range(10)], timeout=30) == [2 * i for i in range(10)]
    gc.collect()
    while any(p["running"] or p["lease"] for p in _core.processes() if p["role"] == _core.WORKER):
        time.sleep(0.001)
    arena_is_whole()
    names = [p["label"] for p in _core.processes()]
    assert names[:2] == ["driver", "supervisor"], names
"""


def check(code: str, seconds: float = 60) -> str:
    with Program(FORK + textwrap.dedent(code)) as program:
        status, out, err = program.finish(seconds)
        assert (status, err) == (0, ""), err + out
        program.assert_all_gone()
        return out


def test_each_use_in_the_child_is_refused_and_each_end_of_an_object_harmless():
    check("""
        import asyncio, copy, pickle
        from shoal import _core

        @shoal.remote
        def items():
            for i in range(3): yield i
        ref, array = shoal.put(1), shoal.get(shoal.put(np.arange(5000.0)))
        done = double.remote(1); shoal.get(done)
        mutable = shoal.put(np.zeros(5000), mutable=True); writable = shoal.get(mutable)
        plain = shoal.put(np.zeros(5000))
        private = shoal.get(plain, private=True)
        lock, held = shoal.lock("x"), shoal.lock("held")
        held.acquire()
        actor = Counter.remote(); shoal.get(actor.add.remote())
        named = Counter.options(name="named").remote()
        generator = items.remote(); first = next(generator)
        queue, d, l, counter, value = shoal.Queue(), shoal.Dict(), shoal.List(), shoal.Counter(), shoal.Value(0)
        queue.put(1); d["a"] = 1; l.append(1)
        ring = shoal.Ring(8, {"x": ((3,), np.float64)})
        versioned = shoal.Versioned({"a": np.zeros(5000)}); version = versioned.get()
        event, barrier, semaphore, condition = (shoal.sync.Event(), shoal.sync.Barrier(2), shoal.sync.Semaphore(1),
                                                shoal.sync.Condition())
        future_ref = forever.remote()
        future = future_ref.future()

        async def awaits(x): await x
        USES = '''
            shoal.get(ref); shoal.get([ref, done]); shoal.get(ref, timeout=0); shoal.get(plain, private=True)
            shoal.put(1); shoal.put(np.zeros(5000)); shoal.put(np.zeros(9), mutable=True); shoal.zeros(10); shoal.empty(10)
            shoal.wait([ref]); shoal.wait([ref], timeout=0); shoal.freeze(mutable); shoal.cancel(ref)
            double.remote(1); double.remote(ref); actor.add.remote(); Counter.remote(); Counter.options(name="other").remote()
            shoal.get_actor("named"); shoal.kill(actor); shoal.get(next(generator)); items.remote()
            shoal.cluster_resources(); shoal.available_resources(); shoal.nodes(); shoal.get_runtime_context().get_node_id()
            lock.acquire(); lock.acquire(blocking=False); lock.locked(); lock.__enter__(); shoal.lock()
            shoal.lock("y"); shoal.lock(mutable); held.release(); held.__exit__(None, None, None)
            queue.put(2); queue.get(); queue.qsize(); d["a"]; d.update(b=1); len(d); d.pop("a"); l[0]; l.append(2); len(l)
            counter.add(1); value.value; setattr(value, "value", 3); ring.append({"x": np.zeros(3)}); len(ring)
            shoal.Queue(); shoal.Dict(); shoal.List(); shoal.Counter(); shoal.Value(1); shoal.Ring(4, {"x": ((3,), np.float64)})
            versioned.get(); versioned.set(1); versioned.wait(9, timeout=0); shoal.Versioned(1)
            event.set(); event.wait(); event.is_set(); barrier.wait(); semaphore.acquire(); semaphore.release(); condition.acquire()
            shoal.sync.Event(); shoal.sync.Barrier(2)
            asyncio.run(awaits(ref)); asyncio.run(awaits(future_ref)); ref.future(); pickle.dumps(ref)
            _core.check(); _core.statistics(); _core.processes()
            _core.ask(1, 4); _core.actor_close(actor._ref._handle, 2); _core.label("x")
            '''

        def child():
            wrong = []
            for use in filter(None, (use.strip() for line in USES.splitlines() for use in line.split(";"))):
                try:
                    exec(use)
                except ForkedError:
                    continue
                except BaseException as error:
                    wrong.append(f"{use}: {type(error).__name__}: {error}")
                else:
                    wrong.append(f"{use}: no error")
            assert not wrong, "\\n".join(wrong)
            assert not shoal.is_initialized()
            assert array[4999] == 4999 and version["a"][0] == 0 and private[0] == 0  # what it has got is still readable
            shoal.shutdown()  # there is nothing to end
            repr((ref, lock, queue, d, l, counter, value, actor, generator, ring, versioned, event, barrier, semaphore))
            copy.copy(ref)
            for name in list(globals()):
                if name not in ("os", "traceback", "gc", "SystemExit", "__builtins__"):
                    del globals()[name]
            gc.collect()

        for normal in (False, True):
            problem = fork(child, normal_exit=normal)
            assert not problem, problem
            assert held.locked()
            held.release()
            held.acquire()
            assert shoal.get(ref) == 1 and d["a"] == 1 and l[0] == 1 and queue.qsize() == 1 and shoal.get(actor.add.remote(0)) == 1
        shoal.cancel(future_ref, force=True)
        whole()
        """)


def test_a_lock_held_over_a_fork_stays_the_parents():
    check("""
        lock = shoal.lock("x")
        with lock:
            pid = os.fork()
            if pid == 0:
                try:
                    with lock: pass
                except ForkedError:
                    os._exit(5)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
            assert lock.locked()
        assert not lock.locked()

        def child():  # leaves the block of a `with` in the child
            pass
        try:
            with lock:
                pid = os.fork()
        except ForkedError:  # of the exit of the block, in the child
            os._exit(6)
        assert pid and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
        assert not lock.locked()
        whole()
        """)


def test_a_child_starts_a_session_of_its_own():
    check("""
        ref, array = shoal.put(1), shoal.get(shoal.put(np.arange(5000.0)))
        future = forever.remote().future()  # there is a thread for it
        def child():
            shoal.init(num_cpus=1)
            assert shoal.get(double.remote(4)) == 8 and array[4999] == 4999
            assert double.remote(3).future().result(timeout=20) == 6
            for use in (lambda: shoal.get(ref), lambda: double.remote(ref)):
                try:
                    use()
                except shoal.exceptions.SessionError as error:
                    assert "ended" in str(error) or "fork" in str(error), error
                else:
                    raise AssertionError("no error")
            def grandchild():
                refused(lambda: shoal.put(1))
                shoal.init(num_cpus=1)
                assert shoal.get(double.remote(5)) == 10
                shoal.shutdown()
                refused_now = shoal.is_initialized()
                assert not refused_now
            problem = fork(grandchild)
            assert not problem, problem
            assert shoal.get(double.remote(4)) == 8
            with shoal.lock("x"): pass
        for normal in (False, True):
            problem = fork(child, normal_exit=normal)
            assert not problem, problem
        assert shoal.get(ref) == 1 and shoal.get(double.remote(3)) == 6
        """)


def test_forks_while_other_threads_are_in_the_middle_of_everything():
    check("""
        stop = threading.Event()
        big = np.zeros(1_000_000)
        def again(work):
            while not stop.is_set(): work()
        def locks():
            with shoal.lock("x"): pass
        works = [lambda: shoal.get(shoal.put(big)), lambda: shoal.get(double.remote(1)), locks,
                 lambda: shoal.wait([forever_ref], timeout=0.001), lambda: double.remote(1).future().result()]
        forever_ref = forever.remote()
        threads = [threading.Thread(target=again, args=(work,)) for work in works]
        for thread in threads: thread.start()
        def child():
            refused(lambda: shoal.put(big))
            refused(lambda: shoal.lock("x").acquire())
            gc.collect()
        def own():
            shoal.init(num_cpus=1)
            assert shoal.get(double.remote(1)) == 2
            shoal.shutdown()
        for i in range(8):
            problem = fork(child, normal_exit=i % 2 == 1)
            assert not problem, problem
        problem = fork(own)
        assert not problem, problem
        stop.set()
        for thread in threads: thread.join()
        del forever_ref
        shoal.shutdown()
        """)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method, tmp_path):
    code = FORK.replace("shoal.init(num_cpus=2)\n", "") + textwrap.dedent(f"""
        import multiprocessing

        def use(x):
            try:
                shoal.put(x)
            except ForkedError:
                return "forked"
            shoal.shutdown()
            return "own"

        def read(array):
            return float(array.sum())

        if __name__ == "__main__":
            shoal.init(num_cpus=2)
            method = {method!r}
            array = shoal.get(shoal.put(np.ones(5000)))
            ref = shoal.put(1)
            context = multiprocessing.get_context(method)
            with context.Pool(2) as pool:
                assert set(pool.map(use, range(4))) == {{"forked" if method == "fork" else "own"}}
                assert pool.map(read, [array]) == [5000.0]
                whole()
            process = context.Process(target=read, args=(array,))
            process.start(); process.join()
            assert process.exitcode == 0
            whole()
            assert shoal.get(ref) == 1
        """)
    path = tmp_path / "program.py"  # spawn needs a file
    path.write_text(PRELUDE + code)
    run = f"import runpy; sys.argv = [{str(path)!r}]; runpy.run_path({str(path)!r}, run_name='__main__')"
    with Program(f"sys.path.insert(0, {str(tmp_path)!r}); {run}") as program:
        status, out, err = program.finish(60)
        assert (status, err) == (0, ""), err + out


def test_subprocesses():
    check("""
        import subprocess
        lock = shoal.lock("x"); lock.acquire()
        before = len(os.listdir("/proc/self/fd"))
        files = ["readlink", *[f"/proc/self/fd/{n}" for n in range(3, 30)]]
        for extra in ({}, {"preexec_fn": lambda: None}, {"close_fds": False}, {"start_new_session": True}):
            out = subprocess.run(files, capture_output=True, text=True, **extra).stdout
            assert "memfd" not in out and "eventfd" not in out, (extra, out)
        def bad(): shoal.put(1)
        try:
            subprocess.run(["true"], preexec_fn=bad)
        except subprocess.SubprocessError:
            pass
        os.system("true"); os.popen("true").close()
        assert len(os.listdir("/proc/self/fd")) == before
        lock.release()
        whole()
        """)


def test_a_master_that_forks_workers():
    """As gunicorn does with preloading: the master uses Shoal, its workers have sessions of their own, come and go."""
    check("""
        table = shoal.get(shoal.put(np.arange(100_000)))
        def worker(number):
            shoal.init(num_cpus=1)
            assert shoal.get(double.remote(int(table[number]))) == 2 * number
        def start(number):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
                    worker(number)
                    status = 0
                finally:
                    if number % 2: sys.exit(status)
                    os._exit(status)
            return pid
        pids = [start(n) for n in range(4)]
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 4
        whole()
        """)


def test_tasks_and_actors_that_fork():
    out = check("""
        @shoal.remote
        def forks(ref):
            import multiprocessing, subprocess
            print("once", end="")
            pid = os.fork()
            if pid == 0:
                try:
                    shoal.put(1)
                except ForkedError:
                    os._exit(5)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(abs, [-1, -2]) == [1, 2]
            assert subprocess.run(["echo", "x"], capture_output=True).stdout == b"x\\n"
            assert subprocess.run(["true"], preexec_fn=lambda: None).returncode == 0
            return shoal.get(ref[0])

        @shoal.remote
        def comes_back_twice(folder):
            '''The child returns from the function, too: its result is nobody's.'''
            pid = os.fork()
            if pid: os.waitpid(pid, 0)
            return pid

        @shoal.remote
        class Forks:
            def fork(self):
                pid = os.fork()
                if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                return "child"
            def exits(self):
                pid = os.fork()
                if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                sys.exit(7)
        ref = shoal.put(41)
        assert shoal.get([forks.remote([ref]) for _ in range(3)], timeout=60) == [41] * 3
        pids = shoal.get([comes_back_twice.remote(".") for _ in range(4)], timeout=60)
        assert all(pids)
        actor = Forks.remote()
        assert shoal.get(actor.fork.remote(), timeout=60) == 0
        print(shoal.get(actor.exits.remote(), timeout=60))
        assert shoal.get(actor.fork.remote(), timeout=60) == 0
        whole()
        """)
    assert out.count("once") == 3, out


def test_a_child_that_outlives_everything():
    """The children of a driver and of a worker hold nothing that the session's end would wait for."""
    code = FORK + textwrap.dedent("""
        @shoal.remote
        def leave():
            if os.fork() == 0:
                time.sleep(120)
                os._exit(0)
        shoal.get([leave.remote() for _ in range(2)])
        if os.fork() == 0:
            time.sleep(120)
            os._exit(0)
        shoal.shutdown()  # if it waited, it would be for as long as the children sleep
        print("ended", flush=True)
        shoal.init(num_cpus=1)
        print(shoal.get(double.remote(1)), flush=True)
        os._exit(0)
        """)
    with Program(code) as program:
        assert program.process.stdout is not None
        assert [program.process.stdout.readline() for _ in range(2)] == ["ended\n", "2\n"]
        assert program.process.wait(60) == 0
        until(lambda: len(program.family()) == 3)  # the three children and nobody of the session
