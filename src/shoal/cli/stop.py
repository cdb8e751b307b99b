"""`shoal stop`: the end of a session and of all its processes."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "stop",
        help="end a session and all its processes",
        description="End a session and all its processes. Without a NAME: the only one that was started with `shoal start`.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="all sessions of this user, also those of running programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from shoal.engine.local import places
    from shoal.engine.local.detached import stop_session

    swept: list[str] = []
    known = places.sessions(swept)
    if options.all:
        chosen = known
    elif options.name is not None:
        chosen = [place for place in known if place.name == options.name]
        if not chosen and options.name not in swept:
            print(f"shoal: you have no session named {options.name!r}{_have(known)}", file=sys.stderr)
            return 1
    else:
        chosen = [place for place in known if place.detached]
        if len(chosen) > 1:
            print(f"shoal: say which{_have(chosen)}; or --all", file=sys.stderr)
            return 1
        if not chosen and known:
            print(f"shoal: none of your sessions was started with `shoal start`{_have(known)}; name one to end it", file=sys.stderr)
            return 1
    for name in swept:
        print(f"{name} had ended already, without having been stopped: what it left is removed.")
    for place in chosen:
        how = stop_session(place)
        print(f"{place.name} has ended{'' if how == 'ended' else ': it did not answer and was killed'}.")
    if not chosen and not swept:
        print("There is no session.")
    return 0


def _have(places: list[Any]) -> str:
    return f"; you have: {', '.join(place.name for place in places)}" if places else ""
