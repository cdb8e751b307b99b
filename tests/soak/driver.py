"""One session of the soak, in a process of its own: epochs of activities while others are killed, an audit after each.

It writes a line of JSON per epoch to its standard output. Ends with status 0, or prints what is wrong and ends with 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import random
import signal
import struct
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.soak import running, sharing
from tests.soak.proc import parent_of

import shoal
from shoal import _core
from shoal.engine.local import session

ARENA = 512 << 20
HANG_S = 90.0  # without any activity coming to its end, once nobody is killed any more
GROUPS = {"running": running.ACTIVITIES, "sharing": sharing.ACTIVITIES}


def chosen(only: str) -> list[Callable[[random.Random, int], int]]:
    everything = {a.__name__: a for group in GROUPS.values() for a in group}
    if not only:
        return list(everything.values())
    result = []
    for name in only.split(","):
        result += GROUPS[name] if name in GROUPS else [everything[name]]
    return result


class Killer(threading.Thread):
    """Kills and stops processes of the session, at random moments."""

    def __init__(self, rng: random.Random, pause: float) -> None:
        super().__init__(daemon=True)
        self.rng, self.pause = rng, pause
        self.over = threading.Event()
        self.counts: Counter[str] = Counter()
        self.log: list[tuple[float, int, str]] = []

    def run(self) -> None:
        while not self.over.wait(self.rng.expovariate(1 / self.pause)):
            self.strike()

    def strike(self) -> None:
        victims = [p for p in _core.processes() if p["slot"] > 1 and p["pid"] > 0]
        if not victims:
            return
        victim = self.rng.choice(victims)
        role = {_core.WORKER: "worker", _core.ACTOR: "actor"}.get(victim["role"], "other")
        try:
            pidfd = os.pidfd_open(victim["pid"])
        except OSError:
            return
        try:
            if parent_of(victim["pid"]) in (0, os.getpid()):
                return
            if self.rng.random() < 0.75:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                self.counts[f"{role} killed"] += 1
            else:
                signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
                self.over.wait(self.rng.random() * 0.2)
                if self.rng.random() < 0.3:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
                self.counts[f"{role} stopped"] += 1
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)
        self.log.append((time.monotonic(), victim["pid"], victim["label"]))


def files(pid: int | str) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def rest(problems: list[str], deadline: float) -> dict[str, int]:
    """Waits until nobody does anything; then the arena must be whole and empty."""
    report = "the session did not come to rest"
    facts: dict[str, int] = {}
    while time.monotonic() < deadline:
        gc.collect()
        busy = [p for p in _core.processes() if p["slot"] > 1 and (p["running"] or p["lease"])]
        if busy:
            report = f"still busy: {busy}"
        else:
            report = _core.check()
            facts = dict(_core.statistics())
            exported = len(_core.name_list(3))
            left = facts["objects"] - 1 - exported
            if not report and left:
                report = f"{left} objects are left ({exported} functions)\n" + "\n".join(objects()) + f"\n{_core.processes()}"
            if not report and _core.actors():
                report = f"{_core.actors()} actors are left"
            if not report:
                return facts
        time.sleep(0.005)
    problems.append(report)
    return facts


def open_files(supervisor: int) -> tuple[int, int]:
    """Of the driver, and of the supervisor without those that belong to workers."""
    return files("self"), files(supervisor) - 3 * len([p for p in _core.processes() if p["slot"] > 1])


def objects() -> list[str]:
    """What lies in the arena, read from its entries (Entry in core/abi.h)."""
    fd = next(fd for fd in os.listdir("/proc/self/fd") if "memfd:shoal" in os.path.realpath(f"/proc/self/fd/{fd}"))
    found = []
    with open(f"/proc/self/fd/{fd}", "rb") as arena:
        slots, entries = struct.unpack("2Q", os.pread(arena.fileno(), 16, 24))
        for index in range(1, 100_000):
            entry = os.pread(arena.fileno(), 128, entries + 128 * index)
            _lock, gen, state, _waiter, holders, contained, _payload, size, kind, flags, _creator = struct.unpack(
                "6I2Q2BH", entry[:44]
            )
            if gen == 0:
                break
            if state:
                bits = int.from_bytes(entry[64:128], "little")
                held_by = [slot for slot in range(512) if bits >> slot & 1]
                found.append(
                    f"{index}: state {state}, kind {kind}, flags {flags}, {size} bytes, contained {contained}, "
                    f"held by {held_by} ({holders})"
                )
    return found


def show_processes() -> None:
    """Where everybody is, for the report of a hang."""
    for p in _core.processes():
        where = ""
        for name in ("wchan", "syscall"):
            try:
                with open(f"/proc/{p['pid']}/{name}") as file:
                    where += f" {name}={file.read().strip()}"
            except OSError:
                where += f" {name}=?"
        print(p, where, file=sys.stderr)
    faulthandler.dump_traceback(all_threads=True)
    sys.stderr.flush()


def epoch(rng: random.Random, only: str, scale: int, pause: float, width: int) -> dict[str, Any]:
    """Some activities at a time while a killer is about; then the audit. Raises AssertionError with all that is wrong."""
    activities = [a for a in rng.sample(chosen(only), k=len(chosen(only)))][:width]
    problems: list[str] = []
    done: dict[str, int] = {}

    def act(activity: Callable[[random.Random, int], int], seed: int) -> None:
        try:
            done[activity.__name__] = activity(random.Random(seed), scale)
        except BaseException:
            problems.append(f"{activity.__name__}, seed {seed}, scale {scale}:\n{traceback.format_exc()}")

    killer = Killer(random.Random(rng.random()), pause)
    started = time.monotonic()
    threads = [threading.Thread(target=act, args=(a, rng.randrange(1 << 30)), name=a.__name__, daemon=True) for a in activities]
    killer.start()
    for thread in threads:
        thread.start()
    end = started + HANG_S * 2
    for thread in threads:
        thread.join(max(0.1, end - time.monotonic()))
    killer.over.set()
    killer.join()
    for thread in threads:
        thread.join(HANG_S)
        if thread.is_alive():
            problems.append(f"{thread.name} hangs")
    if any(t.is_alive() for t in threads):
        show_processes()
    del threads
    facts = rest(problems, time.monotonic() + 30) if not problems else {}
    if problems:
        text = "\n".join(problems)
        raise AssertionError(f"{text}\n{json.dumps(dict(killer.counts))}\nthe latest victims: {killer.log[-12:]}")
    return {
        "seconds": round(time.monotonic() - started, 2),
        "done": done,
        "deaths": dict(killer.counts),
        "used": facts["used_bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.08, help="seconds between two kills, on average")
    parser.add_argument("--width", type=int, default=6, help="activities at a time")
    options = parser.parse_args()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    rng = random.Random(options.seed)
    before = files("self")
    shoal.init(num_cpus=4, object_store_memory=ARENA, log_to_driver=True)
    first: tuple[int, int] | None = None
    supervisor = session._session.supervisor  # type: ignore[union-attr]
    print(json.dumps({"supervisor": supervisor}), flush=True)
    for k in range(options.epochs):
        result = epoch(rng, options.only, options.scale, options.pause, options.width)
        now = open_files(supervisor)
        first = first or now
        end = time.monotonic() + 10
        while now > first and time.monotonic() < end:  # it may be forking or burying just now
            time.sleep(0.02)
            now = open_files(supervisor)
        assert now <= first, f"open files grew from {first} to {now} (driver, supervisor)"
        print(json.dumps({"epoch": k, **result, "files": now}), flush=True)
    shoal.shutdown()
    assert files("self") <= before, "the driver has more open files than before the session"


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
