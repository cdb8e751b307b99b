"""Handles of actors: passed on, kept in objects, compared, and what keeps an actor alive."""

import copy

import pytest

import shoal
from conftest import at_rest, audit, until
from shoal import _core

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
class Cell:
    def __init__(self, value=None):
        self.value = value

    def set(self, value):
        self.value = value

    def get(self):
        return self.value

    def me(self):
        return shoal.get_runtime_context().current_actor

    def my_id(self):
        return shoal.get_runtime_context().get_actor_id()

    def keep_myself(self):
        self.value = shoal.get_runtime_context().current_actor


@shoal.remote
def set_it(cell, value):
    shoal.get(cell.set.remote(value))


def actors_alive():
    return sum(p["role"] == _core.ACTOR for p in _core.processes())


def gone(handle):
    """A test of whether the actor has ended that keeps no handle."""
    actor_id = handle._actor_id
    return lambda: actor_id not in {f"{p['actor']:032x}" for p in _core.processes()}


def test_handles_go_to_tasks_and_actors():
    cell = Cell.remote()
    shoal.get(set_it.remote(cell, 1))
    assert shoal.get(cell.get.remote()) == 1
    other = Cell.remote(cell)
    inner = shoal.get(other.get.remote())
    assert inner == cell
    shoal.get(inner.set.remote(2))
    assert shoal.get(cell.get.remote()) == 2


def test_handles_in_containers_and_objects():
    cell = Cell.remote()
    box = shoal.put({"cells": [cell]})

    @shoal.remote
    def by_box(box):
        shoal.get(box["cells"][0].set.remote("by box"))

    shoal.get(by_box.remote(box))
    assert shoal.get(cell.get.remote()) == "by box"
    again = shoal.get(box)["cells"][0]
    assert again == cell and hash(again) == hash(cell)


def test_a_handle_put_by_itself():
    cell = Cell.remote("in a ref")
    ref = shoal.put(cell)
    assert shoal.get(shoal.get(ref).get.remote()) == "in a ref"

    @shoal.remote
    def read(cell):
        return shoal.get(cell.get.remote())

    assert shoal.get(read.remote(ref)) == "in a ref"


def test_equality_and_hash():
    one, other = Cell.remote(), Cell.remote()
    assert one == one and one != other and one != 1 and one is not None
    copies = {one, copy.copy(one), shoal.get(one.me.remote()), shoal.get(shoal.put(one)), other}
    assert copies == {one, other}
    assert {one: 1}[shoal.get(one.me.remote())] == 1


def test_the_actor_knows_itself():
    cell = Cell.remote()
    assert shoal.get(cell.me.remote()) == cell
    assert shoal.get(cell.my_id.remote()) == cell._actor_id
    assert "Cell" in repr(cell) and cell._actor_id in repr(cell)
    assert shoal.get_runtime_context().get_actor_id() is None


def test_methods_can_be_kept_and_passed():
    cell = Cell.remote(7)
    read = cell.get
    assert shoal.get(read.remote()) == 7
    assert shoal.get([f.remote() for f in (cell.get, cell.my_id)]) == [7, cell._actor_id]

    @shoal.remote
    def use(cell, name):
        return shoal.get(getattr(cell, name).remote())

    assert shoal.get(use.remote(cell, "get")) == 7


def test_a_kept_method_keeps_the_actor():
    read = Cell.remote("kept").get
    assert shoal.get(read.remote()) == "kept"
    assert shoal.get(read.remote()) == "kept"


def test_an_actor_ends_with_its_last_handle():
    cell = Cell.remote()
    shoal.get(cell.get.remote())
    over = gone(cell)
    assert not over()
    copied = copy.copy(cell)
    del cell
    assert shoal.get(copied.get.remote()) is None
    del copied
    until(over)


def test_an_actor_without_a_handle_still_answers():
    assert shoal.get(Cell.remote(5).get.remote()) == 5
    refs = [Cell.remote(i).get.remote() for i in range(5)]
    assert shoal.get(refs) == list(range(5))


