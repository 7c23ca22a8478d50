"""The queue by itself: its tick, what is merged, and its bound. And results."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from amnode.machine.plan import Planner
from amnode.machine.queue import (
    CANCELED,
    EXECUTED,
    Mutation,
    MutationQueue,
    MutationType,
    Queued,
)
from amnode.machine.schema import Schema, State

ADD, REMOVE = MutationType.ADD, MutationType.REMOVE
PLANNER = Planner(Schema({"A": State(), "B": State(), "M": State(multi=True)}), ())


def mutation(*called: int, type_: MutationType = ADD, args: object = None) -> Mutation:
    return Mutation(PLANNER.call(type_, called), args)


def test_only_appended_mutations_count() -> None:
    queue = MutationQueue(10)
    assert queue.append(mutation(0)) == 2
    queue.prepend(mutation(1))
    assert queue.append(mutation(0, 1)) == 3
    assert [m.called for m in queue] == [(1,), (0,), (0, 1)]
    assert queue.take().called == (1,)
    assert queue.tick == 1
    assert queue.take().called == (0,)
    assert (queue.tick, len(queue)) == (2, 1)


def test_equal_mutations_are_found_while_they_are_pending() -> None:
    queue = MutationQueue(10)
    queue.append(mutation(0, 1))
    assert queue.has_equal(PLANNER.call(ADD, (1, 0)))
    assert not queue.has_equal(PLANNER.call(REMOVE, (0, 1)))
    assert not queue.has_equal(PLANNER.call(ADD, (0,)))
    queue.prepend(mutation(1, 0))
    queue.take()
    assert queue.has_equal(PLANNER.call(ADD, (0, 1)))
    queue.take()
    assert not queue.has_equal(PLANNER.call(ADD, (0, 1)))


def test_arguments_and_multi_states_are_never_equal() -> None:
    queue = MutationQueue(10)
    queue.append(mutation(0, args="x"))
    queue.append(mutation(2))
    assert not queue.has_equal(PLANNER.call(ADD, (0,)))
    assert not queue.has_equal(PLANNER.call(ADD, (2,)))
    queue.take()
    queue.take()


def test_it_is_full_at_its_limit_and_knows_what_is_called() -> None:
    queue = MutationQueue(1)
    assert not queue.full
    queue.append(mutation(0))
    assert queue.full
    assert queue.is_called(ADD, 0)
    assert not queue.is_called(REMOVE, 0)
    assert not queue.is_called(ADD, 1)


def test_draining_takes_all_and_leaves_the_tick() -> None:
    queue = MutationQueue(10)
    queue.append(mutation(0))
    queue.prepend(mutation(1))
    assert [m.called for m in queue.drain()] == [(1,), (0,)]
    assert (queue.tick, len(queue)) == (1, 0)
    assert not queue.has_equal(PLANNER.call(ADD, (0,)))
    assert queue.append(mutation(0)) == 2


@given(st.lists(st.sampled_from(("append", "prepend", "take"))))
def test_the_tick_that_was_told_is_the_tick_that_comes(todo: list[str]) -> None:
    queue = MutationQueue(100)
    told: dict[int, int] = {}
    for what in [*todo, *["take"] * len(todo)]:
        if what == "append":
            made = mutation(0, args=len(told))
            told[id(made)] = queue.append(made)
            made.origin = made  # kept alive, so that its id stays its own
        elif what == "prepend":
            queue.prepend(mutation(1))
        elif queue:
            taken = queue.take()
            if not taken.prepended:
                assert queue.tick == told[id(taken)]
            taken.origin = None


def test_a_mutation_shows_what_is_asked_for() -> None:
    made = mutation(0, 1, type_=REMOVE)
    assert (made.type, made.called) == (REMOVE, (0, 1))
    assert repr(made) == "<Mutation remove (0, 1)>"


async def test_results_are_true_unless_canceled_and_awaitable() -> None:
    assert EXECUTED
    assert not CANCELED
    assert [repr(EXECUTED), repr(CANCELED)] == ["EXECUTED", "CANCELED"]
    assert await EXECUTED is EXECUTED
    assert await CANCELED is CANCELED


async def test_a_queued_result_is_settled_once_for_all_who_wait() -> None:
    queued = Queued(7, asyncio.get_running_loop().create_future)
    assert queued
    assert (repr(queued), queued.tick, queued.outcome) == ("Queued(7)", 7, None)

    async def wait() -> object:
        return await queued

    waiting = [asyncio.create_task(wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].add_done_callback(lambda _: None)
    queued.settle(CANCELED)
    assert await asyncio.gather(*waiting[1:]) == [CANCELED, CANCELED]
    assert waiting[0].cancelled()
    assert await queued is queued.outcome is CANCELED


async def test_a_wait_for_a_queued_result_that_is_cancelled_leaves_nothing() -> None:
    queued = Queued(2, asyncio.get_running_loop().create_future)

    async def wait() -> object:
        return await queued

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not queued._waiters
