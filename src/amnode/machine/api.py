"""MachineApi: what a machine here and a replica of one elsewhere have in common.

Everything that reads or waits is concrete, local and synchronous: it asks the clock that both
kinds keep. Everything that changes states is abstract: a `Machine` decides it, a replica sends
it to its source.

Forms: `is_` takes a sequence of names, `is1` one name, and so on for all the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence

from amnode.errors import OptionError
from amnode.machine.clock import Clock, is_active_tick
from amnode.machine.queue import Result
from amnode.machine.resolve import bits, relations_of
from amnode.machine.schema import EXCEPTION, Schema
from amnode.machine.tracing import Tracers
from amnode.machine.waits import (
    ClockView,
    EndWait,
    QueryWait,
    StateContext,
    Wait,
    WaitIndex,
)


class MachineApi(ABC):
    """Reads, waits and mutations of a machine, local or remote.

    Args:
        schema: the states and how they relate.
        id: of the machine; unique among those that talk to each other.
    """

    def __init__(self, schema: Schema, *, id: str) -> None:
        self.id = id
        self.schema = schema
        self._clock = Clock(len(schema), relations_of(schema).ranked)
        self._made_waits: WaitIndex | None = None
        self._tracers = Tracers(self, self._clock)

    # -- what it is ----------------------------------------------------------------------

    @property
    def root_id(self) -> str:
        """The id of the machine whose states these are: of a replica, that of its source."""
        return self.id

    @property
    def followed_states(self) -> Sequence[int]:
        """The indexes of the states whose ticks are known here, ascending: all of a machine."""
        return range(len(self.schema))

    def ticks(self) -> Sequence[int]:
        """The ticks of all states in schema order; not a copy. 0 for what is not followed."""
        return self._clock.ticks

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of the states, in the order of machine time."""
        return self.schema.names

    @property
    @abstractmethod
    def queue_tick(self) -> int:
        """How many appended mutations were taken off the queue, plus 1."""

    @property
    @abstractmethod
    def machine_tick(self) -> int:
        """Grows when the machine is restored; fences what knew it before."""

    def has(self, *states: str) -> bool:
        """Whether the machine has all these states, active or not."""
        return all(state in self.schema for state in states)

    def index(self, state: str) -> int:
        """The position of a state in machine time.

        Raises:
            StateUnknownError: there is no such state.
        """
        return self.schema.index(state)

    # -- reading -------------------------------------------------------------------------

    def is1(self, state: str) -> bool:
        """Whether this state is active."""
        return self._clock.mask >> self.schema.index(state) & 1 == 1

    def mask_of(self, states: Sequence[str]) -> int:
        """What `has_active` takes, for who asks often."""
        return self._mask(states)

    def has_active(self, mask: int) -> bool:
        """Whether at least one of the states of a mask is active; see `mask_of`."""
        return self._clock.mask & mask != 0

    def is_(self, states: Sequence[str]) -> bool:
        """Whether all of these states are active."""
        mask = self._mask(states)
        return self._clock.mask & mask == mask

    def not1(self, state: str) -> bool:
        """Whether this state is inactive."""
        return not self.is1(state)

    def not_(self, states: Sequence[str]) -> bool:
        """Whether none of these states is active."""
        return not self._clock.mask & self._mask(states)

    def any1(self, *states: str) -> bool:
        """Whether at least one of these states is active."""
        return bool(self._clock.mask & self._mask(states))

    def any_(self, *groups: Sequence[str]) -> bool:
        """Whether all states of at least one of these groups are active."""
        return any(self.is_(group) for group in groups)

    def tick(self, state: str) -> int:
        """The tick of one state: odd means active."""
        return self._clock.ticks[self.index(state)]

    def time(self, states: Sequence[str] | None = None) -> tuple[int, ...]:
        """The ticks of these states, or of all in schema order."""
        if states is None:
            return tuple(self._clock.ticks)
        return tuple(self.tick(state) for state in states)

    def clock(self, states: Sequence[str] | None = None) -> dict[str, int]:
        """The ticks of these states, or of all, by name."""
        names = self.state_names if states is None else states
        return dict(zip(names, self.time(states), strict=True))

    def is_time(self, time: Sequence[int], states: Sequence[str] | None = None) -> bool:
        """Whether these states, or all, are at exactly these ticks.

        Raises:
            OptionError: there is not one tick for each state.
        """
        return all(now == then for now, then in self._beside(time, states))

    def was_time(self, time: Sequence[int], states: Sequence[str] | None = None) -> bool:
        """Whether these states, or all, have reached these ticks, now or before.

        Raises:
            OptionError: there is not one tick for each state.
        """
        return all(now >= then for now, then in self._beside(time, states))

    def is_clock(self, clock: Mapping[str, int]) -> bool:
        """Whether each of these states is at exactly its tick."""
        return all(self.tick(state) == tick for state, tick in clock.items())

    def _beside(
        self, time: Sequence[int], states: Sequence[str] | None
    ) -> list[tuple[int, int]]:
        now = self.time(states)
        if len(now) != len(time):
            raise OptionError(f"{len(now)} states and {len(time)} ticks; give one each.")
        return list(zip(now, time, strict=True))

    def switch(self, *states: str) -> str | None:
        """The first of these states that is active, or None; made for `match`."""
        return next((state for state in states if self.is1(state)), None)

    def active_states(self) -> list[str]:
        """The names of the active states, in machine order."""
        return [self.schema.names[i] for i in self._clock.active()]

    def __str__(self) -> str:
        """The active states with their ticks, such as `(Foo:1 Bar:3)`."""
        return f"({' '.join(f'{s}:{self.tick(s)}' for s in self.active_states())})"

    def str_all(self) -> str:
        """The long form, with the inactive states: `(Foo:1 Bar:3) [Baz:2]`."""
        inactive = (f"{s}:{self.tick(s)}" for s in self.state_names if self.not1(s))
        return f"{self} [{' '.join(inactive)}]"

    def inspect(self) -> str:
        """Every state on a line of its own, with its tick; active ones are marked."""
        active = self._clock.mask
        return "\n".join(
            f"{'|' if active >> i & 1 else ' '} {name} {self._clock.ticks[i]}"
            for i, name in enumerate(self.schema.names)
        )

    # -- waiting -------------------------------------------------------------------------

    def when(self, states: Sequence[str], *, ctx: StateContext | None = None) -> Wait:
        """Waits until all of these states are active at once.

        Args:
            states: the names.
            ctx: a state context; the wait ends with it.

        Returns:
            A future, done at once if they are. Cancelling it leaves nothing behind.

        Raises:
            StateUnknownError: there is no such state.
            ContextExpiredError: (awaiting) the context ended first.
            MachineDisposedError: (awaiting) the machine was disposed first.
        """
        return self._waits.add(active=self._mask(states), context=ctx)

    def when1(self, state: str, *, ctx: StateContext | None = None) -> Wait:
        """Waits until this state is active; see `when`."""
        return self._waits.add(active=1 << self.index(state), context=ctx)

    def when_not(self, states: Sequence[str], *, ctx: StateContext | None = None) -> Wait:
        """Waits until none of these states is active; see `when`."""
        return self._waits.add(inactive=self._mask(states), context=ctx)

    def when_not1(self, state: str, *, ctx: StateContext | None = None) -> Wait:
        """Waits until this state is inactive; see `when`."""
        return self._waits.add(inactive=1 << self.index(state), context=ctx)

    def when_time(
        self, states: Sequence[str], ticks: Sequence[int], *, ctx: StateContext | None = None
    ) -> Wait:
        """Waits until each of these states has reached its tick; see `when`.

        Raises:
            OptionError: there is not one tick for each state.
        """
        if len(states) != len(ticks):
            raise OptionError(f"{len(states)} states and {len(ticks)} ticks; give one each.")
        goals = tuple(zip(map(self.index, states), ticks, strict=True))
        return self._waits.add(ticks=goals, context=ctx)

    def when_ticks(self, state: str, ticks: int, *, ctx: StateContext | None = None) -> Wait:
        """Waits until the tick of this state has moved by `ticks` from now; see `when`."""
        index = self.index(state)
        return self._waits.add(ticks=((index, self._clock.ticks[index] + ticks),), context=ctx)

    def when_next_active(self, state: str, *, ctx: StateContext | None = None) -> Wait:
        """Waits until this state is activated again, from now; see `when`.

        If it is active now, that is its next activation, or its next call if it is Multi.
        """
        now = self.tick(state)
        return self.when_ticks(state, 2 if is_active_tick(now) else 1, ctx=ctx)

    def when_query(
        self, query: Callable[[ClockView], bool], *, ctx: StateContext | None = None
    ) -> QueryWait:
        """Waits until a predicate of the clock is true; see `when`.

        It is asked now, and after every transition that changes something, so it costs that
        much while it is pending; the other waits cost nothing.

        Args:
            query: takes the ticks by state name. What it raises later ends the wait.
            ctx: a state context; the wait ends with it.
        """
        return self._waits.add_query(query, context=ctx)

    def when_disposed(self, *, ctx: StateContext | None = None) -> EndWait:
        """Waits until the machine is no more, or the replica lost its source; see `when`.

        Unlike the other waits it does not end with an error then.
        """
        return self._waits.add_end(context=ctx)

    def when_err(self, *, ctx: StateContext | None = None) -> Wait:
        """Waits until there is an error that has not been handled; see `when`."""
        return self.when1(EXCEPTION, ctx=ctx)

    def state_ctx(self, state: str) -> StateContext:
        """A context that is valid until the tick of this state changes."""
        return StateContext(self._waits, self._clock, self.index(state), state)

    # -- changing ------------------------------------------------------------------------

    @abstractmethod
    def add(self, states: Sequence[str], args: object = None) -> Result | Awaitable[Result]:
        """Asks for states to become active."""

    @abstractmethod
    def add1(self, state: str, args: object = None) -> Result | Awaitable[Result]:
        """Asks for one state to become active."""

    @abstractmethod
    def remove1(self, state: str, args: object = None) -> Result | Awaitable[Result]:
        """Asks for one state to become inactive."""

    @abstractmethod
    def remove(self, states: Sequence[str], args: object = None) -> Result | Awaitable[Result]:
        """Asks for states to become inactive."""

    @abstractmethod
    def set(self, states: Sequence[str], args: object = None) -> Result | Awaitable[Result]:
        """Asks for exactly these states to be active."""

    @abstractmethod
    def toggle(self, states: Sequence[str], args: object = None) -> Result | Awaitable[Result]:
        """Removes the states if all are active, else adds them."""

    @abstractmethod
    def add_err(self, error: BaseException | None) -> Result | Awaitable[Result]:
        """Records an error: the state Exception, with the error as its argument."""

    # -- observing -----------------------------------------------------------------------

    def trace(self, tracer: object) -> None:
        """Adds an observer; see `amnode.machine.tracing` for what it may have."""
        self._tracers.add(tracer)

    def untrace(self, tracer: object) -> None:
        """Removes an observer."""
        self._tracers.remove(tracer)

    # -- inside --------------------------------------------------------------------------

    @property
    def _waits(self) -> WaitIndex:
        """The waits and contexts, made when first asked for: most machines have none."""
        made = self._made_waits
        if made is None:
            made = self._made_waits = WaitIndex(self, self._clock)
        return made

    def _mask(self, states: Sequence[str]) -> int:
        if isinstance(states, str):
            states = (states,)
        return bits(self.schema.index(state) for state in states)
