"""Functions that run as tasks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from shoal._options import validate_task_options
from shoal.engine import current

P = ParamSpec("P")
R = TypeVar("R")


class RemoteFunction(Generic[P, R]):
    """What `@remote` makes of a function: `f.remote(...)` queues a call and returns at once.

    >>> import shoal
    >>> @shoal.remote
    ... def add(a, b):
    ...     return a + b
    >>> shoal.get(add.remote(1, 2))
    3
    """

    def __init__(self, function: Callable[P, R], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options
        self._is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        self._prepared: Any = None  # the engine's own, see LocalEngine.submit

    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Queue a call. An ObjectRef among the arguments is replaced by its value before the call.

        Returns an ObjectRef (a list of them for `num_returns` > 1, None for 0, an ObjectRefGenerator for a
        generator). Raises PicklingError for an argument that cannot be sent.
        """
        return current().submit(self, args, kwargs)

    def options(self, **options: Any) -> RemoteFunction[P, R]:
        """The same function with other options, for instance `f.options(num_cpus=2).remote()`."""
        changed = validate_task_options(options, in_options=True, base=self._options)
        return RemoteFunction(self._function, {**self._options, **changed})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = getattr(self, "__name__", "the function")
        raise TypeError(
            f"remote function {name}() cannot be called directly: use {name}.remote(...) to run it as a task, "
            f"or {name}._function(...) to call it here"
        )

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        raise AttributeError("shoal has no task graphs built with .bind(); pass ObjectRefs between .remote() calls instead")

    def __reduce__(self) -> tuple[Any, ...]:
        return (RemoteFunction, (self._function, self._options))

    def __repr__(self) -> str:
        return f"<remote function {getattr(self, '__qualname__', self._function)!s}>"
