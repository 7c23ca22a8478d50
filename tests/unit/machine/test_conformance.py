"""Recorded behaviour of this kind of machine, which the kernel must match exactly.

Each case is one fresh machine: its schema, what is bound, the mutations made one after the
other, and everything that was observed: results, active states in machine order, ticks, queue
tick, every transition that ran, and the handlers in the order called. All cases run with the
plan cache and without it, and with it once more without an observer, which may be faster.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED, MutationType, Queued, Result
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event, Transition

CASES = Path(__file__).parents[2] / "conformance"
MUTATE = ("add", "remove", "set", "toggle")


def load(name: str) -> list[dict[str, Any]]:
    with gzip.open(CASES / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


class Recorder:
    """Handlers for every possible name, and a tracer, of one case."""

    def __init__(self, case: dict[str, Any], *, cached: bool, traced: bool) -> None:
        self.case = case
        self.names: list[str] = case["names"]
        states = {
            name: State(**case["schema"].get(name, {"multi": True})) for name in self.names
        }
        self.machine = Machine(Schema(states), id="case", cached=cached)
        assert list(self.machine.state_names) == self.names
        self.falsy = set(case.get("falsy", ()))
        self.plan: dict[str, list[dict[str, Any]]] = {}
        for entry in case.get("nested_plan", ()):
            self.plan.setdefault(entry["handler"], []).append(entry)
        self.handlers: list[str] = []
        self.nested: list[dict[str, Any]] = []
        self.transitions: list[dict[str, Any]] = []
        if case["bound"]:
            self.machine.bind({name: self.handler(name) for name in self.handler_names()})
        if traced:
            self.machine.trace(self)

    def handler_names(self) -> Iterator[str]:
        for name in self.names:
            yield from (name + suffix for suffix in ("Enter", "Exit", "State", "End"))
            yield from (name + other for other in self.names)
        yield from ("AnyEnter", "AnyState")

    def handler(self, name: str) -> Callable[[Event], bool | None]:
        def run(event: Event) -> bool | None:
            self.handlers.append(name)
            for entry in self.plan.pop(name, ()):
                result = getattr(self.machine, entry["type"])(entry["called"])
                self.nested.append(
                    {
                        "handler": name,
                        "type": entry["type"],
                        "called": entry["called"],
                        "result": text(result),
                        "num": number(result),
                    }
                )
            return name not in self.falsy

        return run

    def transition_end(self, transition: Transition) -> None:
        seen: dict[str, Any] = {
            "type": MutationType(transition.type).name.lower(),
            "called": [self.names[i] for i in transition.called],
            "accepted": transition.accepted,
            "ticks": list(self.machine.time()),
        }
        if transition.auto:
            seen["auto"] = True
        self.transitions.append(seen)

    def run(self, mutation: dict[str, Any]) -> dict[str, Any]:
        self.handlers, self.nested, self.transitions = [], [], []
        result = getattr(self.machine, mutation["type"])(mutation["called"])
        seen: dict[str, Any] = {
            "type": mutation["type"],
            "called": mutation["called"],
            "result": text(result),
            "active": self.machine.active_states(),
            "ticks": list(self.machine.time()),
            "queue_tick": self.machine.queue_tick,
            "txs": self.transitions,
        }
        if self.handlers:
            seen["handlers"] = self.handlers
        if self.nested:
            seen["nested"] = self.nested
        return seen


def text(result: Result) -> str:
    return {EXECUTED: "Executed", CANCELED: "Canceled"}.get(result, "Queued")


def number(result: Result) -> int:
    if isinstance(result, Queued):
        return result.tick
    return 0 if result is EXECUTED else 1


@pytest.mark.parametrize(
    ("cached", "traced"),
    [(True, True), (False, True), (True, False)],
    ids=["cached", "afresh", "unobserved"],
)
@pytest.mark.parametrize("name", ["machine", "queue"])
def test_recorded_cases(name: str, cached: bool, traced: bool) -> None:
    cases = load(name)
    assert len(cases) > 400
    failed: list[str] = []
    for case in cases:
        recorder = Recorder(case, cached=cached, traced=traced)
        for k, expected in enumerate(case["muts"]):
            seen = recorder.run(expected)
            if not traced:
                expected = {**expected, "txs": []}
            if seen != expected:
                failed.append(f"case {case['id']}, mutation {k}:\n{expected}\n{seen}")
                break
            recorder.machine._clock.check()
            recorder.machine._planner.relations.check(recorder.machine._clock.active())
    assert not failed, f"{len(failed)} of {len(cases)} cases differ; the first:\n{failed[0]}"
