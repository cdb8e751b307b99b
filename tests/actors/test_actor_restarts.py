"""max_restarts and max_task_retries: an actor that dies comes back, and calls are repeated if wanted."""

import os
import signal
import threading

import numpy as np
import pytest

import shoal
from conftest import stop, until
from shoal import _core
from shoal.exceptions import ActorDiedError, ActorError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
class Phoenix:
    def __init__(self, counter, start=0):
        self.lives = shoal.get(counter[0])
        self.lives[0] += 1
        self.value = start
        self.restored = shoal.get_runtime_context().was_current_actor_reconstructed

    def pid(self):
        return os.getpid()

    def add(self, n):
        self.value += n
        return self.value

    def life(self):
        return int(self.lives[0]), self.restored

    def die(self):
        os._exit(1)

    def die_in_life(self, n):
        if self.lives[0] <= n:
            os.kill(os.getpid(), signal.SIGKILL)
        return int(self.lives[0])

    def wait(self, gate):
        with gate:
            return "waited"

    def leave(self):
        shoal.exit_actor()

    def fail_times(self, counter, n, kind=ValueError):
        tries = shoal.get(counter[0])
        tries[0] += 1
        if tries[0] <= n:
            raise kind(f"try {tries[0]}")
        return int(tries[0])

    def me(self):
        return shoal.get_runtime_context().current_actor


def counter():
    """Not a fixture: pytest would hold it until after the module's audit."""
    return [shoal.put(np.zeros(1, np.int64), mutable=True)]


def alive(phoenix, call=None):
    """Its answer, once it is back: a call that falls into the death fails, as promised."""
    answer = []

    def answered():
        try:
            answer.append(shoal.get((call or phoenix.life.remote)()))
        except ActorError:
            return False
        return True

    until(answered)
    return answer[0]


def test_it_comes_back_with_its_constructor_arguments():
    lives = counter()
    phoenix = Phoenix.options(max_restarts=1).remote(lives, start=10)
    assert shoal.get([phoenix.add.remote(1), phoenix.life.remote()]) == [11, (1, False)]
    with pytest.raises(ActorDiedError):
        shoal.get(phoenix.die.remote())
    assert alive(phoenix) == (2, True)
    assert shoal.get(phoenix.add.remote(1)) == 11  # the state is that of the constructor


def test_only_so_often():
    lives = counter()
    phoenix = Phoenix.options(max_restarts=2).remote(lives)
    for life in (1, 2, 3):
        assert alive(phoenix)[0] == life
        with pytest.raises(ActorDiedError):
            shoal.get(phoenix.die.remote())
    with pytest.raises(ActorDiedError):
        shoal.get(phoenix.life.remote())
    assert shoal.get(lives[0])[0] == 3


def test_for_ever():
    lives = counter()
    phoenix = Phoenix.options(max_restarts=-1).remote(lives)
    for life in range(1, 8):
        assert alive(phoenix)[0] == life
        shoal.kill(phoenix, no_restart=False)
        until(lambda before=life: _life(phoenix) > before)


def _life(phoenix):
    try:
        return shoal.get(phoenix.life.remote())[0]
    except ActorError:
        return 0


def test_waiting_calls_outlive_the_process():
    lives = counter()
    gate = shoal.lock()
    gate.acquire()
    phoenix = Phoenix.options(max_restarts=1).remote(lives)
    pid = shoal.get(phoenix.pid.remote())
    running = phoenix.wait.remote(gate)
    waiting = [phoenix.add.remote(1) for _ in range(5)]
    until(lambda: _core.actor_info(phoenix._ref._handle)["waiting"] == 5)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ActorDiedError):  # it may have done its work: it is not repeated
        shoal.get(running)
    assert shoal.get(waiting) == [1, 2, 3, 4, 5]
    gate.release()


def test_calls_are_repeated_if_wanted():
    lives = counter()
    phoenix = Phoenix.options(max_restarts=3, max_task_retries=3).remote(lives)
    first = phoenix.die_in_life.remote(3)
    later = [phoenix.add.remote(1) for _ in range(3)]
    assert shoal.get(first) == 4
    assert shoal.get(later) == [1, 2, 3]


def test_more_deaths_than_retries():
    lives = counter()
    phoenix = Phoenix.options(max_restarts=-1, max_task_retries=2).remote(lives)
    with pytest.raises(ActorDiedError):
        shoal.get(phoenix.die.remote())
    assert alive(phoenix)[0] == 4


