"""Objects with an owner: committed, handed on, asked for, waited for, stolen, frozen; and owners that die."""

from __future__ import annotations

import os
import random
import signal
import threading
from typing import Any

import numpy as np
from tests.crashpoints.common import until, waits

import shoal
from shoal.exceptions import ActorDiedError, ClaimTimeoutError, NotMutableError, NotOwnerError, StaleOwnerError

SIZE = 20_000  # float64: three pieces are copied back


@shoal.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Heir:
    """Each call may be done again from its beginning, in another life."""

    def __init__(self, _before: Any = None, refs: Any = ()) -> None:
        for ref in refs:
            shoal.owner(ref)
            self.writes([ref], 6)  # it may be ours already

    def ready(self) -> int:
        return os.getpid()

    def take(self, refs: list[Any], how: str, value: float) -> None:
        shoal.claim(refs[0], how, timeout=60)
        self.writes(refs, value)
        try:
            shoal.transfer(refs[0], None)
        except (NotOwnerError, StaleOwnerError):
            pass

    def writes(self, refs: list[Any], value: float) -> bool:
        try:
            with shoal.owned(refs[0]) as array:
                array[:] = value
            return True
        except (NotOwnerError, StaleOwnerError):
            return False

    def keeps(self, refs: list[Any]) -> None:
        """Owns it, and has not committed what it wrote."""
        shoal.claim(refs[0], timeout=60)
        shoal.get(refs[0])[: SIZE // 2] = 99

    def dies(self, refs: list[Any], lives: list[Any]) -> float:
        seen = shoal.get(lives[0])
        if not seen[0]:
            seen[0] = 1
            self.keeps(refs)
            os.kill(os.getpid(), signal.SIGKILL)
        shoal.claim(refs[0], timeout=60)
        return float(shoal.get(refs[0]).max())


@shoal.remote(max_retries=-1)
def takes(refs: list[Any], value: float) -> None:
    """The end of the task ends its ownership."""
    shoal.claim(refs[0], timeout=60)
    with shoal.owned(refs[0]) as array:
        array[:] = value
    shoal.get(refs[0])[: SIZE // 2] = 99


@shoal.remote(max_retries=-1)
def makes() -> Any:
    return shoal.put(np.full(SIZE, 3.0), mutable=True, owner="me")


def whole(ref: Any, *allowed: float) -> None:
    found = set(shoal.get(ref).tolist())
    assert len(found) == 1 and found <= set(allowed), f"{found}, not one of {allowed}"


def owners(rng: random.Random, scale: int) -> int:
    """One after the other has it."""
    ref = shoal.put(np.ones(SIZE), mutable=True, owner="me")
    with shoal.owned(ref) as array:
        array += 1
    try:
        with shoal.owned(ref) as array:
            array[:] = 9
            raise KeyError
    except KeyError:
        pass
    whole(ref, 2)
    heir = Heir.remote()
    queue = [heir.take.remote([ref], "request", 3), takes.remote([ref], 4)]
    assert until(lambda: shoal.owner(ref).waiting == 2, 30) and until(lambda: shoal.claim_requested(ref), 30)
    shoal.transfer(ref, None)
    shoal.get(queue, timeout=60)
    notice = shoal.claim(ref, timeout=60)
    assert notice is None or notice.name
    whole(ref, 3, 4)
    shoal.transfer(ref, heir)
    assert shoal.get(heir.writes.remote([ref], 5), timeout=60)
    whole(ref, 5)
    shoal.get(heir.keeps.remote([ref]), timeout=60)
    for how in ("wait", "request"):  # in vain: it keeps it
        try:
            shoal.claim(ref, how, timeout=0.003)
            raise AssertionError("it was given away")
        except ClaimTimeoutError:
            pass
    shoal.claim(ref, "steal")
    whole(ref, 5)
    assert not shoal.get(heir.writes.remote([ref], 7), timeout=60)
    whole(ref, 5)
    lives = shoal.zeros(1, "i8")
    shoal.transfer(ref, None)
    assert shoal.get(heir.dies.remote([ref], [lives]), timeout=60) == 5
    given = shoal.put(np.full(SIZE, 2.0), mutable=True, owner=heir)
    assert shoal.get(heir.writes.remote([given], 3), timeout=60)
    whole(given, 3)
    return 8


def owners_die(rng: random.Random, scale: int) -> int:
    """In their sleep, before they came for it, and before the eyes of who waits for it."""
    made = shoal.get(makes.remote(), timeout=60)
    notice = shoal.claim(made, timeout=60)
    assert notice and (notice.task_ended or notice.pid)
    whole(made, 3)
    first = waits.remote(0.05, 1)
    unborn = Heir.remote(first)
    shoal.transfer(made, unborn)
    shoal.kill(unborn)
    notice = shoal.claim(made, timeout=60)
    assert notice is not None
    whole(made, 3)
    mortal = Heir.options(max_restarts=0, max_task_retries=0).remote()
    try:
        shoal.transfer(made, None)
        shoal.get(mortal.keeps.remote([made]), timeout=60)
        waiting = takes.remote([made], 4)
        until(lambda: (who := shoal.owner(made)) is None or who.waiting == 1, 30)
        shoal.kill(mortal)
        shoal.get(waiting, timeout=60)
    except ActorDiedError:
        pass
    # A process of a restarted actor that looks before the supervisor has come by: it has many other objects to look at.
    many = [shoal.put(i) for i in range(20_000)]
    late = shoal.put(np.full(SIZE, 6.0), mutable=True, owner="me")
    del many[:10_000]
    heir = Heir.remote(None, [late])
    shoal.get(heir.ready.remote(), timeout=60)
    shoal.transfer(late, heir)
    shoal.get(heir.keeps.remote([late]), timeout=60)
    shoal.kill(heir, no_restart=False)
    shoal.get(heir.ready.remote(), timeout=60)
    shoal.claim(late, "steal")
    whole(late, 6)
    # Frozen while another waits for it
    waiting = []

    def wait() -> None:
        try:
            shoal.claim(late, timeout=60)
        except NotMutableError:
            waiting.append(1)

    claims = claims_frozen.remote([late])
    until(lambda: shoal.owner(late).waiting == 1, 30)
    shoal.freeze(late)
    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(60)
    assert waiting and shoal.get(claims, timeout=60)
    whole(late, 6)
    return 6


@shoal.remote(max_retries=-1)
def claims_frozen(refs: list[Any]) -> bool:
    try:
        shoal.claim(refs[0], timeout=60)
        return False
    except NotMutableError:
        return True


WORKLOADS = [owners, owners_die]
