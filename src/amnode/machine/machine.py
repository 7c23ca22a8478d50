"""Machine: owns the queue and the clock, and runs what the other files decide.

Rules:

1. One transition at a time. What is asked for meanwhile is queued; the top-level call drains
   the queue and answers for its own mutation.
2. A machine belongs to one event loop and needs no lock.
3. A handler that raises never raises out of a mutation: it becomes the state Exception.
4. Tasks belong to a state and are cancelled when it is deactivated, or to the machine and are
   cancelled when it is disposed. A task is not cancelled by a mutation that it made itself: it
   goes on to its end, as one of the machine.
5. An Exception that an automatic transition raised tries no automatic states: they would raise
   again, without end.

Past 800 lines, because each way into a transition stands here, beside the queue of all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any

from amnode.errors import BindingError, MachineError, StateArgsError
from amnode.machine.binding import Binding, table_of
from amnode.machine.clock import FOLLOWED, RUNNING, WATCHED
from amnode.machine.fast_path import FastPath
from amnode.machine.plan import Call, Plan, Planner, planner_for
from amnode.machine.queue import (
    CANCELED,
    EXECUTED,
    Check,
    Mutation,
    MutationQueue,
    MutationType,
    Queued,
    Result,
)
from amnode.machine.resolve import relations_of
from amnode.machine.schema import EXCEPTION, Schema, State, States
from amnode.machine.transition import (
    CAUSE,
    Event,
    ObservedTransition,
    Transition,
    call_handler,
)

logger = logging.getLogger("amnode.machine")

_ADD, _REMOVE = MutationType.ADD, MutationType.REMOVE

#: The owner of tasks that no state owns.
_MACHINE = -1

#: The owned task whose code this is, or that of a task which it started and may wait for.
_OWNED: ContextVar[asyncio.Task[Any] | None] = ContextVar("amnode_owned", default=None)


class ErrorArgs:
    """What comes with Exception and with every `Err*` state.

    Attributes:
        error: the exception.
        traceback: where it was raised, as text; "" if it was not.
        handler: the event of the handler that raised it, or None.
        args: what the caller of `add_err_state` passed along.
    """

    __slots__ = ("args", "error", "handler", "traceback")

    def __init__(
        self, error: BaseException, handler: Event | None = None, args: object = None
    ) -> None:
        self.error = error
        self.handler = handler
        self.args = args
        self.traceback = _traceback_of(error)

    def __repr__(self) -> str:
        return f"ErrorArgs({self.error!r})"


class Machine(FastPath):
    """An observable state machine.

    Args:
        schema: a `Schema`, or a `States` class that declares one.
        id: of the machine; unique among those that talk to each other.
        queue_limit: how many mutations may wait; 1000 by default, at least 1.
        cached: False computes each transition afresh. Slower, and the same in all else.
        parent: a machine that this one is part of: it ends with it, and has the tracers that
            the parent hands on.
        tags: free text for people and tools.
        tracers: observers from the start; see `trace`.
        handler_timeout: seconds that a handler may hold the loop before it is reported with
            its stack, as `ErrHandlerTimeout` where the schema has that; None, the default,
            watches nothing. Needs a running loop.

    Raises:
        MachineError: there is a `handler_timeout`, and no loop runs here.
        MachineDisposedError: the parent was disposed.
    """

    #: Tasks that wait for their turn, by the state that owns them.
    _waiting: dict[int, deque[tuple[Context, Coroutine[Any, Any, Any], Event]]] | None = None

    def __init__(
        self,
        schema: Schema | type[States],
        *,
        id: str,
        queue_limit: int = 1000,
        cached: bool = True,
        parent: Machine | None = None,
        tags: Sequence[str] = (),
        tracers: Sequence[object] = (),
        handler_timeout: float | None = None,
    ) -> None:
        super().__init__(schema if isinstance(schema, Schema) else schema.schema(), id=id)
        #: The last error recorded; it outlives the state Exception.
        self.err: BaseException | None = None
        self._queue = MutationQueue(queue_limit)
        self._cached = cached
        self._bindings: tuple[Binding, ...] = ()
        self._owners: tuple[object, ...] = ()
        self._planner: Planner = self._find_planner()
        self._disposed = False
        self._tasks: dict[int, dict[asyncio.Task[Any], None]] = {}
        if parent is not None or tags or tracers or handler_timeout is not None:
            self._place(parent, tags, tracers, handler_timeout)

    def _place(
        self,
        parent: Machine | None,
        tags: Sequence[str],
        tracers: Sequence[object],
        handler_timeout: float | None,
    ) -> None:
        """The parts of `__init__` that few machines need."""
        if handler_timeout is not None:
            from amnode.machine.watchdog import WATCHDOG  # late: it needs threads

            WATCHDOG.watch(self, handler_timeout)
        self.tags = tuple(tags)
        if parent is not None:
            self._join(parent)
        for tracer in tracers:
            self._tracers.add(tracer)
        if self._tracers.all:
            self._tracers.tell("machine_init", self)

    # -- what it is ----------------------------------------------------------------------

    @property
    def queue_tick(self) -> int:
        """How many appended mutations were taken off the queue, plus 1."""
        return self._queue.tick

    @property
    def machine_tick(self) -> int:
        """Grows when the machine is restored; 0 for one that never was."""
        return self._machine_tick

    @property
    def disposed(self) -> bool:
        """Whether the machine is no more."""
        return self._disposed

    @property
    def is_err(self) -> bool:
        """Whether there is an error that has not been handled."""
        return self.is1(EXCEPTION)

    def __repr__(self) -> str:
        return f"<Machine {self.id} {self}>"

    # -- handlers ------------------------------------------------------------------------

    def bind(self, handlers: object) -> Binding:
        """Binds the handlers of an object (its methods) or of a mapping of functions.

        Args:
            handlers: an object whose methods are named after states, such as `FooState`, or a
                mapping of such names to functions of one argument, the event.

        Returns:
            What `detach` takes.

        Raises:
            BindingError: a name that looks like a handler fits no state, or could mean two
                things, or is no plain function where it must be.
        """
        number = 1 + max((bound.id for bound in self._bindings), default=0)
        binding = Binding(table_of(self.schema, handlers), handlers, number)
        self._rebind((*self._bindings, binding))
        return binding

    def detach(self, binding: Binding) -> None:
        """Takes a binding off.

        Raises:
            BindingError: it is not bound here.
        """
        if binding not in self._bindings:
            raise BindingError(f"{binding!r} is not bound to machine {self.id}.")
        self._rebind(tuple(b for b in self._bindings if b is not binding))

    def _rebind(self, bindings: tuple[Binding, ...]) -> None:
        self._bindings = bindings
        self._owners = tuple(binding.owner for binding in bindings)
        self._planner = self._find_planner()
        for mutation in self._queue:
            call = mutation.call
            mutation.call = self._planner.call(call.type, call.called, auto=call.auto)

    def _find_planner(self) -> Planner:
        tables = [binding.table for binding in self._bindings]
        return planner_for(self.schema, tuple(tables), cached=self._cached)

    # -- changing ------------------------------------------------------------------------

    def add_err(self, error: BaseException | None) -> Result:
        """Records an error: `err` is set, and Exception is added with `ErrorArgs`.

        No error, or a cancellation, adds nothing and is EXECUTED.
        """
        return self._add_error((EXCEPTION,), error, None, None)

    def add_err_state(
        self, state: str, error: BaseException | None, args: object = None
    ) -> Result:
        """Records an error as `state` and Exception, in one mutation; see `add_err`."""
        return self._add_error((state, EXCEPTION), error, args, None)

    def _add_error(
        self,
        states: tuple[str, ...],
        error: BaseException | None,
        args: object,
        handler: Event | None,
    ) -> Result:
        if error is None or isinstance(error, asyncio.CancelledError):
            return EXECUTED
        if self._disposed:
            return CANCELED
        self.err = error
        return self.add(states, ErrorArgs(error, handler, args))

    # -- asking only ---------------------------------------------------------------------

    def can_add1(self, state: str, args: object = None) -> bool:
        """Whether one state could become active now; see `can_add`."""
        return self._check(self._planner.named(_ADD, state), args)

    def can_remove1(self, state: str, args: object = None) -> bool:
        """Whether one state could become inactive now; see `can_add`."""
        return self._check(self._planner.named(_REMOVE, state), args)

    def can_add(self, states: Sequence[str], args: object = None) -> bool:
        """Whether states could become active now: relations and handlers are asked.

        Nothing changes: no tick, no queue, no automatic state; what a handler asks for
        meanwhile is canceled, and what it raises is logged and taken for a refusal. Handlers
        can see `event.is_check`. Also right inside a transition, where it asks about now.

        Raises:
            StateUnknownError: there is no such state.
            StateArgsError: the arguments are not what a state declares.
        """
        names = states if isinstance(states, str) else tuple(states)
        return self._check(self._planner.named(_ADD, names), args)

    def can_remove(self, states: Sequence[str], args: object = None) -> bool:
        """Whether states could become inactive now; see `can_add`."""
        names = states if isinstance(states, str) else tuple(states)
        return self._check(self._planner.named(_REMOVE, names), args)

    def _check(self, call: Call, args: object) -> bool:
        if self._disposed:
            return False
        args = self._typed(call, args)
        check = Transition(
            self, Check(call, args, cause=CAUSE.get()), self._planner.plan(call, self._clock)
        )
        clock = self._clock
        running, clock.busy = clock.busy & RUNNING, clock.busy | RUNNING
        try:
            accepted = check.check(self._planner, clock, self._owners)
        finally:
            clock.busy = running | clock.busy & ~RUNNING
        if check.error is not None:
            event, error = check.error
            logger.error(
                "Handler %s of machine %s raised when asked.",
                event.name,
                self.id,
                exc_info=error,
            )
            _pass_on(error)
        return accepted

    def _typed(self, call: Call, args: object) -> object:
        """The arguments as the called states declare them; see `amnode.machine.arguments`."""
        declared = self.schema.args
        if not declared or call.type is _REMOVE or call.auto or isinstance(args, ErrorArgs):
            return args
        from amnode.machine.arguments import checked  # late: few schemas declare any

        return checked(declared, [self.schema.names[i] for i in call.called], args)

    def _typed_first(self, call: Call, args: object) -> object:
        """The same for a mutation that was counted already, and is not if it is refused."""
        try:
            return self._typed(call, args)
        except StateArgsError:
            self._queue.tick -= 1
            raise

    # -- the queue -----------------------------------------------------------------------

    def _mutate(self, call: Call, args: object, origin: object) -> Result:
        """Makes a mutation the whole way; `fast_path` has the short one."""
        clock, queue = self._clock, self._queue
        busy = clock.busy
        if busy & RUNNING or self._disposed:
            return self._enqueue(call, args, origin)
        plan = self._planner.plan(call, clock)
        if plan.brief and not busy & plan.touches & ~FOLLOWED:
            return self._mutate_brief(plan, args, origin)
        queue.tick += 1
        clock.busy = busy | RUNNING
        try:
            result = self._execute(call, args, origin, None)
            self._drain()
        finally:
            clock.busy = self._watched()
        if self._tracers.all:
            self._tracers.tell("queue_end", self)
        return result

    def _mutate_brief(self, plan: Plan, args: object, origin: object) -> Result:
        """What the fast path does where one handler is asked, followers are told of it, or
        automatic states may follow, and nobody else sees it.
        """
        self._queue.tick += 1
        clock, asked = self._clock, plan.asked
        if asked is not None:
            idle = clock.busy
            clock.busy = busy = idle | RUNNING
            event = Event(self, asked.step, args, plan, origin, CAUSE.get())
            try:
                answer = call_handler(self._owners, asked, event)
            except BaseException as error:
                return self._after_asked(event, None, error)
            if not (answer is True or answer is None) or clock.busy != busy:
                return self._after_asked(event, answer, None)
            clock.busy = idle
        plan.apply(clock)
        if plan.solo is not None:
            # Those of a transition that became a whole one were told of it, and are again.
            result = self._run_solo(plan.solo, plan, args, origin)
        else:
            result = EXECUTED
        if plan.changed:
            if self._followers:
                self._tell_followers(plan.changed)
            planner = self._planner
            if (
                planner.may_have_autos
                and planner.autos(clock.mask) is not None
                and not plan.call.quiet
            ):
                self._follow_with_autos(plan.call)
        return result

    def _follow_with_autos(self, call: Call) -> None:
        """Step 11 after a transition that nobody saw."""
        self._clock.busy |= RUNNING
        try:
            self._try_autos(call, None)
            self._drain()
        finally:
            self._clock.busy = self._watched()

    def _after_asked(self, event: Event, answer: object, error: BaseException | None) -> Result:
        """Goes on after the one handler that was asked and said more than yes."""
        clock, transition = self._clock, event.transition
        try:
            if error is None and answer is not False:
                error = transition.coroutine_error(event, answer)
            if error is not None:
                transition.error = (event, error)
            if error is not None or answer is False:
                transition.accepted = False
            else:
                steps = self._planner.steps(transition.mutation.call, transition.plan, clock)
                transition.change(
                    self._planner, clock, self._owners, self._expire, transition.plan, steps
                )
            self._conclude(transition)
            if transition.accepted and transition.changed:
                self._try_autos(transition.mutation.call, transition.mutation)
            self._drain()
        finally:
            clock.busy = self._watched()
        if self._tracers.all:
            self._tracers.tell("queue_end", self)
        return EXECUTED if transition.accepted else CANCELED

    def _drain(self) -> None:
        queue = self._queue
        while queue.pending:
            self._run_queued(queue.take())

    def _after_solo(
        self, event: Event, returned: object, error: BaseException | None
    ) -> Result:
        transition = event.transition
        try:
            transition.finish_solo(
                self._planner, self._clock, event, returned, error, self._expire
            )
            self._conclude(transition)
            if transition.accepted and transition.changed:
                self._try_autos(transition.mutation.call, transition.mutation)
            self._drain()
        finally:
            self._clock.busy = self._watched()
        if self._tracers.all:
            self._tracers.tell("queue_end", self)
        return EXECUTED if transition.accepted else CANCELED

    def _watched(self) -> int:
        """What the clock is busy with after a transition: all who may want to be told are here.

        A whole machine order ends with a change, which the fast path would not notice.
        """
        waits, clock = self._made_waits, self._clock
        watched = (
            self._tracers.all
            or (waits is not None and waits.asks)
            or self._queue.pending
            or self._disposed
            or clock.arranged is not None
        )
        return clock.busy & ~(RUNNING | WATCHED) | (WATCHED if watched else 0)

    def _unwatch(self, moved: Sequence[int]) -> None:
        """Takes back that states are watched which have moved, if nobody is left to be told."""
        waits, tasks, clock = self._made_waits, self._tasks, self._clock
        if clock.busy > RUNNING | WATCHED | FOLLOWED:
            for state in moved:
                if state not in tasks and not (waits is not None and waits.watches(state)):
                    clock.unwatch(state)

    def _enqueue(self, call: Call, args: object, origin: object) -> Result:
        """Rule 1: what is asked for during a transition waits its turn."""
        queue = self._queue
        if self._disposed:
            return CANCELED
        if self.schema.args:
            args = self._typed(call, args)
        if (
            call.type is _REMOVE
            and not queue.pending
            and not call.called_mask & self._clock.mask
        ):
            return EXECUTED
        if args is None and not call.calls_multi and queue.has_equal(call):
            return EXECUTED
        if queue.full and not self._must_queue(call):
            return CANCELED
        cause = CAUSE.get()
        if cause is not None and cause.is_check and cause.machine is self:
            return CANCELED  # a check changes nothing, nor do its handlers
        mutation = Mutation(call, args, origin, cause)
        tick = queue.append(mutation)
        self._clock.busy |= WATCHED
        mutation.result = Queued(tick, self._make_future)
        if self._tracers.all:
            self._tracers.tell("mutation_queued", self, mutation)
        return mutation.result

    def _must_queue(self, call: Call) -> bool:
        exception = self.index(EXCEPTION)
        return (
            call.type is _ADD
            and exception in call.called
            and not self._clock.mask >> exception & 1
            and not self._queue.is_called(_ADD, exception)
        )

    def _run_queued(self, mutation: Mutation) -> None:
        result = CANCELED
        try:
            if not self._disposed:
                result = self._execute(mutation.call, mutation.args, mutation.origin, mutation)
        finally:
            if mutation.result is not None:
                mutation.result.settle(result)

    def _make_future(self) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().create_future()

    # -- a transition ----------------------------------------------------------------------

    def _execute(
        self, call: Call, args: object, origin: object, mutation: Mutation | None
    ) -> Result:
        """Runs one mutation: all that a handler or an observer sees, as a `Transition`."""
        clock, planner = self._clock, self._planner
        if mutation is None and self.schema.args:
            args = self._typed_first(call, args)
        plan = planner.plan(call, clock)
        if plan.unseen and not call.auto and not self._tracers.all:
            plan.apply(clock)
            changed = plan.changed
            self._follow(changed, args)
        else:
            if mutation is None:
                mutation = Mutation(call, args, origin, CAUSE.get())
            transition = self._run_transition(mutation, plan)
            if not transition.accepted:
                return CANCELED
            changed = transition.changed
        if changed and planner.relations.auto_mask:
            self._try_autos(call, mutation)
        return EXECUTED

    def _follow(self, changed: Sequence[int], args: object) -> None:
        """Steps 9 and 11 for what nobody sees: contexts, tasks and waits follow at once."""
        self._expire(changed)
        if self._made_waits is not None:
            self._made_waits.changed(changed, args)
        self._unwatch(changed)
        if self._followers:
            self._tell_followers(changed)

    def _try_autos(self, call: Call, mutation: Mutation | None) -> None:
        """Step 11: the automatic states are tried next, unless this was about them."""
        if call.auto or call.quiet or (mutation is not None and mutation.quiet):
            return
        autos = self._planner.autos(self._clock.mask)
        if autos is not None:
            cause = CAUSE.get() if mutation is None else mutation.cause
            self._prepend(Mutation(autos, cause=cause))

    def _prepend(self, mutation: Mutation) -> None:
        self._queue.prepend(mutation)
        if self._tracers.all:
            self._tracers.tell("mutation_queued", self, mutation)

    def _run_transition(self, mutation: Mutation, plan: Plan) -> Transition:
        if self._tracers.all:
            transition = self._run_observed(mutation, plan)
        else:
            transition = Transition(self, mutation, plan)
            transition.run(self._planner, self._clock, self._owners, self._expire)
        self._conclude(transition)
        return transition

    def _conclude(self, transition: Transition) -> None:
        """Step 11 of what a handler or an observer sees: errors, tasks, waits, observers."""
        if transition.error is not None:
            self._handler_raised(transition, *transition.error)
        for owner, coro, event in transition.started:
            self._own(owner, coro, event)
        if transition.changed:
            if self._made_waits is not None:
                self._made_waits.changed(transition.changed, transition.mutation.args)
            self._unwatch(transition.changed)
            if self._followers:
                self._tell_followers(transition.changed)
        if self._tracers.all:
            self._tracers.tell("transition_end", transition)
        if transition.error is not None:
            _pass_on(transition.error[1])

    def _run_observed(self, mutation: Mutation, plan: Plan) -> Transition:
        """The same with tracers, which are told of each step that they know."""
        tracers = self._tracers
        if tracers.handlers:
            transition = ObservedTransition(self, mutation, plan, tracers.tell)
        else:
            transition = Transition(self, mutation, plan)
        told = False

        def on_change(changed: Sequence[int]) -> None:
            nonlocal told
            self._expire(changed)
            if not told:
                told = True
                tracers.tell("transition_finals", transition)

        tracers.tell("transition_start", transition)
        transition.run(self._planner, self._clock, self._owners, on_change)
        return transition

    def _handler_raised(
        self, transition: Transition, event: Event, error: BaseException
    ) -> None:
        """Rule 3: the error goes first in the queue, unless it is about an error already."""
        self.err = error
        if self._disposed:
            return
        exception = self.index(EXCEPTION)
        if exception in transition.called:
            logger.error(
                "Handler %s of machine %s raised while an error was being handled.",
                event.name,
                self.id,
                exc_info=error,
            )
            return
        call = self._planner.call(_ADD, (exception,))
        mutation = Mutation(call, ErrorArgs(error, event), cause=event)
        mutation.quiet = transition.auto  # rule 5
        self._prepend(mutation)

    def _expire(self, changed: Sequence[int]) -> None:
        """Step 9: contexts end, and so do the tasks of states that are active no more."""
        if self._made_waits is not None:
            self._made_waits.expire(changed)
        for state in changed if self._tasks else ():
            if state in self._tasks and not self._clock.mask >> state & 1:
                maker = _owned_task()
                if self._waiting:
                    self._stop_waiting(state)
                for task in self._tasks.pop(state):
                    # Those that end stay known until they have: dispose waits for them.
                    self._tasks.setdefault(_MACHINE, {})[task] = None
                    if task is not maker:  # rule 4
                        task.cancel()

    # -- growing -----------------------------------------------------------------------------

    def grow(self, states: Mapping[str, State]) -> None:
        """Adds states to the schema, behind the others, which keep their ticks and places.

        Handlers that are bound may name the new states. Replicas that follow the machine go on
        with the states that they know; those that connect from now on know the new ones, which
        are closed to them. The schema's version is the number of its states.

        Raises:
            SchemaError: a state exists already, or contradicts others; nothing was added.
            BindingError: a bound handler could now mean two things; nothing was added.
            MachineError: a transition is running.
        """
        self._settled("grow")
        schema = self.schema.grown(states)
        tables = [table_of(schema, binding.owner) for binding in self._bindings]
        order = tuple(self._clock.active())
        self.schema = schema
        self._clock.ticks += [0] * len(states)
        self._clock.ranked = relations_of(schema).ranked
        self._clock.arrange(order)
        for binding, table in zip(self._bindings, tables, strict=True):
            binding.table = table
        self._rebind(self._bindings)
        self._tracers.tell("schema_changed", self)
        self._tell_growth()

    # -- tasks -----------------------------------------------------------------------------

    def spawn(self, state: str | None, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs a coroutine as a task that `state` owns: cancelled when it is deactivated.

        What the task raises becomes an Exception of this machine.

        Args:
            state: the owner; None for the machine, which cancels the task when disposed.
            coro: what to run.

        Raises:
            StateUnknownError: there is no such state.
            MachineError: the state is not active.
            MachineDisposedError: the machine is disposed.
        """
        try:
            owner = _MACHINE if state is None else self.index(state)
            if self._disposed:
                raise self._disposed_error()
            if owner != _MACHINE and not self._clock.mask >> owner & 1:
                raise MachineError(
                    f"Machine {self.id} has no active {state}, so no task can belong to it."
                )
            return self._start_task(owner, coro, CAUSE.get())
        except BaseException:
            coro.close()
            raise

    def owner_of(self, task: asyncio.Task[Any]) -> str | None:
        """The state that owns a task, or the machine's id for its own; None for any other."""
        for owner, tasks in [*self._tasks.items()]:
            if task in tasks:
                return self.id if owner == _MACHINE else self.schema.names[owner]
        return None

    def _own(self, owner: int, coro: Coroutine[Any, Any, Any], event: Event) -> None:
        """Makes a task of what an async handler returned."""
        if self._disposed:
            coro.close()
            return
        try:
            if self._at_limit(owner):
                self._waiting = {} if self._waiting is None else self._waiting
                waiting = self._waiting.setdefault(owner, deque())
                waiting.append((copy_context(), coro, event))
            else:
                self._start_task(owner, coro, event)
        except RuntimeError:  # no running loop
            coro.close()
            why = MachineError(f"Handler {event.name} is async, which needs a running loop.")
            self._add_error((EXCEPTION,), why, None, event)

    def _start_waiting(self, owner: int) -> None:
        """Starts the next of those that wait for their turn, if it has come."""
        waiting = (self._waiting or {}).get(owner)
        while waiting and not self._at_limit(owner):
            context, coro, event = waiting.popleft()
            context.run(self._start_task, owner, coro, event)

    def _stop_waiting(self, owner: int) -> None:
        """Takes back those whose state ended before their turn."""
        for _context, coro, _event in (self._waiting or {}).pop(owner, ()):
            coro.close()

    def _at_limit(self, owner: int) -> bool:
        limits = self.schema.task_limits
        limit = limits.get(self.schema.names[owner]) if limits and owner != _MACHINE else None
        return limit is not None and len(self._tasks.get(owner, ())) >= limit

    def _start_task(
        self, owner: int, coro: Coroutine[Any, Any, Any], cause: Event | None
    ) -> asyncio.Task[Any]:
        loop = asyncio.get_running_loop()
        context = copy_context()
        context.run(CAUSE.set, cause)
        if owner != _MACHINE:
            self._clock.watch(owner)
        task = loop.create_task(coro, context=context)
        context.run(_OWNED.set, task)
        self._tasks.setdefault(owner, {})[task] = None
        task.add_done_callback(self._task_done, context=context)
        return task

    def own(self, state: str, task: asyncio.Task[Any], context: Context) -> None:
        """Has a task belong to a state that is active, as if it had been spawned for it.

        Args:
            state: the name.
            task: one that waits.
            context: in which it runs.
        """
        owner = self.index(state)
        context.run(_OWNED.set, task)
        self._clock.watch(owner)
        self._tasks.setdefault(owner, {})[task] = None
        task.add_done_callback(self._task_done, context=context)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        """Forgets a task; what it raised becomes an Exception, as if its handler had."""
        for owner, tasks in self._tasks.items():
            if tasks.pop(task, self) is None:
                if not tasks:
                    del self._tasks[owner]
                if self._waiting:
                    self._start_waiting(owner)
                break
        error = None if task.cancelled() else task.exception()
        if error is not None and self._disposed:
            logger.error("A task of machine %s failed after its end.", self.id, exc_info=error)
        else:
            self._add_error((EXCEPTION,), error, None, CAUSE.get())

    # -- the end ---------------------------------------------------------------------------

    async def dispose(self, *, drain: float = 1.0) -> None:
        """Ends the machine: mutations are refused, waits fail, tasks are cancelled, hooks run.

        Its children end with it. Reads keep the last values. Returns when all tasks have ended,
        but for the one that calls it; so does another call.

        Args:
            drain: seconds that tasks owned by the machine itself may go on; 1 by default.
        """
        self._dispose_now()
        try:
            for child in self.children:
                await child.dispose(drain=drain)
            draining = self._tasks_left()
            if draining:
                await asyncio.wait(draining, timeout=drain)
        finally:
            left = self._tasks_left()
            for task in left:
                task.cancel()
        if left:
            await asyncio.wait(left)
        if self._dispose_hooks:
            await self._run_dispose_hooks()
        self._leave()

    def _dispose_now(self) -> None:
        """The part that does not wait."""
        if self._disposed:
            return
        self._disposed = True
        self._clock.busy |= WATCHED
        for child in self.children:
            child._dispose_now()
        for state in [*(self._waiting or ())]:
            self._stop_waiting(state)
        for mutation in self._queue.drain():
            if mutation.result is not None:
                mutation.result.settle(CANCELED)
        self._waits.close(self._disposed_error())
        self._tracers.tell("disposed", self)
        calling = _owned_task()
        for owner, tasks in self._tasks.items():
            for task in tasks if owner != _MACHINE else ():
                if task is not calling:
                    task.cancel()

    def _tasks_left(self) -> list[asyncio.Task[Any]]:
        calling = _owned_task()
        return [task for tasks in self._tasks.values() for task in tasks if task is not calling]


def _owned_task() -> asyncio.Task[Any] | None:
    """The owned task that acts now, itself or through a task that it started.

    Callbacks of transports and timers act for no task, even where they inherited its context.
    """
    try:
        return _OWNED.get() if asyncio.current_task() is not None else None
    except RuntimeError:  # no running loop
        return None


def _pass_on(error: BaseException) -> None:
    """Lets out what ends the whole program; all else has become an Exception (rule 3)."""
    if not isinstance(error, (Exception, asyncio.CancelledError)):
        raise error


def _traceback_of(error: BaseException) -> str:
    import traceback  # late: only errors need it

    return "".join(traceback.format_exception(error)) if error.__traceback__ else ""
