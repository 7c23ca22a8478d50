"""A call of an idempotent job runs again on another worker when its worker dies, if it was made
with `retry=`; the lease goes on with that worker, and whatever is cancelled leaves nothing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from amnode import LeaseLost, LeaseTimeoutError, WorkerError
from tests.promises.job_workers import Jobs
from tests.promises.pools import client_of, pool
from tests.promises.stepping import EndOfSteps, cancelled_at


async def test_it_runs_again_on_another_worker_which_the_lease_goes_on_with(
    tmp_path: Path,
) -> None:
    tries = tmp_path / "tries"
    async with pool(2, kind=Jobs) as supervisor, client_of(supervisor, kind=Jobs) as client:
        async with client.lease() as worker:
            before = worker.id, worker.epoch, worker.machine
            count, pid = await worker.options(retry=2).call(Jobs.die_first, str(tries), 2)
            assert count == 3
            assert worker.id != before[0]
            assert worker.machine is not before[2]
            assert await worker.call(Jobs.pid) == pid
            assert [*client._held.values()] == [worker]
            assert worker.machine.tick("Leased") == worker.epoch
            assert (await supervisor.row(worker.id)).pid == pid
        await supervisor.all_idle(2)  # so the new one was released


async def test_it_gives_up_with_what_the_last_worker_died_of() -> None:
    async with pool(2, kind=Jobs) as supervisor, client_of(supervisor, kind=Jobs) as client:
        async with client.lease() as worker:
            with pytest.raises(WorkerError) as caught:
                await worker.options(retry=1).call(Jobs.always_dies)
            assert caught.value.exit_code == 9
            with pytest.raises(WorkerError):
                await worker.call(Jobs.pid)
        await supervisor.all_idle(2)


async def test_what_the_job_raises_is_no_reason_to_run_it_again() -> None:
    async with (
        pool(kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        before = worker.id
        with pytest.raises(ValueError, match="no luck"):
            await worker.options(retry=3).call(Jobs.harmless, "ValueError")
        assert worker.id == before


async def test_calls_that_wait_go_on_with_the_new_worker(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    async with (
        pool(2, kind=Jobs) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
        client.lease() as worker,
    ):
        calls = worker.options(retry=3)
        found = await asyncio.gather(
            *(calls.call(Jobs.die_first, str(tries), 1) for _ in range(5))
        )
        assert len({pid for _, pid in found}) == 1
        assert await worker.call(Jobs.pid) == found[0][1]


async def test_no_worker_in_time_is_said_with_what_the_old_one_died_of() -> None:
    async with (
        pool(1, kind=Jobs, restart_settle=1000.0, restart_intensity=1) as supervisor,
        client_of(supervisor, kind=Jobs, request_wait=1.0) as client,
        client.lease() as worker,
    ):
        with pytest.raises(LeaseTimeoutError) as caught:
            await worker.options(retry=1).call(Jobs.always_dies)
        assert isinstance(caught.value.__cause__, WorkerError)


async def test_a_release_gives_the_new_worker_back_too() -> None:
    async with pool(kind=Jobs) as supervisor, client_of(supervisor, kind=Jobs) as client:
        worker = await client.req_worker()
        call = asyncio.create_task(worker.options(retry=1).call(Jobs.always_dies))
        await client.machine.when1("WorkerRequested")
        await worker.release()
        with pytest.raises(LeaseLost, match="released"):
            await call
        await supervisor.all_idle(1)


async def test_a_release_ends_the_retry() -> None:
    async with (
        pool(
            1,
            kind=Jobs,
            back_off_base=1000.0,
            back_off_cap=1000.0,
            restart_settle=1000.0,
            restart_intensity=1,
        ) as supervisor,
        client_of(supervisor, kind=Jobs) as client,
    ):
        worker = await client.req_worker()
        call = asyncio.create_task(worker.options(retry=1).call(Jobs.always_dies))
        await client.machine.when1("WorkerRequested")
        await worker.release()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(LeaseLost):
            await worker.call(Jobs.pid)


@pytest.mark.parametrize("late", [False, True])
async def test_cancelled_at_each_of_its_awaits(late: bool, tmp_path: Path) -> None:
    async with pool(2, kind=Jobs) as supervisor, client_of(supervisor, kind=Jobs) as client:
        step = 0
        while True:
            step += 1
            tries = tmp_path / f"tries{step}"
            async with client.lease() as worker:
                calls = worker.options(retry=1)
                try:
                    await cancelled_at(
                        lambda calls=calls, tries=tries: calls.call(
                            Jobs.die_first, str(tries), 1
                        ),
                        step,
                        late=late,
                    )
                except EndOfSteps as end:
                    assert end.args[0][0] == 2
                    break
            await supervisor.all_idle(2)
        assert step > 3
    # The leak check of the suite has the rest.
