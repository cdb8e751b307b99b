"""The base of all errors, the copying of exceptions, and texts."""

from __future__ import annotations

import copyreg
import types
from collections.abc import Callable
from typing import Any, cast

_REPR_LIMIT = 1_000  # characters of a cause's repr that are worth sending home


class ShoalError(Exception):
    """Something went wrong in Shoal; the base of every error it raises.

    >>> issubclass(GetTimeoutError, ShoalError) and RayError is ShoalError
    True
    >>> print(NotInitializedError())
    There is no Shoal session: call shoal.init() first.
    """

    def __str__(self) -> str:
        if self.args:
            return super().__str__()
        doc = next((cls.__doc__ for cls in type(self).__mro__ if cls.__doc__), "")
        return " ".join(doc.split("\n\n")[0].split())

    def __reduce__(self) -> tuple[Any, ...]:
        # Not through __init__: its parameters are not `args`, which is what BaseException's recipe assumes.
        return (restore, (type(self), *snapshot(self)))


RayError = ShoalError


class ProcessDeath:
    """What is known of the process that died, for the errors that tell of it.

    `exit_code` is what it exited with, `signal_name` the signal that ended it (as "SIGSEGV"); one of them is None.
    `last_output` are the last lines that it printed, `python_stack` where its Python code was when native code crashed;
    both are texts, empty if nothing is known.
    """

    exit_code: int | None = None
    signal_name: str | None = None
    last_output: str = ""
    python_stack: str = ""


class SchedulingWarning(UserWarning):
    """Work waits for something that may never come: for instance more CPUs than the session has."""


# -- copying exceptions -------------------------------------------------------------------------------------
#
# An exception is three things: `args`, the values of its C fields and __slots__ (as OSError.errno), and its
# __dict__. Made again from these, not by calling the class, it does not depend on what __init__ asks for.

Parts = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]
_FIELD_TYPES = (types.MemberDescriptorType, types.GetSetDescriptorType)
_PICKLE_HOOKS = ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__getnewargs__")


def snapshot(exc: BaseException) -> Parts:
    members: dict[str, Any] = {}
    for owner in type(exc).__mro__:
        if owner in (BaseException, object):
            continue
        for name, field in vars(owner).items():
            if isinstance(field, _FIELD_TYPES) and not name.startswith("__"):
                try:
                    value = field.__get__(exc)
                except AttributeError:  # a slot that was never set
                    continue
                # A C field that was never set reads as None, and set to None it is not the same: OSError's
                # text would end in ": None".
                if value is not None or is_heap_type(owner):
                    members.setdefault(name, value)
    state = dict(exc.__dict__)
    if "__notes__" in state:
        state["__notes__"] = list(state["__notes__"])  # add_note on the copy is not for the original
    return exc.args, members, state


def restore(cls: type[BaseException], args: tuple[Any, ...], members: dict[str, Any], state: dict[str, Any]) -> BaseException:
    # The built-in class that decides the layout makes the instance; CPython refuses any other.
    base: Any = cls
    while is_heap_type(base):
        base = base.__base__
    new = cast("Callable[..., BaseException]", base.__new__)
    try:
        exc = new(cls, *args)  # the fields of an ExceptionGroup can be set here only
    except Exception:
        exc = new(cls)
    # BaseException.__setattr__: a frozen dataclass may be an exception too.
    BaseException.__setattr__(exc, "args", args)
    for name, value in members.items():
        try:
            BaseException.__setattr__(exc, name, value)
        except (AttributeError, TypeError):  # read-only, and set from args
            continue
    exc.__dict__.update(state)
    return exc


def pickles_the_usual_way(exc: BaseException) -> bool:
    """Whether nothing in the class of `exc` says how it is to be pickled."""
    cls = type(exc)
    if cls in copyreg.dispatch_table:
        return False
    owners = (next((base for base in cls.__mro__ if hook in vars(base)), object) for hook in _PICKLE_HOOKS)
    return not any(is_heap_type(owner) for owner in owners)


def is_heap_type(cls: type) -> bool:
    """Whether the class was made by Python code (Py_TPFLAGS_HEAPTYPE), not compiled in."""
    return bool(cls.__flags__ & (1 << 9))


# -- texts --------------------------------------------------------------------------------------------------


def hex_id(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return str(value.hex())  # bytes, and every kind of id


def in_brackets(*parts: str | bool | None) -> str:
    text = ", ".join(part for part in parts if isinstance(part, str) and part)
    return f" ({text})" if text else ""


def type_name(value: object) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def safe_repr(value: object) -> str:
    try:
        text = repr(value)
    except Exception as failure:
        return f"<{type_name(value)} whose repr raised {type_name(failure)}>"
    return text if len(text) <= _REPR_LIMIT else text[:_REPR_LIMIT] + "..."
