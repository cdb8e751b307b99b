"""The interface between the public API and an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.actor import ActorClass, ActorHandle, MethodSpec
    from shoal.remote_function import RemoteFunction
    from shoal.sync import Lock


class Engine(ABC):
    """One session, as seen from one of its processes. All methods may be called from any thread.

    References and actor references are the engine's own types; what is above passes them on unopened.
    Options have been validated by `shoal._options`.
    """

    @abstractmethod
    def submit(self, function: RemoteFunction[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Queue one call; returns a reference, a list of them, a generator or None as `num_returns` says."""

    @abstractmethod
    def create_actor(self, cls: ActorClass, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle: ...

    @abstractmethod
    def call_actor(self, handle: ActorHandle, method: MethodSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Queue one method call, after all earlier ones of this process to that actor."""

    @abstractmethod
    def make_handle(self, ref: Any, class_name: str, class_key: Any, max_task_retries: int) -> ActorHandle:
        """A handle from its parts, when one has been unpickled."""

    @abstractmethod
    def put(self, value: Any, mutable: bool) -> Any: ...

    @abstractmethod
    def get(self, ref: Any, timeout: float | None) -> Any: ...

    @abstractmethod
    def get_many(self, refs: Sequence[Any], timeout: float | None) -> list[Any]: ...

    @abstractmethod
    def get_private(self, ref: Any, timeout: float | None) -> Any:
        """get() of an immutable object, with arrays of the caller's own."""

    @abstractmethod
    def new_array(self, meta: bytes, nbytes: int, zero: bool) -> Any:
        """A mutable object of one array, whose pickle is `meta`; its memory is zeroed, or as it comes."""

    @abstractmethod
    def freeze(self, ref: Any) -> Sequence[int]:
        """Make a mutable object immutable; returns the processes whose writable views prevent it."""

    @abstractmethod
    def wait(self, refs: list[Any], num_returns: int, timeout: float | None, /) -> tuple[list[Any], list[Any]]: ...

    @abstractmethod
    def cancel(self, waitable: Any, force: bool, recursive: bool) -> None: ...

    @abstractmethod
    def kill(self, handle: ActorHandle, no_restart: bool) -> None: ...

    @abstractmethod
    def get_actor(self, name: str, namespace: str | None) -> ActorHandle: ...

    @abstractmethod
    def list_actors(self, all_namespaces: bool) -> list[dict[str, str]]: ...

    @abstractmethod
    def lock(self, target: Any, reentrant: bool, shared: bool = False, on_death: int = 0, rollback: bool = False) -> Lock:
        """The lock of a mutable object (`target` a reference), a named one (a string), or a new one (None).

        `on_death`: 0 as it was made, 1 raise, 2 ignore, 3 poison. `rollback`: the object becomes again what it was.
        """

    @abstractmethod
    def sync_object(self, kind: str, name: str | None, settings: tuple[int, int, int, int]) -> Any:
        """A reference to a new synchronisation object, or to the one of that kind and name if there is one.

        `settings` are its type, value, limit and flags.
        """

    @abstractmethod
    def named_object(self, name: str, make: Callable[[], Any]) -> Any:
        """The reference stored under `name`; `make` is called for it by whoever asks first."""

    @abstractmethod
    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """All resources of the session, and those that are free now."""

    @abstractmethod
    def memory_summary(self, limit: int, stats_only: bool) -> str: ...

    @abstractmethod
    def memory_info(self, limit: int) -> dict[str, Any]: ...

    @abstractmethod
    def nodes(self) -> list[dict[str, Any]]: ...

    @abstractmethod
    def context(self) -> Mapping[str, Any]:
        """Facts about what runs in this thread: task, actor, worker, session (see `runtime_context`)."""

    @abstractmethod
    def shutdown(self) -> None:
        """Leave the session; in the process that started it, end it."""
