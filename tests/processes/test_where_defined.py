"""Functions and classes work wherever they are defined: script, `python -c`, module, notebook; so do their tracebacks."""

import subprocess
import sys

import pytest

from conftest import run_python

PROGRAM = """
import shoal

FACTOR = 3

class Error(Exception):
    pass

def helper(x):
    if x < 0:
        raise Error(f"{x} is negative")
    return x * FACTOR

@shoal.remote
def task(x):
    return helper(x)

class Base:
    def __init__(self):
        self.n = 0

@shoal.remote
class Actor(Base):
    def add(self, x):
        self.n += helper(x)
        return self.n

def main():
    actor = Actor.remote()
    print(shoal.get(task.remote(2)), shoal.get([actor.add.remote(1), actor.add.remote(2)]))
    for ref in [task.remote(-1), actor.add.remote(-1)]:
        try:
            shoal.get(ref)
        except Error as error:
            print("raise Error(f" in str(error), "in helper" in str(error), isinstance(error, Error))
"""
RUN = "\nshoal.init(num_cpus=1)\nmain()\nshoal.shutdown()\n"
OUTPUT = "6 [3, 9]\nTrue True True\nTrue True True\n"


def run(*command, **kwargs):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_in_a_script_also_after_it_changed_its_directory(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "program.py").write_text(PROGRAM + "import os; os.chdir('elsewhere')" + RUN)
    assert run("program.py", cwd=tmp_path) == OUTPUT


def test_in_a_module_run_with_m(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(PROGRAM + RUN)
    assert run("-m", "package", cwd=tmp_path) == OUTPUT


def test_in_an_imported_module(tmp_path):
    (tmp_path / "mine.py").write_text(PROGRAM)
    (tmp_path / "program.py").write_text("import shoal, mine\nfrom mine import main" + RUN)
    assert run("program.py", cwd=tmp_path) == OUTPUT


def test_in_a_module_whose_folder_was_put_on_the_path_later(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mine.py").write_text(PROGRAM)
    program = (
        f"import shoal\nshoal.init(num_cpus=1)\nimport sys; sys.path.insert(0, {str(tmp_path / 'lib')!r})\nimport mine\nmine.main()"
    )
    (tmp_path / "program.py").write_text(program)
    assert run("program.py", cwd=tmp_path) == OUTPUT


def test_in_python_c():
    # Python keeps the text of -c from 3.13 on: before, a traceback has no lines of it, here or anywhere.
    expected = OUTPUT if sys.version_info >= (3, 13) else OUTPUT.replace("True True True", "False True True")
    assert run("-c", PROGRAM + RUN) == expected


def test_on_standard_input():
    done = subprocess.run([sys.executable, "-"], input=PROGRAM + RUN, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("6 [3, 9]\n") and done.stdout.count("True True\n") == 2


def test_in_a_notebook():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [PROGRAM, "shoal.init(num_cpus=1)", "main()", "print(await task.remote(5))", "shoal.shutdown()"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    text = "".join(out.get("text", "") for cell in notebook.cells for out in cell.outputs)
    assert text == OUTPUT + "15\n"


def test_in_a_function_and_in_exec():
    done = run_python(
        """
        import shoal
        shoal.init(num_cpus=1)

        def make(n):
            @shoal.remote
            def inner(x):
                return x + n
            return inner

        scope = {}
        exec("def made(x): return x * 7", scope)
        print(shoal.get(make(4).remote(1)), shoal.get(shoal.remote(scope["made"]).remote(2)))
        """
    )
    assert done.stdout == "5 14\n", done.stderr
