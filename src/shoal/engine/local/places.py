"""Where sessions are found: a directory for each, in a directory of the user's own.

    $XDG_RUNTIME_DIR/shoal/NAME/socket          or          /tmp/shoal-UID/NAME/socket

The outer directory is 0700 and the user's, or is not used. A session's directory is made under another name and gets
its own once its socket is listened to: so a socket that refuses connections has lost its session, and may be removed.
Whoever removes things goes by the open directory, never by the name, which may be another session's by then.
"""

from __future__ import annotations

import os
import re
import stat
import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_SEQPACKET
from _socket import socket as _Socket  # the module socket takes ten times as long to import

from shoal.exceptions import SessionError, SessionExistsError

SOCKET, LOG = "socket", "log"
BACKLOG = 128
HALF_MADE_S = 60
LONGEST_PATH = 107  # of a socket; sun_path less its NUL
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOW = ("brave", "brisk", "calm", "clear", "cool", "deep", "eager", "early", "fair", "fleet", "fond", "free", "glad", "grand",
        "happy", "keen", "kind", "late", "light", "lucky", "merry", "mild", "neat", "proud", "quick", "quiet", "sharp", "shy",
        "silver", "swift", "warm", "wise")  # fmt: skip
_WHO = ("anchovy", "barbel", "bass", "bream", "carp", "char", "cod", "dace", "eel", "goby", "grouper", "haddock", "hake",
        "halibut", "herring", "ide", "ling", "mackerel", "minnow", "mullet", "perch", "pike", "plaice", "roach", "salmon",
        "sardine", "shad", "smelt", "sole", "sprat", "trout", "tuna")  # fmt: skip


class Unsafe(SessionError):
    """The directory for sessions cannot be used; the text says why."""


def default_name() -> str:
    """Short, readable, and hardly ever taken."""
    a, b, c, d = os.urandom(4)
    return f"{_HOW[a % 32]}-{_WHO[b % 32]}-{(c << 8 | d) % 1000}"


def check_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a session is a string, not {name!r}")
    if not _NAME.fullmatch(name) or name in ("auto", "local"):
        raise ValueError(
            f"{name!r} cannot be the name of a session: letters, digits, '.', '_' and '-', 64 at most, not 'auto' or 'local'"
        )
    return name


def homes() -> list[str]:
    """The directories in which this user's sessions are looked for; new ones are made in the first."""
    uid = os.geteuid()
    found = []
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    try:
        if runtime and os.stat(runtime).st_uid == uid and os.access(runtime, os.W_OK):
            found.append(os.path.join(runtime, "shoal"))
    except OSError:
        pass
    folder = os.environ.get("TMPDIR")
    found.append(os.path.join(folder if folder and os.access(folder, os.W_OK) else "/tmp", f"shoal-{uid}"))
    return found


def unsafe(home: str) -> str:
    """Why nothing in that directory may be trusted; empty if it may."""
    try:
        facts = os.lstat(home)
    except OSError as error:
        return f"{home}: {error.strerror}"
    if not stat.S_ISDIR(facts.st_mode):
        return f"{home} is not a directory"
    if facts.st_uid != os.geteuid():
        return f"{home} belongs to user {facts.st_uid}, not to {os.geteuid()}"
    if facts.st_mode & 0o077:
        return f"{home} is open to others (mode {stat.S_IMODE(facts.st_mode):04o}; it must be 0700)"
    return ""


