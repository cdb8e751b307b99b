"""Counts of all word beginnings in real documents: an actor a core, each keeps the counts of its documents.

The text, the chapters of Python's reference manual, lies in shared memory once; an actor is told where its
documents are and reads them there. A question is asked of all actors at once and the answers are added up.
"""

import os
import re
from collections import Counter
from pydoc_data.topics import topics

import numpy as np

import shoal

LONGEST = 8


@shoal.remote
class Prefixes:
    """Counts the beginnings, up to LONGEST letters, of the words in some documents."""

    def __init__(self, text: np.ndarray, places: list[tuple[int, int]]) -> None:
        self.counts: Counter[str] = Counter()
        for start, stop in places:
            words = Counter(re.findall(r"[a-z]+", text[start:stop].tobytes().decode().lower()))
            for word, count in words.items():
                for length in range(1, min(len(word), LONGEST) + 1):
                    self.counts[word[:length]] += count

    def count(self, prefixes: list[str]) -> list[int]:
        return [self.counts[prefix] for prefix in prefixes]

    def who(self) -> str:
        return f"process {os.getpid()} knows {len(self.counts):,} prefixes"


cores = max(2, len(os.sched_getaffinity(0)))
shoal.init(num_cpus=cores)
documents = [topics[name].encode() for name in sorted(topics)]
ends = np.cumsum([len(document) for document in documents]).tolist()
places = list(zip([0, *ends[:-1]], ends, strict=True))
text = shoal.put(np.frombuffer(b"".join(documents), np.uint8))  # once, for all actors

actors = [Prefixes.remote(text, places[core::cores]) for core in range(cores)]
print(f"{len(documents)} documents, {ends[-1]:,} bytes", *shoal.get([a.who.remote() for a in actors]), sep="\n")
asked = ["s", "st", "str", "stri", "string", "imm", "mut", "lock"]
answers = np.sum(shoal.get([actor.count.remote(asked) for actor in actors]), axis=0)
for prefix, count in zip(asked, answers, strict=True):
    print(f"{prefix + '...':10} {count:6,}")
