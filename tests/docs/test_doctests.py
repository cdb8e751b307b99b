"""The examples in the docstrings of the package run and give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import shoal

MODULES = ["shoal", *sorted(m.name for m in pkgutil.walk_packages(shoal.__path__, "shoal."))]
FINDER = doctest.DocTestFinder(exclude_empty=True)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    """Each docstring in a session of its own: the examples start it by their first use, or call init()."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    report: list[str] = []
    for test in FINDER.find(importlib.import_module(name), name):
        if not test.examples:
            continue
        try:
            runner.run(test, out=report.append)
        finally:
            shoal.shutdown()
    assert not report, "".join(report)


def test_there_are_examples_in_the_public_modules():
    counted = {
        name: sum(len(test.examples) for test in FINDER.find(importlib.import_module(name), name))
        for name in ("shoal._api", "shoal.remote_function", "shoal.actor", "shoal.sync", "shoal.generator")
    }
    assert all(counted.values()), counted
