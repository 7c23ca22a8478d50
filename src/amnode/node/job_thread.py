"""The one thread on which a worker runs code that blocks.

Rules:

1. It is started by the first call, and is a daemon: it keeps no process alive.
2. What is given to it runs in that order, one at a time, in the context of who gave it.
3. What a call came to is a value and an error, never an exception of the future: a
   `StopIteration` cannot be one, and a `SystemExit` would end whatever loop is near.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any, TypeAlias

#: What a call came to.
Came: TypeAlias = "tuple[Any, BaseException | None]"
_Order: TypeAlias = (
    "tuple[Context, Callable[[], Any], asyncio.AbstractEventLoop, asyncio.Future[Came]]"
)


class JobThread:
    """Runs calls on a thread of its own.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, call: Callable[[], Any]) -> asyncio.Future[Came]:
        """Has the thread make a call; cancelling the future does not stop it."""
        loop = asyncio.get_running_loop()
        came: asyncio.Future[Came] = loop.create_future()
        if self._thread is None:
            self._thread = threading.Thread(
                target=_work, args=(self._orders,), name=self._name, daemon=True
            )
            self._thread.start()
        self._orders.put((copy_context(), call, loop, came))
        return came

    def close(self) -> None:
        """Lets the thread end once it has done what it was given."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread = None


def _work(orders: SimpleQueue[_Order | None]) -> None:
    while (order := orders.get()) is not None:
        context, call, loop, came = order
        value, error = None, None
        try:
            value = context.run(call)
        except BaseException as raised:  # whatever it is, it is the caller's (rule 3)
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, came, value, error)
        del order, context, call, came, value, error  # nothing is kept while it waits


def _settle(came: asyncio.Future[Came], value: Any, error: BaseException | None) -> None:
    if not came.done():
        came.set_result((value, error))
