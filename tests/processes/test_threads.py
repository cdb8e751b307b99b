"""Many threads of a process use the session at once, while it begins and ends: no hang, no other errors than those with a name."""

import textwrap

import pytest
from programs import run

# Threads that do everything, until they are told to stop; whatever is not a ShoalError is a finding.
CROWD = """
import gc, random, signal, threading
from shoal import _core
from shoal.exceptions import ShoalError
sys.setswitchinterval(1e-6)
stop, wrong, done = threading.Event(), [], __import__("collections").Counter()

def refs_in_cycles():
    class Node: pass
    a, b = Node(), Node()
    a.other, b.other, a.ref, b.view = b, a, shoal.put([1]), shoal.get(shoal.put(np.zeros(500)))

def locks():
    with shoal.lock("x"): pass
    shoal.lock("y").acquire(timeout=0.01) and shoal.lock("y").release()

def cancels():
    ref = double.remote(1); shoal.cancel(ref)
    try:
        shoal.get(ref, timeout=50)
    except shoal.exceptions.TaskCancelledError:
        pass

def waits():
    refs = [double.remote(i) for i in range(5)]
    ready, rest = shoal.wait(refs, num_returns=2, timeout=50)
    assert len(ready) == 2 and len(rest) == 3

def queues():
    q = shoal.Queue(); q.put(1); assert q.get(timeout=50) == 1

def refs_across_threads():
    ref = shoal.put(np.zeros(500))
    threading.Thread(target=lambda r: shoal.get(r), args=(ref,)).start()
    del ref

WORKS = [lambda: shoal.get(shoal.put({"a": 1})), lambda: shoal.get(shoal.put(np.ones(200_000))).sum(), locks, cancels, waits,
         queues, lambda: shoal.get(double.remote(4), timeout=50), lambda: double.remote(1).future().result(timeout=50),
         refs_in_cycles, lambda: shoal.get(double.remote(double.remote(shoal.put(1))), timeout=50), gc.collect]

def again(work):
    while not stop.is_set():
        try:
            work()
            done[work] += 1
        except ShoalError as error:
            if error_is_wrong(error): wrong.append(repr(error)); return
        except BaseException as error:
            wrong.append(f"{type(error).__name__}: {error}"); return

def crowd(works=WORKS):
    threads = [threading.Thread(target=again, args=(work,)) for work in works]
    for thread in threads: thread.start()
    return threads

def end(threads):
    stop.set()
    for thread in threads: thread.join(50)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    assert not wrong, wrong[:5]
"""


EVERYTHING = """
def error_is_wrong(error): return True
def everything():
    threads = crowd()
    while len(done) < len(WORKS) or min(done.values()) < 3:
        assert not wrong, wrong
        time.sleep(0.001)
    end(threads)
    return True
"""


def passes(code: str) -> None:
    status, out, err = run(CROWD + textwrap.dedent(code))
    assert (status, err) == (0, ""), err + out


@pytest.mark.parametrize("where", ["driver", "actor", "task"])
def test_everything_at_once(where):
    passes(EVERYTHING + textwrap.dedent(f"""
        shoal.init(num_cpus=3)
        where = {where!r}
        if where == "driver":
            everything()
        elif where == "task":
            import cloudpickle
            @shoal.remote(num_cpus=0)
            def in_task(program):
                scope = {{"__name__": "scope"}}
                exec(program, scope)
                return scope["everything"]()
            assert shoal.get(in_task.remote(PROGRAM), timeout=100)
        else:
            @shoal.remote
            class Inside:
                def run(self, program):
                    scope = {{"__name__": "scope"}}
                    exec(program, scope)
                    return scope["everything"]()
            inside = Inside.remote()
            assert shoal.get(inside.run.remote(PROGRAM), timeout=100)
            del inside
        assert shoal.get(double.remote(1), timeout=50) == 2
        shoal.shutdown()
        """).replace("PROGRAM", repr(_inside())))  # fmt: skip


def _inside() -> str:
    from programs import PRELUDE

    return PRELUDE + CROWD.replace("sys.setswitchinterval(1e-6)", "sys.setswitchinterval(1e-5)") + EVERYTHING


