"""The coordinator: rounds, in each round stages, in each stage one peer after the other.

    round 1   startup: shoal ray ...   tasks and actors: physical shoal ray ...   programs: shoal ray ...   objects ...
    round 2   the same, the peers in the opposite order

Every peer runs in a process of its own (child.py), which starts its session, measures the stage's rows and
ends it, so no two sessions overlap, and what drifts on the machine meets all peers alike. A row that takes
too long or brings its process down costs only itself: the rest of the stage goes on in a new process.
"""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import processes, startup
from benchmarks.measure import QUICK, Plan
from benchmarks.peers import PEERS, PHYSICAL
from benchmarks.rows import (
    ASLEEP,
    BY_KEY,
    CLOSE,
    IDEALS,
    MEMCPY_ALL,
    PROGRAMS,
    PYTHON,
    SCATTERED,
    SPINNING,
    STAGES,
    Group,
    Row,
)  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 60.0  # to start or end a session
# A peer other than Shoal does not repeat a row if that once took it ENOUGH_S, or if it is FAR times behind Shoal in it: another
# sample would cost more than it tells.
ENOUGH_S = 4.0
FAR = 20.0
# By the first group of a stage. A copy by one core is measured in turns with Shoal's puts, by Shoal's process.
_PHYSICAL_ROWS: dict[Group, tuple[str, ...]] = {
    "startup": (PYTHON,),
    "tasks": (ASLEEP, SPINNING),
    "objects": (SPINNING, MEMCPY_ALL),
    "sharing": (SCATTERED,),
}


@dataclass(frozen=True)
class Options:
    """What is asked for."""

    rows: tuple[Row, ...]
    peers: tuple[str, ...] = tuple(PEERS)
    rounds: int = 3
    minutes: float = 9.5  # no further round that would not fit
    quick: bool = False
    every_round: bool = False  # repeat each row in each round, whatever it costs

    @property
    def plan(self) -> Plan:
        return QUICK if self.quick else Plan()


@dataclass
class Results:
    """Samples and reasons, by row and peer."""

    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    checks: dict[str, dict[str, float]] = field(default_factory=dict)
    parts: dict[str, list[list[float]]] = field(default_factory=dict)  # import, init, first task, by peer
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)  # all times that a peer measured a row
    longest: dict[tuple[str, str], float] = field(default_factory=dict)  # the longest of them
    rounds: int = 0

    def add(self, row: str, peer: str, samples: Sequence[float]) -> None:
        self.samples.setdefault(row, {}).setdefault(peer, []).extend(samples)

    def took(self, row: str, peer: str, seconds: float) -> None:
        self.seconds[row, peer] = self.seconds.get((row, peer), 0.0) + seconds
        self.longest[row, peer] = max(self.longest.get((row, peer), 0.0), seconds)

    def fail(self, row: str, peer: str, reason: str) -> None:
        self.missing.setdefault(row, {})[peer] = reason


def log_path() -> Path:
    """Where everything goes that peers print."""
    path = ROOT / "build" / "benchmarks"
    path.mkdir(parents=True, exist_ok=True)
    return path / "peers.log"


