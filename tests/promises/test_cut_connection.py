"""A connection that is lost for a moment costs nothing: client and worker find each other
again, the lease goes on, and nothing runs twice. One that is lost for longer than the grace
ends the lease, and says so.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from amnode import ConnectionLost, LeasedWorker, LeaseLost, Outcome, WorkerError
from tests.promises.pools import client_of, pool
from tests.promises.workers import BusyStates, Patient, Plain


def cut(worker: LeasedWorker) -> None:
    """Cuts the connection of a lease, without a word to the other end."""
    link = worker.rpc._link
    assert link is not None and link.connection is not None
    link.connection.abort()


async def back(worker: LeasedWorker, cuts: int = 1) -> None:
    """Waits until the connection is there again."""
    await worker.rpc.machine.when_time(["HandshakeDone"], [1 + 2 * cuts])


def go_through(gate: str) -> None:
    """Lets the job behind a gate end."""
    Path(gate).write_text("go", encoding="utf-8")


class Wall:
    """A network that is down until `open` is set, and counts who runs against it."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.open = False

    async def connect(self, *args: Any, **options: Any) -> Any:
        if not self.open:
            raise ConnectionLost("the network is down")
        return await self.transport.connect(*args, **options)


async def test_a_call_under_way_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    async with (
        pool(grace=10.0) as supervisor,
        client_of(supervisor) as client,
        client.lease() as worker,
    ):
        machine, epoch = worker.machine, worker.epoch
        call = asyncio.create_task(worker.call(Plain.gate, gate))
        await machine.when1(BusyStates.Begun)
        cut(worker)
        await worker.rpc.machine.when1("RetryingConn")
        await back(worker)
        go_through(gate)
        assert await call == "go"
        assert await worker.call(Plain.epoch) == (worker.id, epoch)
        assert worker.machine is machine and machine.is1("Leased")
        assert (await supervisor.row(worker.id)).condition == "leased"


async def test_what_is_called_while_it_is_cut_runs_once(tmp_path: Path) -> None:
    async with (
        pool(grace=10.0) as supervisor,
        client_of(supervisor) as client,
        client.lease() as worker,
    ):
        for round_ in range(1, 6):
            cut(worker)
            assert await worker.call(Plain.square, 7) == 49
            await back(worker, round_)
        assert await worker.call(Plain.count_of_runs) == 5


async def test_a_call_that_ended_meanwhile_is_not_run_again(tmp_path: Path) -> None:
    async with (
        pool(grace=10.0) as supervisor,
        client_of(supervisor) as client,
        client.lease() as worker,
    ):
        wall = worker.rpc._transport = Wall(worker.rpc._transport)  # type: ignore[assignment]
        gate = str(tmp_path / "gate")
        os.mkfifo(gate)
        call = asyncio.create_task(worker.call(Plain.gate, gate))
        await worker.machine.when1(BusyStates.Begun)
        cut(worker)
        go_through(gate)
        await supervisor.until(lambda view: view.counts.leased == 1)
        wall.open = True
        assert await call == "go"
        assert worker.machine.tick(BusyStates.Begun) == 2


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        pytest.param(Plain, WorkerError, id="the worker was replaced"),
        pytest.param(Patient, LeaseLost, id="the worker serves others"),
    ],
)
async def test_past_the_grace_the_lease_is_over(
    kind: type[Plain], error: type[WorkerError | LeaseLost]
) -> None:
    async with pool(1, kind, grace=0.1) as supervisor, client_of(supervisor, kind=kind) as me:
        worker = await me.req_worker()
        wall = worker.rpc._transport = Wall(worker.rpc._transport)  # type: ignore[assignment]
        call = asyncio.create_task(worker.call(kind.last))
        await worker.machine.when1(BusyStates.Begun)
        cut(worker)
        await supervisor.until(lambda view: view.counts.leased == 0)
        wall.open = True
        with pytest.raises(error) as caught:
            await call
        assert caught.value.outcome is Outcome.UNKNOWN
        async with me.lease() as another:
            assert await another.call(kind.square, 7) == 49
