"""What docs/guide-sharing-memory.md says about Versioned and freeze."""

from __future__ import annotations

import numpy as np
import pytest

import shoal

pytestmark = [
    pytest.mark.usefixtures("session"),
    pytest.mark.skipif(not hasattr(shoal, "Versioned"), reason="this build has no Versioned"),
]


def test_a_version_stays_as_it_is_and_cannot_be_written():
    cell = shoal.Versioned({"a": np.zeros(3)})
    old = cell.get()
    with pytest.raises(ValueError, match="read-only"):
        old["a"] += 1
    with cell.update() as draft:
        draft["a"] += 1
    assert old["a"].tolist() == [0, 0, 0] and cell.get()["a"].tolist() == [1, 1, 1]


def test_the_last_writer_wins():
    cell = shoal.Versioned(np.zeros(2))
    with cell.update() as first, cell.update() as second:
        first[0] = 1
        second[1] = 1
    assert cell.get().tolist() == [1, 0] and cell.version == 2  # the outer block ends last


def test_a_draft_that_is_assigned_to_changes_nothing():
    cell = shoal.Versioned(np.zeros(3))
    with cell.update() as draft:
        draft = draft + 1
    assert not cell.get().any()


def test_a_whole_version_is_read_while_others_are_published():
    """Without a lock: all elements of what a reader gets are from one version."""

    @shoal.remote
    def look(cell, until):
        seen = 0
        while seen < until:
            array = cell.get()
            seen = int(array[0])
            if (array != seen).any():
                return "torn"
        return "whole"

    cell = shoal.Versioned(np.zeros(10_000, int))
    looking = [look.remote(cell, 300) for _ in range(2)]
    for _ in range(300):
        with cell.update() as draft:
            draft += 1
    assert shoal.get(looking) == ["whole", "whole"]


def test_what_is_frozen_has_no_lock_and_cannot_be_written():
    ref = shoal.zeros(3)
    array = shoal.get(ref)
    with pytest.raises(shoal.exceptions.WritableViewsError):
        shoal.freeze(ref)
    del array
    shoal.freeze(ref)
    assert not shoal.get(ref).flags.writeable
    with pytest.raises(shoal.exceptions.NotMutableError):
        shoal.lock(ref)
