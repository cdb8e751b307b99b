"""Helpers on top of the public API, under the names they have in `ray.util`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from shoal.serialization import deregister_serializer, inspect_serializability, register_serializer

# Not later: to import a module puts it in the place of the function of its name.
from shoal.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

if TYPE_CHECKING:
    from shoal.util.actor_pool import ActorPool
    from shoal.util.helpers import as_completed, map_unordered

_LATER: dict[str, str | None] = {  # loaded when first used: every worker would pay for them
    "ActorPool": "actor_pool",
    "as_completed": "helpers",
    "map_unordered": "helpers",
    **dict.fromkeys(("actor_pool", "check_serialize", "helpers", "multiprocessing", "queue", "scheduling_strategies")),
}
_ABSENT = {
    "collective": "there are no collective operations: let all write into one shoal.zeros(...), with a shoal.sync.Barrier",
    "metrics": "there is no metrics exporter: count in a shoal.Counter",
    "state": "there is no state API: see shoal.nodes(), shoal.available_resources() and shoal.util.list_named_actors()",
    "joblib": "there is no backend for joblib: use shoal.util.multiprocessing.Pool",
    "iter": "there are no parallel iterators: use shoal.util.map_unordered",
}


@overload
def list_named_actors(all_namespaces: Literal[False] = ...) -> list[str]: ...
@overload
def list_named_actors(all_namespaces: Literal[True]) -> list[dict[str, str]]: ...
def list_named_actors(all_namespaces: bool = False) -> list[str] | list[dict[str, str]]:
    """The names of the live named actors in the present namespace; of all namespaces, dicts of "name" and "namespace"."""
    from shoal.engine import current

    found = current().list_actors(all_namespaces)
    return found if all_namespaces else [actor["name"] for actor in found]


def get_node_ip_address(address: str | None = None) -> str:
    """The address of the session's only node: "127.0.0.1"."""
    return "127.0.0.1"


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        place = _LATER[name]
        module = import_module(f"shoal.util.{place or name}")
        found = globals()[name] = getattr(module, name) if place else module
        return found
    if name in _ABSENT:
        raise AttributeError(f"shoal.util.{name}: {_ABSENT[name]}")
    raise AttributeError(f"module 'shoal.util' has no attribute {name!r}")


__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]
