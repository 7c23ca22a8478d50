"""The items of a streamed job, from its generator to the client.

Rules:

1. A generator is asked for its next item when the one before could be sent, so a client that
   reads slowly holds it back at its `yield`. One on the thread may be `AHEAD` items further.
2. Whatever ends the stream, the generator is closed: what its `finally` has to do is done when
   the job is over.
3. Where the thread of the worker runs the generator, nothing but the end of that ends the job.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

from amnode.node.job_thread import JobThread

#: Items that wait to be sent while the thread makes the next; each is in memory.
AHEAD = 4

#: Makes what is sent of an item.
Encode: TypeAlias = "Callable[[Any], object]"
#: Sends it, once there is room for it.
Send: TypeAlias = "Callable[[object], Awaitable[None]]"


async def send_all(items: AsyncIterator[Any], encode: Encode, send: Send) -> None:
    """Sends what an async generator gives.

    Raises:
        Exception: what the generator raised.
    """
    try:
        async for item in items:
            await send(encode(item))
    finally:
        aclose = getattr(items, "aclose", None)
        if aclose is not None:
            await aclose()  # rule 2


async def send_from_thread(
    thread: JobThread, make: Callable[[], Iterator[Any]], encode: Encode, send: Send
) -> None:
    """Sends what a generator gives that runs on the thread.

    Args:
        thread: of the worker.
        make: makes the generator, on the thread.
        encode: called on the thread.
        send: called on the loop.

    Raises:
        BaseException: what the generator raised.
    """
    belt = _Belt(asyncio.get_running_loop())
    came = thread.run(lambda: belt.feed(make, encode))
    came.add_done_callback(lambda _came: belt.wake())
    try:
        await belt.send_all(came, send)
    except BaseException:
        belt.stop()
        await _to_its_end(came)
        raise
    _value, error = came.result()
    if error is not None:
        raise error


class _Belt:
    """Carries items from the thread to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[object] = deque()
        self._room = threading.Semaphore(AHEAD)
        self._came = asyncio.Event()
        #: Whether the loop is about to look; set by the thread, taken back by the loop.
        self._told = False
        self._stopped = False

    # -- on the thread ---------------------------------------------------------------------

    def feed(self, make: Callable[[], Iterator[Any]], encode: Encode) -> None:
        """Runs the generator to its end, or until it is stopped."""
        items = make()
        try:
            for item in items:
                self._room.acquire()
                if self._stopped:
                    return
                self._items.append(encode(item))
                self._tell()
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()  # rule 2

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._came.set)

    # -- on the loop -----------------------------------------------------------------------

    def wake(self) -> None:
        """Something has changed."""
        self._came.set()

    def stop(self) -> None:
        """Nobody wants more; the generator is closed at its next item."""
        self._stopped = True
        self._room.release()

    async def send_all(self, came: asyncio.Future[Any], send: Send) -> None:
        """Sends the items, until the generator has ended."""
        while True:
            self._told = False
            while self._items:
                await send(self._items.popleft())
                self._room.release()
            if came.done() and not self._items:
                return
            await self._came.wait()
            self._came.clear()


async def _to_its_end(came: asyncio.Future[Any]) -> None:
    """Rule 3: being cancelled meanwhile changes nothing."""
    while not came.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait((came,))
