"""What a driver and a guest have in common: how a process takes part in a session, from its start until it has left."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from shoal import _core, _futures
from shoal import engine as engines
from shoal.engine.local.engine import LocalEngine


class CtrlCLater:
    """Within it a Ctrl-C waits for the end of the block: half a session started or ended would be worse. A second one does not."""

    def __init__(self) -> None:
        self._before: Any = None
        self._came = False

    def __enter__(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._note)
            self._before = before

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            self._before(number, frame)
        self._came = True

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if self._came:
                self._before(signal.SIGINT, sys._getframe())


class Membership:
    """A process's part in a session. A kind of it says how the session is entered (`_enter`) and left (`_leave`)."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.engine: LocalEngine | None = None

    def start(self, settings: dict[str, Any]) -> LocalEngine:
        try:
            with CtrlCLater():
                engine = self._enter(settings)
                engines.use(engine)
            return engine
        except BaseException:
            self.end()
            raise

    def _enter(self, settings: dict[str, Any]) -> LocalEngine:
        raise NotImplementedError

    def _leave(self) -> None:
        """Nothing of this process uses the session any more but threads that begin to wait just now."""
        raise NotImplementedError

    def _use(self, config: dict[str, Any], mode: str) -> LocalEngine:
        """The engine, now that the process is a participant."""
        self.engine = LocalEngine({**config, "on_shutdown": self.end})
        self.engine.process_facts = {"mode": mode}
        atexit.register(self._at_exit)
        return self.engine

    def forked(self) -> None:
        """This is the copy of a fork: what it has of the session's descriptors is closed, without a word to the session."""
        atexit.unregister(self._at_exit)
        self.engine = None

    def _at_exit(self) -> None:
        # The threads that Python waits for at its exit are done by now.
        engines.at_exit()

    def end(self) -> None:
        """Take no part any more."""
        if os.getpid() != self.owner or not _core.attached():  # a fork leaves the parent's session alone
            return
        with CtrlCLater():
            atexit.unregister(self._at_exit)
            if self.engine is not None and engines.current_or_none() is self.engine:
                engines.use(None)
            _futures.close_all()
            self._leave()
