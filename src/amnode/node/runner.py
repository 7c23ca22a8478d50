"""Runner: begins a coroutine in the turn in which it is asked to, in a task.

A task of asyncio takes its first step a turn after it was made. Most jobs are done with that
one step, so the turn, and the task, would cost more than they do. The runner keeps a task that
waits, wakes it by hand, and has it run the coroutine; one that is done without ever having
waited has left the task as it was, for the next.

Rules:

1. A coroutine runs in one task from its first step to its last: `current_task`, `timeout`, task
   groups and cancelling are what they are everywhere. Another coroutine has that task only if
   the first never waited, did not change its context, and did not cancel it.
2. In the task of somebody else nothing is begun at once; it is then begun a turn later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from types import coroutine
from typing import Any


class _Start:
    """What the task waits for: it looks like a future, and wakes the task when told to.

    A task hands its wake-up call to what it waits for. A future keeps it for the loop; this
    one keeps it for the runner.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self.wake_up: Callable[[Any], None] | None = None
        #: Called by the task when it wakes; what it gives is of no interest.
        self.result = int

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, callback: Callable[[Any], None], *, context: Context) -> None:
        self.wake_up = callback

    def cancel(self, msg: object = None) -> bool:
        """The task is cancelled while it waits: it wakes, and ends."""
        wake_up, self.wake_up = self.wake_up, None
        if wake_up is not None:
            self._loop.call_soon(wake_up, self)
        return False


class Runner:
    """Runs one coroutine after the other, each from the moment when it is given.

    Args:
        loop: the running loop.

    Attributes:
        spare: the task that waits for the next coroutine, if there is one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._start = _Start(loop)
        self.spare: asyncio.Task[None] | None = None
        self._context = Context()
        self._clean = self._context
        #: What the task is to run, and what it has run without waiting.
        self._coroutine: Coroutine[Any, Any, None] | None = None
        self._over: Coroutine[Any, Any, None] | None = None

    def begin(
        self, coroutine: Coroutine[Any, Any, None]
    ) -> tuple[asyncio.Task[None], Context] | None:
        """Runs a coroutine up to its first wait.

        It must let nothing out but what is to end the program, which is raised in the next turn
        of the loop.

        Returns:
            The task that goes on with it, and its context; None if it is over.
        """
        start = self._start
        if self.spare is None or start.wake_up is None or asyncio.current_task(self._loop):
            context = Context()
            return self._loop.create_task(coroutine, context=context), context
        task, wake_up = self.spare, start.wake_up
        self._coroutine = coroutine
        start.wake_up = None
        try:
            self._context.run(wake_up, start)
        except (SystemExit, KeyboardInterrupt) as error:
            self.spare = None
            task.exception()  # told here
            self._loop.call_soon(_raise, error)
            return None
        if self._over is not coroutine:  # it waits: the task is its own from now on (rule 1)
            self.spare = None
            return task, self._context
        self._over = None
        if self._context != self._clean or task.cancelling():
            self.close()
        return None

    def prepare(self) -> None:
        """Has a task wait for the next coroutine; it does so a turn later."""
        if self.spare is None:
            self._context = Context()
            self._clean = self._context.copy()
            self._start = _Start(self._loop)
            self.spare = self._loop.create_task(self._serve(), context=self._context)

    def close(self) -> None:
        """Lets the task go that waits."""
        task, self.spare = self.spare, None
        if task is not None:
            task.cancel()

    async def _serve(self) -> None:
        await self._serve_all()

    @coroutine
    def _serve_all(self) -> Generator[Any, None, None]:
        task = asyncio.current_task()
        start = self._start
        while True:
            start._asyncio_future_blocking = True  # pyright: ignore[reportPrivateUsage]
            yield start
            given, self._coroutine = self._coroutine, None
            if given is None:
                return
            yield from given.__await__()
            if self.spare is not task:
                return  # it has waited, so another has taken this one's place
            self._over = given


def _raise(error: BaseException) -> None:
    raise error
