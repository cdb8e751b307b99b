"""Other processes, for the tests of this folder: each does what it is told, line by line. And a temporary folder of the
test's own, in which nothing may be left."""

from __future__ import annotations

import ast
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shoal
from conftest import until
from shoal.engine.local import places

LIMIT_S = 60  # only a failure waits for so long

_LOOP = r"""
import ast, json, os, sys
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
scope = {"__name__": "__main__"}
for line in sys.stdin:
    try:
        code = json.loads(line)
        tree = ast.parse(code)
        value = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
            exec(compile(tree, "<peer>", "exec"), scope)
            value = eval(compile(last, "<peer>", "eval"), scope)
        else:
            exec(compile(tree, "<peer>", "exec"), scope)
        said = ["value", repr(value)]
        del value
    except BaseException as error:
        said = [type(error).__name__, str(error)]
    print(json.dumps(said), file=out, flush=True)
"""


class PeerError(Exception):
    """What was raised in the peer: `kind` is the name of its class."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Peer:
    """A Python process. `peer("1 + 1")` runs code in it and returns the value of its last expression."""

    def __init__(self, *command: str, **kwargs: Any) -> None:
        self.process = subprocess.Popen(
            [*command, sys.executable, "-c", _LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, **kwargs
        )
        self.pid = self.process.pid

    def start(self, code: str) -> Peer:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()
        return self

    def result(self, seconds: float = LIMIT_S) -> Any:
        out: Any = self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            assert selector.select(seconds), "the peer does not answer"
        line = out.readline()
        assert line, f"the peer ended with {self.process.wait(LIMIT_S)}"
        kind, text = json.loads(line)
        if kind != "value":
            raise PeerError(kind, text)
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    def __call__(self, code: str) -> Any:
        return self.start(code).result()

    def error(self, code: str) -> PeerError:
        """What running `code` raises."""
        return self.start(code).failure()

    def failure(self) -> PeerError:
        try:
            value = self.result()
        except PeerError as error:
            return error
        raise AssertionError(f"no error, but {value!r}")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(LIMIT_S)

    def leave(self) -> int:
        """Let it come to its end by itself."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT_S)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    pass


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
    until(lambda: not list(folder.iterdir()))


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
