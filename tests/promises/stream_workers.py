"""Workers whose jobs are generators; they say how far they came in files."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec

from amnode import State, Worker, WorkerStates, job


class Point(msgspec.Struct):
    """An item with a shape."""

    x: int
    y: int = 0


class OddError(Exception):
    """What a stream raises, known to its caller."""


class FilmStates(WorkerStates):
    """States that say where a generator is."""

    Waiting = State(require=("Leased",))
    "A generator waits for something else than its reader."
    Closed = State(require=("Leased",))
    "The `finally` of a generator has run."


class Films(Worker):
    """Streams of all kinds."""

    schema = FilmStates
    exceptions = (OddError,)

    async def on_release(self) -> None:
        """The next client is served by this process, too."""

    @job
    async def square(self, n: int) -> int:
        return n * n

    @job
    async def count(self, to: int) -> AsyncIterator[int]:
        for n in range(to):
            yield n

    @job
    async def points(self, to: int) -> AsyncGenerator[Point, None]:
        for n in range(to):
            yield Point(n, -n)

    @job
    async def marked(self, path: str, size: int = 1024) -> AsyncIterator[bytes]:
        """Notes in a file that an item was made, and that the generator was closed."""
        try:
            for n in range(1_000_000):
                _append(path, f"{n}\n")
                yield bytes(size)
        finally:
            await asyncio.sleep(0)
            _append(path, "closed\n")
            self.machine.add1(FilmStates.Closed)

    @job
    async def waits(self, path: str) -> AsyncIterator[int]:
        """Gives one item, and waits before the next."""
        try:
            yield 1
            self.machine.add1(FilmStates.Waiting)
            await asyncio.Event().wait()
            yield 2
        finally:
            _append(path, "closed\n")
            self.machine.add1(FilmStates.Closed)

    @job
    async def fails(self, after: int) -> AsyncIterator[int]:
        for n in range(after):
            yield n
        raise OddError("no more", after)

    @job
    async def dies(self, after: int) -> AsyncIterator[int]:
        for n in range(after):
            yield n
        self.machine.add1(FilmStates.Waiting)
        await asyncio.Event().wait()

    @job
    async def odd(self) -> AsyncIterator[Any]:
        yield 1
        yield object()

    @job
    async def refilled(self, count: int, size: int) -> AsyncIterator[bytearray]:
        """One buffer, filled anew for each item."""
        frame = bytearray(size)
        for n in range(count):
            frame[:] = bytes([n]) * size
            yield frame

    @job(thread=True)
    def in_thread(self, path: str, size: int = 1024) -> Iterator[bytes]:
        try:
            for n in range(1_000_000):
                _append(path, f"{n}\n")
                yield bytes(size)
        finally:
            _append(path, f"closed in {threading.current_thread().name}\n")

    @job(thread=True)
    def counted(self, to: int) -> Iterator[int]:
        yield from range(to)

    @job(thread=True)
    def fails_in_thread(self) -> Iterator[int]:
        yield 1
        raise OddError("in the thread")


def _append(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(line)
