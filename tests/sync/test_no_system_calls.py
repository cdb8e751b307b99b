"""What is free is taken and given back without a system call: the kernel's own record of the calls of a thread."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import os
    import numpy as np
    import shoal

    shoal.init(num_cpus=1)
    ref = shoal.put(np.zeros(1), mutable=True)
    array, counter, event = shoal.get(ref), shoal.Counter(), shoal.sync.Event()
    lock, named, reentrant = shoal.lock(ref), shoal.lock("x"), shoal.lock(reentrant=True)
    semaphore, condition = shoal.sync.Semaphore(2), shoal.sync.Condition()
    cell = shoal.Versioned(np.zeros(10))
    event.set()

    def work(times):
        for _ in range(times):
            with lock:
                array[0] += 1
            with named, reentrant, reentrant:
                pass
            with lock.shared():
                array[0]
            lock.acquire(timeout=1)
            lock.release()
            with semaphore:
                counter.add()
            with condition:
                condition.notify_all()
            event.wait()
            cell.get()

    work(10)
    os.write(2, b"BEGIN")
    work(3000)
    os.write(2, b"END")
    shoal.shutdown()
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_uncontended_there_is_none(tmp_path):
    log = tmp_path / "calls"
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    command = ["strace", "-o", str(log), sys.executable, str(script)]  # not -f: of the program's first thread alone
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)
    if "ptrace" in run.stderr.lower() and "BEGIN" not in run.stderr:
        pytest.skip("strace may not trace here")
    assert run.returncode == 0, run.stderr
    calls = log.read_text().split('"BEGIN"', 1)[1].split('"END"', 1)[0].splitlines()[1:-1]
    # The interpreter may hand its lock to another thread (the one that prints workers' output) and get memory now and then.
    assert len(calls) < 50, calls[:60]
    assert not [call for call in calls if call.startswith("futex") and "_PRIVATE" not in call], calls  # Shoal's are shared
