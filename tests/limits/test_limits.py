"""Where the system gives little: a session works, or the error says which limit it was and what to do."""

import os
import resource
import shutil
import struct
import subprocess
import sys
import textwrap

import pytest

from conftest import run_python

# A small session: put, task, actor, lock, future.
WORK = """
import os, sys
import numpy as np
import shoal

@shoal.remote
def double(x):
    return 2 * x

@shoal.remote(num_cpus=0)
class Counter:
    def add(self):
        return 1

def work(**settings):
    shoal.init(**{"num_cpus": 1, **settings})
    assert shoal.get(double.remote(2), timeout=20) == 4
    assert shoal.get(shoal.put(np.arange(100_000.0)))[-1] == 99_999
    actor = Counter.remote()
    assert shoal.get(actor.add.remote(), timeout=20) == 1
    with shoal.lock("x"):
        pass
    assert double.remote(4).future().result(timeout=20) == 8
    shoal.shutdown()
    assert os.popen is None or not os.popen("true").close()
    print("worked")

def refused(**settings):
    try:
        shoal.init(**{"num_cpus": 1, **settings})
    except Exception as error:
        print(type(error).__name__, error)
    else:
        print("was not refused")
    assert not shoal.is_initialized()
    assert not any("memfd:shoal" in line for line in open("/proc/self/maps")), "the arena is still mapped"
"""


def program(code: str, *flags: str, limits: tuple[tuple[int, int], ...] = (), before: str = "", **kwargs: object) -> str:
    """Run `code` after WORK; its output. It must succeed and say nothing else."""

    def lower() -> None:
        for kind, limit in limits:
            resource.setrlimit(kind, (limit, limit))

    done = subprocess.run(
        [sys.executable, *flags, "-c", before + WORK + textwrap.dedent(code)],
        capture_output=True, text=True, timeout=60, preexec_fn=lower if limits else None, **kwargs,
    )  # type: ignore[call-overload]  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return str(done.stdout)


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [24, 32])
def test_few_open_files_are_enough(files):
    assert program("work()", limits=((resource.RLIMIT_NOFILE, files),)) == "worked\n"


def test_too_few_open_files():
    out = program("refused()", limits=((resource.RLIMIT_NOFILE, 8),))
    assert out.startswith("SessionError cannot ") and "`ulimit -n` is 8: raise it" in out


def test_files_that_run_out_while_the_session_lives():
    out = program(
        """
        shoal.init(num_cpus=1)
        shoal.get(double.remote(1))
        taken = []
        try:
            while True: taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        assert shoal.get([double.remote(i) for i in range(20)]) == [2 * i for i in range(20)]
        with shoal.lock("x"): pass
        ref = double.remote(1)
        for fd in taken: os.close(fd)
        assert ref.future().result(timeout=20) == 2
        shoal.shutdown()
        print("worked")
        """,
        limits=((resource.RLIMIT_NOFILE, 64),),
    )
    assert out == "worked\n"


def test_a_worker_more_than_files_allow():
    """The supervisor says so, and the tasks run on the workers there are."""
    done = run_python(
        WORK + "\nshoal.init(num_cpus=8)\nassert shoal.get([double.remote(i) for i in range(50)], timeout=30)[-1] == 98\n"
        "shoal.shutdown()\nprint('worked')",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)),
    )
    assert done.returncode == 0 and done.stdout == "worked\n", done.stdout + done.stderr
    assert done.stderr.count("shoal: cannot start another worker process: Too many open files; `ulimit -n` is 32") == 1
    assert "tasks wait for those there are" in done.stderr


