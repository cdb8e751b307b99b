"""The one place that validates options: of tasks, actors and methods, and the resources of `init`.

Options are keywords, in `@remote(...)`, `.options(...)` and `@method(...)`. Each has one check in a table: it
returns the normalised value or raises TypeError (wrong type) or ValueError (bad value). Rules between options
are in the three public functions. None means "the default" where it is allowed, and stays in the result, so
that `{**decorator's, **options'}` lets `.options(num_gpus=None)` take a decorator's value back.

Resources are counted in fixed point, as ints: `RESOURCE_UNIT` units are 1.0 of CPU, GPU or a custom resource,
so that shares add up exactly; memory is in bytes.
"""

from __future__ import annotations

import math
import numbers
import os
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

RESOURCE_UNIT = 10_000  # units in 1.0 of a resource: the finest share is 0.0001
_MAX_TIMEOUT = 4_000_000  # seconds: the arena keeps milliseconds in 32 bits
_MAX_UNITS = 2**63 - 1  # the arena keeps amounts in an int64
_PACKAGE_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep

_Check = Callable[[str, Any], Any]


# -- amounts of resources -----------------------------------------------------------------------------------


def resource_units(name: str, quantity: float) -> int:
    """`quantity` of the resource `name` in units of 1/`RESOURCE_UNIT`, rounded down: three thirds fit into 1.

    Raises:
        TypeError: not a number.
        ValueError: negative, not finite, too large, or more than 0 and less than 0.0001.

    >>> resource_units("num_cpus", 0.5), resource_units("num_gpus", 1 / 3)
    (5000, 3333)
    """
    number = _number(name, quantity)
    if number < 0:
        raise ValueError(f"{name} must not be negative: it is {quantity!r}")
    if isinstance(number, int):
        units = number * RESOURCE_UNIT
    else:
        units = math.floor(round(number * RESOURCE_UNIT, 4))  # round: 0.0003 * 10_000 is 2.9999999999999996
    if number > 0 and units == 0:
        raise ValueError(f"{name}={quantity!r} is finer than 0.0001, the smallest share of a resource")
    if units > _MAX_UNITS:
        raise ValueError(f"{name}={quantity!r} is more than can be counted")
    return units


def memory_bytes(name: str, quantity: float) -> int:
    """An amount of memory in whole bytes, rounded down.

    Raises:
        TypeError: not a number.
        ValueError: negative, not finite, or too large.

    >>> memory_bytes("memory", 0.5 * 2**30)
    536870912
    """
    number = _number(name, quantity)
    if number < 0:
        raise ValueError(f"{name} is a number of bytes and must not be negative: it is {quantity!r}")
    if number > _MAX_UNITS:
        raise ValueError(f"{name}={quantity!r} bytes is more than can be counted")
    return math.floor(number)


def resource_demand(options: Mapping[str, Any], *, default_cpus: float) -> dict[str, int]:
    """What a task or actor with these options takes while it runs, in fixed point, without zero entries.

    Args:
        options: validated options, the decorator's and those of `.options()` together.
        default_cpus: the CPUs it takes when `num_cpus` is not given or None.

    Returns:
        "CPU", "GPU" and custom names to units of 1/`RESOURCE_UNIT`, "memory" to bytes. `accelerator_type`,
        labels and strategies are no resources here: one machine has no other node to choose.

    Raises:
        TypeError, ValueError: an amount is no number, negative, or finer than 0.0001.

    >>> resource_demand({"num_gpus": 0.5, "memory": 1000, "resources": {"disk": 2}}, default_cpus=1)
    {'CPU': 10000, 'GPU': 5000, 'memory': 1000, 'disk': 20000}
    """
    cpus = options.get("num_cpus")
    demand = {
        "CPU": resource_units("num_cpus", default_cpus if cpus is None else cpus),
        "GPU": resource_units("num_gpus", options.get("num_gpus") or 0),
        "memory": memory_bytes("memory", options.get("memory") or 0),
    }
    for name, quantity in (_resources("resources", options.get("resources")) or {}).items():
        demand[name] = resource_units(f"resources[{name!r}]", quantity)
    return {name: units for name, units in demand.items() if units}


