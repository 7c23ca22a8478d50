"""Waiting: at once, later, cancelled, with a context, to the machine's end, by thousands."""

from __future__ import annotations

import asyncio
import sys
from asyncio import Future
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.errors import ContextExpiredError, MachineDisposedError, OptionError
from amnode.machine.machine import Machine
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event
from amnode.machine.waits import Wait, _Goals

SCHEMA = Schema({"A": State(), "B": State(), "C": State(), "M": State(multi=True)})


def machine() -> Machine:
    return Machine(SCHEMA, id="m")


async def test_what_is_true_already_is_done_at_once() -> None:
    m = machine()
    m.add1("A")
    for wait in (
        m.when1("A"),
        m.when(("A",)),
        m.when(()),
        m.when_not1("B"),
        m.when_not(("B", "C")),
        m.when_time(("A", "B"), (1, 0)),
    ):
        assert wait.done()
        assert await wait is None
    assert len(m._waits) == 0


async def test_all_states_of_a_wait_are_active_at_once() -> None:
    m = machine()
    wait = m.when(("A", "B", "C"))
    m.add1("B")
    m.add1("A")
    m.remove1("B")
    m.add1("C")
    assert not wait.done()
    assert len(m._waits) == 1
    m.add1("B")
    assert wait.done()
    assert len(m._waits) == 0


async def test_waiting_for_states_to_go() -> None:
    m = machine()
    m.add(("A", "B"))
    one, both = m.when_not1("A"), m.when_not(("A", "B"))
    m.remove1("A")
    assert one.done()
    m.set(("A",))
    assert not both.done()
    m.remove(("A", "B"))
    assert both.done()


async def test_waiting_for_ticks() -> None:
    m = machine()
    wait = m.when_time(("A", "M"), (3, 4))
    exact, far = m.when_time(("M",), (2,)), m.when_time(("M",), (100,))
    m.add1("A")
    m.add1("M")
    assert not exact.done()
    m.add1("M")  # 3: past what was waited for
    assert exact.done()
    m.add1("M")
    m.remove1("A")
    m.add1("A")
    assert wait.done()
    assert not far.done()
    far.cancel()
    assert (len(m._waits), m._waits._goals) == (0, {})


async def test_each_state_has_its_tick() -> None:
    with pytest.raises(OptionError, match="2 states and 1 ticks"):
        machine().when_time(("A", "B"), (1,))


async def test_an_error_can_be_waited_for() -> None:
    m = machine()
    wait = m.when_err()
    m.add_err(ValueError("x"))
    assert wait.done()


async def test_a_wait_that_is_cancelled_leaves_nothing() -> None:
    m = machine()
    waits = [m.when1("A"), m.when_not(()), m.when(("A", "B")), m.when_time(("A",), (5,))]
    context = m.state_ctx("C")
    waits.append(m.when1("A", ctx=context))
    assert len(m._waits) == 4
    for wait in waits:
        wait.cancel()
        assert not wait.cancel()
    assert len(m._waits) == 0
    assert m._waits.contexts == {}
    m.add(("A", "B"))


