from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amnode.rpc.protocol.keepalive import KeepAlive, agreed


def test_the_shorter_interval_counts_and_none_only_if_neither_wants_any() -> None:
    assert (agreed(10, 20), agreed(20, 10)) == (10, 10)
    assert (agreed(0, 20), agreed(20, 0), agreed(0, 0)) == (20, 20, 0)


def test_something_is_said_if_nothing_was() -> None:
    keepalive = KeepAlive(10, 0)
    assert keepalive.due == 5
    keepalive.heard = True
    assert keepalive.check(5) == (True, False)
    assert keepalive.due == 10
    keepalive.said = keepalive.heard = True
    assert keepalive.check(10) == (False, False)
    keepalive.heard = True
    assert keepalive.check(15) == (True, False)


def test_a_peer_that_is_silent_for_one_and_a_half_is_dead() -> None:
    keepalive = KeepAlive(10, 0)
    assert [keepalive.check(now)[1] for now in (5, 10, 15)] == [False, False, True]


def test_a_side_that_was_held_up_gives_its_peer_another_half() -> None:
    keepalive = KeepAlive(10, 0)
    keepalive.check(5)
    assert keepalive.check(30) == (True, False)  # this side was away; nothing is read yet
    assert keepalive.check(35) == (True, True)
    heard = KeepAlive(10, 0)
    heard.check(5)
    heard.check(30)
    heard.heard = True
    assert not heard.check(35)[1]


@given(
    st.floats(0.05, 100),
    st.floats(0, 1e6),
    st.lists(st.floats(0, 0.24), min_size=8, max_size=8),
    st.integers(0, 3),
    st.floats(0.001, 0.999),
)
def test_a_dead_peer_is_noticed_within_two_intervals_and_never_before_one_and_a_half(
    interval: float, start: float, late: list[float], checks: int, last: float
) -> None:
    keepalive, now = KeepAlive(interval, start), start
    heard_at = start
    for at in range(8):
        due = keepalive.due
        if at == checks:  # the peer is heard for the last time between two checks
            heard_at = now + (due - now) * last
            keepalive.heard = True
        elif at < checks:
            keepalive.heard = True
            heard_at = due
        now = due + late[at] * interval / 4
        if keepalive.check(now)[1]:
            break
    else:
        raise AssertionError("never noticed")
    lateness = sum(late) * interval / 4
    error = 1e-6 * (interval + start)
    assert now - heard_at >= 1.5 * interval - lateness - error
    assert now - heard_at <= 2 * interval + lateness + error
