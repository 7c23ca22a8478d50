"""Declaring, parsing, merging and verifying schemas."""

from __future__ import annotations

import pytest
from hypothesis import given

from amnode.errors import SchemaError, StateUnknownError
from amnode.machine import schema as schema_module
from amnode.machine.schema import Group, Schema, State, States, did_you_mean
from tests.unit.machine.naive import Rule
from tests.unit.machine.strategies import rules, schema_of


class Door(States):
    Open = State(remove=("Closed",))
    "The door can be walked through."
    Closed = State(auto=True, remove=(Open,), tags=("default",))
    "It cannot."


class Gate(Door):
    Locked = State(require=("Closed",))
    Closed = State(remove=("Open",))
    _order_ = ("Locked", "Exception")


def test_names_are_text_for_those_who_read_them() -> None:
    assert Door.Open == "Open"
    assert Door().Closed == "Closed"


def test_a_class_is_parsed_once_and_exception_comes_last() -> None:
    schema = Door.schema()
    assert schema is Door.schema()
    assert schema.names == ("Open", "Closed", "Exception")
    assert schema["Exception"].multi
    assert schema["Closed"].remove == ("Open",)
    assert schema["Closed"].tags == ("default",)
    assert repr(schema) == "Schema(Open, Closed, Exception)"


def test_a_subclass_replaces_states_whole_and_orders_them() -> None:
    schema = Gate.schema()
    assert schema.names == ("Locked", "Exception", "Open", "Closed")
    assert not schema["Closed"].auto
    assert Door.schema()["Closed"].auto


def test_a_schema_is_a_mapping_with_an_index() -> None:
    schema = Schema({"A": State(), "B": State()})
    assert [*schema] == ["A", "B", "Exception"]
    assert len(schema) == schema.version == 3
    assert schema.index("B") == 1
    assert "A" in schema
    assert "C" not in schema


def test_exception_is_multi_and_stays_where_it_is_placed() -> None:
    schema = Schema({"Exception": State(tags=("first",)), "A": State()})
    assert schema.names == ("Exception", "A")
    assert schema["Exception"].multi
    assert schema["Exception"].tags == ("first",)


def test_unknown_states_are_told_with_the_nearest_names() -> None:
    schema = Door.schema()
    with pytest.raises(StateUnknownError, match="no state 'Opem'; did you mean Open"):
        schema.index("Opem")
    with pytest.raises(StateUnknownError, match=r"no state 'Xyz'\.$"):
        schema["Xyz"]
    assert did_you_mean("Xyz", schema.names) == ""


def test_parsing_drops_what_means_nothing() -> None:
    schema = Schema(
        {
            "A": State(add="B", remove=("A", "B", "C"), after=("A", "B", "B")),
            "B": State(),
            "C": State(),
        }
    )
    assert schema["A"].remove == ("C",)
    assert schema["A"].after == ("B",)
    assert schema["A"].add == ("B",)


@pytest.mark.parametrize(
    ("states", "order", "said"),
    [
        ({"A": State(require=("Bx",)), "Bxx": State()}, (), "A has 'Bx' in require.*Bxx"),
        ({"A": State(add=("B",))}, (), "in add"),
        ({"A": State(remove=("B",))}, (), "in remove"),
        ({"A": State(after=("B",))}, (), "in after"),
        (
            {"A": State(require=("B",), remove=("B",)), "B": State()},
            (),
            "requires and removes B",
        ),
        ({"A": State()}, ("B",), "order names 'B'"),
        ({"not one": State()}, (), "is no name"),
        ({"A": "multi"}, (), "must be a State"),
    ],
)
def test_contradictions_are_told_with_the_states(
    states: dict[str, State], order: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SchemaError, match=said):
        Schema(states, order)


def test_cycles_in_require_and_after_are_allowed() -> None:
    schema = Schema(
        {"A": State(require=("B",), after=("B",)), "B": State(require=("A",), after=("A",))}
    )
    assert schema["A"].require == ("B",)


