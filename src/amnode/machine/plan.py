"""What the relations said, compiled and remembered. The only cache of the kernel.

A mutation costs a dictionary look-up and a few list updates, because its outcome is computed
once for all configurations that cannot be told apart by it, as in a lazily built automaton:

    Call   a type and the states called, with `mask`: the states that can influence the outcome
    Plan   the outcome for one value of `active & mask`: what changes, and which handlers run

The order of the active states is exact but seldom matters. It enters the key (`Planner.steps`)
only where two handlers of one kind run in the same transition, and then only the order of the
states that the plan looks at and that `require` does not put in a fixed place.

The mask of a call is what `Relations.influence` says, and the states of all bound pair
handlers (`XY` and `XX` run while their states merely stay active).

Planners are shared by all machines that have the same schema and the same kinds of handlers:
a plan refers to a handler as *a function, of binding k*. They live on their schema, so nothing
outlives it. What a planner remembers is bounded: full, it starts anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

import msgspec

from amnode.machine.binding import Handler, HandlerTable
from amnode.machine.clock import Clock, touches
from amnode.machine.queue import MutationType
from amnode.machine.resolve import Relations, Resolution, bits, each, relations_of
from amnode.machine.schema import Schema

#: Calls, plans and orders that one planner remembers, together.
CACHE_LIMIT = 4096


K = TypeVar("K")
V = TypeVar("V")


class Bound(msgspec.Struct, frozen=True):
    """A handler as a plan refers to it: which binding, and how it is called."""

    binding: int
    function: Handler
    is_method: bool


class Step(msgspec.Struct, frozen=True):
    """One handler name whose turn it is.

    Attributes:
        name: such as "FooEnter".
        entered: the state that it is about; -1 for `AnyEnter` and `AnyState`.
        kind: one of "exit", "enter", "stay", "pair", "any", "end", "state".
        handlers: in the order of binding.
    """

    name: str
    entered: int
    kind: str
    handlers: tuple[Bound, ...]


class Steps(msgspec.Struct, frozen=True):
    """The handlers of one transition, in the order in which they run.

    Attributes:
        negotiation: exit, enter, stay, pair, any.
        finals: end, state, any.
        deactivated: the states that end, in machine order.
        activated: the states that begin (called active Multi ones too), in target order.
    """

    negotiation: tuple[Step, ...]
    finals: tuple[Step, ...]
    deactivated: tuple[int, ...]
    activated: tuple[int, ...]


class Call:
    """A type and the states called: what a mutation asks for, with the plans for it.

    Attributes:
        type: ADD, REMOVE or SET.
        called: the states, by index, in the order given.
        called_mask: the same as a mask.
        calls_multi: whether one of them is Multi.
        typed: a called state declares its arguments, so they are checked first.
        quiet: an add of only Healthcheck or only Heartbeat, which starts no automatic states.
        auto: made by the machine for its automatic states.
        mask: the states that can influence the outcome.
        plans: by `active & mask`.
    """

    __slots__ = (
        "auto",
        "called",
        "called_mask",
        "calls_multi",
        "mask",
        "plans",
        "quiet",
        "type",
        "typed",
    )

    def __init__(
        self,
        type_: MutationType,
        called: tuple[int, ...],
        mask: int,
        *,
        calls_multi: bool,
        typed: bool,
        quiet: bool,
        auto: bool,
    ) -> None:
        self.type = type_
        self.called = called
        self.called_mask = bits(called)
        self.calls_multi = calls_multi
        self.typed = typed
        self.quiet = quiet
        self.auto = auto
        self.mask = mask
        self.plans: dict[int, Plan] = {}


class Solo(msgspec.Struct, frozen=True):
    """The one handler of a transition that has no other of its kind.

    Attributes:
        function: what to call; it takes the owner of `binding` first, if `is_method`.
        binding: which.
        is_method: see there.
        step: the same as the plan has it.
    """

    function: Handler
    binding: int
    is_method: bool
    step: Step


class Plan:
    """The outcome of a call in all configurations that look the same to it.

    The first nine say how little has to be done; see `amnode.machine.fast_path`.

    Attributes:
        call: whose outcome it is.
        touches: what of `Clock.busy` stands against making it without looking around.
        slow: somebody negotiates, more than one final handler runs, or automatic states may
            follow.
        brief: at most one negotiates, and at most one final handler runs.
        asked: the one handler that negotiates, where it is brief; or None.
        solo: the one final handler that runs, where it is brief; or None.
        rises: all that changes is that `state` is activated.
        falls: all that changes is that `state` is deactivated.
        repeats: all that changes is that `state`, an active Multi one, is called again.
        all_rise: states are activated, and nothing else changes. Like the next one, it says
            that `front` and `ends` have what moves.
        all_fall: states are deactivated, and nothing else changes.
        plain: the two together: there are states that end, and others that come to the front.
        accepted: False if it is canceled before any handler runs.
        targets: mask of the states that it makes or leaves active, as far as it looks.
        moves: states whose tick moves: each once, but twice a called active Multi state, whose
            tick moves by two.
        flip_mask: those that are activated or deactivated.
        ends: what is deactivated.
        leaves: what leaves its place in the machine order: to end, or to come to its front.
        front: what comes to the front of the machine order, last one first.
        back: what goes to its end.
        arranges: an `after` may have a say in the order.
        arrange: it does, for it relates two targets, so this computes the whole order; or None.
        changed: all states whose tick moves.
        steps: the handlers, or None where their order depends on the machine order:
            then `by_order` has them, by the order of the active states in `unordered`.
        relevant: the mask of the states that it looks at.
        unordered: those of them that are active and have no fixed place.
        unseen: accepted, and no handler runs at all.
    """

    __slots__ = (
        "accepted",
        "all_fall",
        "all_rise",
        "arrange",
        "arranges",
        "asked",
        "back",
        "brief",
        "by_order",
        "call",
        "changed",
        "ends",
        "falls",
        "flip_mask",
        "front",
        "leaves",
        "moves",
        "plain",
        "relevant",
        "repeats",
        "rises",
        "slow",
        "solo",
        "state",
        "steps",
        "targets",
        "touches",
        "unordered",
        "unseen",
    )

    def __init__(
        self,
        call: Call,
        resolution: Resolution,
        steps: Steps,
        active: int,
        relations: Relations,
    ) -> None:
        self.call = call
        self.accepted = resolution.accepted
        self.targets = bits(resolution.targets)
        self.ends = ends = steps.deactivated
        begun = tuple(i for i in steps.activated if not active >> i & 1)
        bumps = tuple(i for i in steps.activated if active >> i & 1)
        self.changed = (*ends, *begun, *bumps)
        self.moves = (*self.changed, *bumps)
        self.flip_mask = bits(ends) | bits(begun)
        self.front = resolution.front[::-1]
        self.leaves = (*ends, *(i for i in self.front if active >> i & 1))
        self.back = resolution.back
        self.arranges = relations.after_mask != 0
        self.arrange = relations.arrange if relations.interferes(self.targets) else None
        self.relevant = relevant = call.mask
        self.unordered = active & relevant & ~relations.ranked_mask
        depends = self.unordered.bit_count() > 1 and _order_matters(steps)
        self.steps: Steps | None = None if depends else steps
        self.by_order: dict[tuple[int, ...], Steps] | None = None
        moved = set(self.front) == set(begun) and not bumps
        self.plain = moved and not self.back and not self.arranges
        self.unseen = self.accepted and not steps.negotiation and not steps.finals
        # How little has to be done.
        self.asked = _only(steps.negotiation) if self.accepted else None
        self.solo = _only(steps.finals) if self.accepted else None
        self.brief = (
            self.accepted
            and not (call.typed or call.auto or depends)
            and (self.asked is not None or not steps.negotiation)
            and (self.solo is not None or not steps.finals)
        )
        self.touches = touches(bits(self.changed))
        self.slow = not self.brief or self.asked is not None or relations.auto_mask != 0
        self.all_rise = self.plain and not ends
        self.all_fall = self.plain and not begun
        self.state = self.changed[0] if len(self.changed) == 1 else -1
        self.rises = self.all_rise and self.state >= 0
        self.falls = self.all_fall and self.state >= 0
        in_place = self.front == bumps and not self.back and not self.arranges
        self.repeats = in_place and self.state >= 0

    def apply(self, clock: Clock) -> None:
        """Step 9: moves the ticks and the machine order."""
        ticks, order = clock.ticks, clock.order
        clock.mask ^= self.flip_mask
        if self.plain and clock.arranged is None:
            for state in self.ends:
                ticks[state] += 1
                del order[state]
            for state in self.front:
                ticks[state] += 1
                order[state] = None
            return
        for state in self.moves:
            ticks[state] += 1
        for state in self.leaves:
            del order[state]
        for state in self.front:
            order[state] = None
        if self.back:
            clock.put_last(self.back)
        clock.arranged = None
        if self.arrange is not None:
            clock.arrange(self.arrange([*clock.active()]))


#: Stands for a plan that has still to be made; it sends a mutation the whole way.
NOT_YET = Plan.__new__(Plan)
NOT_YET.slow = True
NOT_YET.brief = False
NOT_YET.touches = 0


class Planner:
    """Makes and remembers calls and plans, for one schema and one list of handler tables.

    Args:
        schema: the states and relations.
        tables: the handlers, in the order of binding.
        cached: False to resolve everything afresh, for tests that compare the two.
    """

    def __init__(
        self, schema: Schema, tables: tuple[HandlerTable, ...], *, cached: bool = True
    ) -> None:
        self.schema = schema
        self.relations = relations_of(schema)
        self._cached = cached
        self._kept = 0
        self._handlers = _by_name(tables)
        self._pair_mask = bits(i for table in tables for pair in table.pairs for i in pair)
        self._pairs = bits(a for table in tables for a, b in table.pairs if a != b)
        self._quiet_calls = {
            (schema.index(name),) for name in ("Healthcheck", "Heartbeat") if name in schema
        }
        self._calls: dict[tuple[MutationType, tuple[int, ...], bool], Call] = {}
        self._autos: dict[int, Call | None] = {}
        self._auto_influence = self.relations.auto_influence
        #: Whether there are automatic states at all.
        self.may_have_autos = self.relations.auto_mask != 0
        #: The calls by the names given, one or several: the first look of the fast path.
        self.adds: dict[str | tuple[str, ...], Call] = {}
        self.removes: dict[str | tuple[str, ...], Call] = {}
        self.sets: dict[str | tuple[str, ...], Call] = {}

    def call(self, type_: MutationType, called: tuple[int, ...], *, auto: bool = False) -> Call:
        """The call of these states, compiled. `called` has no duplicates."""
        key = (type_, called, auto)
        found = self._calls.get(key)
        if found is None:
            relations = self.relations
            mask = relations.everything
            if self._cached:  # without, all is looked at: what is compared is the whole truth
                mask = relations.influence(type_, called)
                mask |= self._pair_mask | relations.after_mask
            found = Call(
                type_,
                called,
                mask,
                calls_multi=bool(bits(called) & relations.multi_mask),
                typed=self._is_typed(type_, called),
                quiet=type_ is MutationType.ADD and called in self._quiet_calls,
                auto=auto,
            )
            self._remember(self._calls, key, found)
        return found

    def _is_typed(self, type_: MutationType, called: tuple[int, ...]) -> bool:
        names, declared = self.schema.names, self.schema.args
        if not declared or type_ is MutationType.REMOVE:
            return False
        return any(names[i] in declared for i in called)

    def named(self, type_: MutationType, names: str | tuple[str, ...]) -> Call:
        """The call of these states; `adds`, `removes` and `sets` have it from now on.

        Raises:
            StateUnknownError: there is no such state.
        """
        known = (self.adds, self.removes, self.sets)[type_]
        call = known.get(names)
        if call is None:
            states = (names,) if isinstance(names, str) else dict.fromkeys(names)
            call = self.call(type_, tuple([self.schema.index(name) for name in states]))
            self._remember(known, names, call)
        return call

    def plan(self, call: Call, clock: Clock) -> Plan:
        """The plan of a call in this configuration, remembered or made now."""
        key = clock.mask & call.mask
        plan = call.plans.get(key)
        if plan is None:
            plan = self._make(call, clock)
            if self._cached:
                self._remember(call.plans, key, plan)
        return plan

    def steps(self, call: Call, plan: Plan, clock: Clock) -> Steps:
        """The handlers of a plan, in the order that this machine order asks for."""
        if plan.steps is not None:
            return plan.steps
        unordered = plan.unordered
        key = tuple(i for i in clock.order if unordered >> i & 1)
        if plan.by_order is None:
            plan.by_order = {}
        steps = plan.by_order.get(key)
        if steps is None:
            active, resolution = self._resolve(call, clock)
            steps = self._steps(call, resolution, active)
            self._remember(plan.by_order, key, steps)
        return steps

    def autos(self, active_mask: int) -> Call | None:
        """Step 11: the call of the automatic states to try now, or None."""
        try:
            return self._autos[active_mask & self._auto_influence]
        except KeyError:
            return self._find_autos(active_mask)

    def _find_autos(self, active_mask: int) -> Call | None:
        relations = self.relations
        if not self.may_have_autos:
            return None
        states = relations.autos(active_mask)
        call = self.call(MutationType.ADD, states, auto=True) if states else None
        self._remember(self._autos, active_mask & self._auto_influence, call)
        return call

    def _remember(self, memory: dict[K, V], key: K, value: V) -> None:
        """Puts something into one of the memories; empties all of them when they are full."""
        if self._kept >= CACHE_LIMIT:
            self._kept = 0
            for full in (self._calls, self._autos, self.adds, self.removes, self.sets):
                full.clear()
        self._kept += 1
        memory[key] = value

    # -- making a plan -------------------------------------------------------------------

    def _make(self, call: Call, clock: Clock) -> Plan:
        active, resolution = self._resolve(call, clock)
        steps = self._steps(call, resolution, active)
        return Plan(call, resolution, steps, clock.mask, self.relations)

    def _resolve(self, call: Call, clock: Clock) -> tuple[tuple[int, ...], Resolution]:
        """What the relations say, and those of the active states that were looked at."""
        looked_at = clock.mask & call.mask
        if looked_at & (looked_at - 1):
            active = tuple(i for i in clock.active() if looked_at >> i & 1)
        else:  # none, or one
            active = tuple(each(looked_at))
        resolution = self.relations.resolve(
            call.type,
            call.called,
            active,
            auto=call.auto,
            besides=clock.mask & ~looked_at,
        )
        return active, resolution

    def _steps(self, call: Call, resolution: Resolution, active: Sequence[int]) -> Steps:
        targets, active_mask = resolution.targets, bits(active)
        target_mask = bits(targets)
        again = 0
        if call.type is not MutationType.REMOVE:
            again = call.called_mask & self.relations.multi_mask
        deactivated = tuple(i for i in active if not target_mask >> i & 1)
        activated = tuple(i for i in targets if again >> i & 1 or not active_mask >> i & 1)
        if not self._handlers:
            return Steps((), (), deactivated, activated)
        stayed = () if call.type is MutationType.REMOVE else targets
        return Steps(
            (
                *self._named("exit", "Exit", deactivated),
                *self._named("enter", "Enter", activated),
                *self._stays(i for i in stayed if active_mask >> i & 1),
                *self._crossings(active, targets),
                *self._step("AnyEnter", -1, "any"),
            ),
            (
                *self._named("end", "End", deactivated),
                *self._named("state", "State", activated),
                *self._step("AnyState", -1, "any"),
            ),
            deactivated,
            activated,
        )

    def _named(self, kind: str, suffix: str, states: Iterable[int]) -> Iterable[Step]:
        names = self.schema.names
        return [s for i in states for s in self._step(names[i] + suffix, i, kind)]

    def _stays(self, states: Iterable[int]) -> Iterable[Step]:
        names = self.schema.names
        return [s for i in states for s in self._step(names[i] * 2, i, "stay")]

    def _crossings(self, active: Sequence[int], targets: Sequence[int]) -> Iterable[Step]:
        names = self.schema.names
        return [
            step
            for i in active
            if self._pairs >> i & 1
            for j in targets
            if i != j
            for step in self._step(names[i] + names[j], j, "pair")
        ]

    def _step(self, name: str, entered: int, kind: str) -> Iterable[Step]:
        handlers = self._handlers.get(name)
        return (Step(name, entered, kind, handlers),) if handlers else ()


def planner_for(
    schema: Schema, tables: tuple[HandlerTable, ...], *, cached: bool = True
) -> Planner:
    """The planner that all machines with this schema and these handlers share.

    One whose handlers came from a mapping is not shared: the next mapping is another.
    """
    if not cached or [table for table in tables if not table.methods]:
        return Planner(schema, tables, cached=cached)
    return schema.compile(tables, lambda: Planner(schema, tables))


def _by_name(tables: tuple[HandlerTable, ...]) -> dict[str, tuple[Bound, ...]]:
    found: dict[str, tuple[Bound, ...]] = {}
    for k, table in enumerate(tables):
        for name, function in table.functions.items():
            bound = Bound(k, function, table.methods)
            found[name] = (*found.get(name, ()), bound)
    return found


def _only(steps: Sequence[Step]) -> Solo | None:
    """The only handler of a kind."""
    if len(steps) != 1 or len(steps[0].handlers) != 1:
        return None
    step = steps[0]
    bound = step.handlers[0]
    return Solo(bound.function, bound.binding, bound.is_method, step)


def _order_matters(steps: Steps) -> bool:
    """Whether two handlers of one kind run, so that the machine order may show in theirs."""
    ordered = ("exit", "enter", "stay", "pair", "end", "state")
    for listed in (steps.negotiation, steps.finals):
        for one, next_ in pairwise(listed):
            if one.kind == next_.kind and one.kind in ordered:
                return True
    return False
