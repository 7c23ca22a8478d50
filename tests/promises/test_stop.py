"""A supervisor that is stopped under load leaves no process. Running jobs get the grace and
are then ended; who waits is told; what the workers themselves started ends with them. A stop
that is cancelled half-way kills at once.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from amnode import AmnodeError, PoolError, RefusedError
from tests.promises.pools import (
    PATIENCE,
    WatchedSupervisor,
    client_of,
    gone,
    is_alive,
    pool,
    short,
)
from tests.promises.workers import BusyStates, Plain


async def pids_of(supervisor: WatchedSupervisor) -> list[int]:
    return [row.pid for row in await supervisor.workers()]


async def test_stopped_under_load_no_process_is_left() -> None:
    async with pool(3, warm=1) as supervisor, client_of(supervisor) as client:
        workers = [await client.req_worker() for _ in range(3)]
        calls = [asyncio.create_task(worker.call(Plain.last)) for worker in workers]
        for worker in workers:
            await worker.machine.when1(BusyStates.Begun)
        pids = await pids_of(supervisor)
        assert len(pids) == 4
        await supervisor.stop()
        assert not any(is_alive(pid) for pid in pids)
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, AmnodeError), error


async def test_a_job_that_fits_in_the_grace_is_not_lost(tmp_path: Path) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    async with pool(1, stop_grace=60.0) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            call = asyncio.create_task(worker.call(Plain.gate, str(fifo)))
            await worker.machine.when1(BusyStates.Begun)
            stop = asyncio.create_task(supervisor.stop())
            await supervisor.until(lambda view: view.stopping)
            os.write(held, b"in time")
            assert await call == "in time"
            assert await worker.call(Plain.square, 7) == 49  # the lease is not over yet
        await stop
    os.close(held)


async def test_who_waits_is_told() -> None:
    async with pool(1, stop_grace=60.0) as supervisor, client_of(supervisor) as client:
        async with client.lease():
            asked = asyncio.create_task(client.req_worker())
            await supervisor.until(lambda view: view.counts.waiting == 1)
            stop = asyncio.create_task(supervisor.stop())
            with pytest.raises(RefusedError, match="stopping"):
                await asked
            with pytest.raises(RefusedError, match="stopping"):
                await client.req_worker()
        await stop


async def test_grandchildren_end_with_their_worker() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            grandchild = await worker.call(Plain.grandchild)
            assert is_alive(grandchild)
        await supervisor.stop()
        await gone(grandchild)


async def test_grandchildren_end_with_a_worker_that_is_killed() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client, client.lease() as worker:
        grandchild = await worker.call(Plain.grandchild)
        with pytest.raises(AmnodeError):
            await worker.call(Plain.die, "SIGKILL")
        await gone(grandchild)


async def test_a_job_that_will_not_stop_is_ended_all_the_same() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client, client.lease() as worker:
        call = asyncio.create_task(worker.call(Plain.stubborn))
        await worker.machine.when1(BusyStates.Begun)
        pids = await pids_of(supervisor)
        await supervisor.stop()
        assert not any(is_alive(pid) for pid in pids)
        with pytest.raises(AmnodeError):
            await call


async def test_a_blocked_worker_is_ended_all_the_same() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client, client.lease() as worker:
        call = asyncio.create_task(worker.call(Plain.block, 1000.0))
        pids = await pids_of(supervisor)
        await supervisor.stop()
        assert not any(is_alive(pid) for pid in pids)
        with pytest.raises(AmnodeError):
            await call


async def test_a_cancelled_stop_kills_at_once() -> None:
    supervisor = WatchedSupervisor(Plain, opts=short(2, stop_grace=1000.0))
    await supervisor.start()
    await supervisor.when_ready()
    async with client_of(supervisor) as client:
        worker = await client.req_worker()
        call = asyncio.create_task(worker.call(Plain.stubborn))
        await worker.machine.when1(BusyStates.Begun)
        pids = await pids_of(supervisor)
        stop = asyncio.create_task(supervisor.stop())
        await supervisor.until(lambda view: view.stopping)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        for pid in pids:
            await gone(pid)
        with pytest.raises(AmnodeError):
            await call
    await supervisor.dispose()


@pytest.mark.parametrize("turns", range(1, 7))
async def test_stopped_in_the_middle_of_its_start(turns: int) -> None:
    """Neither waits for ever, and nothing comes up afterwards; the guard sees what is left."""
    supervisor = WatchedSupervisor(Plain, opts=short(2))
    start = asyncio.create_task(supervisor.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await supervisor.stop()
        await asyncio.wait((start,))
    if start.exception() is not None:
        with pytest.raises(PoolError, match="stopped"):
            start.result()
    assert supervisor.machine.not_(("Start", "Ready"))
    assert await supervisor.workers() == []
    async with asyncio.timeout(PATIENCE):
        await supervisor.stop()
    await supervisor.dispose()


async def test_stopped_before_and_after_a_start_that_fails() -> None:
    supervisor = WatchedSupervisor(Plain, public_addr="unix:/no/such/place/x", opts=short(1))
    async with asyncio.timeout(PATIENCE):
        await supervisor.stop()
        with pytest.raises(AmnodeError, match="/no/such/place"):
            await supervisor.start()
        await supervisor.stop()
    await supervisor.dispose()


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    for turns in range(8):
        supervisor = WatchedSupervisor(Plain, opts=short(1))
        start = asyncio.create_task(supervisor.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        start.cancel()
        await asyncio.wait((start,))
        async with asyncio.timeout(PATIENCE):
            await supervisor.dispose()


@pytest.mark.parametrize("what", ["the directory", "the outputs", "nothing, but there is more"])
async def test_a_stop_ends_whatever_became_of_the_directory(what: str) -> None:
    async with pool(2) as supervisor:
        pids = await pids_of(supervisor)
        directory = Path(supervisor.address.removeprefix("unix:")).parent
        if what == "the directory":
            shutil.rmtree(directory)
        elif what == "the outputs":
            for file in directory.glob("*.log"):
                file.unlink()
        else:
            (directory / "of somebody else").mkdir()
        async with asyncio.timeout(PATIENCE):
            await supervisor.stop()
        assert not any(is_alive(pid) for pid in pids)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize("turns", range(0, 40, 5))
async def test_stopped_while_starting(turns: int) -> None:
    """However far its workers have come, each turn of the loop a little further."""
    supervisor = WatchedSupervisor(Plain, opts=short(2))
    await supervisor.start()
    for _ in range(turns):
        await asyncio.sleep(0)
    await supervisor.dispose()


@pytest.mark.parametrize(
    "state", ["ForkWorker", "ForkingWorker", "WorkerConnected", "WorkerForked"]
)
async def test_stopped_at_each_step_of_a_start(state: str) -> None:
    supervisor = WatchedSupervisor(Plain, opts=short(2))
    step = supervisor.machine.when_time((state,), (1,))
    await supervisor.start()
    await step
    await supervisor.dispose()
