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
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

from amnode.errors import ContextExpiredError
from amnode.machine.clock import WATCHED, Clock, is_active_tick
from amnode.machine.resolve import each

if TYPE_CHECKING:
    from amnode.machine.api import MachineApi
    from amnode.machine.schema import Schema

T = TypeVar("T")

#: Instead of a tick: a wait for the state to be active, not to be, or to be called with
#: arguments. Ticks are never negative.
_ACTIVE, _INACTIVE, _CALLED = -1, -2, -3

#: The places of waits that belong to no state: those that ask a predicate after each change,
#: and those that wait for the end.
_QUERY, _END = (-1, -4), (-1, -5)

#: What the arguments of a call must be: a predicate, or fields with the values expected.
Match: TypeAlias = "Callable[[Any], bool] | Mapping[str, object]"


class Home(Protocol):
    """Whoever keeps pending waits."""

    def discard(self, wait: Pending[Any]) -> None:
        """Takes a wait out that will not come true."""
        ...


class Pending(asyncio.Future[T]):
    """A future that somebody keeps until its condition comes true.

    Attributes:
        place: where its home keeps it; None once it is out.
        context: the state context that ends it, or None.
    """

    def __init__(self, home: Home) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.place: tuple[int, int] | None = None
        self.context: StateContext | None = None
        self._home = home

    def describe(self) -> str:
        """What is waited for, in words, and how far it is from true."""
        raise NotImplementedError

    def drop(self) -> None:
        """Takes the wait out of its home and out of its context."""
        if self.place is not None:
            self._home.discard(self)
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
        """Cancels the wait; nothing of it is left."""
        self.drop()
        return super().cancel(msg)


class Wait(Pending[None]):
    """A future that is done when its condition came true.

    The condition is a conjunction: states that must be active, states that must not be, and
    ticks that must be reached.
    """

    def __init__(
        self, index: WaitIndex, active: int, inactive: int, ticks: tuple[tuple[int, int], ...]
    ) -> None:
        super().__init__(index)
        self.active = active
        self.inactive = inactive
        self.ticks = ticks
        self._index = index

    def describe(self) -> str:
        """What is waited for, and what of it is not true now."""
        return self._index.describe(self.active, self.inactive, self.ticks)


class ArgsWait(Pending[None]):
    """Done when a state is called with arguments that match."""

    def __init__(self, index: WaitIndex, state: int, match: Match) -> None:
        super().__init__(index)
        self.place = state, _CALLED
        self._match = match
        self._index = index

    def accepts(self, args: object) -> bool:
        """Whether these arguments are what is waited for."""
        if callable(self._match):
            return self._match(args)
        return all(_field(args, name) == value for name, value in self._match.items())

    def describe(self) -> str:
        """The state, and what its arguments should be."""
        assert self.place is not None
        name = self._index.names[self.place[0]]
        return f"{self._index.machine_id}: {name} called with {self._match!r}"


class QueryWait(Pending[None]):
    """Done when a predicate of the clock is true."""

    def __init__(self, index: WaitIndex, query: Callable[[ClockView], bool]) -> None:
        super().__init__(index)
        self.query = query
        self._index = index

    def describe(self) -> str:
        """The predicate, by its name."""
        name = getattr(self.query, "__qualname__", repr(self.query))
        return f"{self._index.machine_id}: the query {name}"


class EndWait(Pending[None]):
    """Done when the machine is no more."""

    def __init__(self, index: WaitIndex) -> None:
        super().__init__(index)
        self._index = index

    def describe(self) -> str:
        """Whose end."""
        return f"{self._index.machine_id}: disposed"


