from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.node.policy.options import PoolSize
from amnode.node.policy.sizing import (
    can_renew,
    has_replacement,
    is_over,
    is_ready,
    may_go_first,
    missing,
    surplus_at,
    target,
    with_replacements,
)

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


@given(size=sizes, wanted=st.integers(0, 9), worn=st.integers(0, 9))
def test_replacements_never_go_past_max(size: PoolSize, wanted: int, worn: int) -> None:
    assert with_replacements(size, wanted, worn) == min(size.max, wanted + worn)


@given(size=sizes, others=st.integers(0, 9), ready=st.integers(0, 9), total=st.integers(0, 9))
def test_a_worn_worker_never_goes_below_min(
    size: PoolSize, others: int, ready: int, total: int
) -> None:
    wanted = target(size, 0)
    goes = has_replacement(size, others=others, wanted=wanted, ready=ready)
    assert goes == (others >= wanted and ready >= size.min)
    first = may_go_first(size, total=total, ready=ready)
    assert first == (total >= size.max and ready >= size.min)


def test_there_is_room_for_a_replacement_where_max_is_above_min() -> None:
    assert can_renew(PoolSize(1, 2)) and not can_renew(PoolSize(2, 2))
    assert is_over(PoolSize(1, 2), 3) and not is_over(PoolSize(1, 2), 2)
