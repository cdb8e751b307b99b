"""A process killed at each step of each operation; only in builds with crash points (make test TEST_HOOKS=ON)."""

import os
import signal

import numpy as np
import pytest

import shoal
from conftest import quiet, until
from shoal import Versioned, _core
from shoal.exceptions import ActorDiedError, WritableViewsError

pytestmark = [
    pytest.mark.usefixtures("session"),
    pytest.mark.skipif(not _core.CRASH_POINTS, reason="a build without crash points"),
]
STEPS = [(point, n) for point in ("tx.set", "tx.lock", "tx.locked", "tx.settled") for n in range(1, 60)]
NAMED = ["cell.half", "cell.ring", "freeze.before", "freeze.done", "release.dispose", "dispose.free"]
SIZE = 5000


def publish(v, _ref):
    v.set(np.ones(SIZE))


def update(v, _ref):
    with v.update() as draft:
        draft += 1


def update_and_fail(v, _ref):
    try:
        with v.update() as draft:
            draft += 7
            raise KeyError
    except KeyError:
        pass


def compare_and_set(v, _ref):
    v.compare_and_set(0, np.ones(SIZE))
    v.compare_and_set(0, np.full(SIZE, 7.0))


def read_and_wait(v, _ref):
    array = v.get()
    assert not array.any()
    v.wait(0, timeout=0)
    v._watch(0)


def make_and_drop(_v, _ref):
    Versioned(Versioned(np.zeros(SIZE)))


def write_in_place(_v, ref):
    array = shoal.get(ref)
    array[:] = 1


def freeze(_v, ref):
    shoal.freeze(ref)


def build_and_freeze(_v, _ref):
    made = shoal.zeros(SIZE)
    shoal.get(made)[:] = 1
    mine = shoal.get(shoal.freeze(made), private=True)
    mine[0] = 2


OPERATIONS = [
    publish,
    update,
    update_and_fail,
    compare_and_set,
    read_and_wait,
    make_and_drop,
    write_in_place,
    freeze,
    build_and_freeze,
]


@shoal.remote(num_cpus=0)
class Victim:
    def run(self, operation, point, n, v, ref):
        _core.arm_crash_point(f"{point}:{n}")
        OPERATIONS[operation](v, ref[0])
        _core.arm_crash_point("")
        return True

    def end(self):
        os.kill(os.getpid(), signal.SIGKILL)


def frozen(ref):
    """Freezes it; False while a dead process's view is not cleared away yet."""
    try:
        shoal.freeze(ref)
    except WritableViewsError:
        return False
    return True


@pytest.mark.parametrize("operation", range(len(OPERATIONS)), ids=[o.__name__ for o in OPERATIONS])
def test_killed_at_each_step_it_is_done_or_not(operation):
    publishes = OPERATIONS[operation] in (publish, update, compare_and_set)
    over: set[str] = set()  # points that the operation does not pass so often
    for point, n in STEPS + [(name, 1) for name in NAMED]:
        if point in over:
            continue
        v, ref = Versioned(np.zeros(SIZE)), shoal.put(np.zeros(SIZE), mutable=True)
        held = v.get()
        victim = Victim.remote()
        died = victim.run.remote(operation, point, n, v, [ref])
        try:
            shoal.get(died)
            over.add(point)
            with pytest.raises(ActorDiedError):
                shoal.get(victim.end.remote())
        except ActorDiedError:
            pass
        value, version = v.get_with_version()
        assert version in ((0, 1) if publishes else (0,))
        assert (value == version).all()
        assert not held.any()
        assert v.set(np.full(SIZE, 3.0)) == version + 1
        assert v.wait(version, timeout=0) == version + 1
        until(lambda r=ref: frozen(r))
        array = shoal.get(ref)
        assert not array.flags.writeable
        assert (array == array[0]).all()
        del value, held, array, victim, died, v, ref
        until(lambda: quiet() and _core.check() == "")
    assert over, "no crash point was passed: is the operation still the same?"


def test_memory_comes_back():
    until(lambda: _core.statistics()["used_bytes"] < 2 << 20)
