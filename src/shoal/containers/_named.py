"""Containers that several participants find by a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shoal.engine import current


def named(kind: str, name: Any, make: Callable[[], Any]) -> Any:
    """The object of that kind and name, made by whoever asks first. It then lives until the session ends."""
    engine = current()
    if name is None:
        return make()
    if not isinstance(name, str) or not name:
        raise ValueError(f"a name is a non-empty string, not {name!r}")
    return engine.named_object(f"{kind}/{name}", make)
