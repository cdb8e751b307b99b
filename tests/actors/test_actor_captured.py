"""Handles of actors in pickles that nobody counts: the user's own, and exported functions that capture one.

Nobody can know when such a pickle is dropped, so the actor stays until the session ends.
"""

import pickle

import cloudpickle
import pytest

import shoal
from conftest import run_python

pytestmark = pytest.mark.usefixtures("session")


@shoal.remote
class Cell:
    def __init__(self, value=None):
        self.value = value

    def set(self, value):
        self.value = value

    def get(self):
        return self.value


def test_a_handle_captured_by_a_task():
    def capture(cell):
        @shoal.remote
        def by_closure():
            shoal.get(cell.set.remote("by closure"))
            return shoal.get(cell.get.remote())

        return by_closure

    cell = Cell.remote()
    by_closure = capture(cell)
    assert shoal.get(by_closure.remote()) == "by closure"
    assert shoal.get(cell.get.remote()) == "by closure"
    del cell
    assert shoal.get(by_closure.remote()) == "by closure"


def test_a_handle_captured_by_an_actor_class():
    cell = Cell.remote(3)
    method = cell.get

    @shoal.remote
    class Reader:
        kept = cell

        def read(self):
            return shoal.get([cell.get.remote(), self.kept.get.remote(), method.remote()])

    assert shoal.get(Reader.remote().read.remote()) == [3, 3, 3]


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_a_pickled_handle_keeps_the_actor(pickler):
    cell = Cell.remote("pickled")
    data = pickler.dumps({"cell": cell})
    assert pickle.loads(data)["cell"] == cell
    del cell

    @shoal.remote
    def use(data):
        return shoal.get(pickle.loads(data)["cell"].get.remote())

    assert shoal.get(use.remote(data)) == "pickled"
    assert shoal.get(pickle.loads(data)["cell"].get.remote()) == "pickled"


def test_a_class_that_uses_itself():
    @shoal.remote
    class Tree:
        def __init__(self, depth):
            self.children = [Tree.remote(depth - 1) for _ in range(2)] if depth else []

        def size(self):
            return 1 + sum(shoal.get([child.size.remote() for child in self.children]))

    assert shoal.get(Tree.remote(2).size.remote()) == 7


def test_a_handle_of_an_ended_session_says_so():
    code = """
        import pickle, shoal

        @shoal.remote
        class A:
            def f(self):
                return 1

        shoal.init(num_cpus=1)
        old = A.remote()
        shoal.get(old.f.remote())
        pickled = pickle.dumps(old)
        other = pickle.loads(pickled)
        assert other == old and shoal.get(other.f.remote()) == 1
        del old
        assert shoal.get(other.f.remote()) == 1
        del other
        assert shoal.get(pickle.loads(pickled).f.remote()) == 1  # a pickle keeps it for the session
        old = pickle.loads(pickled)
        shoal.shutdown()
        print(repr(old)[:8])
        for use in (lambda: old.f.remote(), lambda: shoal.kill(old), lambda: pickle.loads(pickled)):
            try:
                use()  # starts another session, as any first use does
            except shoal.exceptions.SessionEndedError as error:
                print(type(error).__name__)
        shoal.init(num_cpus=1, ignore_reinit_error=True)
        for use in (lambda: old.f.remote(), lambda: shoal.kill(old), lambda: pickle.loads(pickled)):
            try:
                use()
            except shoal.exceptions.SessionEndedError as error:
                print(type(error).__name__)
        new = A.remote()
        assert new != old and shoal.get(new.f.remote()) == 1
    """
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["Actor(A,"] + ["SessionEndedError"] * 6
