"""Fixtures of this folder, a plugin: peers that are ended with the test, and a temporary folder of the test's own, in which
nothing may be left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from other_process import Peer

import shoal
from conftest import until
from shoal.engine.local import places
from shoal.engine.local.detached import stop_session


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the sessions of this test are; after it there is nothing left."""
    folder = tmp_path_factory.mktemp("s")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("SHOAL_ADDRESS", raising=False)
    assert places.homes() == [f"{folder}/shoal-{os.geteuid()}"]  # nobody else's sessions are there
    yield folder
    shoal.shutdown()
    try:
        until(lambda: not list(folder.iterdir()))
    finally:
        for place in places.sessions():  # detached ones of a test that failed
            stop_session(place)


@pytest.fixture
def peer(home: Path) -> Iterator[Callable[..., Peer]]:
    """Makes peers; with an address they join that session first."""
    made: list[Peer] = []

    def make(address: str | None = None, *command: str, **kwargs: object) -> Peer:
        one = Peer(*command, **kwargs)
        made.append(one)
        one("import numpy as np, os, shoal, signal, sys")
        if address is not None:
            one(f"context = shoal.init(address={address!r})")
        return one

    yield make
    for one in made:
        one.close()
