"""Whoever is killed, and when, nothing of a pool is left; `violent_ends.py` runs many more."""

from __future__ import annotations

import pytest

from tests.launch.violent_ends import KINDS, end_violently

pytestmark = [pytest.mark.needs("pidfd"), pytest.mark.needs("proc")]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left(kind: str) -> None:
    assert end_violently(kind) == []


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_what_had_just_begun(kind: str) -> None:
    assert end_violently(kind, delay=0.0) == []
