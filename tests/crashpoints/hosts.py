"""The processes of the walk: a driver that does what it is told, and guests. Each is forked from the walk's own process."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

ARENA = 160 << 20
TOKEN = "SHOAL_WALK"
LIMIT_S = 100.0  # for what takes a second


def fork(act: Callable[[int], None], log: str) -> tuple[int, int]:
    """A child that does `act(pipe)`; its pid and the other end of the pipe."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return pid, ours
    status = 1
    try:
        os.close(ours)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1)
        act(theirs)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def read_line(fd: int, seconds: float) -> str | None:
    """None: not within the time; empty: the writer is gone."""
    line = b""
    end = time.monotonic() + seconds
    while not line.endswith(b"\n"):
        if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
            return None
        piece = os.read(fd, 65536)
        if not piece:
            return ""
        line += piece
    return line.decode()


def _workload(name: str, seed: int) -> int:
    from tests.crashpoints.workloads import WORKLOADS

    return WORKLOADS[name](random.Random(seed), 1)


class _Calls:
    """Made once per process, so that each function is exported once."""

    made: dict[str, Any] = {}

    @classmethod
    def get(cls, name: str) -> Any:
        import shoal

        if not cls.made:
            cls.made["worker"] = shoal.remote(max_retries=-1)(_workload)

            class Runner:
                def run(self, name: str, seed: int) -> int:
                    return _workload(name, seed)

            cls.made["actor"] = shoal.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)(Runner)
        return cls.made[name]


def run_as(kind: str, name: str, seed: int) -> None:
    """Does a workload in a process of that kind; what is killed begins anew."""
    import shoal

    if kind == "driver":
        _workload(name, seed)
    elif kind == "worker":
        shoal.get(_Calls.get("worker").remote(name, seed), timeout=LIMIT_S)
    else:
        runner = _Calls.get("actor").remote()
        shoal.get(runner.run.remote(name, seed), timeout=LIMIT_S)


def rest(seconds: float) -> str:
    """What is wrong with the session once it has come to rest; empty: nothing. Raises SessionError if it has ended."""
    import gc

    from tests.crashpoints.common import DETACHED
    from tests.soak.driver import objects

    import shoal
    from shoal import _core

    try:
        shoal.kill(shoal.get_actor(DETACHED))  # left by who was killed before he could end it
    except ValueError:
        pass
    report, end = "it did not come to rest", time.monotonic() + seconds
    while time.monotonic() < end:
        shoal.get(shoal.put(None))
        gc.collect()
        busy = [p for p in _core.processes() if p["slot"] > 1 and (p["running"] or p["lease"] or p["role"] in (4, 5))]
        if busy:
            report = f"still busy: {busy}"
        else:
            named = sum(len(_core.name_list(space)) for space in (2, 3, 4, 5))
            left = _core.statistics()["objects"] - 1 - named
            report = _core.check()
            if not report and (left or _core.actors()):
                report = f"{left} objects and {_core.actors()} actors are left:\n" + "\n".join(objects())
            if not report:
                return ""
        time.sleep(0.002)
    return report


def driver(session: str, pipe: int, orders: int) -> None:
    """A session; then one order a line: kind, workload, seed. Answers with what is wrong, as JSON."""
    import shoal

    shoal.init(num_cpus=3, num_gpus=1, resources={"special": 1}, object_store_memory=ARENA, session_name=session)
    os.write(pipe, b'"ready"\n')
    with os.fdopen(orders) as lines:
        for line in lines:
            kind, name, seed = json.loads(line)
            problem = ""
            try:
                if kind != "rest":
                    run_as(kind, name, seed)
                problem = rest(30)
            except BaseException:
                problem = traceback.format_exc()
            os.write(pipe, (json.dumps(problem) + "\n").encode())
    shoal.shutdown()


def guest(session: str, name: str, seed: int) -> None:
    import shoal

    shoal.init(address=session)
    _workload(name, seed)
    shoal.shutdown()


def alone(kind: str, name: str, seed: int) -> None:
    """A driver with a session of its own, which may lose its supervisor."""
    import shoal
    from shoal.exceptions import SessionError

    shoal.init(num_cpus=3, num_gpus=1, resources={"special": 1}, object_store_memory=ARENA)
    try:
        _workload(name, seed)
        problem = rest(30)  # the supervisor has a part in that
        assert not problem, problem
    except SessionError:
        if kind != "supervisor":
            raise
    shoal.shutdown()


def processes(token: str) -> list[int]:
    """Everybody of this run of the walk, but itself."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f"{TOKEN}={token}".encode() not in file.read().split(b"\0"):
                    continue
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] not in "ZX" and int(pid) != os.getpid():
                    found.append(int(pid))
        except OSError:
            pass
    return found
