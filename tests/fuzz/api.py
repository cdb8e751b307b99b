"""Every public function, class and method, called with garbage: a Python exception of a documented kind, or a result.

What may block is interrupted after a moment; what does not come back then is a hang, which the caller of this process sees.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import inspect
import io
import random
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

PATIENCE_S = 0.25
# Not called: they end the session or the process, or wait for what only they could end.
LEFT_OUT = {"shutdown", "init", "exit_actor", "kill"}


class Interrupted(BaseException):
    pass


def _interrupt(_number: int, _frame: Any) -> None:
    raise Interrupted


def _disarm() -> None:
    while True:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            return
        except Interrupted:
            pass


class Nasty:
    """Raises wherever it is touched."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        raise ZeroDivisionError

    def __index__(self) -> int:
        raise ZeroDivisionError

    def __len__(self) -> int:
        return -1  # noqa: PLE0303 (that is the point)

    def __iter__(self) -> Any:
        raise ZeroDivisionError

    def __reduce__(self) -> Any:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError


def allowed(error: BaseException) -> bool:
    from queue import Empty, Full

    from shoal.exceptions import ShoalError
    from shoal.sync import BrokenBarrierError

    kinds = (
        ShoalError,
        TypeError,
        ValueError,
        OverflowError,
        LookupError,
        AttributeError,
        RuntimeError,
        ZeroDivisionError,
        MemoryError,
        NotImplementedError,
        BufferError,
        StopIteration,
        TimeoutError,
        Empty,
        Full,
        BrokenBarrierError,
        Interrupted,
        AssertionError,
    )
    return isinstance(error, kinds) and not isinstance(error, SystemError)


class Things:
    """What there is to call, and what to call it with."""

    def __init__(self) -> None:
        import shoal

        @shoal.remote
        def task(*args: Any, **kwargs: Any) -> int:
            return len(args) + len(kwargs)

        @shoal.remote(num_cpus=0)
        class Actor:
            def method(self, *args: Any, **kwargs: Any) -> int:
                return len(args)

        self.task, self.actor = task, Actor.remote()
        self.make: list[Callable[[], Any]] = [
            lambda: shoal.put(1),
            lambda: shoal.put(np.zeros(10), mutable=True),
            lambda: shoal.lock(),
            lambda: shoal.Queue(3),
            lambda: shoal.Dict({"a": 1}),
            lambda: shoal.List([1, 2]),
            lambda: shoal.Counter(3),
            lambda: shoal.Value(2),
            lambda: shoal.Versioned(np.zeros(5)),
            lambda: shoal.Ring(4, {"x": ((2,), "f4")}, prioritized=True),
            lambda: shoal.sync.Semaphore(2),
            lambda: shoal.sync.Event(),
            lambda: shoal.sync.Condition(),
            lambda: shoal.sync.Barrier(2),
            lambda: task.remote(1),
            lambda: task,
            lambda: Actor,
            lambda: self.actor,
            lambda: self.actor.method,
            lambda: shoal.get_runtime_context(),
        ]
        self.functions = [getattr(shoal, name) for name in shoal.__all__ if name not in LEFT_OUT and callable(getattr(shoal, name))]
        self.functions += [getattr(shoal.sync, name) for name in shoal.sync.__all__ if callable(getattr(shoal.sync, name))]
        self.functions += [v for v in vars(shoal.exceptions).values() if inspect.isclass(v) and issubclass(v, Exception)]

    def value(self, rng: random.Random) -> Any:
        plain: list[Any] = [
            None,
            True,
            0,
            1,
            -1,
            2,
            7,
            2**31,
            2**63,
            2**64,
            -(2**63),
            10**30,
            0.0,
            -0.5,
            1e300,
            float("nan"),
            float("inf"),
            "",
            "a",
            "x" * 5000,
            "\0",
            "\ud800",
            b"",
            b"x" * 100,
            (),
            [],
            {},
            set(),
            object(),
            int,
            len,
            ...,
            NotImplemented,
            np.zeros(3),
            np.zeros((0, 3)),
            np.float32(2),
            np.array([object()]),
            np.zeros(3, "datetime64[s]"),
            range(3),
            iter([1]),
            Nasty(),
            lambda: 1,
            Exception("x"),
            [1, [2, [3]]],
            {"a": 1},
            slice(1, None),
            memoryview(b"abc"),
            complex(1, 2),
            collections.deque([1]),
            "float64",
            "i8",
            (2, 3),
            [Nasty()],
        ]
        if rng.random() < 0.25:
            return rng.choice(self.make)()
        value = rng.choice(plain)
        if rng.random() < 0.1:
            value = [value, rng.choice(plain)]
        return value

    def target(self, rng: random.Random) -> tuple[str, Callable[..., Any]]:
        if rng.random() < 0.35:
            f = rng.choice(self.functions)
            return getattr(f, "__name__", repr(f)), f
        thing = rng.choice(self.make)()
        names = [n for n in dir(thing) if (not n.startswith("_") or n in _OPERATORS) and n not in LEFT_OUT]
        name = rng.choice(names)
        found = getattr(thing, name)
        return f"{type(thing).__name__}.{name}", found if callable(found) else lambda *_, **__: setattr(
            thing, name, self.value(rng)
        )


_OPERATORS = {
    "__getitem__",
    "__setitem__",
    "__delitem__",
    "__contains__",
    "__len__",
    "__iter__",
    "__eq__",
    "__hash__",
    "__repr__",
    "__call__",
    "__reduce__",
    "__enter__",
    "__exit__",
    "__copy__",
    "__deepcopy__",
    "__iadd__",
    "__await__",
}


def arguments(rng: random.Random, things: Things, f: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
    args = [things.value(rng) for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3, 4]))]
    kwargs = {}
    if rng.random() < 0.3:
        try:
            names = list(inspect.signature(f).parameters)
        except (TypeError, ValueError):
            names = ["timeout"]
        for name in rng.sample(names, min(len(names), rng.randrange(1, 3))):
            kwargs[name] = things.value(rng)
        if rng.random() < 0.5:
            args = args[:1]
    return args, kwargs


def _text(value: Any) -> str:
    try:
        return repr(value)[:80]
    except BaseException:
        return f"<{type(value).__name__}>"


def api(rng: random.Random, deadline: float, note: Callable[[object], None]) -> int:
    import shoal
    from shoal import _core

    warnings.simplefilter("ignore")
    shoal.init(num_cpus=2, object_store_memory=128 << 20, log_to_driver=False)
    signal.signal(signal.SIGALRM, _interrupt)
    things = Things()
    tried = 0
    while time.monotonic() < deadline:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for _ in range(50):
                name = "?"
                raised: BaseException | None = None
                try:
                    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S, 0.05)
                    name, f = things.target(rng)
                    args, kwargs = arguments(rng, things, f)
                    note(f"{name}({', '.join(map(_text, args))}, **{ {k: _text(v) for k, v in kwargs.items()} })")
                    result = f(*args, **kwargs)
                    if hasattr(result, "close") and inspect.isawaitable(result):
                        result.close()
                except BaseException as error:
                    raised = error
                _disarm()
                if raised is not None and not allowed(raised):
                    raise AssertionError(f"{name} raised {type(raised).__name__}: {raised}") from raised
                raised = None
                f = args = kwargs = result = None  # type: ignore[assignment]
                tried += 1
        gc.collect()
        assert shoal.get(things.task.remote(1, 2), timeout=60) == 2, "the session does not work any more"
        assert shoal.get(things.actor.method.remote(1), timeout=60) == 1, "the actor does not work any more"
        assert not _core.dead()
    shoal.shutdown()
    return tried
