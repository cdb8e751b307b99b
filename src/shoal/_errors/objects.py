"""Objects that cannot be had, made, stored or changed."""

from __future__ import annotations

import pickle
from typing import Any

from shoal._errors.base import ShoalError, hex_id, in_brackets


class GetTimeoutError(ShoalError, TimeoutError):
    """The result was not there within the timeout; nothing was changed, so it can be waited for again.

    >>> isinstance(GetTimeoutError("not ready after 0.1 s"), TimeoutError)
    True
    """


class ObjectLostError(ShoalError):
    """The object is gone and cannot be made again.

    `object_ref_hex` is the ref's id, `owner_address` None on one machine, `call_site` the line that made the
    ref, if recorded, `reason` what happened to it, if known.

    >>> print(ObjectLostError("ab12", call_site="train.py:7"))
    The object ab12 (made at train.py:7) was lost and cannot be made again.
    """

    _what = "was lost and cannot be made again."

    def __init__(self, object_ref_hex: str | bytes, owner_address: Any = None, call_site: str = "", reason: str = "") -> None:
        self.object_ref_hex = hex_id(object_ref_hex)
        self.owner_address = owner_address
        self.call_site = call_site
        self.reason = reason
        origin = in_brackets(call_site and f"made at {call_site}")
        what = f"{self._what.rstrip('.')}: {reason}" if reason else self._what
        super().__init__(f"The object {self.object_ref_hex}{origin} {what}")


class ObjectFreedError(ObjectLostError):
    """The object was freed explicitly while refs to it were still around."""

    _what = "was freed while this ref to it was still in use."


class OwnerDiedError(ObjectLostError):
    """The process that was to make or keep the object died."""

    _what = "cannot be had: the process that owned it died."


class ObjectStoreFullError(ShoalError):
    """The shared memory is full of objects in use: drop refs and views you no longer need, or give
    shoal.init a larger object_store_memory."""


class OutOfMemoryError(ShoalError):
    """The task was ended because memory ran low: give it a `memory` or a larger num_cpus, so that fewer
    run at a time."""


class OutOfDiskError(ShoalError):
    """There is no room left on the disk for what has to be written there."""


class UnserializableException(ShoalError):
    """An exception arrived that cannot be unpickled here; `original_stack_trace` is its text."""

    def __init__(self, original_stack_trace: str = "") -> None:
        super().__init__(f"An exception arrived that cannot be unpickled here:\n{original_stack_trace}")
        self.original_stack_trace = original_stack_trace


class PicklingError(ShoalError, pickle.PicklingError, TypeError):
    """Something that cannot be pickled is in an argument, a result or a put value: make it in the task or
    actor that uses it, or teach Shoal how to pickle it with shoal.util.register_serializer.

    `path` is the way to it and `type_name` what lies there, as far as known; without a message they make one.

    >>> str(PicklingError(path="args[0].lock", type_name="_thread.lock")).split(":")[0]
    'args[0].lock (a _thread.lock) cannot be pickled'
    """

    def __init__(self, message: str = "", *, path: str | None = None, type_name: str | None = None) -> None:
        if path and not message:
            what = path + in_brackets(type_name and f"a {type_name}")
            message = f"{what} cannot be pickled: make it in the task or actor that uses it"
        super().__init__(*([message] if message else []))
        self.path = path
        self.type_name = type_name


class NotMutableError(ShoalError, TypeError):
    """This value cannot be put with mutable=True, as there is no array in it to change in place. Put an array
    (or a dict or dataclass of arrays), use a shared container or a Versioned, or keep it in an actor."""


class WritableViewsError(ShoalError, BufferError):
    """The object cannot be frozen: the processes in `pids` have arrays through which they can still write to it."""

    pids: tuple[int, ...] = ()


class NotOwnerError(ShoalError, PermissionError):
    """Only the owner of a mutable object may do this, and this process is not it; `owner` is (None: nobody)."""

    owner: Any = None


class StaleOwnerError(NotOwnerError):
    """This process owned the object, and lost it: another epoch has begun. Nothing was committed. `owner` has it now."""


class ClaimTimeoutError(ShoalError, TimeoutError):
    """The object was not handed on within the timeout that was given; `owner` still has it."""

    owner: Any = None


class VersionConflictError(ShoalError):
    """Somebody else published meanwhile: the Versioned's newest version is `found` and not `expected`."""

    expected: int = -1
    found: int = -1
