"""The call that uses most memory is ended before the kernel ends something else."""

import os
import pathlib
import time

import numpy as np
import pytest

import shoal
from conftest import run_python, until
from shoal import _core
from shoal.engine.local import memory_monitor
from shoal.exceptions import OutOfMemoryError

MB = 1 << 20


@shoal.remote
def use(size, path):
    mine = np.ones(size, np.uint8)
    path.touch()
    while not (path.parent / "done").exists():
        time.sleep(0.001)  # it waits for another process's file
    return int(mine[0])


def test_a_task_that_uses_too_much_raises_out_of_memory(fresh, tmp_path):
    fresh(num_cpus=1, memory_usage_threshold=0.001)
    with pytest.raises(OutOfMemoryError, match=r"memory_usage_threshold\). use\(\) used the most of its own, \d+\.\d MB"):
        shoal.get(use.options(max_retries=0).remote(64 * MB, tmp_path / "a"), timeout=60)
    assert _core.statistics()["deaths"] == 1


def test_it_is_run_again_if_it_may_be_and_the_driver_sees_why(tmp_path):
    done = run_python(
        """
        import pathlib, sys, time, shoal
        shoal.init(num_cpus=1, memory_usage_threshold=0.001)
        @shoal.remote(max_retries=-1)  # on a busy machine it may be ended before its first line, or before its last
        def second_time(path):
            if not path.exists():
                path.touch()
                while True: time.sleep(0.001)
            return "done"
        print(shoal.get(second_time.remote(pathlib.Path(sys.argv[1])), timeout=60))
        shoal.shutdown()
        """,
        str(tmp_path / "seen"),
    )
    assert done.stdout == "done\n" and "shoal: ended second_time() (pid" in done.stderr and "it will run again" in done.stderr


class Fake:
    def __init__(self, pid, slot):
        self.pid, self.slot = pid, slot
        self.pidfd = os.pidfd_open(pid)


def test_the_one_that_uses_most_goes_and_a_task_that_may_run_again_goes_first(fresh, tmp_path):
    fresh(num_cpus=3, memory_usage_threshold=0)
    small = use.remote(MB, tmp_path / "small")
    large = use.remote(80 * MB, tmp_path / "large")
    once = use.options(max_retries=0).remote(160 * MB, tmp_path / "once")
    until(lambda: all((tmp_path / name).exists() for name in ("small", "large", "once")))
    processes = {p["pid"]: Fake(p["pid"], p["slot"]) for p in _core.processes() if p["role"] == _core.WORKER and p["running"]}
    said = []
    monitor = memory_monitor.MemoryMonitor(0.9, lambda process, text: said.append((process.pid, text)))
    reading = [80 << 40, 100 << 40]
    monitor.readings = lambda: (*reading, "the test")
    assert monitor.look(processes.values()) == memory_monitor.FAST_S and not said
    reading[0], monitor.next_look = 95 << 40, 0
    largest = max(processes, key=memory_monitor.private_memory)
    monitor.look(processes.values())
    [(pid, text)] = said
    assert pid != largest and "97280.0 GB of the test's 102400.0 GB" in text and f"use (pid {largest})" in text
    assert "it will run again" in text and monitor.verdict(pid) and not monitor.verdict(largest)
    until(lambda: _core.statistics()["deaths"] == 1)
    (tmp_path / "done").touch()
    assert shoal.get([small, large, once], timeout=60) == [1, 1, 1]


def test_what_nobody_needs_in_memory_goes_first(fresh):
    fresh(num_cpus=1, memory_usage_threshold=0, object_store_memory=64 * MB)
    idle, unseen = ([shoal.put(np.full(MB, i, np.uint8)) for i in range(20)] for _ in range(2))
    monitor = memory_monitor.MemoryMonitor(0.5, lambda *_: pytest.fail("nothing was to be ended"))
    reading = [60 * MB, 100 * MB]
    monitor.readings = lambda: (*reading, "the test")
    idle.clear()
    assert _core.statistics()["idle_bytes"] >= 20 * MB
    monitor.look([])
    assert _core.statistics()["idle_bytes"] == 0 and _core.statistics()["spilled_bytes"] == 0
    monitor.next_look, monitor.idle_since = 0.0, None  # however long the first look is ago
    monitor.look([])
    assert _core.statistics()["spilled_bytes"] >= 20 * MB and _core.statistics()["idle_bytes"] == 0
    assert [int(shoal.get(ref)[-1]) for ref in unseen] == list(range(20))


