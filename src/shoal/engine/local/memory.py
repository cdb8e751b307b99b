"""The spill file, how long to wait for memory, and who holds what."""

from __future__ import annotations

import os
import sys
from typing import Any

from shoal import _core, exceptions

DIRECTORY_VARIABLE = "SHOAL_SPILL_DIRECTORY"
TIMEOUT_VARIABLE = "SHOAL_MEMORY_TIMEOUT"
TIMEOUT_S = 60.0


def timeout_of(setting: Any) -> float:
    """init()'s memory_timeout, or that of the environment, checked."""
    value = os.environ.get(TIMEOUT_VARIABLE, TIMEOUT_S) if setting is None else setting
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"memory_timeout must be a number of seconds, not {value!r}") from None
    if not 0 <= number < 1e9:
        raise ValueError(f"memory_timeout must be a number of seconds, 0 or more, not {value!r}")
    return number


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
    for path in dict.fromkeys((_temporary_directory(), "/var/tmp")):
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


def _temporary_directory() -> str:
    import tempfile  # only where it is needed: not in the supervisor, whose pages all workers have

    try:
        return tempfile.gettempdir()
    except OSError:  # there is none that can be written to
        return "/tmp"


# ------------------------------------------------------------------------------------------ who holds what

_KINDS = ("value", "mutable", "lock", "actor", "synchronisation", "queue", "dict", "frozen", "versioned")  # Kind in core/abi.h
_STATES = ("free", "being made", "awaited", "", "failed", "being freed")  # EntryState
_ROLES = ("", "driver", "supervisor", "worker", "actor", "guest")  # Role


def memory_info(directory: str, limit: Any = 10) -> dict[str, Any]:
    """What the arena holds, and for whom."""
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise ValueError(f"limit must be a number of objects, not {limit!r}")
    facts = _core.statistics()
    held, largest, written, write_ns, read, read_ns, writes, reads = _core._memory(limit)
    processes = {p["slot"]: p for p in _core.processes()}
    names = {slot: _name(p) for slot, p in processes.items()}
    return {
        "limit_bytes": facts["limit_bytes"],
        "used_bytes": facts["used_bytes"],
        "free_bytes": facts["limit_bytes"] - facts["used_bytes"],
        "peak_bytes": facts["peak_bytes"],
        "idle_bytes": facts["idle_bytes"],
        "objects": facts["objects"],
        "spilled_bytes": facts["spilled_bytes"],
        "spilled_objects": facts["spilled_objects"],
        "spill_directory": directory,
        "spills": writes,
        "spill_written_bytes": written,
        "spill_write_bytes_per_s": written / (write_ns * 1e-9) if write_ns else 0.0,
        "restores": reads,
        "spill_read_bytes": read,
        "spill_read_bytes_per_s": read / (read_ns * 1e-9) if read_ns else 0.0,
        "processes": [
            {
                "name": names.get(slot, f"slot {slot}"),
                "pid": processes[slot]["pid"] if slot in processes else 0,
                "role": _ROLES[processes[slot]["role"]] if slot in processes else "",
                "objects": objects,
                "bytes": size,
                "viewed_objects": viewed,
                "viewed_bytes": viewed_size,
            }
            for slot, objects, size, viewed, viewed_size in held
        ],
        "largest": [
            {
                "object_id": f"{handle >> 32:08x}{handle & 0xFFFFFFFF:08x}",
                "bytes": size,
                "kind": _KINDS[kind] if kind < len(_KINDS) else f"kind {kind}",
                "state": _STATES[state],
                "spilled": spilled,
                "viewed_by": [names.get(slot, f"slot {slot}") for slot in viewers],
                "referenced_by": [names.get(slot, f"slot {slot}") for slot in holders],
                "waiting_calls": calls,
                "contained_in": max(0, contained - calls),
            }
            for handle, size, kind, state, spilled, contained, calls, holders, viewers in largest
        ],
    }


def _name(process: _core.ProcessInfo) -> str:
    label = process["label"] or "worker"
    return label if label in ("driver", "supervisor") else f"{label} (pid {process['pid']})"


