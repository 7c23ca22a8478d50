"""A job that blocks runs on a thread and disturbs nobody; a deadline holds whatever the job
does: the soft one in the job, the hard one at the cost of its worker and of nothing else.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from amnode import (
    Cause,
    JobCancelled,
    JobFailed,
    JobTimeoutError,
    OptionError,
    WorkerError,
    WorkerStates,
)
from tests.promises.job_workers import Jobs, JobStates
from tests.promises.pools import PATIENCE, client_of, gone, pool

S = WorkerStates


async def test_jobs_on_the_thread_share_one_and_the_loop_stays_live(tmp_path: Path) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    async with (
        pool(kind=Jobs, worker_check_interval=0.05, check_timeout=0.2) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        main, one = await worker.call(Jobs.threads)
        call = asyncio.create_task(worker.call(Jobs.read, str(fifo)))
        await worker.machine.when((S.Working, JobStates.Begun))
        # Checks are answered all the while: more of them than would make a hang.
        await worker.machine.when_ticks(S.Healthcheck, 10)
        assert worker.machine.is1(S.Working)
        assert not call.done()
        held = os.open(fifo, os.O_WRONLY)
        os.write(held, b"go")
        os.close(held)
        assert await call == "go"
        assert await worker.call(Jobs.threads) == (main, one) == (False, one)


@pytest.mark.parametrize(
    ("what", "note"), [(Jobs.until_cancelled, "asked"), (Jobs.until_progress_raises, "raised")]
)
async def test_a_cancelled_job_on_the_thread_is_told(what: object, note: str) -> None:
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        call = asyncio.create_task(worker.call(what))  # type: ignore[arg-type]
        await worker.machine.when1(JobStates.Begun)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await worker.call(Jobs.noted) == [note]
        with pytest.raises(JobTimeoutError if note == "raised" else JobFailed):
            # One that ends without a word of it has a result, which is none here.
            result = await worker.options(deadline=0.05).call(what)  # type: ignore[arg-type]
            raise JobFailed(f"it returned {result}")
        assert await worker.call(Jobs.noted) == [note]


async def test_a_caller_does_not_wait_for_a_deaf_job_which_costs_its_worker() -> None:
    async with pool(kind=Jobs) as supervisor, client_of(supervisor, kind=Jobs) as client:
        async with client.lease() as worker:
            call = asyncio.create_task(worker.call(Jobs.deaf))
            await worker.machine.when1(JobStates.Begun)
            pid = (await supervisor.row(worker.id)).pid
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert worker.machine.is1(S.Working)
        async with client.lease() as another:
            assert another.id != worker.id
            assert (await another.call(Jobs.threads))[0] is False
        await gone(pid)


async def test_what_a_job_on_the_thread_raises_is_raised_at_its_caller() -> None:
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        with pytest.raises(ValueError, match="no luck") as caught:
            await worker.call(Jobs.fail_in_thread, "ValueError")
        assert "fail_in_thread" in caught.value.__notes__[0]
        with pytest.raises(WorkerError) as ended:
            await worker.call(Jobs.exit_in_thread)
        assert (ended.value.cause, ended.value.exit_code) == (Cause.EXIT_CODE, 5)


@pytest.mark.parametrize("how", ["await", "loop", "interpreter"])
async def test_a_hard_deadline_costs_the_worker_and_not_the_pool(how: str) -> None:
    async with (
        # Restarts at once would open the breaker if these were failures of the pool.
        pool(kind=Jobs, restart_settle=1000.0, restart_intensity=1) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
    ):
        for _ in range(2):
            async with client.lease() as worker:
                pid = await worker.call(Jobs.pid)
                with pytest.raises(WorkerError) as caught:
                    await worker.options(hard_deadline=0.1).call(Jobs.block, how)
                assert caught.value.cause is Cause.HARD_DEADLINE
                assert "deadline" in str(caught.value) or how == "interpreter"
                assert any("in block" in line for line in caught.value.output) or how == "await"
            await gone(pid)
            await supervisor.all_idle(1)


async def test_a_job_within_its_hard_deadline_is_left_alone() -> None:
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        bounded = worker.options(hard_deadline=0.2)
        for _ in range(3):
            assert (await bounded.call(Jobs.threads))[0] is False
        # It lasts past the hard deadline of the first ones.
        soft = worker.options(deadline=0.3, hard_deadline=5)
        with pytest.raises(JobTimeoutError, match=r"0\.3 s"):
            await soft.call(Jobs.last)
        assert (await worker.call(Jobs.threads))[0] is False


async def test_the_end_of_a_lease_stops_a_job_on_the_thread() -> None:
    async with pool(kind=Jobs) as supervisor, client_of(supervisor, kind=Jobs) as client:
        async with client.lease() as worker:
            call = asyncio.create_task(worker.call(Jobs.until_progress_raises))
            await worker.machine.when1(JobStates.Begun)
        with pytest.raises(JobCancelled, match="released by its client"):
            async with asyncio.timeout(PATIENCE):
                await call
        async with client.lease() as same:
            assert same.id == worker.id
            assert await same.call(Jobs.noted) == ["raised"]


async def test_options_that_cannot_work_are_refused() -> None:
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        for wrong in (
            {"hard_deadline": 0.0},
            {"deadline": 2.0, "hard_deadline": 1.0},
            {"retry": -1},
            {"retry": 1.5},
            {"on_progress": 7},
        ):
            with pytest.raises(OptionError, match=next(reversed(wrong))):
                worker.options(**wrong)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match=r"retry=1.*@job\(idempotent=True\)"):
            await worker.options(retry=1).call(Jobs.pid)
        with pytest.raises(OptionError, match="retry=1"):
            worker.options(retry=1).submit(Jobs.pid)
