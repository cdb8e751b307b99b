"""The picture: how many times better than Ray, a bar for each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import HEADINGS, quantity, times
from benchmarks.rows import GROUPS

SHOAL, OTHER, RAY, GOAL = "#0b7285", "#ced4da", "#868e96", "#e8590c"
_LEFT_OUT = (
    "pss",
    "lock_2_fair",
    "lock_4_fair",
    "idle_cpu",
    "tasks_batch",
)  # no factor, or one shown already


def draw(result: dict[str, Any], path: Path) -> bool:
    """Write the picture. False if there is no row with both Shoal and Ray in it, or no matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return False
    rows = [row for row in result["rows"] if row["ratio_to_ray"] is not None and row["key"] not in _LEFT_OUT]
    if not rows:
        return False
    groups = [group for group in GROUPS if any(row["group"] == group for row in rows)]
    height = 0.36 * (len(rows) + 0.9 * len(groups)) + 1.6
    figure, axes = pyplot.subplots(figsize=(11, height), layout="constrained")
    place, ticks, labels = 0.0, [], []
    for group in groups:
        place += 0.95
        axes.text(
            -0.01, place, HEADINGS[group], transform=axes.get_yaxis_transform(), ha="right", va="center",
            fontweight="bold", fontsize=9,
        )  # fmt: skip
        for row in rows:
            if row["group"] == group:
                place += 1
                _bars(axes, row, place)
                ticks.append(place)
                labels.append(f"{row['title']}   (Ray {quantity(row['peers']['ray']['median'], row['unit'])})")
    axes.set_yticks(ticks, labels, fontsize=8.5)
    axes.set_ylim(place + 0.8, 0.4)
    axes.set_xscale("log")
    axes.axvline(1, color=RAY, linewidth=2, zorder=4)
    axes.set_xlim(*_limits(rows))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.tick_params(axis="x", labeltop=True, top=True)
    axes.set_xlabel("better than Ray  →", color=RAY)
    axes.grid(axis="x", color="#e9ecef", zorder=0)
    for side in ("left", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _legend(figure, result)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True


def _factor(row: dict[str, Any], value: float | None) -> float | None:
    """How many times better than Ray a value is."""
    ray = row["peers"]["ray"]["median"]
    if not value or not ray:
        return None
    return float(value / ray if row["higher_is_better"] else ray / value)


def _others(row: dict[str, Any]) -> float | None:
    best = row["best_other"]
    return _factor(row, row["peers"][best]["median"]) if best else None


def _bars(axes: Any, row: dict[str, Any], place: float) -> None:
    ours, other, goal = row["ratio_to_ray"], _others(row), _factor(row, row["goal"])
    axes.barh(place, ours - 1, 0.62, left=1, color=SHOAL, zorder=2)
    if other is not None:
        axes.barh(place, other - 1, 0.26, left=1, color=OTHER, edgecolor="#495057", linewidth=0.6, zorder=3)
    if goal is not None:
        axes.plot([goal, goal], [place - 0.42, place + 0.42], color=GOAL, linewidth=2.4, zorder=5)
    end = max(1.0, ours, other or 0, goal or 0)
    ours_text = quantity(row["peers"]["shoal"]["median"], row["unit"])
    axes.text(
        end * 1.08, place, f"{ours_text}   {times(ours)}", va="center", fontsize=8.5, color=SHOAL, zorder=6,
        fontweight="bold",
    )  # fmt: skip


def _limits(rows: list[dict[str, Any]]) -> tuple[float, float]:
    every = [value for row in rows for value in (row["ratio_to_ray"], _others(row), _factor(row, row["goal"]))]
    known = [value for value in every if value is not None]
    return min(0.5, *known) / 1.3, max(known) * 30  # room for the figures at the ends of the bars


def _legend(figure: Any, result: dict[str, Any]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    versions, machine = result["versions"], result["machine"]
    figure.suptitle(
        f"How many times better than Ray {versions.get('ray', '')} ({machine['cores']} cores, {result['date'].split()[0]})",
        fontweight="bold",
    )
    marks = [
        Patch(color=SHOAL, label="Shoal"),
        Patch(
            facecolor=OTHER,
            edgecolor="#495057",
            label="best other peer (multiprocessing, joblib, xoscar, ...)",
        ),
        Line2D([], [], color=RAY, linewidth=2, label="Ray"),
        Line2D([], [], color=GOAL, linewidth=2.4, label="goal"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
