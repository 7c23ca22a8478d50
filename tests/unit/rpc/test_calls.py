from __future__ import annotations

import pytest

from amnode.errors import ProtocolError
from amnode.rpc.protocol.calls import Answering, Asked


def test_mutations_are_numbered_from_one_and_answered_once() -> None:
    asked = Asked()
    assert [asked.ask(), asked.ask()] == [1, 2]
    asked.answered(2)  # rule 3: answers may pass each other
    assert (len(asked), 1 in asked, 2 in asked) == (1, True, False)
    asked.answered(1)
    with pytest.raises(ProtocolError, match="mutation 1"):
        asked.answered(1)
    with pytest.raises(ProtocolError, match="mutation 9"):
        asked.answered(9)


def test_numbers_must_rise() -> None:
    answering = Answering()
    answering.asked(1)
    answering.asked(5)
    for seq in (5, 4, 1):
        with pytest.raises(ProtocolError, match="after mutation 5"):
            answering.asked(seq)
    assert len(answering) == 2


def test_a_mutation_is_answered_once() -> None:
    answering = Answering()
    answering.asked(1)
    assert answering.answer(1)
    assert not answering.answer(1)
    assert not answering.answer(2)


def test_a_cancel_may_cross_the_answer_but_not_come_first() -> None:
    answering = Answering()
    answering.asked(1)
    assert answering.is_open(1)
    answering.answer(1)
    assert not answering.is_open(1)
    with pytest.raises(ProtocolError, match="cancel of mutation 2"):
        answering.is_open(2)
