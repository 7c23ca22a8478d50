"""The fast path: what a mutation costs when it has been made before and nobody watches.

Nearly all mutations of a running program are repeated, change one state, and are seen by
nobody, or by one final handler. These cost a look-up and a few list updates:

    name -> Call -> (active states & its mask) -> Plan -> apply

The theory:

1. *A plan holds for many configurations.* Of the active states only those that `Call.mask` has
   can influence the outcome (see `Relations.influence`), so the plan that was made for one
   configuration is right for all that look the same through the mask. Flags that have nothing
   to do with each other share one plan each way, however many there are.
2. *A plan knows how little has to be done.* It is `slow` if somebody negotiates, more than one
   handler runs, or automatic states may follow. Else all there is to do is to move the clock
   and then to run `solo`, the one final handler, if there is one. `rises`, `falls`, `repeats`,
   `all_rise` and `all_fall` name the moves that are made here; `Plan.apply` makes all others.
3. *Nobody watches* what moves: `Clock.busy` has none of the bits in `Plan.touches`. No
   transition runs, the machine is not disposed, nothing is queued, there is no tracer and no
   query; and no wait, state context or task of these very states. Whoever wants to be told of
   changes makes the clock busy, and `Machine` alone takes that back.

Everything else, and what has not been seen before, goes the whole way: `Machine._mutate`, which
is a little longer where followers alone watch. It comes to the same, and differs only in the
time that it takes; tests compare the two. A method call is a large part of the costs here, and
an attribute a small one: hence the repetition.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

from amnode.machine.clock import FOLLOWED, RUNNING
from amnode.machine.local_api import LocalApi
from amnode.machine.plan import NOT_YET, Call, Plan, Planner, Solo
from amnode.machine.queue import EXECUTED, MutationType, Result
from amnode.machine.transition import CAUSE, Event

_ADD, _REMOVE, _SET = MutationType.ADD, MutationType.REMOVE, MutationType.SET


#: Looked up once. The machine of an event is a `Machine`, the only kind of `FastPath`.
_Event = cast("Callable[..., Event]", Event)
_get_cause, _set_cause, _reset_cause = CAUSE.get, CAUSE.set, CAUSE.reset


class FastPath(LocalApi):
    """The mutations of a machine, as far as they are cheap; `Machine` has the rest."""

    _planner: Planner
    _owners: tuple[object, ...]

    # -- one state -----------------------------------------------------------------------

    def add1(self, state: str, args: object = None, origin: object = None) -> Result:
        """Asks for one state to become active; see `add`."""
        planner, clock = self._planner, self._clock
        try:
            call = planner.adds[state]
            plan = call.plans[clock.mask & call.mask]
        except KeyError:
            call, plan = planner.named(_ADD, state), NOT_YET
        if (clock.busy and clock.busy & plan.touches) or plan.slow:
            if plan.brief and not clock.busy & plan.touches & ~FOLLOWED:
                return self._mutate_brief(plan, args, origin)
            return self._mutate(call, args, origin)
        self._queue.tick += 1
        if plan.rises:
            moved = plan.state
            clock.ticks[moved] += 1
            clock.mask ^= plan.flip_mask
            clock.order[moved] = None
        elif plan.repeats:
            moved, order = plan.state, clock.order
            clock.ticks[moved] += 2
            del order[moved]
            order[moved] = None
        else:
            plan.apply(clock)
        if plan.solo is None:
            return EXECUTED
        return self._run_solo(plan.solo, plan, args, origin)

    def remove1(self, state: str, args: object = None, origin: object = None) -> Result:
        """Asks for one state to become inactive; see `add`."""
        planner, clock = self._planner, self._clock
        try:
            call = planner.removes[state]
            plan = call.plans[clock.mask & call.mask]
        except KeyError:
            call, plan = planner.named(_REMOVE, state), NOT_YET
        if (clock.busy and clock.busy & plan.touches) or plan.slow:
            return self._mutate(call, args, origin)
        self._queue.tick += 1
        if plan.falls:
            moved = plan.state
            clock.ticks[moved] += 1
            clock.mask ^= plan.flip_mask
            del clock.order[moved]
        else:
            plan.apply(clock)
        if plan.solo is None:
            return EXECUTED
        return self._run_solo(plan.solo, plan, args, origin)

    def set1(self, state: str, args: object = None, origin: object = None) -> Result:
        """Asks for this state alone to be active; see `add`."""
        return self.set((state,), args, origin)

    def toggle1(self, state: str, args: object = None, origin: object = None) -> Result:
        """Removes the state if it is active, else adds it; see `add`."""
        try:
            call = self._planner.adds[state]
        except KeyError:
            call = self._planner.named(_ADD, state)
        if self._clock.mask & call.called_mask:
            return self.remove1(state, args, origin)
        return self.add1(state, args, origin)

    # -- several -------------------------------------------------------------------------

    def add(self, states: Sequence[str], args: object = None, origin: object = None) -> Result:
        """Asks for states to become active.

        Args:
            states: the names; duplicates are dropped.
            args: any object; handlers read it as `event.args`.
            origin: who asks, where that is somebody outside; opaque to the machine.

        Returns:
            `EXECUTED` or `CANCELED`; inside a transition, a `Queued` that can be awaited.

        Raises:
            StateUnknownError: there is no such state; the message has the nearest names.
        """
        planner, clock = self._planner, self._clock
        names = states if isinstance(states, tuple) else _key(states)
        try:
            call = planner.adds[names]
            plan = call.plans[clock.mask & call.mask]
        except KeyError:
            call, plan = planner.named(_ADD, names), NOT_YET
        if (clock.busy and clock.busy & plan.touches) or plan.slow:
            return self._mutate(call, args, origin)
        self._queue.tick += 1
        if plan.all_rise:
            ticks, order = clock.ticks, clock.order
            clock.mask ^= plan.flip_mask
            for state in plan.front:
                ticks[state] += 1
                order[state] = None
        else:
            plan.apply(clock)
        if plan.solo is None:
            return EXECUTED
        return self._run_solo(plan.solo, plan, args, origin)

    def remove(
        self, states: Sequence[str], args: object = None, origin: object = None
    ) -> Result:
        """Asks for states to become inactive; see `add`."""
        planner, clock = self._planner, self._clock
        names = states if isinstance(states, tuple) else _key(states)
        try:
            call = planner.removes[names]
            plan = call.plans[clock.mask & call.mask]
        except KeyError:
            call, plan = planner.named(_REMOVE, names), NOT_YET
        if (clock.busy and clock.busy & plan.touches) or plan.slow:
            return self._mutate(call, args, origin)
        self._queue.tick += 1
        if plan.all_fall:
            ticks, order = clock.ticks, clock.order
            clock.mask ^= plan.flip_mask
            for state in plan.ends:
                ticks[state] += 1
                del order[state]
        else:
            plan.apply(clock)
        if plan.solo is None:
            return EXECUTED
        return self._run_solo(plan.solo, plan, args, origin)

    def set(self, states: Sequence[str], args: object = None, origin: object = None) -> Result:
        """Asks for exactly these states to be active; see `add`."""
        planner, clock = self._planner, self._clock
        names = states if isinstance(states, tuple) else _key(states)
        try:
            call = planner.sets[names]
            plan = call.plans[clock.mask & call.mask]
        except KeyError:
            call, plan = planner.named(_SET, names), NOT_YET
        if (clock.busy and clock.busy & plan.touches) or plan.slow:
            return self._mutate(call, args, origin)
        self._queue.tick += 1
        plan.apply(clock)
        if plan.solo is None:
            return EXECUTED
        return self._run_solo(plan.solo, plan, args, origin)

    def toggle(
        self, states: Sequence[str], args: object = None, origin: object = None
    ) -> Result:
        """Removes the states if all are active now, else adds them; see `add`."""
        toggled = self.remove if self.is_(states) else self.add
        return toggled(states, args, origin)

    # -- with a handler ------------------------------------------------------------------

    def _run_solo(self, solo: Solo, plan: Plan, args: object, origin: object) -> Result:
        """Runs the one handler of a transition that nobody else sees."""
        clock = self._clock
        idle = clock.busy
        clock.busy = busy = idle | RUNNING
        event = _Event(self, solo.step, args, plan, origin, _get_cause())
        token = _set_cause(event)
        try:
            if solo.is_method:
                returned = solo.function(self._owners[solo.binding], event)
            else:
                returned = solo.function(event)
        except BaseException as error:
            _reset_cause(token)
            return self._after_solo(event, None, error)
        _reset_cause(token)
        if returned is None and clock.busy == busy:
            clock.busy = idle
            return EXECUTED
        return self._after_solo(event, returned, None)

    @abstractmethod
    def _mutate(self, call: Call, args: object, origin: object) -> Result:
        """Makes a mutation the whole way."""

    @abstractmethod
    def _mutate_brief(self, plan: Plan, args: object, origin: object) -> Result:
        """Makes a mutation of which few want to be told."""

    @abstractmethod
    def _after_solo(
        self, event: Event, returned: object, error: BaseException | None
    ) -> Result:
        """Goes on after a handler that returned something, raised, or is not alone any more.

        Args:
            event: of the handler.
            returned: what it returned.
            error: what it raised, or None.
        """


def _key(states: Sequence[str]) -> str | tuple[str, ...]:
    return states if isinstance(states, str) else tuple(states)
