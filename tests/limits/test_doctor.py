"""shoal doctor: what it says of this machine, and of ones that lack something."""

import json
import os
import resource
import subprocess
import sys

import pytest
from test_limits import NUMBERS, SECCOMP, needs_seccomp

from shoal.cli import doctor
from shoal.cli.doctor import diagnose


def run(*arguments, code="", limits=(), **kwargs):
    def lower():
        for kind, limit in limits:
            resource.setrlimit(kind, (limit, limit))

    program = code + "\nfrom shoal.cli import main\nraise SystemExit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", "import sys\n" + program, "doctor", *arguments],
        capture_output=True, text=True, timeout=90, preexec_fn=lower if limits else None, **kwargs,
    )  # fmt: skip


def of(subject, findings):
    return [(finding.status, finding.text) for finding in findings if finding.subject == subject]


def test_a_machine_on_which_all_is_well():
    done = run()
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert all(line.split()[0] in ("ok", "warning") for line in lines[:-2]) and lines[-1].startswith("Shoal works here.")
    test = next(line for line in lines if " self-test " in line)
    for what in ("init", "first task", "actor", "lock", "shutdown"):
        assert f"{what} " in test


def test_for_programs():
    done = run("--json", "--no-self-test")
    findings = json.loads(done.stdout)
    assert done.returncode == 0 and {finding["status"] for finding in findings} <= {"ok", "warning"}
    subjects = {finding["subject"] for finding in findings}
    assert {
        "python",
        "packages",
        "kernel",
        "memory",
        "/dev/shm",
        "cpus",
        "ulimit -n",
        "ulimit -u",
        "spilling",
        "leftovers",
    } <= subjects
    assert "self-test" not in subjects


def test_inside_a_program_that_has_a_session(fresh):
    fresh()
    assert not [finding for finding in diagnose() if finding.status == "problem"]


@needs_seccomp
def test_a_kernel_that_refuses():
    done = run("--no-self-test", code=SECCOMP + f"refuse(1, {NUMBERS.get('memfd_create')}, {NUMBERS.get('pidfd_open')})")
    line = next(line for line in done.stdout.splitlines() if " kernel " in line)
    assert done.returncode == 1 and line.startswith("problem")
    assert "refuses memfd_create() (EPERM), pidfd_open() (EPERM)" in line and "seccomp" in line


def test_a_session_that_does_not_work():
    done = run(limits=[(resource.RLIMIT_NOFILE, 10)])
    line = next(line for line in done.stdout.splitlines() if " self-test " in line)
    assert done.returncode == 1 and line.startswith("problem") and "`ulimit -n` is 10" in line, done.stdout
    assert any(line.startswith("problem") and " ulimit -n " in line for line in done.stdout.splitlines())


def test_limits_that_are_low():
    done = run("--no-self-test", limits=[(resource.RLIMIT_AS, 1 << 30), (resource.RLIMIT_FSIZE, 1 << 30)])
    said = {line.split()[0] + " " + line[9:].split("  ")[0].strip(): line for line in done.stdout.splitlines() if line}
    assert done.returncode == 1 and "`ulimit -v` allows 1024 MB" in said["problem memory"]
    assert "warning ulimit -v" in said and "warning ulimit -f" in said


def test_folders_that_cannot_be_used(tmp_path, monkeypatch):
    open_to_all = tmp_path / f"shoal-{os.geteuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    [(status, text)] = of("sessions", doctor._directories())
    assert status == "warning" and "is open to others" in text


def test_the_quota_and_memory_of_a_container(monkeypatch):
    from shoal.engine.local import limits

    monkeypatch.setattr(limits, "cpu_quota", lambda: 0.5)
    [(status, text)] = of("cpus", doctor._processors())
    assert status == "warning" and "init() starts 1 workers" in text and "0.5 CPUs" in text
    monkeypatch.setattr(limits, "memory_limit", lambda: 100 << 20)
    (status, text), *_ = of("memory", doctor._memory())
    assert status == "warning" and "objects get up to 60 MB of the container's 100 MB" in text


def test_memory_that_an_ended_session_left_with_a_child():
    code = """
import os, shoal
shoal.init(num_cpus=1)
shoal.get(shoal.put(1))
if (pid := os.fork()) == 0:
    os.read(0, 1)
    os._exit(0)
shoal.shutdown()
print(pid, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        [*_, (status, text)] = of("leftovers", doctor._leftovers())
        assert status == "warning" and f"{pid} (" in text


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def _broken():
        raise OSError("no /proc")

    monkeypatch.setattr(doctor, "CHECKS", (_broken,))
    assert diagnose(self_test=False) == [("problem", "broken", "could not be checked: OSError: no /proc")]


@pytest.mark.parametrize("name", ["numpy", "cloudpickle"])
def test_a_package_that_is_missing(name, monkeypatch):
    from importlib import metadata

    real = metadata.version

    def version(asked):
        if asked == name:
            raise metadata.PackageNotFoundError(asked)
        return real(asked)

    monkeypatch.setattr(metadata, "version", version)
    assert of("packages", doctor._packages())[0] == ("problem", f"{name} is not installed: pip install {name}")
