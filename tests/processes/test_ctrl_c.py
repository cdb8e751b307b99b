"""Ctrl-C: the whole session ends at once, whatever the driver was doing; a driver that catches it can go on."""

import random
import signal
import textwrap
import time

import pytest
from programs import Program

START = "shoal.init(num_cpus=2); shoal.get(double.remote(1))\n"
WORK = {
    "get": "ref = forever.remote(); ready(); shoal.get(ref)",
    "get of busy tasks": "refs = [spin.remote() for _ in range(3)]; ready(); shoal.get(refs)",
    "wait": "refs = [forever.remote()]; ready(); shoal.wait(refs)",
    "submission": "ready()\nwhile True: shoal.get([double.remote(i) for i in range(100)])",
    "single calls": "ready()\nwhile True: shoal.get(double.remote(1))",
    "actor": "a = Counter.remote(); ready()\nwhile True: shoal.get([a.add.remote() for _ in range(10)])",
    "busy actor": "a = Counter.remote(); ref = a.spin.remote(); ready(); shoal.get(ref)",
    "lock": """
        ref = hold.remote("x")
        while not shoal.lock("x").locked(): time.sleep(0.001)
        ready()
        shoal.lock("x").acquire()
        """,
    "put": "array = np.zeros(2_000_000); ready()\nwhile True: shoal.put(array)",
    "busy tasks": "ref = spin.remote(); ready(); time.sleep(60)",
    "start and stop": """
        ready()
        while True:
            shoal.shutdown(); shoal.init(num_cpus=2); shoal.get(double.remote(1))
        """,
}
# KeyboardInterrupt at random moments of some work, all caught; afterwards everything must work as before.
INTERRUPTED = """
    import gc, random, signal, threading
    from shoal import _core

    def again_and_again(work):
        while True:
            work()

    def interrupted(work):
        timer = threading.Timer(random.random() * 0.02, os.kill, (os.getpid(), signal.SIGINT))
        try:
            try:
                timer.start()
                work()
            finally:
                timer.join()
        except KeyboardInterrupt:
            return
        raise AssertionError("no KeyboardInterrupt came")
    """


@pytest.mark.parametrize("doing", WORK)
def test_everything_ends_quietly(doing):
    with Program(START + textwrap.dedent(WORK[doing])) as program:
        program.until_ready()
        time.sleep(random.random() * 0.1)  # it is about any moment of the work
        program.press_ctrl_c()
        code, _, err = program.finish()
        assert code == -signal.SIGINT, err
        assert err.rstrip().endswith("KeyboardInterrupt") and err.count("Traceback") == 1, err
        program.assert_all_gone()


@pytest.mark.parametrize("_", range(4))
def test_while_it_starts(_):
    # It sleeps in pieces: Python 3.10 notices a signal that came to another thread only when it takes the GIL again.
    code = """\
        print("ready", flush=True)
        import time, shoal
        shoal.init(num_cpus=2)
        shoal.get(shoal.put(1))
        for _ in range(600):
            time.sleep(0.1)
        """
    with Program(code, prelude="") as program:
        program.until_ready()
        time.sleep(random.random() * 0.2)  # it is about any moment of the start
        program.press_ctrl_c()
        code, _, err = program.finish()
        assert code in (1, -signal.SIGINT) and "KeyboardInterrupt" in err and "terminate called" not in err, err
        program.assert_all_gone()


def test_at_the_exit_of_the_interpreter():
    with Program(START + "import atexit, signal; atexit.register(lambda: os.kill(0, signal.SIGINT))") as program:
        code, _, err = program.finish()
        assert code in (0, -signal.SIGINT) and "KeyboardInterrupt" in err and "terminate called" not in err, err
        program.assert_all_gone()


@pytest.mark.parametrize(
    "work",
    [
        "shoal.get([double.remote(i) for i in range(20)])",
        "shoal.get([actor.add.remote(0) for i in range(20)])",
        "with shoal.lock('x'): pass",
        "shoal.wait([double.remote(i) for i in range(5)], num_returns=5)",
        "double.remote(1).future().result()",
    ],
)
def test_a_driver_that_catches_it_goes_on(work):
    code = START + textwrap.dedent(INTERRUPTED) + textwrap.dedent(f"""
        actor = Counter.remote()
        def work():
            {work}
        for _ in range(20):
            interrupted(lambda: again_and_again(work))
            assert shoal.get(double.remote(7), timeout=30) == 14
            assert shoal.get(actor.add.remote(0), timeout=30) == 0
            assert shoal.lock("x").acquire(timeout=30)
            shoal.lock("x").release()
        while any(p["running"] for p in _core.processes() if p["role"] == _core.WORKER):
            time.sleep(0.001)
        arena_is_whole()
        """)  # fmt: skip
    with Program(code) as program:
        assert program.finish(110)[::2] == (0, "")


def test_while_a_session_starts_and_the_driver_goes_on():
    code = textwrap.dedent(INTERRUPTED) + textwrap.dedent("""
        def counts():
            gc.collect()
            with open("/proc/self/maps") as maps:
                arenas = maps.read().count("memfd:shoal")
            return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), arenas

        def start_and_stop():
            shoal.init(num_cpus=1); shoal.get(double.remote(1)); shoal.shutdown()

        before = counts()
        start_and_stop()
        for _ in range(10):
            interrupted(lambda: again_and_again(start_and_stop))
            shoal.shutdown()
            assert not shoal.is_initialized()
        start_and_stop()
        end = time.monotonic() + 30
        while counts() != before and time.monotonic() < end:  # a thread is joined a moment before it is gone for the kernel
            time.sleep(0.001)
        assert counts() == before, (counts(), before)
        with open(f"/proc/self/task/{os.getpid()}/children") as children:
            assert children.read() == ""
        """)
    with Program(code) as program:
        assert program.finish(110)[::2] == (0, "")
