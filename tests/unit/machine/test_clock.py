"""Ticks, the mask and the machine order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.machine.clock import FOLLOWED, RUNNING, WATCHED, Clock, is_active_tick, touches


def test_odd_is_active() -> None:
    assert [is_active_tick(tick) for tick in range(4)] == [False, True, False, True]


def test_new_states_come_first_and_ranked_ones_keep_their_place_at_the_end() -> None:
    clock = Clock(4, ranked=(3, 1))
    for state in (0, 1, 2, 3):
        clock.advance(state, 1)
    assert [*clock.active()] == [2, 0, 3, 1]
    clock.advance(3, 2)
    clock.advance(0, 1)
    clock.advance(1, 1)
    assert [*clock.active()] == [2, 3]
    assert clock.ticks == [2, 2, 1, 3]
    assert clock.mask == 0b1100
    clock.check()


def test_states_can_be_put_behind_the_others() -> None:
    clock = Clock(4)
    for state in range(3):
        clock.advance(state, 1)
    clock.ticks[3] += 1
    clock.mask |= 8
    clock.put_last((2, 3))
    assert [*clock.active()] == [1, 0, 2, 3]
    clock.check()


def test_a_whole_order_is_kept_while_it_is_none_of_the_usual() -> None:
    clock = Clock(3, ranked=(2,))
    for state in range(3):
        clock.advance(state, 1)
    clock.arrange((2, 0, 1))
    clock.check()
    assert [*clock.active()] == [2, 0, 1]
    clock.deactivate((0,))
    assert [*clock.active()] == [2, 1]
    clock.deactivate((1, 2))
    assert [*clock.active()] == []
    assert clock.ticks == [2, 2, 2]
    clock.check()


def test_deactivating_leaves_the_order_of_the_others() -> None:
    clock = Clock(3)
    for state in range(3):
        clock.advance(state, 1)
    clock.deactivate((1,))
    assert [*clock.active()] == [2, 0]
    clock.check()


def test_a_watched_state_concerns_only_who_moves_it() -> None:
    clock = Clock(3)
    clock.watch(0)
    clock.watch(2)
    concerned = [bool(clock.busy & touches(1 << state)) for state in range(3)]
    assert concerned == [True, False, True]
    assert clock.busy & touches(0b110)
    clock.unwatch(2)
    assert clock.busy & touches(0b001)
    assert not clock.busy & touches(0b110)
    clock.unwatch(2)  # nobody watches it any more: nothing changes
    clock.unwatch(0)
    assert clock.busy == 0


@pytest.mark.parametrize("reason", [RUNNING, WATCHED, FOLLOWED])
def test_who_watches_everything_is_concerned_whatever_moves(reason: int) -> None:
    clock = Clock(2)
    clock.busy |= reason
    assert all(clock.busy & touches(moved) for moved in range(4))
    clock.watch(1)
    clock.unwatch(1)
    assert clock.busy == reason


@pytest.mark.parametrize("broken", ["mask", "order", "arranged"])
def test_check_tells_what_does_not_hold(broken: str) -> None:
    clock = Clock(2, ranked=(1,))
    clock.advance(0, 1)
    clock.advance(1, 1)
    clock.check()
    if broken == "mask":
        clock.mask = 1
    elif broken == "order":
        clock.order.clear()
    else:
        clock.arranged = (0,)
    with pytest.raises(
        AssertionError, match="invariant 1" if broken == "mask" else "invariant 2"
    ):
        clock.check()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5))))
def test_a_replica_that_hears_of_ticks_is_consistent(moves: list[tuple[int, int]]) -> None:
    clock = Clock(5, ranked=(4, 0))
    for state, ticks in moves:
        clock.advance(state, ticks)
        clock.check()
    for state in range(5):
        assert clock.ticks[state] == sum(ticks for moved, ticks in moves if moved == state)
