"""A worker class is tried out in a test as it is used, and nothing is left of that."""

from __future__ import annotations

import asyncio
import os

import pytest

from amnode import (
    Cause,
    OptionError,
    PoolError,
    State,
    Worker,
    WorkerError,
    WorkerMissingError,
    WorkerStates,
    job,
)
from amnode.launch.inprocess import FIRST_PID
from amnode.testing import leased, running
from tests.promises.workers import BusyStates, Plain

BOTH = pytest.mark.parametrize("processes", [False, True], ids=["coroutines", "processes"])


@BOTH
async def test_one_worker_is_leased_and_called(processes: bool) -> None:
    async with leased(Plain, processes=processes) as worker:
        assert await worker.call(Plain.square, 7) == 49
        assert (await worker.call(Plain.pid) == os.getpid()) is not processes


async def test_a_class_may_be_local_to_a_test_and_have_states_of_its_own() -> None:
    class LampStates(WorkerStates):
        Lit = State(require=("Leased",))

    class Lamp(Worker):
        schema = LampStates

        @job
        async def light(self) -> None:
            self.machine.add1(LampStates.Lit)

    async with leased(Lamp) as lamp:
        lit = lamp.machine.when1(LampStates.Lit)
        await lamp.call(Lamp.light)
        await lit


async def test_what_a_worker_keeps_can_be_looked_into() -> None:
    async with running(Plain) as pool:
        async with pool.lease() as worker:
            await worker.call(Plain.keep, "this")
            instance = pool.instance(worker)
            assert isinstance(instance, Plain) and instance.kept == ["this"]
        async with pool.lease() as again:
            assert pool.instance(again) is instance


@BOTH
async def test_one_is_killed_and_another_takes_its_place(processes: bool) -> None:
    async with running(Plain, size=2, processes=processes) as pool:
        async with pool.lease() as worker:
            call = asyncio.create_task(worker.call(Plain.last))
            await worker.machine.when1(BusyStates.Begun)
            await pool.kill(worker)
            with pytest.raises(WorkerError) as caught:
                await call
            assert (caught.value.cause, caught.value.signal) == (Cause.SIGNAL, "SIGKILL")
            with pytest.raises(WorkerMissingError):
                await pool.kill(worker)
        async with pool.lease(), pool.lease() as another:
            assert another.id != worker.id
            assert await another.call(Plain.square, 7) == 49


async def test_the_objects_of_processes_are_elsewhere() -> None:
    async with running(Plain, processes=True) as pool, pool.lease() as worker:
        assert (await pool.supervisor.worker(worker.id)).pid < FIRST_PID
        with pytest.raises(OptionError, match="ask by a job"):
            pool.instance(worker)


async def test_one_that_cannot_start_says_why() -> None:
    class Broken(Worker):
        def __init__(self) -> None:
            raise ValueError("no licence")

    with pytest.raises(PoolError, match="no licence"):
        async with leased(Broken):
            pass