def environment() -> dict[str, str]:
    """What all peers see. One thread per process in BLAS, because there is a process per core."""
    found = {**os.environ}
    found["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [found.get("PYTHONPATH")])])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        found[name] = "1"
    found["RAY_USAGE_STATS_ENABLED"] = "0"
    found["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # or Ray warns about the value it would like here
    return found


class Run:
    """One run of the comparison."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.results = Results()
        self.environment = environment()
        self.cores = max(2, len(os.sched_getaffinity(0)))
        self.log = open(log_path(), "wb")  # noqa: SIM115  (it lives as long as the run)

    def go(self) -> Results:
        """All rounds that fit into the time."""
        processes.adopt_orphans()
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
            self.environment["RAY_TMPDIR"] = folder  # Ray leaves 300 kB of logs behind in each session
            self._rounds()
        self.log.close()
        return self.results

    def _rounds(self) -> None:
        begun, last = time.monotonic(), 0.0  # each round is shorter than the one before: some rows are not in it
        for number in range(self.options.rounds):
            round_begun = time.monotonic()
            if number and round_begun - begun + last > self.options.minutes * 60:
                print(f"no time for round {number + 1}", flush=True)
                break
            before = dict(self.results.seconds)
            self.round(number)
            self.results.rounds += 1
            # What a further round will leave out: rows that are measured once, or on which enough was spent.
            spared = sum(
                seconds - before.get((row, peer), 0.0)
                for (row, peer), seconds in self.results.seconds.items()
                if row in BY_KEY and not self.again(BY_KEY[row], peer)
            )
            last = time.monotonic() - round_begun - spared

    def round(self, number: int) -> None:
        for stage in STAGES:
            rows = [row for row in self.options.rows if row.group in stage]
            if not rows:
                continue
            begun = time.monotonic()
            if physical := _PHYSICAL_ROWS.get(stage[0]):
                self.child(PHYSICAL, list(physical))
            peers = [name for name in self.options.peers if any(row.key in PEERS[name].rows for row in rows)]
            if stage == PROGRAMS:
                peers = [name for name in peers if name in CLOSE or name == "serial"]
            if number % 2:
                peers.reverse()
            spent: list[str] = []
            for name in peers:
                peer_begun = time.monotonic()
                if stage == ("startup",):
                    self.start_up(name, list(self.wanted(name, rows)))
                elif name == "serial":  # has the ideals of the programs
                    self.child(name, [*(self.wanted(name, rows) if stage != PROGRAMS else ()), *ideals(rows)])
                else:
                    self.child(name, list(self.wanted(name, rows)))
                spent.append(f"{name} {time.monotonic() - peer_begun:.0f}")
            total = time.monotonic() - begun
            print(f"round {number + 1}  {' and '.join(stage):18} {total:6.1f} s   {', '.join(spent)}", flush=True)

    def wanted(self, peer: str, rows: Sequence[Row]) -> Iterator[str]:
        """The rows that this peer has not measured yet, or that are worth another time."""
        for row in rows:
            failed = peer in self.results.missing.get(row.key, {})
            new = (row.key, peer) not in self.results.seconds
            if row.key in PEERS[peer].rows and not failed and (new or self.again(row, peer)):
                yield row.key

    def again(self, row: Row, peer: str) -> bool:
        """Whether to measure it another time tells more than it costs."""
        if self.options.every_round:
            return True
        if row.once or peer in row.once_for:
            return False
        if peer == "shoal":
            return True
        if self.results.longest.get((row.key, peer), 0.0) >= ENOUGH_S:
            return False
        samples = self.results.samples.get(row.key, {})
        if not samples.get("shoal") or not samples.get(peer):
            return True
        ours, theirs = (statistics.median(samples[name]) for name in ("shoal", peer))
        return max(theirs, ours) <= FAR * min(theirs, ours) or (ours < theirs) == row.higher

    def start_up(self, peer: str, rows: Sequence[str]) -> None:
        if not rows:
            return
        package = PEERS[peer].package
        if package and not _installed(package):
            for row in rows:
                self.results.fail(row, peer, f"{package} is not installed")
            return
        idle_s = 0.0 if "idle_cpu" not in rows else 0.3 if self.options.quick else 10.0
        try:
            found = startup.measure(peer, idle_s, self.environment)
        except Exception as error:
            for row in rows:
                self.results.fail(row, peer, f"{type(error).__name__}: {error}")
            return
        self.results.parts.setdefault(peer, []).append(found["parts"])
        for row in rows:
            self.results.took(row, peer, idle_s if row == "idle_cpu" else 0.0)  # the others come together
            if row in found:
                self.results.add(row, peer, [found[row]])

    def child(self, peer: str, rows: list[str]) -> None:
        """Measure rows in processes of their own, one, unless a row breaks its process."""
        while rows:
            done = self.one_child(peer, rows)
            if done is None:
                return
            rows = rows[done:]

    def one_child(self, peer: str, rows: list[str]) -> int | None:
        """How many of the rows are dealt with; None if the peer cannot be had."""
        read_end, write_end = os.pipe()
        orders = {
            "peer": peer, "rows": rows, "plan": self.options.plan.as_dict(), "cores": self.cores,
            "fd": write_end,
        }  # fmt: skip
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", json.dumps(orders)],
            cwd=ROOT, env=self.environment, pass_fds=[write_end], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log,
        )  # fmt: skip
        os.close(write_end)
        lines, current, done, reason = Lines(read_end), "", 0, ""
        try:
            while (message := lines.next(_limit(current))) is not None:
                if "row" in message:
                    done += 1
                    self.take(peer, message, lines.waited)
                elif "missing" in message:
                    for row in rows[done:]:
                        self.results.fail(row, peer, message["missing"])
                    return None
                current = message.get("start", "")
        except TimeoutError:
            reason = f"no result within {_limit(current):.0f} s"
        finally:
            os.close(read_end)
            if reason:
                processes.end(child.pid)
            code = child.wait()
            processes.end_orphans()
        if done == len(rows):
            return done
        if not current:  # it did not even start, or not end
            for row in rows[done:]:
                self.results.fail(row, peer, reason or f"its process ended with code {code}")
            return None
        self.results.fail(current, peer, reason or f"its process ended with code {code}")
        return done + 1

    def take(self, peer: str, message: dict[str, Any], seconds: float) -> None:
        """Note what a child told about a row, and how long it took."""
        row = message["row"]
        self.results.took(row, peer, seconds)
        if "missing" in message:
            self.results.fail(row, peer, message["missing"])
            return
        self.results.add(row, peer, message["samples"])
        for reference, samples in message.get("beside", {}).items():
            self.results.add(reference, PHYSICAL, samples)
        if message["check"] is not None:
            self.results.checks.setdefault(row, {})[peer] = message["check"]


def ideals(rows: Sequence[Row]) -> list[str]:
    """The ideals that these rows are held against."""
    return [ideal for ideal in IDEALS if any(row.reference == ideal for row in rows)]


def _installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def _limit(row: str) -> float:
    return BY_KEY[row].limit_s if row in BY_KEY else START_LIMIT_S


class Lines:
    """The lines of a child as they come."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.text = b""
        self.waited = 0.0  # for the last line

    def next(self, limit: float) -> dict[str, Any] | None:
        """The next line, None when there are no more. Raises TimeoutError after `limit` seconds."""
        begun = time.monotonic()
        while b"\n" not in self.text:
            left = begun + limit - time.monotonic()
            if not select.select([self.fd], [], [], max(0.0, left))[0]:
                raise TimeoutError
            data = os.read(self.fd, 65536)
            if not data:
                return None
            self.text += data
        self.waited = time.monotonic() - begun
        line, _, self.text = self.text.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found
