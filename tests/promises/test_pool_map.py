"""`Pool.map` runs a job over many arguments: a list, or one result after the other, in order or
as they come. Small calls share messages, and nobody sees it. It reads no more than it has room
for, so its arguments may be without end. The first failure ends it and cancels the rest.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from amnode import (
    JobArgumentsError,
    OptionError,
    Pool,
    PoolError,
    Worker,
    WorkerError,
    job,
)
from tests.promises.pools import PATIENCE
from tests.promises.test_pool import _fifo, _runs, _whole
from tests.promises.workers import OddError, Plain

CHUNKS = [None, 1, 7, 5000]


class Counting(Worker):
    """Says what it has run."""

    kind = "Plain"
    exceptions = (OddError,)

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[int] = []

    @job
    async def square(self, n: int) -> int:
        self.ran.append(n)
        if n < 0:
            raise ValueError(f"{n} is below zero")
        return n * n

    @job
    async def die_of(self, n: int, which: int) -> int:
        if n == which:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    @job(thread=True)
    def in_thread(self, n: int) -> str:
        if n < 0:
            raise OddError(f"{n} is below zero")
        return threading.current_thread().name

    @job
    async def zeros(self, size: int) -> bytes:
        return bytes(size)

    @job
    async def all_ran(self) -> list[int]:
        return self.ran


class Source:
    """Counts what is read of it."""

    def __init__(self, total: int | None = None) -> None:
        self.numbers: Iterator[int] = iter(range(total)) if total else itertools.count()
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        for n in self.numbers:
            self.read += 1
            yield n

    async def later(self) -> AsyncIterator[int]:
        for n in self.numbers:
            self.read += 1
            if n % 10 == 0:
                await asyncio.sleep(0)
            yield n


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_map_is_a_list_or_is_iterated(ordered: bool) -> None:
    async with _whole(2) as pool:
        expected = [n * n for n in range(500)]
        for chunk in CHUNKS:
            listed = await pool.map(Plain.square, range(500), chunk=chunk, ordered=ordered)
            assert (listed if ordered else sorted(listed)) == expected
            results = pool.map(Plain.square, range(500), chunk=chunk, ordered=ordered)
            iterated = [n async for n in results]
            assert (iterated if ordered else sorted(iterated)) == expected
        assert await pool.map(Plain.square, []) == []


async def test_several_iterables_are_the_arguments_as_map_takes_them() -> None:
    async with _whole(1) as pool:
        assert await pool.map(Plain.add, range(5), itertools.count(10)) == [10, 12, 14, 16, 18]
        with pytest.raises(OptionError, match="what to map over"):
            pool.map(Plain.add)
        with pytest.raises(OptionError, match="cannot be iterated"):
            pool.map(Plain.add, 5)  # pyright: ignore[reportArgumentType]


async def test_an_asynchronous_iterable_is_read_too() -> None:
    async with _whole(2) as pool:
        for chunk in CHUNKS:
            found = await pool.map(Plain.square, Source(100).later(), chunk=chunk)
            assert found == [n * n for n in range(100)]


@pytest.mark.parametrize("kind", ["iterable", "asynchronous"])
async def test_arguments_without_end_are_read_a_little_ahead(kind: str) -> None:
    async with _whole(2) as pool:
        for chunk in (None, 1, 8):
            source, taken = Source(), 0
            arguments = source if kind == "iterable" else source.later()
            async with pool.map(Plain.square, arguments, chunk=chunk, buffer=40) as results:
                assert source.read == 0  # nothing is read before somebody wants it
                async for _ in results:
                    taken += 1
                    assert source.read <= taken + 40
                    if taken == 300:
                        break


async def test_who_stops_early_has_nothing_more_read() -> None:
    source = Source()
    async with _whole(1) as pool:
        async with pool.map(Plain.square, source, buffer=5) as results:
            assert await anext(results) == 0
        read = source.read
        assert await pool.map(Plain.square, range(50)) == [n * n for n in range(50)]
        assert source.read == read
        with pytest.raises(StopAsyncIteration):
            await anext(results)


async def test_a_slow_reader_holds_up_nobody_else() -> None:
    async with _whole(1) as pool:
        slow = aiter(pool.map(Plain.square, itertools.count(), buffer=3))
        assert await anext(slow) == 0
        assert await pool.map(Plain.square, range(50)) == [n * n for n in range(50)]
        assert await anext(slow) == 1
        await slow.aclose()


async def test_two_maps_and_calls_take_turns() -> None:
    async with _whole(1) as pool:
        endless = aiter(pool.map(Plain.square, itertools.count()))
        assert await anext(endless) == 0
        taking = asyncio.ensure_future(anext(endless))
        assert await pool.map(Plain.add, range(50), chunk=1) == [n + 1 for n in range(50)]
        assert await pool.call(Plain.square, 9) == 81
        await taking
        await endless.aclose()


async def test_the_first_failure_ends_a_map_and_cancels_the_rest() -> None:
    async with _whole(1, kind=Counting) as pool:
        for chunk in CHUNKS:
            numbers = [*range(40), -1, *range(41, 5000)]
            with pytest.raises(ValueError, match="-1 is below zero"):
                await pool.map(Counting.square, numbers, chunk=chunk)
            if chunk == 5000:
                assert (await pool.call(Counting.all_ran))[-1] == -1  # it ended the chunk too


async def test_results_before_a_failure_are_given_first() -> None:
    async with _whole(2, kind=Counting) as pool:
        for chunk in CHUNKS:
            found: list[int] = []
            numbers = [*range(20), -1, *range(30)]
            with pytest.raises(ValueError, match="-1 is below zero"):
                async for n in pool.map(Counting.square, numbers, chunk=chunk):
                    found.append(n)
            assert found == [n * n for n in range(20)]


@pytest.mark.parametrize("chunk", [1, 4])
async def test_failures_can_be_results(chunk: int) -> None:
    async with _whole(2, kind=Counting) as pool:
        numbers = [3, -1, 4, -2]
        found = await pool.map(Counting.square, numbers, chunk=chunk, return_exceptions=True)
        assert [found[0], found[2]] == [9, 16]
        assert [type(found[at]) for at in (1, 3)] == [ValueError, ValueError]
        assert "-2 is below zero" in str(found[3])
        assert "in square" in found[3].__notes__[0]


@pytest.mark.parametrize("wrong", ["seven", object()])
async def test_an_argument_that_does_not_fit_is_named(wrong: object) -> None:
    async with _whole(1) as pool:
        for chunk in (1, 2, 4):
            numbers = [1, 2, wrong, 4]
            with pytest.raises(JobArgumentsError, match=r"[Aa]rgument `?n"):
                await pool.map(Plain.square, numbers, chunk=chunk)
            found = await pool.map(Plain.square, numbers, chunk=chunk, return_exceptions=True)
            assert [found[at] for at in (0, 1, 3)] == [1, 4, 16]
            assert isinstance(found[2], JobArgumentsError)


async def test_an_error_of_the_iterable_is_the_error_of_the_map() -> None:
    def numbers() -> Iterator[int]:
        yield from range(9)
        raise ZeroDivisionError

    async def later() -> AsyncIterator[int]:
        for n in numbers():
            yield n

    async with _whole(1) as pool:
        for arguments in (numbers, later):
            with pytest.raises(ZeroDivisionError):
                await pool.map(Plain.square, arguments())
            found: list[int] = []
            with pytest.raises(ZeroDivisionError):
                async for n in pool.map(Plain.square, arguments()):
                    found.append(n)
            assert found == [n * n for n in range(9)]


async def test_a_worker_that_dies_fails_the_map_with_the_cause() -> None:
    async with _whole(2, kind=Counting) as pool:
        with pytest.raises(WorkerError, match="SIGKILL"):
            await pool.map(Counting.die_of, range(100), itertools.repeat(50), chunk=10)
        found = await pool.map(
            *(Counting.die_of, range(100), itertools.repeat(50)),
            chunk=10,
            return_exceptions=True,
        )
        lost = [at for at, result in enumerate(found) if isinstance(result, WorkerError)]
        assert set(lost) <= set(range(50, 60)) and 50 in lost
        assert [n for n in found if isinstance(n, int)] == [
            n for n in range(100) if n not in lost
        ]


async def test_jobs_on_the_thread_are_mapped_too() -> None:
    async with _whole(1, kind=Counting) as pool:
        for chunk in CHUNKS:
            names = await pool.map(Counting.in_thread, range(50), chunk=chunk)
            assert len(names) == 50 and set(names) == {"Plain-jobs"}
            with pytest.raises(OddError, match="-3 is below zero"):
                await pool.map(Counting.in_thread, [1, -3, 2], chunk=chunk)
        found = await pool.map(Counting.in_thread, [1, -3, 2], chunk=3, return_exceptions=True)
        assert [type(one) for one in found] == [str, OddError, str]


async def test_large_values_are_mapped_too() -> None:
    async with _whole(1, kind=Counting) as pool:
        sizes = [3, 500_000, 0]
        for chunk in (1, 3):
            found = await pool.map(Counting.zeros, sizes, chunk=chunk)
            assert [len(one) for one in found] == sizes
    async with _whole(1) as pool:
        for chunk in (1, 3):
            data = [b"a", bytes(500_000), b""]
            assert await pool.map(Plain.length, data, chunk=chunk) == [1, 500_000, 0]


async def test_a_cancelled_map_is_cancelled_at_its_workers(tmp_path: Path) -> None:
    async with _whole(1) as pool:
        gates = [_fifo(tmp_path, "a"), _fifo(tmp_path, "b")]
        mapping = asyncio.ensure_future(pool.map(Plain.gate, gates))
        await _runs(pool, 1)
        mapping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mapping
        assert await pool.call(Plain.square, 3) == 9


async def test_a_stop_ends_a_map_that_is_not_finished() -> None:
    async with _whole(1) as pool:
        endless = aiter(pool.map(Plain.square, itertools.count(), buffer=3))
        assert await anext(endless) == 0
        async with asyncio.timeout(PATIENCE):
            await pool.stop()
        with pytest.raises(PoolError, match="was stopped"):
            async for _ in endless:
                pass
        with pytest.raises(PoolError, match="was stopped"):
            pool.map(Plain.square, range(9))


async def test_long_chunks_let_the_worker_answer_its_checks() -> None:
    async with _whole(1, worker_check_interval=0.05, check_timeout=0.3) as pool:
        assert len(await pool.map(Plain.block, [0.01] * 100, chunk=100)) == 100


async def test_what_cannot_work_is_refused_at_once() -> None:
    async with _whole(1) as pool:
        for wrong in ({"chunk": 0}, {"buffer": -1}, {"chunk": 1.5}):
            with pytest.raises(OptionError, match="at least 1"):
                pool.map(Plain.square, range(9), **wrong)
        once = pool.map(Plain.square, range(3))
        assert await once == [0, 1, 4]
        with pytest.raises(OptionError, match="make another one"):
            await once
        with pytest.raises(OptionError, match="is no job"):
            pool.map("square", range(3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(PoolError, match="not started"):
        Pool(Plain).map(Plain.square, range(3))