def test_extending_adds_and_replaces_in_place() -> None:
    schema = Door.schema().extend({"Closed": State(multi=True), "Locked": State()})
    assert schema.names == ("Open", "Closed", "Exception", "Locked")
    assert schema["Closed"].multi
    assert Door.schema().extend({}, ("Exception",)).names == ("Exception", "Open", "Closed")


def test_what_is_compiled_is_shared_and_bounded() -> None:
    schema = Schema({"A": State()})
    first = schema.compile("x", lambda: [1])
    assert schema.compile("x", lambda: [2]) is first
    for key in range(300):
        schema.compile(key, list[int])
    assert schema.compile("x", lambda: [2]) == [2]


@given(rules())
def test_a_schema_makes_itself_again(found: dict[str, Rule]) -> None:
    schema = schema_of(found)
    again = Schema(schema.to_states())
    assert {**again} == {**schema}
    for name, state in schema.items():
        assert name not in (*state.remove, *state.after)
        assert not set(state.add) & set(state.remove)
        assert not set(state.require) & set(state.remove)


# -- groups, merging, growing --------------------------------------------------------------


class Light(States):
    On = State()
    Off = State()
    Broken = State()
    Shining = Group(On)
    Dark = Group(Off, "Broken")
    Every = Group(Shining, Dark)


class Lamp(Light):
    Flickering = State(remove=Light.Dark)
    Moving = Group(Flickering, "On")


def test_groups_are_typed_constants() -> None:
    assert Light.Dark == ("Off", "Broken")
    assert Light.Every == ("On", "Off", "Broken")
    assert Light.schema().groups == {
        "Shining": ("On",),
        "Dark": ("Off", "Broken"),
        "Every": ("On", "Off", "Broken"),
    }
    assert Lamp.schema()["Flickering"].remove == ("Off", "Broken")
    assert list(Lamp.schema().groups) == ["Shining", "Dark", "Every", "Moving"]


def test_a_group_in_a_relation_stands_for_its_states() -> None:
    schema = Schema({"A": State(remove=Group("A", "B")), "B": State(remove=[Group("A"), "B"])})
    assert (schema["A"].remove, schema["B"].remove) == (("B",), ("A",))


def test_a_group_of_unknown_states_is_told() -> None:
    with pytest.raises(SchemaError, match="Group G has 'Opn', which is unknown; did you mean"):
        Schema({"Open": State()}, groups={"G": ("Opn",)})


def test_merging() -> None:
    one = Schema({"A": State(args=int, tasks=2), "B": State()}, groups={"G": ("A",)})
    two = Schema({"B": State(require="C"), "C": State(multi=True)}, groups={"H": ("C",)})
    merged = one.merge(two)
    assert merged.names == ("A", "B", "Exception", "C")
    assert merged["B"].require == ("C",)
    assert merged.groups == {"G": ("A",), "H": ("C",)}
    assert (merged.args, merged.task_limits) == ({"A": int}, {"A": 2})
    assert one.merge(two, ("C",)).names == ("C", "A", "B", "Exception")


def test_growing_keeps_every_place() -> None:
    one = Schema({"A": State(tags=["x"]), "B": State()})
    grown = one.grown({"C": State(require="A"), "D": State(remove="C")})
    assert grown.names == ("A", "B", "Exception", "C", "D")
    assert (one.version, grown.version) == (3, 5)
    assert grown["A"] == one["A"]
    with pytest.raises(SchemaError, match="State A, Exception exists"):
        one.grown({"A": State(), "Exception": State()})


def test_a_limit_of_tasks_is_not_negative() -> None:
    with pytest.raises(SchemaError, match="has -1 tasks"):
        Schema({"A": State(tasks=-1)})


def test_to_ask_whether_a_state_is_there_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Binding asks so a thousand times, before each worker is ready."""

    def guess(*_: object) -> None:
        raise AssertionError("Nobody asked what the name may have meant.")

    made = schema_module.Schema({"On": schema_module.State()})
    monkeypatch.setattr(schema_module, "unknown_state", guess)
    assert "On" in made and "Onn" not in made
