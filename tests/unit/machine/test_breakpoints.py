"""Breakpoints call back at the transition that changes their states, all of them."""

from __future__ import annotations

import pytest

from amnode.errors import OptionError
from amnode.machine.machine import Machine
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Transition


def test_all_of_its_states_in_one_transition() -> None:
    m, seen = Machine(Schema({"A": State(), "B": State(remove="A")}), id="m"), list[str]()

    def hit(transition: Transition) -> None:
        seen.append(str(transition.machine))

    m.bind({"BState": lambda e: seen.append(e.name)})
    both = m.add_breakpoint(hit, added=("B",), removed=("A",))
    m.add1("B")
    m.remove1("B")
    m.add1("A")
    assert seen == ["BState"]
    m.add1("B")
    assert seen == ["BState", "(B:3)", "BState"]  # before the final handlers
    m.remove_breakpoint(both)
    gone = m.add_breakpoint(hit, removed="B")
    m.set1("A")
    m.remove_breakpoint(gone)
    m.set1("B")
    assert seen[3:] == ["(A:3)", "BState"]
    with pytest.raises(OptionError, match="needs a state"):
        m.add_breakpoint(hit)
