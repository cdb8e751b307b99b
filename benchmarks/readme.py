"""Puts the result of a whole run into the README, between two marks: `python -m benchmarks.readme`.

`make bench` does so by itself after a run of everything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report import goal_cells, quantity, times
from benchmarks.rows import GROUPS
from benchmarks.run import ROOT

README = ROOT / "README.md"
RESULT = ROOT / "benchmarks" / "results" / "latest.json"
BEGIN, END = "<!-- made by make bench: begin -->\n", "<!-- made by make bench: end -->\n"


def section(result: dict[str, Any]) -> str:
    """What stands between the marks."""
    machine, versions = result["machine"], result["versions"]
    lines = [
        "![how many times faster than Ray](benchmarks/results/latest.png)",
        "",
        f"Measured by `make bench` on {result['date'].split()[0]}, with {machine['cores']} cores ({machine['processor']}), "
        f"Linux {machine['kernel'].split('-')[0]}, Python {versions['python']}, Ray {versions.get('ray', '-')}: the medians of "
        f"{result['rounds']} rounds in which all peers take turns.",
        "",
        "| | Shoal | goal | | Ray | best other peer | Shoal to Ray | to the best other |",
        "|---|--:|--:|---|--:|---|--:|--:|",
    ]
    for group in GROUPS:
        lines += [_line(row) for row in result["rows"] if row["group"] == group and "median" in row["peers"]["shoal"]]
    physical = [
        f"{name} {quantity(found['median'], found['unit'])}" for name, found in result["references"].items() if "median" in found
    ]
    lines += [
        "",
        f"What the machine can do, measured in the same run: {', '.join(physical)}. Each row as a multiple of that, the spreads, "
        "the goals and how each row is measured: [benchmarks/results/latest.md](benchmarks/results/latest.md).",
    ]
    return "\n".join([*lines, ""])


def _line(row: dict[str, Any]) -> str:
    peers, unit, best = row["peers"], row["unit"], row["best_other"]
    other = f"{quantity(peers[best]['median'], unit)} ({best})" if best else "-"
    ray = quantity(peers.get("ray", {}).get("median"), unit)
    cells = [row["title"], f"**{quantity(peers['shoal']['median'], unit)}**", *goal_cells(row), ray, other]
    return f"| {' | '.join([*cells, times(row['ratio_to_ray']), times(row['ratio_to_best_other'])])} |"


def update(result: dict[str, Any], path: Path = README) -> None:
    """Replace what stands between the marks. Raises ValueError if they are not there."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no lines {BEGIN.strip()!r} and {END.strip()!r}")
    path.write_text(before + begin + section(result) + end + after)


if __name__ == "__main__":
    update(json.loads(RESULT.read_text()))
    print(f"wrote {README.name} from {RESULT.relative_to(ROOT)}")
