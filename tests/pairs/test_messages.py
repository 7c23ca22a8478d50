"""What crosses an open session: mutations, answers, updates, payloads, the end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.errors import ConnectionLost, DeliveryError, ProtocolError, RefusedError
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.session import (
    Advanced,
    Answered,
    Called,
    Cancelled,
    Closed,
    Delivered,
    Phase,
    Resynced,
)
from amnode.rpc.protocol.wire import NIL, Outcome
from tests.pairs.session_pair import Pair, deliver, sent_by


def sizes(pair: Pair) -> tuple[int, int]:
    return len(pair.to_server), len(pair.to_client)


def test_a_mutation_is_answered_with_the_difference_in_at_most_40_bytes() -> None:
    pair = Pair().opened()
    before = sum(sizes(pair))
    assert pair.client.ask(0, [2]) == 1
    pair.exchange()
    assert sum(sizes(pair)) - before <= 40
    assert pair.seen_by_client == [
        Advanced([2, 1]),
        Answered(1, Outcome.EXECUTED, NIL),
    ]
    assert pair.client.follower.ticks == [0, 0, 1, 0, 0]


def test_the_budget_holds_for_long_sessions_too() -> None:
    pair = Pair().opened()
    for _ in range(70_000):  # numbers of 5 bytes
        pair.client.memory.asked._last += 1
        pair.server.memory.answering._last += 1
    pair.source.queue_tick += 1
    before = sum(sizes(pair))
    pair.client.ask(0, [2])
    pair.exchange()
    assert sum(sizes(pair)) - before <= 40


def test_an_answer_carries_what_else_moved_since_the_last_update() -> None:
    pair = Pair().opened()
    pair.client.ask(0, [2])
    pair.move(1)
    pair.move(1, 3)
    pair.exchange()
    # The pushes were coalesced with the answer or left before it; the order is kept.
    assert pair.seen_by_client[-2:] == [
        Advanced([1, 2, 2, 1, 3, 1]),
        Answered(1, Outcome.EXECUTED, NIL),
    ]


def test_transitions_of_one_turn_are_one_update() -> None:
    pair = Pair().opened()
    for _ in range(3):
        pair.move(0)
        pair.move(1)
    pair.exchange()
    assert pair.seen_by_client == [Advanced([0, 3, 1, 3])]
    pair.exchange()
    assert len(pair.seen_by_client) == 1


def test_a_deferred_answer_is_passed_by_later_ones_and_carries_a_value() -> None:
    pair = Pair().opened()
    pair.run = lambda event: None  # deferred
    pair.client.ask(0, [0])
    pair.client.ask(0, [1])
    pair.exchange()
    assert [e.seq for e in pair.seen_by_server if isinstance(e, Called)] == [1, 2]
    pair.server.answer(2, Outcome.CANCELED)
    pair.move(3)
    pair.server.answer(1, Outcome.EXECUTED, wire.to_raw({"n": 7}))
    pair.exchange()
    answers = [e for e in pair.seen_by_client if isinstance(e, Answered)]
    assert [(a.seq, a.outcome) for a in answers] == [
        (2, Outcome.CANCELED),
        (1, Outcome.EXECUTED),
    ]
    assert msgspec.msgpack.decode(answers[1].value) == {"n": 7}
    assert pair.client.follower.ticks[3] == 1
    assert not pair.server.answer(1, Outcome.EXECUTED)  # once


def test_an_answer_may_carry_an_error() -> None:
    pair = Pair().opened()
    pair.run = lambda event: None
    pair.client.ask(0, [0])
    pair.exchange()
    pair.server.answer(1, Outcome.ERROR, wire.error_to_raw(RefusedError("not today")))
    pair.exchange()
    (answer,) = (e for e in pair.seen_by_client if isinstance(e, Answered))
    error = wire.error_from_raw(answer.value)
    assert isinstance(error, RefusedError) and str(error) == "not today"


def test_a_cancel_reaches_the_server_only_while_the_answer_is_due() -> None:
    pair = Pair().opened()
    pair.run = lambda event: None
    pair.client.ask(0, [0])
    pair.client.cancel(1)
    pair.exchange()
    assert Cancelled(1) in pair.seen_by_server
    pair.server.answer(1, Outcome.CANCELED)
    deliver(pair.server, wire.to_frame(wire.Cancel(1)))  # it crossed the answer
    pair.exchange()
    pair.client.cancel(1)
    assert sent_by(pair.client) == b""
    assert pair.server.phase is Phase.OPEN


def test_a_payload_comes_after_the_states_that_were_before_it() -> None:
    pair = Pair().opened()
    pair.move(0)
    pair.server.send_payload("news", wire.to_raw([1, "x"]))
    pair.move(1)
    pair.exchange()
    assert pair.seen_by_client[0] == Advanced([0, 1])
    assert isinstance(delivered := pair.seen_by_client[1], Delivered)
    assert delivered.name == "news"
    assert msgspec.msgpack.decode(delivered.data) == [1, "x"]
    assert pair.seen_by_client[2] == Advanced([1, 1])


def test_what_is_over_the_body_limit_is_an_error_for_who_sends_it() -> None:
    pair = Pair(options=RpcOptions(body_limit=4096)).opened()
    large = wire.to_raw(b"x" * 5000)
    with pytest.raises(DeliveryError, match=r"'big' has 5003 bytes; body_limit allows 4096"):
        pair.server.send_payload("big", large)
    with pytest.raises(DeliveryError, match="4096"):
        pair.client.ask(0, [0], large)
    pair.exchange()
    assert pair.seen_by_server == pair.seen_by_client == []
    assert pair.client.ask(0, [2]) == 1  # no number was used up
    pair.run = lambda event: None
    pair.exchange()
    with pytest.raises(DeliveryError):
        pair.server.answer(1, Outcome.EXECUTED, large)
    pair.exchange()
    (answer,) = (e for e in pair.seen_by_client if isinstance(e, Answered))
    assert isinstance(wire.error_from_raw(answer.value), DeliveryError)


def test_what_is_over_the_frame_limit_goes_in_chunks_both_ways() -> None:
    pair = Pair(options=RpcOptions(frame_limit=4096)).opened()
    large = wire.to_raw(b"x" * 50_000)
    pair.run = lambda event: pair.server.answer(event.seq, Outcome.EXECUTED, event.args)
    pair.client.ask(0, [0], large)
    pair.server.send_payload("big", large)
    pair.exchange()
    assert Answered(1, Outcome.EXECUTED, large) in pair.seen_by_client
    assert Delivered("big", large) in pair.seen_by_client
    frames, framer = list[bytes](), wire.Framer(1 << 30)
    framer.feed(bytes(pair.to_server) + bytes(pair.to_client))
    while (body := framer.next()) is not None:
        frames.append(body)
    assert max(map(len, frames)) <= 4096


# -- resync ------------------------------------------------------------------------------


def corrupt_update(data: bytes) -> bytes:
    """One update with a wrong checksum, everything else as it is."""
    framer, out = wire.Framer(1 << 20), b""
    framer.feed(data)
    while (body := framer.next()) is not None:
        message = wire.from_frame(body)
        if isinstance(message, wire.Update):
            wrong = msgspec.structs.replace(message.difference, checksum=1)
            message = wire.Update(wrong)
        out += wire.to_frame(message)
    return out


def test_a_wrong_checksum_is_one_full_resync_and_nothing_wrong_is_seen() -> None:
    pair = Pair().opened()
    pair.move(0)
    pair.meddle = corrupt_update
    down = pair.meddle(sent_by(pair.server))
    assert deliver(pair.client, down) == [Resynced()]
    # What is on its way before the snapshot is neither applied nor lost.
    pair.run = lambda event: None
    pair.client.ask(0, [1])
    request = sent_by(pair.client)
    pair.move(1)
    assert deliver(pair.client, sent_by(pair.server)) == []
    events = list(pair.server.receive(request))
    assert events[0] == Resynced() and isinstance(events[1], Called)
    pair.move(1)
    pair.server.answer(1, Outcome.EXECUTED)
    pair.server.send_payload("p", NIL)
    assert deliver(pair.client, sent_by(pair.server)) == [
        Advanced([0, 1, 1, 1]),
        Advanced([1, 1]),
        Answered(1, Outcome.EXECUTED, NIL),
        Delivered("p", NIL),
    ]
    assert pair.client.follower.ticks == pair.source.now


def test_payloads_without_a_bound_while_the_snapshot_is_waited_for_end_the_session() -> None:
    pair = Pair(options=RpcOptions(payload_limit=1000)).opened()
    pair.move(0)
    deliver(pair.client, corrupt_update(sent_by(pair.server)))
    seen: list[Any] = []
    for number in range(1, 4):
        payload = wire.Payload(number, "p", wire.to_raw(b"x" * 400))
        seen += deliver(pair.client, wire.to_frame(payload))
    (closed,) = seen
    assert isinstance(closed, Closed) and isinstance(closed.error, ProtocolError)
    assert "payload_limit allows 1000" in str(closed.error)


def test_answers_and_payloads_wait_for_the_snapshot() -> None:
    pair = Pair().opened()
    pair.run = lambda event: None
    pair.client.ask(0, [1])
    pair.exchange()
    pair.move(0)
    wrong = corrupt_update(sent_by(pair.server))
    pair.move(1)
    pair.server.answer(1, Outcome.EXECUTED)
    pair.server.send_payload("p", NIL)
    assert deliver(pair.client, wrong + sent_by(pair.server)) == [Resynced()]
    deliver(pair.server, sent_by(pair.client))
    assert deliver(pair.client, sent_by(pair.server)) == [
        Advanced([0, 1, 1, 1]),
        Answered(1, Outcome.EXECUTED, NIL),
        Delivered("p", NIL),
    ]


# -- the end -----------------------------------------------------------------------------


def test_a_goodbye_is_an_orderly_end_after_the_last_update() -> None:
    pair = Pair().opened()
    pair.move(0)
    pair.server.goodbye("lunch")
    pair.exchange()
    advanced, closed = pair.seen_by_client
    assert advanced == Advanced([0, 1])
    assert isinstance(closed, Closed) and closed.by_peer
    assert isinstance(closed.error, ConnectionLost) and "lunch" in str(closed.error)
    assert sent_by(pair.server) == b""
    pair.server.send_payload("p", NIL)  # kept, as after a cut
    pair.client.ask(0, [0])
    assert sent_by(pair.server) == b""
    pair.client.goodbye("too late")
    assert sent_by(pair.client) == b""


TO_SERVER: list[wire.Message] = [
    wire.Mutate(1, 0, [5], NIL),  # the source has 5 states: 0 to 4
    wire.Hello(wire.VERSION, "c", wire.Role.OBSERVER, b"n" * 32, b"", 0),
    wire.Subscribe(b"", None, 0, 0),
    wire.Update(wire.Difference([], 0, 0)),
    wire.Payload(1, "p", NIL),
    wire.Snapshot(wire.ClockData(0, 0, [0] * 5, 0)),
    wire.Step(wire.Difference([], 0, 0), 0, []),
    wire.Answer(1, Outcome.EXECUTED, None, NIL),
    wire.Stop(1),
    wire.Ack(0, 1),  # no payload was sent
    wire.Chunk(1, b"x"),  # of a body that was not announced
    wire.Drop(1),
    wire.Mutate(1, 0, [0], wire.body_reference(1)),
    wire.Body(1, (1 << 30) + 1),  # over the limit
    wire.Credit(1),  # nothing is on its way
    wire.Allow(1, 1, 1),  # an item of a stream that has none
]
TO_CLIENT: list[wire.Message] = [
    wire.Answer(1, Outcome.EXECUTED, None, NIL),  # nothing was asked
    wire.Update(wire.Difference([9, 1], 0, 0)),
    wire.Update(wire.Difference([0], 0, 0)),
    wire.Update(wire.Difference([0, 0], 0, 0)),
    wire.Snapshot(wire.ClockData(0, 0, [0] * 5, 0)),  # nobody asked for it
    wire.Mutate(1, 0, [0], NIL),
    wire.Welcome(b"p" * 32),
    wire.Ack(0, 0),
    wire.End(1, None),
    wire.Cancel(1),
    wire.Resync(),
    wire.Payload(2, "p", NIL),  # the second before the first
    wire.Payload(1, "p", wire.body_reference(1)),
    wire.Item(1, 1, wire.body_reference(1)),
    wire.Chunk(1, b"x"),
    wire.Drop(1),
    wire.Credit(1),
]


@pytest.mark.parametrize(
    ("side", "message"),
    [("server", m) for m in TO_SERVER] + [("client", m) for m in TO_CLIENT],
    ids=lambda value: value if isinstance(value, str) else wire.describe(value),
)
def test_what_no_peer_may_send_is_told_and_ends_the_session(
    side: str, message: wire.Message
) -> None:
    pair = Pair().opened()
    session = pair.server if side == "server" else pair.client
    before = [*pair.source.now]
    (closed,) = deliver(session, wire.to_frame(message))
    assert isinstance(closed, Closed) and isinstance(closed.error, ProtocolError)
    told = wire.from_frame(session.to_send()[4:])
    assert isinstance(told, wire.Failure)
    assert told.error.message == str(closed.error)
    assert pair.source.now == before


def test_a_number_that_does_not_rise_runs_nothing_and_gets_the_same_answer() -> None:
    pair = Pair().opened()
    pair.run = lambda event: pair.server.answer(event.seq, Outcome.EXECUTED, wire.to_raw(7))
    pair.client.ask(0, [0])
    pair.exchange()
    again = wire.to_frame(wire.Mutate(1, 0, [0], NIL))
    assert deliver(pair.server, again) == []
    answer = wire.from_frame(sent_by(pair.server)[4:])
    assert answer == wire.Answer(1, Outcome.EXECUTED, None, wire.to_raw(7))


def test_a_cancel_of_a_number_that_never_came_uses_it_up() -> None:
    pair = Pair().opened()
    assert deliver(pair.server, wire.to_frame(wire.Cancel(2))) == []
    answer = wire.from_frame(sent_by(pair.server)[4:])
    assert answer == wire.Answer(2, Outcome.CANCELED, None, NIL)
    for seq in (1, 2):  # neither runs now
        assert deliver(pair.server, wire.to_frame(wire.Mutate(seq, 0, [0], NIL))) == []
    (called,) = deliver(pair.server, wire.to_frame(wire.Mutate(3, 0, [0], NIL)))
    assert isinstance(called, Called)


def test_more_unanswered_mutations_than_the_limit_are_refused_by_the_server_too() -> None:
    pair = Pair(options=RpcOptions(call_limit=2)).opened()
    frames = [wire.to_frame(wire.Mutate(seq, 0, [0], NIL)) for seq in (1, 2, 3)]
    assert len(deliver(pair.server, b"".join(frames))) == 2
    answer = wire.from_frame(sent_by(pair.server)[4:])
    assert isinstance(answer, wire.Answer) and answer.seq == 3
    assert isinstance(wire.error_from_raw(answer.value), RefusedError)


def test_more_streams_than_the_limit_end_the_session() -> None:
    pair = Pair(options=RpcOptions(call_limit=2)).opened()
    frames = [wire.to_frame(wire.Allow(seq, 0, 1)) for seq in (1, 2, 3)]
    *_, closed = deliver(pair.server, b"".join(frames))
    assert isinstance(closed, Closed) and "More than 2 streams" in str(closed.error)


def test_what_came_before_a_fault_in_the_same_bytes_is_done_and_nothing_after_it() -> None:
    pair = Pair().opened()
    good = [wire.to_frame(wire.Mutate(seq, 0, [0], NIL)) for seq in (1, 2, 3)]
    events = deliver(pair.server, good[0] + b"\x01\x00\x00\x00\xc1" + good[1])
    assert [type(event) for event in events] == [Called, Closed]


@given(st.data())
def test_an_exchange_may_be_split_and_joined_anywhere(data: st.DataObject) -> None:
    pair = Pair().opened()
    for step in range(6):
        pair.client.ask(0, [step % 5])
        pair.move(step % 3)
    pair.server.send_payload("p", wire.to_raw("x" * 300))
    stream, at = sent_by(pair.client), 0
    while at < len(stream):
        size = data.draw(st.integers(1, 20))
        for event in pair.server.receive(stream[at : at + size]):
            assert isinstance(event, Called)
            pair.run(event)
        at += size
    stream, at = sent_by(pair.server), 0
    seen: list[object] = []
    while at < len(stream):
        size = data.draw(st.integers(1, 50))
        seen += pair.client.receive(stream[at : at + size])
        at += size
    answered = [event.seq for event in seen if isinstance(event, Answered)]
    assert answered == [1, 2, 3, 4, 5, 6]
    assert pair.client.follower.ticks == pair.source.now


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=6))
def test_damage_ends_in_a_protocol_error_or_in_the_right_state(at: int, junk: bytes) -> None:
    pair = Pair().opened()
    for step in range(5):
        pair.client.ask(0, [step])
    stream = bytearray(sent_by(pair.client))
    at %= len(stream)
    stream[at : at + len(junk)] = junk
    for event in pair.server.receive(bytes(stream)):
        if isinstance(event, Called):
            pair.run(event)
    deliver(pair.client, sent_by(pair.server))
    if pair.client.phase is Phase.OPEN:
        assert pair.client.follower.ticks == pair.source.now


# -- acknowledgements that wait --------------------------------------------------------------


def acks(data: bytes) -> list[int]:
    """The payloads that are acknowledged in what was sent."""
    found: list[int] = []
    while data:
        size = 4 + int.from_bytes(data[:4], "little")
        message = wire.from_frame(data[4:size])
        if isinstance(message, wire.Ack):
            found.append(message.payloads)
        data = data[size:]
    return found


def pay(pair: Pair, count: int = 1, size: int = 10) -> bytes:
    """So many payloads arrive; what the client says to it."""
    for _ in range(count):
        pair.served.send_payload("p", wire.encode(b"x" * size, "A payload"))
        pair.carry_down(sent_by(pair.server))
    return sent_by(pair.client)


def test_a_payload_is_acknowledged_at_once_by_default() -> None:
    pair = Pair().opened()
    assert acks(pay(pair)) == [1] and not pair.client.is_late


def test_one_that_may_wait_is_acknowledged_with_whatever_is_said_next() -> None:
    pair = Pair(options=RpcOptions(ack_delay=1.0)).opened()
    assert pay(pair) == b"" and pair.client.is_late
    pair.client.ask(0, [0])
    said = sent_by(pair.client)
    assert acks(said) == [1] and not pair.client.is_late
    pair.carry_up(said)
    assert pair.served.memory.payloads() == []


def test_one_that_waits_is_acknowledged_when_its_time_is_over() -> None:
    pair = Pair(options=RpcOptions(ack_delay=1.0)).opened()
    assert pay(pair) == b""
    pair.client.ack_late()
    assert acks(sent_by(pair.client)) == [1]
    pair.client.ack_late()
    assert sent_by(pair.client) == b""


@pytest.mark.parametrize(("count", "size"), [(16, 10), (1, 70_000)])
def test_many_or_large_ones_do_not_wait(count: int, size: int) -> None:
    pair = Pair(options=RpcOptions(ack_delay=1.0)).opened()
    assert acks(pay(pair, count, size)) == [count]


def test_a_goodbye_comes_after_what_was_kept_back() -> None:
    pair = Pair(options=RpcOptions(ack_delay=1.0)).opened()
    pay(pair)
    pair.client.goodbye("over")
    assert acks(sent_by(pair.client)) == [1]
