"""Operators resize, drain and restart a running pool, from the program or through its local
server. What they ask for holds at once, and no lease is cut short by it. Clients cannot ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from amnode import (
    AuthError,
    LeaseTimeoutError,
    OptionError,
    PoolError,
    RefusedError,
    Supervisor,
    SupervisorStates,
)
from amnode.node.args import SetPoolArgs
from amnode.rpc.client import RpcClient
from tests.promises.pools import client_of, pool
from tests.promises.workers import Plain

S = SupervisorStates


def operator_of(supervisor: Supervisor) -> AbstractAsyncContextManager[RpcClient]:
    """A connection to the local server."""
    assert supervisor.local_rpc is not None
    return connected(supervisor.local_rpc.address, supervisor.operator_token)


@asynccontextmanager
async def connected(
    address: str, token: bytes, id: str = "rc-somebody"
) -> AsyncIterator[RpcClient]:
    """Somebody who knows the token."""
    rpc = RpcClient(address, id=id, secret=token, schema=S)
    await rpc.start()
    try:
        yield rpc
    finally:
        await rpc.stop()


# -- the size ------------------------------------------------------------------------------


async def test_a_pool_grows_at_once() -> None:
    async with pool(1) as supervisor:
        supervisor.set_pool(3, 4, 1)
        await supervisor.all_idle(4)
        assert supervisor.view().pool_ready


async def test_a_pool_shrinks_by_its_most_idle_and_never_by_a_leased_worker() -> None:
    async with pool(3) as supervisor, client_of(supervisor) as client:
        async with client.lease() as held, client.lease() as last:
            supervisor.set_pool(1, 1, 0)
            await supervisor.until(lambda view: view.counts.total == 2)
            assert await held.call(Plain.square, 7) == 49
            assert await last.call(Plain.square, 8) == 64
        await supervisor.all_idle(1)
        assert supervisor.machine.err is None


async def test_another_quota_holds_at_once() -> None:
    async with (
        pool(2, max_per_client=1) as supervisor,
        client_of(supervisor) as client,
        client.lease(),
    ):
        with pytest.raises(LeaseTimeoutError):
            await client.req_worker(timeout=0.05)
        asked = asyncio.create_task(client.req_worker())
        await supervisor.until(lambda view: view.counts.waiting == 1)
        supervisor.set_pool(2, 2, 0)
        await (await asked).release()


async def test_sizes_that_cannot_work_are_refused() -> None:
    async with pool(1) as supervisor:
        with pytest.raises(OptionError, match="max is 0"):
            supervisor.set_pool(1, 0, 0)
        supervisor.set_pool(5, 2, 0)  # min is clamped
        await supervisor.all_idle(2)
    with pytest.raises(PoolError, match="not running"):
        supervisor.set_pool(1, 1, 0)


# -- a drain -------------------------------------------------------------------------------


async def test_a_drain_lets_leases_end_and_grants_none() -> None:
    async with pool(2) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            drain = asyncio.create_task(supervisor.drain())
            await supervisor.machine.when1(S.Draining)
            assert supervisor.machine.not1(S.WorkersAvailable)
            with pytest.raises(LeaseTimeoutError):
                await client.req_worker(timeout=0.05)
            assert await worker.call(Plain.square, 7) == 49
            assert not drain.done()
            waits = asyncio.create_task(client.req_worker())
            await supervisor.until(lambda view: view.counts.waiting == 1)
            assert "draining" in supervisor.view().why_not_growing
        await drain
        assert supervisor.machine.is1(S.Drained) and not waits.done()
        supervisor.resume()
        worker = await waits
        assert await worker.call(Plain.square, 7) == 49
        await worker.release()
        assert not supervisor.machine.any1(S.Draining, S.Drained)


async def test_a_drain_that_is_taken_back_says_so() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client, client.lease():
        drain = asyncio.create_task(supervisor.drain())
        await supervisor.machine.when1(S.Draining)
        supervisor.resume()
        with pytest.raises(PoolError, match="before the last lease"):
            await drain
    with pytest.raises(PoolError, match="not running"):
        await supervisor.drain()


async def test_a_drained_pool_can_be_stopped() -> None:
    async with pool(1) as supervisor:
        await supervisor.drain()
        await supervisor.stop()
        assert supervisor.machine.not1(S.Draining)


async def test_a_peer_supervisor_may_not_operate() -> None:
    async with pool(1) as supervisor:
        rpc = RpcClient(
            supervisor.local_addr, id="rc-ns-peer.1", secret=supervisor.token, schema=S
        )
        await rpc.start()
        try:
            size = SetPoolArgs(min=1, max=2, warm=1)
            for asked in (
                rpc.source.add1(S.SetPool, size),
                rpc.source.add1(S.RollingRestart),
                rpc.source.add1(S.Draining),
                rpc.source.toggle1(S.Draining),
                rpc.source.remove1(S.Start),
                rpc.source.add1(S.ListWorkers),
                rpc.source.add1(S.ListCrashes),
                rpc.source.add1(S.ReadOutput),
            ):
                with pytest.raises((RefusedError, PoolError)):
                    await asked
            supervisor.machine.add1(S.Draining)
            with pytest.raises(RefusedError, match="may not operate"):
                await rpc.source.remove1(S.Draining)
        finally:
            await rpc.stop()
        assert supervisor.view().draining and not supervisor.view().stopping
        for id in ("rc-somebody", "rc-op-1", "rc-nc-super-me.1"):
            with pytest.raises(AuthError):
                async with connected(supervisor.local_addr, supervisor.token, id):
                    pass


# -- through the local server --------------------------------------------------------------


async def test_operators_ask_through_the_local_server() -> None:
    async with pool(1) as supervisor, operator_of(supervisor) as operator:
        source = operator.source
        assert await source.add1(S.SetPool, SetPoolArgs(min=1, max=2, warm=1))
        await supervisor.all_idle(2)
        before = {row.id for row in await supervisor.workers()}
        assert await source.add1(S.RollingRestart)
        await source.when_not1(S.RollingRestart)
        assert not before & {row.id for row in await supervisor.workers()}
        assert await source.add1(S.Draining)
        await source.when1(S.Drained)
        assert await source.remove1(S.Draining)
        assert not supervisor.machine.any1(S.Draining, S.Drained)


async def test_operators_are_told_what_cannot_be() -> None:
    async with pool(1) as supervisor, operator_of(supervisor) as operator:
        with pytest.raises(OptionError, match="warm is -1"):
            await operator.source.add1(S.SetPool, SetPoolArgs(min=1, max=2, warm=-1))
        with pytest.raises(PoolError, match="Raise max"):
            await operator.source.add1(S.RollingRestart)
        assert supervisor.view().size.max == 1


@pytest.mark.parametrize("state", [S.SetPool, S.RollingRestart, S.Draining, S.Drained])
async def test_clients_cannot_ask(state: str) -> None:
    async with (
        pool(1, most=2) as supervisor,
        connected(supervisor.address, supervisor.token) as client,
    ):
        before = supervisor.machine.tick(state)
        with pytest.raises(RefusedError):
            await client.source.add1(state)
        assert supervisor.machine.tick(state) == before
