"""Every interleaving: none breaks a promise, and functions that are wrong are found out."""

from __future__ import annotations

import random
from typing import Any

import pytest

from amnode.node.policy.lease import Answer, Held, Stage, WorkerLease
from amnode.testing import search as model
from amnode.testing.search import Bounds, search

SMALL = Bounds(states=2_000, requests=1, faults=1)


def test_within_small_bounds_no_promise_is_broken() -> None:
    found = search(SMALL)
    assert (found.broken, found.steps) == ("", [])
    assert found.states >= SMALL.states
    assert not found.complete


def test_without_requests_nothing_can_happen() -> None:
    found = search(Bounds(states=10, requests=0, faults=0))
    assert (found.states, found.complete) == (1, True)


def _no_guard(_self: Any, client: str, secret: bytes, expected: int, actual: int) -> str:
    return "" if _self.stage is Stage.FREE else "busy"


def _no_is_always_an_end(self: Any, accepted: bool | None) -> Answer:
    return Answer.PUT_BACK if accepted is False else Answer.NOTHING


@pytest.mark.parametrize(
    ("owner", "name", "wrong", "promise"),
    [
        (WorkerLease, "refusal_to_serve", _no_guard, "S3"),
        (Held, "answered", _no_is_always_an_end, "S8"),
    ],
)
def test_a_wrong_function_is_found_with_the_steps_to_it(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, wrong: Any, promise: str
) -> None:
    monkeypatch.setattr(owner, name, wrong)
    found = search(Bounds(states=20_000, requests=1, faults=1))
    assert found.broken.startswith(promise)
    assert found.steps[0] == "the start"
    assert len(found.steps) > 3


@pytest.mark.parametrize("seed", range(16))
def test_long_histories_break_no_promise(seed: int) -> None:
    """As far from the start as a search of every state does not come."""
    rng = random.Random(seed)
    for _ in range(4):
        frozen = model._initial(Bounds(requests=3, faults=seed % 4))
        for _ in range(250):
            steps = list(model._steps(frozen))
            if not steps:
                break
            state = model._State(frozen)
            rng.choice(steps)[1](state)
            frozen = state.freeze()