def test_queued_calls_are_done_before_the_actor_ends():
    gate = shoal.lock()
    gate.acquire()

    @shoal.remote
    class Worker:
        def __init__(self):
            self.n = 0

        def wait(self, gate):
            with gate:
                return "waited"

        def count(self):
            self.n += 1
            return self.n

    worker = Worker.remote()
    refs = [worker.wait.remote(gate)] + [worker.count.remote() for _ in range(20)]
    over = gone(worker)
    del worker
    gate.release()
    assert shoal.get(refs) == ["waited", *range(1, 21)]
    del refs
    until(over)


def test_a_queued_call_with_a_pending_argument_is_done_before_the_actor_ends():
    gate = shoal.lock()
    gate.acquire()

    @shoal.remote
    def later(gate):
        with gate:
            return "the argument"

    cell = Cell.remote()
    shoal.get(cell.get.remote())
    done = cell.set.remote(later.remote(gate))
    read = cell.get.remote()
    over = gone(cell)
    del cell
    gate.release()
    assert shoal.get([done, read]) == [None, "the argument"]
    until(over)


def test_a_handle_in_an_object_keeps_the_actor():
    cell = Cell.remote("alive")
    over = gone(cell)
    box = shoal.put([cell])
    del cell
    found = shoal.get(box)[0]
    assert shoal.get(found.get.remote()) == "alive"
    del found
    assert not over()
    del box
    until(over)


def test_a_handle_in_a_queued_task_keeps_the_actor():
    gate = shoal.lock()
    gate.acquire()

    @shoal.remote
    def use(gate, box):
        with gate:
            return shoal.get(box[0].get.remote())

    cell = Cell.remote("still here")
    over = gone(cell)
    ref = use.remote(gate, [cell])
    del cell
    gate.release()
    assert shoal.get(ref) == "still here"
    until(over)


def test_a_handle_in_another_actor_keeps_the_actor():
    cell = Cell.remote("kept by another")
    over = gone(cell)
    keeper = Cell.remote(cell)
    shoal.get(keeper.my_id.remote())
    del cell
    assert shoal.get(shoal.get(keeper.get.remote()).get.remote()) == "kept by another"
    assert not over()
    shoal.kill(keeper)
    until(over)


def test_a_handle_returned_by_the_actor_itself_keeps_it():
    cell = shoal.get(Cell.remote("mine").me.remote())
    assert shoal.get(cell.get.remote()) == "mine"
    over = gone(cell)
    del cell
    until(over)


def test_an_actor_that_holds_its_own_handle_still_ends():
    cell = Cell.remote()
    shoal.get(cell.keep_myself.remote())
    over = gone(cell)
    del cell
    until(over)


def test_an_actor_created_by_a_task_lives_while_its_handle_does():
    @shoal.remote
    def make(value):
        return Cell.remote(value)

    cell = shoal.get(make.remote("made"))
    assert shoal.get(cell.get.remote()) == "made"
    over = gone(cell)
    del cell
    until(over)


def test_actors_create_actors():
    @shoal.remote
    class Parent:
        def __init__(self, depth):
            self.child = Parent.remote(depth - 1) if depth else None

        def depth(self):
            return 1 + shoal.get(self.child.depth.remote()) if self.child else 0

    until(at_rest)
    parent = Parent.remote(4)
    assert shoal.get(parent.depth.remote()) == 4
    del parent
    until(lambda: actors_alive() == 0)


def test_handles_in_exceptions_and_generators():
    @shoal.remote
    class Maker:
        def items(self):
            for i in range(3):
                yield Cell.remote(i)

    maker = Maker.remote()
    cells = [shoal.get(ref) for ref in maker.items.remote()]
    assert shoal.get([cell.get.remote() for cell in cells]) == [0, 1, 2]


def test_dropping_a_handle_before_the_actor_is_there():
    until(at_rest)
    for _ in range(10):
        Cell.remote()
    audit()
    until(lambda: actors_alive() == 0)
