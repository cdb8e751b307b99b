"""The examples in the docstrings run."""

from __future__ import annotations

import doctest

import pytest

import shoal
from shoal.sync import _primitives

pytestmark = pytest.mark.usefixtures("session")


@pytest.mark.parametrize("module", [shoal.sync, _primitives])
def test_docstrings(module):
    assert doctest.testmod(module).failed == 0


def test_docstring_of_shared_mode():
    test = doctest.DocTestParser().get_doctest(shoal.Lock.shared.__doc__, {}, "shared", None, 0)
    assert doctest.DocTestRunner().run(test).failed == 0
