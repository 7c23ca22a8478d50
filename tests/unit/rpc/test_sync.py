from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.errors import ProtocolError
from amnode.rpc.protocol.sync import Follower, Leader, mix, mixes
from amnode.rpc.protocol.wire import Difference

SIZE = 6


def full_checksum(ticks: dict[int, int], queue_tick: int, machine_tick: int) -> int:
    total = sum(tick * (((i + 1) * 2654435761 % 2**32) | 1) for i, tick in ticks.items())
    return (total + queue_tick + machine_tick) % 2**32


def pair(selected: tuple[int, ...] | None = None) -> tuple[Leader, Follower]:
    leader, follower = Leader(mixes(SIZE), selected), Follower(SIZE, selected)
    follower.load(leader.snapshot([0] * SIZE, 1, 0))
    return leader, follower


def test_factors_are_odd_and_differ() -> None:
    factors = [mix(i) for i in range(500)]
    assert all(factor & 1 and factor < 2**32 for factor in factors)
    assert len(set(factors)) == 500


steps = st.lists(
    st.tuples(st.lists(st.integers(0, SIZE - 1), max_size=4), st.booleans()), max_size=30
)
selections = st.one_of(
    st.none(), st.sets(st.integers(0, SIZE - 1)).map(lambda found: tuple(sorted(found)))
)


def mark(leader: Leader, moved: list[tuple[int, int]]) -> bool:
    """Has states move to ticks."""
    return leader.mark([index for index, _ in moved], dict(moved))


@given(steps, selections)
def test_a_replica_follows_whatever_moves_and_whenever_it_is_told(
    moves: list[tuple[list[int], bool]], selected: tuple[int, ...] | None
) -> None:
    leader, follower = pair(selected)
    followed = range(SIZE) if selected is None else selected
    ticks, queue_tick = [0] * SIZE, 1
    for changed, send in moves:
        queue_tick += 1
        for index in changed:
            ticks[index] += 1
        mark(leader, [(i, ticks[i]) for i in changed])
        if send and (difference := leader.difference(queue_tick)) is not None:
            assert follower.apply(difference)
            assert [follower.ticks[i] for i in followed] == [ticks[i] for i in followed]
            assert follower.queue_tick == queue_tick
            known = {i: ticks[i] for i in followed}
            assert difference.checksum == full_checksum(known, queue_tick, 0)


def test_a_difference_amid_a_transition_is_of_the_last_one_that_ended() -> None:
    leader, follower = pair()
    mark(leader, [(0, 1)])
    # State 0 and 1 move on now, in a transition that has not ended: nobody marked it.
    difference = leader.difference(2)
    assert difference is not None and follower.apply(difference)
    assert follower.ticks == [1, 0, 0, 0, 0, 0]
    mark(leader, [(0, 2), (1, 1)])
    difference = leader.difference(3)
    assert difference is not None and follower.apply(difference)
    assert follower.ticks == [2, 1, 0, 0, 0, 0]


def test_nothing_is_sent_where_nothing_moved() -> None:
    leader, _ = pair((2,))
    assert not mark(leader, [(0, 1)])
    assert not leader.pending
    assert leader.difference(1) is None
    assert leader.difference(2) == Difference([], 1, full_checksum({2: 0}, 2, 0))


def test_a_wrong_checksum_moves_nothing_until_a_snapshot() -> None:
    leader, follower = pair()
    mark(leader, [(1, 3), (2, 1)])
    good = leader.difference(2)
    assert good is not None
    before = list(follower.ticks)
    assert not follower.apply(msgspec.structs.replace(good, checksum=good.checksum ^ 1))
    assert follower.resyncing and follower.ticks == before and follower.queue_tick == 1
    moved = follower.load(leader.snapshot([0, 3, 1, 0, 0, 0], 2, 0))
    assert moved == [1, 3, 2, 1] and not follower.resyncing
    mark(leader, [(1, 4)])
    after = leader.difference(3)
    assert after is not None and follower.apply(after)


