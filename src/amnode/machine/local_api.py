"""LocalApi: what a machine here has beyond a replica of one elsewhere.

Its queue can be read and waited for, its errors caught, and it has its place among others:
tags, a parent, children, tracers that children inherit, hooks for its end, a door for other
threads. None of this costs anything where it isn't used: what is not set is a class attribute.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from amnode.errors import MachineDisposedError, MachineError
from amnode.machine.api import MachineApi
from amnode.machine.clock import FOLLOWED, RUNNING
from amnode.machine.queue import MutationQueue, MutationType, Result
from amnode.machine.resolve import relations_of
from amnode.machine.schema import EXCEPTION
from amnode.machine.waits import ArgsWait, Match, StateContext

if TYPE_CHECKING:
    from amnode.machine.breakpoints import Breakpoint
    from amnode.machine.machine import Machine
    from amnode.machine.queue_waits import QueueWait, QueueWaits
    from amnode.machine.snapshot import Snapshot
    from amnode.machine.story import Story
    from amnode.machine.threads import ThreadDoor
    from amnode.machine.tracing import Follower
    from amnode.machine.transition import Transition

logger = logging.getLogger("amnode.machine")

#: What `on_dispose` takes.
DisposeHook: TypeAlias = "Callable[[Machine], Awaitable[object] | None]"


class LocalApi(MachineApi):
    """The part of a `Machine` that needs no knowledge of transitions."""

    _queue: MutationQueue
    _disposed: bool

    #: Free text for people and tools.
    tags: tuple[str, ...] = ()
    #: The machine that this one is part of, or None.
    parent: Machine | None = None
    _children: dict[Machine, None] | None = None
    _queue_waits: QueueWaits | None = None
    _dispose_hooks: tuple[DisposeHook, ...] = ()
    _followers: tuple[Follower, ...] = ()
    _door: ThreadDoor | None = None
    _machine_tick: int = 0
    #: Random bytes that tell this very machine from others of its id, such as the one before a
    #: restart; set by the first server of it, and empty while there is none.
    incarnation: bytes = b""

    @property
    def _running(self) -> bool:
        """Whether a transition runs, or a check."""
        return self._clock.busy & RUNNING != 0

    @abstractmethod
    def _follow(self, changed: Sequence[int], args: object) -> None:
        """Steps 9 and 11 for what no handler sees: contexts, tasks and waits follow at once."""

    @abstractmethod
    def add_err_state(
        self, state: str, error: BaseException | None, args: object = None
    ) -> Result:
        """Records an error as `state` and Exception, in one mutation."""

    # -- the queue -------------------------------------------------------------------------

    def is_queued(
        self,
        type_: MutationType,
        states: Sequence[str],
        *,
        exactly: bool = False,
        without_args: bool = False,
    ) -> bool:
        """Whether a mutation waits that calls all of these states.

        Args:
            type_: ADD, REMOVE or SET; a toggle was decided when called.
            states: the names.
            exactly: it calls no other state.
            without_args: it has no arguments.
        """
        mask = self._mask(states)
        return any(
            m.type is type_
            and m.call.called_mask & mask == mask
            and not (exactly and m.call.called_mask != mask)
            and not (without_args and m.args is not None)
            for m in self._queue
        )

    def will_be(self, states: Sequence[str]) -> bool:
        """Whether a mutation waits that would activate all of these states: an add or a set."""
        return self.is_queued(MutationType.ADD, states) or self.is_queued(
            MutationType.SET, states
        )

    def will_be_removed(self, states: Sequence[str]) -> bool:
        """Whether a mutation waits that removes all of these states."""
        return self.is_queued(MutationType.REMOVE, states)

    # -- waiting ---------------------------------------------------------------------------

    def when_args(
        self, state: str, match: Match, *, ctx: StateContext | None = None
    ) -> ArgsWait:
        """Waits for a call of this state with arguments that match.

        Done when the state was activated (or, if it is Multi, called again) by a mutation with
        such arguments; never at once, since what went before has no arguments any more.

        Args:
            state: the name.
            match: fields with the values expected, or a predicate of the arguments.
            ctx: a state context; the wait ends with it.
        """
        return self._waits.add_args(self.index(state), match, context=ctx)

    def when_queue(self, result: Result | int, *, ctx: StateContext | None = None) -> QueueWait:
        """Waits until a mutation has run, and gives its outcome.

        Args:
            result: what the mutation returned, or a queue tick.
            ctx: a state context; the wait ends with it.

        Returns:
            A future of `EXECUTED` or `CANCELED`; at once if it has run. For a tick that the
            queue has reached it is None at once: outcomes are not kept.
        """
        return self._queue_waiting().until(result, ctx)

    def when_queue_ends(self, *, ctx: StateContext | None = None) -> QueueWait:
        """Waits until no transition runs and no mutation waits; at once if that is so."""
        idle = not self._running and not self._queue.pending
        return self._queue_waiting().until_end(ctx, over=idle)

    def _queue_waiting(self) -> QueueWaits:
        if self._queue_waits is None:
            from amnode.machine.queue_waits import QueueWaits  # late: few need it

            self._queue_waits = QueueWaits(cast("Machine", self))
        return self._queue_waits

    # -- errors ----------------------------------------------------------------------------

    @contextmanager
    def errors_as(self, state: str = EXCEPTION, args: object = None) -> Generator[None]:
        """Turns what the body raises into an error state; the caller goes on behind it.

        A cancellation, and what ends the program, passes through.

            with machine.errors_as("ErrNetwork"):
                await connect()

        Args:
            state: added together with Exception.
            args: what comes with it; handlers read it as `event.args.args`.
        """
        self.index(state)  # an unknown one is told here, not when something fails
        try:
            yield
        except Exception as error:
            self.add_err_state(state, error, args)

    # -- observing -------------------------------------------------------------------------

    def trace(self, tracer: object, *, inherit: bool = False) -> None:
        """Adds an observer; see `amnode.machine.tracing` for what it may have.

        Args:
            tracer: the observer.
            inherit: it also observes the children that are made from now on.
        """
        self._tracers.add(tracer, inherit=inherit)

    def follow(self, follower: Follower) -> None:
        """Has `follower.moved` called whenever states have moved; again changes nothing.

        It learns less than a tracer does at `transition_end`, and costs less: a mutation that
        nobody else sees makes no `Transition`. One that raises is dropped and reported.
        """
        if not any(known is follower for known in self._followers):
            self._followers = (*self._followers, follower)
            self._clock.busy |= FOLLOWED

    def unfollow(self, follower: Follower) -> None:
        """Removes a follower, if it is there."""
        self._followers = tuple(known for known in self._followers if known is not follower)
        if not self._followers:
            self._clock.busy &= ~FOLLOWED

    def _tell_followers(self, changed: Sequence[int]) -> None:
        ticks = self._clock.ticks
        for follower in self._followers:
            try:
                follower.moved(changed, ticks)
            except Exception:
                self._drop_follower(follower)

    def _tell_growth(self) -> None:
        for follower in self._followers:
            try:
                follower.schema_changed(cast("Machine", self))
            except Exception:
                self._drop_follower(follower)

    def _drop_follower(self, follower: Follower) -> None:
        self.unfollow(follower)
        logger.exception("Follower %r of machine %s raised and was dropped.", follower, self.id)

    def tell_story(self, limit: int = 100, *, inherit: bool = False) -> Story:
        """Keeps a log of what happens from now on and why; errors carry it as a note.

        Args:
            limit: how many transitions it holds; 100 by default, at least 1.
            inherit: it also tells of the children that are made from now on.

        Returns:
            The story; `untrace` ends it.
        """
        from amnode.machine.story import Story  # late: few need it

        story = Story(limit)
        self.trace(story, inherit=inherit)
        return story

    def add_breakpoint(
        self,
        callback: Callable[[Transition], object],
        *,
        added: Sequence[str] = (),
        removed: Sequence[str] = (),
    ) -> Breakpoint:
        """Calls back when one transition has activated and deactivated all of these states.

        Args:
            callback: takes the transition; called before the final handlers run.
            added: the states that must have been activated (or, if Multi, called again).
            removed: those that must have been deactivated.

        Returns:
            What `remove_breakpoint` takes.

        Raises:
            OptionError: no state is given.
        """
        from amnode.machine.breakpoints import Breakpoint  # late: few need it

        made = Breakpoint(callback, self._mask(added), self._mask(removed))
        self.trace(made)
        return made

    def remove_breakpoint(self, breakpoint_: Breakpoint) -> None:
        """Takes a breakpoint away."""
        self.untrace(breakpoint_)

    # -- other threads ---------------------------------------------------------------------

    def thread_door(self) -> ThreadDoor:
        """The one door through which other threads may change this machine.

        It is made on the machine's own loop, and then handed to the threads.

        Raises:
            MachineError: no loop runs here.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise MachineError(
                f"The thread door of machine {self.id} is made on its running loop."
            ) from None
        if self._door is None or self._door.loop is not loop:
            from amnode.machine.threads import ThreadDoor  # late: few need it

            self._door = ThreadDoor(cast("Machine", self), loop)
        return self._door

    # -- family ----------------------------------------------------------------------------

    @property
    def children(self) -> tuple[Machine, ...]:
        """The machines that are part of this one, in the order in which they were made."""
        return tuple(self._children or ())

    def _join(self, parent: Machine) -> None:
        """Becomes part of another machine, and gets the tracers that it hands on."""
        if parent._disposed:
            raise MachineDisposedError(
                f"Machine {parent.id} was disposed, so {self.id} cannot be part of it."
            )
        self.parent = parent
        if parent._children is None:
            parent._children = {}
        parent._children[cast("Machine", self)] = None
        for tracer in parent._tracers.inherited:
            self._tracers.add(tracer, inherit=True)

    def _leave(self) -> None:
        if self.parent is not None and self.parent._children is not None:
            self.parent._children.pop(cast("Machine", self), None)

    # -- going on elsewhere ----------------------------------------------------------------

    def export(self) -> Snapshot:
        """All that the machine remembers of its time; see `amnode.machine.snapshot`.

        Raises:
            MachineError: a transition is running.
        """
        from amnode.machine.snapshot import Snapshot  # late: few need it

        self._settled("be exported")
        return Snapshot(
            id=self.id,
            names=self.schema.names,
            time=self.time(),
            active=tuple(self.active_states()),
            queue_tick=self.queue_tick,
            machine_tick=self.machine_tick,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes on from a snapshot: time, machine order and queue tick are those saved.

        The machine tick becomes the saved one plus 1. No handler is called; waits that came
        true resolve, contexts of states that moved end. Ticks never fall, so a machine that
        has gone further than the snapshot refuses it. Tracers are not told, since this is no
        transition: restore a machine before others follow it.

        Raises:
            MachineError: the snapshot is of another machine, schema or time, or contradicts
                the relations, or a transition is running.
        """
        self._settled("be restored")
        if snapshot.id != self.id:
            raise MachineError(
                f"The snapshot is of machine {snapshot.id}, so {self.id} cannot go on from it."
            )
        snapshot.check(self.schema)
        relations = relations_of(self.schema)
        order = [self.index(name) for name in snapshot.active]
        try:
            relations.check(order)
        except AssertionError as broken:
            raise MachineError(f"The snapshot breaks the relations: {broken}.") from None
        steps = [then - now for then, now in zip(snapshot.time, self.time(), strict=False)]
        if min(steps) < 0 or snapshot.queue_tick < self.queue_tick:
            raise MachineError(f"Machine {self.id} at {self.time()} is past the snapshot.")
        for state, step in enumerate(steps):
            self._clock.advance(state, step)
        self._clock.arrange(order)
        self._queue.tick = snapshot.queue_tick
        self._machine_tick = snapshot.machine_tick + 1
        self._follow([state for state, step in enumerate(steps) if step], None)

    def _settled(self, what: str) -> None:
        """Raises where a machine can not be taken as it stands."""
        if self._disposed:
            raise self._disposed_error()
        if self._running or self._queue.pending:
            raise MachineError(f"Machine {self.id} cannot {what} while a transition runs.")

    # -- the end ---------------------------------------------------------------------------

    def on_dispose(self, hook: DisposeHook) -> None:
        """Has something called when the machine is disposed, after its tasks have ended.

        Hooks run in the order in which they came. One that raises is logged; the others run.

        Args:
            hook: a function of the machine, async or not.

        Raises:
            MachineDisposedError: the machine is disposed already.
        """
        if self._disposed:
            raise self._disposed_error()
        self._dispose_hooks = (*self._dispose_hooks, hook)

    async def _run_dispose_hooks(self) -> None:
        hooks, self._dispose_hooks = self._dispose_hooks, ()
        for hook in hooks:
            try:
                answer: Any = hook(cast("Machine", self))
                if inspect.isawaitable(answer):
                    await answer
            except Exception:
                logger.exception("A dispose hook of machine %s raised: %r", self.id, hook)

    def _disposed_error(self) -> MachineDisposedError:
        return MachineDisposedError(f"Machine {self.id} was disposed.")
