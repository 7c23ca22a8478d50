"""Workers that have served long enough are replaced between leases, never in one: by their
jobs, their age or their memory. So are all of them in a rolling restart. New ones come first,
so the pool stays ready, and calls go on.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amnode import PoolError
from tests.promises.pools import WatchedSupervisor, client_of, pool
from tests.promises.workers import Cleaned, Plain

#: No chance in the limits, so that a test knows them.
EXACT: dict[str, Any] = {"renew_jitter": 0.0}


class ReadyWatch:
    """Sees each moment of a pool below its minimum."""

    def __init__(self, supervisor: WatchedSupervisor) -> None:
        self.least = supervisor.view().counts.ready
        supervisor.machine.trace(self)
        self._supervisor = supervisor

    def transition_end(self, _transition: Any) -> None:
        self.least = min(self.least, self._supervisor.view().counts.ready)


async def ids_of(supervisor: WatchedSupervisor) -> set[str]:
    return {row.id for row in await supervisor.workers()}


def is_worn(supervisor: WatchedSupervisor, worker_id: str) -> bool:
    member = supervisor._core.roster.get(worker_id)
    return member is not None and bool(member.worn)


def is_gone(supervisor: WatchedSupervisor, worker_id: str) -> bool:
    return supervisor._core.roster.get(worker_id) is None


async def test_a_worker_that_has_done_its_jobs_serves_nobody_any_more() -> None:
    async with pool(1, most=2, max_jobs=3, linger=0.05, **EXACT) as supervisor:
        ready = ReadyWatch(supervisor)
        async with client_of(supervisor) as client:
            async with client.lease() as first:
                for n in range(5):  # a lease is not cut short
                    assert await first.call(Plain.square, n) == n * n
            async with client.lease() as second:
                assert second.id != first.id
                assert await second.call(Plain.square, 7) == 49
            async with client.lease() as third:
                assert third.id == second.id  # it has one job behind it
        await supervisor.all_idle(1)
        assert ready.least == 1
        assert supervisor.machine.err is None


async def test_where_there_is_no_room_the_old_one_goes_first() -> None:
    async with pool(1, max_jobs=1, **EXACT) as supervisor, client_of(supervisor) as client:
        async with client.lease() as first:
            await first.call(Plain.square, 1)
        async with client.lease() as second:
            assert second.id != first.id
        assert supervisor.machine.err is None


async def test_an_old_worker_is_replaced_when_it_is_idle() -> None:
    async with pool(1, most=2, max_age=0.6, **EXACT) as supervisor:
        ready = ReadyWatch(supervisor)
        async with client_of(supervisor) as client, client.lease() as worker:
            await supervisor.until(lambda _: is_worn(supervisor, worker.id))
            assert await worker.call(Plain.square, 7) == 49  # as old as it is
        await supervisor.until(lambda _: is_gone(supervisor, worker.id))
        assert ready.least == 1


async def test_a_worker_that_has_grown_is_replaced() -> None:
    async with pool(1, most=2, max_rss=150_000_000, **EXACT) as supervisor:
        async with client_of(supervisor, kind=Plain) as client:
            async with client.lease() as slim:
                await slim.call(Plain.square, 1)
            async with client.lease() as same:
                assert same.id == slim.id
                await same.call(Plain.hoard, 200_000_000)
            await supervisor.until(lambda _: is_gone(supervisor, slim.id))
        assert supervisor.view().pool_ready


async def test_a_rolling_restart_replaces_all_and_leaves_the_pool_ready() -> None:
    async with pool(2, most=3, kind=Cleaned) as supervisor:
        ready, before = ReadyWatch(supervisor), await ids_of(supervisor)
        async with client_of(supervisor, kind=Cleaned) as client, client.lease() as held:
            restart = asyncio.create_task(supervisor.restart_workers())
            await supervisor.machine.when1("RollingRestart")
            await supervisor.until(lambda view: view.to_restart == 1)
            assert await held.call(Plain.square, 7) == 49  # the last one is leased
            assert not restart.done()
        await restart
        assert supervisor.machine.not1("RollingRestart")
        await supervisor.until(lambda v: v.counts.idle == v.counts.total)
        assert not before & await ids_of(supervisor)
        assert ready.least >= 2
        assert supervisor.machine.err is None


async def test_a_rolling_restart_that_would_leave_the_minimum_is_refused() -> None:
    async with pool(2) as supervisor:
        before = await ids_of(supervisor)
        with pytest.raises(PoolError, match="min and max are both 2"):
            await supervisor.restart_workers()
        assert before == await ids_of(supervisor)
        supervisor.set_pool(2, 3, 0)
        await supervisor.restart_workers()
        assert not before & await ids_of(supervisor)


async def test_a_restart_ends_with_its_supervisor() -> None:
    async with pool(1, most=2, stop_grace=0.0) as supervisor:
        async with client_of(supervisor) as client, client.lease():
            restart = asyncio.create_task(supervisor.restart_workers())
            await supervisor.machine.when1("RollingRestart")
            await supervisor.stop()
            with pytest.raises(PoolError, match="stopped"):
                await restart
        with pytest.raises(PoolError, match="not running"):
            await supervisor.restart_workers()
