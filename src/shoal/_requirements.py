"""What Shoal asks of the interpreter: checked when it is imported, as the errors that would come later explain nothing."""

from __future__ import annotations

import sys


def check() -> None:
    """Raises ImportError where Shoal cannot work."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise ImportError(
            "shoal does not work without the global interpreter lock, which guards its view of the shared memory: start this "
            "free-threaded Python with PYTHON_GIL=1 or -X gil=1. Tasks and actors are processes and run in parallel all the same"
        )
