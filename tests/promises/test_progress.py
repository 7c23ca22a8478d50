"""What a job says of its progress reaches its caller, the newest of it always, and never more
than some reports a second, whatever the job does.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from amnode import JobError, Progress, WorkerStates, job
from tests.promises.job_workers import Jobs
from tests.promises.pools import client_of, pool


@pytest.mark.parametrize("what", [Jobs.count, Jobs.count_in_thread])
async def test_on_progress_gets_the_newest_and_not_all(what: object) -> None:
    got: list[Progress] = []
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        calls = worker.options(on_progress=got.append)
        assert await calls.call(what, 20_000, "") == 20_000  # type: ignore[arg-type]
        assert got[-1].done == got[-1].total == 20_000
        assert got[-1].share == 1.0
        assert [p.done for p in got] == sorted(p.done for p in got)
        assert len(got) < 1000
        assert worker.machine.tick(WorkerStates.Progressing) >= 2
        assert worker.machine.not1(WorkerStates.Progressing)


@pytest.mark.parametrize("what", [Jobs.count, Jobs.count_in_thread])
async def test_a_submitted_call_is_iterated_for_its_progress(
    what: object, tmp_path: Path
) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        call = worker.submit(what, 3, str(fifo))  # type: ignore[arg-type]
        assert not call.done()
        seen: list[Progress] = []
        async for progress in call:
            seen.append(progress)
            if progress.done == 3:
                assert worker.machine.is1(WorkerStates.Progressing)
                held = os.open(fifo, os.O_RDWR)
                os.write(held, b"go")
        assert call.done()
        assert await call == await call == call.result() == 3
        assert seen[-1] == call.progress
        os.close(held)


async def test_a_submitted_call_is_cancelled_like_any_other() -> None:
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        call = worker.submit(Jobs.last)
        await worker.machine.when1("Begun")
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert [p async for p in call] == []
        await worker.call(Jobs.noted)
        assert worker.machine.not1("Begun")
        failing = worker.submit(Jobs.fail, "ValueError")
        with pytest.raises(ValueError, match="no luck"):
            await failing
        assert isinstance(failing.exception(), ValueError)


async def test_a_callback_that_raises_stops_nothing() -> None:
    told: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: told.append(context))
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        calls = worker.options(on_progress=lambda _progress: 1 / 0)
        assert await calls.call(Jobs.count, 3, "") == 3
    assert told
    assert all(isinstance(context["exception"], ZeroDivisionError) for context in told)
    loop.set_exception_handler(None)


async def test_outside_of_a_job_there_is_nothing_to_report() -> None:
    with pytest.raises(JobError, match="outside of a job"):
        job.progress(1)
    with pytest.raises(JobError, match="outside of a job"):
        job.cancelled()
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        await worker.call(Jobs.leave_a_task)
        assert "a job that has ended" in await worker.call(Jobs.what_it_got)
