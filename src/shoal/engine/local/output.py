"""What workers print, on its way to the driver.

    print() in a worker -> TaskStream -> one pipe of the session -> OutputPrinter in the driver -> its sys.stdout
    C code, faulthandler -> fd 1 and 2 of the worker -> a pipe to the supervisor -> the same session pipe

The session pipe carries frames of at most PIPE_BUF bytes, which the kernel keeps whole whoever else writes. A frame says
which stream it is, the pid, and the name of what was running, so that the driver can put it before every line.
"""

from __future__ import annotations

import fcntl
import io
import os
import struct
import sys
import threading
from typing import Any

_HEAD = struct.Struct("<BBHI")  # stream (1 or 2), length of the name, length of the text, pid
_MOST = 4096 - _HEAD.size  # PIPE_BUF is 4096 on Linux
_PIPE_SIZE = 1 << 20


def make_pipe() -> tuple[int, int]:
    """The session's pipe, large enough that a worker seldom waits for a busy driver."""
    read_end, write_end = os.pipe()
    try:
        fcntl.fcntl(write_end, 1031, _PIPE_SIZE)  # F_SETPIPE_SZ
    except OSError:
        pass  # above the user's limit: the default size will do
    return read_end, write_end


def send(pipe: int, stream: int, pid: int, name: str, data: bytes) -> None:
    """Write `data` as frames. A pipe that nobody reads any more is no error: there is nobody to tell."""
    label = name.encode()[:200]
    room = _MOST - len(label)
    for start in range(0, len(data), room):
        piece = data[start : start + room]
        try:
            os.write(pipe, _HEAD.pack(stream, len(label), len(piece), pid) + label + piece)
        except (BrokenPipeError, OSError):
            return


class TaskStream(io.TextIOBase):
    """sys.stdout or sys.stderr of a worker: sends whole lines as they are finished."""

    def __init__(self, pipe: int, stream: int) -> None:
        self._pipe = pipe
        self._stream = stream
        self._parts: list[str] = []
        self._lock = threading.Lock()
        self.name_now = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            head, newline, tail = text.rpartition("\n")
            if newline:
                self._parts.append(head + "\n")
                data = "".join(self._parts).encode(errors="backslashreplace")
                self._parts = [tail] if tail else []
                send(self._pipe, self._stream, os.getpid(), self.name_now, data)
            elif text:
                self._parts.append(text)
        return len(text)

    def flush(self) -> None:
        if self._parts:
            with self._lock:
                data = "".join(self._parts).encode(errors="backslashreplace")
                self._parts = []
            send(self._pipe, self._stream, os.getpid(), self.name_now, data)

    def fileno(self) -> int:
        return self._stream

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"


class OutputPrinter:
    """A thread of the driver that prints what the workers print, each line after `(name pid=1234)`."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._open: dict[tuple[int, int], str] = {}  # line begun by (pid, stream)
        self._thread = threading.Thread(target=self._run, name="shoal-output", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Print what is left. All writers are gone by now, so the end of the pipe comes by itself."""
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        left = b""
        while True:
            try:
                data = os.read(self._pipe, 1 << 16)
            except OSError:
                data = b""
            if not data:
                break
            left = self._frames(left + data)
        for key, text in self._open.items():
            if text:
                self._print(key[1], text + "\n")
        os.close(self._pipe)

    def _frames(self, data: bytes) -> bytes:
        at = 0
        while len(data) - at >= _HEAD.size:
            stream, name_size, size, pid = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + name_size + size
            if end > len(data):
                break
            name = data[at + _HEAD.size : at + _HEAD.size + name_size].decode(errors="replace")
            text = data[end - size : end].decode(errors="replace")
            at = end
            prefix = f"({name} pid={pid}) " if name else f"(pid={pid}) "
            whole = self._open.pop((pid, stream), "")
            lines = text.split("\n")
            lines[0] = (whole or prefix) + lines[0]
            lines[1:] = [prefix + line for line in lines[1:-1]] + ([prefix + lines[-1]] if len(lines) > 1 and lines[-1] else [])
            if not text.endswith("\n"):
                self._open[(pid, stream)] = lines.pop()
            if lines:
                self._print(stream, "\n".join(lines).rstrip("\n") + "\n")
        return data[at:]

    @staticmethod
    def _print(stream: int, text: str) -> None:
        target: Any = sys.stderr if stream == 2 else sys.stdout
        try:
            target.write(text)
            target.flush()
        except (AttributeError, ValueError, OSError):
            pass  # the driver has closed its output
