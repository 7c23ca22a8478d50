"""A call that is cancelled reaches its job, and the worker is ready for the next call of the
same client. A deadline does the same and says so. A job that takes its time to stop is
waited for; one that never stops costs its worker, not the pool.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from amnode import Cause, JobCancelled, JobTimeoutError, OptionError, WorkerError
from amnode.node.worker import EXIT_STUCK
from tests.promises.pools import client_of, pool
from tests.promises.stepping import EndOfSteps, cancelled_at
from tests.promises.workers import BusyStates, Patient, Plain


async def test_a_cancelled_call_reaches_its_job() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        call = asyncio.create_task(worker.call(Plain.last))
        await worker.machine.when1(BusyStates.Begun)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await worker.call(Plain.keep, "next") == ["cancelled", "next"]
        assert worker.machine.not1(BusyStates.Begun)


async def test_a_deadline_reaches_the_job_and_says_so() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        with pytest.raises(JobTimeoutError, match=r"0\.05 s"):
            await worker.options(deadline=0.05).call(Plain.last)
        await worker.machine.when1(BusyStates.ErrWorkTimeout)
        assert await worker.call(Plain.keep, "next") == ["cancelled", "next"]
        assert worker.machine.not1(BusyStates.ErrWorkTimeout)
        assert await worker.options(deadline=60).call(Plain.square, 7) == 49
        for wrong in (0, -1.0):
            with pytest.raises(OptionError, match="deadline"):
                worker.options(deadline=wrong)


async def test_a_job_that_ignores_its_cancellation_is_waited_for() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        call = asyncio.create_task(worker.call(Plain.ignore_one_cancel))
        await worker.machine.when1(BusyStates.Begun)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await worker.call(Plain.keep, "next") == ["ignored", "next"]


async def test_a_job_that_never_stops_costs_its_worker_at_the_release() -> None:
    async with pool() as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            call = asyncio.create_task(worker.call(Plain.stubborn))
            await worker.machine.when1(BusyStates.Begun)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        async with client.lease() as another:
            assert another.id != worker.id
            assert await another.call(Plain.square, 7) == 49


@pytest.mark.parametrize("by", ["cancel", "deadline"])
async def test_a_second_cancel_does_not_cut_the_clean_up_of_a_job(
    by: str, tmp_path: Path
) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    async with pool(kind=Patient) as supervisor, client_of(supervisor) as client:
        worker = await client.req_worker()
        calls = worker.options(deadline=0.05 if by == "deadline" else None)
        call = asyncio.create_task(calls.call(Plain.tidy_up, str(fifo)))
        if by == "cancel":
            await worker.machine.when1(BusyStates.Begun)
            call.cancel()
        await worker.machine.when1(BusyStates.Tidying)
        call.cancel()
        left = asyncio.create_task(worker.release())
        await worker.machine.when1(BusyStates.Releasing)
        assert worker.machine.is1(BusyStates.Tidying)
        os.write(held, b"go on")
        await left
        with pytest.raises(asyncio.CancelledError):
            await call
        async with client.lease() as same:
            assert same.id == worker.id
            assert await same.call(Plain.keep, "next") == ["tidied up", "next"]
    os.close(held)


async def test_a_stuck_job_without_an_output_costs_its_worker_all_the_same() -> None:
    async with pool() as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            with pytest.raises(WorkerError) as caught:
                await worker.options(deadline=0.05).call(Plain.stubborn_in_silence)
            assert (caught.value.cause, caught.value.exit_code) == (Cause.EXIT_CODE, EXIT_STUCK)
        await supervisor.all_idle(1)
        async with client.lease() as another:
            assert another.id != worker.id


async def test_the_end_of_a_lease_cancels_its_job() -> None:
    async with pool() as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            call = asyncio.create_task(worker.call(Plain.last))
            await worker.machine.when1(BusyStates.Begun)
        with pytest.raises(JobCancelled, match="released by its client"):
            await call
        async with client.lease() as same:
            assert same.id == worker.id
            assert await same.call(Plain.keep, "next") == ["cancelled", "next"]


@pytest.mark.parametrize("late", [False, True])
async def test_cancelled_at_each_of_its_awaits(late: bool) -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        step = 0
        while True:
            step += 1
            try:
                await cancelled_at(lambda: worker.call(Plain.square, 7), step, late=late)
            except EndOfSteps as end:
                assert end.args[0] == 49
                break
            # At once, and again while that one may still be on its way.
            assert await worker.call(Plain.square, 3) == 9
        assert step > 1


async def test_calls_that_wait_their_turn_can_be_cancelled() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        first = asyncio.create_task(worker.call(Plain.last))
        await worker.machine.when1(BusyStates.Begun)
        waiting = [asyncio.create_task(worker.call(Plain.square, n)) for n in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        first.cancel()
        assert await waiting[0] == 0
        assert await waiting[2] == 4
        assert waiting[1].cancelled()
        assert await worker.call(Plain.count_of_runs) == 2
