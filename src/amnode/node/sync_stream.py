"""SyncStream: the items of `SyncPool.stream`, for a thread that has no event loop.

Rules:

1. No more than `AHEAD` items are with the reader that it has not taken; then the job is held
   back at its `yield`.
2. The two sides share nothing but what they hand over. So a stream that nobody has any more is
   collected, and that ends the other side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

from amnode.errors import PoolError
from amnode.node.loop_thread import FarIterator, LoopThread, next_of
from amnode.node.pool_stream import PoolStream

R = TypeVar("R")

#: Items that are with the reader at most, and how many it takes before it says so.
AHEAD, _TOLD = 8, 4


class Item(NamedTuple, Generic[R]):
    """One item; or the end, and why."""

    values: tuple[R, ...]
    error: BaseException | None = None


class FarStream(Generic[R]):
    """The side of a stream in the thread of the loop.

    Args:
        make: makes the stream.
        items: where its items go.
    """

    def __init__(self, make: Callable[[], PoolStream[R]], items: SimpleQueue[Item[R]]) -> None:
        self._make = make
        self._items = items
        self._room = AHEAD
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begins to read."""
        self._task = asyncio.get_running_loop().create_task(self._drive())

    def allow(self, items: int) -> None:
        """So many were taken (rule 1)."""
        self._room += items
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self) -> None:
        """Nobody wants the items any more."""
        if self._task is not None:
            self._task.cancel()

    async def _drive(self) -> None:
        error: BaseException | None = None
        try:
            async with self._make() as stream:
                async for item in stream:
                    self._items.put(Item((item,)))
                    self._room -= 1
                    while not self._room:
                        self._waiter = asyncio.get_running_loop().create_future()
                        await self._waiter
        except asyncio.CancelledError:
            error = PoolError("The stream was closed, or its pool was stopped.")
        except Exception as failure:
            error = failure
        self._items.put(Item((), error))


class SyncStream(FarIterator, Generic[R]):
    """The items of a streamed job: an iterator.

    The job is held back while nobody takes what it gave. One who stops early closes it, by
    `close()` or a `with`; else that happens when nobody has it any more.
    """

    def __init__(self, thread: LoopThread, make: Callable[[], PoolStream[R]]) -> None:
        self._items: SimpleQueue[Item[R]] = SimpleQueue()
        self._far = FarStream(make, self._items)
        self._taken = 0
        super().__init__(thread, self._far.end)

    def __next__(self) -> R:
        if self._over:
            raise StopIteration
        if not self._begun:
            self._thread.check()
            self._begun = True
            self._thread.soon(self._far.begin)
        values, error = next_of(self._items)
        if not values:
            self._over = True
            if error is not None:
                raise error
            raise StopIteration
        self._taken += 1
        if self._taken % _TOLD == 0:
            self._thread.soon(self._far.allow, _TOLD)
        return values[0]
