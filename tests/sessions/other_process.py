"""Other processes, for the tests of this folder: each does what it is told, line by line."""

from __future__ import annotations

import ast
import json
import os
import selectors
import signal
import subprocess
import sys
from typing import Any

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


def gone(pid: int) -> bool:
    """Is that process no more? (A zombie, which nobody reaps here, is none.)"""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter: it went between open and read
        return True
