"""Actors in whole programs: classes of __main__ and of modules beside the script; how programs end."""

import os
import subprocess
import sys
import textwrap

from conftest import run_python


def run_script(folder, text, name="main.py", **files):
    for file, content in files.items():
        (folder / f"{file}.py").write_text(textwrap.dedent(content))
    script = folder / name
    script.write_text(textwrap.dedent(text))
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, cwd="/")
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_a_class_of_main_with_helpers(tmp_path):
    out = run_script(
        tmp_path,
        """
        from dataclasses import dataclass
        from enum import Enum

        import shoal

        FACTOR = 3

        class Color(Enum):
            RED = 1

        @dataclass
        class Point:
            x: int

            def scaled(self):
                return Point(self.x * FACTOR)

        class Base:
            def twice(self, x):
                return helper(x) * 2

        def helper(x):
            return x + 1

        @shoal.remote
        class A(Base):
            def __init__(self, point: Point):
                self.point = point

            def get(self):
                return self.point.scaled(), Color.RED

            def twice(self, x):
                return super().twice(x)

        if __name__ == "__main__":
            shoal.init(num_cpus=1)
            a = A.remote(Point(2))
            point, color = shoal.get(a.get.remote())
            print(point == Point(6), color is Color.RED, shoal.get(a.twice.remote(1)))
        """,
    )
    assert out == ["True", "True", "4"]


def test_classes_of_modules_beside_the_script(tmp_path):
    out = run_script(
        tmp_path,
        """
        import shoal
        from accounts import Account, Open

        shoal.init(num_cpus=1)
        account = Account.remote(10)
        print(shoal.get(account.add.remote(5)))
        print(shoal.get(shoal.remote(Open).remote(1).add.remote(1)))
        try:
            shoal.get(account.take.remote(100))
        except Exception as error:
            import accounts
            print(isinstance(error, accounts.Overdrawn))
        """,
        accounts="""
        import shoal

        class Overdrawn(Exception):
            pass

        class Open:
            def __init__(self, amount):
                self.amount = amount

            def add(self, n):
                self.amount += n
                return self.amount

            def take(self, n):
                if n > self.amount:
                    raise Overdrawn(n)

        Account = shoal.remote(Open)
        """,
    )
    assert out == ["15", "2", "True"]


def test_a_program_that_ends_with_actors_alive():
    result = run_python("""
        import os, shoal

        @shoal.remote
        class A:
            def pid(self):
                return os.getpid()

            def spin(self):
                while True:
                    pass

        actors = [A.remote() for _ in range(3)]
        print(*shoal.get([a.pid.remote() for a in actors]))
        actors[0].spin.remote()
    """)
    assert result.returncode == 0 and not result.stderr, result.stderr
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == 3
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_shutdown_with_calls_that_wait():
    result = run_python("""
        import os, threading, shoal

        @shoal.remote
        class A:
            def pid(self):
                return os.getpid()

            def wait(self):
                threading.Event().wait()

        shoal.init(num_cpus=1)
        a = A.remote()
        pid = shoal.get(a.pid.remote())
        refs = [a.wait.remote() for _ in range(5)]
        errors = []

        def get():
            try:
                shoal.get(refs)
            except BaseException as error:
                errors.append(type(error).__name__)

        thread = threading.Thread(target=get)
        thread.start()
        shoal.wait(refs, timeout=0.05)
        shoal.shutdown()
        thread.join(10)
        print(*errors, os.path.exists(f"/proc/{pid}"))
    """)
    assert result.stdout.split() == ["SessionEndedError", "False"], result.stdout + result.stderr


def test_what_actors_print_arrives_with_their_name():
    result = run_python("""
        import shoal

        @shoal.remote
        class Printer:
            def __init__(self):
                print("made")

            def say(self, text):
                print(text)

            def __repr__(self):
                return "me"

        shoal.init(num_cpus=1)
        p = Printer.remote()
        shoal.get(p.say.remote("hello"))
        q = Printer.options(name="named").remote()
        shoal.get(q.say.remote("goodbye"))
        shoal.shutdown()
    """)
    import re

    lines = [re.sub(r"pid=\d+", "pid=N", line) for line in result.stdout.splitlines()]
    assert sorted(lines) == sorted(
        ["(Printer pid=N) made", "(Printer pid=N) hello", "(Printer pid=N) made", "(named pid=N) goodbye"]
    ), result.stdout


def test_the_ray_way():
    """What Ray's own introduction to actors does, with the import changed."""
    result = run_python("""
        import shoal as ray
        import asyncio, time

        ray.init()

        @ray.remote
        class Counter(object):
            def __init__(self):
                self.value = 0

            def increment(self):
                self.value += 1
                return self.value

            def get_counter(self):
                return self.value

        counters = [Counter.remote() for _ in range(3)]
        print(ray.get([c.increment.remote() for c in counters]))
        print(ray.get([counters[0].increment.remote() for _ in range(3)]))

        @ray.remote
        def f(counter):
            for _ in range(10):
                counter.increment.remote()

        counter = Counter.remote()
        ray.get([f.remote(counter) for _ in range(3)])
        while ray.get(counter.get_counter.remote()) < 30:
            pass
        print(ray.get(counter.get_counter.remote()))

        @ray.remote
        class AsyncActor:
            async def run_task(self):
                await asyncio.sleep(0.01)
                return "done"

        actor = AsyncActor.remote()

        async def await_ref():
            return await actor.run_task.remote()

        print(asyncio.run(await_ref()))

        @ray.remote
        class Foo:
            @ray.method(num_returns=2)
            def bar(self):
                return 1, 2

        ref1, ref2 = Foo.remote().bar.remote()
        print(ray.get([ref1, ref2]))
        Counter.options(name="CounterActor", lifetime="detached").remote()
        print(ray.get(ray.get_actor("CounterActor").increment.remote()))
        ray.kill(ray.get_actor("CounterActor"))
        try:
            ray.get(ray.get_actor("CounterActor").increment.remote())
        except (ray.exceptions.RayActorError, ValueError):
            print("gone")
    """)
    assert result.stdout.splitlines() == ["[1, 1, 1]", "[2, 3, 4]", "30", "done", "[1, 2]", "1", "gone"], result.stderr
