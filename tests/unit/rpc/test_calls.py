from __future__ import annotations

import pytest

from amnode.errors import ProtocolError, RefusedError
from amnode.rpc.protocol import calls
from amnode.rpc.protocol.calls import Answering, Asked, Known
from amnode.rpc.protocol.wire import NIL, Large, Outcome, to_raw


def asked(limit: int = 100, *, count: int = 0) -> Asked:
    made = Asked(limit)
    for _ in range(count):
        made.ask(0, [1], NIL)
    return made


def test_mutations_are_numbered_from_one_and_answered_once() -> None:
    made = asked()
    assert [made.ask(0, [1], NIL).message.seq for _ in range(2)] == [1, 2]
    made.answered(2, 0)  # rule 4: answers may pass each other
    assert (len(made), 1 in made, 2 in made) == (1, True, False)
    made.answered(1, 0)
    for seq in (1, 9):
        with pytest.raises(ProtocolError, match=f"mutation {seq}"):
            made.answered(seq, 0)


def test_what_is_not_answered_is_kept_in_order() -> None:
    made = asked(count=4)
    made.answered(2, 0)
    made.forget(3)
    assert [u.message.seq for u in made] == [1, 4]
    assert made[4].message.states == [1]


def test_too_many_unanswered_mutations_are_refused() -> None:
    made = asked(2, count=2)
    with pytest.raises(RefusedError, match="call_limit allows no more"):
        made.ask(0, [1], NIL)
    made.answered(1, 0)
    assert made.ask(0, [1], NIL).message.seq == 3


def test_answers_are_acknowledged_by_number_or_by_size() -> None:
    made = asked(200, count=200)
    for seq in range(1, 64):
        made.answered(seq, 0)
    assert not made.ack_due
    made.answered(70, 0)
    assert made.ack_due
    assert made.ack() == 63  # 64 is not answered
    assert not made.ack_due
    made.answered(64, 64 * 1024)
    assert made.ack_due and made.ack() == 64


def test_all_answered_is_acknowledged_up_to_the_last() -> None:
    made = asked(count=3)
    for seq in (1, 2, 3):
        made.answered(seq, 0)
    assert made.ack() == 3


def test_arguments_that_are_large_stay_in_their_pieces() -> None:
    large = Large(b"abc", memoryview(b"defg"))
    kept = asked().ask(0, [1], large)
    assert kept.value is large and len(kept.message.args) == 0


def test_a_number_runs_once() -> None:
    answering = Answering(10, 1000)
    assert [answering.asked(seq) for seq in (1, 5)] == [Known.NEW, Known.NEW]
    assert answering.asked(5) is Known.OPEN
    assert answering.asked(3) is Known.FORGOTTEN  # never seen, and never to be run
    assert answering.answer(5, Outcome.EXECUTED, to_raw("x"))
    assert answering.asked(5) is Known.ANSWERED
    assert answering.remember(5) == (Outcome.EXECUTED, to_raw("x"))
    assert len(answering) == 1


def test_a_mutation_is_answered_once() -> None:
    answering = Answering(10, 1000)
    answering.asked(1)
    assert answering.is_open(1)
    assert answering.answer(1, Outcome.CANCELED, NIL)
    assert not answering.answer(1, Outcome.EXECUTED, NIL)
    assert not answering.answer(2, Outcome.EXECUTED, NIL)
    assert not answering.is_open(1) and answering.is_answered(1)


def test_a_cancel_that_comes_first_takes_the_place_of_its_mutation() -> None:
    answering = Answering(10, 1000)
    assert answering.cancelled(1) is Known.NEW
    assert answering.asked(1) is answering.cancelled(1) is Known.ANSWERED
    assert answering.remember(1) == (Outcome.CANCELED, NIL)
    answering.asked(2)
    assert answering.cancelled(2) is Known.OPEN
    answering.answer(2, Outcome.CANCELED, NIL)
    assert answering.cancelled(2) is Known.ANSWERED
    assert not answering.is_new(2) and answering.is_new(3)


def test_answers_are_forgotten_once_they_are_acknowledged() -> None:
    answering = Answering(10, 1000)
    for seq in (1, 2, 3):
        answering.asked(seq)
        answering.answer(seq, Outcome.EXECUTED, to_raw("x" * 9))
    assert answering.remembered == (3, 30)
    answering.acknowledged(2)
    assert answering.remembered == (1, 10)
    assert answering.asked(2) is Known.FORGOTTEN


@pytest.mark.parametrize(("entries", "size"), [(2, 1000), (10, 25)])
def test_past_the_limits_the_oldest_answer_is_evicted(entries: int, size: int) -> None:
    answering = Answering(entries, size)
    for seq in (1, 2, 3):
        answering.asked(seq)
        answering.answer(seq, Outcome.EXECUTED, to_raw("x" * 9))
    assert answering.remembered == (2, 20)
    assert [answering.asked(seq) for seq in (1, 2)] == [Known.FORGOTTEN, Known.ANSWERED]
    assert [answering.has_run(seq) for seq in (1, 2)] == [True, False]
    answering.acknowledged(1)
    assert not answering.has_run(1)


def test_of_evicted_answers_only_those_are_known_that_were_executed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "_EVICTED", 2)
    answering = Answering(1, 1000)
    for seq in range(1, 7):
        answering.asked(seq)
        answering.answer(seq, Outcome.CANCELED if seq == 2 else Outcome.EXECUTED, NIL)
    assert [seq for seq in range(1, 7) if answering.has_run(seq)] == [4, 5]


def test_an_answer_that_is_larger_than_all_memory_is_not_remembered() -> None:
    answering = Answering(10, 5)
    answering.asked(1)
    assert answering.answer(1, Outcome.EXECUTED, Large(b"123456"))
    assert answering.remembered == (0, 0)


def test_without_memory_nothing_is_remembered() -> None:
    answering = Answering(0, 1000)
    answering.asked(1)
    assert answering.answer(1, Outcome.EXECUTED, NIL)
    assert answering.asked(1) is Known.FORGOTTEN