def test_more_retries_than_restarts():
    lives = counter()
    phoenix = Phoenix.options(max_restarts=1, max_task_retries=-1).remote(lives)
    with pytest.raises(ActorDiedError):
        shoal.get(phoenix.die.remote())
    with pytest.raises(ActorDiedError):
        shoal.get(phoenix.life.remote())
    assert shoal.get(lives[0])[0] == 2


def test_retries_of_a_method():
    lives = counter()

    @shoal.remote(max_restarts=2)
    class Mixed(Phoenix._class):
        @shoal.method(max_task_retries=1)
        def repeated(self):
            if self.lives[0] == 1:
                os._exit(1)
            return int(self.lives[0])

    mixed = Mixed.remote(lives)
    assert shoal.get(mixed.repeated.remote()) == 2
    assert shoal.get(mixed.die_in_life.options(max_task_retries=1).remote(2)) == 3


def test_handles_found_by_name_and_passed_on_retry_too():
    lives = counter()
    phoenix = Phoenix.options(max_restarts=3, max_task_retries=3, name="phoenix").remote(lives)
    assert shoal.get(shoal.get_actor("phoenix").die_in_life.remote(1)) == 2

    @shoal.remote
    def use(box):
        return shoal.get(box[0].die_in_life.remote(2))

    assert shoal.get(use.remote([phoenix])) == 3
    assert shoal.get(shoal.get(phoenix.me.remote()).die_in_life.remote(3)) == 4


def test_calls_of_handles_that_are_gone_are_repeated():
    lives = counter()
    ref = Phoenix.options(max_restarts=2, max_task_retries=2).remote(lives).die_in_life.remote(2)
    assert shoal.get(ref) == 3


def test_exceptions_are_repeated_if_wanted():
    lives = counter()
    tries = counter()
    phoenix = Phoenix.options(max_task_retries=3).remote(lives)
    with pytest.raises(ValueError, match="try 1"):
        shoal.get(phoenix.fail_times.remote(tries, 1))
    assert shoal.get(phoenix.fail_times.options(retry_exceptions=True).remote(tries, 3)) == 4
    assert shoal.get(phoenix.fail_times.options(retry_exceptions=[ValueError]).remote(tries, 6)) == 7
    with pytest.raises(ValueError, match="try 8"):
        shoal.get(phoenix.fail_times.options(retry_exceptions=[KeyError]).remote(tries, 9))
    with pytest.raises(ValueError, match="try 12"):
        shoal.get(phoenix.fail_times.options(retry_exceptions=True).remote(tries, 99))


def test_kill_is_final_unless_it_says_otherwise():
    lives = counter()
    phoenix = Phoenix.options(max_restarts=-1).remote(lives)
    assert shoal.get(phoenix.life.remote())[0] == 1
    shoal.kill(phoenix, no_restart=False)
    until(lambda: _life(phoenix) == 2)
    shoal.kill(phoenix)
    with pytest.raises(ActorDiedError, match="killed"):
        shoal.get(phoenix.life.remote())
    assert shoal.get(lives[0])[0] == 2


class Where:
    def where(self):
        return os.getpid()


class WhereAsync:
    async def where(self):
        return os.getpid()


KINDS = [(Where, 1), (Where, 3), (WhereAsync, 3)]


@pytest.mark.parametrize("kind, concurrency", KINDS)
def test_what_is_called_after_a_kill_runs_in_the_next_process(kind, concurrency):
    actor = shoal.remote(kind).options(max_restarts=1, max_task_retries=1, max_concurrency=concurrency).remote()
    first = shoal.get(actor.where.remote())
    supervisor = next(p["pid"] for p in _core.processes() if p["role"] == _core.SUPERVISOR)
    try:
        stop(supervisor)  # it is slow to kill
        shoal.kill(actor, no_restart=False)
        ref = actor.where.remote()
        assert shoal.wait([ref], timeout=0.2) == ([], [ref])
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert shoal.get(ref, timeout=20) != first


@pytest.mark.parametrize("kind, concurrency", KINDS)
def test_a_kill_whose_caller_dies_half_way_is_carried_out(kind, concurrency):
    actor = shoal.remote(kind).options(max_restarts=1, max_task_retries=1, max_concurrency=concurrency).remote()
    first = shoal.get(actor.where.remote())
    _core.actor_kill(actor._ref._handle)  # and the supervisor has not been told
    assert shoal.get(actor.where.remote(), timeout=20) != first


def test_leaving_is_final():
    lives = counter()
    phoenix = Phoenix.options(max_restarts=-1).remote(lives)
    with pytest.raises(ActorDiedError):
        shoal.get(phoenix.leave.remote())
    with pytest.raises(ActorDiedError):
        shoal.get(phoenix.life.remote())
    assert shoal.get(lives[0])[0] == 1


