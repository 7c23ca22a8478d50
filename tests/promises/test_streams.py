"""A job that is a generator is read item by item: held back by its reader, stopped by it at its
`yield`, and ended with a reason when its worker dies.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from amnode import (
    Cause,
    JobCancelled,
    JobFailed,
    JobTimeoutError,
    LeasedWorker,
    OptionError,
    Outcome,
    WorkerError,
    WorkerStates,
)
from amnode.node.jobs import StreamJob
from tests.promises.pools import PATIENCE, WatchedSupervisor, client_of, pool
from tests.promises.stream_workers import Films, FilmStates, OddError, Point

S = WorkerStates


def made(path: Path) -> int:
    """How many items the generator has made."""
    return sum(line.strip().isdigit() for line in path.read_text().splitlines())


@asynccontextmanager
async def leased() -> AsyncGenerator[tuple[WatchedSupervisor, LeasedWorker]]:
    """A pool of one worker, which is leased."""
    async with (
        pool(1, Films) as supervisor,
        client_of(supervisor, kind=Films) as client,
        client.lease() as worker,
    ):
        yield supervisor, worker


async def rests(worker: LeasedWorker) -> None:
    async with asyncio.timeout(PATIENCE):
        await worker.machine.when1(S.Idle)


async def test_items_come_in_their_types_and_in_order() -> None:
    async with leased() as (_, worker):
        assert [n async for n in worker.stream(Films.count, 1000)] == [*range(1000)]
        assert [p async for p in worker.stream(Films.points, 3)] == [
            Point(0, 0),
            Point(1, -1),
            Point(2, -2),
        ]
        assert [n async for n in worker.stream(Films.count, 0)] == []
        assert [n async for n in worker.stream(Films.counted, 500)] == [*range(500)]
        async with worker.stream(Films.count, 3) as numbers:
            assert [n async for n in numbers] == [0, 1, 2]
            with pytest.raises(StopAsyncIteration):
                await anext(numbers)
        assert await worker.call(Films.square, 7) == 49


async def test_one_that_was_not_read_never_begins(tmp_path: Path) -> None:
    path = tmp_path / "made"
    async with leased() as (_, worker):
        stream = worker.stream(Films.marked, str(path))
        assert await worker.call(Films.square, 7) == 49
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert not path.exists()


@pytest.mark.parametrize("job", [Films.marked, Films.in_thread])
async def test_a_slow_reader_holds_the_generator_back_and_nothing_else(
    tmp_path: Path, job: StreamJob[[str, int], bytes]
) -> None:
    path = tmp_path / "made"
    size = 64 * 1024
    async with leased() as (_, worker):
        async with worker.stream(job, str(path), size) as frames:
            assert len(await anext(frames)) == size
            checks = worker.machine.tick(S.Healthcheck)
            # Health checks go on while nobody reads: the loop of the worker is free.
            await worker.machine.when_ticks(S.Healthcheck, 6)
            assert worker.machine.tick(S.Healthcheck) > checks
            held = made(path)
            await worker.machine.when_ticks(S.Healthcheck, 6)
            assert made(path) == held <= 32
            for _ in range(40):
                await anext(frames)
            assert made(path) >= 41
            assert worker.machine.is1(S.Working)
        await rests(worker)
        assert "closed" in path.read_text()
        assert await worker.call(Films.square, 7) == 49


async def test_small_items_are_made_when_they_are_wanted_too(tmp_path: Path) -> None:
    path = tmp_path / "made"
    async with leased() as (_, worker), worker.stream(Films.marked, str(path), 1) as items:
        for read in range(1, 300):
            assert await anext(items) == b"\0"
            if read > 100:  # the first ones are allowed before it is known how small they are
                assert made(path) - read < 200
        held = made(path)
        await worker.machine.when_ticks(S.Healthcheck, 4)
        assert made(path) == held or made(path) - 300 < 200


async def test_a_break_stops_it_at_its_yield(tmp_path: Path) -> None:
    path = tmp_path / "made"
    async with leased() as (_, worker):
        async for _ in worker.stream(Films.marked, str(path)):
            break
        gc.collect()
        assert await worker.call(Films.square, 7) == 49
        assert path.read_text().splitlines()[-1] == "closed"
        assert worker.machine.is1(FilmStates.Closed)


async def test_it_is_stopped_where_it_waits(tmp_path: Path) -> None:
    path = tmp_path / "made"
    async with leased() as (_, worker):
        async with aclosing(worker.stream(Films.waits, str(path))) as numbers:
            assert await anext(numbers) == 1
            await worker.machine.when1(FilmStates.Waiting)
        await worker.machine.when1(FilmStates.Closed)
        assert await worker.call(Films.square, 7) == 49
        assert path.read_text() == "closed\n"


async def test_a_reader_that_is_cancelled_stops_it(tmp_path: Path) -> None:
    path = tmp_path / "made"

    async def read(worker: LeasedWorker) -> None:
        async for _ in worker.stream(Films.waits, str(path)):
            pass

    async with leased() as (_, worker):
        task = asyncio.create_task(read(worker))
        await worker.machine.when1(FilmStates.Waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gc.collect()
        await worker.machine.when1(FilmStates.Closed)
        assert await worker.call(Films.square, 7) == 49


async def test_what_it_raises_comes_after_its_items() -> None:
    async with leased() as (_, worker):
        got: list[int] = []
        with pytest.raises(OddError, match="no more") as caught:
            async for n in worker.stream(Films.fails, 3):
                got.append(n)
        assert got == [0, 1, 2]
        assert caught.value.args == ("no more", 3)
        assert isinstance(caught.value.__cause__, JobFailed)
        assert worker.machine.is1(S.ErrWork)
        with pytest.raises(OddError, match="in the thread"):
            async for _ in worker.stream(Films.fails_in_thread):
                pass
        odd = worker.stream(Films.odd)
        assert await anext(odd) == 1
        with pytest.raises(JobFailed, match="An item of odd cannot be sent"):
            await anext(odd)
        with pytest.raises(StopAsyncIteration):
            await anext(odd)
        assert await worker.call(Films.square, 7) == 49


async def test_the_death_of_its_worker_ends_it_with_the_cause() -> None:
    async with leased() as (supervisor, worker):
        numbers = worker.stream(Films.dies, 2)
        assert await anext(numbers) == 0
        await worker.machine.when1(FilmStates.Waiting)
        behind = asyncio.create_task(worker.call(Films.square, 7))
        await asyncio.sleep(0)
        os.kill((await supervisor.row(worker.id)).pid, signal.SIGKILL)
        assert await anext(numbers) == 1  # it had come
        with pytest.raises(WorkerError) as caught:
            await anext(numbers)
        assert (caught.value.cause, caught.value.signal) == (Cause.SIGNAL, "SIGKILL")
        assert caught.value.outcome is Outcome.UNKNOWN
        with pytest.raises(WorkerError) as caught:
            await behind
        assert caught.value.outcome is Outcome.NOT_RUN
        with pytest.raises(WorkerError):
            await anext(worker.stream(Films.count, 1))


async def test_a_deadline_is_of_the_whole_stream(tmp_path: Path) -> None:
    path = tmp_path / "made"
    async with leased() as (_, worker):
        calls = worker.options(deadline=0.05)
        numbers = calls.stream(Films.waits, str(path))
        assert await anext(numbers) == 1
        with pytest.raises(JobTimeoutError, match=r"deadline of 0\.05 s"):
            await anext(numbers)
        assert path.read_text() == "closed\n"
        # A reader that does not read is no excuse.
        held = calls.stream(Films.marked, str(path))
        await anext(held)
        await worker.machine.when1(S.ErrWorkTimeout)
        with pytest.raises(JobTimeoutError):
            async for _ in held:
                pass


async def test_large_items_are_what_they_were_when_they_were_given() -> None:
    size = 3 * 1024 * 1024
    async with leased() as (_, worker):
        n = 0
        async for frame in worker.stream(Films.refilled, 12, size):
            assert type(frame) is bytearray
            assert frame == bytes([n]) * size
            n += 1
        assert n == 12


async def test_calls_wait_for_the_end_of_a_stream_and_it_for_theirs() -> None:
    async with leased() as (_, worker):
        first = asyncio.create_task(worker.call(Films.square, 2))
        await asyncio.sleep(0)
        numbers = worker.stream(Films.count, 10_000)
        assert await anext(numbers) == 0
        assert await first == 4
        call = asyncio.create_task(worker.call(Films.square, 7))
        for n in range(1, 5000):
            assert await anext(numbers) == n
        assert not call.done()
        await numbers.aclose()
        assert await call == 49


async def test_the_end_of_a_lease_ends_its_stream(tmp_path: Path) -> None:
    path = tmp_path / "made"
    async with pool(1, Films) as supervisor, client_of(supervisor, kind=Films) as client:
        async with client.lease() as worker:
            numbers = worker.stream(Films.waits, str(path))
            assert await anext(numbers) == 1
            await worker.machine.when1(FilmStates.Waiting)
        with pytest.raises(JobCancelled, match="released by its client"):
            await anext(numbers)
        assert path.read_text() == "closed\n"
        await supervisor.all_idle(1)


async def test_a_job_is_asked_for_as_what_it_is() -> None:
    async with leased() as (_, worker):
        with pytest.raises(OptionError, match="gives items"):
            await worker.call(Films.count, 3)
        with pytest.raises(OptionError, match="gives a result"):
            worker.stream(Films.square, 3)  # pyright: ignore[reportArgumentType, reportCallIssue]
        with pytest.raises(OptionError, match="a stream is not made again"):
            worker.options(retry=1).stream(Films.count, 3)
