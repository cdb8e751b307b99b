"""The arena when it is full, and whether its memory comes back."""

import numpy as np
import pytest

import shoal
from conftest import audit, leftovers, quiet, run_python, until
from shoal import _core
from shoal.exceptions import ObjectStoreFullError

MB = 1 << 20


def used() -> int:
    return int(_core.statistics()["used_bytes"])


def fill(size: int) -> list:
    """Puts arrays of `size` bytes until no more fit."""
    refs = []
    with pytest.raises(ObjectStoreFullError):
        while True:
            refs.append(shoal.put(np.zeros(size, np.uint8)))
    return refs


@pytest.fixture
def small(fresh):
    """A session of 64 MB, which never spills and never waits for others to free something (see tests/memory)."""
    fresh(object_store_memory=64 * MB, spill_directory="", memory_timeout=0)
    yield
    audit()


@pytest.mark.usefixtures("small")
def test_an_object_larger_than_the_arena_is_refused_at_once_and_the_arena_remains_usable():
    before = used()
    for size in (65 * MB, 1 << 40, 1 << 62):
        big = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (size,), (0,))
        if size == 65 * MB:
            big = big.copy()
        with pytest.raises((ObjectStoreFullError, MemoryError)):  # NumPy itself may fail to make the copy
            shoal.put(big)
    for value in (b"x" * (65 * MB), "y" * (65 * MB), bytearray(65 * MB), [b"z" * (65 * MB)]):
        with pytest.raises(ObjectStoreFullError, match=r"more than the whole arena has .* object_store_memory"):
            shoal.put(value)
    assert used() == before and leftovers() == 0
    assert shoal.get(shoal.put(np.arange(7 * MB)))[-1] == 7 * MB - 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [700, 5000, 40_000, MB, 30 * MB])
