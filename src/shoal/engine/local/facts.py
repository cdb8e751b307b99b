"""What `shoal status` is told of a session, by its supervisor."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from shoal import _core
from shoal._options import RESOURCE_UNIT

if TYPE_CHECKING:
    from shoal.engine.local.supervisor import Supervisor

_ROLES = {
    _core.DRIVER: "driver",
    _core.SUPERVISOR: "supervisor",
    _core.WORKER: "worker",
    _core.ACTOR: "actor",
    _core.GUEST: "guest",
}
_MOST = 100  # processes and names that are told one by one


def session_facts(supervisor: Supervisor) -> dict[str, Any]:
    processes = []
    counts = dict.fromkeys(_ROLES.values(), 0)
    busy = 0
    for p in _core.processes():
        role = _ROLES.get(p["role"])
        if role is None:  # not there yet
            continue
        counts[role] += 1
        busy += role == "worker" and p["running"]
        processes.append({"pid": p["pid"], "role": role, "does": p["label"] if p["running"] or role == "actor" else ""})
    resources = {}
    for name, (total, free) in _core.resources().items():
        unit = 1 if name == "memory" else RESOURCE_UNIT
        if total:
            resources[name] = [(total - free) / unit, total / unit]
    names = []
    for key, _ in _core.name_list(1):  # NAMES_ACTOR in core/abi.h
        namespace, _, name = key.partition("\0")
        names.append({"name": name, "namespace": namespace})
    statistics = _core.statistics()  # counts the objects: once is enough
    return {
        "name": supervisor.config["name"],
        "detached": supervisor.driver < 0,
        "pid": os.getpid(),
        "uptime_s": round(time.monotonic() - supervisor.started, 3),
        "counts": counts,
        "busy_workers": busy,
        "processes": processes[:_MOST],
        "resources": resources,
        "actor_names": names[:_MOST],
        "memory": {k: v for k, v in statistics.items() if k.endswith("_bytes") or k == "objects"},
        "tasks": {k: v for k, v in statistics.items() if k.startswith("tasks_")},
        "deaths": statistics["deaths"],
    }
