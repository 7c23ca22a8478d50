"""A connection that is cut anywhere; `python -m tests.pairs.cuts` does it everywhere."""

from __future__ import annotations

import random

import pytest

from tests.pairs.cuts import Due, at_random, every_byte, play, sizes


@pytest.mark.parametrize("due", Due)
def test_what_crosses_is_all_that_can(due: Due) -> None:
    up, down = sizes(due)
    assert up + down > 8_000
    assert play([], due) == 0


@pytest.mark.parametrize("due", Due)
def test_a_cut_at_any_byte_is_not_noticed(due: Due) -> None:
    dice = random.Random(f"sample {due}")
    for cuts in dice.sample([*every_byte(due)], 250):
        assert play(cuts, due) == 1


@pytest.mark.parametrize("due", Due)
def test_several_cuts_are_not_noticed(due: Due) -> None:
    dice = random.Random(f"several {due}")
    assert sum(play(at_random(due, dice), due) for _ in range(40)) > 60
