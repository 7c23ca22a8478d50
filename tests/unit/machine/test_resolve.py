"""The six steps, on small schemas; `test_model.py` and the recorded cases have the rest."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from amnode.machine.queue import MutationType
from amnode.machine.resolve import Relations, bits, each, relations_of
from amnode.machine.schema import Schema, State
from tests.unit.machine.naive import Rule
from tests.unit.machine.strategies import rules, schema_of

ADD, REMOVE, SET = MutationType.ADD, MutationType.REMOVE, MutationType.SET


def relations(**states: State) -> Relations:
    return relations_of(Schema(states))


def targets(found: Relations, type_: MutationType, called: str, active: str = "") -> str | None:
    letters = "ABCDEF"
    resolution = found.resolve(
        type_, [letters.index(s) for s in called], [letters.index(s) for s in active]
    )
    return "".join(letters[i] for i in resolution.targets) if resolution.accepted else None


def test_bits_and_each_are_inverse() -> None:
    assert bits((0, 3)) == 0b1001
    assert [*each(0b1001)] == [0, 3]


def test_relations_belong_to_the_schema() -> None:
    schema = Schema({"A": State()})
    assert relations_of(schema) is relations_of(schema)


def test_called_states_come_first() -> None:
    found = relations(A=State(), B=State(), C=State())
    assert targets(found, ADD, "CA", "BA") == "CAB"
    assert targets(found, SET, "CA", "BA") == "CA"
    assert targets(found, REMOVE, "A", "BA") == "B"
    assert targets(found, REMOVE, "C", "BA") == "BA"


def test_add_brings_states_along_and_those_bring_more() -> None:
    found = relations(A=State(add="B"), B=State(add="C"), C=State(), D=State(remove="C"))
    assert targets(found, ADD, "A") == "ABC"
    assert targets(found, ADD, "A", "A") == "A"  # an active state adds nothing again
    assert targets(found, ADD, "A", "D") == "ADB"  # what is kept out is just not added


def test_what_several_bring_along_comes_once_and_keeps_its_place() -> None:
    found = relations(A=State(add=("C", "B")), B=State(add="C"), C=State(), D=State())
    assert targets(found, ADD, "AB") == "ABC"  # both bring C, and B was called
    assert targets(found, ADD, "A", "DB") == "ADBC"  # B stays where it was


def test_a_multi_state_adds_each_time_it_is_called() -> None:
    found = relations(A=State(multi=True, add="B"), B=State())
    assert targets(found, ADD, "A", "A") == "AB"


def test_require_drops_until_nothing_is_missing() -> None:
    found = relations(A=State(require="B"), B=State(require="C"), C=State())
    assert targets(found, ADD, "A") is None
    assert targets(found, ADD, "AB", "C") == "CBA"
    assert targets(found, REMOVE, "C", "CBA") == ""


def test_a_state_that_is_removed_by_another_is_blocked() -> None:
    found = relations(A=State(remove="B"), B=State(remove="A"), C=State(remove="A"))
    assert targets(found, ADD, "A", "B") == "A"
    assert targets(found, ADD, "A", "C") is None
    assert targets(found, ADD, "AB") is None
    assert targets(found, ADD, "BA", "C") is None


def test_the_second_expansion_brings_what_a_state_that_goes_had_kept_out() -> None:
    found = relations(A=State(add="B", remove="C"), B=State(), C=State(remove="B"))
    assert targets(found, ADD, "A", "C") == "BA"  # at the front, as it comes last


def test_require_then_after_decide_the_order() -> None:
    found = relations(
        A=State(require="C"),
        B=State(),
        C=State(),
        D=State(after="B"),
        E=State(after=("F", "D")),
        F=State(after="E"),
    )
    assert targets(found, ADD, "ABC") == "BCA"
    assert targets(found, ADD, "DB") == "BD"
    assert targets(found, ADD, "EF") == "EF"  # a cycle: the first
    assert found.interferes(bits((1, 3)))
    assert not found.interferes(bits((1, 2, 4)))
    assert [*found.ranked] == [2, 0]


def test_an_automatic_mutation_needs_one_of_its_states_only() -> None:
    found = relations(A=State(auto=True, require="C"), B=State(auto=True), C=State())
    assert not found.resolve(ADD, (0, 1), ()).accepted
    assert found.resolve(ADD, (0, 1), (), auto=True).targets == (1,)
    assert not found.resolve(ADD, (0,), (), auto=True).accepted


def test_automatic_states_are_tried_unless_active_or_removed() -> None:
    found = relations(A=State(auto=True), B=State(auto=True), C=State(remove="B"))
    assert found.autos(0) == (0, 1)
    assert found.autos(0b001) == (1,)
    assert found.autos(0b100) == (0,)


def test_what_requires_a_state_goes_with_it() -> None:
    found = relations(
        A=State(), B=State(require="A"), C=State(require="B"), D=State(require="A")
    )
    assert found.requirers(bits((0,)), bits((0, 1, 2))) == bits((1, 2))


def test_what_may_come_or_end_or_be_in_the_way_influences_an_outcome() -> None:
    found = relations(
        A=State(add="B", require="C"),
        B=State(remove="D"),
        C=State(),
        D=State(),
        E=State(require="D"),
        F=State(remove="A"),
    )
    assert found.influence(ADD, (0,)) == bits(range(6))
    assert found.influence(ADD, (1,)) == bits((1, 3, 4))
    assert found.influence(ADD, (2,)) == bits((2,))
    assert found.influence(REMOVE, (3,)) == bits((3, 4))
    assert found.influence(SET, (2,)) == found.everything


def test_a_cycle_in_require_comes_together() -> None:
    found = relations(A=State(require="B"), B=State(require="A"))
    assert targets(found, ADD, "A") is None
    assert targets(found, ADD, "AB") == "BA"


def test_check_names_the_invariant() -> None:
    found = relations(A=State(remove="B"), B=State(), C=State(require="B"))
    found.check((0,))
    with pytest.raises(AssertionError, match="invariant 1: 0 removes"):
        found.check((0, 1))
    with pytest.raises(AssertionError, match="invariant 2: 2 requires"):
        found.check((2,))


@given(st.data())
def test_only_what_influences_an_outcome_changes_it(data: st.DataObject) -> None:
    """Two configurations that look the same through the mask have the same changes."""
    schema: dict[str, Rule] = data.draw(rules())
    found = relations_of(schema_of(schema))
    states = st.lists(st.sampled_from(range(found.size)), unique=True)
    type_ = data.draw(st.sampled_from((ADD, REMOVE, SET)))
    called = data.draw(states)
    some, other = data.draw(states), data.draw(states)
    mask = found.influence(type_, called)
    assume(bits(some) & mask == bits(other) & mask)
    for active in (some, other):
        try:
            found.check(active)
        except AssertionError:
            assume(False)
    one = found.resolve(type_, called, some)
    two = found.resolve(type_, called, other)
    assert one.accepted == two.accepted
    assert bits(one.targets) ^ bits(some) == bits(two.targets) ^ bits(other)
    assert (one.front, one.back) == (two.front, two.back)
    found.check(one.targets)
