"""One peer in a process of its own: `python -m benchmarks.child`, started by run.py.

Its orders are a JSON object in the only argument; its results are lines of JSON on the file descriptor named
there, because peers print what they like on the standard output.

    {"start": ROW}    it measures ROW now
    {"row": ROW, "samples": [...], "check": NUMBER or null}    and "beside": {REFERENCE: [...]}, if that was measured with it
    {"row": ROW, "missing": REASON}
    {"missing": REASON}    the peer cannot be had at all
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any

from benchmarks.measure import Plan
from benchmarks.peers import PEERS, Beside, Checked, Peer, Unavailable, load


def main(orders: dict[str, Any]) -> None:
    """Measure the rows asked for."""
    out = os.fdopen(orders["fd"], "w", buffering=1)
    plan = Plan(**orders["plan"])

    def tell(**what: Any) -> None:
        out.write(json.dumps(what) + "\n")

    name = orders["peer"]
    package = PEERS[name].package if name in PEERS else ""
    if package and importlib.util.find_spec(package) is None:
        tell(missing=f"{package} is not installed")
        return
    try:
        tell(start="")
        with load(name, orders["cores"]) as peer:
            for row in orders["rows"]:
                tell(start=row)
                tell(row=row, **measure(peer, row, plan))
            tell(start="")  # its end has a time limit too
    except Exception as error:
        tell(missing=f"{type(error).__name__}: {_first_line(error)}")


def measure(peer: Peer, row: str, plan: Plan) -> dict[str, Any]:
    """What to tell about one row."""
    loop = peer.loops().get(row)
    if loop is None:
        return {"missing": "it does not do this"}
    try:
        result = loop(plan)
    except Unavailable as error:
        return {"missing": str(error)}
    except Exception as error:
        return {"missing": f"{type(error).__name__}: {_first_line(error)}"}
    if isinstance(result, Checked):
        return {"samples": result.samples, "check": result.check}
    if isinstance(result, Beside):
        return {"samples": result.samples, "check": None, "beside": {result.reference: result.reference_samples}}
    return {"samples": result, "check": None}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
