"""A driver in a terminal: keys that are pressed, a terminal that is closed, and workers that ask for one."""

import os
import select
import signal
import subprocess
import sys
import termios
import textwrap
import time
import uuid

import pytest
from programs import PRELUDE

from conftest import until

# What a shell does: the program is a group of its own, has the terminal, and "fg" lets it go on after Ctrl-Z.
SHELL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
while os.WIFSTOPPED(status := os.waitpid(pid, os.WUNTRACED)[1]):
    os.tcsetpgrp(0, os.getpid())
    print("stopped", flush=True)
    assert input() == "fg"
    os.tcsetpgrp(0, pid)
    os.kill(-pid, signal.SIGCONT)
os.tcsetpgrp(0, os.getpid())
print("exit", os.waitstatus_to_exitcode(status), flush=True)
"""
START = """
from shoal import _core
shoal.init(num_cpus=2)
shoal.get([double.remote(i) for i in range(4)])

def processes():
    return {p["pid"]: p["role"] for p in _core.processes() if p["pid"] and p["role"] != _core.DRIVER}

supervisor = next(pid for pid, role in processes().items() if role == _core.SUPERVISOR)
"""


class Terminal:
    """A terminal in which a driver runs."""

    def __init__(self, code: str) -> None:
        self.keys, screen = os.openpty()
        settings = termios.tcgetattr(screen)
        settings[1] &= ~termios.OPOST  # or each newline becomes two characters
        settings[3] |= termios.TOSTOP  # who writes from the background is stopped
        termios.tcsetattr(screen, termios.TCSANOW, settings)
        self.mark = uuid.uuid4().hex
        self.shell = subprocess.Popen(
            [sys.executable, "-c", SHELL, PRELUDE + START + textwrap.dedent(code)],
            stdin=screen, stdout=screen, stderr=screen, start_new_session=True,
            env={**os.environ, "SHOAL_TEST_MARK": self.mark},
        )  # fmt: skip
        os.close(screen)
        self.text = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in {self.shell.pid, *self.family()}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.shell.wait()
        self.close()

    def family(self) -> list[int]:
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    if self.mark.encode() in file.read():
                        found.append(int(pid))
            except OSError:
                pass
        return found

    def close(self) -> None:
        keys, self.keys = self.keys, -1
        if keys >= 0:
            os.close(keys)

    def press(self, keys: str) -> None:
        os.write(self.keys, keys.encode())

    def until(self, text: str, seconds: float = 60) -> str:
        """Read on until there is `text`; returns what came before it, since the last time."""
        end = time.monotonic() + seconds
        while text not in self.text:
            assert select.select([self.keys], [], [], max(0.0, end - time.monotonic()))[0], self.text
            try:
                self.text += os.read(self.keys, 4096).decode()
            except OSError:  # nobody has the terminal open any more
                raise AssertionError(self.text) from None
        before, _, self.text = self.text.partition(text)
        return before


def state(pid: int) -> str:
    """As in /proc: T is stopped. Empty: there is no such process any more, as a worker beyond the number of CPUs leaves."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_ctrl_c_reaches_the_driver_alone():
    with Terminal("""
        @shoal.remote
        def presses():
            import signal
            came = []
            signal.signal(signal.SIGINT, lambda *_: came.append(1))
            shoal.sync.Event(name="began").set()
            shoal.sync.Event(name="go on").wait()
            return len(came), os.getpid(), os.getppid()

        ref = presses.remote()
        shoal.sync.Event(name="began").wait()
        (worker,) = (p["pid"] for p in _core.processes() if p["label"] == "presses")
        for _ in range(3):
            try:
                ready()
                shoal.get(ref)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
        shoal.sync.Event(name="go on").set()
        print("it saw", shoal.get(ref) == (0, worker, supervisor), processes()[supervisor] == _core.SUPERVISOR, flush=True)
        ready()
        shoal.get(forever.remote())
        """) as terminal:
        for _ in range(3):
            terminal.until("ready\n")
            terminal.press("\x03")
            terminal.until("interrupted\n")
        terminal.until("it saw True True\nready\n")
        terminal.press("\x03")
        text = terminal.until(f"exit {-signal.SIGINT}\n")
        assert text.rstrip().endswith("KeyboardInterrupt") and text.count("Traceback") == 1
        until(lambda: terminal.family() == [])


def test_a_driver_that_is_stopped_by_ctrl_z_and_goes_on():
    with Terminal("""
        print(os.getpid(), supervisor, "pids", flush=True)
        ready()
        while True:
            assert shoal.get(double.remote(1)) == 2
        """) as terminal:
        driver, supervisor = map(int, terminal.until("pids").split())
        terminal.until("ready\n")
        terminal.press("\x1a")
        terminal.until("stopped\n")
        others = {*terminal.family()} - {terminal.shell.pid, driver}
        assert state(driver) == "T" and supervisor in others and len(others) >= 2  # it, and who has run double()
        assert not any(state(pid) == "T" for pid in others)
        terminal.press("fg\n")
        until(lambda: state(driver) != "T")
        terminal.press("\x03")
        terminal.until(f"exit {-signal.SIGINT}\n")
        until(lambda: terminal.family() == [])


@pytest.mark.parametrize("stopped", ["", "os.kill(pid, signal.SIGSTOP)"], ids=["", "workers stopped"])
def test_a_terminal_that_is_closed(stopped):
    with Terminal(f"""
        import signal
        refs = [forever.remote(), spin.remote()]
        for pid, role in processes().items():
            if role == _core.WORKER:
                {stopped or "pass"}
        ready()
        shoal.get(refs)
        """) as terminal:
        terminal.until("ready\n")
        terminal.close()
        until(lambda: terminal.family() == [])


def test_a_worker_has_no_terminal_but_the_drivers_session():
    """The session (in the sense of setsid) is the driver's, since the kernel shares the cores out among sessions first."""
    with Terminal("""
        import getpass

        @shoal.remote
        def place():
            return os.getsid(0) == os.getsid(os.getppid()), os.getpgid(0) == os.getppid()

        @shoal.remote
        def asks():
            answers = []
            for question in (lambda: open("/dev/tty"), input, getpass.getpass):
                try:
                    answers.append(question())
                except Exception as error:
                    answers.append(type(error).__name__)
            os.system("echo from a child >&2")
            print("from a worker")
            return answers

        assert os.getsid(supervisor) == os.getsid(0) and os.getpgid(supervisor) == supervisor != os.getpgid(0)
        assert shoal.get(place.remote()) == (True, True)
        answers = shoal.get(asks.remote(), timeout=50)
        assert answers == ["OSError", "EOFError", "EOFError"], answers
        shoal.shutdown()
        """) as terminal:
        text = terminal.until("exit 0\n")
        assert "from a child\n" in text and "from a worker\n" in text
