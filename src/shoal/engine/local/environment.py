"""`runtime_env` where it takes effect: variables, the folder to work in, the folders to import from."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any


def folders_to_import_from(runtime_env: Mapping[str, Any]) -> list[str]:
    """What it puts in front of `sys.path`. A package is imported from the folder that it lies in."""
    modules = [os.path.dirname(module) for module in runtime_env.get("py_modules") or ()]
    folder = runtime_env.get("working_dir")
    return list(dict.fromkeys([folder, *modules] if folder else modules))


class Applied:
    """Within it the process has the environment of one task; for an actor `begin` alone, for good."""

    def __init__(self, runtime_env: Mapping[str, Any]) -> None:
        self._env = runtime_env

    def begin(self) -> None:
        os.environ.update({name: str(text) for name, text in (self._env.get("env_vars") or {}).items()})
        sys.path[:0] = folders_to_import_from(self._env)
        if self._env.get("working_dir"):
            os.chdir(self._env["working_dir"])

    def __enter__(self) -> None:
        self._before = dict(os.environ), sys.path[:], os.getcwd()
        self.begin()

    def __exit__(self, *_: object) -> None:
        variables, sys.path[:], folder = self._before
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(folder)