def test_sessions_begin_and_end_under_it():
    """init() and shutdown() race in two threads, while others work: these get errors of the session, and go on with the next."""
    passes("""
        def error_is_wrong(error): return False
        def changes():
            try:
                shoal.init(num_cpus=1, ignore_reinit_error=random.random() < 0.5)
            except RuntimeError:
                pass
            time.sleep(random.random() * 0.03)
            shoal.shutdown()
            changes_done.append(1)
        changes_done = []
        def asks():
            shoal.is_initialized(); shoal.cluster_resources()
        # `forever` takes no CPU: a session that begins by itself after the last shutdown may have a single one.
        own = [changes, changes, lambda: shoal.lock("z").acquire(timeout=0.1), lambda: shoal.Queue().get(timeout=0.05),
               lambda: shoal.get(forever.options(num_cpus=0).remote(), timeout=0.05), asks]
        def again_all(work):
            while not stop.is_set():
                try:
                    work()
                except (ShoalError, TimeoutError, RuntimeError, shoal.exceptions.GetTimeoutError):
                    pass
                except Exception as error:
                    if "Empty" in type(error).__name__: continue
                    wrong.append(f"{type(error).__name__}: {error}"); return
        threads = [threading.Thread(target=again_all, args=(work,)) for work in own + WORKS[:9]]
        for thread in threads: thread.start()
        while len(changes_done) < 6 and not wrong:
            time.sleep(0.01)
        end(threads)
        shoal.shutdown()
        shoal.init(num_cpus=1)
        assert shoal.get(double.remote(1), timeout=50) == 2
        shoal.shutdown()
        with open("/proc/self/maps") as maps:
            gc.collect()
        """)


def test_shutdown_while_threads_wait():
    """Each kind of wait ends with an error of the session."""
    passes("""
        def error_is_wrong(error): return False
        import asyncio
        for _ in range(2):
            shoal.init(num_cpus=2)
            held = shoal.lock("held"); held.acquire()
            never, queue, event, barrier = forever.remote(), shoal.Queue(), shoal.sync.Event(), shoal.sync.Barrier(2)
            full = shoal.Queue(maxsize=1); full.put(1)
            semaphore = shoal.sync.Semaphore(1); semaphore.acquire()
            value = shoal.Versioned(1)
            async def awaits(): await never
            ends = {}
            waits = dict(
                get=lambda: shoal.get(never), get_list=lambda: shoal.get([never]), later=lambda: shoal.get(never, timeout=50),
                wait=lambda: shoal.wait([never]), lock=held.acquire, queue=lambda: queue.get(),
                full=lambda: full.put(2), event=lambda: event.wait(), barrier=lambda: barrier.wait(),
                semaphore=lambda: semaphore.acquire(), future=lambda: never.future().result(),
                versioned=lambda: value.wait(7), awaited=lambda: asyncio.run(awaits()),
            )
            def wait(name, work):
                try:
                    work()
                except BaseException as error:
                    ends[name] = error
                else:
                    ends[name] = "returned"
            threads = [threading.Thread(target=wait, args=item) for item in waits.items()]
            for thread in threads: thread.start()
            time.sleep(0.05)  # mostly they wait by then; if not, they meet the session's end a moment earlier
            shoal.shutdown()
            for thread in threads: thread.join(50)
            assert not any(thread.is_alive() for thread in threads), set(waits) - set(ends)
            assert all(isinstance(error, shoal.exceptions.SessionError) for error in ends.values()), ends
            shoal.shutdown()  # of the session that a get() begins by itself if it is that late
        """)


def test_a_signal_handler_uses_the_session():
    passes("""
        def error_is_wrong(error): return True
        shoal.init(num_cpus=2)
        calls = []
        def handler(*_):
            assert shoal.get(shoal.put(len(calls))) == len(calls)
            assert shoal.get(double.remote(2), timeout=50) == 4
            with shoal.lock("in the handler"): pass
            calls.append(1)
            if len(calls) < 60: again_soon()
        def again_soon(): signal.setitimer(signal.ITIMER_REAL, 0.002)
        signal.signal(signal.SIGALRM, handler)
        again_soon()
        threads = crowd(WORKS[:5])
        while len(calls) < 60:
            assert shoal.get([double.remote(i) for i in range(5)], timeout=50) == [0, 2, 4, 6, 8]
            with shoal.lock("outside"): pass
            shoal.get(shoal.put(np.ones(100_000)))
        end(threads)
        shoal.shutdown()
        """)
