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


#: Instead of a tick: a wait for the state to be active, or not to be. Ticks are never negative.
_ACTIVE, _INACTIVE = -1, -2


class Wait(asyncio.Future[None]):
    """A future that is done when its condition came true.

    The condition is a conjunction: states that must be active, states that must not be, and
    ticks that must be reached.
    """

    def __init__(
        self, index: WaitIndex, active: int, inactive: int, ticks: tuple[tuple[int, int], ...]
    ) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.active = active
        self.inactive = inactive
        self.ticks = ticks
        #: Where the index keeps it: a state, and what is waited for of it.
        self.place: tuple[int, int] | None = None
        self.context: StateContext | None = None
        self._index = index

    def drop(self) -> None:
        """Takes the wait out of the index and out of its context."""
        if self.place is not None:
            self._index.discard(self)
        if self.context is not None:
            self.context.release(self)
            self.context = None

    def fail(self, error: Exception) -> None:
        """Ends the wait with an error, which only those who await it are told."""
        self.drop()
        if not self.done():
            self.set_exception(error)
            self.exception()  # or the loop would report one that nobody awaits

    def cancel(self, msg: Any = None) -> bool:
        """Cancels the wait; nothing of it is left in the index."""
        self.drop()
        return super().cancel(msg)


class _Goals:
    """The ticks of one state that are waited for, and the tick up to which they were served."""

    __slots__ = ("served", "ticks")

    def __init__(self, served: int) -> None:
        self.served = served
        self.ticks: dict[int, None] = {}

    def reached(self, tick: int) -> list[int]:
        """Those that were not served yet, at the cost of the fewer: ticks passed, or goals."""
        passed = range(self.served + 1, tick + 1)
        self.served = tick
        if len(passed) < len(self.ticks):
            return [goal for goal in passed if goal in self.ticks]
        return [goal for goal in self.ticks if goal <= tick]


class WaitIndex:
    """All waits and state contexts of one machine.

    Attributes:
        shelves: the waits, by state and what is waited for of it.
        contexts: those that somebody waits on or with, by state.
        closed: why no wait can come true any more; None while they can.
    """

    __slots__ = ("_clock", "_goals", "closed", "contexts", "shelves")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._goals: dict[int, _Goals] = {}
        self.shelves: dict[tuple[int, int], dict[Wait, None]] = {}
        self.contexts: dict[int, dict[StateContext, None]] = {}
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
        wait = Wait(self, active, inactive, ticks)
        if context is not None and not context.valid:
            wait.fail(context.expired_error())
        elif not self._place(wait):
            wait.set_result(None)
        elif self.closed is not None:
            wait.fail(self.closed)
        elif context is not None:
            context.hold(wait)
        return wait

    def changed(self, states: Iterable[int]) -> None:
        """Step 11: resolves what came true with the new ticks of `states`."""
        if not self.shelves:
            return
        for state in states:
            tick = self._clock.ticks[state]
            self._look_again(state, _ACTIVE if is_active_tick(tick) else _INACTIVE)
            goals = self._goals.get(state)
            for goal in () if goals is None else goals.reached(tick):
                self._look_again(state, goal)

    def expire(self, states: Iterable[int]) -> None:
        """Step 9: ends the contexts of states whose tick changed."""
        if self.contexts:
            for state in states:
                for context in self.contexts.pop(state, ()):
                    context.end()

    def register(self, context: StateContext) -> None:
        """Has a context told when its state's tick changes."""
        self.contexts.setdefault(context.state, {})[context] = None

    def forget(self, context: StateContext) -> None:
        """Takes a context out that nobody waits on any more."""
        watched = self.contexts.get(context.state, {})
        watched.pop(context, None)
        if not watched:
            self.contexts.pop(context.state, None)

    def discard(self, wait: Wait) -> None:
        """Takes a wait out that will not come true."""
        assert wait.place is not None
        shelf = self.shelves[wait.place]
        del shelf[wait]
        if not shelf:
            self._take(wait.place)
        wait.place = None

    def close(self, error: Exception) -> None:
        """Ends every wait with `error`, and every context; later waits end so at once."""
        self.closed = error
        for shelf in [*self.shelves.values()]:
            for wait in [*shelf]:
                wait.fail(error)
        for contexts in [*self.contexts.values()]:
            for context in [*contexts]:
                context.end()
        self.contexts.clear()

    def __len__(self) -> int:
        """How many waits are pending."""
        return sum(len(shelf) for shelf in self.shelves.values())

    def _look_again(self, state: int, goal: int) -> None:
        for wait in self._take((state, goal)):
            wait.place = None
            if not self._place(wait):
                wait.drop()
                wait.set_result(None)

    def _take(self, place: tuple[int, int]) -> dict[Wait, None]:
        """Takes a whole shelf out."""
        state, goal = place
        if goal >= 0:
            goals = self._goals[state]
            del goals.ticks[goal]
            if not goals.ticks:
                del self._goals[state]
        return self.shelves.pop(place, {})

    def _place(self, wait: Wait) -> bool:
        """Puts a wait where the next missing thing is; False if none is missing."""
        clock = self._clock
        if missing := wait.active & ~clock.mask:
            place = next(each(missing)), _ACTIVE
        elif present := wait.inactive & clock.mask:
            place = next(each(present)), _INACTIVE
        else:
            early = (goal for goal in wait.ticks if clock.ticks[goal[0]] < goal[1])
            goal = next(early, None)
            if goal is None:
                return False
            place = goal
            if goal[0] not in self._goals:
                self._goals[goal[0]] = _Goals(clock.ticks[goal[0]])
            self._goals[goal[0]].ticks[goal[1]] = None
        wait.place = place
        self.shelves.setdefault(place, {})[wait] = None
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
        self._index.register(self)
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

    def hold(self, wait: Wait) -> None:
        """Ties a wait to this context: it ends with it."""
        wait.context = self
        self.waits[wait] = None
        self._index.register(self)

    def end(self) -> None:
        """Called when the tick changed, or the machine is no more."""
        self._ended = True
        for wait in [*self.waits]:
            wait.fail(self.expired_error())
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
