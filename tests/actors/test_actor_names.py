"""Named actors: found by name and namespace, unique, free again at their end; detached ones live on."""

import pytest

import shoal
from conftest import until
from shoal.exceptions import ActorAlreadyExistsError, ActorDiedError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
class Cell:
    def __init__(self, value=None):
        self.value = value

    def set(self, value):
        self.value = value
        return value

    def get(self):
        return self.value

    def name(self):
        return shoal.get_runtime_context().get_actor_name()

    @shoal.method(num_returns=2)
    def two(self):
        return 1, 2


def exists(name, namespace=None):
    try:
        shoal.get_actor(name, namespace)
    except ValueError:
        return False
    return True


def test_found_by_name_everywhere():
    cell = Cell.options(name="found").remote(1)
    again = shoal.get_actor("found")
    assert again == cell
    assert shoal.get([again.get.remote(), again.name.remote()]) == [1, "found"]
    assert shoal.get(again.two.remote()) == [1, 2]

    @shoal.remote
    def change(value):
        return shoal.get(shoal.get_actor("found").set.remote(value))

    assert shoal.get(change.remote(2)) == 2
    assert shoal.get(cell.get.remote()) == 2


def test_found_before_it_has_started():
    gate = shoal.lock()
    gate.acquire()

    @shoal.remote
    class Slow:
        def __init__(self, gate):
            with gate:
                self.ready = True

        def get(self):
            return self.ready

    slow = Slow.options(name="slow").remote(gate)
    ref = shoal.get_actor("slow").get.remote()
    assert shoal.wait([ref], timeout=0)[0] == []
    gate.release()
    assert shoal.get(ref) is True
    assert slow == shoal.get_actor("slow")


def test_a_taken_name_is_refused():
    cell = Cell.options(name="taken").remote("first")
    with pytest.raises(ActorAlreadyExistsError, match="'taken' is taken.*get_if_exists") as caught:
        Cell.options(name="taken").remote("second")
    assert isinstance(caught.value, ValueError)
    assert shoal.get(shoal.get_actor("taken").get.remote()) == "first"
    assert shoal.get(cell.get.remote()) == "first"


def test_a_missing_name_is_a_value_error_that_names_the_others():
    cell = Cell.options(name="present").remote()
    with pytest.raises(ValueError, match="no actor named 'absent'.*present"):
        shoal.get_actor("absent")
    assert shoal.get(cell.name.remote()) == "present"
    for wrong in ("", None, 3):
        with pytest.raises(ValueError, match="non-empty string"):
            shoal.get_actor(wrong)


def test_get_if_exists():
    one = Cell.options(name="one", get_if_exists=True).remote(1)
    other = Cell.options(name="one", get_if_exists=True).remote(2)
    assert one == other and shoal.get(other.get.remote()) == 1


def test_get_if_exists_from_many_processes_at_once():
    @shoal.remote
    def ensure(i):
        cell = Cell.options(name="ensured", get_if_exists=True, lifetime="detached").remote(i)
        return cell, shoal.get(cell.get.remote())

    results = shoal.get([ensure.remote(i) for i in range(12)])
    assert len({cell for cell, _ in results}) == 1
    assert len({value for _, value in results}) == 1
    shoal.kill(results[0][0])


def test_one_of_many_gets_the_name():
    @shoal.remote
    def claim():
        try:
            return Cell.options(name="claimed").remote()
        except ValueError:
            return None

    cells = shoal.get([claim.remote() for _ in range(10)])
    won = [cell for cell in cells if cell is not None]
    assert len(won) == 1 and won[0] == shoal.get_actor("claimed")


def test_namespaces():
    here = Cell.options(name="local").remote("here")
    there = Cell.options(name="local", namespace="elsewhere").remote("there")
    assert here != there
    assert shoal.get(shoal.get_actor("local").get.remote()) == "here"
    assert shoal.get(shoal.get_actor("local", namespace="elsewhere").get.remote()) == "there"
    assert not exists("local", "nowhere")


def test_namespaces_and_names_do_not_run_into_each_other():
    one = Cell.options(name="c", namespace="a/b").remote(1)
    other = Cell.options(name="b/c", namespace="a").remote(2)
    assert shoal.get(shoal.get_actor("c", "a/b").get.remote()) == 1
    assert shoal.get(shoal.get_actor("b/c", "a").get.remote()) == 2
    assert one != other


