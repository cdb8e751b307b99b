"""Shoal's demo: several processes turn one photograph in shared memory into a poster, in place.

Actors print the photograph, tasks read a text and letter its most frequent words into the picture, everybody
adds to one tally under its lock. Then the same is done with multiprocessing.Pool, and the times are compared.
The photograph and the poster are written to ./demo_output.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from demo_lib import pool_program, screen, shoal_program, source
from demo_lib.checks import Check, checks_of
from demo_lib.outcome import Job, Outcome
from numpy.typing import NDArray

_WIDEST_FILE = 1920


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photo", choices=source.PHOTOGRAPHS, default="china", help="which photograph")
    parser.add_argument("--size", type=int, default=6000, help="its width in pixels (default 6000, 72 MB)")
    parser.add_argument("--workers", type=int, default=max(2, _cores()), help="workers of either program")
    parser.add_argument("--rounds", type=int, default=3, help="how often each program runs (default 3)")
    parser.add_argument("--start-method", choices=("fork", "spawn", "forkserver"), help="of multiprocessing")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="the folder for the pictures")
    arguments = parser.parse_args()
    if not 320 <= arguments.size <= 30_000:
        parser.error("--size must be between 320 and 30000")
    if not 2 <= arguments.workers <= 64 or arguments.rounds < 1:
        parser.error("--workers must be between 2 and 64, --rounds at least 1")
    return arguments


def _cores() -> int:
    return min(16, len(os.sched_getaffinity(0)))


def save(picture: NDArray[np.uint8], file: Path) -> Path:
    """Write a picture, made smaller if it is wider than a screen."""
    from PIL import Image

    image = Image.fromarray(picture)
    if image.width > _WIDEST_FILE:
        height = round(image.height * _WIDEST_FILE / image.width)
        image = image.resize((_WIDEST_FILE, height), Image.Resampling.BOX)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)
    return file


def run_rounds(
    job: Job, rounds: int, start_method: str | None, announce: Callable[[str], None]
) -> tuple[Outcome, Outcome, list[Check]]:
    """Run both programs in turn; the median run of each, and the checks of all rounds."""
    ours: list[Outcome] = []
    theirs: list[Outcome] = []
    failed: list[Check] = []
    checks: list[Check] = []
    for number in range(1, rounds + 1):
        announce(f"round {number} of {rounds}")
        ours.append(shoal_program.run(job))
        theirs.append(pool_program.run(job, start_method))
        checks = checks_of(job, ours[-1], theirs[-1])
        failed += [check for check in checks if not check.held]
        for outcome in (*ours[:-1], *theirs):  # checked: one picture is enough to keep
            outcome.picture = ours[-1].picture
    return _median(ours), _median(theirs), failed or checks


def _median(outcomes: list[Outcome]) -> Outcome:
    return sorted(outcomes, key=lambda outcome: outcome.total)[len(outcomes) // 2]


def main() -> int:
    """Run the demo; 0 if every check held."""
    arguments = parse_arguments()
    out = screen.console()
    photo = source.load_photograph(arguments.photo, arguments.size)
    job = Job(photo, source.load_text(), arguments.workers)
    screen.show_job(out, job, f"{arguments.photo}.jpg", arguments.rounds)
    announce = partial(screen.show_progress, out)
    ours, theirs, checks = run_rounds(job, arguments.rounds, arguments.start_method, announce)
    screen.show_steps(out, job, ours)
    screen.show_participants(out, job, ours)
    screen.show_comparison(out, ours, theirs, arguments.rounds)
    screen.show_checks(out, checks)
    files = [save(photo, arguments.out / "input.png"), save(ours.picture, arguments.out / "output.png")]
    screen.show_files(out, files)
    return 0 if all(check.held for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
