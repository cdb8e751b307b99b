"""`ray.util.placement_group`, so that programs which import it say what is the matter when they use it."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = [
    "get_current_placement_group",
    "get_placement_group",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
]


def placement_group(bundles: list[dict[str, float]], strategy: str | None = None, name: str = "", **_: Any) -> NoReturn:
    """Not there yet: raises NotImplementedError."""
    raise NotImplementedError(
        "Shoal has no placement groups yet. On one machine all bundles lie on the same node anyway: give the tasks and actors "
        "num_cpus, num_gpus and resources, or start an actor that holds them"
    )


def get_placement_group(placement_group_name: str) -> NoReturn:
    """Not there yet: raises ValueError, as for any name that no group has."""
    raise ValueError(f"there is no placement group named {placement_group_name!r}: Shoal has none yet")


def remove_placement_group(placement_group: Any) -> NoReturn:
    """Not there yet: raises TypeError, as nothing is a placement group."""
    raise TypeError(f"{placement_group!r} is not a placement group: Shoal has none yet")


def placement_group_table(placement_group: Any = None) -> dict[str, Any]:
    """The placement groups of the session: there are none."""
    return {}


def get_current_placement_group() -> None:
    """The placement group that this runs in: none."""
