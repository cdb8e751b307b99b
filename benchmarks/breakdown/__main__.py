"""`make profile`: where the time of one task, actor call, put, get and lock goes.

Prints a table, and writes it with all functions to build/benchmarks/breakdown.{md,json} (or to --out).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import facts
from benchmarks.breakdown import callgrind, groups
from benchmarks.breakdown.alone import WORKERS_STEP
from benchmarks.breakdown.callgrind import Place
from benchmarks.run import ROOT, environment

COUNTED, TIMED = 200, 2000  # operations of each step under callgrind, and by the clock
FUNCTIONS = 12  # that are named for each step
NOTE = """\
The steps are run one after the other in one process, where nothing waits. What a call between two processes takes
beyond them ("the rest") is the way between: cache lines that move to and fro, and waking up. Caller and worker of
a synchronous call take turns, so the rest is what both do not explain; in a pipeline they work at the same time, so
it is what the slower of the two does not explain. Times are the least of nine runs, or medians between processes.
Instructions are counted by callgrind, of this very interpreter: they are the same each time, give or take a few."""


def run(arguments: list[str], **settings: Any) -> str:
    """The output of a program."""
    done = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, check=True, **settings)
    return bytes(done.stdout).decode()


def count() -> list[Counter[Place]] | str:
    """Instructions of each step by place; or why they cannot be counted."""
    valgrind, compiler = shutil.which("valgrind"), shutil.which("cc") or shutil.which("gcc")
    if valgrind is None or compiler is None:
        return "counting instructions needs valgrind and a C compiler"
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        library = folder / "mark.so"
        run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(Path(__file__).with_name("mark.c"))])
        command = [
            valgrind, "--tool=callgrind", "--separate-threads=no",
            f"--callgrind-out-file={folder}/out", "--quiet",
            sys.executable, "-m", "benchmarks.breakdown.counted", str(COUNTED), str(library),
        ]  # fmt: skip
        fixed = {"PYTHONHASHSEED": "0", "PYTHONMALLOC": "pymalloc", "PYTHONDONTWRITEBYTECODE": "1"}
        run(command, env=environment() | fixed, timeout=600)
        # A file ends at each mark: all before the first, then step, gap, step, gap, ...
        return [callgrind.read(path) for path in callgrind.parts(folder, "out")[1::2]]


def result() -> dict[str, Any]:
    """Everything that is known about each step and call."""
    timed = json.loads(run([sys.executable, "-m", "benchmarks.breakdown.counted", str(TIMED)], env=environment()))
    between = json.loads(run([sys.executable, "-m", "benchmarks.breakdown.between"], env=environment()))
    counted = count()
    place = {subject: i for i, (subject, _, _) in enumerate(timed["steps"])}  # right for those that are `less`
    steps: list[dict[str, Any]] = []
    for i, (subject, name, less) in enumerate(timed["steps"]):
        if subject == less:
            continue
        base = place[less]
        step: dict[str, Any] = {"subject": subject, "name": name, "ns": timed["ns"][i] - timed["ns"][base]}
        if not isinstance(counted, str):
            step["groups"] = groups.by_group(counted[i], counted[base], COUNTED)
            step["instructions"] = groups.total([step["groups"]])
            step["functions"] = groups.by_function(counted[i], COUNTED, FUNCTIONS)
        steps.append(step)
    return {
        "machine": facts.machine(),
        "versions": facts.versions(),
        "missing": counted if isinstance(counted, str) else None,
        "steps": steps,
        "between": between,
    }


def markdown(found: dict[str, Any]) -> str:
    """Two tables: the steps, and what a call between two processes is made of."""
    used = [name for name in groups.ORDER if any(name in step.get("groups", {}) for step in found["steps"])]
    rows = [["call", "step", "ns", "instructions", *used]]
    for step in found["steps"]:
        counts = [step["instructions"], *(step["groups"].get(name, 0) for name in used)] if used else []
        rows.append([step["subject"], step["name"], *(f"{value:,.0f}" for value in (step["ns"], *counts))])
    calls = [["between two processes", "ns", "caller's steps, ns", "worker's steps, ns", "the rest, ns"]]
    if used:
        calls[0] += ["caller's instructions", "worker's instructions"]
    for name, ns in found["between"].items():
        sides = _sides(found["steps"], name.partition(",")[0])
        if sides is None:
            calls.append([name, f"{ns:,.0f}"])
            continue
        caller, worker = sides["ns"]
        spent = caller + worker if name.endswith("synchronous") else max(caller, worker)
        row = [name, *(f"{value:,.0f}" for value in (ns, caller, worker, ns - spent))]
        calls.append(row + [f"{value:,.0f}" for value in sides.get("instructions", ())])
    return "\n".join([*_table(rows, 2), "", *_table(calls, 1), "", NOTE, *filter(None, [found["missing"]]), ""])


def _sides(steps: list[dict[str, Any]], subject: str) -> dict[str, tuple[float, float]] | None:
    """What the steps of the caller and those of the worker take together, of each quantity that is known."""
    mine = [step for step in steps if step["subject"] == subject]
    if not mine:
        return None
    found = {}
    for key in ("ns", "instructions"):
        if all(key in step for step in mine):
            worker = sum(step[key] for step in mine if step["name"] == WORKERS_STEP)
            found[key] = (sum(step[key] for step in mine) - worker, worker)
    return found


def _table(rows: list[list[str]], words: int) -> list[str]:
    """A Markdown table that can be read as it is; all but the first columns are numbers."""
    columns = max(map(len, rows))
    rows = [row + ["-"] * (columns - len(row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(columns)]
    rows.insert(1, ["-" * width if i < words else "-" * (width - 1) + ":" for i, width in enumerate(widths)])
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < words else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.breakdown", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks", help="folder for the files")
    parser.add_argument("--functions", action="store_true", help="name the functions with most instructions too")
    arguments = parser.parse_args()
    found = result()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "breakdown.json").write_text(json.dumps(found, indent=1) + "\n")
    text = markdown(found)
    (arguments.out / "breakdown.md").write_text(text)
    print(text)
    if arguments.functions:
        for step in found["steps"]:
            print(f"{step['subject']}: {step['name']}")
            for function, group, instructions in step.get("functions", []):
                print(f"    {instructions:9,.0f}  {function[:70]:70}  {group}")
    print(f"wrote {os.path.relpath(arguments.out / 'breakdown.md')} and .json")


if __name__ == "__main__":
    main()
