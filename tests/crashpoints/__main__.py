"""The walk. See the package's text."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tests.crashpoints import hosts
from tests.crashpoints.board import CORE, marks
from tests.crashpoints.workloads import WORKLOADS

KINDS = ("worker", "actor", "guest", "driver", "supervisor")
WAYS = ("driver", "worker", "actor", "guest", "alone")
GONE_S = 1.0
TRIES, MORE_TRIES = 3, 8  # workloads that are done until the victim dies: at first, and once more at the end
STATE = CORE.parent / "build" / "crashpoints.jsonl"  # what is done, for --resume
EXCLUDED = Path(__file__).with_name("excluded.txt")


class Walkers:
    """Processes that do orders side by side."""

    def __init__(self, n: int, seed: int, folder: str) -> None:
        self.orders: queue.Queue[tuple[Any, Any] | None] = queue.Queue()
        self.answers: queue.Queue[tuple[Any, Any, dict[str, Any]]] = queue.Queue()
        self.threads = [threading.Thread(target=self._serve, args=(k, seed, folder), daemon=True) for k in range(n)]
        for thread in self.threads:
            thread.start()

    def _serve(self, k: int, seed: int, folder: str) -> None:
        home = f"{folder}/{k}"
        os.mkdir(home)
        # The token must be in what /proc shows of all of its processes. Sessions are made and looked for in its own folder.
        environment = {**os.environ, hosts.TOKEN: f"{os.getpid()}-{k}", "TMPDIR": home}
        environment.pop("XDG_RUNTIME_DIR", None)
        walker = subprocess.Popen(
            [sys.executable, "-m", "tests.crashpoints.walker", f"{seed + k}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert walker.stdin is not None and walker.stdout is not None
        while (item := self.orders.get()) is not None:
            key, order = item
            walker.stdin.write(json.dumps(order) + "\n")
            walker.stdin.flush()
            line = walker.stdout.readline()
            self.answers.put((key, order, json.loads(line) if line else {"problem": "the walker itself has ended"}))
            if not line:
                break
        walker.stdin.close()
        walker.wait()

    def close(self) -> None:
        for _ in self.threads:
            self.orders.put(None)
        for thread in self.threads:
            thread.join(2 * hosts.LIMIT_S)


class Walk:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rng = random.Random(options.seed)
        self.started = time.monotonic()
        self.reached: dict[tuple[str, str], list[list[Any]]] = defaultdict(list)  # (kind, mark): by what, see walker.Way
        self.done: dict[tuple[str, str], dict[str, Any]] = {}
        self.failures: list[str] = []
        self.state: Any = None

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def fail(self, text: str) -> None:
        self.failures.append(text)
        print(f"crashpoints: FAILED: {text}", flush=True)

    # -- what is known from before ------------------------------------------------------------------------------------

    def open_state(self, digest: str) -> bool:
        """Whether an earlier walk over this source is gone on with."""
        known = []
        if self.options.resume and STATE.exists():
            for line in STATE.read_text().splitlines():
                try:
                    known.append(json.loads(line))
                except ValueError:  # cut off
                    break
        again = bool(known) and known[0] == digest
        STATE.parent.mkdir(exist_ok=True)
        self.state = STATE.open("w")
        self.note(digest)
        for line in known[1:] if again else ():
            self.note(line)
            if "reached" in line:
                self.reached.update({(kind, mark): ways for kind, mark, ways in line["reached"]})
            elif not line["answer"]["problem"]:  # what failed is done again
                self.done[line["kind"], line["mark"]] = line["answer"]
        return again and bool(self.reached)

    def note(self, what: Any) -> None:
        print(json.dumps(what), file=self.state, flush=True)

    # -- the two passes -----------------------------------------------------------------------------------------------

    def look(self, walkers: Walkers) -> None:
        names = self.options.only.split(",") if self.options.only else list(WORKLOADS)
        orders = [(how, name) for name in names for how in WAYS]
        for how, name in orders:
            walkers.orders.put(((how, name), ["look", how, name]))
        for _ in orders:
            (how, name), _, answer = walkers.answers.get()
            if answer["problem"]:
                self.fail(f"{name} by {how}, nobody killed: {answer['problem']}")
                continue
            for role, mark, times in answer["passed"]:
                self.reached[role, mark].append([answer["seconds"], how, name, times])
        self.note({"reached": [[kind, mark, ways] for (kind, mark), ways in self.reached.items()]})

    def kill(self, walkers: Walkers, pairs: list[tuple[str, str]], tries: int) -> None:
        waiting = 0
        for kind, mark in pairs:
            ways = sorted(self.reached[kind, mark])
            cheap = [self.rng.choice(ways[:2]), *ways, *ways][:tries]
            walkers.orders.put(((kind, mark), ["kill", kind, mark, cheap]))
            waiting += 1
        total = waiting
        while waiting:
            (kind, mark), _, answer = walkers.answers.get()
            waiting -= 1
            self.done[kind, mark] = answer
            self.note({"kind": kind, "mark": mark, "answer": answer})
            if answer["problem"]:
                self.fail(answer["problem"])
            if (total - waiting) % 200 == 0 or (self.options.verbose and (total - waiting) % 50 == 0):
                print(f"  {total - waiting} of {total}, {self.seconds():.0f} s, {len(self.failures)} failures", flush=True)
            if self.seconds() > self.options.seconds:
                taken = 0
                while not walkers.orders.empty():
                    try:
                        walkers.orders.get_nowait()
                        taken += 1
                    except queue.Empty:
                        break
                waiting -= taken
                if taken:
                    print(f"crashpoints: out of time, {taken} pairs are left: --resume goes on with them", flush=True)

    def run(self, folder: str) -> int:
        options = self.options
        source = marks()
        digest = hashlib.sha256("".join(f"{m} {text}" for m, text in source.items()).encode()).hexdigest()
        known = self.open_state(digest)
        walkers = Walkers(options.jobs, options.seed, folder)
        if not known:
            self.look(walkers)
        print(
            f"crashpoints: {len(source)} marks in the source, {len({m for _, m in self.reached} & set(source))} reached, "
            f"{len(self.reached)} pairs of mark and kind, {len(self.done)} of them known from before ({self.seconds():.0f} s)",
            flush=True,
        )
        pairs = [p for p in self.reached if p[0] in options.roles.split(",") and options.mark in p[1]]
        pairs.sort(key=lambda p: (sorted(self.reached[p])[0][1:3], p))  # one workload after the other
        if options.sample:
            pairs = sorted(self.rng.sample(pairs, min(options.sample, len(pairs))), key=pairs.index)
        # First somebody at each mark, then the other kinds of process.
        first = {mark: (kind, mark) for kind, mark in reversed(pairs)}
        first.update({mark: (kind, mark) for kind, mark in pairs if self.died((kind, mark))})
        pairs.sort(key=lambda p: first[p[1]] != p)
        self.kill(walkers, [p for p in pairs if p not in self.done], TRIES)
        self.kill(walkers, [p for p in pairs if p in self.done and not self.died(p)], MORE_TRIES)
        walkers.close()
        return self.report(source, pairs)

    def died(self, pair: tuple[str, str]) -> bool:
        return bool(self.done.get(pair, {}).get("died"))

    def report(self, source: dict[str, str], pairs: list[tuple[str, str]]) -> int:
        died: Counter[str] = Counter()
        kinds_of: dict[str, set[str]] = defaultdict(set)
        for kind, mark in self.done:
            if self.died((kind, mark)):
                died[kind] += 1
                kinds_of[mark].add(kind)
        ends = [answer["end_s"] for answer in self.done.values() if answer.get("end_s")]
        late = sum(t > GONE_S for t in ends)
        print(f"crashpoints: {sum(died.values())} deaths at marks: " + ", ".join(f"{k} {died[k]}" for k in KINDS))
        print(
            f"crashpoints: everybody gone {max(ends, default=0):.3f} s after the death of a driver or supervisor at the latest, "
            f"{late} of {len(ends)} times later than {GONE_S:g} s"
        )
        missed = [p for p in pairs if p in self.done and not self.died(p)]
        if missed:
            print(f"crashpoints: {len(missed)} pairs were not passed again in {TRIES + MORE_TRIES} tries: {missed[:30]}")
        survived = {mark for mark in source if kinds_of[mark]}
        wanting = [] if options_are_few(self.options) else self.unaccounted(source, kinds_of)
        for text in wanting:
            print(f"crashpoints: {text}")
        print(
            f"crashpoints: {len(self.failures)} failures, {len(survived)} of {len(source)} marks "
            f"survived by one kind of process or more, {len(wanting)} not accounted for, {self.seconds():.0f} s",
            flush=True,
        )
        return 1 if self.failures or wanting else 0

    def unaccounted(self, source: dict[str, str], kinds_of: dict[str, set[str]]) -> list[str]:
        """Marks at which nobody died and which are not excluded; and exclusions that are not true."""
        excluded = {}
        for line in EXCLUDED.read_text().splitlines():
            if line.strip() and not line.startswith("#"):
                where, _, reason = line.partition("  --  ")
                assert reason, f"no reason is given: {line}"
                excluded[where.strip()] = reason
        used = set()
        wanting = []
        # The release of a lock (tx.unlocked) is a mark only where there was one, which the source does not show.
        for mark, code in {**{mark: "" for _, mark in self.reached}, **source}.items():
            name = f"{mark.split(':')[0]}: {code}"
            if kinds_of[mark]:
                if name in excluded:
                    wanting.append(f"excluded, but {', '.join(sorted(kinds_of[mark]))} died there: {mark}: {code}")
            elif name not in excluded:
                reached = sorted({kind for kind, m in self.reached if m == mark})
                wanting.append(f"{'never killed at' if reached else 'no workload reaches'} {mark}: {code}")
            used.add(name)
        wanting += [f"excluded, but not in the source: {name}" for name in excluded if name not in used]
        return wanting


def options_are_few(options: argparse.Namespace) -> bool:
    return bool(options.only or options.mark or options.sample or options.roles != ",".join(KINDS))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints")
    parser.add_argument("--roles", default=",".join(KINDS), help="kinds of process that are killed")
    parser.add_argument("--only", default="", help="names of workloads")
    parser.add_argument("--sample", type=int, default=0, help="so many pairs of mark and kind, drawn at random; 0: all")
    parser.add_argument("--mark", default="", help="only marks with this in their name")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--jobs", type=int, default=2 * len(os.sched_getaffinity(0)), help="sessions side by side")
    parser.add_argument("--resume", action="store_true", help="go on with the last walk, if the source is the same")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    from shoal import _core

    if not _core.CRASH_POINTS:
        print("crashpoints: this build has none: make crashpoints")
        return 2
    with tempfile.TemporaryDirectory(prefix="shoal-walk-", ignore_cleanup_errors=True) as folder:
        return Walk(options).run(folder)


if __name__ == "__main__":
    sys.exit(main())
