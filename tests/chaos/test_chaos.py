"""A small sample of each figure of `make chaos`."""

from __future__ import annotations

import random

import pytest

from tests.chaos.found import Found
from tests.chaos.run import FIGURES

SAMPLES = {
    "R5": 5,
    "R5-network": 6,
    "R6": 6,
    "R7": 1,
    "R8": 60,
    "R9": 2,
    "R10": 1,
    "R13": 12,
    "R15-stop": 1,
    "R15": 1,
}


@pytest.mark.parametrize("name", FIGURES)
async def test_a_sample(name: str) -> None:
    found = Found()
    await FIGURES[name].run(SAMPLES[name], random.Random(1), found)
    assert not found.violations, "\n".join(found.lines())
    assert found.counts


def test_what_is_wrong_is_a_violation_and_what_is_slow_is_said() -> None:
    found = Found()
    found.times["slow"] = [1.0] * 100
    found.within("slow", 0.99, 0.1)
    found.check(False, "wrong")
    assert found.violations == ["wrong"]
    assert len(found.missed) == 1
    assert {"  VIOLATION wrong", f"  over the goal: {found.missed[0]}"} < set(found.lines())
