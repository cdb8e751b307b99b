"""What Shoal asks of the interpreter, looked at before anything native is loaded: it would do harm, or explain nothing.

Importing this module raises ImportError where Shoal cannot work.
"""

from __future__ import annotations

import importlib
import sys


def _in_a_sub_interpreter() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):  # built in; the first from Python 3.13 on
        try:
            interpreters = importlib.import_module(name)
            return bool(interpreters.get_current() != interpreters.get_main())
        except (ImportError, AttributeError):
            continue
    return False


if sys.platform != "linux":  # the native module cannot be there; say so instead of that it is missing
    raise ImportError(
        f"Shoal runs on Linux (x86-64, arm64) only, and this is {sys.platform}: it is built on memfd, futexes and pidfds. "
        "Use a Linux container, a virtual machine or WSL 2 here"
    )
if _in_a_sub_interpreter():  # loaded a second time, the native part would take the first one's types away
    raise ImportError(
        "shoal does not work in a sub-interpreter: its native part keeps one session per process. Use it in the main interpreter; "
        "its tasks and actors are processes of their own anyway"
    )
if not getattr(sys, "_is_gil_enabled", lambda: True)():
    raise ImportError(
        "shoal does not work without the global interpreter lock, which guards its view of the shared memory: start this "
        "free-threaded Python with PYTHON_GIL=1 or -X gil=1. Tasks and actors are processes and run in parallel all the same"
    )
