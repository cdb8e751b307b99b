"""Tasks that submit tasks and wait for them: to any depth, on one CPU, without a crowd of processes."""

import asyncio
import decimal
import signal
import sys
import threading
import time

import numpy as np
import pytest

import shoal
from conftest import audit, until
from shoal import _core
from shoal.exceptions import GetTimeoutError, TaskCancelledError


@pytest.fixture(scope="module", params=[1, 2], ids=["1 CPU", "2 CPUs"], autouse=True)
def session(request):
    shoal.init(num_cpus=request.param)
    yield
    audit()
    shoal.shutdown()


@shoal.remote
def same(x):
    return x


@shoal.remote
def hold(path, value=None):
    until(path.exists, 60)
    return value


@shoal.remote
def down(n):
    return n if n == 0 else 1 + shoal.get(down.remote(n - 1))


@shoal.remote
def fib(n):
    return n if n < 2 else sum(shoal.get([fib.remote(n - 1), fib.remote(n - 2)]))


def test_a_chain_of_nested_gets():
    assert shoal.get(down.remote(200)) == 200
    assert shoal.get([down.remote(30) for _ in range(8)]) == [30] * 8


def test_recursive_fibonacci_of_20_needs_few_processes():
    ref, most = fib.remote(20), 0
    while not shoal.wait([ref], timeout=0.02)[0]:
        most = max(most, len(_core.processes()))
    assert shoal.get(ref) == 6765
    assert most <= 40


def test_a_tree_of_tasks_that_return_references():
    @shoal.remote
    def tree(depth):
        return (depth, [tree.remote(depth - 1) for _ in range(3)]) if depth else (0, [])

    def walk(ref):
        depth, children = shoal.get(ref)
        return 1 + sum(map(walk, children))

    assert walk(tree.remote(5)) == 364


def test_children_outlive_their_parent(tmp_path):
    @shoal.remote
    def parent():
        return [hold.remote(tmp_path / "go", i) for i in range(5)]

    children = shoal.get(parent.remote())
    (tmp_path / "go").touch()
    assert shoal.get(children) == [0, 1, 2, 3, 4]


def test_children_that_nobody_waits_for_run_all_the_same(tmp_path):
    @shoal.remote
    def touch(i):
        (tmp_path / str(i)).touch()

    @shoal.remote
    def parent():
        for i in range(10):
            touch.remote(i)

    shoal.get(parent.remote())
    until(lambda: len(list(tmp_path.iterdir())) == 10)


def test_a_child_may_get_what_its_parent_made():
    @shoal.remote
    def child(container):
        return float(shoal.get(container[0]).sum())

    @shoal.remote
    def parent():
        refs = [shoal.put(np.full(5000, i)) for i in range(5)]
        return shoal.get([child.remote([ref]) for ref in refs])

    assert shoal.get(parent.remote()) == [0, 5000, 10_000, 15_000, 20_000]


def test_a_parent_and_a_child_with_different_demands():
    @shoal.remote(num_cpus=0.5)
    def child(n):
        return n if n == 0 else 1 + shoal.get(parent.remote(n - 1))

    @shoal.remote(num_cpus=1)
    def parent(n):
        return n if n == 0 else 1 + shoal.get(child.remote(n - 1))

    assert shoal.get(parent.remote(20)) == 20


def test_siblings_that_wait_for_each_other_s_results():
    """B takes A's reference inside a list, so it is not resolved before the call: it waits for it while it runs."""

    @shoal.remote
    def follow(container):
        return shoal.get(container[0]) + 1 if container else 0

    ref = follow.remote([])
    for _ in range(30):
        ref = follow.remote([ref])
    assert shoal.get(ref) == 30
    assert shoal.get(follow.remote([follow.remote([follow.remote([])])])) == 2


# --- timeouts and wait, inside a task -----------------------------------------------------------------------


def test_a_timeout_inside_a_task_is_kept(tmp_path):
    @shoal.remote
    def outer(path):
        inner, start = hold.remote(path), time.monotonic()
        try:
            shoal.get(inner, timeout=0.1)
        except GetTimeoutError:
            waited = time.monotonic() - start
        with pytest.raises(GetTimeoutError):
            shoal.get([inner], timeout=0.01)
        with pytest.raises(GetTimeoutError):
            shoal.get(inner, timeout=0)
        none = shoal.wait([inner], timeout=0.05)[0]
        path.touch()
        return waited >= 0.1, none, shoal.get(inner)

    assert shoal.get(outer.remote(tmp_path / "go")) == (True, [], None)


