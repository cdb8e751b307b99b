"""What Shoal asks of the interpreter: checked when it is imported, as the errors that would come later explain nothing."""

from __future__ import annotations

import sys

from shoal import _core


def check() -> None:
    """Raises ImportError where Shoal cannot work."""
    if not _core.main_interpreter():
        raise ImportError(
            "shoal does not work in a sub-interpreter: its native part keeps one session per process. Use it in the main "
            "interpreter; its tasks and actors are processes of their own anyway"
        )
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise ImportError(
            "shoal does not work without the global interpreter lock, which guards its view of the shared memory: start this "
            "free-threaded Python with PYTHON_GIL=1 or -X gil=1. Tasks and actors are processes and run in parallel all the same"
        )
