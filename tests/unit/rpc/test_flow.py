from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.errors import ProtocolError
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.flow import Inbox, Outbox, Outgoing
from amnode.rpc.protocol.wire import NIL, Large

CHUNK, WINDOW = 10, 40


def payload(number: int) -> Callable[[msgspec.Raw], bytes]:
    return lambda raw: wire.to_frame(wire.Payload(number, "p", raw))


def raw(size: int, byte: int = 0) -> msgspec.Raw:
    """A value that takes so many bytes."""
    return msgspec.Raw(b"\xc4" + bytes([size - 2]) + bytes([byte]) * (size - 2))


def messages(data: Outgoing) -> list[wire.AnyMessage]:
    framer = wire.Framer(1 << 20)
    framer.feed(data if isinstance(data, bytes) else b"".join(data))
    found: list[wire.AnyMessage] = []
    while (body := framer.next()) is not None:
        found.append(wire.from_frame(body))
    return found


def names(data: Outgoing) -> list[str]:
    return [type(message).__name__ for message in messages(data)]


def alive(outbox: Outbox) -> None:
    outbox.put(wire.to_frame(wire.Alive()))


# -- what goes out -----------------------------------------------------------------------


def test_small_values_leave_at_once_and_in_one_piece() -> None:
    outbox = Outbox(CHUNK, WINDOW)
    assert not outbox.ready and outbox.take(100) == b""
    outbox.put_value(1, None, raw(10), payload(1))
    assert isinstance(whole := outbox.take(0), bytes)
    assert messages(whole) == [wire.Payload(1, "p", raw(10))]
    outbox.put_value(1, None, raw(3), payload(2))
    alive(outbox)
    assert outbox.queued > 0 and outbox.ready
    assert messages(outbox.take(0)) == [wire.Payload(2, "p", raw(3)), wire.Alive()]
    assert outbox.queued == 0 and not outbox.ready


def test_a_value_passes_if_it_is_small_and_nothing_is_before_it_in_its_lane() -> None:
    outbox = Outbox(CHUNK, WINDOW)
    assert outbox.passes(raw(10), 1) and outbox.passes(NIL, 1)
    assert not outbox.passes(raw(11), 1) and not outbox.passes(Large(b"x"), 1)
    outbox.put_value(1, None, raw(25), payload(1))
    assert not outbox.passes(NIL, 1) and outbox.passes(NIL, 2)
    outbox.take(1000)
    assert outbox.passes(NIL, 1)


def test_a_large_value_is_announced_sent_in_chunks_and_referred_to() -> None:
    outbox = Outbox(CHUNK, WINDOW)
    outbox.put_value(1, None, raw(25), payload(1))
    assert outbox.queued == 25
    sent = messages(outbox.take(1000))
    assert [type(message) for message in sent] == [wire.Body, *[wire.Chunk] * 3, wire.Payload]
    assert sent[0] == wire.Body(1, 25)
    assert b"".join(m.data for m in sent if isinstance(m, wire.Chunk)) == bytes(raw(25))
    assert sent[-1] == wire.Payload(1, "p", wire.body_reference(1))
    assert outbox.on_the_way == 25 and outbox.queued == 0


def test_a_value_in_pieces_is_sent_as_slices_of_them() -> None:
    outbox = Outbox(CHUNK, WINDOW)
    data = bytearray(range(30))
    outbox.put_value(1, None, Large(b"\xc4\x1e", memoryview(data)), payload(1))
    pieces = outbox.take(1000)
    assert not isinstance(pieces, bytes)
    views = [piece for piece in pieces if isinstance(piece, memoryview)]
    assert [view.nbytes for view in views] == [2, 10, 10, 10]
    assert all(view.obj is data for view in views[1:])  # rule 4


def test_the_urgent_passes_a_body_and_is_not_passed() -> None:
    outbox = Outbox(CHUNK, WINDOW)
    outbox.put_value(1, None, raw(30), payload(1))
    assert names(outbox.take(10)) == ["Body", "Chunk"]
    alive(outbox)
    assert names(outbox.take(10)) == ["Alive", "Chunk"]
    alive(outbox)
    assert names(outbox.take(100)) == ["Alive", "Chunk", "Payload"]


def test_what_follows_a_body_in_its_lane_waits_and_other_lanes_do_not() -> None:
    outbox = Outbox(CHUNK, WINDOW)
    outbox.put_value(1, None, raw(20), payload(1))
    outbox.put_value(1, None, raw(5), payload(2))
    outbox.put_value(1, None, Large(b"\xc4\x01", b"x"), payload(4))  # small, in pieces
    outbox.put_value(2, None, raw(5), payload(3))
    sent = [m.number for m in messages(outbox.take(1000)) if isinstance(m, wire.Payload)]
    assert sent == [3, 1, 2, 4]
    outbox.put_value(1, None, raw(5), payload(5))  # the lane is free again
    assert isinstance(outbox.take(0), bytes)


