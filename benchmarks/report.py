"""What a run found, as JSON and as a Markdown table."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from benchmarks import facts
from benchmarks.measure import summary
from benchmarks.peers import PEERS, PHYSICAL, RIVALS
from benchmarks.rows import ASLEEP, BY_KEY, GROUPS, IDEALS, REFERENCE_UNITS, SPINNING, Row
from benchmarks.run import ENOUGH_S, FAR, Options, Results

HEADINGS = {
    "startup": "Starting and resting",
    "tasks": "Tasks",
    "actors": "Actors",
    "objects": "Objects",
    "memory": "Memory that changes",
    "sharing": "Sharing: counters, versions, containers",
    "programs": "The three programs of Ray's introduction",
    "busy": "The same while another program keeps one core busy",
}
QUIET = 0.3  # a higher load before the run is pointed out
_DISAGREE = 1e-6  # two results of a program differ if their relative difference is larger


def build(options: Options, results: Results, seconds: float, load: list[float]) -> dict[str, Any]:
    """Everything about a run. `load` is the machine's before the run."""
    machine = facts.machine()
    machine["load_before"], machine["load_after"] = load, machine.pop("load")
    references = _references(results)
    rows = [_row(row, options, results, references) for row in options.rows]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "seconds": round(seconds, 1),
        "rounds": results.rounds,
        "quick": options.quick,
        "plan": options.plan.as_dict(),
        "machine": machine,
        "versions": facts.versions(),
        "references": references,
        "start_parts": results.parts,
        "rows": rows,
    }


def _references(results: Results) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, unit in REFERENCE_UNITS.items():
        peer = "serial" if name in IDEALS else PHYSICAL
        samples = results.samples.get(name, {}).get(peer)
        if samples:
            found[name] = {"unit": unit, **summary(samples)}
        else:
            found[name] = {"unit": unit, "missing": results.missing.get(name, {}).get(peer, "not asked for")}
    return found


def _row(row: Row, options: Options, results: Results, references: dict[str, dict[str, Any]]) -> dict[str, Any]:
    peers: dict[str, dict[str, Any]] = {}
    wrong = _disagreeing(results.checks.get(row.key, {}))
    for name, spec in PEERS.items():
        if row.key not in spec.rows:
            continue
        samples = results.samples.get(row.key, {}).get(name)
        reason = results.missing.get(row.key, {}).get(name)
        if name in wrong:
            peers[name] = {"missing": wrong[name]}
        elif samples:
            peers[name] = summary(samples)
            peers[name]["took"] = round(results.seconds.get((row.key, name), 0.0), 1)  # seconds, all rounds
            if reason:
                peers[name]["failed_in_a_round"] = reason
        else:
            peers[name] = {"missing": reason or "not asked for"}
    medians = {name: peer["median"] for name, peer in peers.items() if "median" in peer}
    ours = medians.get("shoal")
    rivals = {name: medians[name] for name in RIVALS if name in medians}
    best = None
    if rivals:
        best = (max if row.higher else min)(rivals, key=lambda name: rivals[name])
    goal = _goal(row, medians, references)
    return {
        "key": row.key,
        "title": row.title,
        "group": row.group,
        "unit": row.unit,
        "higher_is_better": row.higher,
        "note": row.note,
        "goal": goal,
        "goal_met": None if options.quick else _met(row, ours, goal),
        "peers": peers,
        "ratio_to_ray": _better(row, ours, medians.get("ray")),
        "best_other": best,
        "ratio_to_best_other": _better(row, ours, rivals.get(best or "")),
        "multiples": _multiples(row, ours, references),
    }


