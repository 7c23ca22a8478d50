"""Observers are told, come and go, and are dropped when they raise."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from amnode.machine.machine import Machine
from amnode.machine.queue import Mutation
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event, Transition


class Tracer:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def transition_start(self, transition: Transition) -> None:
        self.seen.append(f"start {transition.machine}")

    def transition_end(self, transition: Transition) -> None:
        self.seen.append(f"end {transition.machine} {transition.changed} {transition.accepted}")

    def disposed(self, machine: Machine) -> None:
        self.seen.append(f"disposed {machine.id}")


def machine() -> Machine:
    return Machine(Schema({"A": State(), "B": State(require="A")}), id="m")


async def test_a_tracer_sees_transitions_and_the_end() -> None:
    m, tracer = machine(), Tracer()
    m.trace(tracer)
    m.trace(tracer)
    m.add1("A")
    m.add1("B", args=1)
    m.add(("B", "Exception"))
    m.remove1("A")
    m.add1("B")
    await m.dispose()
    assert tracer.seen == [
        "start ()",
        "end (A:1) (0,) True",
        "start (A:1)",
        "end (A:1 B:1) (1,) True",
        "start (A:1 B:1)",
        "end (Exception:1 A:1 B:1) (2,) True",
        "start (Exception:1 A:1 B:1)",
        "end (Exception:1) (0, 1) True",
        "start (Exception:1)",
        "end (Exception:1) () False",
        "disposed m",
    ]


def test_a_tracer_needs_no_hook_at_all_and_can_go() -> None:
    m, tracer = machine(), Tracer()
    m.trace(object())
    m.trace(tracer)
    m.untrace(tracer)
    m.untrace(tracer)
    m.add1("A")
    assert not tracer.seen
    assert m._tracers


def test_a_tracer_that_raises_is_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Bad:
        def transition_end(self, transition: Transition) -> None:
            raise ValueError("broken tracer")

    m, last = machine(), Tracer()
    bad: Any = Bad()
    m.trace(bad)
    m.trace(last)
    with caplog.at_level(logging.ERROR):
        assert m.add1("A")
        assert m.remove1("A")
    assert len(last.seen) == 4
    assert [r.getMessage() for r in caplog.records] == [
        f"Tracer {bad!r} of machine m raised in transition_end and was dropped."
    ]
    assert "broken tracer" in caplog.text


def test_a_tracer_may_leave_while_it_is_told() -> None:
    class Once:
        def transition_end(self, transition: Transition) -> None:
            transition.machine.untrace(self)
            transition.machine.remove1("A")

    m = machine()
    m.trace(Once())
    assert m.add1("A")
    assert str(m) == "()"
    assert not m._tracers


class Everything:
    """Has every hook, and writes down which were called with what."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __getattr__(self, hook: str) -> Any:
        if hook.startswith("_"):
            raise AttributeError(hook)

        def told(subject: Any, *more: object) -> None:
            name = getattr(subject, "name", None) or getattr(subject, "id", "")
            if more and isinstance(more[0], Mutation):
                more = more[0].type.name, more[0].result
            self.seen.append(" ".join(map(str, (hook, name, *more))).strip())

        return told


async def test_every_hook_in_its_order() -> None:
    m, tracer = machine(), Everything()
    m.trace(tracer)

    def fail(event: Event) -> None:
        raise ValueError("x")

    m.bind({"AEnter": lambda e: True, "AState": lambda _: m.add1("B") and None, "BEnd": fail})
    m.add1("A")
    m.remove1("B")
    m.grow({"C": State(auto=True)})
    await m.dispose()
    assert tracer.seen == [
        "transition_start",
        "handler_start AEnter",
        "handler_end AEnter True",
        "transition_finals",
        "handler_start AState",
        "mutation_queued m ADD Queued(3)",
        "handler_end AState None",
        "transition_end",
        "transition_start",
        "transition_finals",
        "transition_end",
        "queue_end m",
        "transition_start",
        "transition_finals",
        "handler_start BEnd",
        "handler_end BEnd x",
        "mutation_queued m ADD None",
        "transition_end",
        "transition_start",
        "transition_finals",
        "transition_end",
        "queue_end m",
        "schema_changed m",
        "disposed m",
    ]


def test_an_automatic_mutation_is_told_when_it_is_queued() -> None:
    m, tracer = Machine(Schema({"A": State(), "B": State(auto=True)}), id="m"), Everything()
    m.trace(tracer)
    m.add1("A")
    assert "mutation_queued m ADD None" in tracer.seen
