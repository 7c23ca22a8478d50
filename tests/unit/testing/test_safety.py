"""The judge: each predicate holds for what is right and does not for what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from amnode.errors import Cause, Outcome, PromiseBroken
from amnode.node.policy.lease import End, Stage
from amnode.testing.safety import CallSafety, WorkerFacts, WorkerSafety, require

HOLDER = "rc-nc-worker-c0.1234"


def facts(**more: Any) -> WorkerFacts:
    given: dict[str, Any] = {
        "worker_id": "w",
        "alive": True,
        "tick": 1,
        "leased": True,
        "stage": Stage.HELD,
        "epoch": 1,
        "client_id": HOLDER,
        "end": None,
        "sessions": (("rs-1", HOLDER),),
        "running": True,
        "told_to_end": False,
        **more,
    }
    return WorkerFacts(**given)


FREE = {"leased": False, "stage": Stage.FREE, "client_id": "", "sessions": ()}


def test_what_does_not_hold_is_an_error_with_its_number() -> None:
    require(True, "S1", "fine")
    with pytest.raises(PromiseBroken, match="S1: two clients") as caught:
        require(False, "S1", "two clients")
    assert caught.value.promise == "S1"


def test_a_worker_that_serves_one_after_another_is_right() -> None:
    safety = WorkerSafety()
    safety.seen(facts(**FREE, tick=0, epoch=0))
    safety.seen(facts())
    safety.seen(facts(**FREE, tick=2))
    safety.seen(facts(tick=3, epoch=3, client_id="other", sessions=()))
    assert safety.holders == {1: HOLDER, 3: "other"}


@pytest.mark.parametrize(
    ("then", "promise"),
    [
        ({"tick": 0, "epoch": 0}, "S3"),
        ({"tick": 3}, "S3"),
        ({"client_id": "other", "sessions": ()}, "S1"),
        ({"sessions": (("rs-1", HOLDER), ("rs-2", "other"))}, "S1"),
        ({**FREE, "tick": 2, "sessions": (("rs-1", HOLDER),)}, "S1"),
        ({"sessions": (("rs-1", "other"),)}, "S1"),
        ({"sessions": (("rs-2", HOLDER),)}, "S4"),
        ({**FREE, "end": End.STOPPED}, "S12"),
    ],
)
def test_a_worker_that_is_wrong_is_found_out(then: dict[str, Any], promise: str) -> None:
    safety = WorkerSafety()
    safety.seen(facts())
    with pytest.raises(PromiseBroken, match=promise):
        safety.seen(facts(**then))


def test_a_worker_that_was_ended_by_force_closes_its_session_last() -> None:
    safety = WorkerSafety()
    safety.seen(facts())
    ended = {**FREE, "sessions": (("rs-1", HOLDER),), "running": False}
    safety.seen(facts(**ended, tick=2, end=End.STOPPED, told_to_end=True))


def test_a_call_that_runs_once_and_is_answered_is_right() -> None:
    calls = CallSafety()
    for _ in range(2):
        number = calls.call("c0", "w", 1)
        calls.started(number, facts())
        calls.ended("w")
        calls.answered(number, number)
    calls.never_ran(calls.call("c0", "w", 1))
    calls.failed(calls.call("c0", "w", 1), Outcome.NOT_RUN, Cause.SIGNAL)
    run = calls.call("c0", "w", 1)
    calls.started(run, facts())
    calls.failed(run, Outcome.RUN, None)
    assert calls.made == 5


def _run(calls: CallSafety, **more: Any) -> int:
    number = calls.call("c0", "w", 1)
    calls.started(number, facts(**more))
    return number


def _twice(calls: CallSafety) -> None:
    number = _run(calls)
    calls.ended("w")
    calls.started(number, facts())


def _overtake(calls: CallSafety) -> None:
    first = calls.call("c0", "w", 1)
    _run(calls)
    calls.ended("w")
    calls.started(first, facts())


def _answer_twice(calls: CallSafety) -> None:
    number = _run(calls)
    calls.answered(number, number)
    calls.answered(number, number)


WRONG: dict[str, tuple[str, Any]] = {
    "never asked for": ("S18", lambda c: c.started(9, facts())),
    "runs twice": ("S5", _twice),
    "in another epoch": ("S2", lambda c: _run(c, epoch=3)),
    "on another worker": ("S2", lambda c: _run(c, worker_id="v")),
    "for another client": ("S2", lambda c: _run(c, client_id="rc-nc-worker-c1.9")),
    "two at a time": ("S2", lambda c: (_run(c), _run(c))),
    "out of order": ("S6", _overtake),
    "the answer of another": ("S5", lambda c: c.answered(_run(c), 99)),
    "answered and not run": ("S5", lambda c: c.answered(c.call("c0", "w", 1), 1)),
    "answered twice": ("S5", _answer_twice),
    "no such outcome": ("S20", lambda c: c.failed(_run(c), "maybe", None)),
    "no such cause": ("S20", lambda c: c.failed(_run(c), Outcome.UNKNOWN, "bad luck")),
    "ran, and says no": ("S5", lambda c: c.failed(_run(c), Outcome.NOT_RUN, None)),
    "did not, and says so": ("S5", lambda c: c.failed(c.call("c", "w", 1), Outcome.RUN, None)),
    "refused, and ran": ("S5", lambda c: c.never_ran(_run(c))),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_call_that_is_wrong_is_found_out(what: str) -> None:
    promise, do = WRONG[what]
    with pytest.raises(PromiseBroken, match=promise):
        do(CallSafety())
