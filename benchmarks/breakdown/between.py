"""The same calls between two processes: what a user waits for. Prints a line of JSON: nanoseconds of one
call.
"""

from __future__ import annotations

import json

import shoal
from benchmarks.measure import Plan, rates, summary
from benchmarks.peers.physical import Physical
from benchmarks.rows import ASLEEP, SPINNING


def measure(plan: Plan) -> dict[str, float]:
    """Nanoseconds by name."""

    class Small:
        def small_value(self) -> bytes:
            return b"ok"

    def small_value() -> bytes:
        return b"ok"

    def ns(samples: list[float]) -> float:
        return 1e9 / float(summary(samples)["median"])

    found: dict[str, float] = {}
    with shoal.init(num_cpus=1):
        task, actor = shoal.remote(small_value), shoal.remote(num_cpus=0)(Small).remote()
        get = shoal.get
        found["task, synchronous"] = ns(rates(lambda: get(task.remote()), 1, plan))
        found["task, pipelined"] = ns(rates(lambda: get([task.remote() for _ in range(1000)]), 1000, plan))
        call = actor.small_value
        found["actor call, synchronous"] = ns(rates(lambda: get(call.remote()), 1, plan))
        found["actor call, pipelined"] = ns(rates(lambda: get([call.remote() for _ in range(1000)]), 1000, plan))
    with Physical(2) as physical:
        for name in (SPINNING, ASLEEP):
            found[name] = ns(physical.loops()[name](plan))  # type: ignore[arg-type]
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Plan(slices=5))))
