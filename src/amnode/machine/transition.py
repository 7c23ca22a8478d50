"""One transition, from acceptance to the final handlers: steps 7 to 11, in reading order.

A `Transition` exists only where somebody can see it: a handler that runs, or a tracer. Its
rules:

1. Until step 9 nothing has changed. A refusal, or a handler that raises, leaves no trace but an
   Exception.
2. After step 9 the states have changed. A handler that raises then ends the states whose own
   final handler has not completed, and what requires them; those that ended stay so.
3. In an automatic transition a refusal by an automatic state strikes only that state; before
   the change the targets are resolved once more from the called states that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec

from amnode.errors import BindingError
from amnode.machine.clock import Clock
from amnode.machine.plan import Bound, Plan, Planner, Solo, Step, Steps
from amnode.machine.queue import Mutation, MutationType
from amnode.machine.resolve import bits, each

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # the checker has it; only its default is needed

    from amnode.machine.machine import Machine

    A = TypeVar("A", default=Any)
else:
    A = TypeVar("A")


#: The event whose handler is running, or whose task this is: the cause of what it does.
CAUSE: ContextVar[Event | None] = ContextVar("amnode_cause", default=None)


class Event(msgspec.Struct, Generic[A], eq=False):
    """What a handler is told.

    A handler may say which arguments it expects, as its state declares them, for the checker:
    `def OpenState(self, event: Event[OpenArgs])`.

    Attributes:
        machine: whose handler it is.
        step: the turn of this handler among those of the transition.
        args: the arguments of the mutation, or None.
    """

    machine: Machine
    step: Step
    args: A
    _plan: Plan
    _origin: object
    _cause: Event | None
    _transition: Transition | None = None

    @property
    def name(self) -> str:
        """The name of the handler, such as "FooState"."""
        return self.step.name

    @property
    def transition(self) -> Transition:
        """The transition that is running; made when first asked for, if nobody saw it."""
        made = self._transition
        if made is None:
            mutation = Mutation(self._plan.call, self.args, self._origin, self._cause)
            made = self._transition = Transition(self.machine, mutation, self._plan)
            if self._plan.asked is None or self.step is not self._plan.asked.step:
                made.changed = self._plan.changed
        return made

    @property
    def mutation(self) -> Mutation:
        """What asked for the transition; has the origin and the cause."""
        return self.transition.mutation

    @property
    def origin(self) -> object:
        """Who asked from outside, where somebody did."""
        return self._origin

    @property
    def is_check(self) -> bool:
        """Whether somebody only asks what would be: `can_add` or `can_remove`."""
        made = self._transition
        return made is not None and made.mutation.is_check

    def __repr__(self) -> str:
        return f"<Event {self.name} of {self.machine.id}>"


def call_handler(owners: Sequence[object], bound: Bound | Solo, event: Event) -> Any:
    """Runs one handler, with the event as the cause of what it does."""
    token = CAUSE.set(event)
    try:
        if bound.is_method:
            return bound.function(owners[bound.binding], event)
        return bound.function(event)
    finally:
        CAUSE.reset(token)


class Transition:
    """One transition that somebody sees.

    Attributes:
        machine: whose it is.
        mutation: what asked for it.
        accepted: False once it is canceled.
        changed: the states whose tick moved, by index.
        error: what a handler raised, with the event of that handler, or None.
        started: coroutines of final handlers, with the state that owns each (-1: the machine)
            and the event; the machine makes tasks of them.
    """

    __slots__ = ("accepted", "changed", "error", "machine", "mutation", "plan", "started")

    #: Runs one handler; see `ObservedTransition`.
    call = staticmethod(call_handler)

    def __init__(self, machine: Machine, mutation: Mutation, plan: Plan) -> None:
        self.machine = machine
        self.mutation = mutation
        self.plan = plan
        self.accepted = plan.accepted  # step 7
        self.changed: tuple[int, ...] = ()
        self.error: tuple[Event, BaseException] | None = None
        self.started: list[tuple[int, Coroutine[Any, Any, Any], Event]] = []

    @property
    def type(self) -> MutationType:
        """What is asked for."""
        return self.mutation.call.type

    @property
    def auto(self) -> bool:
        """Whether the machine made it itself, for its automatic states."""
        return self.mutation.call.auto

    @property
    def called(self) -> tuple[int, ...]:
        """The states asked for, by index."""
        return self.mutation.call.called

    def __repr__(self) -> str:
        return f"<Transition of {self.machine.id}: {self.mutation}>"

    def run(
        self,
        planner: Planner,
        clock: Clock,
        owners: Sequence[object],
        on_change: Callable[[Sequence[int]], None],
    ) -> None:
        """Steps 7 to 10. Afterwards the attributes say what happened.

        Args:
            planner: makes the plans and the handlers' order.
            clock: changed in step 9.
            owners: the bound objects, one a binding.
            on_change: called with the states that changed, before the final handlers: state
                contexts expire there.
        """
        if not self.accepted:
            return
        plan = self.plan
        steps = planner.steps(self.mutation.call, plan, clock)
        struck = 0
        if steps.negotiation:
            struck = self._negotiate(planner, clock, owners, steps)
        if not self.accepted:
            return
        if self.auto:
            plan, steps = self._settle(planner, clock, struck)
        self.change(planner, clock, owners, on_change, plan, steps)

    def change(
        self,
        planner: Planner,
        clock: Clock,
        owners: Sequence[object],
        on_change: Callable[[Sequence[int]], None],
        plan: Plan,
        steps: Steps,
    ) -> None:
        """Steps 9 and 10, of what nobody has refused; see `run`."""
        plan.apply(clock)
        self.changed = plan.changed
        on_change(self.changed)
        if steps.finals:
            undone = self._finish(owners, steps)
            if undone:
                on_change(self._undo(planner, clock, undone))

    def check(self, planner: Planner, clock: Clock, owners: Sequence[object]) -> bool:
        """Steps 7 and 8 alone: whether nobody would refuse."""
        if self.accepted:
            steps = planner.steps(self.mutation.call, self.plan, clock)
            self._negotiate(planner, clock, owners, steps)
        return self.accepted

    def _event(self, step: Step) -> Event:
        asked = self.mutation
        return Event(
            self.machine,
            step,
            asked.args,
            self.plan,
            asked.origin,
            asked.cause,
            self,
        )

    # -- step 8 --------------------------------------------------------------------------

    def _negotiate(
        self, planner: Planner, clock: Clock, owners: Sequence[object], steps: Steps
    ) -> int:
        """Asks every negotiation handler; returns the states struck (rule 3), as a mask."""
        plan = self.plan
        targets = plan.targets & plan.relevant | clock.mask & ~plan.relevant
        struck = 0
        without_pairs: int | None = None  # fixed before the first pair runs
        for step in steps.negotiation:
            if step.kind == "pair":
                without_pairs = struck if without_pairs is None else without_pairs
                if without_pairs >> step.entered & 1:
                    continue
            elif step.kind == "any" and struck and not targets & ~struck:
                break
            if self._agree(owners, step):
                continue
            if not self._strikes(planner, step):
                self.accepted = False
                return struck
            struck |= 1 << step.entered
        if struck and not targets & ~struck:
            self.accepted = False
        return struck

    def _agree(self, owners: Sequence[object], step: Step) -> bool:
        event = self._event(step)
        for bound in step.handlers:
            try:
                answer = self.call(owners, bound, event)
                error = self.coroutine_error(event, answer)
                if error is not None:
                    raise error
            except BaseException as error:
                self.error = (event, error)
                return False
            if answer is False:
                return False
        return True

    def coroutine_error(self, event: Event, answer: object) -> BindingError | None:
        """What is wrong with the answer of a handler that was asked, if it is a coroutine."""
        if answer is None or answer is True or not isinstance(answer, Coroutine):
            return None
        cast("Coroutine[Any, Any, Any]", answer).close()
        return BindingError(f"Handler {event.name} decides, so it must not be async.")

    def _strikes(self, planner: Planner, step: Step) -> bool:
        """Whether a refusal costs only the entered state."""
        return (
            self.auto
            and self.error is None
            and step.kind in ("enter", "stay", "pair")
            and bool(planner.relations.auto_mask >> step.entered & 1)
        )

    def _settle(self, planner: Planner, clock: Clock, struck: int) -> tuple[Plan, Steps]:
        """Resolves an automatic mutation again from the called states that are left."""
        left = bits(self.called) & self.plan.targets & ~struck
        call = planner.call(
            self.type, tuple(i for i in self.called if left >> i & 1), auto=True
        )
        plan = planner.plan(call, clock)
        return plan, planner.steps(call, plan, clock)

    # -- step 10 -------------------------------------------------------------------------

    def _finish(self, owners: Sequence[object], steps: Steps) -> tuple[int, ...]:
        """Runs the final handlers; returns the states that one which raised left undone."""
        for step in steps.finals:
            event = self._event(step)
            for bound in step.handlers:
                try:
                    returned = self.call(owners, bound, event)
                except BaseException as error:
                    return self._raised(steps, step, event, error)
                if returned is not None:
                    self._returned(step, event, returned)
        return ()

    def _raised(
        self, steps: Steps, step: Step, event: Event, error: BaseException
    ) -> tuple[int, ...]:
        self.error = (event, error)
        self.accepted = False
        return _not_completed(steps, step)

    def _returned(self, step: Step, event: Event, returned: object) -> None:
        if isinstance(returned, Coroutine):
            owner = step.entered if step.kind == "state" else -1
            coro = cast("Coroutine[Any, Any, Any]", returned)
            self.started.append((owner, coro, event))

    def finish_solo(
        self,
        planner: Planner,
        clock: Clock,
        event: Event,
        returned: object,
        error: BaseException | None,
        on_change: Callable[[Sequence[int]], None],
    ) -> None:
        """Step 10 of one that nobody saw, after its only handler; see `fast_path`."""
        if error is None:
            self._returned(event.step, event, returned)
            return
        assert self.plan.steps is not None
        undone = self._raised(self.plan.steps, event.step, event, error)
        if undone:
            on_change(self._undo(planner, clock, undone))

    def _undo(self, planner: Planner, clock: Clock, undone: tuple[int, ...]) -> tuple[int, ...]:
        """Rule 2: ends what has not completed, and what cannot stay without it; returns all."""
        needing = planner.relations.requirers(bits(undone), clock.mask)
        ending = (*undone, *each(needing))
        clock.deactivate(ending)
        kept = [entry for entry in self.started if entry[0] not in ending]
        for _owner, coro, _event in [entry for entry in self.started if entry[0] in ending]:
            coro.close()
        self.started = kept
        self.changed = tuple(dict.fromkeys((*self.changed, *ending)))
        return ending


class ObservedTransition(Transition):
    """One of which a tracer wants to know each handler."""

    __slots__ = ("tell",)

    def __init__(
        self, machine: Machine, mutation: Mutation, plan: Plan, tell: Callable[..., None]
    ) -> None:
        super().__init__(machine, mutation, plan)
        self.tell = tell

    @staticmethod
    def call(owners: Sequence[object], bound: Bound, event: Event) -> Any:
        """Runs one handler between two calls of the tracers."""
        tell = cast("ObservedTransition", event.transition).tell
        tell("handler_start", event)
        answer: object = None
        try:
            answer = call_handler(owners, bound, event)
            return answer
        except BaseException as error:
            answer = error
            raise
        finally:
            tell("handler_end", event, answer)


def _not_completed(steps: Steps, raised: Step) -> tuple[int, ...]:
    """The activated states whose final handler has not completed, the raising one included."""
    if raised.kind == "any":
        return ()
    if raised.kind == "end":
        return steps.activated
    return steps.activated[steps.activated.index(raised.entered) :]
