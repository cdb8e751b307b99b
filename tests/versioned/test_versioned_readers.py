"""Readers of a Versioned beside a fast writer: no torn read, no wait, no memory that stays."""

import time

import numpy as np
import pytest

import shoal
from conftest import at_rest, quiet, until
from shoal import Versioned, _core

pytestmark = pytest.mark.usefixtures("session")


@shoal.remote
class Writer:
    """Publishes as fast as it can, until told to stop by the event's version."""

    def __init__(self, v, stop):
        self.v, self.stop = v, stop

    def publish(self, size):
        n = self.v.version
        array = np.empty(size, np.int64)
        while not self.stop.version:
            n += 1
            if n % 4:
                array[:] = n
                self.v.set(array)
            else:
                with self.v.update() as draft:
                    draft[:] = n
        return n


def test_200_000_reads_beside_a_fast_writer_are_whole():
    v, stop = Versioned(np.zeros(256, np.int64)), Versioned()
    call = Writer.remote(v, stop).publish.remote(256)
    until(lambda: v.version > 10)
    versions = set()
    last = n = 0
    held = v.get_with_version()
    end = time.monotonic() + 60
    while n < 200_000 or len(versions) <= 20:
        array, version = v.get_with_version()
        assert version >= last
        last = version
        # The sum tells of any mixture; the ends alone would only tell of a coarse one.
        assert int(array[0]) * 256 == int(array.sum()) and int(array[0]) == version
        if n % 1000 == 0:
            versions.add(version)
            assert (held[0] == held[1]).all()  # what was held all the while is as it was
            held = (array, version)
            assert time.monotonic() < end, "the writer does not get on beside the reader"
        n += 1
    stop.set(1)
    assert shoal.get(call) >= last


def test_large_states_are_whole_too():
    v, stop = Versioned(np.zeros(1 << 20, np.int64)), Versioned()
    call = Writer.remote(v, stop).publish.remote(1 << 20)
    start = v.version
    reads = 0
    while v.version < start + 40 or reads <= 5:
        array, version = v.get_with_version()
        assert array.min() == array.max() == version
        reads += 1
    stop.set(1)
    shoal.get(call)


def test_readers_in_many_processes():
    @shoal.remote
    def read(v, n):
        wrong = 0
        for _ in range(n):
            array, version = v.get_with_version()
            wrong += int(array.sum()) != version * array.size
        return wrong

    v = Versioned(np.zeros(300, np.int64))
    calls = [read.remote(v, 10_000) for _ in range(3)]
    n = 0
    while len(shoal.wait(calls, num_returns=3, timeout=0)[0]) < 3 or n <= 10:
        n += 1
        v.set(np.full(300, n))
    assert shoal.get(calls) == [0, 0, 0]


def test_a_version_is_freed_when_its_last_reader_lets_go():
    @shoal.remote
    class Reader:
        def hold(self, v):
            self.value = v.get()
            self.v = v

        def total(self):
            return int(self.value.sum())

        def drop(self):
            self.value = None

    size = 4 << 20
    until(at_rest)  # the writers of the tests before keep their versions until they are gone
    start = _core.statistics()["used_bytes"]

    def versions():
        return round((_core.statistics()["used_bytes"] - start) / size)  # small blocks aside

    v = Versioned(np.ones(size, np.int8))
    reader = Reader.remote()
    shoal.get(reader.hold.remote(v))
    mine = v.get()
    assert versions() == 1
    v.set(np.zeros(size, np.int8))
    assert versions() == 2
    del mine
    assert versions() == 2
    assert shoal.get(reader.total.remote()) == size
    shoal.get(reader.drop.remote())
    assert versions() == 1
    for n in range(20):
        v.set(np.full(size, n, np.int8))
    assert versions() == 1
    shoal.kill(reader)
    del v, reader
    until(lambda: versions() == 0)


def test_the_same_address_in_every_process():
    @shoal.remote
    def place(v):
        return position(v.get())

    v = Versioned(np.arange(100_000))
    assert shoal.get(place.remote(v)) == position(v.get())


def position(array):
    """Where the array lies in the arena's file."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as file:
        for line in file:
            span, _, offset, *_ = line.split()
            first, last = (int(x, 16) for x in span.split("-"))
            if first <= address < last:
                return address - first + int(offset, 16)
    raise AssertionError("it is nowhere")


def test_nothing_is_left():
    until(quiet)
    until(lambda: _core.check() == "")


def test_the_program_that_reads_a_million_times():
    """`python -m benchmarks.torn_reads`, with fewer and smaller versions."""
    torn_reads = pytest.importorskip("benchmarks.torn_reads")
    for _ in range(10):
        reads, torn, versions = torn_reads.run(20_000, 1 << 14)
        assert reads == 20_000 and torn == 0
        if versions > 1:
            break
    assert versions > 1  # in one of the plays the writer had its core while the others read
