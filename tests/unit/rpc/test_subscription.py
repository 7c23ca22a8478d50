from __future__ import annotations

import pytest

from amnode.errors import NotSyncedError, ProtocolError, SchemaError, StateUnknownError
from amnode.machine.schema import Schema, State
from amnode.rpc.protocol.subscription import (
    Subscription,
    check_schema,
    followed,
    schema_from_wire,
    schema_hash,
    schema_to_wire,
)
from amnode.rpc.protocol.wire import SchemaState

DOOR = Schema(
    {
        "Open": State(multi=True, require=("Unlocked",), remove=("Closed",), tags=("ui",)),
        "Closed": State(auto=True, remove=("Open",)),
        "Unlocked": State(add=("Seen",)),
        "Seen": State(after=("Open",)),
    }
)


def test_a_schema_survives_the_wire() -> None:
    again = schema_from_wire(schema_to_wire(DOOR))
    assert again.names == DOOR.names
    assert dict(again) == dict(DOOR)
    assert schema_hash(again) == schema_hash(DOOR)


def test_the_hash_tells_order_kinds_and_relations_but_not_tags() -> None:
    states = DOOR.to_states()
    same = Schema({**states, "Closed": State(auto=True, remove=("Open",), tags=("x",))})
    assert schema_hash(same) == schema_hash(DOOR)
    others = [
        Schema(states, order=("Seen",)),
        Schema({**states, "Closed": State(remove=("Open",))}),
        Schema({**states, "Closed": State(auto=True)}),
        Schema({**states, "More": State()}),
    ]
    assert len({schema_hash(schema) for schema in (DOOR, *others)}) == 5


def test_a_schema_that_contradicts_itself_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="Nowhere"):
        schema_from_wire([SchemaState("A", 0, ["Nowhere"], [], [], [], [])])


def test_a_client_accepts_a_source_that_has_more_and_is_told_what_lacks_or_differs() -> None:
    check_schema(Schema({"Closed": State(auto=True, remove=("Open",)), "Open": DOOR_OPEN}), ANY)
    wanted = Schema({"Closed": State(multi=True), "Gone": State()})
    with pytest.raises(SchemaError) as raised:
        check_schema(wanted, DOOR)
    text = str(raised.value)
    assert "Closed differs in auto, multi, remove" in text
    assert "Gone is missing" in text


DOOR_OPEN = State(multi=True, remove=("Closed",))
ANY = Schema({"Zero": State(), "Open": DOOR_OPEN, "Closed": State(auto=True, remove=("Open",))})


ALL = range(len(DOOR))


def test_what_is_followed_is_in_the_order_of_the_schema_and_exists() -> None:
    assert followed(DOOR, ALL, Subscription().to_wire(b"")) is None
    some = Subscription(("Unlocked", "Open", "Open")).to_wire(b"")
    assert followed(DOOR, ALL, some) == [0, 2]
    with pytest.raises(StateUnknownError, match="Unlocked"):
        followed(DOOR, ALL, Subscription(("Unlockd",)).to_wire(b""))


def test_all_but_some_are_followed() -> None:
    others = Subscription(("Closed", "Seen"), all_but=True).to_wire(b"")
    assert followed(DOOR, ALL, others) == [0, 2, 4]


def test_of_a_replica_only_what_it_follows_can_be_followed() -> None:
    known = [0, 2, 3]
    assert followed(DOOR, known, Subscription().to_wire(b"")) == known
    assert followed(DOOR, known, Subscription(("Open",), all_but=True).to_wire(b"")) == [2, 3]
    assert followed(DOOR, known, Subscription(("Seen",)).to_wire(b"")) == [3]
    with pytest.raises(NotSyncedError, match="Closed"):
        followed(DOOR, known, Subscription(("Closed",)).to_wire(b""))


def test_a_subscription_says_how_on_the_wire() -> None:
    message = Subscription(None, shallow=True, every=True, push_interval=0.25).to_wire(b"h")
    assert (message.states, message.flags, message.interval) == (None, 6, 250)