@given(st.integers(0, SIZE - 1), st.integers(1, 1000))
def test_no_single_tick_can_be_off_unnoticed(index: int, by: int) -> None:
    leader, follower = pair()
    mark(leader, [(index, 1)])
    difference = leader.difference(2)
    assert difference is not None
    wrong = msgspec.structs.replace(difference, pairs=[index, 1 + by])
    assert not follower.apply(wrong)


@pytest.mark.parametrize("pairs", [[0], [0, 0], [6, 1], [3, 1], [0, 1, 3, 1], [0, 1, 1, 0]])
def test_a_difference_that_fits_no_source_is_a_fault(pairs: list[int]) -> None:
    _, follower = pair((0, 1, 2))
    with pytest.raises(ProtocolError):
        follower.apply(Difference(pairs, 0, 0))


def test_a_snapshot_of_another_size_or_with_a_wrong_checksum_is_a_fault() -> None:
    leader, follower = pair()
    clock = leader.snapshot([1] * SIZE, 1, 0)
    with pytest.raises(ProtocolError, match="checksum"):
        follower.load(msgspec.structs.replace(clock, checksum=clock.checksum ^ 1))
    with pytest.raises(ProtocolError, match="5 ticks for 6"):
        follower.load(msgspec.structs.replace(clock, ticks=[1] * 5))


def test_a_snapshot_tells_what_fell_too() -> None:
    leader, follower = pair()
    follower.load(leader.snapshot([5, 0, 0, 0, 0, 0], 1, 0))
    assert follower.load(leader.snapshot([3, 1, 0, 0, 0, 0], 1, 2)) == [0, -2, 1, 1]
    assert follower.machine_tick == 2


@pytest.mark.parametrize("selected", [None, (0, 2)])
def test_a_source_that_has_grown_is_told_as_far_as_it_is_known(
    selected: tuple[int, ...] | None,
) -> None:
    leader = Leader(mixes(3), selected)
    leader.confine()
    assert not mark(leader, [(3, 1)])
    assert mark(leader, [(3, 1), (2, 5)])
    assert leader.difference(1) is not None
    known = [0, 1, 2] if selected is None else [0, 2]
    assert leader.snapshot((7, 8, 9, 1), 1, 0).ticks == [7 + i for i in known]


# -- shallow clocks ----------------------------------------------------------------------


def test_a_shallow_clock_counts_the_changes_that_were_seen() -> None:
    leader, follower = Leader(mixes(3), None, shallow=True), Follower(3, None)
    follower.load(leader.snapshot([5, 4, 0], 1, 0))
    assert follower.ticks == [1, 0, 0]
    mark(leader, [(0, 9), (1, 5)])  # the first is as active as before
    difference = leader.difference(2)
    assert difference is not None and difference.pairs == [1, 1]
    assert follower.apply(difference) and follower.ticks == [1, 1, 0]
    mark(leader, [(1, 7)])
    assert leader.difference(2) == Difference([], 0, difference.checksum)


@given(steps, selections)
def test_a_shallow_replica_has_the_parity_of_its_source_and_never_falls(
    moves: list[tuple[list[int], bool]], selected: tuple[int, ...] | None
) -> None:
    leader, follower = Leader(mixes(SIZE), selected, shallow=True), Follower(SIZE, selected)
    follower.load(leader.snapshot([0] * SIZE, 1, 0))
    followed = range(SIZE) if selected is None else selected
    ticks, queue_tick, before = [0] * SIZE, 1, [0] * SIZE
    for at, (changed, send) in enumerate(moves):
        queue_tick += 1
        for index in changed:
            ticks[index] += 1
        mark(leader, [(i, ticks[i]) for i in changed])
        if at % 7 == 6:
            follower.load(leader.snapshot(ticks, queue_tick, 0))
        elif not send:
            continue
        elif (difference := leader.difference(queue_tick)) is not None:
            assert follower.apply(difference)
        assert [follower.ticks[i] & 1 for i in followed] == [ticks[i] & 1 for i in followed]
        assert all(now >= then for now, then in zip(follower.ticks, before, strict=True))
        before = [*follower.ticks]
