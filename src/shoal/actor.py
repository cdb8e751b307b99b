"""Classes whose instances live in a process of their own, and the handles to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from shoal._options import validate_actor_options, validate_method_options
from shoal.engine import current

F = TypeVar("F", bound=Callable[..., Any])

METHOD_OPTIONS = "__shoal_method_options__"
SAVE, RESTORE = "__shoal_save__", "__shoal_restore__"  # methods of a class whose state shall outlive a restart


class ActorClassInheritanceException(TypeError):
    """A class was derived from an actor class; derive from the plain class and decorate the result."""


def method(*args: Any, **options: Any) -> Callable[[F], F]:
    """Options for a method of an actor class: `num_returns`, `concurrency_group`, `max_task_retries`, ...

    >>> import shoal
    >>> @shoal.remote
    ... class Splitter:
    ...     @shoal.method(num_returns=2)
    ...     def split(self, text):
    ...         return text.split("=")
    >>> key, value = Splitter.remote().split.remote("a=1")
    >>> shoal.get(value)
    '1'
    """
    if args or not options:
        raise TypeError("@method takes keyword options only and at least one, for instance @method(num_returns=2)")
    checked = validate_method_options(options, in_options=False)

    def mark(function: F) -> F:
        setattr(function, METHOD_OPTIONS, checked)
        return function

    return mark


class MethodSpec:
    """What a handle knows of a method: its place in the class's table, and its options."""

    __slots__ = ("index", "is_generator", "name", "num_returns", "options")

    def __init__(self, name: str, index: int, options: dict[str, Any], is_generator: bool) -> None:
        self.name = name
        self.index = index
        self.options = options
        self.is_generator = is_generator
        wanted = options.get("num_returns")
        self.num_returns: int | str = ("streaming" if is_generator else 1) if wanted is None else wanted

    def with_options(self, options: dict[str, Any]) -> MethodSpec:
        return MethodSpec(self.name, self.index, {**self.options, **options}, self.is_generator)


