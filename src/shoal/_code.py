"""Code objects on their way to another process: they keep the name of their file, and bring lines that no file has.

cloudpickle 3.1.3 names the file of everything it pickles by value "<dynamic-code>", so a remote traceback would show
no line of a function of `__main__`, of a notebook or of a closure. Files are read where the traceback is made, as
always. What was typed into a notebook or an interpreter is known to `linecache` only, in that process; its lines
travel with the outermost code object and are given to the `linecache` of the process that gets it.
"""

from __future__ import annotations

import linecache
import types
from typing import Any

_FILENAME = 10  # the place of co_filename among the arguments of types.CodeType, Python 3.10 to 3.14


class CodeReducer:
    """Reduces code objects as cloudpickle does, but for the above. One is made for each pickle."""

    def __init__(self, reduce: Any) -> None:
        self._reduce = reduce
        self._sent: dict[str, tuple[int, int]] = {}  # nested code comes after the code around it, which has its lines

    def __call__(self, code: types.CodeType) -> tuple[Any, tuple[Any, ...]]:
        kind, arguments = self._reduce(code)
        arguments = (*arguments[:_FILENAME], code.co_filename, *arguments[_FILENAME + 1 :])
        lines = _typed_lines(code)
        if not lines:
            return kind, arguments
        first, last = self._sent.get(code.co_filename, (0, 0))
        if first <= code.co_firstlineno <= last:
            return kind, arguments
        first, last = code.co_firstlineno, _last_line(code)
        self._sent[code.co_filename] = first, last
        return _make_typed_code, (arguments, first, "".join(lines[first - 1 : last]))


def _typed_lines(code: types.CodeType) -> list[str] | None:
    """The lines of the code's "file" if they are in no file."""
    name = code.co_filename
    if name.startswith("<"):  # doctest keeps its lines behind getlines; Python 3.14 the interpreter's with the code
        by_code = getattr(linecache, "_getlines_from_code", None)
        return linecache.getlines(name) or (by_code(code) if by_code else None)
    entry: tuple[Any, ...] = linecache.cache.get(name, ())
    return entry[2] if len(entry) == 4 and entry[1] is None else None  # no time of change: not read from a file


def _last_line(code: types.CodeType) -> int:
    if hasattr(code, "co_positions"):  # knows where a statement of several lines ends; from Python 3.11 on
        last = max((end or 0 for _, end, _, _ in code.co_positions()), default=0)
    else:
        last = max((line or 0 for _, _, line in code.co_lines()), default=0)
    inner = (_last_line(const) for const in code.co_consts if isinstance(const, types.CodeType))
    return max(last, code.co_firstlineno, *inner)


def _make_typed_code(arguments: tuple[Any, ...], first: int, text: str) -> types.CodeType:
    name = arguments[_FILENAME]
    entry: tuple[Any, ...] = linecache.cache.get(name, ())
    if not entry or (len(entry) == 4 and entry[1] is None):  # else there is a file of that name here
        lines = list(entry[2]) if entry else []
        new = text.splitlines(keepends=True)
        lines.extend(["\n"] * (first - 1 + len(new) - len(lines)))
        lines[first - 1 : first - 1 + len(new)] = new
        linecache.cache[name] = sum(map(len, lines)), None, lines, name
    return types.CodeType(*arguments)
