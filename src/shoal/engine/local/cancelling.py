"""Ending tasks before their time, and those that they have submitted; core/cancel.cpp says how it is exact."""

from __future__ import annotations

from shoal import _core, exceptions

CANCELLED, TIMED_OUT, FORCED, RECURSIVE, SAVED = 4, 128, 256, 512, 1024  # TaskFlags in core/abi.h
CMD_CANCEL, CMD_KILL = 2, 4  # CommandBits


def end_task(handle: int, force: bool, recursive: bool, again: bool = True) -> None:
    """Cancel the task that makes the object `handle`, wherever it is; not its children. One that is over stays as it is.

    again=False: one that has been interrupted already is left to its clean-up.
    """
    task = _core.cancel_queued(handle)
    if task is not None:
        _core.fail(task, exceptions.TaskCancelledError(f"{_core.task_id(task):x}"), True)
        return
    # A recursive mark has whoever ends it look for children once more: those it submits until it is interrupted.
    if _core.mark_running(handle, CANCELLED | (FORCED if force else 0) | (RECURSIVE if recursive else 0), again) >= 0:
        _core.ring_supervisor()


def end_children(parent: int, force: bool, last: int = 2**63 - 1) -> None:
    """Cancel what the task with the id `parent` has submitted, up to the task `last`, and what those have in their turn."""
    for handle in _core.descendants(parent, last):
        end_task(handle, force, True, again=False)