def test_an_idle_session_is_not_watched(fresh, tmp_path, monkeypatch):
    fresh(num_cpus=1, memory_usage_threshold=0.9)
    clock = [0.0]
    monkeypatch.setattr(memory_monitor.time, "monotonic", lambda: clock[0])
    monitor = memory_monitor.MemoryMonitor(0.9, lambda *_: None)
    monitor.readings = lambda: (0, 100, "the test")
    assert monitor.look([]) == memory_monitor.SLOW_S
    clock[0] = memory_monitor.IDLE_S
    assert monitor.look([]) == memory_monitor.IDLE_S
    clock[0] *= 2
    assert monitor.look([]) is None
    assert memory_monitor.MemoryMonitor(0, lambda *_: None).look([]) is None


def test_readings():
    used, limit, whose = memory_monitor.Readings()()
    assert 0 < used < limit and whose in ("the machine", "the control group")
    assert memory_monitor.private_memory(os.getpid()) > MB
    assert memory_monitor.private_memory(2**22 + 1) == 0


def test_control_groups_of_both_versions(tmp_path):
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 300\nactive_file 50\n")
    assert memory_monitor.group_usage(str(tmp_path), "2") is None
    (tmp_path / "memory.max").write_text("2000\n")
    assert memory_monitor.group_usage(str(tmp_path), "2") == (650, 2000)
    (tmp_path / "memory.usage_in_bytes").write_text("1000\n")
    (tmp_path / "memory.limit_in_bytes").write_text("4000\n")
    (tmp_path / "memory.stat").write_text("total_inactive_file 100\ntotal_active_file 0\n")
    assert memory_monitor.group_usage(str(tmp_path), "1") == (900, 4000)
    assert memory_monitor.group_usage(str(tmp_path / "gone"), "1") is None


@pytest.mark.parametrize(("value", "error"), [(-0.1, ValueError), (1.5, ValueError), ("much", TypeError), (True, TypeError)])
def test_thresholds_that_are_refused(value, error):
    with pytest.raises(error, match="memory_usage_threshold"):
        shoal.init(memory_usage_threshold=value)
    assert not shoal.is_initialized()


def test_a_real_control_group_with_little_memory(tmp_path):
    """A task that outgrows its control group is ended by Shoal, not by the kernel."""
    group = _small_group(300 * MB)
    try:
        done = run_python(
            """
            import os, pathlib, sys
            for line in sys.argv[1].split(","):
                pathlib.Path(line).write_text(str(os.getpid()))
            import numpy as np, shoal
            shoal.init(num_cpus=1, object_store_memory=64 << 20, memory_usage_threshold=0.7)
            @shoal.remote(max_retries=0)
            def grow():
                import time
                parts = []
                for i in range(360):
                    parts.append(np.ones(1 << 20, np.uint8))
                    time.sleep(0.01)
            try:
                shoal.get(grow.remote(), timeout=60)
            except shoal.exceptions.OutOfMemoryError as error:
                print("the control group" in str(error))
            shoal.shutdown()
            """,
            f"{group}/cgroup.procs",
        )
        assert done.stdout == "True\n", done.stderr
    finally:
        until(lambda: not pathlib.Path(group, "cgroup.procs").read_text())
        os.rmdir(group)


def _small_group(limit: int) -> str:
    for directory, version in memory_monitor.own_groups():
        path = f"{directory}/shoal-test-{os.getpid()}"
        try:
            os.mkdir(path)
        except OSError:
            continue
        name = "memory.max" if version == "2" else "memory.limit_in_bytes"
        try:
            with open(f"{path}/{name}", "w") as file:
                file.write(str(limit))
        except OSError:
            os.rmdir(path)
            continue
        return path
    pytest.skip("no control group can be made here")
