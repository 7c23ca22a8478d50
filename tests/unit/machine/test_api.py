"""Reading a machine: what local ones and replicas share."""

from __future__ import annotations

import pytest

from amnode.errors import OptionError, StateUnknownError
from amnode.machine.machine import Machine
from amnode.machine.schema import State, States


class Door(States):
    Open = State()
    Locked = State()
    Knocked = State(multi=True)


@pytest.fixture
def door() -> Machine:
    machine = Machine(Door, id="door")
    machine.add1(Door.Open)
    machine.add((Door.Knocked,))
    machine.add1(Door.Knocked)
    return machine


def test_what_it_is(door: Machine) -> None:
    assert door.id == "door"
    assert door.schema is Door.schema()
    assert door.state_names == ("Open", "Locked", "Knocked", "Exception")
    assert (door.queue_tick, door.machine_tick) == (4, 0)
    assert door.has("Open", "Exception")
    assert not door.has("Open", "Window")
    assert door.index("Knocked") == 2


def test_reading_one_state(door: Machine) -> None:
    assert (door.is1("Open"), door.is1("Locked")) == (True, False)
    assert (door.not1("Open"), door.not1("Locked")) == (False, True)
    assert door.tick("Knocked") == 3


def test_reading_several(door: Machine) -> None:
    assert door.is_(("Open", "Knocked"))
    assert not door.is_(("Open", "Locked"))
    assert door.is_(())
    assert door.not_(("Locked", "Exception"))
    assert not door.not_(("Locked", "Open"))
    assert door.any1("Locked", "Open")
    assert not door.any1("Locked")
    assert door.any_(("Locked",), ("Open", "Knocked"))
    assert not door.any_(("Locked", "Open"))
    assert not door.any_()


def test_one_name_where_several_may_stand(door: Machine) -> None:
    assert door.is_("Open")
    assert door.add("Locked")
    assert door.remove("Locked")
    assert door.set("Open")
    assert door.active_states() == ["Open"]


def test_reading_time(door: Machine) -> None:
    assert door.time() == (1, 0, 3, 0)
    assert door.time(("Knocked", "Open")) == (3, 1)
    assert door.clock() == {"Open": 1, "Locked": 0, "Knocked": 3, "Exception": 0}
    assert door.clock(("Open",)) == {"Open": 1}


def test_as_text(door: Machine) -> None:
    assert str(door) == "(Knocked:3 Open:1)"
    assert repr(door) == "<Machine door (Knocked:3 Open:1)>"
    assert door.inspect() == "| Open 1\n  Locked 0\n| Knocked 3\n  Exception 0"


def test_unknown_states_are_told(door: Machine) -> None:
    for read in (door.is1, door.tick, door.index, door.state_ctx, door.add1, door.remove1):
        with pytest.raises(StateUnknownError, match="'Opn'; did you mean Open"):
            read("Opn")
    for many in (door.is_, door.not_, door.time, door.add, door.remove, door.set, door.toggle):
        with pytest.raises(StateUnknownError):
            many(("Open", "Opn"))


def test_reading_time_as_a_condition(door: Machine) -> None:
    assert door.is_time((1, 0, 3, 0))
    assert not door.is_time((1, 0, 1, 0))
    assert door.is_time((3,), ("Knocked",))
    assert door.was_time((1, 0, 1, 0))
    assert door.was_time((3,), ("Knocked",))
    assert not door.was_time((4,), ("Knocked",))
    assert door.is_clock({"Open": 1, "Knocked": 3})
    assert not door.is_clock({"Open": 1, "Knocked": 4})
    for wrong in (door.is_time, door.was_time):
        with pytest.raises(OptionError, match="1 states and 2 ticks"):
            wrong((1, 2), ("Open",))


def test_switch_gives_the_first_active_one(door: Machine) -> None:
    assert door.switch("Locked", "Knocked", "Open") == "Knocked"
    assert door.switch("Locked") is None


def test_the_long_form_has_the_inactive_states(door: Machine) -> None:
    assert door.str_all() == "(Knocked:3 Open:1) [Locked:0 Exception:0]"
