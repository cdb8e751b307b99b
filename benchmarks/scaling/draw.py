"""The picture: a panel for each curve, the cost against what grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.scaling.curves import BY_KEY

DECADES = 300.0  # the least ratio of the ends of a panel's axis
HOW_TO_READ = (
    "Thick lines must be flat: what one call costs does not depend on how much there is. Dotted lines are for information.\n"
    "us: microseconds of one call by the clock; CPU us: CPU time of all processes together."
)


def draw(found: dict[str, Any], path: Path) -> bool:
    """Write the picture; False without matplotlib or without points."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return False
    curves = [curve for curve in found["curves"] if curve["series"]]
    if not curves:
        return False
    rows = (len(curves) + 1) // 2
    figure, grid = pyplot.subplots(rows, 2, figsize=(17, 4.4 * rows + 0.8), layout="constrained", squeeze=False)
    for axes in grid.flat[len(curves) :]:
        axes.axis("off")
    for axes, curve in zip(grid.flat, curves, strict=False):
        _panel(axes, curve)
    machine = found["machine"]
    figure.suptitle(f"What a call costs in Shoal as things grow ({machine['cores']} cores)", fontweight="bold", fontsize=17)
    figure.supxlabel(HOW_TO_READ, fontsize=12)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    return True


def _panel(axes: Any, curve: dict[str, Any]) -> None:
    must = {flat.series for flat in BY_KEY[curve["key"]].flat}
    stems: dict[str, str] = {}  # a dotted line has the colour of the thick one that measures the same in another way
    colors: dict[str, str] = {}
    for name in sorted(curve["series"], key=lambda name: name not in must):
        new = f"C{len(set(colors.values()))}"
        stem = name.partition(":")[0]
        colors[name] = new if name in must else stems.get(stem, new)
        stems.setdefault(stem, colors[name])
    for name, values in curve["series"].items():
        known = [(x, y) for x, y in zip(curve["points"], values, strict=True) if y is not None]
        solid = name in must
        axes.plot(
            [x for x, _ in known], [y for _, y in known], "o-" if solid else "o:", label=name, markersize=5 if solid else 3,
            linewidth=2.5 if solid else 1.2, alpha=1 if solid else 0.6, color=colors[name],
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    widen = max(1.6, (DECADES / (high / low)) ** 0.5)  # or noise would fill the panel
    axes.set_ylim(low / widen, high * widen)
    axes.set_xticks(curve["points"], [_short(x, curve["axis"] == "bytes") for x in curve["points"]], fontsize=11)
    axes.minorticks_off()
    axes.set_title(curve["title"], fontweight="bold", fontsize=14)
    axes.set_xlabel("" if curve["axis"] == "bytes" else curve["axis"], fontsize=11)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.grid(color="#e9ecef")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=10.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _short(x: int, size: bool) -> str:
    for unit, letter in ((10**9, " GB"), (10**6, " MB"), (10**3, " kB")) if size else ((10**6, "M"), (10**3, "k")):
        if x >= unit:
            return f"{x // unit}{letter}"
    return f"{x} B" if size else str(x)
