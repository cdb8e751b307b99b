"""One process of the walk: does workloads as it is told, kills at marks, and says what was wrong afterwards.

Each order is a line of JSON on the standard input, and so is its answer. It has a session, a board and a folder of its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from tests.crashpoints import hosts
from tests.crashpoints.board import Board

LEFT_S = 5.0  # after the death of a driver or supervisor everybody must be gone within
Way = Sequence[Any]  # by what a mark is passed: seconds, done how, workload, passages


class Walk:
    def __init__(self, folder: str, seed: int) -> None:
        self.board = Board(f"{folder}/board")
        self.rng = random.Random(seed)
        self.log = f"{folder}/log"
        self.session = f"walk-{os.getpid()}"
        self.token = os.environ[hosts.TOKEN]
        self.driver: tuple[int, int, int] | None = None  # pid, answers, orders
        self.end_s = 0.0  # the last time that a session ended by force: until everybody was gone

    # -- the session that outlives its workers, actors and guests -----------------------------------------------------

    def start(self) -> None:
        theirs, orders = os.pipe()
        os.set_inheritable(theirs, True)

        def act(pipe: int) -> None:
            os.close(orders)
            hosts.driver(self.session, pipe, theirs)

        pid, answers = hosts.fork(act, self.log)
        os.close(theirs)
        self.driver = (pid, answers, orders)
        assert hosts.read_line(answers, hosts.LIMIT_S) == '"ready"\n', self.tail()

    def stop(self) -> None:
        if self.driver is None:
            return
        pid, answers, orders = self.driver
        self.driver = None
        os.close(orders)
        os.waitpid(pid, 0)
        os.close(answers)

    def clear(self) -> None:
        """After a failure: nobody is left of the session."""
        for pid in hosts.processes(self.token):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.driver is not None:
            pid, answers, orders = self.driver
            os.waitpid(pid, 0)
            os.close(answers)
            os.close(orders)
            self.driver = None

    def tail(self) -> str:
        with open(self.log, errors="replace") as file:
            return file.read()[-6000:]

    def order(self, kind: str, name: str, seed: int) -> str:
        """Has the driver do it; what is wrong, or nothing."""
        if self.driver is None:
            self.start()
        assert self.driver is not None
        pid, answers, orders = self.driver
        os.write(orders, (json.dumps([kind, name, seed]) + "\n").encode())
        answer = hosts.read_line(answers, hosts.LIMIT_S * 1.5)
        if answer:
            return str(json.loads(answer))
        for one in hosts.processes(self.token) if answer is None else ():
            try:
                os.kill(one, signal.SIGUSR1 if one == pid else signal.SIGABRT)
            except ProcessLookupError:
                pass
        time.sleep(0.5)
        return f"{'it hangs' if answer is None else 'the driver is gone'}\n{self.tail()}"

    def guest(self, name: str, seed: int) -> str:
        if self.driver is None:
            self.start()
        pid, pipe = hosts.fork(lambda _pipe: hosts.guest(self.session, name, seed), self.log)
        gone = hosts.read_line(pipe, hosts.LIMIT_S)
        os.close(pipe)
        if gone is None:
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if gone is None:
            return f"the guest hangs\n{self.tail()}"
        if status and not (os.WIFSIGNALED(status) and pid == self.board.victim):
            return f"the guest ended with status {status}\n{self.tail()}"
        return self.order("rest", "", 0)

    def alone(self, kind: str, name: str, seed: int) -> str:
        """A session of its own, for the deaths that end it."""
        self.stop()
        pid, pipe = hosts.fork(lambda _pipe: hosts.alone(kind, name, seed), self.log)
        gone = hosts.read_line(pipe, hosts.LIMIT_S)
        os.close(pipe)
        if gone is None:
            os.kill(pid, signal.SIGUSR1)
            time.sleep(0.3)
            self.clear()
            os.waitpid(pid, 0)
            return f"the driver hangs\n{self.tail()}"
        _, status = os.waitpid(pid, 0)
        start = time.monotonic()
        while left := hosts.processes(self.token):
            if time.monotonic() - start > LEFT_S:
                self.clear()
                return f"processes are left: {left}"
            time.sleep(0.002)
        self.end_s = time.monotonic() - start
        if status and not (os.WIFSIGNALED(status) and pid == self.board.victim):
            return f"the driver ended with status {status}\n{self.tail()}"
        return ""

    def do(self, how: str, kind: str, name: str, seed: int) -> str:
        """One workload, done by a process of kind `how`; `kind` is that of the victim."""
        if kind in ("driver", "supervisor"):
            return self.alone(kind, name, seed)
        return self.guest(name, seed) if how == "guest" else self.order(how, name, seed)

    # -- the orders ---------------------------------------------------------------------------------------------------

    def look(self, how: str, name: str) -> dict[str, Any]:
        """Who passes what in a workload in which nobody is killed."""
        before, start = self.board.passages(), time.monotonic()
        problem = self.do(how, "driver" if how == "alone" else "worker", name, 1)
        took = time.monotonic() - start
        if problem:
            self.clear()
        passed = [
            [role, mark, times]
            for (role, mark), times in (self.board.passages() - before).items()
            if (role in ("driver", "supervisor")) == (how == "alone")
        ]
        return {"seconds": took, "passed": passed, "problem": problem}

    def kill(self, kind: str, mark: str, ways: list[Way]) -> dict[str, Any]:
        """A process of that kind dies at the mark, if one passes it."""
        problem = ""
        for turn, (_, how, name, times) in enumerate(ways):
            passage = 1 if turn else self.rng.randint(1, min(times, 30))
            seed = 1 if not turn else self.rng.randrange(1000)
            self.board.arm(kind, mark, passage)
            self.end_s = 0.0
            problem = self.do(how, kind, name, seed)
            victim = self.board.victim
            self.board.disarm()
            if problem:
                self.clear()
                problem = (
                    f"{kind} {'killed' if victim else 'to be killed'} at {mark}, passage {passage}, "
                    f"in {name} by {how}, seed {seed}: {problem}"
                )
            if problem or victim:
                return {"died": bool(victim), "problem": problem, "end_s": self.end_s}
        return {"died": False, "problem": "", "end_s": 0.0}


def main() -> None:
    walk = Walk(os.environ["TMPDIR"], int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        for line in sys.stdin:
            what, *order = json.loads(line)
            print(json.dumps(walk.look(*order) if what == "look" else walk.kill(*order)), file=answers, flush=True)
        walk.stop()
    finally:
        walk.clear()


if __name__ == "__main__":
    main()
