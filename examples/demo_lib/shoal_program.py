"""The poster made with Shoal: one photograph in shared memory, changed in place by actors and tasks."""

from __future__ import annotations

import os
from collections import Counter
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import shoal
from demo_lib import tally
from demo_lib.filters import STRIP, Inks, choose_inks, count_colours, margins, print_poster
from demo_lib.lettering import add_light, bar_of_light, darken_strip
from demo_lib.outcome import FirstSteps, Job, Note, Outcome, bands
from demo_lib.words import Bar, bars_of, count_bytes, count_words

Pixels = NDArray[np.uint8]
Counts = NDArray[np.int64]

_MARKS = ((11, 22, 33), (44, 55, 66))


@shoal.remote
class Printer:
    """Owns one band of the picture: counts its colours, later prints it in place."""

    def __init__(self, top: int, bottom: int) -> None:
        self.top, self.bottom = top, bottom

    def hello(self) -> int:
        """Answer, so that the driver knows that everybody is there."""
        return os.getpid()

    def look(self, shared: list[shoal.ObjectRef]) -> Note:
        """Add the colours of the band to the tally, and keep the rows next to it as they are now."""
        self.picture = shoal.get(shared[0])
        counts = shoal.get(shared[1])
        updates = _add_colours(shared[1], counts, tally.PHOTO, self.picture[self.top : self.bottom])
        self.above, self.below = margins(self.picture, self.top, self.bottom)
        kept = self.above.nbytes + self.below.nbytes
        return Note("printer (actor)", os.getpid(), self.picture.nbytes, kept, updates, pieces=0)

    def print_band(self, inks: Inks) -> Note:
        """Print the band where it lies."""
        print_poster(self.picture[self.top : self.bottom], self.above, self.below, self.top, inks)
        return Note("printer (actor)", os.getpid(), self.picture.nbytes)


@shoal.remote
def meet() -> int:
    """Answer, so that the driver knows that workers are there."""
    return os.getpid()


@shoal.remote
def answer(shared: list[shoal.ObjectRef]) -> tuple[int, tuple[int, ...]]:
    """Look at one pixel, change the next."""
    picture = shoal.get(shared[0])
    seen = tuple(picture[0, 0].tolist())
    picture[0, 1] = _MARKS[1]
    return os.getpid(), seen


@shoal.remote
def read(text: Pixels, start: int, stop: int, shared: list[shoal.ObjectRef]) -> tuple[Counter[str], Note]:
    """Count the words of some documents; the bytes go to the tally."""
    documents = text[start:stop]
    words, letters = count_words(documents), count_bytes(documents)
    counts = shoal.get(shared[0])
    with shoal.lock(shared[0]):
        tally.add(counts, tally.TEXT, letters)
    return words, Note("reader (task)", os.getpid(), updates=1)


@shoal.remote
def letter(bar: Bar, shared: list[shoal.ObjectRef]) -> Note:
    """Draw one bar into the picture: its light falls on the pixels of its neighbours."""
    picture, counts = shoal.get(shared)
    light = bar_of_light(bar, *picture.shape[:2])
    with shoal.lock(shared[0]):
        add_light(picture, light)
    with shoal.lock(shared[1]):
        tally.add(counts, tally.BARS, 1)
    return Note("letterer (task)", os.getpid(), picture.nbytes, updates=1)


@shoal.remote
def proof(picture: Pixels, top: int, bottom: int, shared: list[shoal.ObjectRef]) -> Note:
    """Count the colours of some rows of the finished poster."""
    updates = _add_colours(shared[0], shoal.get(shared[0]), tally.POSTER, picture[top:bottom])
    return Note("proof-reader (task)", os.getpid(), picture.nbytes, updates=updates)


def _add_colours(ref: shoal.ObjectRef, counts: Counts, place: slice, rows: Pixels) -> int:
    """Count strip by strip; each strip is added to the shared tally under its lock."""
    starts = range(0, len(rows), STRIP)
    for start in starts:
        found = count_colours(rows[start : start + STRIP])
        with shoal.lock(ref):
            tally.add(counts, place, found)
    return len(starts)


def _four_steps(picture_ref: shoal.ObjectRef, put_seconds: float) -> FirstSteps:
    """Get, change and look, on the first two pixels; they are put back afterwards."""
    begun = perf_counter()
    picture = shoal.get(picture_ref)
    get_seconds = perf_counter() - begun
    before = picture[0, :2].copy()
    with shoal.lock(picture_ref):
        picture[0, 0] = _MARKS[0]
    pid, task_saw = shoal.get(answer.remote([picture_ref]))
    driver_saw = tuple(picture[0, 1].tolist())
    with shoal.lock(picture_ref):
        picture[0, :2] = before
    same = np.shares_memory(picture, shoal.get(picture_ref))
    return FirstSteps(put_seconds, get_seconds, same, pid, task_saw, _MARKS[0], driver_saw, _MARKS[1])


def run(job: Job) -> Outcome:
    """Start a session, make the poster, end the session."""
    outcome = Outcome("Shoal")
    height = len(job.photo)
    begun = perf_counter()
    shoal.init(num_cpus=job.workers)
    try:
        printers = [Printer.remote(top, bottom) for top, bottom in bands(height, job.workers)]
        everybody = [printer.hello.remote() for printer in printers]
        everybody += [meet.remote() for _ in range(job.workers)]
        shoal.get(everybody)
        outcome.start_up = perf_counter() - begun
        _work(job, printers, outcome)
    finally:
        shoal.shutdown()
    return outcome


def _work(job: Job, printers: list[Any], outcome: Outcome) -> None:
    notes = outcome.notes
    height = len(job.photo)
    with outcome.phase("share"):
        begun = perf_counter()
        picture_ref = shoal.put(job.photo, mutable=True)
        put_seconds = perf_counter() - begun
        text_ref = shoal.put(job.text.data)
        tally_ref = shoal.put(tally.empty(), mutable=True)
        outcome.first_steps = _four_steps(picture_ref, put_seconds)
        picture, counts = shoal.get([picture_ref, tally_ref])

    with outcome.phase("look"):
        looking = [printer.look.remote([picture_ref, tally_ref]) for printer in printers]
        reading = [read.remote(text_ref, a, b, [tally_ref]) for a, b in job.text.shares(2 * job.workers)]
        words: list[Counter[str]] = []
        while reading:
            done, reading = shoal.wait(reading)
            for found, note in shoal.get(done):
                words.append(found)
                notes.append(note)
        notes += shoal.get(looking)
        outcome.bars = bars_of(words)

    with outcome.phase("print"):
        inks_ref = shoal.put(choose_inks(counts[tally.PHOTO]))
        notes += shoal.get([printer.print_band.remote(inks_ref) for printer in printers])

    with outcome.phase("letter"):
        with shoal.lock(picture_ref):
            darken_strip(picture)
        notes.append(Note("driver", os.getpid(), picture.nbytes))
        notes += shoal.get([letter.remote(bar, [picture_ref, tally_ref]) for bar in outcome.bars])

    with outcome.phase("proof"):
        parts = bands(height, 4 * job.workers)
        notes += shoal.get([proof.remote(picture_ref, top, bottom, [tally_ref]) for top, bottom in parts])

    outcome.copied = picture.nbytes + sum(note.copied for note in notes)
    outcome.picture, outcome.tally = picture.copy(), counts.copy()  # to outlive the session, not timed
