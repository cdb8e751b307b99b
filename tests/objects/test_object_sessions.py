"""Sessions as objects see them: init and shutdown in every order, and references that outlive their session."""

import os
import pickle
import threading

import numpy as np
import pytest

import shoal
from conftest import audit, run_python, until
from shoal import _core
from shoal.exceptions import SessionEndedError, SessionError


@shoal.remote
def double(x):
    return x * 2


@pytest.fixture(autouse=True)
def ended():
    """Whatever the test did, the next one starts without a session."""
    assert not shoal.is_initialized()
    yield
    shoal.shutdown()


def test_init_twice_is_an_error_that_says_what_to_do():
    shoal.init(num_cpus=1)
    with pytest.raises(RuntimeError, match=r"ignore_reinit_error=True"):
        shoal.init()
    assert shoal.get(double.remote(2)) == 4


def test_init_twice_with_ignore_reinit_error_keeps_the_session():
    first = shoal.init(num_cpus=1, resources={"disk": 2})
    ref = shoal.put("kept")
    second = shoal.init(num_cpus=7, ignore_reinit_error=True)
    assert second["session_name"] == first["session_name"]
    assert shoal.get(ref) == "kept" and shoal.cluster_resources()["CPU"] == 1
    shoal.shutdown()
    shoal.init(num_cpus=1, ignore_reinit_error=True)  # there is none: it starts one
    assert shoal.is_initialized()


def test_init_after_shutdown_again_and_again():
    names = set()
    for i in range(5):
        context = shoal.init(num_cpus=1)
        names.add(context["session_name"])
        assert shoal.get(double.remote(shoal.put(i))) == 2 * i
        audit()
        shoal.shutdown()
        assert not shoal.is_initialized()
    assert len(names) == 5


def test_shutdown_without_a_session_and_twice():
    shoal.shutdown()
    shoal.init(num_cpus=1)
    shoal.shutdown()
    shoal.shutdown()
    assert not shoal.is_initialized()


def test_the_context_ends_the_session():
    with shoal.init(num_cpus=1) as context:
        assert shoal.is_initialized() and context["job_id"]
    assert not shoal.is_initialized()
    with pytest.raises(ZeroDivisionError):
        with shoal.init(num_cpus=1):
            _ = 1 / 0
    assert not shoal.is_initialized()