def test_no_more_than_the_window_is_on_its_way_until_it_is_credited() -> None:
    outbox = Outbox(CHUNK, WINDOW)
    outbox.put_value(1, None, raw(100), payload(1))
    outbox.take(1000)
    assert outbox.on_the_way == WINDOW and not outbox.ready
    alive(outbox)
    assert outbox.ready and names(outbox.take(1000)) == ["Alive"]
    outbox.credit(9)
    assert not outbox.ready and names(outbox.take(1000)) == []  # a sliver waits for more
    outbox.credit(1)
    assert outbox.ready and names(outbox.take(1000)) == ["Chunk"]
    with pytest.raises(ProtocolError, match="41 bytes; 40 are on their way"):
        outbox.credit(41)


def test_what_has_not_left_can_be_taken_back() -> None:
    outbox = Outbox(CHUNK, WINDOW)
    outbox.put_value(1, "a", raw(50), payload(1))
    outbox.put_value(1, "b", raw(50), payload(2))
    outbox.put_value(1, "c", raw(5), payload(3))
    assert names(outbox.take(10)) == ["Body", "Chunk"]
    assert outbox.drop("b") and outbox.drop("a") and not outbox.drop("a")
    assert names(outbox.take(1000)) == ["Drop", "Payload"]
    assert outbox.queued == 0 and not outbox.drop("c")


def test_what_has_not_left_can_be_replaced_where_it_stands() -> None:
    outbox = Outbox(CHUNK, WINDOW)
    for at, key in enumerate("abc"):
        outbox.put_value(1, key, raw(20), payload(at))
    outbox.take(10)
    assert outbox.replace("a", b"A" * 4) and outbox.replace("b", b"B" * 4)
    assert not outbox.replace("x", b"") and not outbox.replace("a", b"")
    assert outbox.queued > 20
    data = outbox.take(1000)
    whole = data if isinstance(data, bytes) else b"".join(data)
    drop = wire.to_frame(wire.Drop(1))
    assert whole.startswith(drop + b"AAAABBBB" + wire.to_frame(wire.Body(2, 20)))
    assert outbox.queued == 0


# -- what comes in -----------------------------------------------------------------------


def test_a_body_is_claimed_once_it_is_whole() -> None:
    inbox = Inbox(100)
    inbox.begin(3, 5)
    assert inbox.held == 5
    inbox.chunk(3, b"\xc4\x03a")
    with pytest.raises(ProtocolError, match="of which 2 bytes lack"):
        incomplete = Inbox(100)
        incomplete.begin(3, 5)
        incomplete.chunk(3, b"\xc4\x03a")
        incomplete.claim(wire.body_reference(3))
    inbox.chunk(3, b"bc")
    assert bytes(inbox.claim(wire.body_reference(3))) == b"\xc4\x03abc"
    assert inbox.held == 0
    with pytest.raises(ProtocolError, match="body 3, which was not announced"):
        inbox.claim(wire.body_reference(3))


def test_a_value_that_is_no_reference_is_itself() -> None:
    assert Inbox(1).claim(NIL) is NIL


def test_a_body_may_be_received_where_it_belongs() -> None:
    inbox = Inbox(100)
    inbox.begin(1, 6)
    inbox.place(1, 4)[:] = b"\xc4\x04ab"
    inbox.placed(1, 4)
    inbox.place(1, 2)[:] = b"cd"
    inbox.placed(1, 2)
    assert bytes(inbox.claim(wire.body_reference(1))) == b"\xc4\x04abcd"


def test_a_body_that_is_dropped_is_gone() -> None:
    inbox = Inbox(100)
    inbox.begin(1, 60)
    inbox.drop(1)
    assert inbox.held == 0
    inbox.begin(2, 100)
    for number in (1, 3):
        with pytest.raises(ProtocolError, match=f"drop of body {number}"):
            inbox.drop(number)


def test_numbers_rise_and_all_bodies_together_stay_within_the_limit() -> None:
    inbox = Inbox(100)
    inbox.begin(2, 60)
    for number in (1, 2):
        with pytest.raises(ProtocolError, match="numbers must rise"):
            inbox.begin(number, 1)
    with pytest.raises(ProtocolError, match="41 bytes beside 60 more; body_limit allows 100"):
        inbox.begin(3, 41)
    inbox.begin(3, 40)


