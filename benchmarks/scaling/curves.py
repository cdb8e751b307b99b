"""The curves: at which points they are measured, and what must hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Flat:
    """A series whose cost may not grow: by less than `factor` between the points `start` and the last."""

    series: str
    start: int
    factor: float = 1.5


@dataclass(frozen=True)
class Curve:
    """One thing that grows. `needs` gives the bytes of memory that a point takes."""

    key: str
    title: str
    axis: str
    points: tuple[int, ...]
    needs: Callable[[int], float]
    flat: tuple[Flat, ...]


MB = 1e6

CURVES: tuple[Curve, ...] = (
    Curve(
        "workers", "Workers", "workers", (1, 2, 4, 16, 64), lambda x: 150 * MB + x * 15 * MB,
        (
            Flat("task, pipelined: CPU us", 2),
            Flat("task, synchronous: CPU us", 2),
            Flat("actor call, pipelined: CPU us", 2),
        ),
    ),
    Curve(
        "queue", "Length of the queue", "tasks or calls waiting", (10, 100, 1000, 10_000, 100_000, 1_000_000),
        lambda x: 200 * MB + x * 1500,
        (
            Flat("task: submit, us", 1000),
            Flat("task: run, us", 1000),
            Flat("actor call: submit, us", 1000),
            Flat("actor call: run, us", 1000),
        ),
    ),
    Curve(
        "objects", "Objects alive", "objects", (1000, 10_000, 100_000, 1_000_000, 10_000_000),
        lambda x: 200 * MB + x * 500,
        (
            Flat("put, and kept: us", 10_000),
            Flat("put, and dropped: us", 1000),
            Flat("get, newest: us", 1000),
            Flat("task: CPU us", 1000),
            Flat("drop: us", 10_000),
        ),
    ),
    Curve(
        "actors", "Actors", "actors", (1, 2, 4, 16, 64, 250), lambda x: 200 * MB + x * 25 * MB,
        (
            Flat("creation: ms", 2),
            Flat("call, always the same: CPU us", 1),
        ),
    ),
    Curve(
        "arguments", "Size of an argument", "bytes", tuple(10**i for i in range(10)),
        lambda x: 200 * MB + 4 * x,
        (Flat("by reference: CPU us", 1), Flat("by reference: us", 1)),
    ),
)  # fmt: skip

BY_KEY = {curve.key: curve for curve in CURVES}
