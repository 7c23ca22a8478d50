from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from amnode.errors import (
    JobFailed,
    OptionError,
    ProtocolError,
    RefusedError,
    SchemaError,
    StateUnknownError,
)
from amnode.machine.machine import Machine
from amnode.machine.queue import MutationType
from amnode.machine.schema import Schema, State
from amnode.rpc.exposure import ErrorReport, Exposure, Gate
from amnode.rpc.protocol.wire import NIL, Role, to_raw

ADD, REMOVE, SET, TOGGLE = MutationType
SCHEMA = Schema({"A": State(), "B": State(), "C": State(), "D": State()})  # and Exception, 4


class Number(msgspec.Struct, forbid_unknown_fields=True):
    n: int


class Optional(msgspec.Struct):
    n: int = 7


GATE = Gate(
    SCHEMA,
    Exposure(mutable={"A": None, "B": Number, "C": Optional}, removable={"A": None, "C": None}),
)


def check(type_: int, *states: int, args: Any = None, gate: Gate = GATE) -> Any:
    return gate.check(Role.CONTROLLER, type_, states, to_raw(args))


def test_what_is_open_passes_with_its_arguments_decoded() -> None:
    assert check(ADD, 0) is None
    assert check(ADD, 1, args={"n": 3}) == Number(3)
    assert check(ADD, 0, 1, args={"n": 3}) == Number(3)
    assert check(REMOVE, 0) is None
    assert check(TOGGLE, 0) is None


def test_arguments_whose_fields_have_defaults_need_not_be_sent() -> None:
    assert check(ADD, 2) == Optional(7)
    with pytest.raises(ProtocolError, match="B needs Number"):
        check(ADD, 1)


@pytest.mark.parametrize(
    ("type_", "states"),
    [
        (ADD, (3,)),
        (ADD, (0, 3)),
        (ADD, (4,)),
        (REMOVE, (1,)),
        (TOGGLE, (1,)),
        (SET, (0,)),
        (SET, ()),
        (ADD, ()),
        (ADD, (1, 2)),  # two kinds of arguments
    ],
)
def test_what_is_closed_is_refused(type_: int, states: tuple[int, ...]) -> None:
    with pytest.raises(RefusedError):
        check(type_, *states, args={"n": 1} if 1 in states else None)


@pytest.mark.parametrize(
    ("state", "args"),
    [
        (0, {"n": 1}),
        (0, 0),
        (1, {"n": "1"}),
        (1, {"n": 1, "m": 2}),
        (1, [1]),
        (1, {"n": 2**70}),
    ],
)
def test_wrong_arguments_are_refused(state: int, args: Any) -> None:
    raw = to_raw(args) if args != {"n": 2**70} else msgspec.Raw(b"\x81\xa1n\xc4\x01x")
    with pytest.raises(ProtocolError):
        GATE.check(Role.CONTROLLER, ADD, (state,), raw)


@given(st.sampled_from(list(MutationType)), st.lists(st.integers(0, 4), max_size=3))
def test_an_observer_changes_nothing(type_: MutationType, states: list[int]) -> None:
    everything = dict.fromkeys(SCHEMA.names)
    gate = Gate(SCHEMA, Exposure(everything, everything))
    with pytest.raises(RefusedError, match="observer"):
        gate.check(Role.OBSERVER, type_, states, NIL)


def test_set_needs_every_state_to_be_open_both_ways() -> None:
    everything = dict.fromkeys(SCHEMA.names)
    assert check(SET, 0, gate=Gate(SCHEMA, Exposure(everything, everything))) is None
    for half in (Exposure(everything), Exposure(removable=everything)):
        with pytest.raises(RefusedError):
            check(SET, 0, gate=Gate(SCHEMA, half))


def test_by_default_everything_is_closed() -> None:
    closed = Gate(SCHEMA, Exposure())
    for type_ in MutationType:
        for state in range(5):
            with pytest.raises(RefusedError):
                check(type_, state, gate=closed)


def test_an_exposure_names_states_that_exist() -> None:
    with pytest.raises(StateUnknownError, match="Nope"):
        Gate(SCHEMA, Exposure({"Nope": None}))


def test_an_error_report_carries_an_error_of_the_tree_or_a_text() -> None:
    again = ErrorReport.of(JobFailed("x", error_type="E")).error
    assert isinstance(again, JobFailed) and again.error_type == "E"
    assert "KeyError" in str(ErrorReport.of(KeyError("k")).error)


