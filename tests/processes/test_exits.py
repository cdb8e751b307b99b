"""However a driver ends: nothing alarming is printed, the exit code is the program's own, no process is left."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import pytest
from programs import PRELUDE, Program

from conftest import until

pytestmark = pytest.mark.timeout(170)  # a program has 100 seconds to end, and its processes 60 to be gone


def session(code: str) -> str:
    return "shoal.init(num_cpus=2)\n" + textwrap.dedent(code)


# Each ends by itself, with code 0 and an empty error output.
QUIET = {
    "without a session": "shoal.put",
    "right after init": session(""),
    "after shutdown": session("assert shoal.get(double.remote(1)) == 2; shoal.shutdown()"),
    "refs in globals": session("a = shoal.put(1); b = shoal.put(np.zeros(1000)); c = double.remote(1); view = shoal.get(b)"),
    "work in progress": session("refs = [forever.remote() for _ in range(4)]"),
    "refs in a cycle": session("""
        class Node: pass
        a, b = Node(), Node()
        a.other, b.other, a.ref, b.view = b, a, shoal.put([1]), shoal.get(shoal.put(np.zeros(1000)))
        del a, b
        """),
    "objects whose __del__ uses the session": session("""
        class Late:
            def __init__(self): self.ref = shoal.put(1); self.lock = shoal.lock("x")
            def __del__(self):
                try:
                    shoal.get(self.ref)
                    with self.lock: pass
                    shoal.put(2)
                except shoal.exceptions.SessionError:
                    pass
        keep = Late()
        import builtins; builtins.keep = Late()
        cycle = [Late()]; cycle.append(cycle)
        """),
    "handles and everything else in globals": session("""
        actor = Counter.remote(); call = actor.add.remote()
        lock = shoal.lock("x"); lock.acquire()
        queue, ring, d, l = shoal.Queue(), shoal.Ring(8, {"x": ((3,), np.float64)}), shoal.Dict(), shoal.List()
        d["a"] = 1; l.append(np.zeros(1000)); queue.put(1)
        counter, value = shoal.Counter(), shoal.Versioned({"a": np.zeros(1000)})
        held = value.get()
        event, barrier, semaphore = shoal.sync.Event(), shoal.sync.Barrier(2), shoal.sync.Semaphore(1)
        array = shoal.get(shoal.put(np.zeros(1000), mutable=True))
        """),
    "refs in a module": session("""
        import types
        m = sys.modules['m'] = types.ModuleType('m'); m.ref = shoal.put(1); m.a = Counter.remote()
        """),
    "an exception holds refs": session("""
        @shoal.remote
        def fail(x): raise ValueError("no")
        try:
            shoal.get(fail.remote(shoal.put(1)))
        except ValueError as e:
            kept = e
        """),
    "daemon threads wait": session("""
        import threading
        lock = shoal.lock("x"); lock.acquire()
        works = [lambda: shoal.get(forever.remote()), lambda: shoal.lock("x").acquire(), lambda: shoal.Queue().get(),
                 lambda: shoal.sync.Event().wait(), lambda: shoal.wait([forever.remote()]),
                 lambda: forever.remote().future().result(),
                 lambda: shoal.sync.Barrier(2).wait(), lambda: shoal.Versioned(1).wait(5)]
        begun = threading.Barrier(len(works) + 1)
        def run(work): begun.wait(); work()
        for work in works: threading.Thread(target=run, args=(work,), daemon=True).start()
        begun.wait()
        """),
    "daemon threads work": session("""
        import threading
        def get():
            while True: shoal.get(double.remote(1))
        def put():
            while True: shoal.put(np.zeros(100_000))
        def lock():
            while True:
                with shoal.lock("x"): pass
        for work in (get, put, lock): threading.Thread(target=work, daemon=True).start()
        time.sleep(0.05)
        """),
    "threads that finish after the main one": session("""
        import threading
        def late():
            time.sleep(0.1)
            assert shoal.get(double.remote(4)) == 8
        threading.Thread(target=late).start()
        """),
    "sys.exit in a thread": session("""
        import threading
        thread = threading.Thread(target=lambda: (shoal.get(double.remote(1)), sys.exit(3))); thread.start(); thread.join()
        """),
    "asyncio": session("""
        import asyncio
        async def main():
            assert await double.remote(2) == 4
            asyncio.ensure_future(asyncio.wait_for(asyncio.shield(forever.remote().as_future()), 0.01)).cancel()
            global pending; pending = forever.remote().as_future()
        asyncio.run(main())
        """),
    "asyncio after shutdown": session("""
        import asyncio
        async def main():
            assert await double.remote(2) == 4
            waiting = forever.remote().as_future()
            shoal.shutdown()
            try:
                await waiting
            except shoal.exceptions.SessionEndedError:
                return
            raise AssertionError
        asyncio.run(main())
        """),
    "a generator that nobody reads": session("""
        @shoal.remote
        def items():
            while True: yield np.zeros(10)
        g = items.remote(); first = shoal.get(next(g))
        """),
    "futures": session("""
        futures = [forever.remote().future(), double.remote(1).future()]
        assert futures[1].result() == 2
        """),
    "handlers of atexit before and after": """
        import atexit
        def after():  # was registered before the session's: it runs after it
            assert not shoal.is_initialized()
            for use in (lambda: shoal.get(ref), lambda: double.remote(1), lambda: shoal.put(1), lambda: lock.acquire(),
                        lambda: shoal.get(late)):
                try:
                    use()
                except shoal.exceptions.SessionError:
                    continue
                raise AssertionError("no error")
            shoal.shutdown()
            print("after", flush=True)
        def before():
            global late
            late = double.remote(2)
            assert shoal.get([double.remote(1), late]) == [2, 4]
            print("before", flush=True)
        atexit.register(after)
        shoal.init(num_cpus=2)
        ref, lock = shoal.put(1), shoal.lock("x")
        atexit.register(before)
        """,
    "shutdown in a handler of atexit": session("import atexit; atexit.register(shoal.shutdown); ref = double.remote(1)"),
    "init in a handler of atexit": """
        import atexit
        def late():
            shoal.init(num_cpus=1)
            assert shoal.get(double.remote(1)) == 2
        atexit.register(late)
        """,
    "os._exit": session("shoal.get(double.remote(1)); forever.remote(); os._exit(0)"),
    "a task that prints last": session("""
        @shoal.remote
        def say(): print("said")
        shoal.get(say.remote())
        """),
    "a file closed before": session("shoal.get(double.remote(1)); sys.stdout.close(); sys.stderr.close()"),
    "a session that starts while the program ends": """
        import threading
        threading.Thread(target=lambda: shoal.init(num_cpus=1), daemon=True).start()
        time.sleep(0.02)
        """,
    "a first use while the program ends": """
        import threading
        threading.Thread(target=lambda: (time.sleep(0.05), shoal.get(double.remote(1)))).start()
        """,
    "a daemon thread holds a lock": session("""
        import threading
        held = threading.Event()
        def hold():
            with shoal.lock("x"): held.set(); time.sleep(60)
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        """),
    "a thread with a small stack": session("""
        import threading
        threading.stack_size(65536)
        thread = threading.Thread(target=lambda: shoal.get(double.remote(shoal.put(np.zeros(100_000)))))
        thread.start(); thread.join()
        """),
    "a recursion that is too deep": session("""
        def deep(): return shoal.get(shoal.put(1)) + deep()
        try:
            deep()
        except RecursionError:
            pass
        assert shoal.get(double.remote(1)) == 2
        """),
    "no output at all": session("""
        sys.stdout = sys.stderr = None
        @shoal.remote
        def say(): print("said")
        shoal.get(say.remote())
        """),
    "modules that are gone": session("""
        ref = double.remote(1)
        for name in list(sys.modules):
            if name.startswith("shoal"): del sys.modules[name]
        """),
    "many sessions": "for i in range(3): shoal.init(num_cpus=1); assert shoal.get(double.remote(i)) == 2 * i; shoal.shutdown()",
    "pools of threads": session("""
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(4)
        jobs = [pool.submit(lambda i=i: shoal.get(double.remote(i))) for i in range(20)]
        """),
    "tracing and a profiler": session("""
        sys.settrace(lambda *a: None); sys.setprofile(lambda *a: None)
        assert shoal.get(double.remote(1)) == 2
        """),
    "references dropped in weakref callbacks and by the collector": session("""
        import gc, weakref
        class Node: pass
        class Keep:
            def __init__(self): self.refs = [shoal.put(i) for i in range(10)]
        gc.set_threshold(1)
        for i in range(200):
            n = Node(); n.me = n; n.keep = Keep(); weakref.finalize(n, n.keep.refs.clear)
            shoal.get(shoal.put([shoal.put(i)]))
        """),
    "the supervisor was killed": session("""
        import signal
        from shoal import _core
        ref = shoal.put(1)
        shoal.get(double.remote(1))
        os.kill(_core.processes()[1]["pid"], signal.SIGKILL)
        try:
            while True: shoal.get(double.remote(1))
        except shoal.exceptions.SessionEndedError:
            pass
        """),
}  # fmt: skip


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    left: list[int]  # processes that still live some time later


def play(code: str) -> Ended:
    with Program(code) as program:
        status, out, err = program.finish(100)
        try:
            until(lambda: not program.family())
        except AssertionError:
            pass
        return Ended(status, out, err, program.family())


@pytest.fixture(scope="module")
def plays(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Ended]]]:
    """The programs of the tests that were asked for, two at a time: much of their time they wait."""
    mine = [item for item in request.session.items if getattr(item, "module", None) is request.module and hasattr(item, "callspec")]
    asked = [item.callspec.params["name"] for item in mine]
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(play, QUIET[name] if name in QUIET else FAILS + session(LOUD[name][0])) for name in asked}


@pytest.mark.parametrize("name", QUIET)
def test_quiet(name, plays):
    code, out, err, left = plays[name].result()
    assert (code, err) == (0, "")
    if "atexit before" in name:
        assert out == "before\nafter\n"
    if "prints last" in name:
        assert out.endswith("said\n") and out.count("said") == 1
    assert not left


# (code, exit code, how often "Traceback" is printed, what the error output ends with)
LOUD = {
    "an error": ("ref = double.remote(1); raise ValueError('mine')", 1, 1, "ValueError: mine\n"),
    "an error of a task": ("shoal.get(fails.remote())", 1, None, "mine\n"),
    "sys.exit": ("ref = double.remote(1); sys.exit(3)", 3, 0, ""),
    "an error in a thread": (
        "import threading; t = threading.Thread(target=lambda: shoal.get(shoal.put(1)) / 0); t.start(); t.join()",
        0, 1, "ZeroDivisionError: division by zero\n",
    ),
    "os.abort": ("ref = forever.remote(); os.abort()", -6, 0, ""),
    "SIGTERM": ("ref = forever.remote(); os.kill(os.getpid(), 15); shoal.get(ref)", -15, 0, ""),
    "SIGHUP": ("ref = forever.remote(); os.kill(os.getpid(), 1); shoal.get(ref)", -1, 0, ""),
    "sys.exit in a handler of SIGTERM": (
        "import signal; signal.signal(15, lambda *_: sys.exit(7)); os.kill(os.getpid(), 15); shoal.get(forever.remote())",
        7, 0, "",
    ),
}  # fmt: skip


FAILS = "@shoal.remote\ndef fails(): raise ValueError('mine')\n"


@pytest.mark.parametrize("name", LOUD)
def test_loud(name, plays):
    _, status, tracebacks, end = LOUD[name]
    code, _, err, left = plays[name].result()
    assert code == status and err.endswith(end), err
    assert tracebacks is None or err.count("Traceback") == tracebacks, err
    assert not left


def test_an_interactive_interpreter():
    """What is typed into python -i, line by line; its end is the end of the input."""
    lines = PRELUDE + "\nshoal.init(num_cpus=1)\nref = double.remote(21)\nprint(shoal.get(ref))\nshoal.get(1)\nshoal.get(ref)\n"
    done = subprocess.run([sys.executable, "-q", "-i", "-c", ""], input=lines, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "42" in done.stdout
    assert done.stderr.count("Traceback") == 1 and "TypeError: get() takes an ObjectRef" in done.stderr


def test_a_driver_that_becomes_another_program():
    """After exec() the process is the same and the program another: nothing of the session is left in its way."""
    code = session("""
        shoal.get(double.remote(1)); ref = forever.remote()
        os.execv(sys.executable, [sys.executable, "-c", "import os; print(os.getpid(), flush=True); input()"])
        """)
    with Program(code, stdin=subprocess.PIPE) as program:
        assert program.process.stdout is not None
        assert int(program.process.stdout.readline()) == program.pid
        until(lambda: program.family() == [program.pid])
        assert program.finish()[2].endswith("EOFError: EOF when reading a line\n")
