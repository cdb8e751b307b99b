"""The walk. See the package's text."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict

from tests.crashpoints import hosts
from tests.crashpoints.board import Board, marks
from tests.crashpoints.workloads import WORKLOADS

KINDS = ("worker", "actor", "guest", "driver", "supervisor")
GONE_S = 1.0
TRIES = 3  # times that a workload is done until its victim dies


class Walk:
    def __init__(self, options: argparse.Namespace, folder: str) -> None:
        self.options, self.folder = options, folder
        self.board = Board(f"{folder}/board")
        self.rng = random.Random(options.seed)
        self.log = f"{folder}/log"
        self.session = f"walk-{os.getpid()}"
        self.token = os.environ[hosts.TOKEN]
        self.driver: tuple[int, int, int] | None = None  # pid, answers, orders
        self.failures: list[str] = []
        self.slowest_end = 0.0
        self.late = 0

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
            if time.monotonic() - start > 5 * GONE_S:
                self.clear()
                return f"processes are left: {left}"
            time.sleep(0.002)
        took = time.monotonic() - start
        self.slowest_end = max(self.slowest_end, took)
        self.late += took > GONE_S
        if status and not (os.WIFSIGNALED(status) and pid == self.board.victim):
            return f"the driver ended with status {status}\n{self.tail()}"
        return ""

    def do(self, how: str, kind: str, name: str, seed: int) -> str:
        """One workload, done by a process of kind `how`; `kind` is that of the victim."""
        if kind in ("driver", "supervisor"):
            return self.alone(kind, name, seed)
        return self.guest(name, seed) if how == "guest" else self.order(how, name, seed)

    # -- the two passes -----------------------------------------------------------------------------------------------

    def look(self) -> dict[tuple[str, str], list[tuple[float, str, str, int]]]:
        """(kind, mark) -> by what it is passed: seconds, done how, workload, passages."""
        reached: dict[tuple[str, str], list[tuple[float, str, str, int]]] = defaultdict(list)
        for name in WORKLOADS:
            for how in ("driver", "worker", "actor", "guest", "alone"):
                if self.options.only and name not in self.options.only.split(","):
                    continue
                before, start = self.board.passages(), time.monotonic()
                kind = "driver" if how == "alone" else "worker"
                problem = self.do(how, kind, name, 1)
                took = time.monotonic() - start
                if problem:
                    self.fail(f"{name} by {how}, nobody killed: {problem}")
                    continue
                for (role, mark), times in (self.board.passages() - before).items():
                    if (role in ("driver", "supervisor")) == (how == "alone"):
                        reached[role, mark].append((took, how, name, times))
        return reached

    def fail(self, text: str) -> None:
        self.failures.append(text)
        print(f"crashpoints: FAILED: {text}", flush=True)
        self.clear()

    def kill_at(self, kind: str, mark: str, ways: list[tuple[float, str, str, int]]) -> bool:
        """True: it died there. What is wrong afterwards is noted."""
        for turn in range(TRIES):
            cheap = sorted(ways)[: 3 if turn else 1]
            took, how, name, times = self.rng.choice(cheap)
            passage = 1 if turn else self.rng.randint(1, min(times, 30))
            seed = 1 if not turn else self.rng.randrange(1000)
            self.board.arm(kind, mark, passage)
            problem = self.do(how, kind, name, seed)
            victim = self.board.victim
            self.board.disarm()
            if problem:
                self.fail(
                    f"{kind} {'killed' if victim else 'to be killed'} at {mark}, passage {passage}, "
                    f"in {name} by {how}, seed {seed}: {problem}"
                )
                return True
            if victim:
                return True
        return False

    def run(self) -> int:
        options = self.options
        started = time.monotonic()
        source = marks()
        reached = self.look()
        roles_of: dict[str, set[str]] = defaultdict(set)
        for role, mark in reached:
            roles_of[mark].add(role)
        unreached = sorted(set(source) - set(roles_of), key=lambda m: (m.split(":")[0], int(m.split(":")[1].split()[0])))
        print(
            f"crashpoints: {len(source)} marks in the source, {len(set(source) & set(roles_of))} reached, "
            f"{len(reached)} pairs of mark and kind ({time.monotonic() - started:.0f} s)",
            flush=True,
        )
        pairs = [p for p in sorted(reached) if p[0] in options.roles.split(",")]
        if options.sample:
            pairs = self.rng.sample(pairs, min(options.sample, len(pairs)))
        if options.mark:
            pairs = [p for p in pairs if options.mark in p[1]]
        pairs.sort(key=lambda p: (KINDS.index(p[0]), sorted(reached[p])[0][1:3]))
        died: Counter[str] = Counter()
        missed: list[tuple[str, str]] = []
        for number, (kind, mark) in enumerate(pairs):
            if time.monotonic() - started > options.seconds:
                print(f"crashpoints: out of time after {number} of {len(pairs)} pairs", flush=True)
                break
            if self.kill_at(kind, mark, reached[kind, mark]):
                died[kind] += 1
            else:
                missed.append((kind, mark))
            if options.verbose and number % 50 == 49:
                print(
                    f"  {number + 1} of {len(pairs)}, {time.monotonic() - started:.0f} s, {len(self.failures)} failures", flush=True
                )
        self.stop()
        print(f"crashpoints: {sum(died.values())} deaths at marks: " + ", ".join(f"{k} {died[k]}" for k in KINDS))
        print(
            f"crashpoints: everybody gone {self.slowest_end:.3f} s after the death of a driver or supervisor at the latest, "
            f"{self.late} times later than {GONE_S:g} s"
        )
        if missed:
            print(f"crashpoints: {len(missed)} pairs were not passed again in {TRIES} tries: {missed[:20]}")
        wanting = unreached if not options.only else []
        for mark in wanting:
            print(f"crashpoints: no workload reaches {mark}: {source[mark]}")
        print(
            f"crashpoints: {len(self.failures)} failures, {len(wanting)} marks not reached, {time.monotonic() - started:.0f} s",
            flush=True,
        )
        return 1 if self.failures or wanting else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints")
    parser.add_argument("--roles", default=",".join(KINDS), help="kinds of process that are killed")
    parser.add_argument("--only", default="", help="names of workloads")
    parser.add_argument("--sample", type=int, default=0, help="so many pairs of mark and kind, drawn at random; 0: all")
    parser.add_argument("--mark", default="", help="only marks with this in their name")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    os.environ[hosts.TOKEN] = f"{os.getpid()}"
    # The token must be in what /proc shows of us and our children, so the walk starts itself once more with it.
    if "SHOAL_WALK_CHILD" not in os.environ:
        os.environ["SHOAL_WALK_CHILD"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "tests.crashpoints", *sys.argv[1:]])
    from shoal import _core

    if not _core.CRASH_POINTS:
        print("crashpoints: this build has none: make crashpoints")
        return 2
    with tempfile.TemporaryDirectory(prefix="shoal-walk-") as folder:
        os.environ["TMPDIR"] = folder  # sessions are made and looked for there
        os.environ.pop("XDG_RUNTIME_DIR", None)
        walk = Walk(options, folder)
        try:
            return walk.run()
        finally:
            walk.clear()


if __name__ == "__main__":
    sys.exit(main())
