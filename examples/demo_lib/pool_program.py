"""The same poster made with multiprocessing.Pool: the bands travel to the workers and back.

Written the way one would write it: the pool is started once, the photograph is cut into more bands than
there are workers so that sending and working overlap, bands are taken in whatever order they are done, and
only what a step needs is sent or returned. The main process merges tally and bars, so no lock is needed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Barrier
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from demo_lib import tally
from demo_lib.filters import Inks, choose_inks, count_colours, margins, print_poster
from demo_lib.lettering import Light, add_light, bar_of_light, darken_strip
from demo_lib.outcome import Job, Note, Outcome, bands
from demo_lib.words import Bar, bars_of, count_bytes, count_words

Pixels = NDArray[np.uint8]
Counts = NDArray[np.int64]
Printing = tuple[Pixels, Pixels, Pixels, int, Inks]

_ROLE = "pool worker"


def arrive(everybody: Barrier) -> None:
    """Run by every worker as it starts."""
    everybody.wait()


def look(band: Pixels) -> tuple[Counts, Note]:
    """Count the colours of a band."""
    return count_colours(band), Note(_ROLE, os.getpid(), copied=band.nbytes)


def read(documents: Pixels) -> tuple[Counter[str], Counts, Note]:
    """Count the words and the bytes of some documents."""
    return count_words(documents), count_bytes(documents), Note(_ROLE, os.getpid())


def print_band(work: Printing) -> tuple[int, Pixels, Note]:
    """Print a band and send it back."""
    band, above, below, top, inks = work
    travelled = 2 * band.nbytes + above.nbytes + below.nbytes
    print_poster(band, above, below, top, inks)
    return top, band, Note(_ROLE, os.getpid(), copied=travelled)


def letter(work: tuple[Bar, int, int]) -> tuple[Light, Note]:
    """Send back the light of a bar; the main process adds it to the picture."""
    return bar_of_light(*work), Note(_ROLE, os.getpid())


def run(job: Job, start_method: str | None) -> Outcome:
    """Start a pool, make the poster, end the pool."""
    context = multiprocessing.get_context(start_method)
    outcome = Outcome(f"multiprocessing ({context.get_start_method()})")
    begun = perf_counter()
    everybody = context.Barrier(job.workers + 1)
    with context.Pool(job.workers, arrive, (everybody,)) as pool:
        everybody.wait()
        outcome.start_up = perf_counter() - begun
        _work(job, pool, outcome)
    return outcome


def _work(job: Job, pool: Pool, outcome: Outcome) -> None:
    notes = outcome.notes
    height, width = job.photo.shape[:2]
    parts = bands(height, 4 * job.workers)
    counts = tally.empty()
    picture = np.empty_like(job.photo)

    with outcome.phase("look"):
        documents = [job.text.data[start:stop] for start, stop in job.text.shares(2 * job.workers)]
        reading = pool.map_async(read, documents)
        for colours, note in pool.imap_unordered(look, (job.photo[top:bottom] for top, bottom in parts)):
            tally.add(counts, tally.PHOTO, colours)
            notes.append(note)
        words = []
        for found, letters, note in reading.get():
            words.append(found)
            tally.add(counts, tally.TEXT, letters)
            notes.append(note)
        outcome.bars = bars_of(words)

    with outcome.phase("print"):
        inks = choose_inks(counts[tally.PHOTO])

        def to_print() -> Iterator[Printing]:
            for top, bottom in parts:
                yield job.photo[top:bottom], *margins(job.photo, top, bottom), top, inks

        for top, band, note in pool.imap_unordered(print_band, to_print()):
            picture[top : top + len(band)] = band
            notes.append(note)

    with outcome.phase("letter"):
        darken_strip(picture)
        for light, note in pool.imap_unordered(letter, [(bar, height, width) for bar in outcome.bars]):
            add_light(picture, light)
            tally.add(counts, tally.BARS, 1)
            notes.append(note)

    with outcome.phase("proof"):
        for colours, note in pool.imap_unordered(look, (picture[top:bottom] for top, bottom in parts)):
            tally.add(counts, tally.POSTER, colours)
            notes.append(note)

    outcome.copied = sum(note.copied for note in notes)
    outcome.picture, outcome.tally = picture, counts
