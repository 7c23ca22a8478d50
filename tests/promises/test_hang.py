"""A worker that hangs is found by checks on the path by which it works, killed and replaced,
and its client is told that it hung. One that is only slow, or busy as it should be, is left
alone.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from amnode import Cause, WorkerError
from amnode.node.leased import LeasedWorker
from tests.promises.pools import client_of, pool
from tests.promises.workers import BusyStates, Plain

#: Three checks, each with its timeout.
CHECKS = {"worker_check_interval": 0.05, "healthcheck_pause": 0.05, "check_timeout": 0.5}


@pytest.mark.needs("proc")
@pytest.mark.parametrize("launcher", ["auto", "command"])
@pytest.mark.parametrize("job", ["block", "hold_the_interpreter"])
async def test_a_worker_that_hangs_in_a_job_is_replaced_and_says_where(
    launcher: str, job: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        pool(1, launcher=launcher, **CHECKS) as supervisor,
        client_of(supervisor) as client,
    ):
        async with client.lease() as worker:
            await worker.call(Plain.say, "one\ntwo")
            with pytest.raises(WorkerError, match=f"it was at File .* in {job}") as caught:
                await (worker.call(Plain.block, 1000.0) if job == "block" else _hold(worker))
        error = caught.value
        assert (error.cause, error.signal) == (Cause.HANG, "SIGKILL")
        assert any(line.endswith(f" in {job}") for line in error.stack)
        assert any(f" in {job}" in note for note in error.__notes__)
        assert error.output == ("one", "two"), "and nothing of the stacks"
        assert any(f" in {job}\n" in record.getMessage() for record in caplog.records)
        async with client.lease() as another:
            assert another.id != worker.id
            assert await another.call(Plain.square, 7) == 49


async def _hold(worker: LeasedWorker) -> None:
    await worker.call(Plain.hold_the_interpreter)


async def test_an_idle_worker_that_is_stopped_is_replaced() -> None:
    async with pool(1, **CHECKS) as supervisor:
        row = (await supervisor.workers())[0]
        missing = supervisor.machine.when1("NormalizingPool")
        os.kill(row.pid, signal.SIGSTOP)
        await missing
        await supervisor.all_idle(1)
        error = supervisor.machine.err
        assert isinstance(error, WorkerError)
        assert (error.cause, error.worker_id) == (Cause.HANG, row.id)
        assert "it was stopped, by SIGSTOP or a debugger" in str(error)
        assert error.stack == ()
        assert row.id not in {now.id for now in await supervisor.workers()}


async def test_a_long_job_is_no_hang() -> None:
    async with pool(1, **CHECKS) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            call = asyncio.create_task(worker.call(Plain.last))
            await worker.machine.when1(BusyStates.Begun)
            # So many checks are answered: one is a transition of Healthcheck there and back.
            await worker.machine.when_time(
                (BusyStates.Healthcheck,), (worker.machine.tick(BusyStates.Healthcheck) + 10,)
            )
            assert not call.done()
            call.cancel()
        async with client.lease() as same:
            assert same.id == worker.id


async def test_a_worker_that_goes_on_in_time_is_kept() -> None:
    async with pool(1, **(CHECKS | {"check_timeout": 5.0, "heartbeat": 0.05})) as supervisor:
        row = (await supervisor.workers())[0]
        os.kill(row.pid, signal.SIGSTOP)
        beats = supervisor.machine.tick("Heartbeat") + 6
        await supervisor.machine.when_time(("Heartbeat",), (beats,))
        os.kill(row.pid, signal.SIGCONT)
        async with client_of(supervisor) as client, client.lease() as worker:
            assert worker.id == row.id
            assert await worker.call(Plain.square, 7) == 49
