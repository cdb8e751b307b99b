"""get_runtime_context(): what tasks and actors learn about themselves; and runtime_env, what they run in."""

import json
import os

import pytest

import shoal
from shoal.runtime_env import RuntimeEnv

pytestmark = pytest.mark.usefixtures("session")


def facts():
    context = shoal.get_runtime_context()
    return {
        "task": context.get_task_id(),
        "name": context.get_task_name(),
        "function": context.get_task_function_name(),
        "actor": context.get_actor_id(),
        "actor_name": context.get_actor_name(),
        "resources": context.get_assigned_resources(),
        "cancelled": context.is_canceled(),
        "worker": context.get_worker_id(),
        "env": context.runtime_env,
    }


def test_in_the_driver():
    context = shoal.get_runtime_context()
    assert facts()["task"] is None and facts()["actor"] is None and facts()["resources"] == {}
    assert context.get_node_id() == shoal.nodes()[0]["NodeID"] and context.get_job_id() and context.namespace == "default"
    assert context.get_accelerator_ids() == {"GPU": []} == context.get_resource_ids()
    assert context.get_placement_group_id() is None and context.get_node_labels() == {}
    with pytest.raises(RuntimeError, match="actor"):
        _ = context.current_actor


def test_in_a_task():
    @shoal.remote(num_cpus=0.5)
    def task():
        return facts()

    ref = task.remote()
    seen = shoal.get(ref)
    assert seen["name"].endswith("task") and seen["actor"] is None and seen["resources"] == {"CPU": 0.5}
    assert seen["task"] and not seen["cancelled"] and seen["worker"] != facts()["worker"]
    assert shoal.get(task.options(name="renamed").remote())["name"] == "renamed"


@pytest.mark.parametrize("kind", ["plain", "threads", "async"])
def test_in_an_actor(kind):
    class Plain:
        def who(self):
            return facts()

        def me(self):
            return shoal.get_runtime_context().current_actor

    class Async(Plain):
        async def who(self):
            return facts()

    options = {"name": f"context-{kind}", "num_cpus": 1}
    if kind == "threads":
        options["max_concurrency"] = 2
    actor = shoal.remote(**options)(Async if kind == "async" else Plain).remote()
    first, second = shoal.get([actor.who.remote(), actor.who.remote()])
    assert first["task"] != second["task"] and first["name"].endswith(".who")
    assert first["actor"] == second["actor"] == actor._actor_id and first["actor_name"] == f"context-{kind}"
    assert first["resources"] == {"CPU": 1.0}
    assert shoal.get(actor.me.remote()) == actor


def test_a_restarted_actor_knows_it_in_its_constructor_and_in_its_calls():
    @shoal.remote(max_restarts=1, max_task_retries=1)
    class Mortal:
        def __init__(self):
            self.restored = shoal.get_runtime_context().was_current_actor_reconstructed

        def both(self):
            return self.restored, shoal.get_runtime_context().was_current_actor_reconstructed

        def die(self, path):
            if not os.path.exists(path):
                open(path, "w").close()
                os._exit(1)

    actor = Mortal.remote()
    assert shoal.get(actor.both.remote()) == (False, False)
    path = f"/tmp/shoal-test-{os.getpid()}"
    try:
        shoal.get(actor.die.remote(path))
        assert shoal.get(actor.both.remote()) == (True, True)
    finally:
        os.unlink(path)


def test_a_task_that_catches_its_cancellation_is_told_of_it():
    began, told = shoal.sync.Event(), shoal.sync.Event()

    @shoal.remote
    def stubborn():
        try:
            began.set()
            shoal.sync.Event().wait(20)
        except KeyboardInterrupt:
            if shoal.get_runtime_context().is_canceled():
                told.set()

    ref = stubborn.remote()
    assert began.wait(20)
    shoal.cancel(ref)
    assert told.wait(20)


# -- runtime_env --------------------------------------------------------------------------------------------


def package(folder, name, value):
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f"VALUE = {value}\n")
    return folder / name


def test_working_dir_and_py_modules_of_a_task_and_an_actor(tmp_path):
    (tmp_path / "data.txt").write_text("found")
    package(tmp_path, "inside_working_dir", 1)
    module = package(tmp_path / "lib", "given_module", 2)
    env = {"working_dir": str(tmp_path), "py_modules": [str(module)], "env_vars": {"SHOAL_ENV_TEST": "set"}}

    def look():
        import given_module
        import inside_working_dir

        return open("data.txt").read(), inside_working_dir.VALUE, given_module.VALUE, os.environ["SHOAL_ENV_TEST"]

    @shoal.remote
    class Actor:
        def look(self):
            return look(), shoal.get_runtime_context().runtime_env

    @shoal.remote(num_cpus=2)
    def plain():
        return os.getcwd(), os.environ.get("SHOAL_ENV_TEST"), shoal.get_runtime_context().runtime_env

    assert RuntimeEnv(**env) == env and RuntimeEnv(pip=None) == {}
    expected = ("found", 1, 2, "set")
    assert shoal.get(shoal.remote(look).options(runtime_env=env).remote()) == expected
    seen, its_own = shoal.get(Actor.options(runtime_env=env).remote().look.remote())
    assert seen == expected and its_own["working_dir"] == str(tmp_path)
    assert shoal.get(plain.remote()) == (os.getcwd(), None, {})


def test_a_function_of_a_module_that_only_its_environment_can_import(tmp_path):
    import sys

    folder = package(tmp_path, "only_there", 3)
    (folder / "__init__.py").write_text("def three():\n    return 3\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import only_there
    finally:
        sys.path.remove(str(tmp_path))
    task = shoal.remote(runtime_env={"py_modules": [only_there]})(only_there.three)
    assert shoal.get(task.remote()) == 3


def test_a_wrong_runtime_env_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="working_dir"):
        shoal.remote(runtime_env={"working_dir": str(tmp_path / "nowhere")})(len)
    with pytest.raises(ValueError, match="working_dir"):
        shoal.remote(runtime_env={"working_dir": "https://example.org/code.zip"})(len)
    with pytest.raises(ValueError, match="py_modules"):
        shoal.remote(runtime_env={"py_modules": [str(tmp_path / "nowhere")]})(len)
    with pytest.raises(TypeError, match="py_modules"):
        shoal.remote(runtime_env={"py_modules": [5]})(len)
    with pytest.warns(UserWarning, match="ignored: pip"):
        shoal.remote(runtime_env={"pip": ["x"]})(len)


def test_the_environment_of_a_whole_session(tmp_path):
    from conftest import run_python

    package(tmp_path, "of_the_session", 5)
    done = run_python(
        f"""
        import os, shoal
        shoal.init(num_cpus=1, runtime_env={{"working_dir": {str(tmp_path)!r}, "env_vars": {{"SHOAL_X": "1"}}}})

        @shoal.remote
        def look():
            import of_the_session
            return os.getcwd(), of_the_session.VALUE, shoal.get_runtime_context().get_runtime_env_string()

        print(*shoal.get(look.remote()), sep="\\n")
        """
    )
    folder, value, env = done.stdout.splitlines()
    assert (folder, value) == (str(tmp_path), "5"), done.stderr
    assert json.loads(env) == {"working_dir": str(tmp_path), "env_vars": {"SHOAL_X": "1"}}