def validate_init_resources(
    num_cpus: float | None,
    num_gpus: float | None,
    resources: Mapping[str, float] | None,
    memory: float | None,
) -> dict[str, int]:
    """What `init` was told the session has, in the fixed point of `resource_demand`.

    What is not in the result was not given, and the caller detects it; so a zero stays: with `num_cpus=0`
    nothing that needs a CPU can run, as in Ray.

    Raises:
        TypeError, ValueError: an amount is no number, negative, or finer than 0.0001; `resources` is no dict,
            or has an entry for which there is a keyword.

    >>> validate_init_resources(0, None, {"disk": 1.5}, None)
    {'CPU': 0, 'disk': 15000}
    """
    total: dict[str, int] = {}
    if num_cpus is not None:
        total["CPU"] = resource_units("num_cpus", num_cpus)
    if num_gpus is not None:
        total["GPU"] = resource_units("num_gpus", num_gpus)
    if memory is not None:
        total["memory"] = memory_bytes("memory", memory)
    for name, quantity in (_resources("resources", resources) or {}).items():
        total[name] = resource_units(f"resources[{name!r}]", quantity)
    return total


def _number(name: str, value: Any) -> int | float:
    # bool is an int on purpose: num_gpus=torch.cuda.is_available() is common. NumPy's numbers are welcome.
    if isinstance(value, numbers.Integral):
        return int(value)
    if not isinstance(value, numbers.Real):
        raise _wrong_type(name, "a number", value)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return float(value)


def _amount(name: str, value: Any) -> int | float | None:
    if value is None:
        return None
    resource_units(name, value)
    return _number(name, value)


def _memory(name: str, value: Any) -> int | None:
    return None if value is None else memory_bytes(name, value)


_OWN_KEYWORD = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory", "object_store_memory": "memory"}


def _resources(name: str, value: Any) -> dict[str, int | float] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _wrong_type(name, "a dict of resource names to amounts", value)
    amounts: dict[str, int | float] = {}
    for key, quantity in value.items():
        if not isinstance(key, str):
            raise TypeError(f"the keys of {name} are names of resources, not {key!r}")
        if not key:
            raise ValueError(f"{name} has an empty name in it")
        if key in _OWN_KEYWORD:
            raise ValueError(f"{name} must not hold {key!r}: use the keyword {_OWN_KEYWORD[key]} instead")
        label = f"{name}[{key!r}]"
        resource_units(label, quantity)
        amounts[key] = _number(label, quantity)
    return amounts


# -- one check for each kind of value -----------------------------------------------------------------------


def _wrong_type(name: str, wanted: str, value: Any) -> TypeError:
    return TypeError(f"{name} must be {wanted}, not {value!r} ({type(value).__name__})")


def _count(least: int, *, special: str = "") -> _Check:
    """A whole number of at least `least`; `special` explains the lowest value in the error."""
    wanted = f"an int of at least {least}{f' ({special})' if special else ''}"

    def check(name: str, value: Any) -> int | None:
        if value is None:
            return None
        # Unlike an amount, a count that is a bool is a mistake.
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise _wrong_type(name, f"{wanted} or None", value)
        if value < least:
            raise ValueError(f"{name} must be {wanted}, not {value!r}")
        return int(value)

    return check


def _text(*, empty: bool = False) -> _Check:
    def check(name: str, value: Any) -> str | None:
        if value is not None and not isinstance(value, str):
            raise _wrong_type(name, "a str or None", value)
        if value == "" and not empty:
            raise ValueError(f"{name} must not be empty: give a text, or None for no {name}")
        return value

    return check


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(name, "True or False", value)
    return value


def _or_none(check: _Check) -> _Check:
    return lambda name, value: None if value is None else check(name, value)


