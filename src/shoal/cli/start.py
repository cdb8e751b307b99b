"""`shoal start`: a session that no program has to keep alive."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from shoal.cli import tokens

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def add(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "start",
        help="start a session that goes on until it is stopped",
        description="Start a session that goes on until `shoal stop`. Programs join it with shoal.init(address=NAME).",
    )
    parser.add_argument("--name", help="what it is joined and stopped by (default: a short one is made up)")
    parser.add_argument("--num-cpus", type=float, metavar="N", help="tasks that run at a time (default: the cores of this machine)")
    parser.add_argument("--num-gpus", type=float, metavar="N", help="GPUs to schedule (default: those in CUDA_VISIBLE_DEVICES)")
    parser.add_argument("--resources", metavar="JSON", type=_resources, help="""further resources, as in '{"license": 2}'""")
    parser.add_argument(
        "--object-store-memory", metavar="SIZE", type=_size, help="limit of the shared memory, as in 8G (default: 60 %% of all)"
    )
    parser.add_argument("--namespace", help="in which names of actors are looked up (default: default)")
    tokens.add_option(parser, "ask those who join for the token in FILE; a FILE that is not there is made")
    parser.set_defaults(run=run)


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: a number of bytes, or one with K, M, G or T, as in 8G")
    return int(float(found[1]) * _UNITS[found[2]])


def _resources(text: str) -> dict[str, float]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"""{text!r} is not what it should be: JSON, as in '{{"license": 2}}'""")
    return value


def run(options: argparse.Namespace) -> int:
    from shoal.engine.local.detached import start_detached

    place, facts = start_detached(
        {
            "session_name": options.name,
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
            "resources": options.resources,
            "object_store_memory": options.object_store_memory,
            "namespace": options.namespace,
            "token": tokens.read_or_make(options.token_file),
        }
    )
    token = f", token=open({options.token_file!r}).read().strip()" if options.token_file else ""
    cpus = facts["resources"].get("CPU", [0, 0])[1]
    has = f"{cpus:g} {'CPU' if cpus == 1 else 'CPUs'}, {facts['memory']['limit_bytes'] / (1 << 30):.1f} GB of shared memory"
    print(f"Session {place.name} is running: {has}.\n")
    print(f"  join it     shoal.init(address={place.name!r}{token})")
    print(f"              or set SHOAL_ADDRESS={place.name}; from a container mount {place.folder}")
    print(f"              and use shoal.init(address='/where/it/is/mounted/socket'{token})")
    print("  look at it  shoal status")
    print(f"  its output  {place.log}")
    print(f"  end it      shoal stop {place.name}")
    return 0
