"""Waiting for states: futures that a transition resolves, and contexts that it ends.

A wait costs nothing while it isn't true. It is registered under *one* thing that is still
missing (a state to come, a state to go, a tick to be reached), and only a transition that
brings this very thing looks at it: if something else is missing then, the wait moves there.
This is the watched literal of SAT solvers. Making, resolving and dropping a wait are O(1) in
the number of waits pending.

Cancelling a wait takes it out of the index at once, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from amnode.errors import ContextExpiredError
from amnode.machine.clock import Clock, is_active_tick
from amnode.machine.resolve import each

T = TypeVar("T")


class Wait(asyncio.Future[None]):
    """A future that is done when its condition came true.

    The condition is a conjunction: states that must be active, states that must not be, and
    ticks that must be reached.
    """

    def __init__(self, active: int, inactive: int, ticks: tuple[tuple[int, int], ...]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.active = active
        self.inactive = inactive
        self.ticks = ticks
        #: Where the wait is kept, and under which key of which dictionary that is.
        self.shelf: dict[Wait, None] | None = None
        self.place: tuple[dict[Any, dict[Wait, None]], Any] | None = None
        self.context: StateContext | None = None

    def drop(self) -> None:
        """Takes the wait out of the index."""
        if self.shelf is not None and self.place is not None:
            self.shelf.pop(self, None)
            shelves, key = self.place
            if not self.shelf and shelves.get(key) is self.shelf:
                del shelves[key]
            self.shelf = None
        if self.context is not None:
            self.context.release(self)
            self.context = None

    def cancel(self, msg: Any = None) -> bool:
        """Cancels the wait; nothing of it is left in the index."""
        self.drop()
        return super().cancel(msg)


class WaitIndex:
    """All waits and state contexts of one machine."""

    __slots__ = ("_clock", "_contexts", "_shelves", "_ticks", "closed")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: Waits for state i to become active (i, True) or inactive (i, False).
        self._shelves: dict[tuple[int, bool], dict[Wait, None]] = {}
        #: Waits for state i to reach a tick.
        self._ticks: dict[int, dict[int, dict[Wait, None]]] = {}
        self._contexts: dict[int, dict[StateContext, None]] = {}
        #: Why no wait can come true any more; None while they can.
        self.closed: Exception | None = None

    def add(
        self,
        *,
        active: int = 0,
        inactive: int = 0,
        ticks: tuple[tuple[int, int], ...] = (),
        context: StateContext | None = None,
    ) -> Wait:
        """A wait for a condition; done at once if it is true already.

        Args:
            active: mask of the states that must be active.
            inactive: mask of the states that must not be.
            ticks: pairs of a state and the tick that it must have reached.
            context: ends the wait with `ContextExpiredError` when it expires.
        """
        wait = Wait(active, inactive, ticks)
        if context is not None and not context.valid:
            wait.set_exception(context.expired_error())
        elif self.closed is not None:
            if self._place(wait):
                wait.drop()
                wait.set_exception(self.closed)
        elif self._place(wait) and context is not None:
            wait.context = context
            context.watch()
            context.waits[wait] = None
        return wait

    def changed(self, states: Iterable[int]) -> None:
        """Step 11: resolves what came true with the new ticks of `states`."""
        shelves, ticks = self._shelves, self._ticks
        if not shelves and not ticks:
            return
        for state in states:
            tick = self._clock.ticks[state]
            shelf = shelves.pop((state, is_active_tick(tick)), None)
            if shelf:
                self._look_again(shelf)
            reached = ticks.get(state)
            if reached:
                for goal in [goal for goal in reached if goal <= tick]:
                    self._look_again(reached.pop(goal))

    def expire(self, states: Iterable[int]) -> None:
        """Step 9: ends the contexts of states whose tick changed."""
        if self._contexts:
            for state in states:
                for context in self._contexts.pop(state, ()):
                    context.end()

    def register(self, context: StateContext) -> None:
        """Has a context told when its state's tick changes."""
        self._contexts.setdefault(context.state, {})[context] = None

    def forget(self, context: StateContext) -> None:
        """Takes a context out that nobody waits on any more."""
        watched = self._contexts.get(context.state)
        if watched is not None:
            watched.pop(context, None)
            if not watched:
                del self._contexts[context.state]

    def close(self, error: Exception) -> None:
        """Ends every wait with `error`, and every context; later waits end so at once."""
        self.closed = error
        shelves = [*self._shelves.values()]
        shelves.extend(shelf for reached in self._ticks.values() for shelf in reached.values())
        self._shelves.clear()
        self._ticks.clear()
        for shelf in shelves:
            for wait in shelf:
                wait.shelf = None
                wait.drop()
                if not wait.done():
                    wait.set_exception(error)
        for contexts in [*self._contexts.values()]:
            for context in [*contexts]:
                context.end()
        self._contexts.clear()

    def __len__(self) -> int:
        """How many waits are pending."""
        ticked = (shelf for reached in self._ticks.values() for shelf in reached.values())
        return sum(len(shelf) for shelf in (*self._shelves.values(), *ticked))

    def _look_again(self, shelf: dict[Wait, None]) -> None:
        for wait in shelf:
            wait.shelf = None
            self._place(wait)

    def _place(self, wait: Wait) -> bool:
        """Puts a wait where the next missing thing is, or resolves it; False if resolved."""
        clock = self._clock
        if missing := wait.active & ~clock.mask:
            wait.place = self._shelves, (next(each(missing)), True)
        elif present := wait.inactive & clock.mask:
            wait.place = self._shelves, (next(each(present)), False)
        elif early := next(((i, t) for i, t in wait.ticks if clock.ticks[i] < t), None):
            wait.place = self._ticks.setdefault(early[0], {}), early[1]
        else:
            wait.drop()
            if not wait.done():
                wait.set_result(None)
            return False
        shelves, key = wait.place
        wait.shelf = shelves.setdefault(key, {})
        wait.shelf[wait] = None
        return True


