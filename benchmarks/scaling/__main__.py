"""`make scaling`: the cost of a call as workers, queues, objects, actors and arguments grow.

    make scaling                          everything, a few minutes; writes benchmarks/results/scaling.*
    make scaling ARGS="--only workers"    one curve; writes to build/benchmarks
    make scaling ARGS=--quick             the small points only, with little effort

A point for which the machine has not the memory is left out, and so shown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import facts, processes
from benchmarks.run import ROOT, environment
from benchmarks.scaling.curves import BY_KEY, CURVES, Curve
from benchmarks.scaling.draw import draw

POINT_LIMIT_S = 180.0
MEMORY_SHARE = 0.5  # of what is available, that a point may take


def measure(curve: Curve, quick: bool) -> dict[str, Any]:
    """All points of a curve: {series: [value or None]}, and the reasons for None."""
    points = curve.points[:2] if quick else curve.points
    series: dict[str, list[float | None]] = {}
    missing: dict[str, str] = {}
    for i, x in enumerate(points):
        begun = time.monotonic()
        values: dict[str, float] = {}
        if curve.needs(x) > MEMORY_SHARE * facts.available_memory():
            missing[str(x)] = f"needs about {curve.needs(x) / 1e9:.1f} GB of memory"
        else:
            try:
                values = point(curve.key, x, 0.05 if quick else 1.0)
            except (subprocess.SubprocessError, ValueError) as error:
                missing[str(x)] = _reason(error)
        for name, value in values.items():
            series.setdefault(name, [None] * len(points))[i] = value
        shown = missing.get(str(x)) or "  ".join(f"{name} {value:.3g}" for name, value in values.items())
        print(f"{curve.key} {x:,}  {time.monotonic() - begun:.1f} s   {shown}", flush=True)
    return {
        "key": curve.key, "title": curve.title, "axis": curve.axis, "points": list(points), "series": series,
        "missing": missing, "flat": [] if quick else verdicts(curve, series),
    }  # fmt: skip


def point(curve: str, x: int, effort: float) -> dict[str, float]:
    """One point, in a process of its own. Raises SubprocessError if it fails or takes too long."""
    command = [sys.executable, "-m", "benchmarks.scaling.points", curve, str(x), str(effort)]
    child = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output, errors = child.communicate(timeout=POINT_LIMIT_S)
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, command, output, errors)
    finally:
        processes.end(child.pid)
        processes.end_orphans()
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        last = (error.stderr or b"").decode(errors="replace").strip().splitlines()[-1:]
        return f"failed: {last[0] if last else error.returncode}"
    return f"took longer than {POINT_LIMIT_S:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)


def verdicts(curve: Curve, series: dict[str, list[float | None]]) -> list[dict[str, Any]]:
    """For each series that must be flat: by what factor its cost grows."""
    found = []
    for flat in curve.flat:
        values = series.get(flat.series, [])
        known = [(x, y) for x, y in zip(curve.points, values, strict=False) if y is not None and x >= flat.start]
        if len(known) > 1:
            growth = known[-1][1] / known[0][1]
            span = f"{known[0][0]:,} to {known[-1][0]:,}"
            verdict = {"growth": growth, "limit": flat.factor, "holds": growth < flat.factor}
            found.append({"series": flat.series, "span": span, **verdict})
    return found


def markdown(found: dict[str, Any]) -> str:
    """A table for each curve."""
    machine = found["machine"]
    lines = [
        f"Measured on {found['date'].split()[0]}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gb']:.0f} GB, Linux {machine['kernel']}. CPU time is the sum over all processes.",
        "",
    ]
    for curve in found["curves"]:
        heads = [curve["axis"], *(f"{x:,}" for x in curve["points"]), "growth"]
        lines += [f"### {curve['title']}", "", _line(heads), _line(["---"] + ["---:"] * (len(heads) - 1))]
        verdict = {flat["series"]: flat for flat in curve["flat"]}
        for name, values in curve["series"].items():
            cells = [name, *("-" if value is None else f"{value:,.3g}" for value in values)]
            flat = verdict.get(name)
            cells.append("" if flat is None else _growth(flat))
            lines.append(_line(cells))
        lines += ["", *(f"- {int(x):,}: {reason}" for x, reason in curve["missing"].items()), ""]
    return "\n".join(lines)


def _growth(flat: dict[str, Any]) -> str:
    text = f"{flat['growth']:.2f}x from {flat['span']}"
    return f"{text} ✓" if flat["holds"] else f"**{text}, limit {flat['limit']:g}x**"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Read the arguments, measure, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="NAMES", help=", ".join(BY_KEY))
    parser.add_argument("--quick", action="store_true", help="two points of each curve, with little effort")
    parser.add_argument("--out", type=Path, help="folder for the files")
    arguments = parser.parse_args()
    names = [name.strip() for name in arguments.only.split(",") if name.strip()] or list(BY_KEY)
    unknown = sorted(set(names) - set(BY_KEY))
    if unknown:
        parser.error(f"no curve is called {unknown[0]!r}; the curves are {', '.join(BY_KEY)}")
    curves = [curve for curve in CURVES if curve.key in names]
    whole = len(curves) == len(CURVES) and not arguments.quick
    folder = arguments.out or (ROOT / "benchmarks" / "results" if whole else ROOT / "build" / "benchmarks")

    processes.adopt_orphans()
    found = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "machine": facts.machine(),
        "versions": facts.versions(),
        "quick": arguments.quick,
        "curves": [measure(curve, arguments.quick) for curve in curves],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scaling.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "scaling.md").write_text(markdown(found))
    drawn = draw(found, folder / "scaling.png")
    print(f"wrote scaling.json, scaling.md{', scaling.png' if drawn else ''} to {folder}")


if __name__ == "__main__":
    main()