def _mapping(name: str, value: Any) -> dict[Any, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _wrong_type(name, "a dict or None", value)
    return dict(value)


def _runtime_env(name: str, value: Any) -> dict[Any, Any] | None:
    env = _mapping(name, value)
    if not env:
        return env
    _mapping(f"{name}['env_vars']", env.get("env_vars"))
    if env.get("working_dir") is not None:
        env["working_dir"] = _existing(f"{name}['working_dir']", env["working_dir"], folder=True)
    if env.get("py_modules") is not None:
        env["py_modules"] = [_existing(f"{name}['py_modules']", m) for m in _list(f"{name}['py_modules']", env["py_modules"]) or ()]
    ignored = sorted(str(key) for key in env if key not in ("env_vars", "working_dir", "py_modules", "excludes", "config"))
    if ignored:
        warnings.warn(
            f"{name} knows 'env_vars', 'working_dir' and 'py_modules' only; ignored: {', '.join(ignored)}. Tasks and actors have "
            "the driver's installed packages",
            stacklevel=6,
        )
    return env


def _existing(name: str, place: Any, *, folder: bool = False) -> str:
    """The absolute path of a folder, or of a package or module: a path, or the imported module itself."""
    if isinstance(place, types.ModuleType):
        place = place.__path__[0] if hasattr(place, "__path__") else place.__file__
    if not isinstance(place, (str, os.PathLike)):
        raise _wrong_type(name, "a path", place)
    path = os.path.abspath(os.path.expanduser(place))
    if not (os.path.isdir(path) if folder else os.path.exists(path)):
        raise ValueError(f"{name} must be {'a folder' if folder else 'a package or module'} on this machine: {place!r} is none")
    return path


def validate_runtime_env(value: Any) -> dict[Any, Any] | None:
    """The runtime_env of init()."""
    return _runtime_env("runtime_env", value)


def _labels(name: str, value: Any) -> dict[str, str] | None:
    labels = _mapping(name, value)
    for label, text in (labels or {}).items():
        if not isinstance(label, str) or not isinstance(text, str):
            raise TypeError(f"{name} must map strings to strings, not {label!r} to {text!r}")
    return labels


def _list(name: str, value: Any) -> list[Any] | None:
    if value is not None and not isinstance(value, (list, tuple)):
        raise _wrong_type(name, "a list or None", value)
    return None if value is None else list(value)


def _num_returns(name: str, value: Any) -> int | str | None:
    if isinstance(value, str):
        if value not in ("streaming", "dynamic"):
            raise ValueError(f"{name} must be an int of at least 0, 'streaming' or None, not {value!r}")
        if value == "dynamic":
            _warn_deprecated(f"{name}='dynamic' is deprecated: use 'streaming', and iterate over the result")
        return value
    if isinstance(value, bool) or not isinstance(value, (numbers.Integral, type(None))):
        raise _wrong_type(name, "an int of at least 0, 'streaming' or None", value)
    if value is not None and value < 0:
        raise ValueError(f"{name} must not be negative: it is {value!r}")
    return None if value is None else int(value)


def _retry_exceptions(name: str, value: Any) -> bool | tuple[type[BaseException], ...]:
    if isinstance(value, bool):
        return value
    wanted = "True, False or a list of exception classes"
    if not isinstance(value, (list, tuple)):
        raise _wrong_type(name, wanted, value)
    for item in value:
        if not isinstance(item, type):
            raise TypeError(f"{name} must be {wanted}; {item!r} in it is not a class")
        if not issubclass(item, BaseException):
            raise ValueError(f"{name} must be {wanted}; {item.__qualname__} in it is not an exception")
    return tuple(value)


def _timeout(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool):
        raise _wrong_type(name, "a number of seconds or None", value)
    seconds = float(_number(name, value))
    if not 0.001 <= seconds <= _MAX_TIMEOUT:
        raise ValueError(f"{name} must be at least 0.001 and at most {_MAX_TIMEOUT} seconds, or None for no limit: it is {value!r}")
    return seconds


def _backpressure(name: str, value: Any) -> int | None:
    if value == 0 and not isinstance(value, bool):
        raise ValueError(f"{name} must not be 0: 1 makes each object when it is asked for, -1 is no limit")
    checked: int | None = _count(-1, special="-1 for no limit")(name, value)
    return checked


def _max_pending_calls(name: str, value: Any) -> int | None:
    checked: int | None = _count(-1, special="-1 for no limit")(name, value)
    return -1 if checked == 0 else checked  # Ray takes 0 for "no limit" too


def _lifetime(name: str, value: Any) -> str | None:
    lifetime: str | None = _text()(name, value)
    if lifetime not in (None, "detached", "non_detached"):
        raise ValueError(f"{name} must be 'detached', 'non_detached' or None, not {value!r}")
    return lifetime


def _concurrency_groups(name: str, value: Any) -> dict[str, int] | None:
    wanted = "a dict of group names to their number of threads"
    if value is None:
        return None
    if isinstance(value, (list, tuple)):  # the other form of Ray: [{"name": "io", "max_concurrency": 2}, ...]
        try:
            value = {group["name"]: group["max_concurrency"] for group in value}
        except (KeyError, TypeError, IndexError):
            raise ValueError(f"the entries of a list of {name} need 'name' and 'max_concurrency'") from None
    if not isinstance(value, Mapping):
        raise _wrong_type(name, wanted, value)
    groups: dict[str, int] = {}
    for group, threads in value.items():
        if not isinstance(group, str):
            raise TypeError(f"{name} must be {wanted}; {group!r} is not a name")
        label = f"{name}[{group!r}]"
        if threads is None:
            raise _wrong_type(label, "an int of at least 1", threads)
        groups[group] = _count(1)(label, threads)
    return groups


def _scheduling_strategy(name: str, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        if value not in ("DEFAULT", "SPREAD"):
            raise ValueError(f"{name} must be 'DEFAULT', 'SPREAD', a strategy object or None, not {value!r}")
        return value
    # Imported late: shoal.util's own modules import the API, which imports this module.
    from shoal.util import scheduling_strategies as strategies

    kinds = (
        strategies.PlacementGroupSchedulingStrategy,
        strategies.NodeAffinitySchedulingStrategy,
        strategies.NodeLabelSchedulingStrategy,
    )
    if not isinstance(value, kinds):
        raise _wrong_type(name, "'DEFAULT', 'SPREAD' or one of shoal.util.scheduling_strategies", value)
    return value


def _placement_group(name: str, value: Any) -> Any:
    if value is None or value == "default":
        return value
    wanted = "a placement group, 'default' or None"
    if isinstance(value, str):
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    from shoal.util.scheduling_strategies import _is_placement_group  # late, as above

    if not _is_placement_group(value):
        raise _wrong_type(name, wanted, value)
    _warn_deprecated(f"{name} is deprecated: use scheduling_strategy=PlacementGroupSchedulingStrategy(...)")
    return value


def _bundle_index(name: str, value: Any) -> Any:
    if value is None:
        raise _wrong_type(name, "an int of at least -1 (-1 for any bundle)", value)
    return _count(-1, special="-1 for any bundle")(name, value)


def _object_store_memory(name: str, value: Any) -> None:
    if value is not None:
        memory_bytes(name, value)


# -- the tables ---------------------------------------------------------------------------------------------

_COMMON: dict[str, _Check] = {
    "accelerator_type": _text(),
    "enable_task_events": _flag,
    "fallback_strategy": _list,
    "label_selector": _labels,
    "memory": _memory,
    "num_cpus": _amount,
    "num_gpus": _amount,
    "object_store_memory": _object_store_memory,
    "placement_group": _placement_group,
    "placement_group_bundle_index": _bundle_index,
    "placement_group_capture_child_tasks": _or_none(_flag),
    "resources": _resources,
    "runtime_env": _runtime_env,
    "scheduling_strategy": _scheduling_strategy,
    "_labels": _labels,
    "_metadata": _mapping,
}

_TASK: dict[str, _Check] = {
    **_COMMON,
    "max_calls": _count(0, special="0 for no limit"),
    "max_retries": _count(-1, special="-1 for ever"),
    "name": _text(empty=True),
    "num_returns": _num_returns,
    "retry_exceptions": _retry_exceptions,
    "timeout_s": _timeout,
    "_generator_backpressure_num_objects": _backpressure,
}

_ACTOR: dict[str, _Check] = {
    **_COMMON,
    "allow_out_of_order_execution": _or_none(_flag),
    "concurrency_groups": _concurrency_groups,
    "enable_tensor_transport": _or_none(_flag),
    "get_if_exists": _flag,
    "lifetime": _lifetime,
    "max_concurrency": _count(1),
    "max_pending_calls": _max_pending_calls,
    "max_restarts": _count(-1, special="-1 for ever"),
    "max_task_retries": _count(-1, special="-1 for ever"),
    "name": _text(),
    "namespace": _text(),
}

_METHOD: dict[str, _Check] = {
    "concurrency_group": _text(),
    "enable_task_events": _or_none(_flag),
    "max_task_retries": _count(-1, special="-1 for ever"),
    "num_returns": _num_returns,
    "retry_exceptions": _or_none(_retry_exceptions),
    "tensor_transport": _text(),
    "_generator_backpressure_num_objects": _backpressure,
    "_num_objects_per_yield": _count(1),
}

_METHOD_CALL: dict[str, _Check] = {**_METHOD, "name": _text(empty=True), "_labels": _labels}

# What to do instead of asking for an option that belongs elsewhere.
_INSTEAD: dict[tuple[str, str], str] = {
    ("task", "max_restarts"): "a task is repeated with max_retries",
    ("task", "max_task_retries"): "a task is repeated with max_retries",
    ("task", "max_concurrency"): "limit the tasks that run at a time with num_cpus or a custom resource",
    ("task", "lifetime"): "only actors have a lifetime",
    ("task", "timeout"): "use timeout_s to end a task that takes too long, or get(ref, timeout=...) to wait no longer",
    ("actor", "timeout_s"): "only tasks have a limit of time; use get(ref, timeout=...) and cancel(ref) or kill(handle)",
    ("method", "timeout_s"): "only tasks have a limit of time; use get(ref, timeout=...) and cancel(ref)",
    ("actor", "max_retries"): "an actor has max_restarts, and max_task_retries for the calls of its methods",
    ("actor", "retry_exceptions"): "set it for a method, with @shoal.method(retry_exceptions=...)",
    ("actor", "num_returns"): "set it for a method, with @shoal.method(num_returns=...)",
    ("actor", "max_calls"): "an actor keeps its process; end it with shoal.kill or exit_actor()",
    ("method", "max_retries"): "the calls of a method are repeated with max_task_retries",
    ("method", "max_concurrency"): "set it for the actor, or use concurrency_group",
    ("method", "concurrency_groups"): "set concurrency_groups for the actor and concurrency_group here",
    **{
        ("method", name): "the resources are the actor's: set them where the actor is made"
        for name in ("num_cpus", "num_gpus", "resources", "memory")
    },
}
_NOUN = {"task": "a task", "actor": "an actor", "method": "a method"}


def _unknown_option(kind: str, name: str, valid: Mapping[str, _Check]) -> ValueError:
    import difflib  # seldom needed

    close = difflib.get_close_matches(name, valid, n=1)
    others = [
        _NOUN[other]
        for other, table in (("task", _TASK), ("actor", _ACTOR), ("method", _METHOD))
        if other != kind and name in table
    ]
    if (kind, name) in _INSTEAD:
        advice = _INSTEAD[kind, name]
    elif others:
        advice = f"it is an option of {' and '.join(others)}"
    elif close:
        advice = f"did you mean {close[0]!r}?"
    else:
        advice = "remove it"
    hidden = ("_", "object_store_memory")  # private ones, and one that is known only to be refused politely
    shown = ", ".join(sorted(option for option in valid if not option.startswith(hidden)))
    return ValueError(f"{name!r} is not an option of {_NOUN[kind]}: {advice} (the options are: {shown})")


def _checked(kind: str, options: Mapping[str, Any], table: Mapping[str, _Check]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in options.items():
        check = table.get(name)
        if check is None:
            raise _unknown_option(kind, str(name), table)
        result[name] = check(name, value)
    return result


def _check_placement(options: Mapping[str, Any]) -> None:
    group = options.get("placement_group", "default")
    if options.get("scheduling_strategy") is not None and group != "default":
        raise ValueError(
            "placement_group and scheduling_strategy exclude each other: "
            "use scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group) alone"
        )


# -- public -------------------------------------------------------------------------------------------------


def validate_task_options(options: Mapping[str, Any], *, in_options: bool, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options of `@remote` on a function, or of `.options()` of a remote function, normalised.

    Args:
        options: the keywords as the user gave them.
        in_options: whether they come from `.options()`, where `max_calls` is not allowed.
        base: the validated options that the result will be laid over (the decorator's); rules between options
            are checked for the two together.

    Returns:
        The given keys only: counts as int, `memory` as bytes, `retry_exceptions` as a bool or a tuple,
        mappings copied to dicts; None stays None and means the default.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: an unknown option, a bad value, or options that exclude each other.

    >>> validate_task_options({"num_cpus": 0.5, "retry_exceptions": [OSError]}, in_options=False)
    {'num_cpus': 0.5, 'retry_exceptions': (<class 'OSError'>,)}
    >>> validate_task_options({"num_cpu": 2}, in_options=True)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: 'num_cpu' is not an option of a task: did you mean 'num_cpus'? (the options are: ...)
    """
    if in_options and "max_calls" in options:
        raise ValueError("max_calls cannot be set in .options(): set it in @shoal.remote(max_calls=...)")
    if options.get("object_store_memory") is not None:
        raise ValueError("object_store_memory cannot be set for a task: use memory, or set it in shoal.init")
    result = _checked("task", options, _TASK)
    result.pop("object_store_memory", None)
    _check_placement({**(base or {}), **result})
    return result


def validate_actor_options(
    options: Mapping[str, Any], *, in_options: bool, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The options of `@remote` on a class, or of `.options()` of an actor class, normalised.

    Arguments, result and errors are as in `validate_task_options`; `concurrency_groups` is not allowed in
    `.options()`, and `get_if_exists=True` needs a `name`, here or in `base`. `object_store_memory` is left
    out of the result, with a DeprecationWarning.

    >>> validate_actor_options({"name": "a", "get_if_exists": True, "max_pending_calls": 0}, in_options=True)
    {'name': 'a', 'get_if_exists': True, 'max_pending_calls': -1}
    """
    if in_options and "concurrency_groups" in options:
        raise ValueError("concurrency_groups cannot be set in .options(): set it in @shoal.remote(concurrency_groups=...)")
    result = _checked("actor", options, _ACTOR)
    if options.get("object_store_memory") is not None:
        _warn_deprecated("object_store_memory of an actor is deprecated and has no effect: use memory")
    result.pop("object_store_memory", None)
    together = {**(base or {}), **result}
    if together.get("get_if_exists") and together.get("name") is None:
        raise ValueError("get_if_exists=True needs a name to look for: add name='...'")
    _check_placement(together)
    return result


def validate_method_options(options: Mapping[str, Any], *, in_options: bool) -> dict[str, Any]:
    """The options of `@method`, or of `handle.m.options()` (then also `name`), normalised.

    Result and errors are as in `validate_task_options`.

    >>> validate_method_options({"num_returns": 2, "concurrency_group": "io"}, in_options=False)
    {'num_returns': 2, 'concurrency_group': 'io'}
    """
    return _checked("method", options, _METHOD_CALL if in_options else _METHOD)


def scheduling_strategy_of(options: Mapping[str, Any]) -> Any:
    """The strategy that validated options ask for, whichever of the two ways they say it.

    Returns:
        None (nothing was said: the parent's group, if it captures its children), "DEFAULT" (no group),
        "SPREAD", or a strategy object; the deprecated `placement_group*` options become one.

    Raises:
        ValueError: `placement_group_bundle_index` without a group.

    >>> scheduling_strategy_of({"placement_group": None}), scheduling_strategy_of({"num_cpus": 1})
    ('DEFAULT', None)
    """
    strategy = options.get("scheduling_strategy")
    if strategy is not None:
        return strategy
    group = options.get("placement_group", "default")
    if group is None:
        return "DEFAULT"
    index = options.get("placement_group_bundle_index", -1)
    if group == "default":
        if index != -1:
            raise ValueError(f"placement_group_bundle_index={index} needs a placement group")
        return None
    from shoal.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # late, as above

    return PlacementGroupSchedulingStrategy(group, index, options.get("placement_group_capture_child_tasks"))


def _warn_deprecated(message: str) -> None:
    # DeprecationWarnings are shown for the user's own module only, so find the first frame outside of Shoal.
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE_FOLDER):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, DeprecationWarning, stacklevel=level)
