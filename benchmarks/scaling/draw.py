"""The picture: a panel for each curve, the cost against what grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.scaling.curves import BY_KEY


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
    figure, grid = pyplot.subplots(rows, 2, figsize=(17, 4.2 * rows), layout="constrained", squeeze=False)
    for axes in grid.flat[len(curves) :]:
        axes.set_visible(False)
    for axes, curve in zip(grid.flat, curves, strict=False):
        _panel(axes, curve)
    machine = found["machine"]
    figure.suptitle(
        f"What a call costs as things grow ({machine['cores']} cores, {found['date'].split()[0]}): a solid line must be flat",
        fontweight="bold",
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _panel(axes: Any, curve: dict[str, Any]) -> None:
    must = {flat.series for flat in BY_KEY[curve["key"]].flat}
    for name, values in curve["series"].items():
        known = [(x, y) for x, y in zip(curve["points"], values, strict=True) if y is not None]
        solid = name in must
        axes.plot(
            [x for x, _ in known], [y for _, y in known], "o-" if solid else "o:", label=name, markersize=4,
            linewidth=2 if solid else 1, alpha=1 if solid else 0.55,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.6, high * 1.6)
    axes.set_title(curve["title"], fontweight="bold")
    axes.set_xlabel(curve["axis"])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(color="#e9ecef")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
