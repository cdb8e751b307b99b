"""Signals other than Ctrl-C: of the session's processes, and of programs that have handlers of their own."""

import os
import signal
import subprocess
import sys
import time

import pytest
from programs import PRELUDE, Program, run

from conftest import until

START = "shoal.init(num_cpus=2); shoal.get(double.remote(1))\n"
SUPERVISOR = "from shoal import _core; supervisor = _core.processes()[1]['pid']\n"


@pytest.mark.parametrize(
    ("number", "doing"),
    [
        (signal.SIGTERM, "shoal.get(forever.remote())"),
        (signal.SIGHUP, "shoal.get(spin.remote())"),
        (signal.SIGKILL, "a = Counter.remote()\nwhile True: shoal.get(a.add.remote())"),
    ],
)
def test_a_driver_that_is_ended(number, doing):
    with Program(START + f"ready()\n{doing}") as program:
        program.until_ready()
        os.kill(program.pid, number)
        code, _, err = program.finish()
        assert (code, err) == (-number, "")
        program.assert_all_gone()


def test_a_driver_that_is_ended_while_its_session_starts():
    for delay in ("", "time.sleep(0.01)\n", "time.sleep(0.05)\n"):
        with Program(f"shoal.init(num_cpus=2)\n{delay}os.kill(os.getpid(), 15)") as program:
            assert program.finish()[::2] == (-15, "")
            program.assert_all_gone()


def test_a_driver_that_is_stopped_and_goes_on():
    with Program(
        START + "actor = Counter.remote(); ready()\nfor i in range(300): assert shoal.get(actor.add.remote()) == i + 1"
    ) as program:
        program.until_ready()
        for _ in range(5):
            os.kill(program.pid, signal.SIGSTOP)
            time.sleep(0.02)  # the time for which it is stopped
            os.kill(program.pid, signal.SIGCONT)
        assert program.finish()[::2] == (0, "")


def test_a_supervisor_or_worker_that_is_stopped():
    """Nobody waits for the supervisor while all goes well; shutdown() ends one that does not answer."""
    code = (
        START
        + SUPERVISOR
        + """
import signal
os.kill(supervisor, signal.SIGSTOP)
assert shoal.get([double.remote(i) for i in range(50)], timeout=20) == [2 * i for i in range(50)]
os.kill(supervisor, signal.SIGCONT)
worker = next(p["pid"] for p in _core.processes() if p["role"] == _core.WORKER and p["pid"])  # 0: it is only being started
os.kill(worker, signal.SIGSTOP)
refs = [double.remote(i) for i in range(4)]
time.sleep(0.02)
os.kill(worker, signal.SIGCONT)
assert shoal.get(refs, timeout=20) == [0, 2, 4, 6]
os.kill(worker, signal.SIGSTOP)
os.kill(supervisor, signal.SIGSTOP)
from shoal.engine.local import session
session.PATIENCE_S = 0.5
shoal.shutdown()
"""
    )
    with Program(code) as program:
        assert program.finish()[::2] == (0, "")
        program.assert_all_gone()


@pytest.mark.parametrize(
    "handler",
    [
        "signal.SIG_IGN",
        "lambda *_: reap()",
    ],
    ids=["ignored", "handled"],
)
def test_programs_that_reap_all_children(handler):
    """With SIGCHLD ignored, or a handler that waits for whatever child has ended, as servers have."""
    code = f"""
import signal
def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError:
        pass
signal.signal(signal.SIGCHLD, {handler})
for _ in range(2):
    shoal.init(num_cpus=2)
    assert shoal.get(double.remote(1)) == 2
    @shoal.remote(max_retries=0)
    def dies(): os._exit(3)
    try:
        shoal.get(dies.remote())
    except shoal.exceptions.WorkerCrashedError as error:
        assert "exited with code 3" in str(error), error
    else:
        raise AssertionError
    assert shoal.get(double.remote(1)) == 2
    shoal.shutdown()
shoal.init(num_cpus=1)
from shoal import _core
shoal.get(double.remote(1))
os.kill(_core.processes()[1]["pid"], 9)
try:
    while True: shoal.get(double.remote(1), timeout=20)
except shoal.exceptions.SessionEndedError:
    pass
"""
    assert run(code)[::2] == (0, "")


def test_the_end_of_the_supervisor_is_explained():
    code = (
        START
        + SUPERVISOR
        + """
os.kill(supervisor, 9)
try:
    shoal.get(forever.remote(), timeout=20)
except shoal.exceptions.SessionEndedError as error:
    print(error)
"""
    )
    status, out, err = run(code)
    assert (status, err) == (0, "") and "its supervisor process was killed by signal 9" in out


def test_a_guest_learns_why_the_session_ended():
    guest = (
        PRELUDE
        + """
shoal.init(address=sys.argv[1])
ready()
try:
    shoal.get(forever.remote(), timeout=20)
except shoal.exceptions.SessionEndedError as error:
    print(error)
"""
    )
    name = f"killed-{os.getpid()}"
    with Program(f"shoal.init(num_cpus=1, session_name={name!r}); ready(); time.sleep(60)") as driver:
        driver.until_ready()
        command = [sys.executable, "-c", guest, name]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            os.kill(driver.pid, signal.SIGKILL)
            assert "ended with the driver, which is gone" in process.stdout.read()


def test_a_supervisor_that_cannot_start_is_explained(tmp_path):
    code = """
sys.path.insert(0, FOLDER)
shoal.init(num_cpus=1)
try:
    shoal.get(double.remote(1), timeout=30)
except shoal.exceptions.SessionEndedError as error:
    print(error)
""".replace("FOLDER", repr(str(tmp_path)))
    (tmp_path / "selectors.py").write_text("raise ImportError('mine')")
    status, out, err = run(code)
    assert status == 0 and "its supervisor process exited with code 1" in out and "ImportError: mine" in err, err


def test_workers_ignore_signals_of_the_terminal_only():
    """A worker that is sent SIGTERM ends, its task is run again elsewhere."""
    code = (
        START
        + """
import signal
@shoal.remote(max_retries=2)
def ends_once(path):
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    return os.getpid()
import tempfile
with tempfile.TemporaryDirectory() as folder:
    assert shoal.get(ends_once.remote(folder + "/x"), timeout=30) > 0
"""
    )
    assert run(code)[::2] == (0, "")


def test_no_signal_is_ignored_by_what_a_worker_starts():
    """The supervisor ignores SIGHUP, Python itself SIGPIPE and SIGXFSZ, until it starts another program."""
    code = (
        START
        + """
import subprocess
@shoal.remote
def masks():
    lines = subprocess.check_output(["cat", "/proc/self/status"], text=True).splitlines()
    sets = [int(line.split()[1], 16) for line in lines if line.startswith(("SigBlk", "SigIgn"))]
    return [bits & 0x7FFFFFFF for bits in sets]  # 32 and 33 are the C library's
assert shoal.get(masks.remote()) == [0, 0]
"""
    )
    assert run(code)[::2] == (0, "")


def test_the_driver_closes_all_its_files():
    """As badly behaved daemons do: the session ends, and is said to have."""
    code = (
        START
        + """
ref = forever.remote()
os.closerange(3, 1000)
try:
    while True: shoal.get(double.remote(1), timeout=30)
except shoal.exceptions.SessionEndedError as error:
    print(error)
os._exit(0)
"""
    )
    with Program(code) as program:
        status, out, err = program.finish()
        assert (status, err) == (0, "") and "the session has ended" in out, out
        until(lambda: not program.family())
