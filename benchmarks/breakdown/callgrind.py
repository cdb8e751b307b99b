"""Reads the files that callgrind writes, as far as is needed for the cost of each function itself.

The format: https://valgrind.org/docs/manual/cl-format.html. A line names the object (ob=), the file (fl=, or
fi= and fe= where code of another file was inlined) or the function (fn=) that the following cost lines belong
to; a name is written once and later given by its number. The cost line after a calls= line is that of the
callee, so not ours.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(r"\((\d+)\)(?: (.*))?")
_COST = re.compile(r"[+\-*\d]\S* (\d+)")


class Place(NamedTuple):
    """Where instructions were executed: `source` is the file that the code was written in, inlined or not."""

    object: str
    file: str
    source: str
    function: str


def read(path: Path) -> Counter[Place]:
    """Instructions by place."""
    names: dict[str, dict[str, str]] = {"ob": {}, "fl": {}, "fn": {}}
    found: Counter[Place] = Counter()
    here = {"ob": "", "fl": "", "fi": "", "fn": ""}
    callee = False
    for line in path.read_text(errors="replace").splitlines():
        key, equals, value = line.partition("=")
        if equals and len(key) <= 5 and key.isalpha():
            if key == "calls":
                callee = True
                continue
            kind = {"cob": "ob", "cfi": "fl", "cfl": "fl", "cfn": "fn", "fi": "fl", "fe": "fl"}.get(key, key)
            if kind in names:
                name = _named(names[kind], value)
                if key in ("ob", "fn", "fl"):
                    here[key] = name
                if key in ("fl", "fi", "fe"):
                    here["fi"] = name
            continue
        cost = _COST.match(line)
        if cost is None:
            continue
        if callee:
            callee = False
            continue
        found[Place(here["ob"], here["fl"], here["fi"], here["fn"])] += int(cost[1])
    return found


def _named(known: dict[str, str], value: str) -> str:
    match = _NAME.match(value)
    if match is None:
        return value
    if match[2]:
        known[match[1]] = match[2]
    return known.get(match[1], "")


def parts(folder: Path, prefix: str) -> list[Path]:
    """The files of one run, in the order in which they were written, without the empty one of the end."""
    numbered = []
    for path in folder.glob(f"{prefix}.*"):
        number = path.name[len(prefix) + 1 :]
        if number.isdigit():
            numbered.append((int(number), path))
    return [path for _, path in sorted(numbered)]
