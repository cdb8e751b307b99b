"""Locks and the like in tasks, actors and objects, by pickle and by name."""

from __future__ import annotations

import pickle

import pytest

import shoal
from shoal.sync import Barrier, BoundedSemaphore, Condition, Event, Semaphore

pytestmark = pytest.mark.usefixtures("session")


def test_pickled_they_are_the_same_thing():
    lock, s, e = shoal.lock(), Semaphore(2), Event()
    again = pickle.loads(pickle.dumps(lock.shared()))
    with again:
        assert not lock.acquire(False)
        assert "1 readers" in repr(lock)
    with pickle.loads(pickle.dumps(s)):
        assert s.statistics()["value"] == 1
    pickle.loads(pickle.dumps(e)).set()
    assert e.is_set()
    assert type(pickle.loads(pickle.dumps(BoundedSemaphore()))) is BoundedSemaphore
    c = Condition(lock)
    with lock:
        pickle.loads(pickle.dumps(c)).notify()  # it has come with its lock
    own = Condition()
    with own:
        pickle.loads(pickle.dumps(own)).notify_all()
    b = pickle.loads(pickle.dumps(Barrier(1, print, 5)))
    assert (b.parties, b.action, b.timeout) == (1, print, 5)


def test_the_same_name_is_the_same_thing():
    a = Semaphore(3, name="places")
    with Semaphore(name="places"):  # there is one already: its value counts
        assert a.statistics()["value"] == 2
    assert BoundedSemaphore(7, name="places").statistics()["value"] == 7  # each kind has names of its own
    assert "'places'" in repr(a) and a.name == "places"
    with Condition(name="places"):
        assert Condition(name="places").statistics()["lock"]["holder"]
    with pytest.raises(TypeError):
        Event(name=3)


class Holder(Event):
    """A class of the user's own."""

    @property
    def twice(self):
        return 2


def test_subclasses_stay_what_they_are():
    assert pickle.loads(pickle.dumps(Holder())).twice == 2


@shoal.remote
class Player:
    def __init__(self, things):
        self.things = things

    def use(self):
        with self.things["condition"]:
            self.things["condition"].notify_all()
        with self.things["lock"].shared():
            pass
        self.things["semaphore"].release()
        self.things["event"].set()
        return self.things["barrier"].wait(30)


def test_inside_of_objects_in_an_actor():
    things = {
        "lock": shoal.lock(),
        "semaphore": Semaphore(0),
        "event": Event(),
        "condition": Condition(),
        "barrier": Barrier(2),
    }
    player = Player.remote(shoal.put(things))
    result = player.use.remote()
    assert things["semaphore"].acquire(timeout=30)
    assert things["event"].wait(30)
    assert {things["barrier"].wait(30), shoal.get(result)} == {0, 1}


def test_a_reference_to_one_has_no_value():
    with pytest.raises(TypeError):
        shoal.get(shoal.lock()._ref)
    with pytest.raises(TypeError):
        shoal.get(Event()._ref)


def test_after_the_session(fresh_session):
    face = fresh_session()
    with pytest.raises(shoal.exceptions.SessionError):
        face.wait(1)
    assert "ended" in repr(face)


@pytest.fixture
def fresh_session():
    """An Event of a session that is over; the module's session is put back."""

    def make():
        event = Event()
        shoal.shutdown()
        shoal.init(num_cpus=2)
        return event

    return make
