"""Objects with an owner: who may write, what a commit keeps, who is refused."""

from __future__ import annotations

import gc
import pickle

import numpy as np
import pytest
from tests.conftest import audit

import shoal
from shoal.exceptions import (
    ActorDiedError,
    ClaimTimeoutError,
    NotMutableError,
    NotOwnerError,
    StaleOwnerError,
    WritableViewsError,
)

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote(num_cpus=0)
class Body:
    """An actor that does with objects what it is told, and answers with what it saw."""

    def get(self, refs):
        self.array = shoal.get(refs[0])
        return self.array.flags.writeable

    def write(self, refs, value):
        shoal.get(refs[0])[:] = value

    def write_kept(self, value):
        self.array[:] = value

    def commit(self, refs):
        shoal.commit(refs[0])

    def add(self, refs, value):
        with shoal.owned(refs[0]) as array:
            array += value

    def call(self, function, refs, *args, **kwargs):
        return getattr(shoal, function)(refs[0], *args, **kwargs)

    def put(self, value):
        return shoal.put(value, mutable=True, owner="me")

    def drop(self):
        self.array = None
        gc.collect()


def zeros(owner="me", n=4):
    return shoal.put(np.zeros(n), mutable=True, owner=owner)


def test_only_the_owner_can_write():
    body, other = Body.remote(), Body.remote()
    ref = zeros(owner=body)
    mine = shoal.get(ref)
    assert not mine.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        mine[0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        mine.flags.writeable = True
    assert shoal.get([body.get.remote([ref]), other.get.remote([ref])]) == [True, False]
    shoal.get(body.write.remote([ref], 3))
    assert mine.tolist() == [3, 3, 3, 3]  # seen at once, committed or not
    with pytest.raises(ValueError, match="read-only"):
        shoal.get(other.write.remote([ref], 4))
    with pytest.raises(NotOwnerError, match=r"actor Body \(pid \d+\) owns it.*epoch 1.*shoal.claim") as error:
        shoal.commit(ref)
    assert not isinstance(error.value, StaleOwnerError)
    assert error.value.owner.kind == "actor" and not error.value.owner.me


def test_read_only_by_hardware():
    """Whoever gets round NumPy's flag is stopped by the memory, and nobody else's data is touched."""

    @shoal.remote(max_retries=0)
    def poke(refs):
        import ctypes

        ctypes.memset(shoal.get(refs[0]).ctypes.data, 1, 1)

    ref = zeros()
    with pytest.raises(shoal.exceptions.WorkerCrashedError):
        shoal.get(poke.remote([ref]))
    assert shoal.get(ref).tolist() == [0] * 4


def test_who_owns_it():
    ref = zeros()
    me = shoal.owner(ref)
    assert (me.kind, me.name, me.epoch, me.me) == ("process", "driver", 1, True)
    body = Body.remote()
    other = zeros(owner=body)
    shoal.get(body.get.remote([other]))
    who = shoal.owner(other)
    assert (who.kind, who.name, who.epoch, who.me) == ("actor", "Body", 1, False) and who.pid
    assert shoal.get(body.call.remote("owner", [other])).me
    made = shoal.get(body.put.remote(np.ones(2)))
    assert shoal.owner(made).name == "Body"
    assert shoal.owner(shoal.put(1)) is None
    assert shoal.owner(shoal.put(np.zeros(1), mutable=True)) is None


def test_a_value_of_several_arrays():
    value = {"a": np.zeros(3), "b": [np.ones(2, "i1"), bytearray(b"xyz")], "c": 7}
    ref = shoal.put(value, mutable=True, owner="me")
    with shoal.owned(ref) as mine:
        mine["a"][1] = 5
        mine["b"][1][0] = 65
    with pytest.raises(KeyError), shoal.owned(ref) as mine:
        mine["a"][:] = 9
        mine["b"][0][:] = 9
        raise KeyError
    seen = shoal.get(ref)
    assert seen["a"].tolist() == [0, 5, 0] and seen["b"][0].tolist() == [1, 1] and bytes(seen["b"][1]) == b"Ayz" and seen["c"] == 7
    body = Body.remote()
    shoal.transfer(ref, body)
    theirs = shoal.get(ref)
    assert theirs["b"][1].readonly and not theirs["a"].flags.writeable


def test_large_and_empty_ones():
    for n in (0, 1, 8191, 8192, 8193, 1_000_000):
        ref = zeros(n=n)
        shoal.get(ref)[:] = 1
        shoal.commit(ref)
        with pytest.raises(KeyError), shoal.owned(ref) as array:
            array[:] = 2
            raise KeyError
        assert shoal.get(ref).sum() == n


def test_references_in_it_live():
    inner = shoal.put(np.arange(3))
    ref = shoal.put({"array": np.zeros(2), "inner": inner}, mutable=True, owner="me")
    del inner
    shoal.commit(ref)
    assert shoal.get(shoal.get(ref)["inner"]).tolist() == [0, 1, 2]


def test_it_is_handed_on():
    a, b = Body.remote(), Body.remote()
    ref = zeros()
    shoal.get(ref)[:] = 1  # a transfer commits
    shoal.transfer(ref, a)
    with pytest.raises(StaleOwnerError, match=r"actor Body.*epoch 2"):
        shoal.commit(ref)
    shoal.get(a.add.remote([ref], 1))
    shoal.get(a.call.remote("transfer", [ref], b))
    shoal.get(b.add.remote([ref], 1))
    with pytest.raises(StaleOwnerError):
        shoal.get(a.add.remote([ref], 1))
    assert shoal.get(ref).tolist() == [3] * 4 and shoal.owner(ref).epoch == 3
    shoal.get(b.call.remote("transfer", [ref], None))
    assert shoal.owner(ref) is None
    with pytest.raises(NotOwnerError, match="nobody"):
        shoal.commit(ref)
    assert shoal.claim(ref) is None
    assert shoal.owner(ref).me and shoal.owner(ref).epoch == 4
    with shoal.owned(ref) as array:
        array += 1
    assert shoal.get(ref).tolist() == [4] * 4


def test_to_itself_and_to_nobody():
    ref = zeros()
    with pytest.raises(TypeError, match="actor's handle"):
        shoal.transfer(ref, "me")
    body = Body.remote()
    shoal.transfer(ref, body)
    shoal.get(body.call.remote("transfer", [ref], body))
    assert shoal.owner(ref).epoch == 2


def test_a_stolen_object():
    """The old owner's commit is refused; what is not committed is gone; but its old array still reaches the memory."""
    body = Body.remote()
    ref = zeros(owner=body)
    shoal.get(body.get.remote([ref]))
    shoal.get(body.write_kept.remote(1))
    shoal.get(body.commit.remote([ref]))
    shoal.get(body.write_kept.remote(2))
    assert shoal.claim(ref, "steal") is None
    assert shoal.get(ref).tolist() == [1] * 4
    mine = shoal.get(ref)
    mine[:] = 5
    with pytest.raises(StaleOwnerError, match=r"driver \(pid \d+\) does.*Drop the arrays"):
        shoal.get(body.commit.remote([ref]))
    shoal.get(body.write_kept.remote(9))  # plain memory: nobody can prevent it
    assert mine.tolist() == [9] * 4
    with pytest.raises(WritableViewsError):
        shoal.freeze(ref)
    assert not shoal.get(body.get.remote([ref]))  # from now on it cannot
    mine[:] = 5
    shoal.commit(ref)


def test_an_epoch_that_came_back():
    """Lost and owned again is another ownership: what was written in the first does not count."""
    ref = zeros()
    array = shoal.get(ref)
    body = Body.remote()
    shoal.transfer(ref, body)
    assert shoal.get(body.call.remote("owner", [ref])).me
    shoal.get(body.get.remote([ref]))
    shoal.claim(ref, "steal")
    array[:] = 1
    shoal.commit(ref)  # a claim is a look, too
    assert shoal.get(body.call.remote("claim", [ref], "steal")) is None
    shoal.claim(ref, "steal")
    assert shoal.get(body.call.remote("claim", [ref], "steal")) is None

    @shoal.remote
    def hand_back(refs, to):
        shoal.claim(refs[0], "steal")
        shoal.transfer(refs[0], to)

    shoal.get(hand_back.remote([ref], body))
    with pytest.raises(StaleOwnerError, match="became its owner again"):
        shoal.get(body.commit.remote([ref]))
    shoal.get(body.get.remote([ref]))
    shoal.get(body.commit.remote([ref]))


def test_claims_that_are_not_heard():
    body = Body.remote()
    ref = zeros(owner=body)
    for how in ("wait", "request"):
        with pytest.raises(ClaimTimeoutError, match="Body") as error:
            shoal.claim(ref, how, timeout=0)
        assert isinstance(error.value, TimeoutError) and error.value.owner.name == "Body"
        with pytest.raises(ClaimTimeoutError):
            shoal.claim(ref, how, timeout=0.01)
    assert not shoal.get(body.call.remote("claim_requested", [ref]))
    assert shoal.get(body.call.remote("claim", [ref])) is None  # its own


def test_frozen():
    body = Body.remote()
    ref = zeros(owner=body)
    with pytest.raises(NotOwnerError, match="only the owner"):
        shoal.freeze(ref)
    shoal.get(body.get.remote([ref]))
    with pytest.raises(WritableViewsError):
        shoal.get(body.call.remote("freeze", [ref]))
    shoal.get(body.write_kept.remote(3))
    shoal.get(body.drop.remote())
    shoal.get(body.call.remote("freeze", [ref]))
    assert shoal.get(ref).tolist() == [3] * 4  # not committed, but final
    assert shoal.owner(ref) is None
    for call in (shoal.commit, shoal.claim, lambda r: shoal.transfer(r, body)):
        with pytest.raises(NotMutableError, match="frozen"):
            call(ref)
    shoal.freeze(ref)
    assert shoal.get(ref, private=True).flags.writeable
    shoal.kill(body)
    assert shoal.get(ref).tolist() == [3] * 4


def test_locks_of_owned_objects():
    body = Body.remote()
    ref = zeros(owner=body)
    with shoal.lock(ref, shared=True), shoal.lock(ref, shared=True):
        shoal.get(body.add.remote([ref], 1))
    with shoal.lock(ref):
        pass
    with pytest.raises(ValueError, match=r"shoal\.owned"):
        shoal.lock(ref, rollback=True)
    with pytest.raises(ValueError, match="private=True"):
        shoal.get(ref, private=True)


def test_references_are_as_ever():
    ref = zeros()
    assert pickle.loads(pickle.dumps(1)) == 1
    copies = shoal.get(shoal.put([ref, ref]))
    assert copies == [ref, ref] and shoal.owner(copies[0]).me
    shoal.commit(copies[1])

    @shoal.remote
    def writable(array):
        return array.flags.writeable

    assert not shoal.get(writable.remote(ref))  # passed as a value
    body = Body.remote()
    shoal.transfer(ref, body)
    assert shoal.get(body.call.remote("get", [ref])).tolist() == [0] * 4


def test_misuse():
    plain = shoal.put(np.zeros(2), mutable=True)
    for call in (shoal.commit, shoal.claim, shoal.claim_requested, lambda r: shoal.transfer(r, None)):
        with pytest.raises(ValueError, match="has no owner"):
            call(plain)
        with pytest.raises(ValueError, match="has no owner"):
            call(shoal.put(1))
        with pytest.raises(TypeError):
            call(3)
    with pytest.raises(ValueError, match="has no owner"), shoal.owned(plain):
        pass
    with pytest.raises(TypeError):
        shoal.owner("x")
    with pytest.raises(ValueError, match="mutable"):
        shoal.put(np.zeros(2), owner="me")
    with pytest.raises(NotMutableError):
        shoal.put(3, mutable=True, owner="me")
    for wrong in ("you", 3, plain):
        with pytest.raises(TypeError, match="me"):
            shoal.put(np.zeros(2), mutable=True, owner=wrong)
    with pytest.raises(ValueError, match="steal"):
        shoal.claim(zeros(), "grab")
    with pytest.raises(ValueError, match="negative"):
        shoal.claim(zeros(), timeout=-1)


def test_a_dead_actor_owns_nothing():
    body = Body.remote()
    ref = zeros()
    shoal.get(body.get.remote([ref]))
    shoal.kill(body)
    with pytest.raises(ActorDiedError):
        shoal.get(body.get.remote([ref]))
    with pytest.raises(ActorDiedError, match="Body.*cannot own"):
        shoal.transfer(ref, body)
    with pytest.raises(ActorDiedError, match="Body.*cannot own"):
        zeros(owner=body)
    assert shoal.owner(ref).me
    shoal.commit(ref)


def test_memory_comes_back():
    refs = [zeros(n=n) for n in (10, 1000, 100_000)]
    for _ in range(20):
        for ref in refs:
            shoal.commit(ref)
    del refs, ref
    audit()
