"""Actors with `async def` methods: one event loop, many calls at a time."""

import asyncio

import numpy as np
import pytest

import shoal
from conftest import until
from shoal import _core
from shoal.exceptions import ActorDiedError, TaskCancelledError

pytestmark = pytest.mark.usefixtures("audited")


@shoal.remote
def double(x):
    return x * 2


@shoal.remote
def broken():
    raise OSError("broken task")


@shoal.remote
class Loop:
    def __init__(self):
        self.events = {}
        self.now = self.most = 0

    def event(self, name):
        return self.events.setdefault(name, asyncio.Event())

    async def wait_for(self, name, result=None):
        self.now += 1
        self.most = max(self.most, self.now)
        await self.event(name).wait()
        self.now -= 1
        return result

    async def fire(self, name):
        self.event(name).set()

    async def seen(self):
        return self.now, self.most

    async def fail(self, text):
        await asyncio.sleep(0)
        raise KeyError(text)

    async def await_refs(self, refs):
        return [await ref for ref in refs]

    async def gather(self, n):
        return await asyncio.gather(*[double.remote(i) for i in range(n)])

    async def await_broken(self):
        try:
            await broken.remote()
        except OSError as error:
            return str(error).splitlines()[-1], isinstance(error, shoal.exceptions.TaskError)

    async def any_of(self, refs):
        done, _ = await asyncio.wait([asyncio.ensure_future(_value(r)) for r in refs], return_when="FIRST_COMPLETED")
        return [task.result() for task in done]

    async def count(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    async def count_badly(self):
        yield 1
        raise ValueError("no more")

    def plain(self, x):
        return x + 1

    def plain_items(self, n):
        yield from range(n)

    def reference(self):
        return shoal.put("referred to")

    async def async_reference(self):
        return shoal.put("referred to")

    @shoal.method(num_returns=2)
    async def two(self):
        await asyncio.sleep(0)
        return 1, 2

    async def on_a_loop(self):
        return asyncio.get_running_loop() is asyncio.get_event_loop()

    async def me(self):
        return shoal.get_runtime_context().current_actor

    async def leave(self):
        await asyncio.sleep(0)
        shoal.exit_actor()

    async def timeout(self):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(self.event("never").wait(), timeout=0.01)
        return "timed out"


async def _value(ref):
    return await ref


def test_many_calls_wait_at_the_same_time():
    loop = Loop.remote()
    refs = [loop.wait_for.remote("go", i) for i in range(300)]
    until(lambda: shoal.get(loop.seen.remote())[0] == 300)
    assert shoal.wait(refs, timeout=0)[0] == []
    shoal.get(loop.fire.remote("go"))
    assert shoal.get(refs) == list(range(300))


def test_the_number_of_calls_at_a_time_can_be_limited():
    loop = Loop.options(max_concurrency=3).remote()
    refs = [loop.wait_for.remote("go", i) for i in range(2)]
    shoal.get(loop.fire.remote("other"))
    shoal.get([loop.fire.remote("go"), *refs])
    refs = [loop.wait_for.remote("go", i) for i in range(50)]
    assert shoal.get(refs) == list(range(50))
    assert shoal.get(loop.seen.remote()) == (0, 2)  # they did not wait: the first two did


def test_what_does_not_fit_waits_in_the_mailbox():
    gate = shoal.lock()

    @shoal.remote
    def opened(gate):
        with gate:
            return "open"

    @shoal.remote(max_concurrency=2)
    class Two:
        def __init__(self, box):
            self.now = 0
            self.most = shoal.get(box[0])

        async def work(self, refs):
            self.now += 1
            self.most[0] = max(self.most[0], self.now)
            value = await refs[0]
            self.now -= 1
            return value

    most = shoal.put(np.zeros(1, np.int64), mutable=True)
    two = Two.remote([most])
    gate.acquire()
    ref = opened.remote(gate)
    refs = [two.work.remote([ref]) for _ in range(10)]
    until(lambda: shoal.get(most)[0] == 2)
    until(lambda: _core.actor_info(two._ref._handle)["waiting"] == 8)
    gate.release()
    assert shoal.get(refs) == ["open"] * 10
    assert shoal.get(most)[0] == 2


def test_references_can_be_awaited_inside():
    loop = Loop.remote()
    refs = [double.remote(i) for i in range(20)]
    assert shoal.get(loop.await_refs.remote(refs)) == [i * 2 for i in range(20)]
    assert shoal.get(loop.gather.remote(30)) == [i * 2 for i in range(30)]
    assert shoal.get(loop.await_refs.remote([shoal.put(1), shoal.put(2)])) == [1, 2]


def test_the_first_of_several_references():
    loop, gate = Loop.remote(), shoal.lock()
    gate.acquire()

    @shoal.remote
    def blocked(gate):
        with gate:
            return "late"

    late = blocked.remote(gate)
    assert shoal.get(loop.any_of.remote([late, double.remote(4)])) == [8]
    gate.release()
    assert shoal.get(late) == "late"


def test_exceptions():
    loop = Loop.remote()
    with pytest.raises(KeyError, match="lost") as caught:
        shoal.get(loop.fail.remote("lost"))
    assert "Loop.fail" in str(caught.value)
    text, remote = shoal.get(loop.await_broken.remote())
    assert "broken task" in text and remote
    assert shoal.get(loop.timeout.remote()) == "timed out"
    with pytest.raises(TypeError):
        shoal.get(loop.fail.remote())
    assert shoal.get(loop.plain.remote(1)) == 2


def test_plain_methods_of_such_a_class():
    loop = Loop.remote()
    assert shoal.get([loop.plain.remote(i) for i in range(5)]) == [1, 2, 3, 4, 5]
    assert [shoal.get(ref) for ref in loop.plain_items.remote(3)] == [0, 1, 2]


def test_a_returned_reference_is_not_awaited():
    loop = Loop.remote()
    for method in (loop.async_reference, loop.reference):
        ref = shoal.get(method.remote())
        assert isinstance(ref, shoal.ObjectRef)
        assert shoal.get(ref) == "referred to"


def test_async_generators_stream():
    loop = Loop.remote()
    assert [shoal.get(ref) for ref in loop.count.remote(5)] == [0, 1, 2, 3, 4]
    one, end = loop.count_badly.remote()
    assert shoal.get(one) == 1
    with pytest.raises(ValueError, match="no more"):
        shoal.get(end)


def test_several_async_generators_at_a_time():
    loop = Loop.remote()
    streams = [loop.count.remote(10) for _ in range(5)]
    for _ in range(10):
        assert len({shoal.get(next(stream)) for stream in streams}) == 1


def test_num_returns():
    loop = Loop.remote()
    assert shoal.get(loop.two.remote()) == [1, 2]
    assert shoal.get(loop.count.options(num_returns=3).remote(3)) == [0, 1, 2]


def test_calls_start_in_the_order_of_their_caller():
    @shoal.remote
    class Starts:
        def __init__(self):
            self.order = []

        async def start(self, i):
            self.order.append(i)
            await asyncio.sleep(0)

        async def read(self):
            return self.order

    starts = Starts.remote()
    shoal.get([starts.start.remote(i) for i in range(200)])
    assert shoal.get(starts.read.remote()) == list(range(200))


def test_two_actors_call_each_other():
    @shoal.remote
    class Player:
        async def play(self, other, n):
            if n == 0:
                return [0]
            me = shoal.get_runtime_context().current_actor
            return [n, *await other.play.remote(me, n - 1)]

    one, other = Player.remote(), Player.remote()
    assert shoal.get(one.play.remote(other, 30)) == list(range(30, -1, -1))
    assert shoal.get([one.play.remote(one, 5), other.play.remote(one, 5)]) == [[5, 4, 3, 2, 1, 0]] * 2


def test_calls_of_several_processes():
    loop = Loop.remote()

    @shoal.remote
    def call(loop, n):
        return sum(shoal.get([loop.plain.remote(i) for i in range(n)]))

    assert shoal.get([call.remote(loop, 50) for _ in range(4)]) == [1275] * 4


def test_queued_calls_are_done_before_it_ends():
    loop = Loop.remote()
    waiting = [loop.wait_for.remote("go", i) for i in range(5)]
    fired = loop.fire.remote("go")
    del loop
    assert shoal.get(waiting) == list(range(5))
    shoal.get(fired)
    assert shoal.get(Loop.remote().gather.remote(3)) == [0, 2, 4]
    me = shoal.get(Loop.remote().me.remote())
    assert shoal.get(me.plain.remote(1)) == 2


def test_exit_actor():
    loop = Loop.remote()
    waiting = loop.wait_for.remote("never")
    with pytest.raises(ActorDiedError, match="ended itself"):
        shoal.get(loop.leave.remote())
    with pytest.raises(ActorDiedError):
        shoal.get(waiting)
    with pytest.raises(ActorDiedError):
        shoal.get(loop.plain.remote(1))


def test_the_constructor_runs_on_the_loop():
    @shoal.remote
    class Background:
        def __init__(self):
            self.ticks = 0
            self.event = asyncio.Event()
            self.task = asyncio.get_running_loop().create_task(self.tick())

        async def tick(self):
            while True:
                await asyncio.sleep(0.001)
                self.ticks += 1
                if self.ticks == 3:
                    self.event.set()

        async def wait(self):
            await self.event.wait()
            return self.ticks

    assert shoal.get(Background.remote().wait.remote()) >= 3


def test_groups_limit_their_methods_only():
    @shoal.remote(max_concurrency=2, concurrency_groups={"io": 3, "look": 1})
    class Grouped:
        def __init__(self):
            self.now = {"io": 0, "": 0}
            self.most = {"io": 0, "": 0}

        async def _work(self, group, refs):
            self.now[group] += 1
            self.most[group] = max(self.most[group], self.now[group])
            await refs[0]
            self.now[group] -= 1

        @shoal.method(concurrency_group="io")
        async def io(self, refs):
            await self._work("io", refs)

        async def plain(self, refs):
            await self._work("", refs)

        @shoal.method(concurrency_group="look")
        async def seen(self):
            return self.most

    gate = shoal.lock()

    @shoal.remote
    def opened(gate):
        with gate:
            return "open"

    grouped = Grouped.remote()
    gate.acquire()
    ref = opened.remote(gate)
    plain = [grouped.plain.remote([ref]) for _ in range(8)]
    io = [grouped.io.remote([ref]) for _ in range(8)]
    until(lambda: shoal.get(grouped.seen.remote()) == {"io": 3, "": 2})
    gate.release()
    shoal.get(plain + io)
    assert shoal.get(grouped.seen.remote()) == {"io": 3, "": 2}


# --- cancellation -------------------------------------------------------------------------------------------


@shoal.remote(concurrency_groups={"one": 1})
class Stoppable:
    def __init__(self):
        self.log = []
        self.now = self.most = 0

    async def forever(self, name):
        self.log.append(f"{name} began")
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.log.append(f"{name} cancelled")
            raise

    async def stream(self):
        yield 1
        await asyncio.sleep(1000)

    async def goes_on(self):
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            return "went on"

    async def seen(self):
        return self.log

    @shoal.method(concurrency_group="one")
    async def alone(self, seconds):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(seconds)
        self.now -= 1
        return self.most


def test_a_running_call_is_cancelled():
    actor = Stoppable.remote()
    calls = {name: actor.forever.remote(name) for name in "abc"}
    until(lambda: shoal.get(actor.seen.remote()) == ["a began", "b began", "c began"])
    shoal.cancel(calls["b"])
    with pytest.raises(TaskCancelledError):
        shoal.get(calls["b"], timeout=20)
    assert shoal.get(actor.seen.remote())[3:] == ["b cancelled"]
    assert shoal.wait([calls["a"], calls["c"]], timeout=0.05)[0] == []
    for name in "ac":  # else the actor would see them through, without a handle
        shoal.cancel(calls[name])


def test_calls_are_cancelled_at_any_moment():
    actor = Stoppable.remote()
    for _ in range(30):
        calls = [actor.forever.remote("x") for _ in range(20)]
        for call in calls:
            shoal.cancel(call)
        for call in calls:
            with pytest.raises(TaskCancelledError):
                shoal.get(call, timeout=20)
    assert isinstance(shoal.get(actor.seen.remote()), list)


def test_an_async_generator_is_cancelled():
    actor = Stoppable.remote()
    items = actor.stream.remote()
    assert shoal.get(next(items)) == 1
    shoal.cancel(items)
    with pytest.raises(TaskCancelledError):
        shoal.get(next(items), timeout=20)


def test_a_call_may_go_on_after_its_cancellation():
    actor = Stoppable.remote()
    call = actor.goes_on.remote()
    until(lambda: shoal.get(actor.seen.remote()) == [])
    shoal.cancel(call)
    try:
        assert shoal.get(call, timeout=20) == "went on"
    except TaskCancelledError:  # it had not begun
        pass


def test_a_call_that_never_got_its_place_in_a_group_gives_none_back():
    actor = Stoppable.remote()
    first = actor.alone.remote(1000)
    waiting = [actor.alone.remote(1000) for _ in range(3)]
    with pytest.raises(OSError):  # nor does one whose argument failed
        shoal.get(actor.alone.remote(broken.remote()), timeout=20)
    shoal.get(actor.seen.remote())
    for call in [*waiting, first]:
        shoal.cancel(call)
    for call in [*waiting, first]:
        with pytest.raises(TaskCancelledError):
            shoal.get(call, timeout=20)
    assert set(shoal.get([actor.alone.remote(0.01) for _ in range(5)], timeout=20)) <= {1, 2}  # `now` of the first stays 1
