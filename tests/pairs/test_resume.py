"""Sessions that go on after a cut: nothing runs twice, nothing is lost, nobody else gets in."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import pytest

from amnode.errors import AuthError, ConnectionLost, ProtocolError
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.auth import Ticket
from amnode.rpc.protocol.session import (
    Advanced,
    Allowed,
    Answered,
    Called,
    Cancelled,
    Closed,
    Delivered,
    Event,
    Opened,
    Phase,
    Resynced,
    Streamed,
    StreamEnded,
)
from amnode.rpc.protocol.wire import NIL, Outcome, Role
from tests.pairs.session_pair import SECRET, Pair, deliver, opened_of, sent_by
from tests.pairs.test_messages import corrupt_update

E = TypeVar("E", bound=Event)


def of(kind: type[E], events: list[Event | Called]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def answers(pair: Pair) -> list[tuple[int, Outcome]]:
    return [(event.seq, event.outcome) for event in of(Answered, pair.seen_by_client)]


def calls(pair: Pair) -> list[int]:
    return [event.seq for event in pair.seen_by_server if isinstance(event, Called)]


def deferring(options: RpcOptions | None = None) -> Pair:
    """An open pair whose server answers nothing by itself."""
    pair = Pair(options=options).opened()
    pair.run = lambda event: None
    return pair


# -- mutations ---------------------------------------------------------------------------


def test_what_ran_before_the_cut_does_not_run_again_and_is_answered_the_same() -> None:
    pair = Pair().opened()

    def run(event: Called) -> None:
        pair.move(*event.states)
        pair.server.answer(event.seq, Outcome.EXECUTED, wire.to_raw(f"ran {event.seq}"))

    pair.run = run
    pair.client.ask(0, [0])
    pair.client.ask(0, [1])
    pair.carry_up(sent_by(pair.client))
    sent_by(pair.server)  # the answers are lost
    opened = pair.resume()
    assert opened.resumed and opened.pairs == [0, 1, 1, 1]
    assert calls(pair) == [1, 2]
    values = [msgspec.msgpack.decode(e.value) for e in of(Answered, pair.seen_by_client)]
    assert values == ["ran 1", "ran 2"]
    assert pair.client.follower.ticks == pair.source.now


def test_what_did_not_arrive_runs_once_and_in_order() -> None:
    pair = Pair().opened()
    for state in (0, 1, 2):
        pair.client.ask(0, [state])
    sent_by(pair.client)  # lost
    pair.cut()
    pair.client.ask(0, [3])  # asked while nobody was there
    pair.resume()
    assert calls(pair) == [1, 2, 3, 4]
    assert answers(pair) == [(seq, Outcome.EXECUTED) for seq in (1, 2, 3, 4)]


def test_a_deferred_answer_that_comes_due_while_cut_off_is_given_after() -> None:
    pair = deferring()
    pair.client.ask(0, [0])
    pair.exchange()
    pair.cut()
    assert pair.server.answer(1, Outcome.EXECUTED, wire.to_raw(7))
    pair.resume()
    assert of(Answered, pair.seen_by_client) == [Answered(1, Outcome.EXECUTED, wire.to_raw(7))]


def test_a_deferred_answer_that_comes_due_before_it_is_asked_again_is_given_once() -> None:
    pair = deferring()
    pair.client.ask(0, [0])
    pair.exchange()
    pair.reconnect()
    while pair.server.phase is not Phase.OPEN:
        pair.turn()
    pair.server.answer(1, Outcome.EXECUTED, wire.to_raw(7))  # the client is about to ask again
    pair.exchange()
    assert answers(pair) == [(1, Outcome.EXECUTED)]
    assert pair.client.phase is Phase.OPEN


def test_an_answer_that_was_evicted_is_lost_and_nothing_runs_again() -> None:
    pair = Pair(options=RpcOptions(answers_kept=1)).opened()
    pair.client.ask(0, [0])
    pair.client.ask(0, [1])
    pair.carry_up(sent_by(pair.client))
    sent_by(pair.server)
    pair.resume()
    assert calls(pair) == [1, 2]
    assert answers(pair) == [(1, Outcome.UNKNOWN), (2, Outcome.EXECUTED)]
    (lost, _) = [event for event in pair.seen_by_client if isinstance(event, Answered)]
    assert lost.value == wire.TRUE  # it is known to have run


def test_of_one_that_was_refused_it_is_not_said_that_it_ran() -> None:
    pair = deferring(options=RpcOptions(answers_kept=1))
    pair.client.ask(0, [0])
    pair.client.ask(0, [1])
    pair.carry_up(sent_by(pair.client))
    pair.server.answer(1, Outcome.CANCELED)
    pair.server.answer(2, Outcome.CANCELED)
    sent_by(pair.server)
    pair.resume()
    (lost, _) = [event for event in pair.seen_by_client if isinstance(event, Answered)]
    assert (lost.outcome, lost.value) == (Outcome.UNKNOWN, NIL)


def test_answers_that_have_arrived_are_forgotten_by_the_server() -> None:
    pair = Pair().opened()
    for _ in range(5):
        pair.client.ask(0, [0])
    pair.exchange()
    assert pair.server.memory.answering.remembered[0] == 5
    pair.resume()
    assert pair.server.memory.answering.remembered == (0, 0)
    for _ in range(64):  # without a cut, every 64
        pair.client.ask(0, [0])
    pair.exchange()
    assert pair.server.memory.answering.remembered == (0, 0)


def test_cut_again_and_again_everything_is_answered_once() -> None:
    pair = Pair().opened()
    for round_ in range(10):
        pair.client.ask(0, [round_ % 5])
        pair.carry_up(sent_by(pair.client)[: round_ * 2])
        pair.reconnect()
        for _ in range(round_ % 4):  # not even the handshake gets through
            pair.turn()
    pair.resume()
    assert calls(pair) == list(range(1, 11))
    assert answers(pair) == [(seq, Outcome.EXECUTED) for seq in range(1, 11)]
    assert pair.client.follower.ticks == pair.source.now


# -- cancels -----------------------------------------------------------------------------


def test_what_never_left_is_taken_back_without_a_word() -> None:
    pair = Pair().opened()
    pair.cut()
    pair.client.ask(0, [0])
    pair.client.ask(0, [1])
    assert pair.client.cancel(1)
    pair.resume()
    assert calls(pair) == [2]
    assert answers(pair) == [(2, Outcome.EXECUTED)]


def test_a_cancel_that_is_lost_is_said_again() -> None:
    pair = deferring()
    pair.client.ask(0, [0])
    pair.exchange()
    assert not pair.client.cancel(1)
    sent_by(pair.client)  # lost
    pair.resume()
    assert of(Cancelled, pair.seen_by_server) == [Cancelled(1)]
    pair.server.answer(1, Outcome.CANCELED)
    pair.exchange()
    assert answers(pair) == [(1, Outcome.CANCELED)]


def test_a_mutation_that_was_lost_and_cancelled_does_not_run() -> None:
    pair = Pair().opened()
    for state in (0, 1, 2):
        pair.client.ask(0, [state])
    sent_by(pair.client)  # lost
    pair.cut()
    assert not pair.client.cancel(2)
    pair.resume()
    assert calls(pair) == [1, 3]
    assert answers(pair) == [
        (1, Outcome.EXECUTED),
        (2, Outcome.CANCELED),
        (3, Outcome.EXECUTED),
    ]


def test_a_cancel_does_not_overtake_what_is_asked_again() -> None:
    pair = Pair(options=RpcOptions(frame_limit=4096, credit=4096)).opened()
    pair.client.ask(0, [0], wire.to_raw(b"x" * 10_000))
    pair.client.ask(0, [1])
    pair.client.ask(0, [2], wire.to_raw(b"x" * 10_000))
    pair.client.ask(0, [3])
    pair.carry_up(b"")
    for _ in range(40):  # all of it leaves, and is lost
        sent_by(pair.client)
        if pair.client._outbox.on_the_way:
            pair.client._outbox.credit(pair.client._outbox.on_the_way)
    pair.reconnect()
    while pair.client.phase is not Phase.OPEN:
        pair.turn()
    for seq in (2, 3):  # behind the chunks of the first
        assert not pair.client.cancel(seq)
    pair.exchange()
    assert calls(pair) == [1, 4]
    assert answers(pair) == [
        (1, Outcome.EXECUTED),
        (2, Outcome.CANCELED),
        (3, Outcome.CANCELED),
        (4, Outcome.EXECUTED),
    ]
    assert pair.server.received_bytes_kept == 0


def test_a_cancel_that_crosses_its_answer_is_no_fault_after_a_cut_either() -> None:
    pair = Pair().opened()
    pair.resume()
    pair.client.ask(0, [0])
    up = sent_by(pair.client)
    pair.client.cancel(1)
    pair.carry_up(up)
    pair.exchange()
    assert answers(pair) == [(1, Outcome.EXECUTED)]
    assert pair.client.phase is Phase.OPEN


def test_the_answer_to_what_was_cancelled_may_be_lost_too() -> None:
    pair = Pair().opened()
    pair.client.ask(0, [0])
    up = sent_by(pair.client)
    pair.client.cancel(1)
    pair.carry_up(up)
    sent_by(pair.server)  # lost
    pair.resume()
    assert calls(pair) == [1]
    assert answers(pair) == [(1, Outcome.EXECUTED)]


def test_a_cancel_that_took_the_place_of_its_mutation_is_answered_the_same_again() -> None:
    pair = Pair().opened()
    pair.client.ask(0, [0])
    sent_by(pair.client)  # lost
    pair.cut()
    pair.client.cancel(1)
    for _ in range(3):
        pair.reconnect()
        while pair.client.phase is not Phase.OPEN:
            pair.turn()
        pair.carry_up(sent_by(pair.client))
        sent_by(pair.server)  # the answer, lost
    pair.resume()
    assert calls(pair) == []
    assert answers(pair) == [(1, Outcome.CANCELED)]


# -- payloads ----------------------------------------------------------------------------


def test_payloads_arrive_once_and_in_order() -> None:
    pair = Pair(options=RpcOptions(frame_limit=4096, credit=4096)).opened()
    pair.server.send_payload("first", NIL)
    pair.exchange()
    pair.server.send_payload("second", wire.to_raw(b"x" * 9_000))
    pair.server.send_payload("third", NIL)
    sent_by(pair.server)  # a part of it, lost
    pair.cut()
    pair.server.send_payload("fourth", NIL)
    pair.resume()
    pair.server.send_payload("fifth", NIL)
    pair.exchange()
    names = [event.name for event in of(Delivered, pair.seen_by_client)]
    assert names == ["first", "second", "third", "fourth", "fifth"]
    assert pair.server.memory.unacknowledged == 0 and pair.server.memory.arrived == 5


def test_a_payload_whose_acknowledgement_was_lost_is_not_told_twice() -> None:
    pair = Pair().opened()
    pair.server.send_payload("news", NIL)
    pair.carry_down(sent_by(pair.server))
    sent_by(pair.client)  # the acknowledgement, lost
    assert pair.server.memory.arrived == 0
    pair.resume()
    assert len(of(Delivered, pair.seen_by_client)) == 1
    assert pair.server.memory.arrived == 1


def test_what_waited_for_a_snapshot_is_told_after_the_cut() -> None:
    pair = deferring()
    pair.client.ask(0, [0], download=True)
    pair.exchange()
    pair.move(1)
    pair.carry_down(corrupt_update(sent_by(pair.server)))
    assert pair.seen_by_client[-1] == Resynced()
    pair.server.send_payload("news", NIL)
    pair.server.send_item(1, wire.to_raw(1))
    pair.server.answer(1, Outcome.EXECUTED)
    pair.carry_down(sent_by(pair.server))
    assert of(Answered, pair.seen_by_client) == []  # held until the snapshot
    pair.resume()
    told = pair.seen_by_client[-4:]
    assert isinstance(told[0], Opened)
    assert told[1:] == [
        Delivered("news", NIL),
        Streamed(1, wire.to_raw(1)),
        Answered(1, Outcome.EXECUTED, NIL),
    ]


# -- streams -----------------------------------------------------------------------------


def items(pair: Pair, *, at_client: bool) -> list[int]:
    seen = pair.seen_by_client if at_client else pair.seen_by_server
    return [msgspec.msgpack.decode(event.data) for event in of(Streamed, seen)]


@pytest.mark.parametrize("lost_items", [0, 1, 3])
def test_a_stream_to_the_client_goes_on_without_loss_or_doubling(lost_items: int) -> None:
    pair = deferring()
    pair.client.ask(0, [0], download=True)
    pair.exchange()
    for number in range(5):
        pair.server.send_item(1, wire.to_raw(number))
        if number < 5 - lost_items:
            pair.exchange()
    sent_by(pair.server)  # lost
    pair.cut()
    pair.server.send_item(1, wire.to_raw(5))
    pair.resume()
    pair.server.send_item(1, wire.to_raw(6))
    pair.server.answer(1, Outcome.EXECUTED)
    pair.exchange()
    assert items(pair, at_client=True) == list(range(7))
    assert answers(pair) == [(1, Outcome.EXECUTED)]
    assert isinstance(pair.seen_by_client[-1], Answered)


def test_a_stream_that_ended_while_cut_off_is_told_whole_and_answered_once() -> None:
    pair = deferring()
    pair.client.ask(0, [0], download=True)
    pair.exchange()
    pair.cut()
    for number in range(3):
        pair.server.send_item(1, wire.to_raw(number))
    pair.server.answer(1, Outcome.EXECUTED)
    pair.resume()
    assert items(pair, at_client=True) == [0, 1, 2]
    assert answers(pair) == [(1, Outcome.EXECUTED)]
    assert pair.client.phase is Phase.OPEN


def test_a_stream_that_ends_before_it_is_asked_again_is_answered_once() -> None:
    pair = deferring()
    pair.client.ask(0, [0], download=True)
    pair.exchange()
    pair.server.send_item(1, wire.to_raw(0))
    sent_by(pair.server)  # lost
    pair.reconnect()
    while pair.server.phase is not Phase.OPEN:
        pair.turn()
    pair.server.send_item(1, wire.to_raw(1))
    pair.server.answer(1, Outcome.EXECUTED)
    pair.exchange()
    assert items(pair, at_client=True) == [0, 1]
    assert answers(pair) == [(1, Outcome.EXECUTED)]
    assert pair.client.phase is Phase.OPEN


@pytest.mark.parametrize("lost_items", [0, 1, 3])
def test_a_stream_to_the_server_goes_on_without_loss_or_doubling(lost_items: int) -> None:
    pair = deferring()
    pair.client.ask(0, [0], upload=True)
    pair.exchange()
    pair.server.open_upload(1)
    pair.exchange()
    for number in range(5):
        pair.client.send_item(1, wire.to_raw(number))
        if number < 5 - lost_items:
            pair.exchange()
    sent_by(pair.client)  # lost
    pair.cut()
    pair.client.send_item(1, wire.to_raw(5))
    pair.client.end_upload(1, ConnectionLost("it broke"))
    pair.resume()
    assert items(pair, at_client=False) == list(range(6))
    (ended,) = of(StreamEnded, pair.seen_by_server)
    assert isinstance(ended.error, ConnectionLost)
    assert pair.seen_by_server[-1] is ended
    pair.resume()  # the end is said again, and heard once
    assert len(of(StreamEnded, pair.seen_by_server)) == 1
    assert items(pair, at_client=False) == list(range(6))


def test_a_stream_that_nobody_had_opened_before_the_cut_starts_after_it() -> None:
    pair = deferring()
    pair.client.ask(0, [0], upload=True)
    pair.exchange()
    pair.resume()
    assert not pair.client.has_room(1)
    pair.server.open_upload(1)
    pair.exchange()
    assert of(Allowed, pair.seen_by_client) == [Allowed(1)]
    pair.client.send_item(1, wire.to_raw(0))
    pair.exchange()
    assert items(pair, at_client=False) == [0]


def test_a_stream_that_the_server_stopped_reading_stays_stopped() -> None:
    pair = deferring()
    pair.client.ask(0, [0], upload=True)
    pair.exchange()
    pair.server.open_upload(1)
    pair.exchange()
    pair.server.close_upload(1)
    sent_by(pair.server)  # the stop, lost
    pair.resume()
    assert of(StreamEnded, pair.seen_by_client) == [StreamEnded(1, None)]
    assert not pair.client.has_room(1)


# -- the end of a session ----------------------------------------------------------------


def test_a_session_that_is_gone_begins_anew_on_the_same_connection() -> None:
    pair = Pair().opened()
    pair.client.ask(0, [0])
    old = pair.client.memory
    pair.cut()
    pair.kept = None  # the server was restarted
    opened = pair.resume()
    assert not opened.resumed
    assert pair.client.memory is not old and len(old.asked) == 1
    assert old.ticket != pair.client.memory.ticket
    assert calls(pair) == []  # nothing of the old session is said
    assert pair.client.ask(0, [1]) == 1
    pair.exchange()
    assert answers(pair) == [(1, Outcome.EXECUTED)]
    assert pair.resume().resumed


def test_after_a_new_session_the_old_one_opens_nothing() -> None:
    pair = Pair().opened()
    old = pair.client.memory.ticket
    pair.cut()
    pair.kept = None
    pair.resume()
    pair.reconnect(ticket=old)
    pair.exchange()
    assert not opened_of(pair.seen_by_client[-1:]).resumed


# -- who does not get in -----------------------------------------------------------------


def refused(pair: Pair) -> Exception:
    """What the client is told by a connection that opens nothing."""
    kept = pair.kept
    at = len(pair.seen_by_client)
    pair.exchange()
    assert Phase.OPEN not in (pair.client.phase, pair.server.phase)
    (closed,) = of(Closed, pair.seen_by_client[at:])
    assert pair.kept is kept is not None  # the session is still there
    return closed.error


def test_the_id_of_a_session_alone_opens_nothing() -> None:
    pair = Pair().opened()
    ticket = pair.client.memory.ticket
    assert ticket is not None
    pair.reconnect(ticket=Ticket(ticket.session, b"k" * 32))
    assert isinstance(refused(pair), AuthError)
    pair.reconnect(ticket=Ticket(ticket.session, SECRET))  # nor does the secret
    assert isinstance(refused(pair), AuthError)
    pair.reconnect()
    pair.exchange()
    assert opened_of(pair.seen_by_client[-1:]).resumed


@pytest.mark.parametrize(
    ("client_id", "role"), [("rc-you", None), (None, Role.OBSERVER)], ids=["id", "role"]
)
def test_another_client_or_role_does_not_resume(
    client_id: str | None, role: Role | None
) -> None:
    pair = Pair(known={"rc-me": SECRET, "rc-you": b"another"}).opened()
    pair.move(0)
    pair.reconnect(client_id=client_id, role=role, secret=b"another" if client_id else SECRET)
    kept = pair.kept
    pair.exchange()
    (opened,) = of(Opened, pair.seen_by_client)
    assert not opened.resumed  # a session of its own
    assert pair.server.memory is not kept


def test_a_recorded_resumption_does_not_pass_again() -> None:
    pair = Pair().opened()
    pair.reconnect()
    pair.exchange()
    recorded = bytes(pair.to_server)
    pair.reconnect()  # another nonce of the server
    events = deliver(pair.server, recorded)
    (closed,) = of(Closed, events)
    assert isinstance(closed.error, AuthError)


@pytest.mark.parametrize("resumed", [True, False])
def test_a_flipped_resumed_is_noticed(resumed: bool) -> None:
    pair = Pair().opened()
    if resumed:
        pair.kept = None  # the server has no session, and says so
    pair.reconnect()

    def flip(data: bytes) -> bytes:
        message = wire.from_frame(data[4:]) if data else None
        if isinstance(message, wire.Challenge):
            assert message.resumed is not resumed
            return wire.to_frame(msgspec.structs.replace(message, resumed=resumed))
        return data

    pair.meddle = flip
    at = len(pair.seen_by_client)
    pair.exchange()
    (closed,) = of(Closed, pair.seen_by_client[at:])
    assert isinstance(closed.error, AuthError)
    assert pair.server.phase is Phase.CLOSED


def test_a_server_that_resumes_what_nobody_asked_for_is_refused() -> None:
    pair = Pair()
    sent_by(pair.client)
    challenge = wire.Challenge(wire.VERSION, "rs-door", b"n" * 32, True, 0)
    (closed,) = deliver(pair.client, wire.to_frame(challenge))
    assert isinstance(closed, Closed) and isinstance(closed.error, ProtocolError)


def test_the_key_of_a_session_never_crosses_nor_shows() -> None:
    pair = Pair().opened()
    ticket = pair.client.memory.ticket
    assert ticket is not None and ticket.key.hex() not in repr(ticket)
    said = bytes(pair.to_server) + bytes(pair.to_client)
    pair.resume()
    said += bytes(pair.to_server) + bytes(pair.to_client)
    assert ticket.key not in said and SECRET not in said
    assert ticket.session in said  # the id does


def test_what_the_source_did_meanwhile_is_in_the_snapshot() -> None:
    pair = Pair().opened()
    pair.move(0)
    pair.exchange()
    pair.cut()
    pair.move(0)
    pair.move(3)
    opened = pair.resume()
    assert opened.pairs == [0, 2, 3, 1]
    pair.move(3)
    pair.exchange()
    assert pair.seen_by_client[-1] == Advanced([3, 1])