def size_text(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def _holders(item: dict[str, Any]) -> str:
    """Who keeps an object, and how."""
    parts = []
    if item["viewed_by"]:
        parts.append("views in " + _some(item["viewed_by"]))
    others = [name for name in item["referenced_by"] if name not in item["viewed_by"]]
    if others:
        parts.append("references in " + _some(others))
    if item["waiting_calls"]:
        parts.append(f"an argument of {item['waiting_calls']} waiting calls")
    if item["contained_in"]:
        parts.append(f"{item['contained_in']} references from containers, other objects or running calls")
    return "; ".join(parts) or "nobody"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def describe_object(item: dict[str, Any]) -> str:
    what = item["kind"] + (f", {item['state']}" if item["state"] else "") + (", spilled" if item["spilled"] else "")
    return f"ObjectRef({item['object_id']}) {size_text(item['bytes'])} ({what}): {_holders(item)}"


def memory_summary(directory: str, limit: int, stats_only: bool) -> str:
    """`memory_info` for people."""
    info = memory_info(directory, 0 if stats_only else limit)
    lines = [
        f"arena    {size_text(info['limit_bytes'])}, of which {size_text(info['used_bytes'])} used by {info['objects']} objects, "
        f"{size_text(info['free_bytes'])} free (peak {size_text(info['peak_bytes'])})",
        f"spilled  {size_text(info['spilled_bytes'])} in {info['spilled_objects']} objects; directory: {info['spill_directory']}",
    ]
    if info["spills"]:
        lines.append(
            f"         so far {info['spills']} objects written ({size_text(info['spill_written_bytes'])}, "
            f"{size_text(info['spill_write_bytes_per_s'])}/s), {info['restores']} read back "
            f"({size_text(info['spill_read_bytes'])}, {size_text(info['spill_read_bytes_per_s'])}/s)"
        )
    lines.append(f"{'process':<32} {'refers to':>22} {'looks at':>22}")
    for p in sorted(info["processes"], key=lambda p: -p["bytes"]):
        held = f"{p['objects']:>8} obj {size_text(p['bytes']):>9}"
        lines.append(f"{p['name']:<32.32} {held} {p['viewed_objects']:>8} obj {size_text(p['viewed_bytes']):>9}")
    if info["largest"]:
        lines.append("largest objects, and what keeps them")
        lines += [f"  {describe_object(item)}" for item in info["largest"]]
    return "\n".join(lines)


def largest_holders(n: int = 3) -> str:
    """For errors and warnings: who looks at most, who refers to most, and the largest objects that are in memory."""
    info = memory_info("", 4 * n)
    lookers = sorted((p for p in info["processes"] if p["viewed_bytes"]), key=lambda p: -p["viewed_bytes"])[:n]
    texts = [f"{p['name']} looks at {size_text(p['viewed_bytes'])}" for p in lookers]
    others = sorted((p for p in info["processes"] if p not in lookers and p["bytes"]), key=lambda p: -p["bytes"])[:n]
    texts += [f"{p['name']} refers to {size_text(p['bytes'])}" for p in others]
    found = [item for item in info["largest"] if not item["spilled"]][:n]
    what = "Largest objects: " + " | ".join(map(describe_object, found)) if found else ""
    return f"Largest holders: {', '.join(texts)}. {what}".rstrip() if texts else what


def explain_full(text: str) -> str:
    """The text of an ObjectStoreFullError: what the core says, whether spilling was of help, and who holds the most."""
    try:
        spilled = _core.statistics()["spilled_bytes"]
        more = f"{size_text(spilled)} are spilled. " if spilled else ""
        return f"{text}. {more}{largest_holders()}".rstrip()
    except exceptions.ShoalError:  # the session is over
        return text


def warn_low(need: int) -> None:
    """Somebody has waited for memory for a second."""
    sys.stderr.write(
        f"shoal: waiting for {size_text(need)} of memory since a second: the arena is full, and what is in use cannot be spilled. "
        f"{largest_holders()}\n"
    )
    sys.stderr.flush()
