"""Shoal: tasks, actors and objects in shared memory that can be changed in place.

The public names are all here. Where they live:

    _api.py              init, put, get, wait, remote, kill, ...
    remote_function.py   functions as tasks            actor.py      classes as actors
    generator.py         generators as tasks           sync/         locks
    serialization.py     the one place that pickles    exceptions.py what can go wrong
    mutable.py           arrays made in shared memory, freezing
    ownership.py         objects with one writer
    versioned.py         versions of a value
    _options.py          the one place that checks options
    engine/              where the work is done: the interface, and engine/local, the arena of this machine
"""

from typing import Any

from shoal import _requirements  # noqa: F401  (before anything native)

# isort: split
from shoal import _futures, actor, exceptions, remote_function, runtime_context, sync, util
from shoal._api import (
    available_resources,
    cancel,
    cluster_resources,
    get,
    get_actor,
    get_gpu_ids,
    init,
    is_initialized,
    kill,
    memory_info,
    memory_summary,
    nodes,
    put,
    remote,
    shutdown,
    wait,
)
from shoal._core import Lock, ObjectRef
from shoal.actor import ActorClass, ActorHandle, exit_actor, method
from shoal.containers import Counter, Dict, List, Queue, Ring, Value
from shoal.generator import DynamicObjectRefGenerator, ObjectRefGenerator
from shoal.mutable import empty, freeze, full, zeros
from shoal.ownership import Owner, OwnerDied, claim, claim_requested, commit, owned, owner, transfer
from shoal.remote_function import RemoteFunction
from shoal.runtime_context import get_runtime_context
from shoal.sync import lock
from shoal.versioned import Versioned

_futures.install()

ObjectID = ObjectRef  # Ray's older name


def __getattr__(name: str) -> Any:
    if name == "__version__":  # looked up when asked for: importlib.metadata takes longer to import than all of shoal
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("shoal")
        except PackageNotFoundError:  # used from a source tree
            return "0.0.0"
    if name in _ABSENT:
        raise AttributeError(f"shoal.{name}: Ray's {name} is not part of Shoal{_ABSENT[name]}")
    raise AttributeError(f"module 'shoal' has no attribute {name!r}")


_ABSENT = {
    **dict.fromkeys(("dag", "data", "rllib", "serve", "train", "tune"), "; it has Ray Core's tasks, actors and objects"),
    **dict.fromkeys(
        ("ActorID", "JobID", "NodeID", "PlacementGroupID", "TaskID", "UniqueID", "WorkerID"), ": ids are strings of hex"
    ),
    "JobConfig": ": give init() namespace and runtime_env",
    "LoggingConfig": ": use Python's logging; init(log_to_driver=False) keeps the workers' output off the terminal",
    "timeline": ": to see where the time goes profile the function itself",
    **dict.fromkeys(("cpp_function", "java_actor_class", "java_function"), ": it runs Python only"),
}


__all__ = [
    "ActorClass",
    "ActorHandle",
    "Counter",
    "Dict",
    "DynamicObjectRefGenerator",
    "List",
    "Lock",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "Owner",
    "OwnerDied",
    "Queue",
    "RemoteFunction",
    "Ring",
    "Value",
    "Versioned",
    "actor",
    "available_resources",
    "cancel",
    "claim",
    "claim_requested",
    "cluster_resources",
    "commit",
    "empty",
    "exceptions",
    "exit_actor",
    "freeze",
    "full",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "lock",
    "memory_info",
    "memory_summary",
    "method",
    "nodes",
    "owned",
    "owner",
    "put",
    "remote",
    "remote_function",
    "runtime_context",
    "shutdown",
    "sync",
    "transfer",
    "util",
    "wait",
    "zeros",
]
