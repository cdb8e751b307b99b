"""The four steps of the design, word for word, between the driver, tasks and actors."""

import numpy as np
import pytest

import shoal

pytestmark = pytest.mark.usefixtures("session")


def test_the_four_steps_in_the_driver():
    image = np.zeros((8, 8))
    ref = shoal.put(image, mutable=True)
    array = shoal.get(ref)
    array[0, 0] = 255
    with shoal.lock(ref):
        array += 1
    again = shoal.get(ref)
    assert again[0, 0] == 256 and again[1, 1] == 1
    assert (
        np.shares_memory(array, again)
        or array.__array_interface__["data"] == again.__array_interface__["data"]
    )
    assert image[0, 0] == 0


def test_tasks_and_actors_change_the_same_memory():
    @shoal.remote
    def add(refs, n):
        for _ in range(n):
            with shoal.lock(refs[0]):
                shoal.get(refs[0])[:] += 1

    @shoal.remote
    class Adder:
        def __init__(self, refs):
            self.ref = refs[0]
            self.array = shoal.get(self.ref)

        def add(self, n):
            for _ in range(n):
                with shoal.lock(self.ref):
                    self.array += 1

    ref = shoal.put(np.zeros(100, np.int64), mutable=True)
    actor = Adder.remote([ref])
    array = shoal.get(ref)
    calls = [add.remote([ref], 200) for _ in range(4)] + [actor.add.remote(200)]
    for _ in range(200):
        with shoal.lock(ref):
            array += 1
    shoal.get(calls)
    assert (array == 1200).all()