def test_wait_for_any_inside_a_task_is_not_kept_by_the_slow_one(tmp_path):
    @shoal.remote
    def outer(path):
        slow, quick = hold.options(num_cpus=0).remote(path, "slow"), same.remote("quick")
        ready, rest = shoal.wait([slow, quick])
        path.touch()
        return ready == [quick], rest == [slow], shoal.get([slow, quick])

    assert shoal.get(outer.remote(tmp_path / "go")) == (True, True, ["slow", "quick"])


def test_wait_for_all_inside_a_task():
    @shoal.remote
    def outer():
        refs = [same.remote(i) for i in range(50)]
        ready, rest = shoal.wait(refs, num_returns=50)
        return ready == refs, rest, shoal.get(refs) == list(range(50))

    assert shoal.get(outer.remote()) == (True, [], True)


def test_a_task_that_is_waiting_can_be_cancelled(tmp_path):
    @shoal.remote
    def outer(path):
        try:
            shoal.get(hold.options(num_cpus=0).remote(path))
        finally:
            (path.parent / "cleaned up").touch()

    ref = outer.remote(tmp_path / "go")
    until(lambda: any(p["blocked"] for p in _core.processes()) or sum(p["running"] for p in _core.processes()) > 0)
    until(lambda: shoal.cancel(ref) or bool(shoal.wait([ref], timeout=0.1)[0]))
    with pytest.raises(TaskCancelledError):
        shoal.get(ref)
    (tmp_path / "go").touch()


# --- a task inside another one finds things as it would in a process of its own ----------------------------


def test_it_may_recurse_as_deep_as_any():
    def descend(n, then):
        return descend(n - 1, then) if n else then()

    @shoal.remote
    def outer(levels):
        return descend(400, lambda: 0 if levels == 0 else 1 + shoal.get(outer.remote(levels - 1)))

    assert shoal.get(outer.remote(20)) == 20

    @shoal.remote
    def endless():
        return descend(10**9, None)

    @shoal.remote
    def parent():
        with pytest.raises(RecursionError):
            shoal.get(endless.remote())
        return sys.getrecursionlimit()

    assert shoal.get(parent.remote()) == shoal.get(same.remote(sys.getrecursionlimit()))


def test_it_may_run_an_event_loop_of_its_own():
    @shoal.remote
    def inner():
        async def main():
            await asyncio.sleep(0)
            return "inner"

        return asyncio.run(main())

    @shoal.remote
    def outer():
        async def main():
            got = shoal.get(inner.remote())
            await asyncio.sleep(0)
            return got, asyncio.get_running_loop() is not None

        return asyncio.run(main())

    assert shoal.get(outer.remote()) == ("inner", True)


def test_it_has_context_variables_of_its_own():
    @shoal.remote
    def inner():
        before = decimal.getcontext().prec
        decimal.getcontext().prec = 3
        return before

    @shoal.remote
    def outer():
        decimal.getcontext().prec = 50
        return shoal.get(inner.remote()), decimal.getcontext().prec

    assert shoal.get(outer.remote()) == (28, 50)


def test_it_runs_in_the_main_thread_even_if_another_one_waits():
    @shoal.remote
    def inner():
        signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # allowed in the main thread only
        return threading.current_thread() is threading.main_thread()

    @shoal.remote
    def outer():
        got = []
        threads = [threading.Thread(target=lambda: got.append(shoal.get(inner.remote()))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return got

    assert shoal.get(outer.remote()) == [True] * 4


def test_it_knows_itself_and_its_caller_does_again_afterwards():
    def name():
        return shoal.get_runtime_context().get_task_name()

    def number():
        return shoal.get_runtime_context().get_task_id()

    @shoal.remote
    def inner():
        return name(), number()

    @shoal.remote
    def outer():
        before = name(), number()
        return before, shoal.get(inner.remote()), (name(), number())

    before, between, after = shoal.get(outer.remote())
    assert before == after and before[0] == "outer" and between[0] == "inner" and before[1] != between[1]


def test_its_arguments_and_result_are_freed_while_its_caller_goes_on(tmp_path):
    @shoal.remote
    def outer(path):
        for _ in range(20):
            assert shoal.get(same.remote(np.ones(100_000))).sum() == 100_000
        (path / "done").touch()
        until((path / "go").exists, 60)

    audit()
    ref = outer.remote(tmp_path)
    until((tmp_path / "done").exists)
    until(lambda: _core.statistics()["used_bytes"] < 4 << 20)
    (tmp_path / "go").touch()
    shoal.get(ref)
