"""What a checker knows of a pool's calls. Read by pyright, never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

from amnode import (
    LeasedWorker,
    Pool,
    PoolMap,
    Submitted,
    SyncCall,
    SyncMap,
    SyncPool,
    Worker,
    job,
)


class Squares(Worker):
    """Jobs of several shapes."""

    @job
    async def square(self, n: int) -> int:
        return n * n

    @job
    async def spell(self, n: int, suffix: str = "") -> str:
        return f"{n}{suffix}"


async def numbers() -> AsyncIterator[int]:
    yield 1


async def results() -> None:
    """Each way to call has the type that the job returns."""
    async with Pool(Squares, min=1, max=2) as pool:
        assert_type(await pool.call(Squares.square, 7), int)
        assert_type(await pool.call(Squares.spell, 7, suffix="th"), str)
        call = pool.submit(Squares.spell, 7)
        assert_type(call, Submitted[str])
        assert_type(await call, str)
        assert_type(call.result(), str)
        assert_type(pool.map(Squares.square, range(3)), PoolMap[int])
        assert_type(await pool.map(Squares.square, range(3), chunk=2), list[int])
        assert_type(await pool.map(Squares.spell, [1], ["th"]), list[str])
        async for name in pool.map(Squares.spell, numbers(), ordered=False):
            assert_type(name, str)
        async with pool.lease() as worker:
            assert_type(worker, LeasedWorker)
        calls = pool.options(deadline=2.0)
        assert_type(await calls.call(Squares.square, 7), int)
        assert_type(await calls.map(Squares.square, [7]), list[int])


def blocking() -> None:
    """Nor does the thread that has no loop lose them."""
    with SyncPool(Squares) as pool:
        assert_type(pool.call(Squares.square, 7), int)
        call = pool.submit(Squares.spell, 7)
        assert_type(call, SyncCall[str])
        assert_type(call.result(), str)
        assert_type(pool.map(Squares.square, [7]), SyncMap[int])
        with pool.lease() as worker:
            assert_type(worker.call(Squares.spell, 7), str)
        assert_type(pool.options(deadline=1.0).call(Squares.square, 7), int)


async def arguments(pool: Pool) -> None:
    """What does not fit is an error: an ignore without one is an error itself."""
    await pool.call(Squares.square, "7")  # pyright: ignore[reportArgumentType]
    await pool.call(Squares.square)  # pyright: ignore[reportCallIssue]
    pool.submit(Squares.spell, 7, suffix=8)  # pyright: ignore[reportArgumentType]
    pool.map("square", range(3))  # pyright: ignore[reportArgumentType]
