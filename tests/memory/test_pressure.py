"""Memory that cannot be had by spilling: who waits, who is told at once, and what the errors say."""

import threading
import time

import numpy as np
import pytest

import shoal
from conftest import audit, run_python, until
from shoal import _core
from shoal.exceptions import ObjectStoreFullError

MB = 1 << 20


def hold(n: int) -> list[np.ndarray]:
    return [shoal.get(shoal.put(np.full(MB, i, np.uint8))) for i in range(n)]


@pytest.fixture
def small(fresh):
    """A session of 32 MB."""
    fresh(object_store_memory=32 * MB, memory_timeout=30)
    yield
    audit()


@shoal.remote
class Hog:
    """Looks at a lot of memory, until it is told to let go."""

    def __init__(self):
        self.views = []

    def hold(self, n):
        self.views = hold(n)

    def free_when(self, path):
        while not path.exists():
            time.sleep(0.001)  # it waits for another process's file
        self.views = self.views[10:]


@pytest.mark.usefixtures("small")
def test_who_holds_everything_itself_is_told_at_once():
    views = hold(20)
    start = time.monotonic()
    with pytest.raises(ObjectStoreFullError, match="nobody else holds so much.*driver looks at .* MB.*views in driver"):
        views += hold(20)
    assert time.monotonic() - start < 5
    views.clear()
    assert len(hold(25)) == 25


@pytest.mark.usefixtures("small")
def test_who_could_only_wait_for_sleepers_is_told_at_once():
    hog = Hog.remote()
    shoal.get(hog.hold.remote(25))
    with pytest.raises(
        ObjectStoreFullError, match=r"all who hold it wait themselves.*Hog \(pid \d+\) looks at 25.0 MB.*driver looks at"
    ):
        hold(20)
    del hog


@pytest.mark.usefixtures("small")
def test_a_put_waits_for_what_another_process_will_free_and_says_so_after_a_second(tmp_path, capfd):
    hog = Hog.remote()
    shoal.get(hog.hold.remote(25))
    path = tmp_path / "free"
    freed = hog.free_when.remote(path)
    until(lambda: _core.busy() == 1)  # while it is not up nobody moves, and nobody would be waited for
    seen = []

    def warned():
        seen.append(capfd.readouterr().err)
        return "waiting for 1.0 MB of memory since a second" in "".join(seen)

    def watch():
        until(warned)
        path.touch()

    watcher = threading.Thread(target=watch)
    watcher.start()
    views = hold(12)
    watcher.join()
    assert len(views) == 12 and "Largest holders: Hog" in "".join(seen)
    shoal.get(freed)
    del hog


@pytest.mark.usefixtures("small")
def test_a_task_waits_for_room_for_its_result(tmp_path):
    @shoal.remote
    def make(i):
        return np.full(9 * MB, i, np.uint8)

    hog = Hog.remote()
    shoal.get(hog.hold.remote(25))
    path = tmp_path / "free"
    freed = hog.free_when.remote(path)
    refs = [make.remote(i) for i in range(4)]
    until(lambda: _core.busy() == 1 and sum(p["running"] for p in _core.processes()) >= 2)  # a task waits
    path.touch()
    assert [int(shoal.get(ref)[0]) for ref in refs] == [0, 1, 2, 3]
    shoal.get(freed)
    del hog


def test_the_wait_is_bounded_and_can_be_interrupted(fresh, tmp_path):
    fresh(object_store_memory=32 * MB, memory_timeout=0.3)
    hog = Hog.remote()
    shoal.get(hog.hold.remote(25))
    freed = hog.free_when.remote(tmp_path / "free")
    until(lambda: _core.busy() == 1)
    with pytest.raises(ObjectStoreFullError, match=r"waited \d+\.\d s for others to free some \(init\(memory_timeout"):
        hold(20)
    (tmp_path / "free").touch()
    shoal.get(freed)
    with pytest.raises(ValueError, match="memory_timeout"):
        shoal.shutdown(), shoal.init(memory_timeout=-1)
    done = run_python(
        """
        import os, pathlib, signal, sys, threading, numpy as np, shoal
        shoal.init(object_store_memory=32 << 20, num_cpus=1)
        @shoal.remote
        def hog(path):
            views = [shoal.get(shoal.put(np.zeros(1 << 20, np.uint8))) for i in range(25)]
            (path / "full").touch()
            while not (path / "never").exists(): pass
        path = pathlib.Path(sys.argv[1])
        ref = hog.remote(path)
        while not (path / "full").exists(): pass
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            views = [shoal.get(shoal.put(np.zeros(1 << 20, np.uint8))) for i in range(20)]
        except KeyboardInterrupt:
            print("interrupted")
        """,
        str(tmp_path),
    )
    assert done.stdout == "interrupted\n", done.stderr


def test_the_summary_names_who_holds_what(fresh):
    fresh(object_store_memory=32 * MB)

    hog = Hog.remote()
    shoal.get(hog.hold.remote(5))
    mine = shoal.put(np.zeros(3 * MB, np.uint8))
    view = shoal.get(mine)
    box = shoal.List([shoal.get(shoal.put(np.ones(2 * MB, np.uint8)))])
    info = shoal.memory_info(limit=20)
    largest = info["largest"]
    assert [item["bytes"] // MB for item in largest[:7]] == [3, 2, 1, 1, 1, 1, 1]
    assert largest[0]["viewed_by"] == ["driver"] and "driver" in largest[0]["referenced_by"] and largest[1]["contained_in"] == 1
    assert all(item["viewed_by"][0].startswith("Hog (pid ") for item in largest[2:7])
    assert {p["role"] for p in info["processes"]} >= {"driver", "actor"}
    assert _core._spill(1 << 30) >= 2 * MB
    info = shoal.memory_info(limit=0)
    assert info["spilled_bytes"] == _core.statistics()["spilled_bytes"]
    assert info["spills"] >= 1 and info["spill_write_bytes_per_s"] > 0
    text = shoal.memory_summary()
    assert "spilled" in text and "Hog (pid" in text and "views in driver" in text and "so far" in text
    assert "largest" not in shoal.memory_summary(stats_only=True)
    with pytest.raises(ValueError, match="limit"):
        shoal.memory_info(limit=-1)
    assert len(box) == 1 and view.sum() == 0
