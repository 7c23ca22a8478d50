"""A client that is killed costs nothing: its lease ends by its grace, what it asked for
leaves the queue, and the pool is whole. A worker that it left unclean is replaced, unless
its class defines `on_release`, which then has run.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.promises.pools import client_of, gone, pool, program
from tests.promises.workers import Cleaned, FailingHook, Plain


@pytest.mark.parametrize("job", ["", "last"])
async def test_its_unclean_worker_is_replaced(job: str) -> None:
    async with pool(1) as supervisor:
        told = {"address": supervisor.address, "token": supervisor.token.hex(), "job": job}
        async with program("client", **told) as victim:
            leased = await victim.said()
            row = await supervisor.row(leased["leased"])
            assert (row.condition, row.client, row.epoch) == (
                "leased",
                "victim",
                leased["epoch"],
            )
            os.kill(victim.pid, signal.SIGKILL)
            await victim.ended()
            await gone(row.pid)
        await supervisor.all_idle(1)
        async with client_of(supervisor) as client, client.lease() as worker:
            assert worker.id != leased["leased"]
            assert await worker.call(Plain.keep, "mine") == ["mine"]


@pytest.mark.parametrize("job", ["", "last"])
async def test_a_worker_with_a_hook_is_cleared_and_used_again(job: str) -> None:
    async with pool(1, kind=Cleaned) as supervisor:
        told = {"address": supervisor.address, "token": supervisor.token.hex(), "job": job}
        async with program("client", **told) as victim:
            leased = await victim.said()
            os.kill(victim.pid, signal.SIGKILL)
            await supervisor.all_idle(1)
        async with client_of(supervisor) as client, client.lease() as worker:
            assert (worker.id, worker.epoch) == (leased["leased"], leased["epoch"] + 2)
            kept = await worker.call(Plain.keep, "mine")
            assert kept == [f"released epoch {leased['epoch']}", "mine"]


async def test_a_worker_whose_hook_fails_is_replaced() -> None:
    async with pool(1, kind=FailingHook) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            pid = await worker.call(Plain.pid)
        await gone(pid)
        async with client.lease() as another:
            assert another.id != worker.id


async def test_the_job_goes_on_in_the_grace() -> None:
    """The grace is longer than the test: the lease of the dead client is still there."""
    async with pool(1, grace=60.0) as supervisor:
        told = {"address": supervisor.address, "token": supervisor.token.hex(), "job": "last"}
        async with program("client", **told) as victim:
            leased = await victim.said()
            os.kill(victim.pid, signal.SIGKILL)
            await victim.ended()
        row = await supervisor.row(leased["leased"])
        assert (row.condition, row.client) == ("leased", "victim")


async def test_one_that_waited_leaves_the_queue() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        async with client.lease():
            told = {"address": supervisor.address, "token": supervisor.token.hex()}
            async with program("waiting_client", **told) as victim:
                await victim.said()
                await supervisor.until(lambda view: view.counts.waiting == 1)
                os.kill(victim.pid, signal.SIGKILL)
                await supervisor.until(lambda view: view.counts.waiting == 0)
        await supervisor.all_idle(1)


async def test_another_client_waits_for_the_worker_and_gets_one() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        told = {"address": supervisor.address, "token": supervisor.token.hex()}
        async with program("client", **told) as victim:
            await victim.said()
            asked = asyncio.create_task(client.req_worker())
            await supervisor.until(lambda view: view.counts.waiting == 1)
            os.kill(victim.pid, signal.SIGKILL)
            worker = await asked
            assert await worker.call(Plain.square, 7) == 49
