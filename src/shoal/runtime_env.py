"""`ray.runtime_env`: the environment of tasks and actors as an object. A plain dict does as well."""

from __future__ import annotations

from typing import Any

from shoal._options import validate_runtime_env

__all__ = ["RuntimeEnv"]


class RuntimeEnv(dict[str, Any]):
    """A dict of the keys that `runtime_env` knows, checked when it is made.

    >>> from shoal.runtime_env import RuntimeEnv
    >>> RuntimeEnv(env_vars={"MODE": "fast"})
    {'env_vars': {'MODE': 'fast'}}
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(validate_runtime_env({key: value for key, value in settings.items() if value is not None}) or {})

    def to_dict(self) -> dict[str, Any]:
        return dict(self)
