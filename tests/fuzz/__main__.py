"""Shares the time out among the targets, each in a process of its own."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from tests.fuzz.api import api
from tests.fuzz.targets import TARGETS

ALL = {t.__name__: t for t in [api, *TARGETS]}
TURN_S = 20.0  # a target's process lives for so long, then begins anew with the next seed
MOST_MEMORY = 3 << 30
HANG_S = 90.0  # beyond its time
SHARES = {
    "api": 5,
    "door": 4,
    "answers": 2,
    "settings": 2,
    "boot": 1,
    "messages": 1,
    "frames": 1,
    "references": 1,
    "command_line": 1,
}


def one(name: str, seed: int, seconds: float, notebook: str) -> int:
    """In a process of its own: a target for some time."""
    import faulthandler
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))  # some inputs ask for all there is
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    with open(notebook, "r+b", buffering=0) as file:

        def note(what: object) -> None:
            text = (what if isinstance(what, str) else repr(what)).encode(errors="replace")[:8000]
            os.pwrite(file.fileno(), text.ljust(8000), 0)

        try:
            tried = ALL[name](random.Random(seed), time.monotonic() + seconds, note)
        except BaseException:
            traceback.print_exc()
            return 1
    print(f"tried {tried}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", default="", help=", ".join(ALL))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--notebook", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    if options.one:
        return one(options.one, seed, options.seconds, options.notebook)
    names = options.only.split(",") if options.only else [n for n in ALL for _ in range(SHARES[n])]
    print(f"fuzz: seed {seed}, {options.seconds:g} s", flush=True)
    tried = dict.fromkeys(names, 0)
    end, failures = time.monotonic() + options.seconds, 0
    rng = random.Random(seed)
    order: list[str] = []
    with tempfile.TemporaryDirectory(prefix="shoal-fuzz-") as folder:
        notebook = f"{folder}/latest"
        # Sessions are looked for there and nowhere else: `shoal stop --all` is among the inputs.
        environment = {k: v for k, v in os.environ.items() if k not in ("XDG_RUNTIME_DIR", "SHOAL_ADDRESS")} | {"TMPDIR": folder}
        while time.monotonic() < end:
            if not order:
                order = rng.sample(names, len(names))
            name, turn_seed = order.pop(), rng.randrange(1 << 31)
            with open(notebook, "wb") as file:
                file.write(b" " * 8000)
            seconds = max(1.0, min(TURN_S, end - time.monotonic()))
            command = [
                sys.executable,
                "-m",
                "tests.fuzz",
                "--one",
                name,
                "--seed",
                str(turn_seed),
                "--seconds",
                str(seconds),
                "--notebook",
                notebook,
            ]
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                env=environment,
            )
            try:
                output, _ = process.communicate(timeout=seconds + HANG_S)
                what = f"ended with status {process.returncode}" if process.returncode else ""
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGUSR1)
                time.sleep(1)
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
                what = "hangs"
            if what:
                failures += 1
                with open(notebook, "rb") as file:
                    latest = file.read().rstrip().decode(errors="replace")
                print(
                    f"fuzz: {name} {what} (--only {name} --seed, of its turn: {turn_seed})\n"
                    f"  the latest: {latest[:1500]}\n{output[-5000:]}",
                    flush=True,
                )
            else:
                tried[name] += int(output.rsplit("tried ", 1)[1])
    print(f"fuzz: {sum(tried.values())} inputs: " + ", ".join(f"{n} {tried[n]}" for n in sorted(tried)))
    print(f"fuzz: {failures} failures", flush=True)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
