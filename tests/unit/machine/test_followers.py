"""A follower's copy of the ticks is right after whatever happened, and costs no transition."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from amnode.machine.clock import FOLLOWED
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event, Transition

SCHEMA = Schema(
    {
        "A": State(),
        "B": State(),
        "M": State(multi=True),
        "Needs": State(require="A"),
        "Instead": State(remove="B", add="M"),
        "Auto": State(auto=True, require="Needs"),
    }
)
FLAGS = Schema({name: State() for name in "ABCDEF"})


class Copy:
    """Keeps the ticks as it was told of them."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.ticks = [*machine.time()]
        self.told: list[tuple[int, ...]] = []

    def moved(self, changed: Sequence[int], ticks: Sequence[int]) -> None:
        self.told.append(tuple(changed))
        for index in changed:
            self.ticks[index] = ticks[index]

    def schema_changed(self, machine: Machine) -> None:
        self.ticks += [0] * (len(machine.schema) - len(self.ticks))

    def check(self) -> None:
        assert self.ticks == [*self.machine.time()]


def followed(
    schema: Schema = FLAGS, **handlers: Callable[[Event], object]
) -> tuple[Machine, Copy]:
    made = Machine(schema, id="m")
    if handlers:
        made.bind(handlers)
    copy = Copy(made)
    made.follow(copy)
    return made, copy


def refuse_transitions(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise AssertionError("A transition was made.")

    monkeypatch.setattr(Transition, "run", run)
    monkeypatch.setattr(Machine, "_execute", run)


@pytest.mark.parametrize("schema", [SCHEMA, FLAGS], ids=["related", "flags"])
@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("handled", [False, True])
def test_the_copy_is_right_and_nothing_else_differs(
    schema: Schema, traced: bool, handled: bool
) -> None:
    def again(event: Event) -> None:
        event.machine.toggle1("B")

    handlers: dict[str, Callable[[Event], object]] = {"AState": again} if handled else {}
    (made, copy), plain = followed(schema, **handlers), Machine(schema, id="p")
    if handled:
        plain.bind(handlers)
    if traced:
        made.trace(object())
    chosen = random.Random(3)
    for _ in range(2000):
        method = chosen.choice(("add", "remove", "set", "toggle"))
        states = tuple(chosen.sample(schema.names, chosen.randint(1, 3)))
        assert getattr(made, method)(states) is getattr(plain, method)(states)
        assert made.time() == plain.time() and made.queue_tick == plain.queue_tick
        assert made.active_states() == plain.active_states()
        made._clock.check()
        copy.check()


def test_what_nobody_else_sees_makes_no_transition(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    made, copy = followed(BState=lambda event: seen.append(event.name))
    refuse_transitions(monkeypatch)
    assert made.add1("A") is EXECUTED
    assert made.add1("A") is EXECUTED
    assert made.add(("B", "C")) is EXECUTED
    assert made.set(("B",)) is EXECUTED
    assert seen == ["BState"]
    assert copy.told == [(0,), (1, 2), (2, 0)]
    copy.check()


def test_a_refusal_tells_nothing() -> None:
    made, copy = followed(AEnter=lambda _: False)
    assert made.add1("A") is CANCELED
    assert copy.told == []


def test_it_is_told_when_the_transition_has_ended_and_of_what_was_queued() -> None:
    seen: list[list[int]] = []

    def amid(event: Event) -> None:
        seen.append([*copy.ticks])
        event.machine.add1("B")

    made, copy = followed(AState=amid)
    for _ in range(2):
        made.add1("A")
        copy.check()
        made.remove(("A", "B"))
    assert seen == [[0, 0, *[0] * 5], [2, 2, *[0] * 5]]


def test_a_handler_that_raises_leaves_the_copy_right() -> None:
    def fail(_: Event) -> None:
        raise ValueError("handler")

    made, copy = followed(AState=fail)
    made.add1("A")
    copy.check()
    assert made.is_err


async def test_waits_of_a_followed_machine_are_still_told() -> None:
    made, copy = followed()
    wait = made.when1("A")
    made.add1("B")
    assert not wait.done()
    made.add1("A")
    assert wait.done()
    copy.check()


def test_it_may_go_and_another_stays() -> None:
    made, copy = followed()
    other = Copy(made)
    made.follow(other)
    made.follow(other)
    made.unfollow(copy)
    made.add1("A")
    assert copy.told == [] and other.told == [(0,)]
    assert made._clock.busy == FOLLOWED
    made.unfollow(other)
    made.unfollow(other)
    assert made._clock.busy == 0


def test_it_follows_a_machine_that_grows_and_is_restored() -> None:
    made, copy = followed()
    twin = Machine(FLAGS, id="m")
    twin.add(("A", "C"))
    made.restore(twin.export())
    copy.check()
    made.grow({"New": State()})
    made.add1("New")
    made.add1("B")
    copy.check()


@pytest.mark.parametrize("hook", ["moved", "schema_changed"])
def test_one_that_raises_is_dropped_and_reported(
    hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("follower")

    made, copy = followed()
    bad = Copy(made)
    setattr(bad, hook, fail)
    made.follow(bad)
    with caplog.at_level(logging.ERROR, "amnode.machine"):
        made.grow({"New": State()})
        made.add1("A")
        made.add1("New")
    assert [record.message for record in caplog.records] == [
        f"Follower {bad!r} of machine m raised and was dropped."
    ]
    copy.check()