def test_states_that_came_later_are_closed() -> None:
    opened = dict.fromkeys(SCHEMA)
    gate = Gate(SCHEMA, Exposure(mutable=opened, removable=opened))
    assert check(SET, 0, gate=gate) is None
    gate.grow(SCHEMA.grown({"Late": State()}))
    assert check(ADD, 0, gate=gate) is None
    with pytest.raises(RefusedError, match="State Late is closed to add"):
        check(ADD, 5, gate=gate)
    with pytest.raises(RefusedError, match="set is refused"):
        check(SET, 0, gate=gate)


# -- relations open nothing (rule 5) -------------------------------------------------------

RELATED: dict[str, dict[str, State]] = {
    "bring B": {"A": State(add=("B",)), "B": State()},
    "end B": {"A": State(remove=("B",)), "B": State()},
    "bring C": {"A": State(add=("B",)), "B": State(add=("C",)), "C": State()},
    "end D": {
        "A": State(add=("B",)),
        "B": State(remove=("C",)),
        "C": State(),
        "D": State(require=("C",)),
    },
    "bring Lets": {"A": State(), "Lets": State(auto=True, require=("A",))},
    "bring Out": {
        "A": State(remove=("Keeps",)),
        "Keeps": State(remove=("Out",)),
        "Out": State(auto=True),
    },
}


def opened_but(schema: Schema, closed: str, **more: Any) -> Exposure:
    opened = {name: None for name in schema if name != closed}
    return Exposure(mutable=opened, removable=opened, **more)


@pytest.mark.parametrize("said", RELATED)
def test_a_closed_state_is_not_opened_by_the_relations_of_open_ones(said: str) -> None:
    schema = Schema(RELATED[said])
    closed = said.split()[1]
    with pytest.raises(OptionError, match=rf"may {said}, which is closed.*Exposure\.implied"):
        Gate(schema, opened_but(schema, closed))
    gate = Gate(schema, opened_but(schema, closed, implied=(closed,)))
    assert check(ADD, schema.index("A"), gate=gate) is None
    with pytest.raises(RefusedError, match="closed to add"):
        check(ADD, schema.index(closed), gate=gate)  # it is not open itself


def test_the_end_of_a_state_must_not_end_a_closed_one() -> None:
    schema = Schema({"A": State(), "B": State(require=("A",))})
    assert check(ADD, 0, gate=Gate(schema, Exposure({"A": None}))) is None
    with pytest.raises(OptionError, match="opens remove of A, whose relations may end B"):
        Gate(schema, Exposure(removable={"A": None}))


def test_an_exposure_that_implies_a_state_that_is_not_there_is_refused() -> None:
    with pytest.raises(StateUnknownError, match="Nope"):
        Gate(SCHEMA, Exposure(implied=("Nope",)))


def test_what_would_change_a_state_that_came_later_is_closed_from_then_on() -> None:
    gate = Gate(
        SCHEMA, Exposure(mutable={"A": None, "C": None}, removable={"A": None, "C": None})
    )
    gate.grow(SCHEMA.grown({"Late": State(require=("A",))}))
    assert check(ADD, 0, gate=gate) is None
    with pytest.raises(RefusedError, match="State A is closed to remove"):
        check(REMOVE, 0, gate=gate)
    assert check(REMOVE, 2, gate=gate) is None


@st.composite
def machines(draw: st.DrawFn) -> tuple[Schema, list[tuple[MutationType, str]]]:
    names = "ABCDEF"
    some = st.lists(st.sampled_from(names), max_size=2, unique=True)
    states: dict[str, State] = {}
    for name in names:
        require, add, remove = (tuple(n for n in draw(some) if n != name) for _ in range(3))
        states[name] = State(draw(st.booleans()), False, require, add, remove)
    try:
        schema = Schema(states)
    except SchemaError:
        reject()
    type_ = st.sampled_from([ADD, REMOVE, TOGGLE])
    return schema, draw(st.lists(st.tuples(type_, st.sampled_from(names)), max_size=12))


@given(machines(), st.sets(st.sampled_from("ABCDEF"), max_size=3))
def test_what_passes_never_moves_a_closed_state_of_a_machine_at_rest(
    made: tuple[Schema, list[tuple[MutationType, str]]], closed: set[str]
) -> None:
    schema, mutations = made
    opened = {name: None for name in "ABCDEF" if name not in closed}
    try:
        gate = Gate(schema, Exposure(mutable=opened, removable=opened))
    except OptionError:
        return
    machine = Machine(schema, id="m")
    machine.add1("Exception")  # auto states that anything brings are there
    machine.remove1("Exception")
    before = [machine.tick(name) for name in sorted(closed)]
    for type_, name in mutations:
        with suppress(RefusedError):
            gate.check(Role.CONTROLLER, type_, [schema.index(name)], NIL)
            {ADD: machine.add, REMOVE: machine.remove, TOGGLE: machine.toggle}[type_]([name])
    assert [machine.tick(name) for name in sorted(closed)] == before
