"""`shoal status`: which sessions there are, and what they do."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from shoal.cli import tokens


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "status",
        help="list your sessions, with their processes, memory, tasks and actors",
        description="List this user's sessions, with their processes, memory, tasks and actors.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="only this one, and its processes one by one")
    parser.add_argument("--json", action="store_true", help="for programs")
    tokens.add_option(parser, "the token that a session asks for")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from shoal.engine.local import places
    from shoal.engine.local.detached import facts_of
    from shoal.exceptions import SessionError, SessionNotFoundError, SessionRefusedError

    token = tokens.read(options.token_file)
    swept: list[str] = []
    known = places.sessions(swept)
    if options.name is not None:
        known = [place for place in known if place.name == options.name]
    told: list[dict[str, Any]] = []
    for place in known:
        said: dict[str, Any] = {"name": place.name, "socket": place.socket, "log": place.log if place.detached else None}
        try:
            said.update(facts_of(place, token))
        except SessionNotFoundError:  # it has just ended
            continue
        except SessionRefusedError as error:
            said["closed"] = str(error)
        except SessionError as error:
            said["silent"] = str(error)
        told.append(said)
    if options.json:
        print(json.dumps(told, indent=2))
    else:
        for name in swept:
            print(f"{name} had ended without having been stopped: what it left is removed.\n")
        for said in told:
            print("\n".join(describe(said, details=options.name is not None)), end="\n\n" if said is not told[-1] else "\n")
        if not told and options.name is None:
            print("There is no session. `shoal start` starts one, and so does shoal.init() in a program.")
    if options.name is not None and not told:
        print(f"shoal: you have no session named {options.name!r}", file=sys.stderr)
        return 1
    return 0


def describe(said: dict[str, Any], details: bool) -> list[str]:
    """A session in words."""
    for trouble in ("closed", "silent"):
        if trouble in said:
            return [said["name"], f"  {'?':<10}{said[trouble]}", f"  {'socket':<10}{said['socket']}"]
    counts, memory, tasks, resources = said["counts"], said["memory"], said["tasks"], said["resources"]
    kind = "detached" if said["detached"] else "of a program"
    lines = [f"{said['name']}   {kind}, up {_time(said['uptime_s'])}, supervisor pid {said['pid']}"]

    def line(what: str, text: str) -> None:
        lines.append(f"  {what:<10}{text}")

    used = ", ".join(f"{name} {taken:g} of {total:g}" for name, (taken, total) in resources.items() if name != "memory")
    line("in use", used)
    line("memory", f"{_bytes(memory['used_bytes'])} of {_bytes(memory['limit_bytes'])} in {_count(memory['objects'], 'object')}"
         f" (at most {_bytes(memory['peak_bytes'])} so far)")  # fmt: skip
    guests = f", {_count(counts['guest'], 'guest')}" if counts["guest"] else ""
    died = f", {said['deaths']:,} died" if said["deaths"] else ""
    line(
        "processes",
        f"{_count(counts['worker'], 'worker')} ({said['busy_workers']} busy), {_count(counts['actor'], 'actor')}{guests}{died}",
    )
    waiting = tasks["tasks_submitted"] - tasks["tasks_finished"] - tasks["tasks_failed"]
    line("tasks", f"{max(0, waiting):,} not done, {tasks['tasks_finished']:,} finished, {tasks['tasks_failed']:,} failed")
    if said["actor_names"]:
        line(
            "named",
            ", ".join(a["name"] + ("" if a["namespace"] == "default" else f" ({a['namespace']})") for a in said["actor_names"]),
        )
    line("join", f"shoal.init(address={said['name']!r})")
    line("socket", said["socket"])
    if said["log"]:
        line("output", said["log"])
    if details:
        lines.append("")
        for process in said["processes"]:
            lines.append(f"  {process['pid']:>10}  {process['role']:<10}  {process['does']}".rstrip())
    return lines


def _time(seconds: float) -> str:
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} {seconds % size // part:.0f} {smaller}"
    return f"{seconds:.0f} s"


def _bytes(n: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}" if unit != "bytes" else f"{n:.0f} bytes"
        n /= 1024
    return f"{n:.3g} TB"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