class ActorMethod:
    """A method of an actor: `handle.method.remote(...)` queues a call."""

    __slots__ = ("_handle", "_spec")

    def __init__(self, handle: ActorHandle, spec: MethodSpec) -> None:
        self._handle = handle
        self._spec = spec

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Queue the call; returns what a remote function's `.remote` does. Calls of one caller run in their order."""
        return current().call_actor(self._handle, self._spec, args, kwargs)

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options for this call."""
        return ActorMethod(self._handle, self._spec.with_options(validate_method_options(options, in_options=True)))

    def _remote(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        given = {k: v for k, v in options.items() if v not in (None, "")}
        return self.options(**given).remote(*(args or ()), **(kwargs or {}))

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        raise AttributeError("shoal has no task graphs built with .bind(); pass ObjectRefs between .remote() calls instead")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self._spec.name
        raise TypeError(f"actor method {name}() cannot be called directly: use handle.{name}.remote(...)")

    def __repr__(self) -> str:
        return f"<method {self._spec.name} of {self._handle!r}>"


class _Method:
    """On a handle class: reading it makes the ActorMethod."""

    __slots__ = ("spec",)

    def __init__(self, spec: MethodSpec) -> None:
        self.spec = spec

    def __get__(self, handle: ActorHandle | None, owner: type | None = None) -> Any:
        return self if handle is None else ActorMethod(handle, self.spec)


class ActorHandle:
    """Refers to an actor. It can be passed to tasks and actors and kept in objects.

    The actor ends, after the calls it already has, when the last handle to it is gone (detached actors do not).
    """

    # Each actor class has a subclass of this with its methods (see handle_class), so that handle.method is one
    # look-up and no state is kept per handle.
    __slots__ = ("__weakref__", "_class_key", "_class_name", "_max_task_retries", "_ref")
    _method_specs: dict[str, MethodSpec] = {}

    def __init__(self, ref: Any, class_name: str, class_key: Any, max_task_retries: int) -> None:
        self._ref = ref
        self._class_name = class_name
        self._class_key = class_key
        self._max_task_retries = max_task_retries

    @property
    def _actor_id(self) -> str:
        return f"{self._ref._handle:032x}"

    def __getattr__(self, name: str) -> Any:
        if _is_special(name):
            spec = self._method_specs.get(name)
            if spec is None:
                raise AttributeError(name)
            return ActorMethod(self, spec)
        known = ", ".join(sorted(n for n in self._method_specs if not n.startswith("_"))) or "none"
        raise AttributeError(f"actor class {self._class_name} has no method {name!r}; its methods are: {known}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore_handle, (self._ref, self._class_name, self._class_key, self._max_task_retries))

    def __hash__(self) -> int:
        return hash(self._ref)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and bool(self._ref == other._ref)

    def __repr__(self) -> str:
        return f"Actor({self._class_name}, {self._actor_id})"


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def handle_class(class_name: str, specs: dict[str, MethodSpec]) -> type[ActorHandle]:
    # A class's __repr__, __eq__ or __len__ is not its handles' own: those are found by __getattr__ only. Nor may a
    # method take the place of what a handle is made of.
    members: dict[str, Any] = {
        name: _Method(spec) for name, spec in specs.items() if not _is_special(name) and not hasattr(ActorHandle, name)
    }
    members.update(__slots__=(), _method_specs=specs, __module__=__name__)
    return type("ActorHandle", (ActorHandle,), members)


def _restore_handle(ref: Any, class_name: str, class_key: Any, max_task_retries: int) -> ActorHandle:
    return current().make_handle(ref, class_name, class_key, max_task_retries)


def method_table(cls: type) -> dict[str, MethodSpec]:
    """The methods that can be called remotely, in an order that all processes agree on."""
    found = {}
    for name, function in inspect.getmembers(cls, callable):
        if isinstance(inspect.getattr_static(cls, name), type) or (_is_special(name) and not _written_for(cls, name)):
            continue
        if name in _NEVER_REMOTE:
            continue
        found[name] = function
    specs = {}
    for index, name in enumerate(sorted(found)):
        function = found[name]
        generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        specs[name] = MethodSpec(name, index, getattr(function, METHOD_OPTIONS, {}), generator)
    # As in Ray: a function to run inside the actor, with the instance as its first argument.
    specs["__ray_call__"] = MethodSpec("__ray_call__", CALL_INDEX, {}, False)
    specs["__ray_ready__"] = MethodSpec("__ray_ready__", READY_INDEX, {}, False)
    specs["__ray_terminate__"] = MethodSpec("__ray_terminate__", TERMINATE_INDEX, {}, False)
    return specs


def _written_for(cls: type, name: str) -> bool:
    """Whether a class written in Python defines it: not one of the special methods that all objects have."""
    heap_type = 1 << 9
    return any(name in vars(kind) for kind in cls.__mro__ if kind.__flags__ & heap_type)


CALL_INDEX, READY_INDEX, TERMINATE_INDEX = 1_000_000, 1_000_001, 1_000_002
METHOD_BITS = 20  # of a call's number; above them is the concurrency group, counted from 1, or 0
_NEVER_REMOTE = frozenset(
    ("__init__", "__new__", "__del__", "__class__", "__getattribute__", "__getattr__", "__setattr__", "__delattr__",
     SAVE, RESTORE,
     "__init_subclass__", "__subclasshook__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__slots__")
)  # fmt: skip


class ActorClass:
    """What `@remote` makes of a class: `Class.remote(...)` starts an actor and returns its handle.

    With `max_restarts` an actor whose process dies is started again, and its constructor runs again with the same
    arguments. A class that has the methods `__shoal_save__(self)` and `__shoal_restore__(self, state)` keeps its state:

    - after each call `__shoal_save__` returns the state, anything picklable, which is stored as an object in shared memory,
      where the death of the process does not reach it;
    - after a restart `__shoal_restore__` is called with it, right after the constructor.

    The state and the result of a call become visible in one step. So what a caller has got is in the state, and with
    `max_task_retries` a call that returned or raised has had its effect on the state exactly once. Returning `NotImplemented`
    means that nothing has changed: nothing is stored, which costs nothing but the call of the method.
    A save costs what `put` costs: pickling, and a copy of the arrays. Keep large arrays in mutable objects and return
    references to them. Classes without the hooks, and actors without `max_restarts`, pay nothing.
    Threads: the hook may run while other calls do, so it takes the locks that they use. In an async actor it runs between
    two steps of the loop.

    >>> import os, shoal
    >>> @shoal.remote(max_restarts=1, max_task_retries=1)
    ... class Counter:
    ...     def __init__(self):
    ...         self.n = 0
    ...     def __shoal_save__(self):
    ...         return self.n
    ...     def __shoal_restore__(self, n):
    ...         self.n = n
    ...     def add(self):
    ...         self.n += 1
    ...         return self.n
    ...     def crash_once(self):
    ...         if shoal.get_runtime_context().get_attempt_number() == 0:
    ...             os._exit(1)
    >>> counter = Counter.remote()
    >>> shoal.get([counter.add.remote() for _ in range(3)])
    [1, 2, 3]
    >>> shoal.get([counter.crash_once.remote(), counter.add.remote()])
    [None, 4]
    """

    def __init__(self, cls: type, options: dict[str, Any]) -> None:
        _check_hooks(cls)
        self.__name__ = cls.__name__
        self.__qualname__ = cls.__qualname__
        self.__module__ = cls.__module__
        self.__doc__ = cls.__doc__
        self._class = cls
        self._options = options
        self._prepared: Any = None

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Start an actor; returns its handle at once. Raises ValueError if its name is taken."""
        return current().create_actor(self, args, kwargs)

    def options(self, **options: Any) -> ActorClass:
        """The same class with other options, for instance `Class.options(name="x").remote()`."""
        changed = validate_actor_options(options, in_options=True, base=self._options)
        return ActorClass(self._class, {**self._options, **changed})

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        raise AttributeError("shoal has no task graphs built with .bind(); use .remote()")

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"actor class {self.__name__} cannot be instantiated directly: use {self.__name__}.remote(...) for an actor"
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        raise ActorClassInheritanceException(
            f"cannot derive from the actor class {self.__name__}: derive from the plain class and decorate the result with @remote"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (ActorClass, (self._class, self._options))

    def __repr__(self) -> str:
        return f"<actor class {self.__qualname__}>"


def _check_hooks(cls: type) -> None:
    hooks = {name: getattr(cls, name, None) for name in (SAVE, RESTORE)}
    missing = [name for name, hook in hooks.items() if hook is None]
    if len(missing) == 1:
        raise TypeError(
            f"actor class {cls.__name__} has no {missing[0]}(): {SAVE}() returns the state that {RESTORE}(state) begins with "
            "after a restart, so a class has both or neither"
        )
    for name, hook in hooks.items():
        if inspect.iscoroutinefunction(hook):
            raise TypeError(
                f"{name}() of actor class {cls.__name__} cannot be async: no other call may run while the state is taken"
            )


class ActorExit(BaseException):
    """Raised by exit_actor(); the actor's host catches it."""


def exit_actor() -> NoReturn:
    """End the actor this is called in, after the present call; that call and later ones get ActorDiedError.

    Raises TypeError outside of an actor.
    """
    if not current().context().get("actor_id"):
        raise TypeError("exit_actor() was called outside of an actor; to end an actor from elsewhere use shoal.kill(handle)")
    raise ActorExit
