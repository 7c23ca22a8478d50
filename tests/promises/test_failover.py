"""A client is connected to the first supervisor of its list that answers, stays with one
that works, and goes to the next when that one is gone. A request that was made meanwhile is
made again there, and what the client holds is its own all the while.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from amnode import Client
from tests.promises.pools import pool, program
from tests.promises.workers import Plain


async def test_the_first_that_answers(tmp_path: Path) -> None:
    nowhere = f"unix:{tmp_path / 'nobody'}"
    async with pool() as supervisor:
        addrs = [nowhere, supervisor.address]
        async with (
            Client("me", Plain, addrs=addrs, token=supervisor.token) as client,
            client.lease() as worker,
        ):
            assert client.super_addr == supervisor.address
            assert await worker.call(Plain.square, 7) == 49


async def test_the_next_one_when_it_is_gone() -> None:
    token = bytes(32)
    async with (
        program("supervisor", size=1, token=token.hex()) as victim,
        pool(token=token) as second,
    ):
        told = await victim.said()
        addrs = [told["address"], second.address]
        async with Client("me", Plain, addrs=addrs, token=token) as client:
            async with client.lease() as held:
                waiting = asyncio.create_task(client.req_worker())
                await client.machine.when1("WorkerRequested")
                os.kill(victim.pid, signal.SIGKILL)
                other = await waiting
                assert client.super_addr == second.address
                assert other.id != held.id
                assert await other.call(Plain.square, 7) == 49
                assert await held.call(Plain.square, 8) == 64
            await other.release()
            await second.all_idle(1)
