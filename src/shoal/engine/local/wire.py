"""What is said on a session's socket: a request and its answer, one message each (SOCK_SEQPACKET keeps them whole).

    magic, protocol, kind, then JSON:  JOIN -> WELCOME with the descriptors of arena and eventfd, or REFUSED
                                       STATUS -> FACTS, or REFUSED
                                       LEAVE (by a guest) -> the end of the connection, once all is given back
                                       ENDS (by a guest whose program is over) -> nothing; its process's end is no death

The supervisor reads nothing longer than MAX_REQUEST and believes nothing that it reads: JSON, whose fields are looked at.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import Any

from shoal import _core

MAGIC = b"\x89SHOAL\r\n"
PROTOCOL = 1
JOIN, STATUS, LEAVE, WELCOME, FACTS, REFUSED, ENDS = range(1, 8)
MAX_REQUEST = 16 << 10
MAX_ANSWER = 128 << 10
LONGEST_TOKEN = 4096
_HEAD = struct.Struct("<8sHH")


class Garbage(ValueError):
    """This is no message of ours."""


def pack(kind: int, fields: dict[str, Any]) -> bytes:
    return _HEAD.pack(MAGIC, PROTOCOL, kind) + json.dumps(fields).encode()


def unpack(data: bytes) -> tuple[int, int, dict[str, Any]]:
    """Protocol, kind and fields of a message. Raises Garbage."""
    if len(data) < _HEAD.size:
        raise Garbage("too short")
    magic, protocol, kind = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise Garbage("not a message of Shoal's")
    if protocol != PROTOCOL and kind != REFUSED:  # what it says may be anything; a refusal says why in every version
        return protocol, kind, {}
    try:
        fields = json.loads(data[_HEAD.size :])
    except (ValueError, RecursionError) as error:
        raise Garbage(str(error)) from None
    if not isinstance(fields, dict):
        raise Garbage("no fields")
    return protocol, kind, fields


def versions() -> dict[str, Any]:
    """What two processes must have in common to share memory and pickles."""
    return {
        "shoal": _core.VERSION,
        "python": "{}.{}".format(*sys.version_info),
        "protocol": PROTOCOL,
        "arena": f"{_core.ABI_VERSION}/{_core.ABI_LAYOUT}",
    }
