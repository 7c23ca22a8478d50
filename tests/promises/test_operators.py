"""An operator reaches a worker through its supervisor, and only so; the worker's client notices
nothing. The way is good once, and for the one who asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from amnode import AuthError, RefusedError, Supervisor, SupervisorStates, WorkerStates
from amnode.node.args import InspectArgs, ReachWorkerArgs, ServeOperatorArgs, WorkerReached
from amnode.node.names import operator_id
from amnode.node.telling import Inspection
from amnode.rpc.client import RpcClient
from tests.cli.workers import Signal
from tests.promises.pools import client_of, pool

S, W = SupervisorStates, WorkerStates


@contextlib.asynccontextmanager
async def connected(address: str, id: str, secret: bytes) -> AsyncIterator[RpcClient]:
    """A connection, ended at the end."""
    rpc = RpcClient(address, id=id, secret=secret)
    await rpc.start()
    try:
        yield rpc
    finally:
        await rpc.stop()


async def reach(supervisor: Supervisor, worker_id: str, me: str) -> WorkerReached:
    """The way to a worker."""
    address, secret = supervisor.local_addr, supervisor.operator_token
    async with connected(address, operator_id("asks"), secret) as rpc:
        args = ReachWorkerArgs(worker_id=worker_id, operator_id=me)
        return await rpc.source.request([S.ReachWorker], args, result_type=WorkerReached)


async def test_an_operator_follows_a_worker_that_serves_somebody() -> None:
    me = operator_id("one")
    async with (
        pool(1, Signal) as supervisor,
        client_of(supervisor, kind=Signal) as client,
        client.lease() as worker,
    ):
        way = await reach(supervisor, worker.id, me)
        async with connected(way.address, me, way.secret) as rpc:
            assert rpc.source.source_id == worker.id and rpc.source.is1(W.Leased)
            told = rpc.source.stream(
                [W.Inspect], InspectArgs(follow=True), item_type=Inspection
            )
            async with told:
                assert (await anext(told)).machine == worker.id
                await worker.call(Signal.burn_out)
                entries = [e async for e in _until(told, "Broken")]
            by = next(e for e in entries if e.called == ("Broken",))
            assert by.accepted and not by.error
            assert await rpc.source.add1("Powered")
            await worker.machine.when1("Powered")
        assert (await supervisor.row(worker.id)).client == "me"


async def _until(told: AsyncIterator[Inspection], state: str) -> AsyncIterator[object]:
    async for item in told:
        for entry in item.story:
            yield entry
        if any(state in entry.called for entry in item.story):
            return


async def test_a_way_is_good_once_and_for_the_one_who_asked() -> None:
    me, other = operator_id("one"), operator_id("other")
    async with pool(1, Signal) as supervisor:
        (row,) = await supervisor.workers()
        way = await reach(supervisor, row.id, me)
        with pytest.raises(AuthError):
            async with connected(way.address, other, way.secret):
                pass
        async with connected(way.address, me, way.secret):
            pass
        with pytest.raises(AuthError):
            async with connected(way.address, me, way.secret):
                pass


async def test_only_operators_are_told_the_way() -> None:
    me = operator_id("one")
    async with pool(1, Signal, token=b"of the clients") as supervisor:
        (row,) = await supervisor.workers()
        args = ReachWorkerArgs(worker_id=row.id, operator_id=me)
        async with connected(supervisor.address, "rc-me", supervisor.token) as client:
            with pytest.raises(RefusedError, match="ReachWorker is closed"):
                await client.source.request([S.ReachWorker], args)
        async with connected(supervisor.local_addr, "rc-ns-peer", supervisor.token) as peer:
            for state, what in ((S.ReachWorker, args), (S.Inspect, InspectArgs())):
                with pytest.raises(RefusedError, match="peer supervisor may not"):
                    await peer.source.request([state], what)


async def test_a_client_lets_no_operator_in() -> None:
    async with (
        pool(1, Signal) as supervisor,
        client_of(supervisor, kind=Signal) as client,
        client.lease() as worker,
    ):
        args = ServeOperatorArgs(operator_id="rc-me", secret=b"mine", delivery_timeout=5.0)
        for state, what in ((W.ServeOperator, args), (W.Inspect, InspectArgs())):
            with pytest.raises(RefusedError, match="is closed to add"):
                await worker.machine.add1(state, what)


async def test_a_worker_that_is_not_there_is_named() -> None:
    async with pool(1, Signal) as supervisor:
        with pytest.raises(Exception, match="no worker 'nw-nobody'"):
            await reach(supervisor, "nw-nobody", operator_id("one"))


async def test_nobody_is_let_into_a_worker_before_an_operator_is_announced() -> None:
    async with pool(1, Signal) as supervisor:
        (row,) = await supervisor.workers()
        link = supervisor._links[row.id]
        assert not (link._directory / f"{link.name}.o").exists()
        await reach(supervisor, row.id, operator_id("one"))
        assert (link._directory / f"{link.name}.o").exists()
