"""Starts one driver after another for some time, ends some by force, and looks for what is left."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

from tests.soak.proc import parent_of

TOKEN = "SHOAL_SOAK_TOKEN"
ROUND_S = 300  # no round may take longer
GONE_S = 1.0  # after the death of the driver or the supervisor, everybody must be gone within


def of_the_round(token: str) -> list[int]:
    """Every process that was started by this round, found by its environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f"{TOKEN}={token}".encode() in file.read().split(b"\0"):
                    with open(f"/proc/{pid}/stat") as stat:
                        if stat.read().rpartition(")")[2].split()[0] not in "ZX":
                            found.append(int(pid))
        except OSError:
            pass
    return found


class Soak:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.deaths: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.ends: list[float] = []
        self.epochs = 0
        self.begun = 0.0
        self.memory = [0, 0]

    def round(self, number: int) -> str:
        """One driver; returns what is wrong, or nothing."""
        options = self.options
        rng = random.Random(f"{options.seed}-{number}")
        token = f"{options.seed}-{number}-{os.getpid()}"
        forced = rng.choice(["", "", "driver", "supervisor"]) if not options.no_force else ""
        if options.ends:
            forced = "driver"
        command = [sys.executable, "-m", "tests.soak.driver", "--seed", str(rng.randrange(1 << 31)), "--only", options.only]
        command += ["--epochs", str(options.epochs), "--scale", str(rng.choice([1, 5, 20])), "--width", str(options.width)]
        log = open(f"{options.logs}/round-{number}.log", "w+")  # noqa: SIM115 (closed below)
        self.begun = time.monotonic()
        driver = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, TOKEN: token})
        end = time.monotonic() + ROUND_S
        strike = time.monotonic() + rng.choice([0.1, 1, 1 if options.ends else 10]) * (0.2 + rng.random()) if forced else None
        problem = ""
        while driver.poll() is None:
            if strike is not None and time.monotonic() > strike:
                children = (pid for pid in of_the_round(token) if parent_of(pid) == driver.pid)
                target = driver.pid if forced == "driver" else next(children, 0)
                if target:
                    problem = self.force(forced, target, driver, token)
                    break
            if time.monotonic() > end:
                problem = f"the round took more than {ROUND_S} s"
                driver.send_signal(signal.SIGUSR1)
                time.sleep(1)
                break
            time.sleep(0.05)
        if not problem and driver.poll() not in (0, -signal.SIGKILL) and not forced:
            problem = f"the driver ended with status {driver.returncode}"
        if not problem or not options.keep:
            problem = self.clear(driver, token, problem)
        log.seek(0)
        for line in log:
            if line.startswith("{"):
                try:
                    facts = json.loads(line)
                except ValueError:  # cut off
                    continue
                if "epoch" in facts:
                    self.epochs += 1
                    self.deaths.update(facts["deaths"])
                    self.done.update(facts["done"])
            elif not forced and ("broken invariant" in line or "Fatal Python error" in line):
                problem = problem or line
        if problem:
            log.seek(0)
            problem += "\n" + log.read()[-20_000:]
        log.close()
        if not problem:
            os.unlink(log.name)
        return problem

    def force(self, which: str, target: int, driver: subprocess.Popen[bytes], token: str) -> str:
        """Kills the driver or the supervisor; everybody must be gone soon."""
        os.kill(target, signal.SIGKILL)
        started = time.monotonic()
        while [p for p in of_the_round(token) if p != driver.pid]:
            if time.monotonic() - started > GONE_S + 5:
                return f"{GONE_S + 5} s after the {which}'s death there still are {of_the_round(token)}"
            time.sleep(0.005)
        self.ends.append(time.monotonic() - started)
        if self.ends[-1] > GONE_S:
            print(
                f"soak: {self.ends[-1]:.2f} s after the death of the {which}, {time.monotonic() - self.begun:.2f} s after its start"
            )
        self.deaths[f"{which} killed"] += 1
        if which == "supervisor":
            try:
                driver.wait(60)
            except subprocess.TimeoutExpired:
                driver.send_signal(signal.SIGUSR1)
                time.sleep(1)
                return "the driver hangs after the supervisor's death"
            if driver.returncode < 0:
                return f"the driver died of signal {-driver.returncode} after the supervisor's death"
        return ""

    def clear(self, driver: subprocess.Popen[bytes], token: str, problem: str) -> str:
        end = time.monotonic() + GONE_S
        while (left := of_the_round(token)) and time.monotonic() < end and not problem:
            time.sleep(0.01)
        if left and not problem:
            problem = f"processes are left: {left}"
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        driver.wait()
        return problem

    def run(self) -> int:
        options = self.options
        end = time.monotonic() + options.seconds
        print(f"soak: seed {options.seed}, {options.seconds:g} s, {options.only or 'all activities'}", flush=True)
        number, failures = options.round or 0, 0
        memory = shared_memory()
        while time.monotonic() < end if not options.ends else len(self.ends) < options.ends:
            problem = self.round(number)
            if problem:
                failures += 1
                print(f"soak: FAILED in round {number} (--seed {options.seed} --round {number})\n{problem}", flush=True)
                if not options.go_on:
                    return 1
            number += 1
            if options.round is not None:
                break
        grown = shared_memory() - memory
        print(f"soak: {number} sessions, {self.epochs} epochs; {dict(sorted(self.done.items()))} steps with the right results")
        print(f"soak: deaths and stops: {dict(sorted(self.deaths.items()))}")
        if self.ends:
            late, ends = sum(t > GONE_S for t in self.ends), sorted(self.ends)
            print(f"soak: until all were gone: median {ends[len(ends) // 2]:.3f} s, nine of ten {ends[len(ends) * 9 // 10]:.3f} s")
            print(
                f"soak: all gone {max(self.ends):.2f} s after a driver's or supervisor's death at the latest, "
                f"{late} of {len(self.ends)} later than {GONE_S:g} s"
            )
            failures += late
        print(f"soak: shared memory of the machine grew by {grown >> 10} kB (others use it too); {failures} failures", flush=True)
        return min(failures, 1)


def shared_memory() -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Shmem:"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", default="", help="running, sharing, or names of activities")
    parser.add_argument("--round", type=int, default=None, help="only this one")
    parser.add_argument("--epochs", type=int, default=4, help="of a session")
    parser.add_argument("--width", type=int, default=6, help="activities at a time")
    parser.add_argument("--ends", type=int, default=0, help="kill so many drivers at random moments, and nothing else")
    parser.add_argument("--keep", action="store_true", help="leave the processes of a failed round for a debugger")
    parser.add_argument("--go-on", action="store_true", help="after a failure")
    parser.add_argument("--no-force", action="store_true", help="end every session in the usual way")
    parser.add_argument("--logs", default=None, help="folder for the output of failed rounds")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 31)
    options.logs = options.logs or f"/tmp/shoal-soak-{os.getpid()}"
    os.makedirs(options.logs, exist_ok=True)
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what a driver leaves behind becomes ours
    try:
        return Soak(options).run()
    finally:
        try:
            os.rmdir(options.logs)  # what is left in it belongs to a failure
        except OSError:
            pass


if __name__ == "__main__":
    sys.exit(main())
