"""What must hold at the end of the demo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo_lib import tally
from demo_lib.outcome import Job, Outcome


@dataclass(frozen=True)
class Check:
    """A statement and whether it held."""

    says: str
    held: bool


def checks_of(job: Job, ours: Outcome, theirs: Outcome) -> list[Check]:
    """Check one run of each program."""
    pixels = job.photo.shape[0] * job.photo.shape[1]
    updates = sum(note.updates for note in ours.notes)
    # every pixel is counted twice, before and after; every addition also counts itself
    expected = 2 * pixels + len(job.text.data) + len(ours.bars) + updates
    processes = {note.pid for note in ours.notes}
    counted = int(ours.tally.sum())
    steps = ours.first_steps
    same_tally = np.array_equal(ours.tally[: tally.BARS.stop], theirs.tally[: tally.BARS.stop])
    return [
        Check("get returned a view of the shared memory, no copy", steps is not None and steps.same_memory),
        Check("driver and task saw each other's changes", steps is not None and steps.seen_by_both),
        Check(f"{len(processes)} processes changed the same memory", len(processes) > job.workers),
        Check(
            f"no update lost of {updates}: {expected:,} expected, {counted:,} in the tally",
            counted == expected,
        ),
        Check("every entry of the tally is what multiprocessing counted, too", same_tally),
        Check("both programs made one poster, bit for bit", np.array_equal(ours.picture, theirs.picture)),
        Check("the poster is not the photograph", not np.array_equal(ours.picture, job.photo)),
    ]
