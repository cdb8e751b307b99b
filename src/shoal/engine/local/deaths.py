"""What can be told of a process that died: why it did, what it printed last, where its Python code was."""

from __future__ import annotations

import os
import signal
from typing import Any

from shoal import _core, exceptions
from shoal.engine.local.engine import ACTOR_NAMES

RAW_KEPT = 8192  # bytes of what native code wrote: a stack of faulthandler's is a few thousand
_LINES, _WIDTH = 20, 400  # of its last output that are shown
_STACK = b"Fatal Python error: "  # faulthandler's first words
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
_BY_KERNEL = " (by the kernel, for lack of memory)"
_HINTS = {
    "SIGKILL": " (killed from outside, or by the kernel for lack of memory)",
    "SIGSEGV": " (a crash in native code)",
    "SIGBUS": " (a crash in native code)",
    "SIGFPE": " (a crash in native code)",
    "SIGILL": " (a crash in native code)",
    "SIGABRT": " (native code gave up)",
}


def kernel_kills() -> int:
    """How many processes the kernel has ended for lack of memory: of this container if it counts them, else of the machine."""
    for path, field in (("/sys/fs/cgroup/memory.events", "oom_kill "), ("/proc/vmstat", "oom_kill ")):
        try:
            with open(path) as file:
                for line in file:
                    if line.startswith(field):
                        return int(line.split()[1])
        except (OSError, ValueError, IndexError):
            continue
    return 0


class Death:
    """Of one worker process, at its burial: `reason` is a verb with what belongs to it ("died of SIGKILL")."""

    def __init__(
        self, slot: int, pid: int, code: int, why: str | None, raw: bytes = b"", raw_of: int = 0, out_of_memory: bool = False
    ) -> None:
        """`code` as from waitstatus_to_exitcode; `why`: the supervisor ended it; `raw`: what native code wrote in task `raw_of`."""
        self.pid = pid
        self.code = code
        self.exit_code = code if code >= 0 else None
        self.signal_name = None if code >= 0 else _signal_name(-code)
        if why:
            self.reason = why
        elif code >= 0:
            self.reason = f"exited with code {code}"
        elif self.signal_name == "SIGKILL" and out_of_memory:
            self.reason = f"died of SIGKILL{_BY_KERNEL}"
        else:
            self.reason = f"died of {self.signal_name}{_HINTS.get(self.signal_name or '', '')}"
        self._said_by, said, cut = _core.last_words(slot)
        self._said = said.partition(b"\n")[2] if cut else said
        raw, found, stack = raw.partition(_STACK)
        self._raw, self._raw_by = raw, raw_of
        self.python_stack = _clean_stack(found + stack) if found and self.signal_name else ""

    def last_output(self, task: int | None) -> str:
        """The last lines that were printed by the task with that id, or by an actor (None)."""
        texts = [
            self._said if task is None or task == self._said_by else b"",
            self._raw if task is None or task == self._raw_by else b"",
        ]
        lines = [line for text in texts for line in text.decode(errors="replace").splitlines()]
        return "\n".join(line if len(line) <= _WIDTH else line[:_WIDTH] + "..." for line in lines[-_LINES:])

    def details(self, output: str) -> str:
        """To be put behind the sentence that says what happened."""
        text = ""
        if self.python_stack:
            text += f"\nWhere its Python code was:\n{_indented(self.python_stack)}"
        if output:
            text += f"\nWhat it printed last:\n{_indented(output)}"
        return text

    def tell(self, error: Any, output: str) -> Any:
        """The same as attributes of the error (a ProcessDeath)."""
        error.exit_code, error.signal_name = self.exit_code, self.signal_name
        error.last_output, error.python_stack = output, self.python_stack
        return error

    def crashed(self, name: str, task: int, attempt: int) -> exceptions.WorkerCrashedError:
        output = self.last_output(task)
        tries = f" ({attempt + 1} attempts, no retry is left)" if attempt else ""
        error = exceptions.WorkerCrashedError(
            f"the worker (pid {self.pid}) that ran {name}() {self.reason}{tries}. "
            f"max_retries= says how often such a task is run again{self.details(output)}"
        )
        error.task_name, error.pid, error.attempt = name, self.pid, attempt
        return self.tell(error, output)  # type: ignore[no-any-return]

    def actor_died(self, actor: int, class_name: str, during: str = "", reason: str | None = None) -> exceptions.ActorDiedError:
        """`during`: what it was doing; `reason`: if the actor knows better than its process."""
        output = self.last_output(None)
        error = exceptions.ActorDiedError(
            f"its process {reason or self.reason}{during}{self.details(output)}",
            actor_id=f"{actor:032x}",
            class_name=class_name,
            name=_actor_name(actor),
            pid=self.pid,
        )
        return self.tell(error, output)  # type: ignore[no-any-return]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _actor_name(actor: int) -> str | None:
    for key, named in _core.name_list(ACTOR_NAMES):
        if named == actor:
            return key.partition("\0")[2]
    return None


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines()).rstrip("\n")


def _clean_stack(stack: bytes) -> str:
    """Without the frames that start every worker, and without the list of all extension modules."""
    lines = []
    for line in stack.decode(errors="replace").splitlines():
        if line.startswith("Extension modules:"):
            break
        if f'File "{_PACKAGE}' not in line and 'File "<string>"' not in line and line.strip():
            lines.append(line)
    return "\n".join(lines)
