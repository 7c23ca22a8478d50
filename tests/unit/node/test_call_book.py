"""Which call of an executor goes when, and where those are that went."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amnode.node.call_book import AHEAD, CallBook


def book(most: int = 4, *, workers: int = 0) -> CallBook[str]:
    made: CallBook[str] = CallBook(most)
    for slot in range(workers):
        made.attach(slot)
    return made


def taken(made: CallBook[str]) -> list[str]:
    found: list[str] = []
    while (one := made.take()) is not None:
        found.append(one[1])
    return found


def test_nothing_is_sent_without_workers() -> None:
    made = book()
    made.add("a")
    assert not made.may_send
    assert made.take() is None
    assert made.outstanding == 1


def test_one_more_is_sent_than_there_are_workers_in_the_order_of_coming() -> None:
    made = book(workers=2)
    for call in "abcde":
        made.add(call)
    assert taken(made) == ["a", "b", "c"]
    assert made.ended(2, 1.0) == "b"
    assert taken(made) == ["d"]
    assert made.outstanding == 4


def test_more_are_sent_while_calls_are_short_and_no_more_once_they_are_not() -> None:
    made = book(workers=2)
    for _ in range(1000):
        made.add("short")
    for number in range(1, 200):
        taken(made)
        made.ended(number, 0.00001)
    taken(made)
    assert len(made.sent) == 2 + 2 * 32
    made.ended(200, 100 * AHEAD)
    taken(made)
    assert len(made.sent) == 2 + 2 * 32 - 1  # what was sent is not taken back
    for number in [*made.sent]:
        made.ended(number, 100 * AHEAD)
    assert len(taken(made)) == 3


def test_a_call_that_cannot_be_sent_yet_is_the_next_again() -> None:
    made = book(workers=1)
    for call in "abc":
        made.add(call)
    first = made.take()
    second = made.take()
    assert first == (1, "a")
    assert second == (2, "b")
    made.put_back(2)
    made.ended(1)
    assert taken(made) == ["b", "c"]


def test_a_call_ends_once() -> None:
    made = book(workers=1)
    made.add("a")
    taken(made)
    assert made.ended(1) == "a"
    assert made.ended(1, 1.0) is None


def test_workers_are_asked_for_as_calls_need_them() -> None:
    made = book(2)
    assert not made.wants_worker()
    for call in "abc":
        made.add(call)
    assert made.wants_worker()
    assert made.wants_worker()
    assert not made.wants_worker()  # there may be two
    made.used -= 1
    assert made.wants_worker()


def test_a_detached_worker_takes_no_calls() -> None:
    made = book(workers=1)
    made.add("a")
    made.detach(0)
    made.detach(0)
    assert not made.may_send


def test_those_that_wait_are_cleared_and_those_that_were_sent_if_asked() -> None:
    made = book(workers=1)
    for call in "abcd":
        made.add(call)
    assert taken(made) == ["a", "b"]
    assert made.clear(sent=False) == ["c", "d"]
    assert made.outstanding == 2
    made.add("e")
    assert made.clear(sent=True) == ["a", "b", "e"]
    assert made.outstanding == 0


def test_a_call_that_nobody_has_is_missing() -> None:
    made = book(workers=3)
    for call in "abcd":
        made.add(call)
    taken(made)
    assert made.missing(queued=[4], held=[1, 3, 77]) == [2]


@given(st.lists(st.sampled_from("atebdw"), max_size=200), st.integers(1, 4))
def test_calls_are_neither_lost_nor_doubled(steps: list[str], most: int) -> None:
    """Each call is in one place: it waits, was sent, or has ended; and goes in its order."""
    made: CallBook[int] = CallBook(most)
    came = ended = last = 0
    for step in steps:
        match step:
            case "a":
                came += 1
                made.add(came)
            case "t":
                one = made.take()
                if one is not None:
                    assert one[0] == one[1] == last + 1
                    last = one[0]
            case "e":
                for number in [*made.sent][:1]:
                    assert made.ended(number, 0.001) == number
                    ended += 1
            case "b":
                if last in made.sent:
                    made.put_back(last)
                    last -= 1
            case "d":
                made.detach(0)
            case _:
                made.attach(came % most)
                made.wants_worker()
        assert made.outstanding + ended == came
        assert made.used <= most