def test_a_full_arena_works_again_after_its_objects_are_dropped(size):
    start = len(fill(size))
    for _ in range(3):
        refs = fill(size)
        assert abs(len(refs) - start) <= max(2, start // 50)
        assert (shoal.get(refs[-1]) == 0).all()
        with pytest.raises(ObjectStoreFullError, match=r"\d+ of the arena's \d+ bytes are in use"):
            shoal.put(np.zeros(60 * MB, np.uint8))
        del refs[::2]
        shoal.put(np.zeros(size, np.uint8))
        refs.clear()
    assert shoal.get(shoal.put(np.ones(40 * MB, np.uint8))).sum() == 40 * MB


@pytest.mark.usefixtures("small")
def test_views_keep_a_full_arena_full():
    views = shoal.get(fill(4 * MB))
    with pytest.raises(ObjectStoreFullError):
        shoal.put(np.zeros(4 * MB, np.uint8))
    views.pop()
    shoal.put(np.zeros(4 * MB, np.uint8))


@pytest.mark.usefixtures("small")
def test_a_result_that_does_not_fit_is_an_error_of_its_task_only():
    @shoal.remote
    def make(size):
        return np.ones(size, np.uint8)

    @shoal.remote
    def stream(*sizes):
        for size in sizes:
            yield np.ones(size, np.uint8)

    with pytest.raises(ObjectStoreFullError):
        shoal.get(make.remote(100 * MB))
    with pytest.raises(ObjectStoreFullError):
        shoal.get(make.options(num_returns=1, max_retries=0).remote(100 * MB))
    assert shoal.get(make.remote(20 * MB)).sum() == 20 * MB
    first, second = stream.remote(MB, 100 * MB)
    assert shoal.get(first).sum() == MB
    with pytest.raises(ObjectStoreFullError):
        shoal.get(second)
    with pytest.raises(ObjectStoreFullError):
        make.remote(np.zeros(100 * MB, np.uint8))


@pytest.mark.usefixtures("small")
def test_a_task_that_fails_while_the_arena_is_full_to_the_last_block(tmp_path):
    go = tmp_path / "go"

    @shoal.remote
    def late(how):
        until(go.exists, 60)
        if how == "raise":
            raise ValueError("no room for this")
        return how * 100_000

    calls = [late.remote(how) for how in ("raise", "text", "raise", "text")]
    until(lambda: sum(p["running"] for p in _core.processes()) == 2)
    hog, size = [fill(MB)], 40_000
    while size > 0:  # each class of sizes: a free block in one of them might just do for an error
        hog.append(fill(size))
        size -= max(48, size // 10)
    with pytest.raises(ObjectStoreFullError):
        late.remote(b"y" * 60_000)
    go.touch()
    for call in calls:
        with pytest.raises(ObjectStoreFullError, match="nor for its error"):
            shoal.get(call, timeout=60)
    assert [c["role"] for c in _core.processes()][:2] == [_core.DRIVER, _core.SUPERVISOR]
    hog.clear()
    calls.clear()
    del call
    assert shoal.get(late.remote("a")) == "a" * 100_000


@pytest.mark.usefixtures("small")
def test_workers_fill_the_arena_too():
    @shoal.remote
    def fill_up():
        refs = []
        try:
            while True:
                refs.append(shoal.put(np.zeros(MB, np.uint8)))
        except ObjectStoreFullError:
            return len(refs)

    counts = [shoal.get(fill_up.remote()) for _ in range(4)]
    assert min(counts) > 50 and max(counts) - min(counts) < 5


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [100, 3000, 50_000, 5 * MB])
def test_memory_returns_to_its_level_after_ten_rounds(size):
    @shoal.remote
    def through(array):
        return array + 1

    def round_trip():
        refs = [shoal.put(np.zeros(size, np.uint8)) for _ in range(min(2000, 20 * MB // size))]
        out = shoal.get([through.remote(ref) for ref in refs[:100]])
        assert all((array == 1).all() for array in out)

    levels = []
    for _ in range(10):
        round_trip()
        until(lambda: quiet() and leftovers() == 0)
        levels.append(used())
    # A round uses up to 20 MB. What the caches of the two workers keep depends on which of them the tasks met: of each class of
    # sizes up to 128 kB. (There are no more workers than these two: see tests/tasks/test_task_crowds.py.)
    assert max(levels[2:]) - min(levels[2:]) <= MB // 2, levels
    assert levels[-1] < 4 * MB


def test_the_system_gets_back_what_is_idle_for_long():
    """The supervisor gives memory back after ten seconds; asked to do it now, nothing that is in use may go."""
    done = run_python(
        """
        import os, numpy as np, shoal
        from shoal import _core
        shoal.init(num_cpus=1)
        keep = shoal.put(np.full(1 << 20, 7))
        refs = [shoal.put(np.full(1 << 22, i)) for i in range(8)]
        place = shoal.get(keep).__array_interface__["data"][0]
        fd = next(f"/proc/self/fd/{n}" for n in os.listdir("/proc/self/fd")
                  if os.path.exists(f"/proc/self/fd/{n}") and "memfd:shoal" in os.readlink(f"/proc/self/fd/{n}"))
        full = os.stat(fd).st_blocks * 512
        del refs
        assert _core.statistics()["idle_bytes"] >= 8 << 25
        _core.trim(0)
        assert _core.statistics()["idle_bytes"] == 0
        assert full - os.stat(fd).st_blocks * 512 >= 8 << 25
        assert (shoal.get(keep) == 7).all()
        assert [int(shoal.get(shoal.put(np.full(1 << 22, i)))[-1]) for i in range(8)] == list(range(8))
        assert _core.check() == ""
        """
    )
    assert done.returncode == 0, done.stderr


def test_the_smallest_arena(fresh):
    fresh(object_store_memory=4 * MB)

    @shoal.remote
    def double(x):
        return x * 2

    assert shoal.get([double.remote(i) for i in range(500)]) == list(range(0, 1000, 2))
    audit()


@pytest.mark.parametrize(
    ("size", "error"),
    [(0, ValueError), (-1, ValueError), (4 * MB - 1, ValueError), ("1G", TypeError), (True, TypeError)],
)
def test_sizes_that_are_refused(size, error):
    with pytest.raises(error, match="object_store_memory"):
        shoal.init(object_store_memory=size)
    assert not shoal.is_initialized()


def test_a_million_objects_come_and_go(fresh):
    fresh(num_cpus=1)
    for _ in range(2):
        refs = [shoal.put(i) for i in range(500_000)]
        assert shoal.get(refs[-1]) == 499_999
        refs.clear()
    level = used()
    refs = [shoal.put(str(i)) for i in range(300_000)]
    assert shoal.get(refs[123_456]) == "123456"
    refs.clear()
    assert used() - level < MB
    audit()
