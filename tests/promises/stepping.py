"""Cancels a coroutine at its k-th suspension: in it, or in the very turn in which it would
go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any


class Stepped:
    """An awaitable that passes every suspension of another on, and strikes at one of them.

    Args:
        inner: what is awaited.
        at: the suspension to strike at, from 1.
        strike: called in the task that awaits; by default cancels it.
        late: strike when what is waited for is there, before the task knows of it.

    Attributes:
        suspensions: how many there were.
    """

    def __init__(
        self,
        inner: Awaitable[Any],
        at: int,
        *,
        late: bool,
        strike: Callable[[asyncio.Task[Any]], None] = lambda task: task.cancel() and None,
    ) -> None:
        self._inner = inner
        self._at = at
        self._late = late
        self._strike = strike
        self.suspensions = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._inner.__await__()
        thrown: BaseException | None = None
        while True:
            try:
                waited_for = steps.send(None) if thrown is None else steps.throw(thrown)
            except StopIteration as end:
                return end.value
            self.suspensions += 1
            if self.suspensions == self._at:
                self._arm(task, waited_for)
            try:
                yield waited_for
            except BaseException as error:  # passed on, whatever it is
                thrown = error
            else:
                thrown = None

    def _arm(self, task: asyncio.Task[Any], waited_for: Any) -> None:
        if not self._late:
            self._strike(task)
        elif waited_for is None:  # a bare turn of the loop
            asyncio.get_running_loop().call_soon(self._strike, task)
        else:  # ahead of the task's own callback
            waited_for.add_done_callback(lambda _done: self._strike(task))


async def cancelled_at(make: Callable[[], Awaitable[Any]], at: int, *, late: bool) -> Any:
    """Runs it in a task of its own; what it came to, or None if it was cancelled.

    Raises:
        EndOfSteps: it has not so many suspensions.
    """
    stepped = Stepped(make(), at, late=late)

    async def run() -> Any:
        return await stepped

    try:
        found = await asyncio.create_task(run())
    except asyncio.CancelledError:
        return None
    if stepped.suspensions < at:
        raise EndOfSteps(found)
    return found


class EndOfSteps(Exception):
    """It ended before the step at which it was to be cancelled; has what it came to."""