@pytest.mark.parametrize("use", ["shoal.put(1)", "double.remote(1)", "shoal.cluster_resources()", "shoal.nodes()", "shoal.get([])"])
def test_the_first_use_starts_a_session(use):
    done = run_python(
        f"""
        import shoal

        @shoal.remote
        def double(x):
            return x * 2

        assert not shoal.is_initialized()
        {use}
        assert shoal.is_initialized()
        assert shoal.get(double.remote(shoal.put(4))) == 8
        shoal.shutdown()
        {use}
        assert shoal.is_initialized()
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"num_cpus": -1}, ValueError, "num_cpus"),
        ({"num_gpus": -0.5}, ValueError, "num_gpus"),
        ({"num_cpus": "2"}, TypeError, "num_cpus"),
        ({"resources": {"a": -1}}, ValueError, "a"),
        ({"resources": {"CPU": 1}}, ValueError, "num_cpus"),
        ({"resources": [1]}, TypeError, "resources"),
        ({"nonsense": 1}, TypeError, "nonsense"),
        ({"address": "ray://somewhere:1"}, ValueError, "ray://somewhere:1"),
        ({"local_mode": True}, ValueError, "num_cpus=1"),
    ],
)
def test_settings_that_are_refused_leave_no_session(settings, error, match):
    with pytest.raises(error, match=match):
        shoal.init(**settings)
    assert not shoal.is_initialized()
    shoal.init(num_cpus=1)
    assert shoal.get(double.remote(1)) == 2


def test_settings_of_ray_that_mean_nothing_here():
    shoal.init(num_cpus=1, include_dashboard=False, logging_level=30, _temp_dir="/tmp", address="local")
    assert shoal.get(double.remote(1)) == 2


def test_environment_variables_of_the_session():
    @shoal.remote
    def read():
        return os.environ.get("SHOAL_TEST_ALL"), os.environ.get("SHOAL_TEST_ONE")

    shoal.init(num_cpus=1, runtime_env={"env_vars": {"SHOAL_TEST_ALL": "1"}})
    assert "SHOAL_TEST_ALL" not in os.environ
    assert shoal.get(read.remote()) == ("1", None)
    own = {"env_vars": {"SHOAL_TEST_ONE": "2"}}
    assert shoal.get(read.options(runtime_env=own).remote()) == ("1", "2")
    shoal.shutdown()
    with pytest.warns(UserWarning, match="ignored: conda, pip"):
        shoal.init(num_cpus=1, runtime_env={"conda": "x", "pip": ["x"]})
    assert shoal.get(read.remote()) == (None, None)


def test_a_limit_of_open_files_below_what_is_open():
    result = run_python("""
        import os, resource, shoal
        os.dup2(0, 200)
        os.set_inheritable(200, True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        shoal.init(num_cpus=1)
        print(shoal.get(shoal.remote(lambda: 1).remote()))
    """)
    assert result.stdout == "1\n", result.stderr


# --- references that outlive their session ------------------------------------------------------------------


def test_a_reference_of_an_ended_session():
    shoal.init(num_cpus=1)
    ref, task = shoal.put([1]), double.remote(1)
    name, key = repr(ref), hash(ref)
    shoal.shutdown()
    for use in (lambda: shoal.get(ref), lambda: ref.future().result(timeout=10)):
        with pytest.raises(SessionError):
            use()
        shoal.shutdown()  # the use may have started one implicitly
    shoal.init(num_cpus=1)
    same_place = [shoal.put(i) for i in range(20)]
    uses = {
        "get": lambda: shoal.get(ref),
        "get many": lambda: shoal.get([ref, task]),
        "get now": lambda: shoal.get(task, timeout=0),
        "wait": lambda: shoal.wait([ref]),
        "argument": lambda: double.remote(ref),
        "nested argument": lambda: double.remote([ref]),
        "put": lambda: shoal.put([ref]),
        "put in a dict": lambda: shoal.put({"a": ref}),
        "pickle": lambda: pickle.dumps(ref),
        "cancel": lambda: shoal.cancel(task),
        "future": lambda: ref.future().result(timeout=10),
    }
    for what, use in uses.items():
        with pytest.raises(SessionEndedError) as caught:
            use()
        assert caught.value is not None, what
    assert repr(ref) == name and hash(ref) == key and ref == ref and ref != task
    assert ref not in same_place and shoal.get(same_place) == list(range(20))
    audit(kept=20)


def test_references_that_die_late_hurt_nobody():
    shoal.init(num_cpus=1)
    old = [shoal.put(i) for i in range(1000)]
    shoal.shutdown()
    shoal.init(num_cpus=1)
    new = [shoal.put(i) for i in range(1000)]
    old.clear()
    assert shoal.get(new) == list(range(1000))
    new.clear()
    audit()


def test_a_reference_pickled_in_one_session_and_loaded_in_the_next():
    shoal.init(num_cpus=1)
    data = pickle.dumps([shoal.put("old")])
    assert shoal.get(pickle.loads(data)[0]) == "old"
    shoal.shutdown()
    with pytest.raises(SessionError):
        shoal.get(pickle.loads(data)[0])
    shoal.shutdown()
    shoal.init(num_cpus=1)
    others = [shoal.put(i) for i in range(100)]
    with pytest.raises(SessionEndedError, match="another session"):
        pickle.loads(data)
    with pytest.raises(SessionEndedError):
        shoal.get(double.remote(Loads(data)))
    del others
    audit()


class Loads:
    """Unpickles `data` where it arrives."""

    def __init__(self, data):
        self.data = data

    def __reduce__(self):
        return pickle.loads, (self.data,)


def test_a_remote_function_outlives_its_session():
    ref_of = {}

    @shoal.remote
    def constant(factor=3):
        return factor * 2

    for i in range(3):
        shoal.init(num_cpus=1)
        ref_of[i] = constant.remote()
        assert shoal.get(ref_of[i]) == 6
        shoal.shutdown()
    assert len(set(ref_of.values())) == 3


def test_threads_that_wait_when_the_session_ends_are_told(tmp_path):
    shoal.init(num_cpus=1)
    path = tmp_path / "never"

    @shoal.remote
    def hold():
        until(path.exists, 100)

    ref, errors, started = hold.remote(), [], threading.Barrier(5)

    def wait(how):
        started.wait()
        try:
            how()
        except BaseException as error:
            errors.append(error)

    ways = [
        lambda: shoal.get(ref), lambda: shoal.get([ref], timeout=100), lambda: shoal.wait([ref]),
        lambda: ref.future().result(timeout=100),
    ]  # fmt: skip
    threads = [threading.Thread(target=wait, args=(way,)) for way in ways]
    for thread in threads:
        thread.start()
    started.wait()
    shoal.shutdown()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(errors) == 4 and all(isinstance(error, SessionError) for error in errors), errors


def test_a_large_session_ends_at_once():
    shoal.init(num_cpus=1)
    refs = [shoal.put(np.zeros(1000)) for _ in range(20_000)]
    tasks = [double.remote(ref) for ref in refs[:5000]]
    shoal.shutdown()
    del refs, tasks
    assert not _core.attached()


def test_the_interpreter_may_end_in_the_middle_of_everything():
    done = run_python(
        """
        import threading, time, numpy as np, shoal

        @shoal.remote
        def slow(x):
            time.sleep(60)

        refs = [slow.remote(np.zeros(10_000)) for _ in range(50)]
        view = shoal.get(shoal.put(np.ones(10_000)))

        def wait():
            try:
                shoal.get(refs[0])
            except shoal.exceptions.SessionError:
                pass  # may be told, or may just be gone with the process

        threading.Thread(target=wait, daemon=True).start()
        future = refs[1].future()
        cycle = [refs, view]; cycle.append(cycle)
        print("end")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
