"""The three programs by which Ray was introduced against multiprocessing, each for every peer on the same
input.

Each module has the work itself (a function or a class that knows nothing of any library) and a `Program`: its
input, and a method for serial code, for a `multiprocessing.Pool` used as in that comparison, for
`multiprocessing` as an experienced user writes it by hand, and for a library with Ray's API. Processes and
inputs are made, and modules imported, before the clock starts. Every method returns a number from the results
too: all must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.measure import Plan
from benchmarks.peers import Checked, Loop
from benchmarks.programs import costly_start, numerical, stateful
from benchmarks.programs.together import together

_PROGRAMS: dict[str, Any] = {
    "numerical": numerical.Program,
    "stateful": stateful.Program,
    "costly_start": costly_start.Program,
}


def _plain(make: Any, run: Callable[[Any], Any], cores: int, plan: Plan) -> Checked:
    result: Checked = run(make(cores, plan))
    return result


def _busy(make: Any, run: Callable[[Any], Any], cores: int, plan: Plan) -> Checked:
    """The same while a busy loop occupies a core."""
    from benchmarks.peers.physical import keep_busy

    program = make(cores, plan)
    other = keep_busy()
    try:
        result: Checked = run(program)
        return result
    finally:
        other.kill()
        other.wait()


def _ideal(name: str, cores: int, plan: Plan) -> list[float]:
    """What the cores can do at best; see together.py."""
    program = _PROGRAMS[name](cores, plan)
    return [together(program.share, cores, getattr(program, "warm", None))]


def _loops(cores: int, run: Callable[[Any], Any]) -> dict[str, Loop]:
    """For each program a loop that does `run(program)`, and one that does it beside a busy loop."""
    plain: dict[str, Loop] = {name: partial(_plain, make, run, cores) for name, make in _PROGRAMS.items()}
    return plain | {f"{name}_busy": partial(_busy, make, run, cores) for name, make in _PROGRAMS.items()}


def remote_loops(api: Any, cores: int) -> dict[str, Loop]:
    """The programs with Shoal or Ray."""
    return _loops(cores, lambda program: program.remote(api))


def pool_loops(pool: Any, cores: int) -> dict[str, Loop]:
    """The programs with a multiprocessing.Pool, as Ray's introduction had them."""
    return _loops(cores, lambda program: program.pool(pool))


def by_hand_loops(cores: int) -> dict[str, Loop]:
    """The programs with multiprocessing, each in the way that suits it best."""
    return _loops(cores, lambda program: program.by_hand())


def serial_loops(cores: int) -> dict[str, Loop]:
    """The programs without parallelism, and the least time that `cores` cores can take."""
    loops = _loops(cores, lambda program: program.serial())
    return loops | {f"ideal {name}": partial(_ideal, name, cores) for name in _PROGRAMS}
