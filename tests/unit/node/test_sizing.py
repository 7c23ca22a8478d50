from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.node.policy.options import PoolSize
from amnode.node.policy.sizing import is_ready, missing, surplus_at, target

sizes = st.builds(PoolSize, st.integers(0, 9), st.integers(1, 9), st.integers(0, 9))


@pytest.mark.parametrize(
    ("in_use", "waiting", "expected"),
    [(0, 0, 7), (2, 0, 7), (3, 0, 8), (3, 1, 9), (5, 0, 10), (9, 9, 10)],
)
def test_target_of_the_defaults(in_use: int, waiting: int, expected: int) -> None:
    assert target(PoolSize(), in_use, waiting) == expected


@given(sizes, st.integers(0, 9), st.integers(0, 9))
def test_serving_who_waits_changes_nothing(size: PoolSize, used: int, waiting: int) -> None:
    assert target(size, used, waiting) == target(size, used + waiting)
    assert min(size.max, size.min + size.warm) <= target(size, used, waiting) <= size.max


@given(sizes, st.integers(0, 9), st.integers(0, 5))
def test_never_more_than_max_are_started(size: PoolSize, live: int, ending: int) -> None:
    total = live + ending
    more = missing(size, live, total, target(size, 0))
    assert more >= 0
    assert more == 0 or total + more <= size.max


def test_ready_is_at_least_the_minimum() -> None:
    assert not is_ready(PoolSize(min=2), 1)
    assert is_ready(PoolSize(min=2), 2)


def test_a_surplus_goes_after_its_linger() -> None:
    assert surplus_at(3, 3, 1.0, 60.0) is None
    assert surplus_at(4, 3, None, 60.0) is None
    assert surplus_at(4, 3, 1.0, 60.0) == 61.0
