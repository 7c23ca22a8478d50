"""Arguments are what the called states declare, or nothing happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from amnode.errors import StateArgsError
from amnode.machine.arguments import checked
from amnode.machine.machine import Machine
from amnode.machine.schema import State, States
from amnode.machine.transition import Event


class OpenArgs(msgspec.Struct):
    key: str


@dataclass
class LitArgs:
    watts: int


class Door(States):
    Open = State(args=OpenArgs)
    Lit = State(multi=True, args=LitArgs | None)
    Shut = State()


def test_instances_pass_and_mappings_are_converted() -> None:
    declared = Door.schema().args
    given = OpenArgs("k")
    assert checked(declared, ("Open", "Shut"), given) is given
    assert checked(declared, ("Open",), {"key": "k"}) == given
    assert checked(declared, ("Lit",), {"watts": 3}) == LitArgs(3)
    assert checked(declared, ("Lit",), None) is None
    assert checked(declared, ("Shut",), 5) == 5


@pytest.mark.parametrize(
    ("state", "args", "message"),
    [
        ("Open", None, "State Open takes OpenArgs as arguments, not none"),
        ("Open", {"key": 1}, r"Expected `str`, got `int` - at `\$.key`"),
        ("Open", LitArgs(1), "takes OpenArgs"),
        ("Lit", {"volts": 1}, "missing required field `watts`"),
    ],
)
def test_others_are_refused_by_name(state: str, args: object, message: str) -> None:
    with pytest.raises(StateArgsError, match=message):
        checked(Door.schema().args, (state,), args)


def test_handlers_see_what_was_declared() -> None:
    m, seen = Machine(Door, id="m"), list[Any]()
    m.bind({"OpenState": lambda e: seen.append(e.args.key)})
    assert m.add1(Door.Open, {"key": "a"})
    m.remove1(Door.Open)
    assert m.set((Door.Open, Door.Shut), OpenArgs("b"))
    assert seen == ["a", "b"]


@pytest.mark.parametrize("bound", [True, False])
def test_a_wrong_call_changes_nothing(bound: bool) -> None:
    m = Machine(Door, id="m")
    if bound:
        m.bind({"OpenState": lambda e: None})
    for wrong in (m.add1, m.set1, m.toggle1, m.can_add1):
        with pytest.raises(StateArgsError):
            wrong(Door.Open, {"key": 1})
    assert (str(m), m.queue_tick) == ("()", 1)
    assert m.add1(Door.Shut)


def test_also_inside_a_transition() -> None:
    m, seen = Machine(Door, id="m"), list[Any]()

    def ask(event: Event) -> None:
        with pytest.raises(StateArgsError):
            m.add1(Door.Open, 5)
        m.add1(Door.Open, {"key": "k"})

    m.bind({"ShutState": ask, "OpenState": lambda e: seen.append(e.args)})
    m.add1(Door.Shut)
    assert seen == [OpenArgs("k")]


def test_a_state_that_came_by_growth_declares_its_arguments_too() -> None:
    m = Machine(States, id="m")
    m.add1("Exception")
    m.grow({"Open": State(args=OpenArgs), "Plain": State()})
    assert m.add1("Plain", 1)
    for _ in range(3):  # also once it is known to be simple
        with pytest.raises(StateArgsError):
            m.add1("Open")
        assert m.add1("Open", OpenArgs("k"))
        assert m.remove1("Open")
    assert m.queue_tick == 9
