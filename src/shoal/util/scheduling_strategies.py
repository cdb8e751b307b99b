"""Where a task or actor is to run: the values of the option `scheduling_strategy`.

One machine is one node, so the strategies that choose among nodes are accepted and recorded, and change
nothing; `PlacementGroupSchedulingStrategy` decides which reserved resources are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]


@dataclass(frozen=True)
class PlacementGroupSchedulingStrategy:
    """Run inside a placement group.

    Args:
        placement_group: the group, from `shoal.util.placement_group()`.
        placement_group_bundle_index: which of its bundles; -1 for any of them.
        placement_group_capture_child_tasks: whether what it submits runs in the group too; None: as its
            parent.

    Raises:
        TypeError: `placement_group` is no placement group, or an argument is of the wrong type.
        ValueError: the index is below -1.
    """

    placement_group: Any
    placement_group_bundle_index: int = -1
    placement_group_capture_child_tasks: bool | None = None

    def __post_init__(self) -> None:
        if not _is_placement_group(self.placement_group):
            raise TypeError(f"placement_group must be what shoal.util.placement_group() returned, not {self.placement_group!r}")
        index = self.placement_group_bundle_index
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"placement_group_bundle_index must be an int, not {index!r}")
        if index < -1:
            raise ValueError(f"placement_group_bundle_index must be at least -1 (any bundle), not {index}")
        if not isinstance(self.placement_group_capture_child_tasks, (bool, type(None))):
            raise TypeError(
                f"placement_group_capture_child_tasks must be True, False or None, not {self.placement_group_capture_child_tasks!r}"
            )


@dataclass(frozen=True)
class NodeAffinitySchedulingStrategy:
    """Run on one node.

    Args:
        node_id: the node's id in hex, as in `shoal.get_runtime_context().get_node_id()`; ids and bytes are
            turned into hex.
        soft: whether another node will do when that one is not there.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the two private arguments contradict `soft`.

    >>> NodeAffinitySchedulingStrategy(b"\\x0a\\xff", soft=True).node_id
    '0aff'
    """

    node_id: str
    soft: bool
    _spill_on_unavailable: bool = False
    _fail_on_unavailable: bool = False

    def __post_init__(self) -> None:
        node_id: Any = self.node_id
        if not isinstance(node_id, str):
            if not callable(getattr(node_id, "hex", None)) or isinstance(node_id, float):
                raise TypeError(f"node_id must be a node's id in hex, not {node_id!r}")
            object.__setattr__(self, "node_id", node_id.hex())
        if not isinstance(self.soft, bool):
            raise TypeError(f"soft must be True or False, not {self.soft!r}")
        if self._spill_on_unavailable and not self.soft:
            raise ValueError("_spill_on_unavailable=True needs soft=True")
        if self._fail_on_unavailable and self.soft:
            raise ValueError("_fail_on_unavailable=True needs soft=False")


class _Values:
    """Base of `In` and `NotIn`: label values, compared as a set in the order given."""

    values: tuple[str, ...]

    def __init__(self, *values: str) -> None:
        if not values:
            raise ValueError(f"{type(self).__name__}() needs at least one label value")
        for value in values:
            if not isinstance(value, str):
                raise TypeError(f"label values are strings, not {value!r}")
        self.values = values

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Values):
            return NotImplemented
        return type(other) is type(self) and other.values == self.values

    def __hash__(self) -> int:
        return hash((type(self), self.values))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class In(_Values):
    """The label has one of these values."""


class NotIn(_Values):
    """The label has none of these values."""


@dataclass(frozen=True)
class Exists:
    """The label is there."""


@dataclass(frozen=True)
class DoesNotExist:
    """The label is not there."""


LabelMatch = In | NotIn | Exists | DoesNotExist


@dataclass(frozen=True)
class NodeLabelSchedulingStrategy:
    """Run on a node with certain labels.

    Args:
        hard: what must hold, label name to `In`, `NotIn`, `Exists` or `DoesNotExist`.
        soft: what is preferred among the nodes for which `hard` holds.

    Raises:
        TypeError: not such a mapping.

    >>> NodeLabelSchedulingStrategy({"zone": In("a", "b"), "gpu": Exists()}).hard["zone"]
    In('a', 'b')
    """

    hard: Mapping[str, LabelMatch] | None = field(default_factory=dict)
    soft: Mapping[str, LabelMatch] | None = field(default_factory=dict)

    def __post_init__(self) -> None:
        for argument in ("hard", "soft"):
            given = getattr(self, argument)
            if given is not None and not isinstance(given, Mapping):
                raise TypeError(f"{argument} must be a dict of labels to In(...) and the like, not {given!r}")
            for label, match in (given or {}).items():
                if not isinstance(label, str):
                    raise TypeError(f"label names are strings, not {label!r} (in {argument})")
                if not isinstance(match, LabelMatch):
                    raise TypeError(f"{argument}[{label!r}] must be In(...), NotIn(...), Exists() or DoesNotExist(), not {match!r}")
            object.__setattr__(self, argument, dict(given or {}))


def _is_placement_group(value: object) -> bool:
    # By shape, not by class: the placement groups' module imports the API, which validates options with this
    # one. On the type, since asking the object would run a property that may wait for the group.
    return hasattr(type(value), "bundle_specs")
