from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.node.policy.pace import CHUNK_MOST, Pace


def _pace(each: float, answers: int = 1, slice: float = 0.002) -> Pace:
    pace = Pace(slice)
    for _ in range(answers):
        pace.took(each, 1)
    return pace


def test_what_is_not_known_goes_one_by_one() -> None:
    pace = Pace(0.002)
    assert (pace.depth(1, 32), pace.chunk(None, 2)) == (1, 1)


@pytest.mark.parametrize(
    ("each", "depth", "chunk"),
    [
        (1.0, 1, 1),
        (0.0021, 1, 1),
        (0.0015, 2, 1),
        (0.0005, 4, 4),
        (0.00001, 32, 200),
        (0.0, 32, CHUNK_MOST),
    ],
)
def test_small_calls_are_sent_ahead_and_together(each: float, depth: int, chunk: int) -> None:
    pace = _pace(each, answers=9)
    assert (pace.depth(1, 32), pace.chunk(None, 2)) == (depth, chunk)


def test_a_worker_that_gets_chunks_has_the_next_one_already() -> None:
    assert _pace(0.00001).depth(100, 32) == 2
    assert _pace(0.00001).depth(100, 1) == 1


def test_a_chunk_grows_from_answer_to_answer() -> None:
    pace = Pace(0.002)
    sizes: list[int] = []
    for _ in range(5):
        pace.took(0.000001, 1)
        sizes.append(pace.chunk(None, 2))
    assert sizes == [8, 64, 512, 1024, 1024]


def test_a_chunk_leaves_something_for_the_other_workers() -> None:
    pace = _pace(0.00001, answers=9)
    assert [pace.chunk(left, 2) for left in (800, 80, 9, 1, 0)] == [100, 10, 2, 1, 1]
    assert pace.chunk(80, 0) == 20


def test_the_estimate_falls_at_once_and_rises_slowly() -> None:
    pace = Pace(0.002)
    pace.took(0.4, 4)
    assert pace.seconds == pytest.approx(0.1)
    pace.took(0.02, 1)
    assert pace.seconds == pytest.approx(0.02)
    pace.took(0.1, 1)
    assert pace.seconds == pytest.approx(0.04)


@given(
    st.lists(st.tuples(st.floats(0.0, 10.0), st.integers(1, CHUNK_MOST)), max_size=20),
    st.floats(0.0, 1.0),
    st.integers(0, 10**9) | st.none(),
    st.integers(0, 100),
)
def test_it_is_always_within_bounds(
    measures: list[tuple[float, int]], slice: float, left: int | None, workers: int
) -> None:
    pace = Pace(slice)
    for seconds, calls in measures:
        pace.took(seconds, calls)
    chunk = pace.chunk(left, workers)
    assert 1 <= chunk <= CHUNK_MOST
    assert 1 <= pace.depth(chunk, 32) <= 32
