"""A client may leave its supervisor once it has what it wants: the lease lives on. It comes
back when it asks for another worker.
"""

from __future__ import annotations

import asyncio

import pytest

from amnode import Cause, WorkerError
from tests.promises.pools import client_of, pool
from tests.promises.workers import Plain


async def test_the_lease_lives_on_without_a_supervisor_connection() -> None:
    async with pool(2) as supervisor, client_of(supervisor) as client:
        client.leave_super = True
        async with client.lease() as worker:
            await client.machine.when1("SuperDisconnected")
            assert client.rpc_super is None
            assert not supervisor.public_rpcs
            await supervisor.until(lambda view: view.counts.leased == 1)
            assert await worker.call(Plain.square, 7) == 49
            # It asks again, and so comes back.
            async with client.lease() as another:
                assert await another.call(Plain.square, 8) == 64
                assert await worker.call(Plain.square, 9) == 81
        await supervisor.all_idle(2)
        async with client.lease() as worker:
            assert await worker.call(Plain.square, 7) == 49


async def test_it_leaves_not_before_the_last_request_has_ended() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        client.leave_super = True
        asked = [asyncio.create_task(client.req_worker()) for _ in range(2)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert client.rpc_super is not None
        await done.pop().result().release()
        worker = await next(
            task for task in asked if not task.done() or task.result().machine.lost is None
        )
        assert await worker.call(Plain.square, 7) == 49
        await client.machine.when1("SuperDisconnected")


async def test_a_worker_that_is_lost_then_is_just_lost() -> None:
    async with pool() as supervisor, client_of(supervisor) as client:
        client.leave_super = True
        async with client.lease() as worker:
            await client.machine.when1("SuperDisconnected")
            with pytest.raises(WorkerError) as caught:
                await worker.call(Plain.die, "SIGKILL")
            assert caught.value.cause is Cause.LOST
            assert caught.value.outcome == "unknown"
