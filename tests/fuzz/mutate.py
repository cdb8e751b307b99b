"""Mutations: of bytes, of JSON values, and values that few functions expect."""

from __future__ import annotations

import random
from typing import Any

_BYTES = [
    b"\0",
    b"\xff",
    b"\x80",
    b"\n",
    b"{",
    b"]",
    b'"',
    b"\x89SHOAL\r\n",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"9" * 30,
    b"[" * 2000,
]
_INTS = [0, -1, 1, 2**31, -(2**31), 2**32, 2**63, 2**64, -(2**63) - 1, 10**40]


def mutate_bytes(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    result = bytearray(data)
    for _ in range(1 + int(rng.expovariate(0.7))):
        at = rng.randrange(len(result) + 1)
        kind = rng.randrange(8)
        if kind == 0 and result:
            result[at % len(result)] ^= 1 << rng.randrange(8)
        elif kind == 1 and result:
            result[at % len(result)] = rng.randrange(256)
        elif kind == 2:
            result[at:at] = rng.choice(_BYTES)
        elif kind == 3:
            del result[at : at + rng.randrange(1, 20)]
        elif kind == 4:
            result[at:at] = result[at : at + rng.randrange(1, 50)] * rng.randrange(1, 4)
        elif kind == 5:
            del result[at:]
        elif kind == 6 and other:
            result[at:] = other[rng.randrange(len(other)) :]
        else:
            result[at : at + 4] = rng.randbytes(4)
    return bytes(result)


def json_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(10 if depth < 4 else 7)
    if kind == 0:
        return rng.choice(_INTS)
    if kind == 1:
        return rng.choice(["", "x", "\ud800", "\0", "../..", "a" * rng.choice([10, 5000]), "é"])
    if kind == 2:
        return rng.random() * 10 ** rng.randrange(-5, 300)
    if kind in (3, 4):
        return rng.choice([None, True, False])
    if kind in (5, 6):
        return rng.choice([float("inf"), float("nan"), -1])
    if kind == 7:
        return [json_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(["token", "versions", "slot", "name", "x"]): json_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def mutate_json(rng: random.Random, value: Any) -> Any:
    """A value of much the same shape."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        result = dict(value)
        key = rng.choice(list(result))
        kind = rng.randrange(4)
        if kind == 0:
            del result[key]
        elif kind == 1:
            result[rng.choice(["", "x", key + "x"])] = json_value(rng)
        else:
            result[key] = mutate_json(rng, result[key])
        return result
    if isinstance(value, list) and value and rng.random() < 0.9:
        result = list(value)
        result[rng.randrange(len(result))] = mutate_json(rng, rng.choice(result))
        return result
    return json_value(rng)
