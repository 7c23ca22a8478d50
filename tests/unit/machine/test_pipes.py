"""A state here follows a state there, between machines of both kinds."""

from __future__ import annotations

from typing import Any

import pytest

from amnode.errors import StateUnknownError
from amnode.machine.machine import Machine
from amnode.machine.pipes import pipe
from amnode.machine.queue import CANCELED, MutationType, Result
from amnode.machine.schema import Schema, State
from amnode.rpc.network_machine import NetworkMachine

SCHEMA = Schema({"A": State(), "B": State(), "M": State(multi=True)})


def machine(id: str = "m") -> Machine:
    return Machine(SCHEMA, id=id)


class Wire:
    """What connects a replica with its source, without anything between."""

    def __init__(self, source: Machine) -> None:
        self.source = source
        self.replica = NetworkMachine(
            SCHEMA, id="replica", source_id=source.id, incarnation=b"", calls=self
        )  # type: ignore[arg-type]
        self.sent: list[tuple[str, object]] = []
        source.trace(self)
        self.time = source.time()

    queue_tick = machine_tick = 0

    def call(self, type_: MutationType, states: list[int], args: object) -> Result:
        names = [SCHEMA.names[i] for i in states]
        self.sent.append((f"{type_.name} {' '.join(names)}", args))
        if type_ is MutationType.ADD:
            return self.source.add(names, args)
        return self.source.remove(names, args)

    def cancel(self, seq: int) -> None: ...

    def queue_end(self, source: Machine) -> None:
        now = source.time()
        steps = [
            (i, b - a) for i, (a, b) in enumerate(zip(self.time, now, strict=True)) if b > a
        ]
        self.time = now
        self.replica.advance([part for step in steps for part in step])


def test_it_follows_from_what_is_to_what_comes() -> None:
    here, there = machine("here"), machine("there")
    there.add1("A")
    here.add1("B")
    made = pipe(there, here, {"A": "M", "M": "B"})
    assert str(here) == "(M:1)"
    there.add1("M")
    there.add1("M")
    there.add1("B")  # not piped
    there.remove1("A")
    assert here.clock() == {"A": 0, "B": 3, "M": 2, "Exception": 0}
    made.close()
    there.add1("A")
    assert here.not1("M")


def test_each_call_of_a_multi_state_is_passed_on() -> None:
    here, there = machine("here"), machine("there")
    seen: list[Any] = []
    here.bind({"MState": lambda e: seen.append(e.args)})
    pipe(there, here, {"M": "M"}, with_args=True)
    there.add1("M", 1)
    there.add1("M", 2)
    assert seen == [1, 2]
    assert here.tick("M") == 3


def test_inverted() -> None:
    here, there = machine("here"), machine("there")
    pipe(there, here, {"A": "B"}, invert=True)
    assert here.is1("B")
    there.add1("A")
    assert here.not1("B")
    there.remove1("A")
    assert here.is1("B")


def test_from_a_replica_and_to_one() -> None:
    source, here = machine("source"), machine("here")
    wire = Wire(source)
    pipe(wire.replica, here, {"A": "A", "M": "M"}, with_args=True)
    source.add1("A", 1)
    assert str(here) == "(A:1)"
    wire.sent.clear()
    pipe(here, wire.replica, {"B": "B"}, with_args=True)
    here.add1("B", 5)
    assert wire.sent == [("REMOVE B", None), ("ADD B", 5)]
    assert source.is_(("A", "B"))
    assert wire.replica.is_(("A", "B"))


def test_both_ways_come_to_rest() -> None:
    one, two = machine("one"), machine("two")
    pipe(one, two, {"A": "A"})
    pipe(two, one, {"A": "A"})
    one.add1("A")
    two.remove1("A")
    assert (str(one), str(two)) == ("()", "()")
    two.add1("A")
    assert (one.is1("A"), two.is1("A")) == (True, True)


def test_what_is_unknown_opens_nothing() -> None:
    here, there = machine("here"), machine("there")
    for states in ({"X": "A"}, {"A": "X"}):
        with pytest.raises(StateUnknownError):
            pipe(there, here, states)
    assert not there._tracers


async def test_the_end_of_the_target_closes_it() -> None:
    here, there = machine("here"), machine("there")
    pipe(there, here, {"A": "A"})
    await here.dispose()
    assert there._tracers
    there.add1("A")
    assert not there._tracers
    assert here.add1("A") is CANCELED
