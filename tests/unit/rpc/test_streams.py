from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.errors import ProtocolError
from amnode.rpc.protocol.streams import Receiver, Sender
from amnode.rpc.protocol.wire import Large


def item(size: int) -> msgspec.Raw:
    return msgspec.Raw(b"x" * size)


def test_nothing_is_sent_before_something_is_allowed() -> None:
    sender = Sender()
    assert not sender.has_room
    sender.allow(0, 1)
    assert sender.has_room


def test_items_are_numbered_and_kept_until_they_have_arrived() -> None:
    sender = Sender()
    sender.allow(0, 100)
    assert [sender.send(item(10)), sender.send(Large(b"x" * 5, b"y"))] == [1, 2]
    assert sender.unacknowledged == 16 and sender.number == 2
    sender.allow(1, 100)
    assert [number for number, _ in sender.unarrived()] == [2]
    sender.allow(2, 100)
    assert sender.unarrived() == [] and sender.unacknowledged == 0


def test_what_is_allowed_never_falls() -> None:
    sender = Sender()
    sender.allow(0, 10)
    sender.send(item(9))
    sender.allow(0, 5)  # an older word, after a reconnect
    assert sender.has_room
    sender.send(item(1))
    assert not sender.has_room


def test_an_item_of_any_size_can_cross_whatever_was_before_it() -> None:
    sender, receiver = Sender(), Receiver(100)
    sender.allow(*receiver.allowance())
    for size in (1, 2, 1000):
        assert sender.has_room
        assert receiver.came(sender.send(item(size)), size)
    assert not sender.has_room
    for size in (1, 2):
        assert not receiver.consumed(size)
    assert receiver.consumed(1000)
    sender.allow(*receiver.allowance())
    assert sender.has_room and sender.unarrived() == []


def test_more_arrived_than_were_sent_is_a_fault() -> None:
    sender = Sender()
    sender.send(item(1))
    with pytest.raises(ProtocolError, match="2 items have arrived of 1"):
        sender.allow(2, 10)


def test_an_item_that_had_arrived_is_no_item() -> None:
    receiver = Receiver(10)
    receiver.allowance()
    assert receiver.came(1, 3) and not receiver.came(1, 3)
    assert receiver.number == 1 and receiver.allowance() == (1, 10)


def test_a_gap_and_an_item_without_credit_are_faults() -> None:
    receiver = Receiver(10)
    with pytest.raises(ProtocolError, match="no credit"):
        receiver.came(1, 1)
    receiver.allowance()
    with pytest.raises(ProtocolError, match="Item 2 of a stream after item 0"):
        receiver.came(2, 1)
    receiver.came(1, 10)
    with pytest.raises(ProtocolError, match="no credit"):
        receiver.came(2, 1)


def test_what_was_read_is_told_in_quarters_of_the_window() -> None:
    receiver = Receiver(40)
    receiver.allowance()
    receiver.came(1, 30)
    assert not receiver.consumed(9)
    assert receiver.consumed(1)
    assert receiver.allowance() == (1, 50)
    assert not receiver.consumed(9)
    assert not receiver.ended and not receiver.stopped


@given(
    st.integers(1, 50), st.lists(st.integers(1, 120), max_size=40), st.randoms(), st.booleans()
)
def test_no_reader_costs_more_than_its_window_and_one_item_and_none_waits_for_ever(
    window: int, sizes: list[int], dice: object, slow: bool
) -> None:
    sender, receiver = Sender(), Receiver(window)
    sender.allow(*receiver.allowance())
    waiting, unread, crossing = list(sizes), list[int](), list[tuple[int, int]]()
    choose = dice.choice  # type: ignore[attr-defined]
    while waiting or crossing or unread:
        able = [
            name
            for name, can in (
                ("send", bool(waiting) and sender.has_room),
                ("arrive", bool(crossing)),
                ("read", bool(unread) and not (slow and waiting and sender.has_room)),
            )
            if can
        ]
        assert able, "nobody can go on"
        match choose(able):
            case "send":
                size = waiting.pop(0)
                crossing.append((sender.send(item(size)), size))
            case "arrive":
                number, size = crossing.pop(0)
                assert receiver.came(number, size)
                unread.append(size)
            case _:
                if receiver.consumed(unread.pop(0)):
                    sender.allow(*receiver.allowance())
        on_hand = sum(unread) + sum(size for _, size in crossing)
        assert on_hand < window + max(sizes)
    assert receiver.number == len(sizes)


def test_few_items_are_allowed_ahead_however_small_they_are() -> None:
    receiver = Receiver(1000, items=4)
    assert receiver.allowance() == (0, 32)  # none has come: they may have a few bytes each
    for number in range(1, 17):
        assert receiver.came(number, 2)
    told = 32
    for _ in range(16):
        if receiver.consumed(2):
            told = receiver.allowance()[1]
    assert told == 32 + 4 * 2


def test_what_was_allowed_is_not_taken_back_when_items_turn_out_smaller() -> None:
    receiver = Receiver(1000, items=10)
    assert receiver.allowance() == (0, 80)
    receiver.came(1, 79)
    assert receiver.consumed(79)
    assert receiver.allowance() == (1, 79 + 790)
    for number in range(2, 12):
        receiver.came(number, 1)
    assert not receiver.consumed(1)
    assert receiver.allowance() == (11, 79 + 790)


def test_large_items_are_bounded_by_the_window() -> None:
    receiver = Receiver(1000, items=10)
    receiver.allowance()
    receiver.came(1, 500)
    assert receiver.consumed(500)
    assert receiver.allowance() == (1, 1500)
