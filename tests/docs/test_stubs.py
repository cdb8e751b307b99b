"""The stubs of the native module name what is in it, no more and no less."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from shoal import _core

STUBS = ast.parse((Path(__file__).resolve().parents[2] / "src" / "shoal" / "_core.pyi").read_text())
TYPES_ONLY = {"ActorInfo", "Call", "LockStatistics", "ObjectInfo", "ProcessInfo", "Statistics", "SyncFacts", "TaskInfo", "_T"}
IMPLIED = {*dir(object), "__module__", "__weakref__", "__dict__", "__buffer__", "__release_buffer__"}
HOOKS = {"arm_crash_point"}  # in builds with TEST_HOOKS=ON


def names(body: list[ast.stmt]) -> set[str]:
    """What a module or a class defines."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def test_the_module():
    real = {name for name in vars(_core) if not name.startswith("__")}
    assert names(STUBS.body) - TYPES_ONLY == real - HOOKS


@pytest.mark.parametrize("kind", ["ObjectRef", "Lock", "Sync", "Buffer", "Bridge", "VersionedCell", "Draft"])
def test_a_class(kind):
    """With what shoal._futures attaches to ObjectRef."""
    stub = next(node for node in STUBS.body if isinstance(node, ast.ClassDef) and node.name == kind)
    assert names(stub.body) - IMPLIED == set(dir(getattr(_core, kind))) - IMPLIED


@pytest.mark.usefixtures("session")
def test_the_dicts():
    """Their keys, where one can be had without a task or an actor at hand."""
    keys = {node.name: names(node.body) for node in STUBS.body if isinstance(node, ast.ClassDef)}
    assert set(_core.statistics()) == keys["Statistics"]
    assert set(_core.processes()[0]) == keys["ProcessInfo"]
    assert set(_core.object_info(_core.put(1, False))) == keys["ObjectInfo"]
