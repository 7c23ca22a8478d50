"""Plans: remembered where configurations look the same, and never beyond their bound."""

from __future__ import annotations

import pytest

from amnode.machine import plan as plans
from amnode.machine.binding import HandlerTable, table_of
from amnode.machine.clock import Clock
from amnode.machine.plan import Planner, Solo, Step, planner_for
from amnode.machine.queue import MutationType
from amnode.machine.schema import Schema, State

ADD, REMOVE, SET = MutationType.ADD, MutationType.REMOVE, MutationType.SET
FLAGS = {name: State() for name in "ABCDEF"}


def clock_of(planner: Planner, *active: int) -> Clock:
    clock = Clock(planner.relations.size, planner.relations.ranked)
    for state in reversed(active):
        clock.advance(state, 1)
    return clock


def planner(states: dict[str, State], *names: str, cached: bool = True) -> Planner:
    schema = Schema(states)
    table = table_of(schema, dict.fromkeys(names, print))
    return Planner(schema, (table,) if names else (), cached=cached)


def names(steps: tuple[Step, ...]) -> list[str]:
    return [step.name for step in steps]


def test_independent_flags_share_one_plan() -> None:
    found = planner(FLAGS)
    call = found.call(ADD, (0,))
    assert found.call(ADD, (0,)) is call
    assert call.mask == 1
    first = found.plan(call, clock_of(found))
    assert found.plan(call, clock_of(found, 1, 2, 3)) is first
    assert found.plan(call, clock_of(found, 0)) is not first
    assert first.unseen
    assert first.changed == (0,)


def test_without_a_cache_each_plan_is_made_afresh() -> None:
    found = planner(FLAGS, cached=False)
    call = found.call(ADD, (0,))
    assert found.plan(call, clock_of(found)) is not found.plan(call, clock_of(found))
    assert not call.plans


def test_what_influences_is_in_the_key() -> None:
    found = planner(
        {
            "A": State(add="B", require="C"),
            "B": State(remove="D"),
            "C": State(),
            "D": State(),
            "E": State(require="D"),
            "F": State(remove="A"),
        }
    )
    assert found.call(ADD, (0,)).mask == 0b0111111
    assert found.call(ADD, (2,)).mask == 0b0000100
    assert found.call(REMOVE, (3,)).mask == 0b0011000
    assert found.call(SET, (3,)).mask == 0b1111111


def test_pairs_and_after_are_always_in_the_key() -> None:
    found = planner({**FLAGS, "C": State(after="D")}, "EF", "BB")
    assert found.call(ADD, (0,)).mask == 0b111111


def test_names_are_looked_up_once_duplicates_dropped() -> None:
    found = planner(FLAGS)
    call = found.named(ADD, ("B", "A", "B"))
    assert call.called == (1, 0)
    assert found.adds["B", "A", "B"] is call
    assert found.named(REMOVE, "B") is found.removes["B"]
    assert found.named(SET, "B") is found.sets["B"]


def test_names_that_were_looked_up_give_the_same_call_again() -> None:
    found = planner(FLAGS)
    for type_ in (ADD, REMOVE, SET):
        call = found.named(type_, "B")
        assert found.named(type_, "B") is call
        assert (call.type, call.called) == (type_, (1,))
    assert found._kept == 6  # three calls, and three names


def test_only_what_brings_a_state_that_declares_arguments_is_typed() -> None:
    found = planner({"A": State(args=int), "B": State(), "C": State(add="A")})
    assert found.call(ADD, (0,)).typed
    assert found.call(SET, (1, 0)).typed
    assert not found.call(REMOVE, (0,)).typed
    assert not found.call(ADD, (1, 2)).typed  # A comes along, but is not called
    clock = clock_of(found)
    assert found.plan(found.call(ADD, (0,)), clock).slow
    assert not found.plan(found.call(ADD, (1,)), clock).slow


def test_applying_moves_ticks_and_order() -> None:
    found = planner({"A": State(multi=True, add="B"), "B": State(), "C": State(remove="B")})
    clock = clock_of(found, 2)
    call = found.call(ADD, (0,))
    found.plan(call, clock).apply(clock)
    assert ([*clock.active()], clock.ticks) == ([0, 2], [1, 0, 1, 0])
    clock.deactivate((2,))
    plan = found.plan(call, clock)
    plan.apply(clock)
    assert (plan.moves, plan.back) == ((1, 0, 0), (1,))
    assert ([*clock.active()], clock.ticks) == ([0, 1], [3, 1, 2, 0])
    clock.check()


def test_applying_ends_what_is_removed_and_puts_the_new_in_front() -> None:
    found = planner({"A": State(), "B": State(remove="A"), "C": State()})
    clock = clock_of(found, 2, 0)
    plan = found.plan(found.call(ADD, (1,)), clock)
    assert (plan.plain, plan.all_rise, plan.all_fall) == (True, False, False)
    plan.apply(clock)
    assert ([*clock.active()], clock.ticks) == ([1, 2], [2, 1, 1, 0])
    clock.check()
    found.plan(found.call(REMOVE, (1, 2)), clock).apply(clock)
    assert ([*clock.active()], clock.ticks) == ([], [2, 2, 2, 0])
    clock.check()


def test_steps_are_in_the_order_of_the_phases() -> None:
    every = (
        "AExit",
        "BEnter",
        "BB",
        "AB",
        "AnyEnter",
        "AEnd",
        "BState",
        "AnyState",
        "CC",
        "CB",
    )
    found = planner({"A": State(), "B": State(remove="A"), "C": State()}, *every)
    clock = clock_of(found, 0, 2)
    call = found.call(ADD, (1,))
    steps = found.steps(call, found.plan(call, clock), clock)
    assert names(steps.negotiation) == ["AExit", "BEnter", "CC", "AB", "CB", "AnyEnter"]
    assert names(steps.finals) == ["AEnd", "BState", "AnyState"]
    assert (steps.deactivated, steps.activated) == ((0,), (1,))


