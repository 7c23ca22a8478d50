"""`Pool.stream` gives the items of a streamed job from whichever worker is free. A reader that
stops stops the job, and the worker serves others; one that is slow holds up nobody else. A
worker that dies ends the stream with the cause.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from amnode import OptionError, PoolError, SyncPool, Worker, WorkerError, job
from tests.promises.test_pool import _whole


class Numbers(Worker):
    """Gives items."""

    kind = "Plain"

    def __init__(self) -> None:
        super().__init__()
        self.stopped = 0

    @job
    async def count(self, to: int) -> AsyncIterator[int]:
        try:
            for n in range(to):
                yield n
        finally:
            self.stopped += 1

    @job(thread=True)
    def squares(self, to: int) -> Iterator[int]:
        for n in range(to):
            yield n * n

    @job
    async def fail_after(self, n: int) -> AsyncIterator[int]:
        for k in range(n):
            yield k
        raise ValueError("no more")

    @job
    async def how_often_stopped(self) -> int:
        return self.stopped

    @job
    async def pid(self) -> int:
        return os.getpid()


async def test_items_come_from_any_worker() -> None:
    async with _whole(2, kind=Numbers) as pool:
        assert [n async for n in pool.stream(Numbers.count, 100)] == [*range(100)]
        async with pool.stream(Numbers.squares, 5) as squares:
            assert [n async for n in squares] == [0, 1, 4, 9, 16]
        found: list[int] = []
        with pytest.raises(ValueError, match="no more"):
            async for n in pool.options(deadline=10.0).stream(Numbers.fail_after, 3):
                found.append(n)
        assert found == [0, 1, 2]
        with pytest.raises(OptionError, match="use `stream`"):
            pool.map(Numbers.count, [3])
        with pytest.raises(OptionError, match="stream"):
            await pool.call(Numbers.count, 3)
        with pytest.raises(OptionError, match="not items"):
            pool.stream(Numbers.pid)  # pyright: ignore[reportArgumentType]


async def test_who_stops_early_frees_the_worker() -> None:
    async with _whole(1, kind=Numbers) as pool:
        async with pool.stream(Numbers.count, 10**9) as numbers:
            assert await anext(numbers) == 0
            waits = pool.submit(Numbers.how_often_stopped)
        assert await waits == 1
        with pytest.raises(StopAsyncIteration):
            await anext(numbers)
        dropped = pool.stream(Numbers.count, 10**9)
        assert await anext(dropped) == 0
        del dropped
        gc.collect()
        assert await pool.call(Numbers.how_often_stopped) == 2
        never = pool.stream(Numbers.count, 3)
        await never.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(never)


async def test_a_stream_that_waits_for_its_turn_can_be_closed_or_cancelled() -> None:
    async with _whole(1, kind=Numbers) as pool, pool.stream(Numbers.count, 10**9) as first:
        assert await anext(first) == 0
        second = pool.stream(Numbers.count, 3)
        waiting = asyncio.ensure_future(anext(second))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        waiting = asyncio.ensure_future(anext(second))
        await asyncio.sleep(0)
        await second.aclose()
        with pytest.raises(PoolError, match="before it began"):
            await waiting
        await first.aclose()
        assert [n async for n in pool.stream(Numbers.count, 3)] == [0, 1, 2]


async def test_a_slow_reader_holds_up_nobody_else() -> None:
    async with _whole(2, kind=Numbers) as pool, pool.stream(Numbers.count, 10**9) as slow:
        assert await anext(slow) == 0
        assert [n async for n in pool.stream(Numbers.count, 50)] == [*range(50)]
        assert await anext(slow) == 1


async def test_a_worker_that_dies_ends_its_stream_with_the_cause() -> None:
    async with _whole(1, kind=Numbers) as pool:
        pid = await pool.call(Numbers.pid)
        async with pool.stream(Numbers.count, 10**9) as numbers:
            assert await anext(numbers) == 0
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(WorkerError, match="SIGKILL"):
                async for _ in numbers:
                    pass
        assert await pool.call(Numbers.pid) != pid


async def test_a_stop_ends_a_stream_that_nobody_reads() -> None:
    async with _whole(1, kind=Numbers) as pool:
        numbers = pool.stream(Numbers.count, 10**9)
        assert await anext(numbers) == 0
    with pytest.raises(Exception, match=r"released|stopped"):
        async for _ in numbers:
            pass


def test_a_thread_without_a_loop_reads_streams_too() -> None:
    with SyncPool(Numbers, min=1, max=1, warm=0) as pool:
        assert list(pool.stream(Numbers.count, 100)) == [*range(100)]
        found: list[int] = []
        with pytest.raises(ValueError, match="no more"):
            found.extend(pool.stream(Numbers.fail_after, 3))
        assert found == [0, 1, 2]
        with pool.stream(Numbers.count, 10**9) as numbers:
            assert [next(numbers) for _ in range(20)] == [*range(20)]
        assert list(numbers) == []
        dropped = pool.stream(Numbers.count, 10**9)
        assert next(dropped) == 0
        del dropped
        gc.collect()
        assert pool.call(Numbers.how_often_stopped) == 3
        with pytest.raises(OptionError, match="not items"):
            list(pool.stream(Numbers.pid))  # pyright: ignore[reportArgumentType]
        stopped = pool.stream(Numbers.count, 10**9)
        assert next(stopped) == 0
        pool.stop(cancel=True)
        with pytest.raises(Exception, match=r"stopped|released"):
            list(stopped)
