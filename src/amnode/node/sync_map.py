"""SyncMap: the results of `SyncPool.map`, for a thread that has no event loop.

    the caller's thread                      the thread of the loop
    iterable -> arguments, some at once  ->  Far  ->  PoolMap  ->  workers
    caller   <- results, some at once    <-

1. The iterable is read by the thread that takes the results, when it has none left: by no more
   than there is room for, and nobody else's time is taken if it blocks.
2. The two sides share nothing but what they hand over. So a map that nobody has any more is
   collected, and that ends the other side.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, Self, TypeVar

from amnode.errors import PoolError
from amnode.node.loop_thread import FarIterator, LoopThread, next_of
from amnode.node.pool_map import PoolMap

R = TypeVar("R")

#: Results that cross at once, at most.
_BATCH = 256
#: Arguments that are read before the first result says how many may be.
_FIRST = 16


class Batch(NamedTuple, Generic[R]):
    """Results; how many arguments there is room for; whether they are the last, and why."""

    values: Sequence[R]
    room: int
    over: bool = False
    error: BaseException | None = None


class Far(Generic[R]):
    """The side of a map in the thread of the loop.

    Args:
        make: makes the map, from where it reads its arguments.
        results: where its results go.
    """

    def __init__(
        self,
        make: Callable[[AsyncIterator[tuple[Any, ...]]], PoolMap[R]],
        results: SimpleQueue[Batch[R]],
    ) -> None:
        self._make = make
        self._results = results
        self._handed: deque[tuple[Any, ...]] = deque()
        self._complete = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def hand_over(self, arguments: Sequence[tuple[Any, ...]], *, complete: bool) -> None:
        """More arguments; the first time, it begins."""
        self._handed.extend(arguments)
        self._complete = complete
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._drive())
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self) -> None:
        """Nobody wants the results any more."""
        if self._task is not None:
            self._task.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Any, ...]:
        while not self._handed:
            if self._complete:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._handed.popleft()

    async def _drive(self) -> None:
        values: list[R] = []
        error: BaseException | None = None
        try:
            async with self._make(self) as results:
                async for value in results:
                    values.append(value)
                    if len(values) == _BATCH or not results.has_more:
                        self._results.put(Batch(values, results.room))
                        values = []
        except asyncio.CancelledError:
            error = PoolError("The map was closed, or its pool was stopped.")
        except Exception as failure:
            error = failure
        self._results.put(Batch(values, 0, over=True, error=error))


class SyncMap(FarIterator, Generic[R]):
    """A job over many arguments: an iterator over the results.

    It reads and computes a little ahead of who takes the results, so the arguments may be
    without end. One who stops early closes it, by `close()` or a `with`; else that happens when
    nobody has it any more.
    """

    def __init__(
        self,
        thread: LoopThread,
        arguments: Iterator[tuple[Any, ...]],
        make: Callable[[AsyncIterator[tuple[Any, ...]]], PoolMap[R]],
        buffer: int | None,
    ) -> None:
        self._results: SimpleQueue[Batch[R]] = SimpleQueue()
        self._far = Far(make, self._results)
        self._arguments = arguments
        self._fixed = buffer
        self._room = buffer or _FIRST
        self._values: deque[R] = deque()
        self._read = self._taken = 0
        self._exhausted = False
        self._error: BaseException | None = None
        super().__init__(thread, self._far.end)

    def __next__(self) -> R:
        while not self._values:
            if self._over:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopIteration
            self._hand_over()
            self._take(next_of(self._results))
        self._taken += 1
        return self._values.popleft()

    def close(self) -> None:
        """Reads no more, and cancels what still runs; again changes nothing."""
        super().close()
        self._values.clear()

    def _hand_over(self) -> None:
        """Rule 1."""
        if self._exhausted:
            return
        self._thread.check()
        found: list[tuple[Any, ...]] = []
        try:
            while self._read + len(found) - self._taken < self._room:
                found.append(next(self._arguments))
        except StopIteration:
            self._exhausted = True
        except Exception as error:  # raised when the results before it were taken
            self._exhausted = True
            self._error = error
        self._read += len(found)
        self._begun = True
        self._thread.soon(self._give, self._far, found, self._exhausted)

    @staticmethod
    def _give(far: Far[R], found: Sequence[tuple[Any, ...]], complete: bool) -> None:
        far.hand_over(found, complete=complete)

    def _take(self, batch: Batch[R]) -> None:
        self._values.extend(batch.values)
        if self._fixed is None:
            self._room = max(self._room, batch.room)
        if batch.over:
            self._over = True
            self._error = batch.error or self._error