def test_odd_names():
    for name in ("with space", "ünïcödé ✓", "a" * 1000, "/", "\n"):
        cell = Cell.options(name=name).remote(name)
        assert shoal.get(shoal.get_actor(name).name.remote()) == name
        assert shoal.get(cell.get.remote()) == name
    with pytest.raises(ValueError, match="4096 bytes"):
        Cell.options(name="x" * 5000).remote()


def test_the_name_is_free_after_the_last_handle():
    cell = Cell.options(name="short").remote()
    shoal.get(cell.get.remote())
    del cell
    until(lambda: not exists("short"))
    until(lambda: _try(lambda: Cell.options(name="short").remote()))


def _try(make):
    try:
        make()
    except ValueError:
        return False
    return True


def test_a_name_does_not_keep_the_actor_but_a_found_handle_does():
    cell = Cell.options(name="weak").remote("kept")
    found = shoal.get_actor("weak")
    del cell
    assert shoal.get(found.get.remote()) == "kept"
    assert exists("weak")
    del found
    until(lambda: not exists("weak"))


def test_the_name_is_free_at_once_after_kill():
    for value in range(3):
        cell = Cell.options(name="killed").remote(value)
        assert shoal.get(cell.get.remote()) == value
        shoal.kill(cell)
        assert not exists("killed")
        with pytest.raises(ActorDiedError):
            shoal.get(cell.get.remote())


def test_the_name_is_free_after_a_crash():
    @shoal.remote
    class Mortal:
        def die(self):
            import os

            os._exit(3)

    mortal = Mortal.options(name="mortal").remote()
    with pytest.raises(ActorDiedError):
        shoal.get(mortal.die.remote())
    until(lambda: not exists("mortal"))
    again = Mortal.options(name="mortal").remote()
    assert again == shoal.get_actor("mortal")


def test_the_name_is_free_after_a_constructor_that_failed():
    @shoal.remote
    class Stillborn:
        def __init__(self, fail):
            if fail:
                raise OSError("no")

        def get(self):
            return "lives"

    first = Stillborn.options(name="born").remote(True)
    with pytest.raises(ActorDiedError):
        shoal.get(first.get.remote())
    until(lambda: not exists("born"))
    second = Stillborn.options(name="born").remote(False)
    assert shoal.get(second.get.remote()) == "lives"
    with pytest.raises(ActorDiedError):
        shoal.get(first.get.remote())


def test_detached_actors_outlive_their_handles():
    cell = Cell.options(name="detached", lifetime="detached").remote(1)
    shoal.get(cell.set.remote(2))
    del cell
    assert shoal.get(shoal.get_actor("detached").get.remote()) == 2

    @shoal.remote
    def make():
        Cell.options(name="by a task", lifetime="detached").remote("made")

    shoal.get(make.remote())
    assert shoal.get(shoal.get_actor("by a task").get.remote()) == "made"
    for name in ("detached", "by a task"):
        shoal.kill(shoal.get_actor(name))
        assert not exists(name)


def test_detached_actors_end_with_the_session():
    from conftest import run_python

    result = run_python("""
        import os, shoal

        @shoal.remote
        class A:
            def pid(self):
                return os.getpid()

        with shoal.init(num_cpus=1):
            pid = shoal.get(A.options(name="a", lifetime="detached").remote().pid.remote())
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            print("gone")
        shoal.init(num_cpus=1)
        try:
            shoal.get_actor("a")
        except ValueError:
            print("and forgotten")
    """)
    assert result.stdout.split() == ["gone", "and", "forgotten"], result.stderr


def test_the_session_has_a_namespace():
    from conftest import run_python

    result = run_python("""
        import shoal

        @shoal.remote
        class A:
            def where(self):
                return shoal.get_runtime_context().namespace

            def find(self, name):
                return shoal.get_actor(name) is not None

        shoal.init(num_cpus=1, namespace="mine")
        a = A.options(name="a").remote()
        assert shoal.get_actor("a") == shoal.get_actor("a", "mine") == a
        assert shoal.get(a.where.remote()) == "mine" and shoal.get(a.find.remote("a"))
        print(shoal.get_runtime_context().namespace)
    """)
    assert result.stdout.split() == ["mine"], result.stderr
