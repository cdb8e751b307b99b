"""The kernel refuses to commit memory to the arena, as with vm.overcommit_memory=2 or a full machine: an error, never a SIGBUS."""

from __future__ import annotations

import pytest
from test_limits import NUMBERS, SECCOMP, needs_seccomp

from conftest import run_python

# The two calls by which pages are committed; from when it is called, and in this process alone.
REFUSE = f"""
def refuse_memory():
    install([(0x20, 0, 0, 0),  # the number of the call
             (0x15, 3, 0, {NUMBERS.get("fallocate")}), (0x15, 0, 3, {NUMBERS.get("madvise")}),
             (0x20, 0, 0, 32), (0x15, 0, 1, 23),  # its third argument: MADV_POPULATE_WRITE
             (0x06, 0, 0, 0x00050000 | 12), (0x06, 0, 0, 0x7fff0000)])
"""


@needs_seccomp
def test_memory_that_the_kernel_does_not_give():
    done = run_python(
        SECCOMP
        + REFUSE
        + """
import time
import numpy as np, shoal
from shoal import _core
from shoal.exceptions import ObjectStoreFullError

shoal.init(num_cpus=1, object_store_memory=256 << 20)
double = shoal.remote(lambda x: x * 2)
before = [shoal.put(np.full(1 << 20, i, np.uint8)) for i in range(8)]
assert shoal.get(double.remote(4)) == 8
refuse_memory()
def until_refused(act):
    for _ in range(20_000):
        try:
            act()
        except ObjectStoreFullError as error:
            assert "the system has no memory left for the arena: Cannot allocate memory" in str(error), error
            return
    raise AssertionError("it was never refused")
kept = []
until_refused(lambda: kept.append(shoal.put(np.zeros(3 << 20, np.uint8))))
until_refused(lambda: kept.append(shoal.zeros(1 << 20)))
until_refused(lambda: kept.append(shoal.put(b"x" * 30_000)))
until_refused(lambda: kept.append(double.remote(b"x" * 60_000)))
until_refused(lambda: kept.append(shoal.put(None)))  # the table of objects grows
kept.clear()
assert shoal.get(double.remote(3)) == 6
for i, ref in enumerate(before):
    try:
        assert shoal.get(ref)[-1] == i
    except ObjectStoreFullError:  # it was spilled meanwhile
        pass
end = time.monotonic() + 30
while (report := _core.check()) and time.monotonic() < end:  # the supervisor may be clearing something away
    time.sleep(0.001)
assert report == "", report
print("whole")
""",
        timeout=120,
    )
    assert (done.stdout, done.returncode) == ("whole\n", 0), (done.returncode, done.stderr[-3000:])


@pytest.mark.parametrize("value", ["0", "1", "2"])
def test_the_doctor_knows_of_overcommit(value, monkeypatch):
    """Two is what refuses memory that nobody uses; it cannot be set here, as it is the whole machine's."""
    from shoal.cli import doctor

    real = doctor._read
    monkeypatch.setattr(doctor, "_read", lambda path: value if path == "/proc/sys/vm/overcommit_memory" else real(path))
    found = " ".join(str(line) for line in doctor.diagnose(self_test=False))
    assert ("vm.overcommit_memory is 2" in found) == (value == "2")
