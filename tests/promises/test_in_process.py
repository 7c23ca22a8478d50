"""A pool whose workers are coroutines does what one of processes does, to test programs."""

from __future__ import annotations

import asyncio
import os

import pytest

from amnode import Cause, WorkerError
from amnode.launch.inprocess import FIRST_PID
from amnode.node.inprocess_worker import in_process_launcher
from tests.promises.job_workers import Jobs
from tests.promises.pools import client_of, pool
from tests.promises.workers import BusyStates, Plain


async def test_the_whole_flow_in_one_process() -> None:
    async with (
        pool(2, launcher=in_process_launcher()) as supervisor,
        client_of(supervisor) as client,
    ):
        async with client.lease() as worker:
            assert await worker.call(Plain.square, 7) == 49
            assert await worker.call(Plain.pid) == os.getpid()
        rows = await supervisor.workers()
        assert all(row.pid >= FIRST_PID for row in rows)
        await supervisor.all_idle(2)


async def test_one_is_killed_at_work_and_replaced() -> None:
    async with (
        pool(1, launcher=in_process_launcher()) as supervisor,
        client_of(supervisor) as client,
    ):
        async with client.lease() as worker:
            call = asyncio.create_task(worker.call(Plain.last))
            await worker.machine.when1(BusyStates.Begun)
            process = supervisor._links[worker.id].process
            assert process is not None and process.kill()
            with pytest.raises(WorkerError) as caught:
                await call
            assert (caught.value.cause, caught.value.signal) == (Cause.SIGNAL, "SIGKILL")
        await supervisor.all_idle(1)
        async with client.lease() as another:
            assert await another.call(Plain.square, 7) == 49


async def test_one_that_is_stuck_ends_by_itself() -> None:
    async with (
        pool(1, launcher=in_process_launcher()) as supervisor,
        client_of(supervisor) as client,
        client.lease() as worker,
    ):
        with pytest.raises(WorkerError) as caught:
            await worker.options(deadline=0.01).call(Plain.ignore_cancels, 3)
        assert (caught.value.cause, caught.value.exit_code) == (Cause.EXIT_CODE, 71)
        assert "did not stop when it was cancelled" in caught.value.output[-1]


async def test_one_past_its_hard_deadline_ends_by_itself() -> None:
    async with (
        pool(1, kind=Jobs, launcher=in_process_launcher()) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
    ):
        async with client.lease() as worker:
            assert (await worker.options(hard_deadline=60).call(Jobs.threads))[0] is False
            with pytest.raises(WorkerError, match="past its hard deadline") as caught:
                await worker.options(hard_deadline=0.01).call(Jobs.last)
            assert caught.value.cause is Cause.HARD_DEADLINE
        await supervisor.all_idle(1)


async def test_one_that_is_killed_while_it_starts() -> None:
    async with pool(1, launcher=in_process_launcher()) as supervisor:
        called = supervisor.machine.when1("WorkerConnected")
        supervisor.set_pool(2, 2, 0)
        await called
        (new,) = (member for member in supervisor._core.roster if not member.ready)
        process = supervisor._links[new.worker_id].process
        assert process is not None and process.kill()
        await supervisor.all_idle(2)
        assert new.worker_id not in {row.id for row in await supervisor.workers()}
