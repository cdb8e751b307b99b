"""The text work of the demo: count bytes, count words, and turn the most frequent words into bars."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BYTE_VALUES = 256
BARS = 16

_WORD = re.compile(rb"[a-z]{5,}")
_PLAIN = frozenset(
    (
        "above",
        "called",
        "defined",
        "following",
        "other",
        "should",
        "their",
        "there",
        "these",
        "using",
        "which",
    )
)


@dataclass(frozen=True)
class Bar:
    """One bar of the chart that is lettered into the picture."""

    slot: int
    word: str
    count: int
    share: float  # of the longest bar


def count_bytes(text: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each byte value occurs."""
    return np.bincount(text, minlength=BYTE_VALUES)


def count_words(text: NDArray[np.uint8]) -> Counter[str]:
    """How often each word of five letters or more occurs."""
    return Counter(word.decode() for word in _WORD.findall(text.tobytes().lower()))


def bars_of(counts: Iterable[Counter[str]]) -> list[Bar]:
    """The most frequent words of all these counts, as bars."""
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    kept = [(word, count) for word, count in total.items() if word not in _PLAIN]
    top = sorted(kept, key=lambda item: (-item[1], item[0]))[:BARS]
    return [Bar(slot, word, count, count / top[0][1]) for slot, (word, count) in enumerate(top)]
