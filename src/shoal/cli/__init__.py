"""The command `shoal`. Each of its subcommands is a module here with a function `add(commands)`, which makes its parser and
sets `run`, a function of the parsed arguments that returns the exit code. Nothing here is imported by `import shoal`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from shoal import _core
from shoal.cli import doctor, start, status, stop
from shoal.exceptions import LimitError, ObjectStoreFullError, SessionError

COMMANDS: tuple[Any, ...] = (start, status, stop, doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for what went wrong, 2 for a mistake in the arguments."""
    parser = argparse.ArgumentParser(prog="shoal", description="Sessions of Shoal on this machine.")
    parser.add_argument("--version", action="version", version=f"shoal {_core.VERSION}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (SessionError, LimitError, ObjectStoreFullError, ValueError, TypeError, OSError) as error:
        print(f"shoal: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
