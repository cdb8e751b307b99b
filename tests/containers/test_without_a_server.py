"""Containers, locks and versions work between processes while the supervisor is stopped: nobody serves them."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

import shoal
from conftest import stop
from shoal import _core


@pytest.fixture
def stopped_supervisor(fresh):
    """Call it to stop the supervisor; it goes on at the end."""
    fresh(num_cpus=2)
    stopped = []

    def stop_it() -> None:
        pid = next(p["pid"] for p in _core.processes() if p["label"] == "supervisor")
        stopped.append(pid)
        stop(pid)

    yield stop_it
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


@shoal.remote(num_cpus=0)
class Partner:
    def ready(self):
        return True

    def answer(self, ref, questions, answers, d, values, counter, cell, ring, met):
        array, lock = shoal.get(ref[0]), shoal.lock(ref[0])
        while (item := questions.get()) is not None:
            d[item] = values.pop(0)
            with lock:
                array[0] += item
            ring.append(x=item)
            counter.add()
            cell.set(item)
            answers.put(item * 2)
        met.wait()
        return True


def test_everything_goes_on(stopped_supervisor):
    ref = shoal.put(np.zeros(1), mutable=True)
    array, lock = shoal.get(ref), shoal.lock(ref)
    questions, answers, d, values = shoal.Queue(), shoal.Queue(maxsize=2), shoal.Dict(), shoal.List(range(500))
    counter, cell, ring, met = shoal.Counter(), shoal.Versioned(-1), shoal.Ring(64, {"x": ((), "i8")}), shoal.sync.Barrier(2)
    partner = Partner.remote()
    assert shoal.get(partner.ready.remote())
    stopped_supervisor()

    done = partner.answer.remote([ref], questions, answers, d, values, counter, cell, ring, met)
    version = cell.version
    for i in range(1, 201):
        questions.put(i)
        with lock:
            array[0] += 1
        version = cell.wait(newer_than=version, timeout=20)
        assert answers.get(timeout=20) == 2 * i and cell.get() == i
    questions.put_batch([201, 202, None])
    assert [answers.get(timeout=20), answers.get(timeout=20)] == [402, 404]
    met.wait(timeout=20)
    assert shoal.get(done, timeout=20)
    assert len(d) == 202 == counter.value and len(values) == 298 and array[0] == 202 * 203 / 2 + 200
    assert ring.sample(10)["x"].min() >= 139
