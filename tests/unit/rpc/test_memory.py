from __future__ import annotations

import pytest

from amnode.errors import DeliveryError, ProtocolError
from amnode.rpc.options import ONE_CONNECTION, RpcOptions
from amnode.rpc.protocol.memory import ClientMemory, ServerMemory, Upload
from amnode.rpc.protocol.streams import Receiver, Sender
from amnode.rpc.protocol.wire import NIL, Outcome, to_raw

SMALL = RpcOptions(payload_limit=30)


def asking(count: int) -> ClientMemory:
    memory = ClientMemory(RpcOptions())
    for seq in range(1, count + 1):
        memory.asked.ask(0, [0], NIL)
        memory.uploads[seq], memory.downloads[seq] = Upload(), Receiver(10)
    return memory


def test_a_new_session_has_nothing() -> None:
    client, server = ClientMemory(SMALL), ServerMemory(SMALL)
    assert client.ticket is None and client.payloads == 0 and not client.asked
    assert server.ticket is None and server.number == server.arrived == 0
    upload = Upload()
    assert not upload.ended and upload.error is None and upload.sender.number == 0


def test_the_streams_of_a_mutation_end_with_its_answer() -> None:
    memory = asking(2)
    memory.answered(1, 5)
    assert [*memory.uploads] == [*memory.downloads] == [2]
    memory.forget(2)
    assert not memory.uploads and not memory.downloads and not memory.asked
    with pytest.raises(ProtocolError):
        memory.answered(2, 0)


def test_an_answer_without_streams_is_just_that() -> None:
    memory = ClientMemory(RpcOptions())
    memory.asked.ask(0, [0], NIL)
    memory.answered(1, 0)
    assert not memory.asked


def test_streams_of_one_way_alone_end_too() -> None:
    for kind in ("uploads", "downloads"):
        memory = asking(1)
        getattr(memory, kind).clear()
        memory.answered(1, 0)
        assert not memory.uploads and not memory.downloads


def test_payloads_are_kept_until_they_have_arrived() -> None:
    memory = ServerMemory(SMALL)
    assert [memory.add_payload("p", to_raw("x" * 9)) for _ in range(3)] == [1, 2, 3]
    assert memory.unacknowledged == 30 and memory.arrived == 0
    memory.acknowledged(0, 2)
    assert memory.unacknowledged == 10 and memory.arrived == 2
    assert memory.payloads() == [(3, "p", to_raw("x" * 9))]
    memory.acknowledged(0, 3)
    assert (memory.unacknowledged, memory.arrived, memory.payloads()) == (0, 3, [])


def test_more_payloads_than_the_limit_are_refused_but_one_alone_may_be_larger() -> None:
    memory = ServerMemory(SMALL)
    assert memory.has_room(to_raw("x" * 100))
    assert memory.add_payload("large", to_raw("x" * 100)) == 1
    assert not memory.has_room(NIL)
    with pytest.raises(DeliveryError, match=r"'p' of 1 bytes does not fit beside 102"):
        memory.add_payload("p", NIL)
    memory.acknowledged(0, 1)
    assert memory.add_payload("p", NIL) == 2  # no number was used up


def test_a_stream_is_forgotten_once_its_answer_has_arrived() -> None:
    memory = ServerMemory(SMALL)
    for seq in (1, 2, 3):
        memory.answering.asked(seq)
        memory.downloads[seq] = Sender()
    for seq in (1, 3):
        memory.answering.answer(seq, Outcome.EXECUTED, NIL)
    memory.acknowledged(2, 0)  # 2 is not answered
    assert [*memory.downloads] == [2, 3]
    assert memory.answering.remembered[0] == 1


def test_no_answer_is_kept_where_no_session_outlives_its_connection() -> None:
    for options, kept in ((ONE_CONNECTION, 0), (RpcOptions(), 1)):
        memory = ServerMemory(options)
        memory.answering.asked(1)
        memory.answering.answer(1, Outcome.EXECUTED, NIL)
        assert memory.answering.remembered[0] == kept
