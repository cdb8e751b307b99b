"""What a run of either program hands back: the picture, the tally, the times, and who did what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from demo_lib.source import Text
from demo_lib.words import Bar

PHASES = ("share", "look", "print", "letter", "proof")


@dataclass(frozen=True)
class Job:
    """What both programs are asked to do."""

    photo: NDArray[np.uint8]
    text: Text
    workers: int


@dataclass(frozen=True)
class Note:
    """One participant's account of a piece of work."""

    role: str
    pid: int
    view: int = 0  # bytes of the picture it sees without a copy
    copied: int = 0  # bytes of the picture it copied to keep, or that were sent to it and back
    updates: int = 0  # additions to the tally
    pieces: int = 1


@dataclass
class Outcome:
    """The result of one program."""

    name: str
    picture: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))
    tally: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    bars: list[Bar] = field(default_factory=list)
    start_up: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    copied: int = 0  # bytes of the picture that were copied so that all could work on it
    first_steps: FirstSteps | None = None

    @property
    def total(self) -> float:
        """Seconds altogether."""
        return self.start_up + self.work

    @property
    def work(self) -> float:
        """Seconds of work, without the start-up."""
        return sum(self.phases.values())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time this block takes to a phase."""
        begun = perf_counter()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + perf_counter() - begun


@dataclass(frozen=True)
class FirstSteps:
    """What was seen when the four steps were tried on two pixels."""

    put_seconds: float
    get_seconds: float
    same_memory: bool
    task_pid: int
    task_saw: tuple[int, ...]
    driver_wrote: tuple[int, ...]
    driver_saw: tuple[int, ...]
    task_wrote: tuple[int, ...]

    @property
    def seen_by_both(self) -> bool:
        """Whether each side saw what the other wrote."""
        return self.task_saw == self.driver_wrote and self.driver_saw == self.task_wrote


def bands(height: int, parts: int) -> list[tuple[int, int]]:
    """The rows of the picture cut into nearly equal bands."""
    cuts = np.linspace(0, height, parts + 1).astype(int).tolist()
    return list(pairwise(cuts))


def by_participant(notes: Iterable[Note]) -> list[Note]:
    """One note per role and process, in order of appearance of the role."""
    merged: dict[tuple[str, int], Note] = {}
    for note in notes:
        known = merged.get((note.role, note.pid))
        merged[note.role, note.pid] = (
            note
            if known is None
            else replace(
                note,
                view=max(known.view, note.view),
                copied=known.copied + note.copied,
                updates=known.updates + note.updates,
                pieces=known.pieces + note.pieces,
            )
        )
    roles = list(dict.fromkeys(role for role, _ in merged))
    return sorted(merged.values(), key=lambda note: (roles.index(note.role), note.pid))