def test_the_machine_order_is_a_key_only_where_it_shows() -> None:
    found = planner(FLAGS, "AEnd", "BEnd", "CEnter")
    remove = found.call(REMOVE, (0, 1))
    for active in ((0, 1, 2), (1, 0, 2), (2, 1, 0)):
        clock = clock_of(found, *active)
        plan = found.plan(remove, clock)
        assert plan.steps is None
        expected = [f"{'AB'[i]}End" for i in active if i < 2]
        assert names(found.steps(remove, plan, clock).finals) == expected
        assert found.steps(remove, plan, clock) is found.steps(remove, plan, clock)
    assert plan.by_order is not None and len(plan.by_order) == 2
    add = found.call(ADD, (2,))
    assert found.plan(add, clock_of(found, 0, 1)).steps is not None


def test_states_with_a_fixed_place_need_no_key() -> None:
    found = planner(
        {"A": State(require="C"), "B": State(require="C"), "C": State()}, "AEnd", "BEnd"
    )
    clock = clock_of(found, 0, 1, 2)
    assert found.plan(found.call(REMOVE, (2,)), clock).steps is not None


def test_automatic_states_are_remembered_by_what_decides_them() -> None:
    found = planner({"A": State(auto=True), "B": State(remove="A"), "C": State()})
    call = found.autos(0)
    assert call is not None
    assert (call.auto, call.called) == (True, (0,))
    assert found.autos(0b100) is call
    assert found.autos(0b010) is None
    assert planner(FLAGS).autos(0) is None


def test_healthcheck_and_heartbeat_alone_are_quiet() -> None:
    found = planner({"Heartbeat": State(), "Healthcheck": State(multi=True), "A": State()})
    assert found.call(ADD, (0,)).quiet
    assert found.call(ADD, (1,)).quiet
    assert not found.call(ADD, (0, 1)).quiet
    assert not found.call(REMOVE, (0,)).quiet


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "CACHE_LIMIT", 20)
    found = planner(FLAGS)
    for name in "ABCDEF":
        for other in "ABCDEF":
            call = found.named(ADD, (name, other))
            clock = clock_of(found)
            found.plan(call, clock).apply(clock)
            assert len(found._calls) + len(found.adds) <= 20
            assert clock.mask == call.called_mask


def test_machines_with_the_same_methods_share_a_planner() -> None:
    class Handlers:
        def AState(self) -> None: ...

    schema = Schema(FLAGS)
    table = table_of(schema, Handlers())
    assert table_of(schema, Handlers()) is table
    assert planner_for(schema, (table,)) is planner_for(schema, (table,))
    assert planner_for(schema, (table,), cached=False) is not planner_for(schema, (table,))
    functions: HandlerTable = table_of(schema, {"AState": print})
    assert planner_for(schema, (functions,)) is not planner_for(schema, (functions,))


def test_the_only_handler_is_known_if_it_is_a_final_one() -> None:
    class Handlers:
        def AState(self) -> None: ...
        def BEnter(self) -> None: ...

    schema = Schema(FLAGS)
    functions = table_of(schema, dict.fromkeys(("CState", "DEnd"), print))
    methods = table_of(schema, Handlers())
    found = Planner(schema, (functions, methods))

    def solo(type_: MutationType, *called: int, active: tuple[int, ...] = ()) -> Solo | None:
        plan = found.plan(found.call(type_, called), clock_of(found, *active))
        assert plan.slow is (plan.asked is not None or not (plan.solo or plan.unseen))
        return plan.solo

    method = solo(ADD, 0)
    assert method is not None
    assert (method.binding, method.is_method, method.step.name) == (1, True, "AState")
    assert method.function is methods.functions["AState"]
    function = solo(REMOVE, 3, active=(3,))
    assert function is not None
    assert (function.binding, function.is_method, function.step.name) == (0, False, "DEnd")
    assert function.function is functions.functions["DEnd"]
    assert solo(ADD, 4) is None  # no handler at all
    assert solo(ADD, 0, 2) is None  # two final ones
    both = found.plan(found.call(ADD, (0, 1)), clock_of(found))  # one negotiates besides
    assert both.brief and both.slow
    assert both.asked is not None and both.asked.step.name == "BEnter"
    assert both.solo is not None and both.solo.step.name == "AState"
    twice = Planner(schema, (functions, functions))
    assert twice.plan(twice.call(ADD, (2,)), clock_of(twice)).solo is None  # of one name


def test_an_after_relation_rearranges_the_whole_order() -> None:
    found = planner({"A": State(after="B"), "B": State(), "C": State()})
    clock = clock_of(found, 2, 1)
    call = found.call(ADD, (0,))
    plan = found.plan(call, clock)
    plan.apply(clock)
    assert plan.arrange
    assert [*clock.active()] == [2, 1, 0]
    call = found.call(REMOVE, (1,))
    found.plan(call, clock).apply(clock)
    assert clock.arranged is None
    assert [*clock.active()] == [2, 0]


def test_one_handler_of_each_kind_depends_on_no_order() -> None:
    found = planner(FLAGS, "AEnd", "AExit", "AnyState")
    clock = clock_of(found, 0, 1)
    call = found.call(REMOVE, (0, 1))
    plan = found.plan(call, clock)
    assert plan.unordered == 0b11
    assert found.steps(call, plan, clock) is plan.steps
    assert not plan.unseen