def _multiples(row: Row, ours: float | None, references: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Our time in units of that of the physical reference; a call has two: the other side spins, or sleeps."""
    names = [name for name in (row.reference, ASLEEP if row.reference == SPINNING else None) if name]
    found = {name: _better(row, references[name].get("median"), ours) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _disagreeing(checks: dict[str, float]) -> dict[str, str]:
    """Peers whose program gave another result than most; with two that differ, both."""
    found = {}
    for name, check in checks.items():
        same = sum(math.isclose(check, other, rel_tol=_DISAGREE) for other in checks.values())
        if 2 * same <= len(checks) and same < len(checks):
            found[name] = f"its result is wrong: {check!r}, others {sorted(set(checks.values()))}"
    return found


def _goal(row: Row, medians: dict[str, float], references: dict[str, dict[str, Any]]) -> float | None:
    if row.goal_of_reference is not None:
        reference = references.get(row.reference or "", {}).get("median")
        return None if reference is None else row.goal_of_reference * float(reference)
    if row.goal_peer is not None:
        return medians.get(row.goal_peer)
    return row.goal


def _met(row: Row, ours: float | None, goal: float | None) -> bool | None:
    if ours is None or goal is None:
        return None
    return ours >= goal if row.higher else ours <= goal


def _better(row: Row, ours: float | None, theirs: float | None) -> float | None:
    """How many times better ours is."""
    if not ours or not theirs:
        return None
    return ours / theirs if row.higher else theirs / ours


def quantity(value: float | None, unit: str) -> str:
    """A figure with three digits and its unit: 359k/s, 0.18 s, 11.5 GB/s."""
    if value is None:
        return "-"
    if unit == "/s":
        for size, letter in ((1e6, "M"), (1e3, "k")):
            if value >= size:
                return f"{_three(value / size)}{letter}/s"
        return f"{_three(value)}/s"
    if unit == "s" and value < 0.01:
        return f"{_three(value * 1000)} ms"
    return f"{_three(value)} {unit}".strip()


def _three(value: float) -> str:
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(4, max(0, digits))}f}"


def times(value: float | None) -> str:
    """A ratio: 180x, 1.4x."""
    return "-" if value is None else f"{_three(value)}x"


def markdown(result: dict[str, Any]) -> str:
    """The table for people, with what is needed to judge it."""
    machine, versions = result["machine"], result["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines = [
        f"Measured on {result['date'].split()[0]}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gb']:.0f} GB, Linux {machine['kernel']}; {packages}. "
        f"{result['rounds']} rounds in {result['seconds']:.0f} s, every peer in a process of its own, one "
        "after the other in each round. Medians; ± is half the distance of the quartiles. Once only: what a peer is "
        f"more than {FAR:.0f} times behind Shoal in, and what takes it more than {ENOUGH_S:.0f} s. The programs have two places "
        "in each round; multiprocessing's pool and serial code take part in the second.",
        "",
    ]
    if machine["load_before"][0] > QUIET:
        lines += [f"**Something else was running: the load before was {machine['load_before'][0]}.**", ""]
    if result["quick"]:
        lines += ["**Measured with `--quick`: the figures only show that everything runs.**", ""]
    for group in GROUPS:
        rows = [row for row in result["rows"] if row["group"] == group]
        if not rows:
            continue
        program = group in ("programs", "busy")
        heads = ["", "Shoal", "Ray", "best other", "to Ray", "to best other", "goal", "", "its cost in units of"]
        if program:
            heads.insert(1, "serial")
        lines += [f"### {HEADINGS[group]}", "", _line(heads), _line(["---"] * len(heads))]
        lines += [_line(_cells(row, program)) for row in rows]
        lines += [""]
    lines += ["### What the machine can do", "", _line(["reference", "figure"]), _line(["---", "---"])]
    for name, reference in result["references"].items():
        if "median" in reference:
            text = _with_spread(reference, reference["unit"])
        elif reference["missing"] != "not asked for":
            text = f"- ({reference['missing']})"
        else:
            continue
        lines.append(_line([name, text]))
    notes = [f"- *{row['title']}*: {row['note']}." for row in result["rows"] if row["note"]]
    missing = missing_lines(result)
    return "\n".join([*lines, "", "### Notes", "", *notes, *missing, ""])


def _cells(row: dict[str, Any], program: bool) -> list[str]:
    unit, peers = row["unit"], row["peers"]
    best = row["best_other"]
    cells = [
        row["title"],
        f"**{_with_spread(peers.get('shoal', {}), unit)}**",
        _with_spread(peers.get("ray", {}), unit),
        f"{best} {_with_spread(peers[best], unit)}" if best else "-",
        times(row["ratio_to_ray"]),
        times(row["ratio_to_best_other"]),
        *goal_cells(row),
        "; ".join(f"{name}: {_three(value)}" for name, value in row["multiples"].items()) or "-",
    ]
    if program:
        cells.insert(1, _with_spread(peers.get("serial", {}), unit))
    return cells


def goal_cells(row: dict[str, Any]) -> list[str]:
    """A row's goal, and whether it was met."""
    goal = "-"
    if row["goal"] is not None:
        goal = f"{'≥' if row['higher_is_better'] else '≤'} {quantity(row['goal'], row['unit'])}"
    return [goal, {None: "", True: "✓", False: "**short**"}[row["goal_met"]]]


def _with_spread(peer: dict[str, Any], unit: str) -> str:
    if "median" not in peer:
        return "-"
    spread = f" ±{peer['spread']:.0%}" if len(peer["samples"]) > 1 else ""
    return quantity(peer["median"], unit) + spread


def missing_lines(result: dict[str, Any]) -> list[str]:
    """A line for each reason why figures are missing."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in result["rows"]:
        for name, peer in row["peers"].items():
            reason = peer.get("missing") or peer.get("failed_in_a_round")
            if reason and reason != "not asked for":
                reasons.setdefault((name, reason), []).append(row["title"])
    return [f"- {name}: {reason} ({', '.join(titles)})." for (name, reason), titles in reasons.items()]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def write(result: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write NAME.json and NAME.md; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, table = folder / f"{name}.json", folder / f"{name}.md"
    data.write_text(json.dumps(result, indent=1) + "\n")
    table.write_text(markdown(result))
    return [data, table]


def summary_lines(result: dict[str, Any]) -> list[str]:
    """The rows in short, for the terminal."""
    lines = []
    for row in result["rows"]:
        peers, unit = row["peers"], BY_KEY[row["key"]].unit
        ours, ray = (peers.get(name, {}).get("median") for name in ("shoal", "ray"))
        best = row["best_other"]
        other = f"{best} {quantity(peers[best]['median'], unit)}" if best else "-"
        met = {None: "", True: "met", False: "SHORT"}[row["goal_met"]]
        lines.append(
            f"{row['title']:44} {quantity(ours, unit):>11} {quantity(ray, unit):>11} "
            f"{times(row['ratio_to_ray']):>7}  {other:36} {quantity(row['goal'], unit):>11} {met}"
        )
    return lines
