"""A call that was made and is not awaited yet, and the progress that it reports.

call = worker.submit(Squares.crunch, data)
async for progress in call:
    print(progress.done, progress.total, progress.note)
result = await call
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from itertools import count
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from amnode.node.args import ProgressNews
from amnode.node.progress import Progress

R = TypeVar("R")

logger = logging.getLogger("amnode.node")

#: Called with each report of progress that comes.
OnProgress: TypeAlias = Callable[[Progress], object]


class News:
    """Who wants to know how far which call is; one for each client."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._listeners: dict[int, OnProgress] = {}
        self._decoder = msgspec.msgpack.Decoder(ProgressNews)

    def __len__(self) -> int:
        return len(self._listeners)

    def listen(self, callback: OnProgress) -> int:
        """Has `callback` called with the reports of a call; the number to send with it."""
        number = next(self._numbers)
        self._listeners[number] = callback
        return number

    def forget(self, number: int) -> None:
        """That call is over."""
        self._listeners.pop(number, None)

    def heard(self, data: msgspec.Raw) -> None:
        """A report came."""
        news = self._decoder.decode(data)
        callback = self._listeners.get(news.news)
        if callback is None:
            return  # its call was cancelled
        try:
            callback(news.progress)
        except Exception as error:  # the program's own; the call goes on
            asyncio.get_running_loop().call_exception_handler(
                {"message": "on_progress raised", "exception": error}
            )


class Submitted(Generic[R]):
    """A call on its way: awaitable for its result, iterable for its progress.

    Awaiting it more than once gives the same. Cancelling a task that awaits it cancels the
    call; so does `cancel`. What it fails of and nobody awaits is logged, as of any task.

    Args:
        make: makes the coroutine of the call, which tells progress to what it is given.
        name: of the job.
    """

    def __init__(self, make: Callable[[OnProgress], Coroutine[Any, Any, R]], name: str) -> None:
        self._name = name
        self._progress: Progress | None = None
        self._reports = 0
        self._waiters: list[asyncio.Future[None]] = []
        self._task = asyncio.get_running_loop().create_task(make(self._report), name=name)
        self._task.add_done_callback(self._wake)

    def __await__(self) -> Generator[Any, None, R]:
        return self._task.__await__()

    def __repr__(self) -> str:
        return f"<Submitted {self._name} {'done' if self.done() else 'running'}>"

    @property
    def progress(self) -> Progress | None:
        """The newest report; None before the first."""
        return self._progress

    def done(self) -> bool:
        """Whether it has a result, has failed, or was cancelled."""
        return self._task.done()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._task.cancelled()

    def cancel(self) -> bool:
        """Cancels the call, wherever it is; False if it is done."""
        return self._task.cancel()

    def result(self) -> R:
        """The result of a call that is done; raises what it failed of."""
        return self._task.result()

    def exception(self) -> BaseException | None:
        """What a call that is done failed of, or None."""
        return self._task.exception()

    def add_done_callback(self, callback: Callable[[Submitted[R]], object]) -> None:
        """Has `callback` called with this once it is done."""
        self._task.add_done_callback(lambda _task: callback(self))

    async def __aiter__(self) -> AsyncIterator[Progress]:
        """The reports as they come, until the call is done; a slow reader gets the newest."""
        seen = 0
        while True:
            if self._progress is not None and seen < self._reports:
                seen = self._reports
                yield self._progress
            elif self._task.done():
                return
            else:
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter

    def _report(self, progress: Progress) -> None:
        self._progress = progress
        self._reports += 1
        self._wake()

    def _wake(self, _task: object = None) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