def test_not_more_than_so_many_bodies_are_under_way() -> None:
    inbox = Inbox(10_000)
    with pytest.raises(ProtocolError, match="bodies are under way at once"):
        for number in range(1, 10_000):
            inbox.begin(number, 1)
    assert inbox.held < 10_000
    inbox.drop(1)
    inbox.begin(20_000, 1)


def test_a_chunk_of_no_body_or_beyond_its_end_is_a_fault() -> None:
    inbox = Inbox(100)
    with pytest.raises(ProtocolError, match="chunk of body 1, which"):
        inbox.chunk(1, b"x")
    inbox.begin(1, 3)
    inbox.chunk(1, b"x")
    with pytest.raises(ProtocolError, match="3 bytes for body 1, of which 2"):
        inbox.chunk(1, b"xyz")


def test_credit_is_given_back_for_all_that_came() -> None:
    inbox = Inbox(1000)
    inbox.begin(1, 100)
    assert inbox.due() == 0
    inbox.chunk(1, b"x" * 9)
    inbox.chunk(1, b"x")
    assert inbox.due() == 10 and inbox.due() == 0


def test_a_value_in_pieces_is_never_joined() -> None:
    outbox = Outbox(CHUNK, WINDOW)
    data = bytes(bytearray(b"x" * 3))
    outbox.put_value(1, None, Large(b"\xc4\x03", memoryview(data)), payload(1))
    sent = outbox.take(100)
    assert not isinstance(sent, bytes) and any(memoryview(part).obj is data for part in sent)


# -- both together -----------------------------------------------------------------------

sends = st.lists(st.tuples(st.integers(1, 3), st.integers(2, 90)), min_size=1, max_size=7)


class Line:
    """An outbox, an inbox, and what is on its way between them."""

    def __init__(self, chunk: int, window: int) -> None:
        self.window = window
        self.outbox, self.inbox = Outbox(chunk, window), Inbox(1 << 20)
        self.on_the_way: deque[bytes] = deque()
        self.got: list[tuple[int, bytes]] = []
        self._framer = wire.Framer(1 << 20)

    def send(self, most: int, split: Callable[[int], int]) -> bool:
        """Takes what may leave, in pieces of any size; False if that was nothing."""
        pieces = self.outbox.take(most)
        assert self.outbox.on_the_way <= self.window  # S17
        stream = pieces if isinstance(pieces, bytes) else b"".join(pieces)
        any_ = bool(stream)
        while stream:
            at = split(len(stream))
            self.on_the_way.append(stream[:at])
            stream = stream[at:]
        return any_

    def arrive(self) -> None:
        """The next piece arrives, and what it makes whole is taken."""
        self._framer.feed(self.on_the_way.popleft())
        while (body := self._framer.next()) is not None:
            self._take(wire.from_frame(body))
        if credit := self.inbox.due():
            self.outbox.credit(credit)

    def _take(self, message: wire.AnyMessage) -> None:
        match message:
            case wire.Body(number, size):
                self.inbox.begin(number, size)
            case wire.Chunk(number, data):
                self.inbox.chunk(number, data)
            case wire.Payload(number, _, data):
                self.got.append((number, bytes(self.inbox.claim(data))))
            case _:
                raise AssertionError(message)


@given(sends, st.integers(2, 60), st.integers(4, 100), st.randoms(use_true_random=False))
def test_whatever_is_sent_arrives_whole_in_its_lanes_order_within_the_window(
    sent: list[tuple[int, int]], chunk: int, window: int, dice: Random
) -> None:
    line = Line(chunk, window)
    waiting = [*enumerate(sent, 1)]
    while len(line.got) < len(sent):
        moved = bool(waiting)
        if waiting and dice.random() < 0.5:
            number, (lane, size) = waiting.pop(0)
            line.outbox.put_value(lane, None, raw(size, number), payload(number))
        most = dice.choice([0, 11, 200])
        moved |= line.send(most, lambda size: dice.randint(1, size)) or most == 0
        while line.on_the_way and dice.random() < 0.7:
            line.arrive()
            moved = True
        assert moved or line.on_the_way, "nobody can go on"
    assert dict(line.got) == {n: bytes(raw(size, n)) for n, (_, size) in enumerate(sent, 1)}
    for lane in (1, 2, 3):
        order = [number for number, _ in line.got if sent[number - 1][0] == lane]
        assert order == sorted(order)  # rule 3
    assert line.inbox.held == 0 and line.outbox.queued == 0
