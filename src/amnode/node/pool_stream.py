"""PoolStream: what a streamed job gives, item by item, from whichever worker is free.

1. It takes its turn when it is first read, or entered. Its worker is its own until it is over:
   read to the end, closed, or left to nobody.
2. If its worker is lost before the job began, it begins on another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from amnode.errors import LeaseLost, Outcome, PoolError, WorkerError
from amnode.node.job_stream import JobStream
from amnode.node.jobs import StreamJob
from amnode.node.leased import CallOptions, LeasedWorker
from amnode.node.pool_calls import Hold
from amnode.node.pool_feed import Feed

R = TypeVar("R")


class PoolStream(Generic[R]):
    """The items of a streamed job, for one task at a time; see `JobStream`.

    A reader that is slow holds the job back at its `yield`, and its worker with it. One who
    stops early closes it, by `async with` or `aclose()`; the job is then stopped there.
    """

    def __init__(
        self,
        hold: Callable[[Hold], None],
        feed: Feed,
        options: CallOptions,
        job: StreamJob[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._hold = hold
        self._feed = feed
        self._options = options
        self._job = job
        self._args = args
        self._kwargs = kwargs
        self._loop = asyncio.get_running_loop()
        self._key: int | None = None
        self._stream: JobStream[R] | None = None
        self._waiting: asyncio.Future[Any] | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        if self._stream is None and not self._over:
            await self._take_turn()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._key is not None and not self._loop.is_closed():  # that may be anywhere
            self._loop.call_soon_threadsafe(_let_go, self._feed, self._key)

    async def __anext__(self) -> R:
        while not self._over:
            if self._stream is None:
                await self._take_turn()
            assert self._stream is not None
            try:
                return await anext(self._stream)
            except StopAsyncIteration:
                self._end()
            except (WorkerError, LeaseLost) as error:
                self._end(lost=True)
                if error.outcome is not Outcome.NOT_RUN:
                    raise
                self._over = False  # rule 2
            except asyncio.CancelledError:
                raise
            except Exception:
                self._end()
                raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Reads no more: the job is stopped. Again changes nothing."""
        self._over = True
        if self._waiting is not None:
            self._waiting.cancel()
        if self._stream is not None:
            await self._stream.aclose()
            self._end()

    async def _take_turn(self) -> None:
        hold: asyncio.Future[Any] = self._loop.create_future()
        self._waiting = hold
        try:
            self._hold(Hold(self._job, self._args, self._kwargs, self._options, hold))
            self._key, worker = await hold
        except asyncio.CancelledError:
            if hold.done() and not hold.cancelled():  # it came, and nobody took it
                self._feed.let_go(hold.result()[0], lost=False)
            if self._over:
                raise PoolError("The stream was closed before it began.") from None
            raise
        finally:
            self._waiting = None
        try:
            leased: LeasedWorker = worker
            self._stream = stream = leased.stream_with(
                self._options, self._job, self._args, self._kwargs
            )
            await stream.__aenter__()
        except BaseException:
            self._end()
            raise

    def _end(self, *, lost: bool = False) -> None:
        """It has no worker any more."""
        self._over = True
        self._stream = None
        key, self._key = self._key, None
        if key is not None:
            self._feed.let_go(key, lost=lost)


def _let_go(feed: Feed, key: int) -> None:
    feed.let_go(key, lost=False)