class StateContext:
    """Valid until the tick of one state changes.

    Check it, await its end, or run a coroutine that is cancelled when it ends:

        ctx = machine.state_ctx("Connected")
        ...
        if not ctx.valid: return

    Attributes:
        name: of the state.
        tick: of the state when the context was made.
        waits: those that end with it.
    """

    __slots__ = ("_ended", "_index", "_ticks", "name", "state", "tick", "waits", "watched")

    def __init__(self, index: WaitIndex, clock: Clock, state: int, name: str) -> None:
        self._index = index
        self._ticks = clock.ticks
        self.state = state
        self.name = name
        self.tick = clock.ticks[state]
        self.waits: dict[Wait, None] = {}
        self.watched: dict[asyncio.Future[None], None] = {}
        self._ended = index.closed is not None

    @property
    def valid(self) -> bool:
        """Whether the state is still in the same activation, or the same pause."""
        return not self._ended and self._ticks[self.state] == self.tick

    def expired_error(self) -> ContextExpiredError:
        """What a wait tied to this context ends with."""
        return ContextExpiredError(
            f"The context of {self.name} at tick {self.tick} ended before the wait did."
        )

    async def ended(self) -> None:
        """Waits for the end of the context; returns at once if it has ended."""
        if not self.valid:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.watch()
        self.watched[future] = None
        try:
            await future
        finally:
            self.watched.pop(future, None)
            self._forget_if_unused()

    async def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine that is cancelled when the context ends.

        Raises:
            ContextExpiredError: the context ended first.
        """
        if not self.valid:
            coro.close()
            raise self.expired_error()
        task = asyncio.ensure_future(coro)
        end = asyncio.ensure_future(self.ended())
        try:
            await asyncio.wait((task, end), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise self.expired_error()
        finally:
            for left in (task, end):
                left.cancel()
            await asyncio.gather(task, end, return_exceptions=True)

    def watch(self) -> None:
        """Registers the context, so that its end is told."""
        self._index.register(self)

    def end(self) -> None:
        """Called when the tick changed, or the machine is no more."""
        self._ended = True
        for wait in [*self.waits]:
            wait.drop()
            if not wait.done():
                wait.set_exception(self.expired_error())
        for future in self.watched:
            if not future.done():
                future.set_result(None)

    def release(self, wait: Wait) -> None:
        """Called by a wait that ended by itself."""
        self.waits.pop(wait, None)
        self._forget_if_unused()

    def _forget_if_unused(self) -> None:
        if not self.waits and not self.watched:
            self._index.forget(self)
