"""Settings of memory: the spill file, and what happens when memory runs low."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from shoal import _core

DIRECTORY_VARIABLE = "SHOAL_SPILL_DIRECTORY"


def open_spill_file(directory: Any) -> tuple[int, str]:
    """The session's spill file, which has no name: (descriptor, its directory); (-1, why there is none).

    `directory` is init()'s spill_directory. None: that of the environment, else the first of the directories for temporary
    files that lies on a disk, as memory cannot be gained by spilling into memory.
    """
    if directory is None:
        directory = os.environ.get(DIRECTORY_VARIABLE)
    if directory is not None:
        if not isinstance(directory, (str, os.PathLike)):
            raise TypeError(f"spill_directory must be a path, or '' for no spilling, not {directory!r}")
        path = os.fspath(directory)
        if not path:
            return -1, "spilling is switched off"
        try:
            return _core._open_spill_file(path)[0], os.path.abspath(path)
        except OSError as error:
            raise ValueError(f"spill_directory cannot be used: {error}; name another directory, or '' for no spilling") from error
    why = []
    for path in dict.fromkeys((tempfile.gettempdir() if _has_temporary_directory() else "/tmp", "/var/tmp")):
        try:
            fd, on_disk = _core._open_spill_file(path)
        except OSError as error:
            why.append(f"{path}: {error.strerror}")
            continue
        if on_disk:
            return fd, path
        os.close(fd)
        why.append(f"{path} lies in memory")
    return -1, f"no directory for spilling was found ({'; '.join(why)}); name one with init(spill_directory=...)"


def _has_temporary_directory() -> bool:
    try:
        return bool(tempfile.gettempdir())
    except OSError:
        return False
