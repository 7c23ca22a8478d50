"""What a checker knows of a call: its arguments and its result. Read by pyright, never run."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import assert_type

import msgspec

from amnode import Client, Progress, Submitted, Supervisor, Worker, job


class Point(msgspec.Struct):
    """An argument with a shape."""

    x: int


class Squares(Worker):
    """Jobs of several shapes."""

    @job
    async def square(self, n: int) -> int:
        return n * n

    @job
    async def move(self, point: Point, *, by: float = 1.0) -> Point:
        return Point(point.x + round(by))

    @job
    async def names(self) -> dict[str, list[bytes]]:
        return {}

    @job
    async def forget(self) -> None: ...

    @job(thread=True, idempotent=True)
    def crunch(self, data: bytes, level: int = 3) -> bytes:
        job.progress(1, 2, "half")
        assert_type(job.cancelled(), bool)
        return data

    @job(idempotent=True)
    async def again(self, n: int) -> list[int]:
        return [n]

    @job
    async def points(self, to: int) -> AsyncIterator[Point]:
        for n in range(to):
            yield Point(n)

    @job
    async def numbers(self) -> AsyncGenerator[int, None]:
        yield 1

    @job(thread=True)
    def lines(self, path: str) -> Iterator[str]:
        yield path

    @job(thread=True)
    def chunks(self) -> Generator[bytes, None, None]:
        yield b""

    async def on_release(self) -> None:
        assert_type(await self.square(7), int)
        assert_type(self.crunch(b""), bytes)
        assert_type(await self.again(7), list[int])


async def results() -> None:
    """A call has the type that its job returns."""
    async with (
        Supervisor(Squares) as pool,
        Client("me", Squares, addrs=[pool.address], token=pool.token) as client,
        client.lease(timeout=1.0) as worker,
    ):
        assert_type(await worker.call(Squares.square, 7), int)
        assert_type(await worker.call(Squares.move, Point(1), by=2.5), Point)
        assert_type(await worker.call(Squares.names), dict[str, list[bytes]])
        assert_type(await worker.call(Squares.forget), None)
        assert_type(await worker.call(Squares.crunch, b"", level=1), bytes)
        assert_type(await worker.call(Squares.again, 7), list[int])
        submitted = worker.submit(Squares.crunch, b"")
        assert_type(submitted, Submitted[bytes])
        assert_type(await submitted, bytes)
        assert_type(submitted.result(), bytes)
        async for progress in submitted:
            assert_type(progress, Progress)
            assert_type(progress.share, float | None)

        async for point in worker.stream(Squares.points, 3):
            assert_type(point, Point)
        async with worker.stream(Squares.numbers) as numbers:
            assert_type(await anext(numbers), int)
        assert_type([line async for line in worker.stream(Squares.lines, "a")], list[str])
        assert_type([data async for data in worker.stream(Squares.chunks)], list[bytes])

        calls = worker.options(deadline=2.0, hard_deadline=3.0, retry=1, on_progress=print)
        assert_type([p async for p in calls.stream(Squares.points, to=3)], list[Point])
        assert_type(await calls.call(Squares.square, n=7), int)
        assert_type(calls.submit(Squares.again, 7), Submitted[list[int]])
        assert_type(await calls.call(Squares.move, point=Point(1)), Point)
        assert_type(await calls.call(Squares.names), dict[str, list[bytes]])
        assert_type(await worker.options().call(Squares.forget), None)


async def arguments(client: Client) -> None:
    """What does not fit is an error: an ignore without one is an error itself."""
    async with client.lease() as worker:
        await worker.call(Squares.square, "7")  # pyright: ignore[reportArgumentType]
        await worker.call(Squares.crunch, "text")  # pyright: ignore[reportArgumentType]
        worker.submit(Squares.square, "7")  # pyright: ignore[reportArgumentType]
        await worker.call(Squares.square)  # pyright: ignore[reportCallIssue]
        await worker.call(Squares.move, Point(1), 2.5)  # pyright: ignore[reportCallIssue]
        await worker.call(Squares.move, Point(1), to=2)  # pyright: ignore[reportCallIssue]
        await worker.call("square", 7)  # pyright: ignore[reportArgumentType, reportCallIssue]
        worker.stream(Squares.points, "3")  # pyright: ignore[reportArgumentType]
        worker.stream(Squares.square, 3)  # pyright: ignore[reportArgumentType, reportCallIssue]
        calls = worker.options(deadline=2.0)
        await calls.call(Squares.square, "7")  # pyright: ignore[reportArgumentType]
        await calls.call(Squares.square, 1, 2)  # pyright: ignore[reportCallIssue]


class Wrong(Worker):
    """What is no job."""

    @job  # pyright: ignore[reportCallIssue, reportArgumentType, reportUntypedFunctionDecorator]
    def plain(self) -> int:
        return 1

    @job(idempotent=True)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUntypedFunctionDecorator]
    def plain_again(self) -> int:
        return 1
