"""Which group of functions a place in a program belongs to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from benchmarks.breakdown.callgrind import Place

# By the source file of the core; what is inlined from elsewhere (std::atomic) counts as its surroundings.
_CORE = {
    "allocator": "core: allocator",
    "arena": "core: allocator",
    "objects": "core: objects",
    "tasks": "core: tasks",
    "actors": "core: tasks",
    "journal": "core: journal",
    "client": "core: journal",
    "wait": "core: waiting",
    "sync": "core: locks",
    "queues": "core: containers",
    "table": "core: containers",
    "recovery": "core: recovery",
    "check": "core: recovery",
    "names": "core: names",
}
BINDINGS = "core: bindings"
INTERPRETER, PY_MEMORY, PY_OBJECTS = "Python: interpreter", "Python: memory", "Python: objects"
LIBC, OTHER = "C library", "other"
ORDER = (
    BINDINGS, "core: objects", "core: tasks", "core: allocator", "core: journal", "core: locks",
    "core: waiting", "core: names", "core: containers", "core: recovery", INTERPRETER, PY_OBJECTS, PY_MEMORY, LIBC, OTHER,
)  # fmt: skip

_EVAL = re.compile(r"_?PyEval_|_PyFunction_|_PyFrame|frame_|PyEval|eval_frame")
_ALLOCATION = re.compile(
    r"_?PyObject_(Malloc|Free|Realloc|GC)|_?PyMem_|pymalloc|arena|gc_|_PyObject_GC|_Py_Dealloc|.*_dealloc|"
    r"_Py_NewReference|PyObject_GC|.*_alloc\b|subtype_dealloc|_PyObject_New|PyType_GenericAlloc"
)


def group_of(place: Place) -> str:
    """The group of a place."""
    if "_core" in place.object:
        for file in (place.source, place.file):
            stem = file.rpartition("/")[2].partition(".")[0]
            if stem.startswith("bindings"):
                return BINDINGS
            if stem in _CORE:
                return _CORE[stem]
        return BINDINGS  # nanobind, and what the compiler made up
    name = place.object.rpartition("/")[2]
    if name.startswith(("libc.", "libc-", "ld-", "libm.", "libpthread", "libstdc++", "libgcc")):
        return LIBC
    if name.startswith(("python", "libpython")):
        if _EVAL.match(place.function):
            return INTERPRETER
        if _ALLOCATION.match(place.function):
            return PY_MEMORY
        return PY_OBJECTS
    return OTHER


def by_group(places: Counter[Place], nothing: Counter[Place], n: int) -> dict[str, float]:
    """Instructions of one of n operations by group, less those of n times nothing."""
    found: dict[str, float] = {}
    for sign, counts in ((1, places), (-1, nothing)):
        for place, count in counts.items():
            group = group_of(place)
            found[group] = found.get(group, 0.0) + sign * count / n
    return {group: found[group] for group in ORDER if abs(found.get(group, 0.0)) >= 0.5}


def by_function(places: Counter[Place], n: int, most: int) -> list[tuple[str, str, float]]:
    """The functions with the most instructions: (function, group, instructions of one operation)."""
    found: Counter[tuple[str, str]] = Counter()
    for place, count in places.items():
        found[place.function, group_of(place)] += count
    return [(function, group, count / n) for (function, group), count in found.most_common(most)]


def total(groups: Iterable[dict[str, float]]) -> float:
    """Instructions of several steps together."""
    return sum(sum(group.values()) for group in groups)