async def test_a_timeout_leaves_nothing() -> None:
    m = machine()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(m.when1("A"), 0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await m.when1("A")
    assert len(m._waits) == 0


async def test_thousands_of_waits_are_looked_at_only_when_their_turn_comes() -> None:
    m = machine()
    ticks = [m.when_time(("M",), (2 * k + 1,)) for k in range(3000)]
    flags = [m.when(("A", "B")) for _ in range(3000)]
    m.add1("A")
    for k in range(1000):
        m.add1("M")
        assert ticks[k].done()
        assert not ticks[k + 1].done()
    for wait in ticks[1000:]:
        wait.cancel()
    assert len(m._waits) == 3000
    m.add1("B")
    assert all(wait.done() for wait in flags)
    assert len(m._waits) == 0


async def test_a_jump_over_many_ticks_costs_the_waits_not_the_ticks() -> None:
    m = machine()
    waits = [m.when_time(("A",), (goal,)) for goal in (1, 10**12, 10**15)]
    m._clock.advance(0, 10**13)
    m._waits.changed((0,))
    assert [wait.done() for wait in waits] == [True, True, False]
    waits[2].cancel()


def test_ticks_are_served_once() -> None:
    """Or each transition would look at all ticks since the first wait was made."""
    goals = _Goals(2)
    goals.ticks = dict.fromkeys((3, 5, 9, 20, 21))
    assert goals.reached(4) == [3]
    goals.ticks[4] = None  # nothing puts it there: it is past
    assert goals.reached(6) == [5]
    assert goals.reached(1000) == [3, 5, 9, 20, 21, 4]


async def test_a_canceled_mutation_resolves_no_wait_and_ends_no_context() -> None:
    m = machine()
    m.bind({"AEnter": lambda _: False})
    wait, context = m.when1("A"), m.state_ctx("A")
    assert not m.add1("A")
    assert not wait.done()
    assert context.valid
    wait.cancel()


async def test_waits_follow_what_really_happened_when_a_handler_raises() -> None:
    def fail(event: Event) -> None:
        raise ValueError(event.name)

    m = machine()
    m.bind({"AState": fail})
    begun, ticked, context = m.when1("A"), m.when_time(("A",), (2,)), m.state_ctx("A")
    m.add1("A")
    assert not begun.done()
    assert ticked.done()
    assert not context.valid
    begun.cancel()


# -- contexts ------------------------------------------------------------------------------


async def test_a_context_is_valid_until_the_tick_changes() -> None:
    m = machine()
    m.add1("M")
    context = m.state_ctx("M")
    assert (context.valid, context.name, context.tick) == (True, "M", 1)
    m.add1("A")
    assert context.valid
    m.add1("M")  # still active, but another instance
    assert not context.valid
    await context.ended()


async def test_a_context_expires_before_the_final_handlers() -> None:
    m = machine()
    context, seen = m.state_ctx("A"), list[bool]()
    m.bind(
        {
            "AEnter": lambda _: seen.append(context.valid),
            "AState": lambda _: seen.append(context.valid),
        }
    )
    m.add1("A")
    assert seen == [True, False]


async def test_the_end_of_a_context_can_be_awaited() -> None:
    m = machine()
    context = m.state_ctx("A")
    ended, left = (asyncio.create_task(context.ended()) for _ in range(2))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait([left])
    m.add1("A")
    await ended
    assert m._waits.contexts == {}


async def test_a_wait_ends_with_its_context() -> None:
    m = machine()
    context = m.state_ctx("A")
    wait, met = m.when1("B", ctx=context), m.when1("C", ctx=context)
    m.add1("C")
    m.add1("A")
    await met
    with pytest.raises(ContextExpiredError, match="context of A at tick 0 ended"):
        await wait
    with pytest.raises(ContextExpiredError):
        await m.when1("B", ctx=context)
    assert (len(m._waits), m._waits.contexts) == (0, {})


async def test_a_coroutine_runs_inside_a_context() -> None:
    async def work(result: str) -> str:
        await asyncio.sleep(0)
        return result

    async def fail() -> None:
        raise ValueError("work")

    m = machine()
    context = m.state_ctx("A")
    assert await context.run(work("done")) == "done"
    with pytest.raises(ValueError, match="work"):
        await context.run(fail())
    assert m._waits.contexts == {}


async def test_a_coroutine_is_cancelled_with_its_context() -> None:
    cancelled: list[bool] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    m = machine()
    context = m.state_ctx("A")
    running = asyncio.create_task(context.run(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    m.add1("A")
    with pytest.raises(ContextExpiredError):
        await running
    with pytest.raises(ContextExpiredError):
        await context.run(work())
    assert cancelled == [True]

    other = asyncio.create_task(m.state_ctx("A").run(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    other.cancel()
    await asyncio.wait([other])
    assert other.cancelled()
    assert cancelled == [True, True]


# -- the end of the machine ----------------------------------------------------------------


async def test_waits_fail_when_the_machine_is_disposed() -> None:
    m = machine()
    m.add1("A")
    context = m.state_ctx("A")
    waits = [m.when1("B"), m.when_time(("A",), (9,)), m.when1("C", ctx=context)]
    ended = asyncio.create_task(context.ended())
    await asyncio.sleep(0)
    await m.dispose()
    await ended
    for wait in [*waits, m.when1("B")]:
        with pytest.raises(MachineDisposedError, match="m was disposed"):
            await wait
    await m.when1("A")  # reads keep the last values
    assert not context.valid
    assert not m.state_ctx("A").valid
    assert len(m._waits) == 0


async def test_an_end_that_nobody_awaits_is_not_reported() -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context)
    )
    m = machine()
    m.when1("B")
    await m.dispose()
    assert reported == []


@given(st.data())
def test_a_wait_is_done_exactly_when_its_condition_came_true(data: st.DataObject) -> None:
    names = st.lists(st.sampled_from(("A", "B", "C", "M")), min_size=1, max_size=3, unique=True)
    kinds = st.sampled_from(("when", "when_not", "when_time"))
    todo = data.draw(
        st.lists(st.tuples(st.sampled_from(("add", "remove")), names), max_size=12)
    )
    wanted = data.draw(st.lists(st.tuples(kinds, names, st.integers(0, 6)), max_size=6))

    async def run() -> None:
        m = machine()
        waits = [(k, s, t, make(m, k, s, t), [holds(m, k, s, t)]) for k, s, t in wanted]
        for type_, states in todo:
            getattr(m, type_)(states)
            for kind, names, tick, wait, came in waits:
                came.append(holds(m, kind, names, tick))
                assert wait.done() == any(came)
        assert len(m._waits) == sum(not wait.done() for *_, wait, _ in waits)
        for *_, wait, _ in waits:
            wait.cancel()
        assert len(m._waits) == 0

    asyncio.run(run())


def make(m: Machine, kind: str, states: list[str], tick: int) -> Wait:
    if kind == "when_time":
        return m.when_time(states, [tick] * len(states))
    return m.when(states) if kind == "when" else m.when_not(states)


def holds(m: Machine, kind: str, states: list[str], tick: int) -> bool:
    if kind == "when_time":
        return all(t >= tick for t in m.time(states))
    return m.is_(states) if kind == "when" else m.not_(states)


# -- other conditions ----------------------------------------------------------------------


async def test_ticks_and_the_next_activation_count_from_now() -> None:
    m = machine()
    m.add(("A", "M"))
    ticks, next_a, again = (
        m.when_ticks("A", 2),
        m.when_next_active("A"),
        m.when_next_active("M"),
    )
    first = m.when_next_active("B")
    assert m.when_ticks("A", 0).done()
    m.remove1("A")
    assert not ticks.done()
    m.add(("A", "M", "B"))
    assert all(wait.done() for wait in (ticks, next_a, again, first))


async def test_a_call_with_arguments_that_match() -> None:
    m = machine()
    by_field, by_predicate = m.when_args("A", {"id": 1}), m.when_args("M", lambda a: a == 2)
    whatever = m.when_args("A", {})
    m.add1("A", {"id": 2, "x": 0})
    assert whatever.done()
    m.remove1("A", {"id": 1})
    assert not by_field.done()
    m.add1("A", Event)  # an object, without the field
    m.remove1("A")
    m.add1("A", {"id": 1, "x": 0})
    m.add1("M", 1)
    assert by_field.done()
    assert not by_predicate.done()
    m.add1("M", 2)
    assert by_predicate.done()
    assert len(m._waits) == 0


async def test_arguments_are_seen_with_handlers_too() -> None:
    m = machine()
    m.bind({"AEnter": lambda e: e.args != 1, "AState": lambda _: m.add1("B", 3) and None})
    refused, taken, nested = (m.when_args("A", lambda a, k=k: a == k) for k in (1, 2, 4))
    b = m.when_args("B", lambda a: a == 3)
    m.add1("A", 1)
    m.add1("A", 2)
    assert [w.done() for w in (refused, taken, nested, b)] == [False, True, False, True]
    refused.cancel()
    nested.cancel()
    assert len(m._waits) == 0


async def test_a_query_is_asked_only_when_something_changed() -> None:
    m, asked = machine(), list[int]()

    def query(clock: Mapping[str, int]) -> bool:
        asked.append(clock["A"])
        return clock["A"] + clock["B"] == 3

    assert m.when_query(lambda clock: len(clock) == 5 and next(iter(clock)) == "A").done()
    wait = m.when_query(query)
    m.remove1("A")
    m.add1("A")
    m.add1("A")
    assert asked == [0, 1]
    m.remove1("A")
    m.add1("B")
    assert wait.done()
    assert asked == [0, 1, 2, 2]


async def test_what_a_condition_raises_is_told_to_who_waits() -> None:
    m, ticks = machine(), list[int]()

    def query(clock: Mapping[str, int]) -> bool:
        ticks.append(clock["A"])
        if clock["A"]:
            raise ValueError("query")
        return False

    wait, args = m.when_query(query), m.when_args("A", lambda a: a.missing)
    other = m.when_query(lambda clock: bool(clock["A"]) and not args.cancel() and False)
    assert m.add1("A")
    with pytest.raises(ValueError, match="query"):
        await wait
    with pytest.raises(AttributeError):
        await args
    other.cancel()
    assert len(m._waits) == 0


async def test_a_condition_may_cancel_another() -> None:
    m = machine()
    waits: list[asyncio.Future[None]] = []

    def query(clock: Mapping[str, int]) -> bool:
        for wait in waits:
            wait.cancel()
        return False

    first = m.when_query(query)
    waits += [m.when_query(lambda clock: bool(clock["A"])), first]
    m.add1("A")
    assert all(wait.cancelled() for wait in waits)
    assert len(m._waits) == 0


async def test_every_kind_ends_with_its_context_and_its_machine() -> None:
    m = machine()
    context = m.state_ctx("C")
    waits = [
        m.when_args("A", {}, ctx=context),
        m.when_query(lambda _: False, ctx=context),
        m.when_ticks("A", 1, ctx=context),
        m.when_next_active("A", ctx=context),
        m.when_disposed(ctx=context),
    ]
    m.add1("C")
    waits += [m.when_args("A", {}, ctx=context), m.when_query(lambda _: True, ctx=context)]
    for wait in waits:
        with pytest.raises(ContextExpiredError):
            await wait
    end, gone = m.when_disposed(), m.when_disposed()
    gone.cancel()
    waits = [m.when_args("A", {}), m.when_query(lambda _: False)]
    await m.dispose()
    waits += [m.when_args("A", {}), m.when_query(lambda _: False)]
    for wait in waits:
        with pytest.raises(MachineDisposedError):
            await wait
    assert end.done()
    assert m.when_disposed().done()
    assert len(m._waits) == 0


async def test_those_of_other_states_are_not_looked_at() -> None:
    m, asked = machine(), list[object]()
    waits = [m.when_args("B", lambda a: bool(asked.append(a))) for _ in range(100)]
    m.add1("A")
    m.add1("M")
    assert asked == []
    m.add1("B", 7)
    assert asked == [7] * 100
    for wait in waits:
        wait.cancel()


async def test_waits_cost_nothing_on_transitions_that_do_not_concern_them() -> None:
    """As many calls are made with one wait pending as with a hundred thousand."""

    def calls_of(m: Machine) -> int:
        count = 0

        def counted(frame: object, event: str, arg: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(counted)
        try:
            m.add1("A")
            m.remove1("A")
        finally:
            sys.setprofile(None)
        return count

    m = machine()
    waits: list[Future[None]] = [m.when1("B")]
    calls_of(m)  # the plans are made
    one = calls_of(m)
    for _ in range(20_000):
        waits += [m.when(("B", "C")), m.when_not1("Exception"), m.when_time("B", (9,))]
        waits += [m.when_args("B", {}), m.when_disposed()]
    assert len(m._waits) == 80_001  # nothing is wrong, so nobody waits for its end
    assert calls_of(m) == one
    await m.dispose()
