"""The one array of counts that everybody adds to: where each kind of count lies in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from demo_lib.filters import COLOURS
from demo_lib.words import BYTE_VALUES

Counts = NDArray[np.int64]

PHOTO = slice(0, COLOURS)  # the colours of the photograph
POSTER = slice(COLOURS, 2 * COLOURS)  # the colours of the finished poster
TEXT = slice(2 * COLOURS, 2 * COLOURS + BYTE_VALUES)  # the bytes of the text
BARS = slice(TEXT.stop, TEXT.stop + 1)  # bars drawn
UPDATES = slice(BARS.stop, BARS.stop + 1)  # how often anybody added anything


def empty() -> Counts:
    """A tally of nothing."""
    return np.zeros(UPDATES.stop, np.int64)


def add(tally: Counts, place: slice, counts: Counts | int) -> None:
    """Read, add, write: the caller holds the lock."""
    tally[place] += counts
    tally[UPDATES] += 1
