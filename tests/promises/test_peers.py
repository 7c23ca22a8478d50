"""Supervisors of one kind help each other out: a request that finds no worker at the one that
its client is connected to, and no room for one there, is served by a peer that has one to
spare. The client notices nothing of it but where its worker lives.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from amnode import Cause, LeaseTimeoutError, OptionError, Supervisor, WorkerError
from amnode.node.policy.view import PoolView
from tests.promises.pools import WatchedSupervisor, client_of, program, short
from tests.promises.workers import Plain

TOKEN = bytes(range(32))


@asynccontextmanager
async def pair(
    tmp_path: Path, *, most: int = 1
) -> AsyncGenerator[list[WatchedSupervisor], None]:
    """Two pools of one worker, each a peer of the other, and both know it."""
    places = [f"unix:{tmp_path / name}" for name in ("a", "b")]
    a, b = (
        WatchedSupervisor(
            Plain,
            name=f"peer-{i}",
            token=TOKEN,
            opts=short(1, most=most, max_per_client=4, peer_pause=0.05),
            local_addr=places[i],
            peers=[places[1 - i]],
        )
        for i in range(2)
    )
    async with a, b:
        for one in (a, b):
            await one.when_ready()
            await one.all_idle(1)
        yield [a, b]


def _waits(count: int) -> Callable[[PoolView], bool]:
    return lambda view: view.counts.waiting == count


async def test_a_client_of_a_full_one_gets_a_worker_of_the_other(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b), client_of(a) as client:
        async with client.lease() as own, client.lease() as other:
            assert [row.id for row in await a.workers()] == [own.id]
            assert [row.id for row in await b.workers()] == [other.id]
            row = await b.row(other.id)
            assert row.client == "me"  # the quota counts there
            assert row.age > row.leased_for > 0
            assert (await a.row(own.id)).leased_for > row.leased_for
            assert client.super_addr == a.address
            assert await other.call(Plain.square, 7) == 49
        await a.all_idle(1)
        await b.all_idle(1)


async def test_a_request_waits_where_both_are_full_and_goes_to_the_first_free(
    tmp_path: Path,
) -> None:
    async with pair(tmp_path) as (a, b), client_of(a) as client, client_of(b, "of b") as of_b:
        held = await of_b.req_worker()
        async with client.lease():
            with pytest.raises(LeaseTimeoutError):
                await client.req_worker(timeout=0.1)
            waiting = asyncio.create_task(client.req_worker())
            await a.until(_waits(1))
            assert b.view().counts.waiting == 0
            await held.release()
            worker = await waiting
            assert worker.id == (await b.workers())[0].id
            await worker.release()


async def test_a_crash_at_the_peer_is_told_with_its_cause(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b), client_of(a) as client:
        async with client.lease(), client.lease() as other:
            row = await b.row(other.id)
            running = asyncio.create_task(other.call(Plain.last))
            await other.machine.when1("Begun")
            os.kill(row.pid, signal.SIGKILL)
            with pytest.raises(WorkerError) as caught:
                await running
            assert caught.value.cause is Cause.SIGNAL
            assert caught.value.signal == "SIGKILL"
        await b.all_idle(1)


async def test_a_request_that_is_taken_back_leaves_nothing_at_the_peer(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b), client_of(a) as client:
        async with client.lease():
            for steps in range(20):
                asked = asyncio.create_task(client.req_worker())
                for _ in range(steps):
                    await asyncio.sleep(0)
                if not asked.cancel():
                    await asked.result().release()  # it was quicker
                await asyncio.gather(asked, return_exceptions=True)
            async with client.lease() as other:
                assert await other.call(Plain.square, 7) == 49
        await b.all_idle(1)


async def test_a_client_that_goes_away_leaves_nothing_at_the_peer(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b), client_of(a, "holds") as holds, holds.lease():
        async with client_of(a, "goes") as goes:
            worker = await goes.req_worker()
            assert await worker.call(Plain.square, 7) == 49
            gone = b.machine.when1("ClientDisconnected")
        await gone
        await b.all_idle(1)
        assert not b._peers._guests  # pyright: ignore[reportPrivateUsage]  # seen by nobody else


async def test_a_peer_that_is_killed(tmp_path: Path) -> None:
    """What it granted lives on; what it was asked for waits here; back, it helps again."""
    place = f"unix:{tmp_path / 'peer'}"
    told = {"size": 1, "token": TOKEN.hex(), "local_addr": place}
    async with (
        program("supervisor", **told) as peer,
        WatchedSupervisor(
            Plain, token=TOKEN, opts=short(1, max_per_client=4), peers=[place]
        ) as a,
        client_of(a) as client,
    ):
        await peer.said()
        async with client.lease() as own, client.lease() as other:
            os.kill(peer.pid, signal.SIGKILL)
            await peer.ended()
            assert await other.call(Plain.square, 8) == 64
            waiting = asyncio.create_task(client.req_worker())
            await a.until(_waits(1))
            await own.release()
            worker = await waiting
            assert worker.id == own.id
            waiting = asyncio.create_task(client.req_worker())
            await a.until(_waits(1))
            async with program("supervisor", **told) as again:
                await again.said()
                third = await waiting
                assert await third.call(Plain.square, 9) == 81
                await third.release()
            await worker.release()


def test_peers_need_a_token_in_common() -> None:
    with pytest.raises(OptionError, match="token"):
        Supervisor(Plain, peers=["unix:/nowhere"])
    with pytest.raises(OptionError, match="pass a list"):
        Supervisor(Plain, token=TOKEN, peers="unix:/nowhere")
