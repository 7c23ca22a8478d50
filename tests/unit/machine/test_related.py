"""Who relates to whom, and which relations cannot be meant."""

from __future__ import annotations

import pytest

from amnode.errors import StateUnknownError
from amnode.machine.mixins import Basic, StateSource
from amnode.machine.related import (
    Relation,
    between,
    inbound,
    outbound,
    problems,
    relations,
    required,
)
from amnode.machine.schema import Schema, State
from amnode.node.states import BootstrapStates, ClientStates, SupervisorStates, WorkerStates

SCHEMA = Schema(
    {
        "A": State(require="B", add="C", after="D"),
        "B": State(remove=("D",)),
        "C": State(),
        "D": State(remove=("B",), require="C"),
    }
)


def told(found: object) -> list[str]:
    return [str(edge) for edge in found]  # type: ignore[attr-defined]


def test_outbound_inbound_and_between() -> None:
    assert told(outbound(SCHEMA, "A")) == ["A require B", "A add C", "A after D"]
    assert told(inbound(SCHEMA, "C")) == ["A add C", "D require C"]
    assert told(between(SCHEMA, "D", "B")) == ["D remove B", "B remove D"]
    assert told(between(SCHEMA, "A", "D")) == ["A after D"]
    assert told(between(SCHEMA, "A", "A")) == []
    assert len(list(relations(SCHEMA))) == 6
    assert next(relations(SCHEMA)) == Relation("A", "require", "B")


def test_unknown_states_are_told() -> None:
    for ask in (outbound, inbound):
        with pytest.raises(StateUnknownError):
            list(ask(SCHEMA, "X"))
    with pytest.raises(StateUnknownError):
        list(between(SCHEMA, "A", "X"))


def test_required_at_any_distance() -> None:
    schema = Schema({"A": State(require="B"), "B": State(require=("C", "A")), "C": State()})
    assert required(schema, "A") == ("B", "C", "A")
    assert required(schema, "C") == ()


@pytest.mark.parametrize(
    ("states", "found"),
    [
        (
            {"A": State(require=("B", "C")), "B": State(remove="C"), "C": State()},
            ["A can never be active: it needs B and C, but B removes C."],
        ),
        (
            {"A": State(require="B"), "B": State(remove="A")},
            ["A can never be active: it needs B, but B removes A."],
        ),
        (
            {"A": State(remove="C", require="B"), "B": State(require="C"), "C": State()},
            ["A can never be active: it needs C, but A removes C."],
        ),
        (
            {"A": State(add="B", require="C"), "B": State(), "C": State(remove="B")},
            ["A adds B, which C removes."],
        ),
        (
            {"A": State(auto=True, remove="B"), "B": State(auto=True, remove="A")},
            ["A and B are both auto, and each removes the other."],
        ),
        (
            {
                "A": State(auto=True, remove="B", require="C"),
                "B": State(auto=True, remove="A"),
                "C": State(auto=True),
            },
            [],
        ),
        (
            {
                "A": State(auto=True, remove="B", require="C"),
                "B": State(auto=True, remove="A", require="C"),
                "C": State(),
            },
            ["A and B are both auto, and each removes the other."],
        ),
        ({"A": State(require="B"), "B": State(require="A")}, []),
    ],
)
def test_what_cannot_be_meant(states: dict[str, State], found: list[str]) -> None:
    assert problems(Schema(states)) == found


@pytest.mark.parametrize(
    "states",
    [Basic, StateSource, SupervisorStates, WorkerStates, ClientStates, BootstrapStates],
)
def test_our_own_schemas_have_no_problems(states: type[Basic]) -> None:
    assert problems(states.schema()) == []