class Place:
    """The directory of one session, and what listens in it."""

    def __init__(self, home: str, name: str) -> None:
        self.name = name
        self.folder = os.path.join(home, name)

    @property
    def socket(self) -> str:
        return os.path.join(self.folder, SOCKET)

    @property
    def log(self) -> str:
        return os.path.join(self.folder, LOG)

    @property
    def detached(self) -> bool:
        """Was it started with `shoal start`?"""
        return os.path.exists(self.log)

    def listen(self) -> int:
        """Take the name; returns the descriptor of the socket. Raises SessionExistsError, Unsafe, OSError."""
        home = os.path.dirname(self.folder)
        for _ in range(100):  # the last session that ends removes the directory
            try:
                os.mkdir(home, 0o700)
            except FileExistsError:
                pass
            if why := unsafe(home):
                if not os.path.lexists(home):
                    continue
                raise Unsafe(f"no session can be joined here: {why}")
            making = os.path.join(home, f".{os.urandom(8).hex()}")
            try:
                os.mkdir(making, 0o700)
            except FileNotFoundError:
                continue
            break
        else:
            raise Unsafe(f"no session can be joined here: {home} goes as often as it is made")
        fd = -1
        try:
            door = _Socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
            fd = door.detach()
            at = os.path.join(making, SOCKET)
            with _short(at) as short:
                door = _Socket(AF_UNIX, SOCK_SEQPACKET, 0, os.dup(fd))
                try:
                    door.bind(short)
                    os.chmod(at, 0o600)
                    door.listen(BACKLOG)
                finally:
                    door.close()
            self._take_name(making)
            return fd
        except BaseException:
            if fd >= 0:
                os.close(fd)
            _clear(making)
            _remove_home(home)
            raise

    def _take_name(self, making: str) -> None:
        for _ in range(3):
            try:
                os.rename(making, self.folder)  # fails where there is one, unless it is empty
                return
            except OSError:
                if not os.path.lexists(self.folder):
                    raise
            if not self.sweep():
                break
        raise SessionExistsError(
            f"there is a session named {self.name!r} already: join it with shoal.init(address={self.name!r}), end it with "
            f"`shoal stop {self.name}`, or choose another name"
        )

    def sweep(self) -> bool:
        """Remove what a session left that was killed with its supervisor; False: it is alive."""
        try:
            held = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return not os.path.lexists(self.folder)
        try:
            if alive(self.socket):
                return False
            _empty(held)
        finally:
            os.close(held)
        _rmdir(self.folder)
        _remove_home(os.path.dirname(self.folder))
        return True

    def remove(self) -> None:
        """Of a session that has ended, by one of its processes."""
        self.sweep()


def alive(path: str) -> bool:
    """Does anybody listen there?"""
    probe = _Socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    try:
        probe.setblocking(False)
        with _short(path) as short:
            probe.connect(short)
        return True
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:  # its queue is full, or it is not ours to ask
        return True
    finally:
        probe.close()


def sessions(swept: list[str] | None = None) -> list[Place]:
    """This user's sessions that are alive; what others have left behind is removed (`swept` gets their names)."""
    found = []
    for home in homes():
        if unsafe(home):
            continue
        try:
            names = sorted(os.listdir(home))
        except OSError:
            continue
        for name in names:
            place = Place(home, name)
            if name.startswith("."):
                if _old(place.folder):  # half made, and that takes no second
                    place.sweep()
            elif not _NAME.fullmatch(name):
                continue
            elif not place.sweep():
                found.append(place)
            elif swept is not None:
                swept.append(name)
        _remove_home(home)
    return found


def find(name: str) -> Place | None:
    return next((place for place in sessions() if place.name == name), None)


def make(name: str | None) -> tuple[Place, int]:
    """A place for a new session, and the descriptor of its socket. Without a name it gets one."""
    home = homes()[0]
    if name is not None:
        place = find(name) or Place(home, name)  # in another home it is taken, too
        return place, place.listen()
    while True:
        place = Place(home, default_name())
        try:
            return place, place.listen()
        except SessionExistsError:
            continue


def _old(folder: str) -> bool:
    try:
        return os.stat(folder).st_mtime < time.time() - HALF_MADE_S
    except OSError:
        return False


def _empty(folder: int) -> None:
    for name in os.listdir(folder):
        try:
            os.unlink(name, dir_fd=folder)
        except OSError:
            pass


def _clear(folder: str) -> None:
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _empty(held)
    finally:
        os.close(held)
    _rmdir(folder)


def _rmdir(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError:  # another session has it by now, or it is gone
        pass


_remove_home = _rmdir  # which fails as long as a session is in it


class _short:
    """A path by which the socket can be named, however long its own is."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._folder = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= LONGEST_PATH:
            return self._path
        self._folder = os.open(os.path.dirname(self._path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._folder}/{os.path.basename(self._path)}"

    def __exit__(self, *_: object) -> None:
        if self._folder >= 0:
            os.close(self._folder)


short = _short