def test_a_restartable_actor_ends_with_its_last_handle():
    lives = counter()
    phoenix = Phoenix.options(max_restarts=-1).remote(lives)
    pid = shoal.get(phoenix.pid.remote())
    del phoenix
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert shoal.get(lives[0])[0] == 1


def test_a_named_actor_keeps_its_name_over_a_restart():
    lives = counter()
    phoenix = Phoenix.options(max_restarts=1, name="lasting").remote(lives)
    with pytest.raises(ActorDiedError):
        shoal.get(phoenix.die.remote())
    found = shoal.get_actor("lasting")
    assert found == phoenix and alive(found)[0] == 2


def test_constructor_arguments_live_for_the_restart():
    lives = counter()

    @shoal.remote(max_restarts=1)
    class Sum:
        def __init__(self, array, counter):
            self.sum = float(array.sum())

        def get(self):
            return self.sum, os.getpid()

    actor = Sum.remote(shoal.put(np.ones(50_000)), lives)
    total, pid = shoal.get(actor.get.remote())
    os.kill(pid, signal.SIGKILL)
    again = alive(actor, actor.get.remote)
    if again[1] == pid:  # answered before it died
        until(lambda: alive(actor, actor.get.remote)[1] != pid)
    assert total == again[0] == 50_000.0


def test_a_constructor_that_fails_at_the_restart():
    lives = counter()

    @shoal.remote(max_restarts=5)
    class Once:
        def __init__(self, counter):
            counts = shoal.get(counter[0])
            counts[0] += 1
            if counts[0] > 1:
                raise OSError("only once")

        def die(self):
            os._exit(1)

        def get(self):
            return 1

    once = Once.remote(lives)
    with pytest.raises(ActorDiedError):
        shoal.get(once.die.remote())
    with pytest.raises(ActorDiedError, match="only once"):
        shoal.get(once.get.remote())


def test_a_constructor_that_dies_is_repeated():
    lives = counter()

    @shoal.remote(max_restarts=3)
    class Third:
        def __init__(self, counter):
            counts = shoal.get(counter[0])
            counts[0] += 1
            if counts[0] < 3:
                os._exit(1)

        def get(self):
            return "third"

    assert shoal.get(Third.remote(lives).get.remote()) == "third"


def test_async_and_threaded_actors_come_back():
    lives = counter()

    @shoal.remote(max_restarts=1, max_task_retries=1)
    class Async:
        def __init__(self, counter):
            self.lives = shoal.get(counter[0])
            self.lives[0] += 1

        async def die_once(self):
            if self.lives[0] == 1:
                os._exit(1)
            return "async"

    @shoal.remote(max_restarts=1, max_task_retries=1, max_concurrency=4)
    class Threaded:
        def __init__(self, counter):
            self.lives = shoal.get(counter[0])
            self.lives[0] += 1
            self.all_here = threading.Barrier(4)

        def die_once(self):
            self.all_here.wait(timeout=30)
            if self.lives[0] == 1:
                os._exit(1)
            return "threaded"

    assert shoal.get(Async.remote(lives).die_once.remote()) == "async"
    other = counter()
    threaded = Threaded.remote(other)
    assert shoal.get([threaded.die_once.remote() for _ in range(4)]) == ["threaded"] * 4


def test_order_is_kept_over_a_death():
    lives = counter()

    @shoal.remote(max_restarts=1, max_task_retries=1)
    class Log:
        def __init__(self, counter):
            self.lives = shoal.get(counter[0])
            self.lives[0] += 1
            self.seen = []

        def add(self, i):
            if i == 10 and self.lives[0] == 1:
                os._exit(1)
            self.seen.append(i)
            return list(self.seen)

    log = Log.remote(lives)
    refs = [log.add.remote(i) for i in range(20)]
    assert shoal.get(refs[-1]) == list(range(10, 20))
    assert shoal.get(refs[9]) == list(range(10))


def test_a_stream_of_an_actor_that_dies_does_not_begin_anew():
    """What was read would come twice."""

    @shoal.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
    class Streams:
        def numbers(self):
            yield from range(3)
            os.kill(os.getpid(), signal.SIGKILL)

    items = Streams.remote().numbers.remote()
    taken = []
    with pytest.raises(shoal.exceptions.ActorDiedError):
        for item in items:
            taken.append(shoal.get(item, timeout=30))
            assert len(taken) < 10
    assert taken == [0, 1, 2]
