"""Values that nobody looks at leave a full arena for the spill file, and come back when they are wanted."""

import numpy as np
import pytest

import shoal
from conftest import audit, until
from shoal import _core
from shoal.exceptions import ObjectStoreFullError

MB = 1 << 20


def spilled(ref: object) -> bool:
    return bool(_core.object_info(ref)["spilled"])


def array(i: int, size: int = MB) -> np.ndarray:
    return np.full(size // 8, i, np.int64)


@pytest.fixture
def small(fresh):
    """A session of 64 MB."""
    fresh(object_store_memory=64 * MB)
    yield
    audit()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [100_000, MB, 20 * MB])
def test_three_times_the_arena_is_put_and_got(size):
    refs = [shoal.put(array(i, size)) for i in range(192 * MB // size)]
    assert _core.statistics()["spilled_bytes"] >= 120 * MB
    assert spilled(refs[0]) and not spilled(refs[-1])
    for i, ref in enumerate(refs):
        value = shoal.get(ref)
        assert value[0] == value[-1] == i and value.sum() == i * len(value)
    assert _core.statistics()["used_bytes"] <= 64 * MB
    assert _core.check() == ""
    del ref, refs, value
    assert _core.statistics()["spilled_bytes"] == 0


@pytest.mark.usefixtures("small")
def test_what_was_used_last_stays():
    refs = [shoal.put(array(i)) for i in range(40)]
    shoal.get(refs[0])
    shoal.get(refs[7])
    assert _core._spill(20 * MB) >= 20 * MB
    kept = [i for i, ref in enumerate(refs) if not spilled(ref)]
    assert kept[:2] == [0, 7] and kept[2:] == list(range(40 - len(kept) + 2, 40))


@pytest.mark.usefixtures("small")
def test_what_somebody_looks_at_is_not_spilled():
    refs = [shoal.put(array(i)) for i in range(8)]
    view = shoal.get(refs[2])[10:20]
    private = shoal.get(refs[4], private=True)
    assert _core._spill(1 << 40) > 0
    assert [i for i, ref in enumerate(refs) if not spilled(ref)] == [2, 4]
    assert (view == 2).all() and (private == 4).all()
    del view, private
    assert _core._spill(1 << 40) >= 2 * MB and all(map(spilled, refs))
    assert (shoal.get(refs[4], private=True) == 4).all()
    assert not spilled(refs[4])


@pytest.mark.usefixtures("small")
def test_views_and_mutable_objects_fill_the_arena_for_good():
    refs = [shoal.put(array(i), mutable=True) for i in range(30)]
    with pytest.raises(ObjectStoreFullError):
        views = []
        for i in range(64):
            views.append(shoal.get(shoal.put(array(i))))
    assert _core.statistics()["spilled_bytes"] == 0
    del views
    assert _core._spill(1 << 40) == 0
    assert [int(shoal.get(ref)[-1]) for ref in refs] == list(range(30))


@pytest.mark.usefixtures("small")
def test_tasks_and_actors_get_and_make_what_is_spilled():
    @shoal.remote
    def double(x):
        return x * 2

    @shoal.remote
    class Sum:
        def __init__(self, first):
            self.total = int(first.sum())

        def add(self, x, more):
            self.total += int(x.sum()) + int(shoal.get(more[0]).sum())
            return self.total

    refs = [shoal.put(array(i, 4 * MB)) for i in range(20)]
    doubled = [double.remote(ref) for ref in refs]
    for i, ref in enumerate(doubled):
        assert (shoal.get(ref) == 2 * i).all()
    assert _core._spill(1 << 40) > 0
    n = 4 * MB // 8
    actor = Sum.remote(refs[1])
    assert shoal.get(actor.add.remote(refs[2], [doubled[3]])) == n * (1 + 2 + 6)
    until(lambda: _core._spill(1 << 40) >= 0 and spilled(refs[5]))  # a worker may look at its argument a moment longer


@pytest.mark.usefixtures("small")
def test_strings_bytes_versions_and_containers():
    text, data = "é" * MB, b"x" * (2 * MB)
    refs = [shoal.put(text), shoal.put(data)]
    versions = shoal.Versioned({"a": array(1), "b": 5})
    box = shoal.List([array(3), array(4)])
    assert _core._spill(1 << 40) >= 7 * MB
    assert shoal.get(refs) == [text, data]
    with versions.update() as draft:
        draft["a"][:] = 2
    value = versions.get()
    assert _core._spill(1 << 40) >= 0
    assert (value["a"] == 2).all() and (versions.get()["a"] == 2).all()
    assert (box[0] == 3).all() and (box.pop() == 4).all()


def test_spilling_can_be_switched_off_and_its_directory_chosen(fresh, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="spill_directory cannot be used"):
        shoal.init(spill_directory=tmp_path / "missing")
    with pytest.raises(TypeError, match="spill_directory"):
        shoal.init(spill_directory=7)
    fresh(object_store_memory=8 * MB, spill_directory=tmp_path)
    assert shoal.init(ignore_reinit_error=True)["spill_directory"] == str(tmp_path)
    refs = [shoal.put(array(i)) for i in range(16)]
    assert spilled(refs[0]) and list(tmp_path.iterdir()) == []
    shoal.shutdown()
    monkeypatch.setenv("SHOAL_SPILL_DIRECTORY", "")
    shoal.init(object_store_memory=8 * MB, num_cpus=1)
    with pytest.raises(ObjectStoreFullError):
        refs = [shoal.put(array(i)) for i in range(16)]


@pytest.mark.usefixtures("small")
def test_containers_locks_and_small_values_find_room_in_an_arena_full_of_values():
    refs = [shoal.put(array(i)) for i in range(100)]
    box, table = shoal.List(), shoal.Dict()
    shared = shoal.put(array(1, 8 * MB), mutable=True)
    for i in range(20_000):
        box.append(i)
    for i in range(2000):
        table[f"key {i}"] = "x" * 1000
    with shoal.lock(shared, rollback=True):
        shoal.get(shared)[:] = 2
    assert _core.statistics()["peak_bytes"] > 60 * MB
    assert len(box) == 20_000 and len(table) == 2000 and (shoal.get(shared) == 2).all()
    assert all((shoal.get(ref) == i).all() for i, ref in enumerate(refs))
