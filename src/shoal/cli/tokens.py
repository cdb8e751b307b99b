"""Token files: what a session that is shared with containers asks of those who join."""

from __future__ import annotations

import argparse
import os


def add_option(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--token-file", metavar="FILE", help=text)


def read(path: str | None) -> str | None:
    """The token in the file. Raises ValueError for an empty one, OSError."""
    if path is None:
        return None
    with open(path) as file:
        token = file.read().strip()
    if not token:
        raise ValueError(f"the token file {path} is empty")
    return token


def read_or_make(path: str | None) -> str | None:
    """... a file that is not there gets a token of its own, for its owner's eyes only."""
    if path is not None:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(fd, "w") as file:
                file.write(os.urandom(24).hex() + "\n")
    return read(path)