class ClockView(Mapping[str, int]):
    """The ticks of a machine by name, as they are whenever one is read."""

    __slots__ = ("_clock", "_schema")

    def __init__(self, schema: Schema, clock: Clock) -> None:
        self._schema = schema
        self._clock = clock

    def __getitem__(self, state: str) -> int:
        return self._clock.ticks[self._schema.index(state)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._schema.names)

    def __len__(self) -> int:
        return len(self._schema)


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
        era: grows when the clocks become those of another machine.
    """

    __slots__ = ("_clock", "_goals", "_machine", "closed", "contexts", "era", "shelves")

    def __init__(self, machine: MachineApi, clock: Clock) -> None:
        self._machine = machine
        self._clock = clock
        self._goals: dict[int, _Goals] = {}
        self.shelves: dict[tuple[int, int], dict[Pending[None], None]] = {}
        self.contexts: dict[int, dict[StateContext, None]] = {}
        self.closed: Exception | None = None
        self.era = 0

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
        else:
            self._begin(wait, context)
        return wait

    def add_args(
        self, state: int, match: Match, *, context: StateContext | None = None
    ) -> ArgsWait:
        """A wait for a call of a state with arguments that match."""
        wait = ArgsWait(self, state, match)
        self._shelf((state, _CALLED))[wait] = None
        self._begin(wait, context)
        return wait

    def add_query(
        self, query: Callable[[ClockView], bool], *, context: StateContext | None = None
    ) -> QueryWait:
        """A wait for a predicate, which is asked now and after each change."""
        wait = QueryWait(self, query)
        if context is not None and not context.valid:
            wait.fail(context.expired_error())
        elif query(self.view()):
            wait.set_result(None)
        else:
            wait.place = _QUERY
            self._shelf(_QUERY)[wait] = None
            self._begin(wait, context)
        return wait

    def add_end(self, *, context: StateContext | None = None) -> EndWait:
        """A wait for the end of the machine; the only kind that the end does not fail."""
        wait = EndWait(self)
        if self.closed is not None:
            wait.set_result(None)
        else:
            wait.place = _END
            self.shelves.setdefault(_END, {})[wait] = None
            self._begin(wait, context)
        return wait

    def _begin(self, wait: Pending[Any], context: StateContext | None) -> None:
        """What holds for every wait that is not true yet."""
        if self.closed is not None:
            wait.fail(self.closed)
        elif context is not None and not context.valid:
            wait.fail(context.expired_error())
        elif context is not None:
            context.hold(wait)

    def view(self) -> ClockView:
        """The ticks by name."""
        return ClockView(self._machine.schema, self._clock)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the states."""
        return self._machine.schema.names

    @property
    def machine_id(self) -> str:
        """Of the machine, for messages."""
        return self._machine.id

    def describe(
        self, active: int, inactive: int, ticks: tuple[tuple[int, int], ...] = ()
    ) -> str:
        """A condition in words; what of it is not true now says so."""
        mask, names = self._clock.mask, self.names
        parts = [f"{names[i]}{'' if mask >> i & 1 else ' (is not)'}" for i in each(active)]
        parts += [f"not {names[i]}{' (it is)' * (mask >> i & 1)}" for i in each(inactive)]
        parts += [
            f"{names[i]} at tick {goal} (is at {self._clock.ticks[i]})" for i, goal in ticks
        ]
        return f"{self.machine_id}: {', '.join(parts)}"

    def changed(self, states: Iterable[int], args: object = None) -> None:
        """Step 11: resolves what came true with the new ticks of `states`.

        Args:
            states: those whose tick moved.
            args: of the mutation that moved them.
        """
        shelves = self.shelves
        if not shelves:
            return
        moved = False
        for state in states:
            moved = True
            tick = self._clock.ticks[state]
            if is_active_tick(tick):
                self._look_again(state, _ACTIVE)
                if (state, _CALLED) in shelves:
                    self._called(state, args)
            else:
                self._look_again(state, _INACTIVE)
            goals = self._goals.get(state)
            for goal in () if goals is None else goals.reached(tick):
                self._look_again(state, goal)
        if moved and _QUERY in shelves:
            self._ask_queries()

    def ask(self) -> None:
        """Asks the queries again: something moved that is not a state."""
        if _QUERY in self.shelves:
            self._ask_queries()

    def _called(self, state: int, args: object) -> None:
        for wait in [*self.shelves[state, _CALLED]]:
            accepts = cast("ArgsWait", wait).accepts
            self._resolve_if(wait, lambda accepts=accepts: accepts(args))

    def _ask_queries(self) -> None:
        view = self.view()
        for wait in [*self.shelves[_QUERY]]:
            query = cast("QueryWait", wait).query
            self._resolve_if(wait, lambda query=query: query(view))

    def _resolve_if(self, wait: Pending[None], true: Callable[[], bool]) -> None:
        """Resolves a wait whose user's code says so; if that raises, its waiter is told."""
        if wait.done():  # another one's code cancelled it
            return
        try:
            if not true():
                return
        except Exception as error:
            wait.fail(error)
            return
        wait.drop()
        wait.set_result(None)

    def expire(self, states: Iterable[int]) -> None:
        """Step 9: ends the contexts of states whose tick changed."""
        if self.contexts:
            for state in states:
                for context in self.contexts.pop(state, ()):
                    context.end()

    def register(self, context: StateContext) -> None:
        """Has a context told when its state's tick changes."""
        self.contexts.setdefault(context.state, {})[context] = None
        self._clock.watch(context.state)

    def forget(self, context: StateContext) -> None:
        """Takes a context out that nobody waits on any more."""
        watched = self.contexts.get(context.state, {})
        watched.pop(context, None)
        if not watched:
            self.contexts.pop(context.state, None)

    def discard(self, wait: Pending[Any]) -> None:
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
        for wait in [*self.shelves.get(_END, ())]:
            wait.drop()
            wait.set_result(None)
        for shelf in [*self.shelves.values()]:
            for wait in [*shelf]:
                wait.fail(error)
        self._end_contexts()

    def _end_contexts(self) -> None:
        for contexts in [*self.contexts.values()]:
            for context in [*contexts]:
                context.end()
        self.contexts.clear()

    def restart(self, error: Exception) -> None:
        """The clocks are those of another machine: ends what refers to the ticks of the old
        one.

        Waits for ticks fail with `error`, and every context ends; waits for states go on.
        """
        self.era += 1
        for (state, _), shelf in [*self.shelves.items()]:
            for wait in [*shelf]:
                if state >= 0 and isinstance(wait, Wait) and wait.ticks:
                    wait.fail(error)
        self._end_contexts()

    def __len__(self) -> int:
        """How many waits are pending."""
        return sum(len(shelf) for shelf in self.shelves.values())

    def _shelf(self, place: tuple[int, int]) -> dict[Pending[None], None]:
        """Where a wait goes that has to be told of changes."""
        if place[0] >= 0:
            self._clock.watch(place[0])
        elif place == _QUERY:
            self._clock.busy |= WATCHED
        return self.shelves.setdefault(place, {})

    def watches(self, state: int) -> bool:
        """Whether anybody waits for this very state to move."""
        shelves = self.shelves
        return (
            (state, _ACTIVE) in shelves
            or (state, _INACTIVE) in shelves
            or (state, _CALLED) in shelves
            or state in self._goals
            or state in self.contexts
        )

    @property
    def asks(self) -> bool:
        """Whether anybody has to be asked whatever moves."""
        return _QUERY in self.shelves

    def _look_again(self, state: int, goal: int) -> None:
        for pending in self._take((state, goal)):
            wait = cast("Wait", pending)
            wait.place = None
            if not self._place(wait):
                wait.drop()
                wait.set_result(None)

    def _take(self, place: tuple[int, int]) -> dict[Pending[None], None]:
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
        self._shelf(place)[wait] = None
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

    __slots__ = (
        "_ended",
        "_era",
        "_index",
        "_ticks",
        "name",
        "state",
        "tick",
        "waits",
        "watched",
    )

    def __init__(self, index: WaitIndex, clock: Clock, state: int, name: str) -> None:
        self._index = index
        self._ticks = clock.ticks
        self.state = state
        self.name = name
        self.tick = clock.ticks[state]
        self.waits: dict[Pending[Any], None] = {}
        self.watched: dict[asyncio.Future[None], None] = {}
        self._ended = index.closed is not None
        self._era = index.era

    @property
    def valid(self) -> bool:
        """Whether the state is still in the same activation, or the same pause."""
        return (
            not self._ended
            and self._ticks[self.state] == self.tick
            and self._era == self._index.era
        )

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

    def hold(self, wait: Pending[Any]) -> None:
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

    def release(self, wait: Pending[Any]) -> None:
        """Called by a wait that ended by itself."""
        self.waits.pop(wait, None)
        self._forget_if_unused()

    def _forget_if_unused(self) -> None:
        if not self.waits and not self.watched:
            self._index.forget(self)


def _field(args: object, name: str) -> object:
    """A field of arguments that are a mapping or an object; `...` if they lack it."""
    if isinstance(args, Mapping):
        return cast("Mapping[str, object]", args).get(name, ...)
    return getattr(args, name, ...)
