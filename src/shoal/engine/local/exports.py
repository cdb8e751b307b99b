"""Functions and classes on their way to the workers.

Each is pickled once by the process that defines it and stored under the hash of its pickle, so that the same function
exported twice is one object. Exports stay until the session ends: any process may still get a call that names them.
Every process unpickles an export once and keeps the result.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

try:
    from _blake2 import blake2b  # hashlib would load OpenSSL, which is 3 MB in each process
except ImportError:
    from hashlib import blake2b

from shoal import _core
from shoal.engine.local.environment import Applied
from shoal.serialization import dumps_by_value

_FUNCTIONS = 3  # NAMES_FUNCTION in core/abi.h


class Export:
    """A function or class as a worker sees it: `target`, its name, and the options that matter where it runs."""

    __slots__ = ("calls", "extras", "name", "target")

    def __init__(self, name: str, extras: dict[str, Any], target: Any) -> None:
        self.name = name
        self.extras = extras
        self.target = target
        self.calls = 0  # in this process, for max_calls


class Exports:
    """The exports that this process has made or used, by handle."""

    def __init__(self) -> None:
        self.loaded: dict[int, Export] = {}
        self.known_path = set(sys.path)  # what every process of the session imports from; for a guest: nothing
        self._refs: dict[int, Any] = {}  # keeps the objects, so that handles in this process stay valid

    def add(self, name: str, target: Any, extras: dict[str, Any]) -> int:
        """Store `target`; returns its handle. Raises PicklingError."""
        folders: list[Any] = sys.path
        added = [os.path.abspath(p) for p in folders if p not in self.known_path and isinstance(p, str)]
        if added:
            extras = {**extras, "path": added}
        (code, extra_code), refs = _core.collect_refs(lambda: (dumps_by_value(target), dumps_by_value(extras)))
        key = blake2b(code + b"\0" + extra_code + name.encode(), digest_size=24).hexdigest()
        ref: Any = _core.name_get(_FUNCTIONS, key)
        if ref is None:
            ref = _core.put((name, extra_code, code, refs), False)  # with them it keeps what the function refers to
            if not _core.name_set(_FUNCTIONS, key, ref):  # somebody was quicker
                ref = _core.name_get(_FUNCTIONS, key)
        handle: int = ref._handle
        self._refs[handle] = ref
        return handle

    def load(self, handle: int, begin: Callable[[str], None] | None = None) -> Export:
        """The export of that handle. Raises whatever unpickling it raises, for instance ImportError; calls `begin` with its
        name before."""
        export = self.loaded.get(handle)
        if export is None:
            ref = _core.share(handle)
            name, extra_code, code, _ = _core.get(ref, None)
            if begin is not None:
                begin(name)
            extras = pickle.loads(extra_code)
            sys.path += [folder for folder in extras.pop("path", ()) if folder not in sys.path]
            if "runtime_env" in extras:  # it says where to import from, too
                with Applied(extras["runtime_env"]):
                    export = Export(name, extras, pickle.loads(code))
            else:
                export = Export(name, extras, pickle.loads(code))
            self._refs[handle] = ref
            self.loaded[handle] = export
        return export
