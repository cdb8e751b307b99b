"""What workers print, on its way to the driver.

    print() in a worker -> TaskStream -> one pipe of the session -> OutputPrinter in the driver -> its sys.stdout
    C code, faulthandler -> fd 1 and 2 of the worker -> a pipe to the supervisor -> the same session pipe

A detached session has no driver. There the pipe's place is taken by its log file, to which everybody appends whole lines.

The session pipe carries frames of at most PIPE_BUF bytes, which the kernel keeps whole whoever else writes. A frame says
which stream it is, the pid, and the name of what was running, so that the driver can put it before every line. A frame
without text ends a line that was begun; one for stream 0 ends the session's output.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import struct
import sys
import threading
from typing import Any

from shoal import _core

_HEAD = struct.Struct("<BBHI")  # stream (1 or 2), length of the name, length of the text, pid
_MOST = 4096 - _HEAD.size  # PIPE_BUF is 4096 on Linux
_PIPE_SIZE = 1 << 20
LONGEST_LOG = 16 << 20


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
    label = name.encode(errors="replace")[:200]
    if _log is not None:
        _log.text(pid, stream, label, data)
        return
    room = _MOST - len(label)
    try:
        for start in range(0, len(data), room):
            piece = data[start : start + room]
            os.write(pipe, _HEAD.pack(stream, len(label), len(piece), pid) + label + piece)
    except OSError:
        pass


def finish_line(pipe: int, stream: int, pid: int) -> None:
    """The process will write nothing more to that stream: a line that it began is as long as it will be."""
    if _log is not None:
        _log.finish_line(pid, stream)
        return
    try:
        os.write(pipe, _HEAD.pack(stream, 0, 0, pid))
    except OSError:
        pass


def end_output(pipe: int) -> None:
    """All workers are gone. The pipe's end alone would not tell: a process that one of them left behind may hold it."""
    finish_line(pipe, 0, 0)


class TaskStream(io.TextIOBase):
    """sys.stdout or sys.stderr of a worker: sends whole lines as they are finished (without a pipe: nothing)."""

    def __init__(self, pipe: int | None, stream: int) -> None:
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
                self._send(data)
            elif text:
                self._parts.append(text)
        return len(text)

    def flush(self) -> None:
        if self._parts:
            with self._lock:
                data = "".join(self._parts).encode(errors="backslashreplace")
                self._parts = []
            self._send(data)

    def forked(self) -> None:
        """In the child of a fork: what was begun is the parent's to print, and so is a lock that another thread may hold."""
        self._lock = threading.Lock()
        self._parts = []

    def _send(self, data: bytes) -> None:
        _core.said(data)
        if self._pipe is not None:
            send(self._pipe, self._stream, os.getpid(), self.name_now, data)
            if _log is not None and not data.endswith(b"\n"):  # nobody else would know of the line that was begun here
                finish_line(self._pipe, self._stream, os.getpid())

    def fileno(self) -> int:
        return self._stream

    @property
    def buffer(self) -> io.FileIO:
        """For bytes. They take the way of what C code writes."""
        return io.FileIO(self._stream, "wb", closefd=False)

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"


class _Line:
    """A line that is not complete yet."""

    __slots__ = ("parts", "prefix")

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.parts: list[bytes] = []


class Lines:
    """What comes in pieces from many processes, as lines, each after `(name pid=1234)`."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], _Line] = {}  # by (pid, stream)

    def put(self, stream: int, lines: bytes) -> None:
        raise NotImplementedError

    def text(self, pid: int, stream: int, name: bytes, text: bytes) -> None:
        prefix = b"(%b pid=%d) " % (name, pid) if name else b"(pid=%d) " % pid
        line = self._open.get((pid, stream))
        if line is not None and line.prefix != prefix:  # what another task left without a newline
            self.finish_line(pid, stream)
            line = None
        *complete, rest = text.split(b"\n")
        if complete and line is not None:
            complete[0] = b"".join((*line.parts, complete[0]))
            del self._open[pid, stream]
            line = None
        if complete:
            self.put(stream, b"".join(b"%b%b\n" % (prefix, whole) for whole in complete))
        if rest:
            if line is None:
                line = self._open[pid, stream] = _Line(prefix)
            line.parts.append(rest)

    def finish_line(self, pid: int, stream: int) -> None:
        line = self._open.pop((pid, stream), None)
        if line is not None:
            self.put(stream, b"%b%b\n" % (line.prefix, b"".join(line.parts)))


class OutputPrinter(Lines):
    """A thread of the driver that prints what the workers print, each line after `(name pid=1234)`."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self._pipe = pipe
        self._thread = threading.Thread(target=self._run, name="shoal-output", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads
            os.close(pipe)
            raise

    def close_pipe(self) -> None:
        """At the end of it; and in the child of a fork, where the thread is the parent's, the copy of the pipe in nobody's use."""
        pipe, self._pipe = self._pipe, -1
        if pipe >= 0:
            with contextlib.suppress(OSError):  # the program has closed it
                os.close(pipe)

    def close(self) -> None:
        """Print what is left; the supervisor has sent the end of it, or is dead and its end of the pipe closed."""
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        left = b""
        going = True
        while going:
            try:
                data = os.read(self._pipe, 1 << 16)
            except OSError:
                break
            left, going = self._frames(left + data) if data else (b"", False)
        for pid, stream in list(self._open):
            self.finish_line(pid, stream)
        self.close_pipe()

    def _frames(self, data: bytes) -> tuple[bytes, bool]:
        """Print the frames of `data`; returns what is left of it, and whether more is to come."""
        at = 0
        while len(data) - at >= _HEAD.size:
            stream, name_size, size, pid = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + name_size + size
            if end > len(data):
                break
            if stream == 0:
                return b"", False
            if size:
                name = data[at + _HEAD.size : end - size]
                self.text(pid, stream, name, data[end - size : end])
            else:
                self.finish_line(pid, stream)
            at = end
        return data[at:], True

    def put(self, stream: int, lines: bytes) -> None:
        target: Any = sys.stderr if stream == 2 else sys.stdout
        text = lines.decode(errors="replace")
        try:
            try:
                target.write(text)
            except UnicodeEncodeError:  # the driver's output knows fewer characters than its workers
                target.write(text.encode(target.encoding, "backslashreplace").decode(target.encoding))
            target.flush()
        except Exception:  # the driver has closed its output, or put an object of its own there; workers must not stall
            pass


class LogFile(Lines):
    """The log of a detached session, open for appending. Each process has one of these."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def put(self, stream: int, lines: bytes) -> None:
        try:
            if os.fstat(self._fd).st_size + len(lines) > LONGEST_LOG:  # its directory may lie in memory
                os.ftruncate(self._fd, 0)
                os.write(self._fd, b"(older output was dropped)\n")
            while lines:
                lines = lines[os.write(self._fd, lines) :]
        except OSError:  # the disk is full: workers must not stall for that
            pass


_log: LogFile | None = None  # of this process and those it forks; None: output goes through the pipe


def log_to(fd: int) -> None:
    """From now on, what would go to the session's pipe is appended to that file."""
    global _log
    _log = LogFile(fd)
