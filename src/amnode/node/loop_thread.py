"""LoopThread: an event loop in a thread of its own, for code that has none.

1. What it runs it runs for other threads, which wait. Its own would wait for itself, so a wait
   there is refused.
2. In a process that was forked from its own there is no such thread: nothing is run, and
   nothing is waited for.
3. It ends when it is told to, or at the end of the program. The thread is a daemon: it keeps no
   program from ending, and what it has to do at the end is done while it still can be.
4. Who waits for it looks up every `SLICE`: Python does not notice an interrupt that comes in
   the very moment in which a wait begins.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Self, TypeVar

from amnode.errors import PoolError

T = TypeVar("T")

#: Seconds (rule 4).
SLICE = 0.5


class LoopThread:
    """Runs coroutines for other threads.

    Args:
        name: of what lives in it, for messages.
        last: makes the last coroutine, which is run before the thread ends.

    Attributes:
        name: see above.
    """

    def __init__(self, name: str, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.name = name
        self._last = last
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._loop = _new_loop()
        self._thread.start()
        atexit.register(self.end)

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a process that was forked from the one with the thread (rule 2)."""
        return os.getpid() != self._pid

    @property
    def is_over(self) -> bool:
        """Whether it was ended."""
        return self._over

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Has the loop call back, soon.

        Raises:
            PoolError: it is not started, over, or in another process.
        """
        if os.getpid() != self._pid:
            raise PoolError(
                f"{self.name} belongs to process {self._pid}, from which this one was forked; "
                "make one of its own here."
            )
        if self._loop is None:
            raise PoolError(f"{self.name} is not started; use `with` or `start()`.")
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # closed
            raise PoolError(f"{self.name} was stopped.") from None

    def check(self) -> None:
        """Refuses to wait where that would never end (rule 1).

        Raises:
            PoolError: this is the thread itself.
        """
        if threading.get_ident() == self._thread.ident:
            raise PoolError(
                f"{self.name} cannot be waited for in its own thread, such as in a callback of "
                "one of its futures; use another thread, or `Pool`."
            )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine and waits for it; an interrupt cancels it.

        Raises:
            PoolError: see `soon` and `check`; and whatever the coroutine raises.
        """
        running = _Running(work)
        try:
            self.check()
            self.soon(running.begin)
        except PoolError:
            work.close()
            raise
        try:
            return result_of(running.result)
        except BaseException:
            if not running.result.done():  # interrupted; it ends by itself
                self.soon(running.cancel)
            raise

    def end(self) -> None:
        """Runs the last coroutine and ends the thread; again changes nothing."""
        if self._over or self.is_elsewhere or self._loop is None:
            return
        try:
            self.run(self._last())
        finally:
            self._over = True
            atexit.unregister(self.end)
            self.soon(self._loop.stop)
            self._thread.join()

    def abandon(self) -> None:
        """Does what `end` does, and does not wait for it."""
        if self._over or self.is_elsewhere or self._loop is None:
            return
        threading.Thread(target=self.end, name=f"the end of {self.name}", daemon=True).start()

    def _serve(self) -> None:
        loop = self._loop
        assert loop is not None
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


class FarIterator:
    """An iterator whose other side runs in the thread of a loop.

    One who stops early closes it, by `close()` or a `with`; else that happens when nobody has
    it any more.

    Args:
        thread: of the loop.
        end: called in that thread when nobody wants more.
    """

    def __init__(self, thread: LoopThread, end: Callable[[], None]) -> None:
        self._thread = thread
        self._end = end
        self._begun = self._over = False

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Reads no more, and cancels what still runs; again changes nothing."""
        if not self._over:
            self._over = True
            if self._begun and not self._thread.is_elsewhere:
                self._thread.soon(self._end)

    def __del__(self) -> None:
        try:
            self.close()
        except PoolError:  # it was stopped, and this with it
            return


def result_of(future: Future[T]) -> T:
    """Waits for a future (rule 4)."""
    while True:
        try:
            return future.result(SLICE)
        except TimeoutError:
            if future.done():  # what it was for may have raised one
                return future.result()


def next_of(queue: SimpleQueue[T]) -> T:
    """Waits for what comes next (rule 4)."""
    while True:
        try:
            return queue.get(timeout=SLICE)
        except Empty:
            continue


class _Running:
    """A coroutine, and whoever waits for it in another thread."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self.result: Future[Any] = Future()
        self._work = work
        self._task: asyncio.Task[Any] | None = None

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self.result.cancel()
        elif (error := task.exception()) is not None:
            self.result.set_exception(error)
        else:
            self.result.set_result(task.result())


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # no uvloop for this platform
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