def test_the_drivers_own_files_keep_their_numbers():
    code = """
        import fcntl
        files = {}
        for fd in (3, 4, 5, 6, 7, 8, 9, 59, 60, 61, 62, 63, 64, 65):
            r, w = os.pipe()
            os.dup2(w, fd, inheritable=fd % 2 == 0)
            files[fd] = os.fstat(fd).st_ino
            for other in (r, w):
                if other not in files: os.close(other)
        work()
        assert {fd: os.fstat(fd).st_ino for fd in files} == files
        """
    assert program(code) == "worked\n"


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_standard_files_that_are_closed(closed, tmp_path):
    result = tmp_path / "result"
    code = textwrap.dedent(f"""
        import os
        for fd in {closed}: os.close(fd)
        """)
    text = WORK.replace('print("worked")', f"open({str(result)!r}, 'w').write('worked')")
    done = subprocess.run([sys.executable, "-c", code + text + "\nwork()"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert result.read_text() == "worked"


# -- addresses, file sizes, processes ---------------------------------------------------------------------------------


def test_few_addresses():
    gigabyte = 1 << 30
    assert program("work()", limits=((resource.RLIMIT_AS, 8 * gigabyte),)) == "worked\n"  # the arena is as large as fits
    out = program("refused()", limits=((resource.RLIMIT_AS, 2 * gigabyte),))
    assert out.startswith("SessionError `ulimit -v` allows 2048 MB") and "`ulimit -v unlimited`" in out
    out = program("refused(object_store_memory=8 << 30)", limits=((resource.RLIMIT_AS, 8 * gigabyte),))
    assert out.startswith("SessionError `ulimit -v` allows 8192 MB") and "lower object_store_memory" in out


def test_a_limit_of_the_size_of_files():
    out = program("refused()", limits=((resource.RLIMIT_FSIZE, 1 << 30),))
    assert "`ulimit -f` is too low" in out


def test_a_limit_of_data():
    out = program("refused()", limits=((resource.RLIMIT_DATA, 100 << 20),))
    assert "`ulimit -d`" in out


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root may become another user, with setpriv")
def test_few_processes(tmp_path):
    """As a user of whom there is nobody else, who may read root's files, as Python lies there."""
    # A supervisor that gives up sooner; `-c` is how it is run.
    patience = "import sys\nif '-c' in sys.orig_argv and 'supervisor' in str(sys.orig_argv):\n"
    patience += "    import shoal.engine.local.supervisor as it\n    it.NO_WORKER_S = 1\n"
    (tmp_path / "sitecustomize.py").write_text(patience)
    uid = 61_000 + os.getpid() % 4000
    command = ["setpriv", f"--reuid={uid}", "--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]

    def run(code: str, processes: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "prlimit", f"--nproc={processes}", sys.executable, "-c", WORK + code],
            capture_output=True, text=True, timeout=60, cwd="/",
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip

    probe = run("", 10)
    if probe.returncode:
        pytest.skip(f"no other user can run this Python: {probe.stderr[-300:]}")
    done = run("work()", 64)
    assert (done.returncode, done.stdout, done.stderr) == (0, "worked\n", "")
    done = run("refused()", 2)  # itself and one thread
    assert "SessionError cannot " in done.stdout and "`ulimit -u` is 2" in done.stdout, done.stdout + done.stderr
    done = run(
        """
shoal.init(num_cpus=1)
try:
    shoal.get(double.remote(1), timeout=40)
except shoal.exceptions.SessionEndedError as error:
    print("SessionEndedError", error)
""",
        4,  # itself, two threads, the supervisor
    )
    assert "SessionEndedError" in done.stdout and "no worker for 1 s" in done.stdout, done.stdout + done.stderr
    assert "shoal: cannot start another worker process" in done.stderr and "`ulimit -u` is 4" in done.stderr, done.stderr


# -- the kernel says no ------------------------------------------------------------------------------------------------

# A filter that refuses system calls, by number.
SECCOMP = """
import ctypes, struct
def install(program):
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    filter = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.create_string_buffer(filter), 0, 0) == 0, ctypes.get_errno()
def refuse(error, *numbers):
    program = [(0x20, 0, 0, 0)]  # load the number
    for i, number in enumerate(numbers):
        program.append((0x15, len(numbers) - i, 0, number))  # equal: to the last line
    install(program + [(0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x00050000 | error)])
"""
NUMBERS = {
    "x86_64": {"memfd_create": 319, "pidfd_open": 434, "eventfd": 290, "madvise": 28, "fallocate": 285},
    "aarch64": {"memfd_create": 279, "pidfd_open": 434, "eventfd": 19, "madvise": 233, "fallocate": 47},
}.get(os.uname().machine, {})


def seccomp_works() -> bool:
    code = SECCOMP + "refuse(38, 9999)"
    return bool(NUMBERS) and struct.calcsize("P") == 8 and subprocess.run([sys.executable, "-c", code]).returncode == 0


needs_seccomp = pytest.mark.skipif(not seccomp_works(), reason="no filter can be installed here")


@needs_seccomp
@pytest.mark.parametrize("call", ["memfd_create", "pidfd_open", "eventfd"])
def test_a_system_call_that_is_missing(call):
    error = 1 if call == "pidfd_open" else 38  # EPERM is what old filters say
    out = program("refused()", before=SECCOMP + f"refuse({error}, {NUMBERS.get(call)})\n")
    assert out.startswith("SessionError cannot ") and f"{call}() is refused by the kernel" in out and "seccomp" in out, out


@needs_seccomp
def test_an_older_kernel():
    """One without MADV_POPULATE_WRITE."""
    refuse_it = f"""
install([(0x20, 0, 0, 0), (0x15, 0, 3, {NUMBERS.get("madvise")}), (0x20, 0, 0, 32), (0x15, 0, 1, 23),
         (0x06, 0, 0, 0x00050000 | 22), (0x06, 0, 0, 0x7fff0000)])
"""
    assert program("work()", before=SECCOMP + refuse_it) == "worked\n"


# -- folders, environment, the interpreter's options ------------------------------------------------------------------


def test_folders_that_are_not_there(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    environment = {"PATH": "/nowhere", "HOME": "/nowhere", "TMPDIR": "/nowhere", "XDG_RUNTIME_DIR": "/nowhere", "LC_ALL": "C"}
    code = "os.umask(0o777); os.popen = None\n"  # popen: a shell would complain of the folder
    if sys.version_info[:3] != (3, 13, 0):  # which cannot import NumPy there (SystemError)
        code += f"os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})\n"
    code += "work()"
    assert program(code, env=environment) == "worked\n"


def can_unshare() -> bool:
    return shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="no mount namespace can be made here")
def test_a_small_shared_memory_folder_and_read_only_temporary_ones(tmp_path):
    """As in a container: /dev/shm has 64 MB, and nothing can be written but the program's own folder."""
    script = tmp_path / "program.py"
    script.write_text(
        WORK
        + textwrap.dedent("""
        assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 64 << 20
        try:
            open("/tmp/x", "w")
        except OSError:
            pass
        else:
            raise AssertionError("it can be written to")
        work(num_cpus=2)
        shoal.init(num_cpus=1)
        array = shoal.get(shoal.put(np.ones(25_000_000)))  # 200 MB
        assert array.sum() == 25_000_000
        """)
    )
    mounts = "mount -t tmpfs -o size=64m tmpfs /dev/shm && mount --bind /tmp /tmp && mount -o remount,ro,bind /tmp && "
    mounts += "mount --bind /var/tmp /var/tmp && mount -o remount,ro,bind /var/tmp && "
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mounts} exec "$0" "$@"', sys.executable, str(script)],
        capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"], "HOME": "/nowhere"},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "worked\n", "")


@pytest.mark.parametrize(
    "flags", [["-I"], ["-E", "-s", "-B", "-OO", "-X", "utf8", "-W", "error"], ["-X", "dev", "-W", "ignore"]], ids=" ".join
)
def test_options_of_the_interpreter_hold_in_workers(flags):
    code = """
        names = ("isolated", "optimize", "dev_mode", "ignore_environment", "no_user_site", "no_site", "utf8_mode")
        @shoal.remote
        def flags():
            return [getattr(sys.flags, name) for name in names], sys.warnoptions
        shoal.init(num_cpus=1)
        assert shoal.get(flags.remote()) == ([getattr(sys.flags, name) for name in names], sys.warnoptions)
        shoal.shutdown()
        work()
        """
    assert program(code, *flags, env={**os.environ, "PYTHONWARNINGS": "", "PYTHONDONTWRITEBYTECODE": ""}) == "worked\n"


def test_without_the_module_site():
    import numpy

    folder = os.path.dirname(os.path.dirname(numpy.__file__))
    assert program("work()", "-S", before=f"import sys; sys.path.append({folder!r})\n") == "worked\n"


def test_python_that_is_embedded_in_another_program():
    assert program("sys.executable = ''; work()") == "worked\n"
    out = program("sys.executable, sys.exec_prefix, os.environ['PATH'] = '', '/nowhere', '/nowhere'; refused()")
    assert out.startswith("SessionError sys.executable is empty") and "set sys.executable" in out


def test_a_zip_application(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text(WORK + "\nimport helper\nassert shoal.get(helper.triple.remote(2)) == 6\nwork()")
    (tmp_path / "app" / "helper.py").write_text("import shoal\n@shoal.remote\ndef triple(x): return 3 * x\n")
    code = WORK.replace("\nimport shoal", "\nimport shoal\nimport helper") + (
        "\nshoal.init(num_cpus=1)\nassert shoal.get(helper.triple.remote(2)) == 6\nshoal.shutdown()\nwork()"
    )
    (tmp_path / "app" / "__main__.py").write_text(code)
    subprocess.run([sys.executable, "-m", "zipapp", str(tmp_path / "app"), "-o", str(tmp_path / "app.pyz")], check=True)
    done = subprocess.run([sys.executable, str(tmp_path / "app.pyz")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "worked\n", "")


def test_an_interpreter_in_another(tmp_path):
    """A sub-interpreter is refused; the main one goes on."""
    module = next((name for name in ("_interpreters", "_xxsubinterpreters") if _has(name)), None)
    if module is None:
        pytest.skip("this Python has no module for sub-interpreters")
    said = tmp_path / "said"
    inner = f"try:\n import shoal\nexcept ImportError as e:\n open({str(said)!r}, 'w').write(str(e))\n"
    code = f"""
import {module} as interpreters
work()
other = interpreters.create()
try:
    interpreters.run_string(other, {inner!r})
finally:
    interpreters.destroy(other)
work()
"""
    assert program(code) == "worked\nworked\n"
    assert "sub-interpreter" in said.read_text()


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def test_an_interpreter_without_its_lock():
    code = "import sys; sys._is_gil_enabled = lambda: False\ntry:\n    import shoal\nexcept ImportError as e:\n    print(e)"
    done = run_python(code)
    assert "PYTHON_GIL=1" in done.stdout, done.stderr


# -- the quota of a container -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "quota", "cpus"),
    [
        ({"cpu.max": "max 100000"}, None, 64),
        ({"cpu.max": "250000 100000"}, 2.5, 2),
        ({"cpu.max": "max 100000", "pod/cpu.max": "150000 100000", "pod/app/cpu.max": "400000 100000"}, 1.5, 1),
        ({"pod/app/cpu.max": "50000 100000"}, 0.5, 1),
        ({"cpu.max": "nonsense"}, None, 64),
        ({"cpu.max": ""}, None, 64),
        ({}, None, 64),
    ],
)
def test_the_quota_of_cpu_time(files, quota, cpus, tmp_path, monkeypatch):
    from shoal.engine.local import limits

    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(limits, "_CGROUPS", str(tmp_path))
    monkeypatch.setattr(limits, "_own_cgroups", lambda controller: _folders(tmp_path, controller))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert limits.cpu_quota() == quota and limits.usable_cpus() == cpus


def _folders(root, controller):
    return [] if controller else [f"{root}/pod/app", f"{root}/pod", str(root)]


def test_the_memory_of_a_container(tmp_path, monkeypatch):
    from shoal.engine.local import limits

    (tmp_path / "pod").mkdir()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "pod" / "memory.max").write_text(f"{100 << 20}\n")
    monkeypatch.setattr(limits, "_own_cgroups", lambda controller: _folders(tmp_path, controller))
    assert limits.memory_limit() == 100 << 20 and limits.arena_size(None) == int(0.6 * (100 << 20))


def test_the_cpus_that_a_process_may_use():
    cpus = sorted(os.sched_getaffinity(0))
    code = f"os.sched_setaffinity(0, [{cpus[0]}])\nshoal.init()\nprint(shoal.cluster_resources()['CPU'])"
    assert program(code) == "1.0\n"
