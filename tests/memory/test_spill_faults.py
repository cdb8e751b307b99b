"""Spilling when the disk is full, the file is gone or cut short, and when processes die in the middle of it."""

import os
import random
import resource
import signal

import numpy as np
import pytest

import shoal
from conftest import audit, run_python, until
from shoal import _core
from shoal.exceptions import ObjectLostError, ObjectStoreFullError

MB = 1 << 20
hooks = pytest.mark.skipif(not _core.CRASH_POINTS, reason="a build without crash points")


def array(i: int, size: int = MB) -> np.ndarray:
    return np.full(size // 8, i, np.int64)


def spill_file(directory) -> int:
    """This process's descriptor of the spill file in that directory."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith(str(directory)):
                return int(name)
        except OSError:
            continue
    raise AssertionError("there is no spill file")


@hooks
@pytest.mark.parametrize(
    "point", ["spill.marked", "spill.written", "spill.switched", "restore.marked", "restore.read", "restore.switched", "spill.drop"]
)
def test_a_process_dies_at_each_step(fresh, tmp_path, point):
    fresh(object_store_memory=16 * MB)
    mark = tmp_path / "armed"

    @shoal.remote(max_retries=1)
    def work(refs):
        if not mark.exists():
            mark.touch()
            _core.arm_crash_point(f"{point}:1")
        total = 0
        for _ in range(2):
            for ref in refs:
                total += int(shoal.get(ref)[0])
            _core._spill(1 << 30)
        return total

    refs = [shoal.put(array(i)) for i in range(40)]
    assert shoal.get(work.remote(refs), timeout=60) == 2 * sum(range(40))
    assert _core.statistics()["deaths"] == 1
    for i, ref in enumerate(refs):
        assert (shoal.get(ref) == i).all()
    del ref, refs
    audit()
    assert _core.statistics()["spilled_bytes"] == 0


def test_processes_are_killed_while_everybody_spills_and_restores(fresh):
    fresh(object_store_memory=16 * MB, num_cpus=3)

    @shoal.remote(max_retries=-1)
    def work(refs, rounds, seed):
        order = random.Random(seed)
        total = 0
        for _ in range(rounds):
            for ref in order.sample(refs, len(refs)):
                value = shoal.get(ref)
                assert (value == value[0]).all()
                total += int(value[-1])
        return total, array(total % 1000)

    refs = [shoal.put(array(i)) for i in range(40)]
    results = [work.remote(refs, 3, seed) for seed in range(6)]
    rng = random.Random(5)
    for _ in range(8):
        running = [p for p in _core.processes() if p["role"] == _core.WORKER and p["running"] and p["pid"]]
        if not running:
            break
        deaths = _core.statistics()["deaths"]
        os.kill(rng.choice(running)["pid"], signal.SIGKILL)
        until(lambda deaths=deaths: _core.statistics()["deaths"] > deaths)
        for i in rng.sample(range(40), 10):
            assert (shoal.get(refs[i]) == i).all()
    for total, value in shoal.get(results, timeout=120):
        assert total == 3 * sum(range(40)) and (value == total % 1000).all()
    for i, ref in enumerate(refs):
        assert (shoal.get(ref) == i).all()
    del ref, refs, results, value
    audit()
    assert _core.statistics()["spilled_bytes"] == 0


def test_an_object_dropped_while_it_is_spilled_leaves_nothing(fresh, tmp_path):
    fresh(object_store_memory=16 * MB, spill_directory=tmp_path)
    for _ in range(5):
        refs = [shoal.put(array(i)) for i in range(40)]
        assert os.fstat(spill_file(tmp_path)).st_blocks > 0
        random.Random(3).shuffle(refs)
        while refs:
            refs.pop()
    assert os.fstat(spill_file(tmp_path)).st_blocks == 0
    audit()


def test_a_file_size_limit_is_like_a_full_disk(fresh):
    fresh(object_store_memory=16 * MB)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MB, before[1]))
    try:
        refs = []
        with pytest.raises(ObjectStoreFullError, match="spill file failed: File too large"):
            while True:
                refs.append(shoal.put(array(len(refs))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(refs) > 18
    refs.append(shoal.put(array(len(refs), 4 * MB)))
    for i, ref in enumerate(refs):
        assert (shoal.get(ref) == i).all()
    del ref, refs
    audit()


def test_a_full_disk(fresh, tmp_path):
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=12m none {tmp_path} 2>/dev/null") != 0:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        fresh(object_store_memory=16 * MB, spill_directory=tmp_path)
        refs = []
        with pytest.raises(ObjectStoreFullError, match="disk of the spill directory has"):
            while True:
                refs.append(shoal.put(array(len(refs))))
        assert len(refs) > 20
        with pytest.raises(ObjectStoreFullError, match="disk of the spill directory has"):
            shoal.get(refs[0])
        refs.pop()  # room for one: from here on they can change places
        for i, ref in enumerate(refs):
            assert (shoal.get(ref) == i).all()
        del ref, refs
        audit()
        shoal.shutdown()
    finally:
        os.system(f"umount -l {tmp_path}")


def test_a_file_that_was_cut_short_is_a_lost_object(fresh, tmp_path):
    fresh(object_store_memory=16 * MB, spill_directory=tmp_path)
    refs = [shoal.put(array(i)) for i in range(40)]
    fd = spill_file(tmp_path)
    spilled = [ref for ref in refs if _core.object_info(ref)["spilled"]]
    os.ftruncate(fd, 4096)
    for _ in range(2):
        with pytest.raises(ObjectLostError, match=r"its 1 MB had been spilled, and reading .* failed: (No data|Bad message)"):
            shoal.get(spilled[0])

    @shoal.remote
    def first(x):
        return x[0]

    with pytest.raises(ObjectLostError):
        shoal.get(first.remote(spilled[1]))
    kept = [ref for ref in refs if ref not in spilled]
    assert all((shoal.get(ref) == refs.index(ref)).all() for ref in kept)
    del refs, spilled, kept
    audit()


def test_nothing_is_left_of_a_killed_session(tmp_path):
    done = run_python(
        """
        import os, signal, sys, numpy as np, shoal
        shoal.init(object_store_memory=16 << 20, spill_directory=sys.argv[1])
        refs = [shoal.put(np.full(1 << 20, 1, np.uint8)) for i in range(40)]
        assert shoal.memory_info()["spilled_bytes"] > 0
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        str(tmp_path),
    )
    assert done.returncode == -signal.SIGKILL and list(tmp_path.iterdir()) == []


def test_more_than_sixteen_processes(fresh):
    fresh(num_cpus=2, object_store_memory=64 * MB)

    @shoal.remote(num_cpus=0)
    class Member:
        def ping(self):
            return os.getpid()

    members = [Member.remote() for _ in range(24)]
    assert len(set(shoal.get([m.ping.remote() for m in members], timeout=60))) == 24
    del members
    audit()
