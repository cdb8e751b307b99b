"""The picture: the seconds of the three programs, and below a bar for each row, how many times faster than Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import quantity

SHOAL, RAY, OTHER, FAINT, WORSE = "#0b7285", "#495057", "#adb5bd", "#e9ecef", "#c92a2a"
NAMES = {
    "serial": "serial code",
    "multiprocessing": "multiprocessing.Pool",
    "multiprocessing, by hand": "multiprocessing,\nbest by hand",
}
PROGRAMS = {
    "numerical": "filter one large image",
    "stateful": "count words, keep the counts",
    "costly_start": "use a model that is costly to make",
}
PROGRAM_PEERS = ("serial", "multiprocessing", "multiprocessing, by hand", "ray", "shoal")
# Rows that are drawn, in words that need no knowledge of Ray's benchmark. What has no factor, or says the same as
# another one, is in the table only.
SECTIONS: dict[str, dict[str, str]] = {
    "Starting and resting": {
        "start": "import, start, first result",
        "rss": "memory at rest, 2 workers",
        "shutdown": "end the session",
    },
    "Tasks": {
        "tasks_sync": "one task after the other",
        "tasks_async": "1,000 tasks at a time",
        "tasks_multi": "the same, 4 actors submit",
        "wait_1k": "wait for 1,000 tasks, one by one",
    },
    "Actors": {
        "actor_sync": "one call after the other",
        "actor_async": "1,000 calls at a time",
        "actor_nn": "the same, 4 tasks call",
        "actor_nn_arg": "the same, with an object",
        "async_actor_sync": "async actor, one by one",
        "async_actor_async": "async actor, 1,000 at a time",
    },
    "Objects": {
        "put": "put a small value",
        "get": "get a small value",
        "put_gb_written": "put an 800 MB array",
        "put_gb_multi": "put arrays from 10 tasks",
        "get_10k_refs": "get a list of 10,000 refs",
    },
    "A shared counter, += 1": {
        "lock_1": "locked, by one process",
        "lock_2": "locked, by 2 at a time",
        "lock_4": "locked, by 4 at a time",
    },
}


def draw(result: dict[str, Any], path: Path) -> bool:
    """Write the picture. False if there is no row with both Shoal and Ray in it, or no matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return False
    rows = {row["key"]: row for row in result["rows"]}
    programs = [key for key in PROGRAMS if "median" in rows.get(key, {}).get("peers", {}).get("shoal", {})]
    bars = sum(rows[key]["ratio_to_ray"] is not None for section in SECTIONS.values() for key in section if key in rows)
    if not bars and not any(rows[key]["ratio_to_ray"] for key in programs):
        return False
    heights = [3.4 if programs else 0.0, 0.31 * (bars + 1.2 * len(SECTIONS)) + 1.6 if bars else 0.0]
    figure = pyplot.figure(figsize=(11, sum(heights) + 0.5), layout="constrained")
    machine, versions = result["machine"], result["versions"]
    figure.suptitle(
        f"Shoal and Ray {versions.get('ray', '')} on one machine with {machine['cores']} cores"
        + (" (quick run: figures mean nothing)" if result["quick"] else ""),
        fontweight="bold", fontsize=16,
    )  # fmt: skip
    parts = iter(
        figure.subfigures(sum(height > 0 for height in heights), 1, height_ratios=[h for h in heights if h], squeeze=False).flat
    )
    if programs:
        _programs(next(parts), rows, programs)
    if bars:
        _factors(next(parts), rows)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _programs(figure: Any, rows: dict[str, Any], programs: list[str]) -> None:
    """A panel for each program: seconds, on a machine with nothing else to do and beside a busy loop."""
    figure.suptitle("The three programs by which Ray was introduced: seconds, shorter is better", fontsize=12, fontweight="bold")
    panels = figure.subplots(1, len(programs), squeeze=False)[0]
    for i, (axes, key) in enumerate(zip(panels, programs, strict=True)):
        quiet, busy = rows[key]["peers"], rows.get(f"{key}_busy", {}).get("peers", {})
        known = [name for name in PROGRAM_PEERS if "median" in quiet.get(name, {})]
        longest = max(peer["median"] for peers in (quiet, busy) for peer in peers.values() if "median" in peer)
        for place, name in enumerate(known):
            _seconds(axes, place, name, quiet[name].get("median"), longest)
            _seconds(axes, place, name, busy.get(name, {}).get("median"), longest, busy=True)
        axes.set_ylim(len(known) - 0.3, -0.5)
        axes.set_xlim(0, longest * 1.3)
        names = [NAMES.get(name, name.capitalize()) for name in known]
        axes.set_yticks(range(len(known)), names if i == 0 else [""] * len(known), fontsize=10.5)
        axes.set_title(PROGRAMS[key], fontsize=11)
        axes.tick_params(length=0)
        axes.set_xticks([])
        for side in ("top", "right", "bottom"):
            axes.spines[side].set_visible(False)
        if i == 0 and len(known) == len(PROGRAM_PEERS):
            axes.get_yticklabels()[-1].set(fontweight="bold", color=SHOAL)
    if any(f"{key}_busy" in rows for key in programs):
        figure.supxlabel("thick: nothing else runs; thin: while another program keeps one core busy", fontsize=9.5, color=RAY)


