"""What docs/guide-sharing-memory.md says in words about what is shared, what is copied and what is lost."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import shoal
from shoal.exceptions import ActorDiedError

pytestmark = pytest.mark.usefixtures("session")


@shoal.remote
def try_to_add(array):
    try:
        array += 1
    except ValueError:
        return "read-only"
    return "written"


@pytest.mark.parametrize("size", [3, 100_000])
def test_a_ref_arrives_as_the_shared_array_and_an_array_as_a_copy(size):
    ref = shoal.put(np.zeros(size), mutable=True)
    array = shoal.get(ref)
    assert shoal.get(try_to_add.remote(array)) == "read-only" and not array.any()
    assert shoal.get(try_to_add.remote(ref)) == "written" and (array == 1).all()


def test_a_returned_ref_is_got_twice():
    @shoal.remote
    def make():
        return shoal.put(np.zeros(3), mutable=True)

    ref = shoal.get(make.remote())
    shoal.get(ref)[0] = 1
    assert shoal.get(ref).tolist() == [1, 0, 0]


def test_a_task_that_is_run_again_changes_what_it_has_changed():
    @shoal.remote
    def add_and_die(array, runs):
        array += 1
        if runs.add() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    ref, runs = shoal.put(np.zeros(3), mutable=True), shoal.Counter()
    shoal.get(add_and_die.remote(ref, runs))
    assert shoal.get(ref).tolist() == [2, 2, 2]


def test_an_actors_call_is_not_run_again():
    @shoal.remote(max_restarts=1)
    class Adder:
        def add_and_die(self, array):
            array += 1
            os.kill(os.getpid(), signal.SIGKILL)

    ref = shoal.put(np.zeros(3), mutable=True)
    with pytest.raises(ActorDiedError):
        shoal.get(Adder.remote().add_and_die.remote(ref))
    assert shoal.get(ref).tolist() == [1, 1, 1]


def test_the_lock_of_an_object():
    ref = shoal.put(np.zeros(3), mutable=True)
    with pytest.raises(TypeError, match="use the ref"):
        shoal.lock(shoal.get(ref))
    with shoal.lock(ref):
        with pytest.raises(RuntimeError), shoal.lock(ref):
            pass
        with shoal.lock(ref, reentrant=True):
            assert shoal.lock(ref).locked()
        assert shoal.lock(ref).locked()
    assert not shoal.lock(ref).locked()


def test_different_elements_are_independent_however_small():
    """Neighbouring bytes, written at the same time by different tasks."""

    @shoal.remote
    def write(array, mine):
        lost = 0
        for number in range(20_000):
            array[mine] = number % 256
            lost += array[mine] != number % 256
        return int(lost)

    ref = shoal.put(np.zeros(4, np.uint8), mutable=True)
    assert shoal.get([write.remote(ref, mine) for mine in range(4)]) == [0] * 4


def test_a_counter_says_that_data_is_ready():
    """Every element that was written before it was changed is seen after it was read."""

    @shoal.remote
    def produce(array, ready, taken):
        for number in range(1, 301):
            array[:] = number
            ready.add()
            while taken.value < number:
                os.sched_yield()

    array, ready, taken = shoal.put(np.zeros(1000, int), mutable=True), shoal.Counter(), shoal.Counter()
    producing = produce.remote(array, ready, taken)
    mine = shoal.get(array)
    for number in range(1, 301):
        while ready.value < number:
            os.sched_yield()
        assert (mine == number).all()
        taken.add()
    shoal.get(producing)


def test_containers_give_copies_and_read_only_views():
    settings = shoal.Dict({"x": np.zeros(3), "list": [1]})
    settings["list"].append(2)
    assert settings["list"] == [1]
    assert not settings["x"].flags.writeable
