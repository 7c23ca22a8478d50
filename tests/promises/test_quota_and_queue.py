"""Requests that find no idle worker wait in one fair queue: to their deadline and no longer,
within the quota of their client, without one client holding up another. A pool that may
still grow grows for them, and shrinks again when they are gone.
"""

from __future__ import annotations

import asyncio

import pytest

from amnode import JobCancelled, LeaseError, LeaseLost, LeaseTimeoutError
from tests.promises.pools import client_of, pool
from tests.promises.workers import Plain


async def test_a_request_ends_at_its_deadline() -> None:
    async with pool() as supervisor, client_of(supervisor) as client:
        async with client.lease():
            with pytest.raises(LeaseTimeoutError):
                await client.req_worker(timeout=0.05)
            await supervisor.until(lambda view: view.counts.waiting == 0)
            assert client.machine.not1("WorkerRequested")
        async with client.lease(timeout=5) as worker:
            assert await worker.call(Plain.square, 7) == 49


async def test_a_client_has_no_more_than_its_quota() -> None:
    async with (
        pool(2, max_per_client=1) as supervisor,
        client_of(supervisor, "greedy") as greedy,
        client_of(supervisor) as client,
    ):
        async with greedy.lease() as first:
            more = asyncio.create_task(greedy.req_worker())
            await supervisor.until(lambda view: view.counts.waiting == 1)
            assert "1 workers already" in supervisor.view().why_not_growing
            async with client.lease() as worker:  # the waiting one holds nobody up
                assert await worker.call(Plain.square, 7) == 49
            assert not more.done()
        worker = await more
        assert await worker.call(Plain.square, 7) == 49
        assert first.id


async def test_the_quota_counts_by_the_clients_name() -> None:
    async with (
        pool(2, max_per_client=1) as supervisor,
        client_of(supervisor, "one") as one,
        client_of(supervisor, "one") as same,
    ):
        async with one.lease():
            with pytest.raises(LeaseTimeoutError):
                await same.req_worker(timeout=0.1)
        async with same.lease() as worker:
            assert await worker.call(Plain.square, 7) == 49


async def test_a_client_that_goes_away_leaves_the_queue() -> None:
    async with pool() as supervisor, client_of(supervisor) as client:
        async with client.lease():
            async with client_of(supervisor, "goes") as goes:
                asked = asyncio.create_task(goes.req_worker())
                await supervisor.until(lambda view: view.counts.waiting == 1)
            with pytest.raises(LeaseError, match="stopped"):
                await asked
            await supervisor.until(lambda view: view.counts.waiting == 0)
        await supervisor.all_idle(1)


async def test_a_pool_grows_on_demand_and_shrinks_after_its_linger() -> None:
    async with pool(1, most=3, linger=0.1) as supervisor, client_of(supervisor) as client:
        workers = await asyncio.gather(*(client.req_worker() for _ in range(3)))
        assert len({worker.id for worker in workers}) == 3
        with pytest.raises(LeaseTimeoutError):
            await client.req_worker(timeout=0.05)
        for worker in workers:
            await worker.release()
        await supervisor.all_idle(1)


async def test_a_lease_ends_at_its_maximum() -> None:
    async with pool(maximum=0.1) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            with pytest.raises(JobCancelled, match="past its maximum"):
                await worker.call(Plain.last)
            with pytest.raises(LeaseLost, match="Ask for a new worker") as caught:
                await worker.call(Plain.square, 7)
            assert caught.value.outcome == "not run"
        await supervisor.all_idle(1)
        async with client.lease() as another:
            assert another.id != worker.id  # it has no hook that would clear it