def _seconds(axes: Any, place: float, name: str, seconds: float | None, longest: float, busy: bool = False) -> None:
    if seconds is None:
        return
    bar, text = {"shoal": (SHOAL, SHOAL), "ray": (RAY, RAY)}.get(name, (OTHER, RAY))
    place, height, alpha, size = (place + 0.36, 0.2, 0.45, 8.5) if busy else (place, 0.46, 1.0, 10.5)
    axes.barh(place, seconds, height, color=bar, alpha=alpha)
    bold = "bold" if name == "shoal" and not busy else "normal"
    axes.text(seconds + longest * 0.02, place, quantity(seconds, "s"), va="center", color=text, fontsize=size, fontweight=bold)


def _factors(figure: Any, rows: dict[str, Any]) -> None:
    """A bar for each row, from 1 (Ray) to how many times faster Shoal is; a diamond for the best other peer."""
    figure.suptitle(
        "How many times faster (or smaller) than Ray: each line to the right is ten times more", fontsize=12, fontweight="bold"
    )
    axes, side = figure.subplots(1, 2, width_ratios=[2.3, 1], sharey=True)
    place, ticks, labels, most, least = 0.0, [], [], 1.0, 1.0
    other_known = False
    side.axis("off")
    side.set_xlim(0, 1)
    _columns(side, 1.2, "", "Shoal", "Ray", fontweight="bold")
    for heading, section in SECTIONS.items():
        keys = [key for key in section if key in rows and rows[key]["ratio_to_ray"] is not None]
        if not keys:
            continue
        place += 1.2
        axes.text(
            -0.012, place, heading, transform=axes.get_yaxis_transform(), ha="right", va="center", fontweight="bold", fontsize=11
        )
        for key in keys:
            place += 1
            row, factor = rows[key], rows[key]["ratio_to_ray"]
            axes.barh(place, factor - 1, 0.66, left=1, color=SHOAL if factor >= 1 else WORSE, zorder=2)
            peers, unit = row["peers"], row["unit"]
            text = f"{factor:,.0f}x" if factor >= 10 else f"{factor:.1f}x"
            _columns(side, place, text, quantity(peers["shoal"]["median"], unit), quantity(peers["ray"]["median"], unit))
            other = _other(row)
            if other is not None:
                other_known = True
                axes.plot(other, place, "D", color="white", markeredgecolor=RAY, markersize=6.5, markeredgewidth=1.4, zorder=4)
            most, least = max(most, factor, other or 0), min(least, factor, other or 1)
            ticks.append(place)
            labels.append(section[key])
    axes.set_yticks(ticks, labels, fontsize=10.5)
    axes.set_ylim(place + 0.7, 0.0)
    axes.set_xscale("log")
    axes.set_xlim(least / 1.5, most * 2)
    axes.axvline(1, color=RAY, linewidth=2.5, zorder=3)
    label = {"color": "white", "fontsize": 9, "fontweight": "bold", "bbox": {"color": RAY, "boxstyle": "round"}}
    axes.text(1, 0.4, "Ray = 1", ha="center", va="center", zorder=6, **label)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}x" if value >= 1 else "")
    axes.xaxis.set_minor_locator(_nothing())
    axes.grid(axis="x", color=FAINT, zorder=0)
    axes.tick_params(length=0)
    for side in ("top", "left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    _legend(figure, other_known)


def _columns(axes: Any, place: float, factor: str, shoal: str, ray: str, **style: Any) -> None:
    """The figures beside a bar: how many times faster, and both."""
    style = {"va": "center", "ha": "right", "fontsize": 10.5, **style}
    axes.text(0.28, place, factor, color=SHOAL, **(style | {"fontweight": "bold"}))
    axes.text(0.66, place, shoal, color=SHOAL, **style)
    axes.text(1.0, place, ray, color=RAY, **style)


def _other(row: dict[str, Any]) -> float | None:
    """How many times faster than Ray the best other peer is."""
    best, ray = row["best_other"], row["peers"]["ray"]["median"]
    if not best or not ray:
        return None
    value = row["peers"][best]["median"]
    return float(value / ray if row["higher_is_better"] else ray / value)


def _nothing() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _legend(figure: Any, other: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks: list[Any] = [Patch(color=SHOAL, label="Shoal")]
    if other:
        diamond = {"marker": "D", "color": "white", "markeredgecolor": RAY, "markersize": 7, "markeredgewidth": 1.4}
        marks.append(
            Line2D([], [], linestyle="none", label="the best of multiprocessing, concurrent.futures, joblib and xoscar", **diamond)
        )
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=10)
