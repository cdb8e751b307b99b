"""Where a task's function may come from: the main program, a string, a module on sys.path, another function."""

import functools
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import shoal
from conftest import audit, run_python
from shoal import _core

pytestmark = pytest.mark.usefixtures("audited")


def run_script(folder, code, *args, timeout=60):
    """Run `code` as a file in `folder`."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, str(script), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
        check=False,
    )


PROGRAM = """
import dataclasses, enum, shoal

LIMIT = 10

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    def double(self):
        return Point(self.x * 2)

def helper(x):
    return x + LIMIT

@shoal.remote
def task(point):
    assert isinstance(point, Point)
    return Point(helper(point.double().x)), Colour.RED, __name__

@shoal.remote
def calls_another(x):
    return shoal.get(task.remote(x))

if __name__ == "__main__":
    shoal.init(num_cpus=1)
    for function in (task, calls_another):
        point, colour, name = shoal.get(function.remote(Point(4)))
        assert point == Point(18) and type(point) is Point
        assert colour is Colour.RED, colour
    print(name)
"""


def test_functions_and_classes_of_a_script(tmp_path):
    done = run_script(tmp_path, PROGRAM)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.strip() == "__main__"


def test_functions_and_classes_of_a_string():
    done = run_python(PROGRAM)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.strip() == "__main__"


def test_a_module_run_with_dash_m(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "other.py").write_text("def helper(x):\n    return x * 3\n")
    (tmp_path / "package" / "program.py").write_text(
        "import shoal\nfrom package.other import helper\n\n@shoal.remote\ndef task(x):\n    return helper(x)\n\n"
        "if __name__ == '__main__':\n    shoal.init(num_cpus=1)\n    print(shoal.get(task.remote(5)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "package.program"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "15\n", "")


def test_the_drivers_path_and_directory_reach_the_workers(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "temporary_module.py").write_text("def triple(x):\n    return 3 * x\n")
    (tmp_path / "data.txt").write_text("data")
    done = run_script(
        tmp_path,
        """
        import os, sys
        sys.path.insert(0, os.path.join(os.path.dirname(__file__), "lib"))
        import shoal, temporary_module

        @shoal.remote
        def task(x):
            import temporary_module
            return temporary_module.triple(x), open("data.txt").read(), os.getcwd(), sys.path[0]

        direct = shoal.remote(temporary_module.triple)
        shoal.init(num_cpus=1)
        value, text, folder, first = shoal.get(task.remote(2))
        assert (value, text, first) == (6, "data", sys.path[0]) and os.path.samefile(folder, os.getcwd())
        assert shoal.get(direct.remote(4)) == 12
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_that_the_workers_cannot_find_is_an_error_that_names_it(tmp_path, monkeypatch):
    (tmp_path / "late_module.py").write_text("def one():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)  # after the session began: what is on the path now goes with each function
    import late_module

    monkeypatch.undo()
    with pytest.raises(ModuleNotFoundError, match="late_module"):
        shoal.get(shoal.remote(late_module.one).remote())

    @shoal.remote
    def same(x):
        return x

    with pytest.raises(ModuleNotFoundError, match="late_module"):
        shoal.get(same.remote(late_module.one))
    assert shoal.get(same.remote(1)) == 1


def test_a_module_that_fails_when_it_is_imported(tmp_path):
    (tmp_path / "picky.py").write_text(
        "import multiprocessing, os\nif os.environ.get('PICKY') != str(os.getpid()):\n    raise OSError('not here')\n"
        "def one():\n    return 1\n"
    )
    done = run_script(
        tmp_path,
        """
        import os, shoal
        os.environ["PICKY"] = str(os.getpid())
        import picky
        shoal.init(num_cpus=1)
        try:
            shoal.get(shoal.remote(picky.one).remote())
        except OSError as error:
            print("not here" in str(error))
        print(shoal.get(shoal.remote(lambda: 5).remote()))
        """,
    )
    assert (done.returncode, done.stdout) == (0, "True\n5\n"), done.stderr


# --- by value -----------------------------------------------------------------------------------------------


def test_closures_lambdas_and_partials():
    base, array = 10, np.arange(5000)

    @shoal.remote
    def closure(x):
        return x + base + int(array[x])

    assert shoal.get(closure.remote(5)) == 20
    assert shoal.get(shoal.remote(lambda x, y=base: x * y).remote(3)) == 30
    assert shoal.get(shoal.remote(functools.partial(lambda a, b: (a, b), b=2)).remote(1)) == (1, 2)
    functions = [shoal.remote(lambda x, k=k: x + k) for k in range(20)]
    assert shoal.get([f.remote(100) for f in functions]) == [100 + k for k in range(20)]


def test_a_closure_is_what_it_was_at_the_first_call():
    values = [1]

    @shoal.remote
    def read():
        return list(values)

    assert shoal.get(read.remote()) == [1]
    values.append(2)
    assert shoal.get(read.remote()) == [1]
    assert shoal.get(read.options().remote()) == [1, 2]


def test_the_arrays_of_a_closure_can_be_written_where_it_runs():
    scratch = np.zeros(3000)

    @shoal.remote
    def fill():
        scratch[:] = 1
        return float(scratch.sum())

    assert shoal.get(fill.remote()) == 3000 and scratch.sum() == 0


def test_recursion_of_every_kind():
    @shoal.remote
    def factorial(n):
        return 1 if n == 0 else n * shoal.get(factorial.remote(n - 1))

    assert shoal.get(factorial.remote(10)) == 3628800

    @shoal.remote
    def even(n):
        return True if n == 0 else shoal.get(odd.remote(n - 1))

    @shoal.remote
    def odd(n):
        return False if n == 0 else shoal.get(even.remote(n - 1))

    assert shoal.get([even.remote(10), odd.remote(10)]) == [True, False]

    def plain(n):
        return 0 if n == 0 else 1 + plain(n - 1)

    assert shoal.get(shoal.remote(plain).remote(300)) == 300


def test_decorated_functions():
    def twice(function):
        @functools.wraps(function)
        def wrapper(*args):
            return function(*args), function(*args)

        return wrapper

    @shoal.remote
    @twice
    def value(x):
        return x

    assert shoal.get(value.remote(3)) == (3, 3) and value.__name__ == "value"


def test_a_remote_function_is_an_argument_a_result_and_in_an_object():
    @shoal.remote
    def double(x):
        return 2 * x

    @shoal.remote
    def apply(function, x):
        return shoal.get(function.remote(x)), function

    value, function = shoal.get(apply.remote(double, 4))
    assert value == 8 and shoal.get(function.remote(5)) == 10
    assert shoal.get(shoal.get(shoal.put([double.options(num_cpus=0.5)]))[0].remote(1)) == 2


def test_a_function_made_by_a_task():
    @shoal.remote
    def make(n):
        @shoal.remote
        def made(x):
            return x + n

        return made, made.remote(1), lambda x: x - n

    made, ref, plain = shoal.get(make.remote(10))
    assert (shoal.get(made.remote(2)), shoal.get(ref), plain(3)) == (12, 11, -7)


def test_a_thousand_different_functions():
    functions = [shoal.remote(eval(f"lambda: {i}")) for i in range(1000)]
    assert shoal.get([f.remote() for f in functions]) == list(range(1000))


def test_the_same_function_is_stored_once():
    def make():
        @shoal.remote
        def task():
            return "the same every time"

        return task

    shoal.get(make().remote())
    before = len(_core.name_list(3))
    assert shoal.get([make().remote() for _ in range(20)]) == ["the same every time"] * 20
    assert len(_core.name_list(3)) == before


def test_a_large_closure_is_sent_once():
    data = b"x" * 20_000_000

    @shoal.remote
    def size():
        return len(data)

    assert shoal.get([size.remote() for _ in range(50)]) == [20_000_000] * 50


def test_a_reference_in_a_closure_lives_as_long_as_the_function():
    done = run_python(
        """
        import shoal
        from shoal import _core
        shoal.init(num_cpus=1)

        def make():
            ref, default = shoal.put("closure"), shoal.put("default")

            @shoal.remote
            def read(d=default):
                return shoal.get(ref), shoal.get(d)
            return read

        read = make()
        assert shoal.get([read.remote() for _ in range(5)]) == [("closure", "default")] * 5
        assert shoal.get(read.options(num_cpus=0.5).remote()) == ("closure", "default")
        import gc, time
        end = time.monotonic() + 20
        while (wrong := _core.check()) and time.monotonic() < end:
            time.sleep(0.01)
        assert wrong == "", wrong
        """
    )
    assert done.returncode == 0, done.stderr


def test_state_of_a_module_stays_in_its_worker():
    @shoal.remote(num_cpus=2)
    def count():
        import builtins

        builtins.counted_by_test = getattr(builtins, "counted_by_test", 0) + 1
        return builtins.counted_by_test

    seen = [shoal.get(count.remote()) for _ in range(10)]
    assert max(seen) >= 5 and not hasattr(__builtins__, "counted_by_test")
    audit()
