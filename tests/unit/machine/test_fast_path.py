"""The fast path comes to the same as the whole way, and whoever watches is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from amnode.errors import StateUnknownError
from amnode.machine.clock import FOLLOWED, RUNNING, WATCHED, touches
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED, MutationType, Queued
from amnode.machine.schema import Schema, State
from amnode.machine.transition import CAUSE, Event

SCHEMA = Schema(
    {
        "A": State(),
        "B": State(),
        "M": State(multi=True),
        "Needs": State(require="A"),
        "Instead": State(remove="B", add="M"),
        "Late": State(after="A"),
    }
)
FLAGS = Schema({name: State() for name in "ABCDEF"})
ADD = MutationType.ADD


def machine(schema: Schema = FLAGS, **handlers: Callable[[Event], object]) -> Machine:
    made = Machine(schema, id="m")
    if handlers:
        made.bind(handlers)
    return made


class Watcher:
    def __init__(self) -> None:
        self.ended: list[bool] = []

    def transition_end(self, transition: Any) -> None:
        self.ended.append(transition.accepted)


def warm(made: Machine, *states: str) -> None:
    for state in states:
        made.add1(state)
        made.remove1(state)
    assert not made._clock.busy


def went_the_whole_way(made: Machine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes what does not go the fast way from now on."""
    seen: list[str] = []
    whole = made._mutate

    def mutate(call: Any, args: object, origin: object) -> Any:
        seen.append(call.type.name)
        return whole(call, args, origin)

    monkeypatch.setattr(made, "_mutate", mutate)
    return seen


@pytest.mark.parametrize("schema", [SCHEMA, FLAGS], ids=["related", "flags"])
def test_both_ways_come_to_the_same(schema: Schema) -> None:
    fast, whole = machine(schema), machine(schema)
    whole.trace(Watcher())
    chosen = random.Random(7)
    names = schema.names
    for _ in range(3000):
        type_ = chosen.choice(("add", "remove", "set", "toggle"))
        states = tuple(chosen.sample(names, chosen.randint(1, 3)))
        if len(states) == 1:
            type_, states = f"{type_}1", states[0]
        assert getattr(fast, type_)(states) is getattr(whole, type_)(states)
        assert fast.active_states() == whole.active_states()
        assert fast.time() == whole.time()
        assert fast.queue_tick == whole.queue_tick
        fast._clock.check()


def test_what_was_made_before_goes_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    m = machine(SCHEMA)
    for _ in range(2):
        seen = went_the_whole_way(m, monkeypatch)
        for add in (("A",), ("A", "B"), ["B", "A"]):
            m.add(add)
            m.remove(add)
        m.add1("M")
        m.add1("M")
        m.set1("A")
        m.toggle1("A")
        m.toggle(("A", "B"))
        m.set(())
    assert not seen
    assert m.tick("M") == 8
    assert m.active_states() == []


def test_a_list_and_one_name_mean_the_same_as_a_tuple() -> None:
    m = machine()
    m.add(["A", "B"])
    m.remove("A")
    assert m.active_states() == ["B"]
    m.set("C")
    assert m.active_states() == ["C"]


async def test_whoever_watches_makes_the_clock_busy_until_he_is_gone() -> None:
    m = machine()
    warm(m, "A")
    watcher = Watcher()
    m.trace(watcher)
    assert m._clock.busy == WATCHED
    m.add1("A")
    m.untrace(watcher)
    m.remove1("A")
    assert (m._clock.busy, watcher.ended) == (0, [True])

    wait, other = m.when1("A"), m.when_not1("A")
    assert m._clock.busy == touches(1) ^ FOLLOWED ^ WATCHED ^ RUNNING
    m.add1("A")
    assert wait.done()
    assert other.done()
    assert not m._clock.busy

    ended = asyncio.ensure_future(m.state_ctx("A").ended())
    await asyncio.sleep(0)
    m.remove1("A")
    await ended
    assert not m._clock.busy

    m.add1("A")
    task = m.spawn("A", asyncio.Event().wait())
    m.remove1("A")
    with pytest.raises(asyncio.CancelledError):
        await task
    m.add1("A")
    assert not m._clock.busy
    query = m.when_query(lambda clock: clock["B"] == 1)
    m.add1("C")
    assert m._clock.busy == WATCHED
    m.add1("B")
    assert query.done()
    assert not m._clock.busy
    await m.dispose()
    assert m.remove1("A") is CANCELED
    assert m._clock.busy == WATCHED


async def test_who_watches_one_state_slows_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    m = machine(FLAGS, BState=lambda _: None)
    warm(m, "A", "B")
    m.add1("C")
    waits = m.when1("D"), m.when_time(("E",), (1,)), m.when_args("F", {})
    context = m.state_ctx("D")
    tied = m.when1("A", ctx=context)
    tied.cancel()
    task = m.spawn("C", asyncio.Event().wait())
    warm_again = m.add1("A"), m.remove1("A")  # somebody waited for it, so it is looked at once
    seen = went_the_whole_way(m, monkeypatch)
    for state in "AB":
        m.add1(state)
        m.remove1(state)
    assert (seen, warm_again) == ([], (EXECUTED, EXECUTED))
    for state in "DEF":
        m.add1(state)
    m.remove1("C")
    assert seen == ["ADD", "ADD", "ADD", "REMOVE"]
    assert all(wait.done() for wait in waits)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not m._clock.busy


def test_a_lone_handler_knows_what_runs_it() -> None:
    seen: list[Event] = []
    m = machine(AState=seen.append)
    warm(m, "A")
    cause = Event(m, seen[0].step, None, seen[0]._plan, None, None)
    token = CAUSE.set(cause)
    m.add1("A", "args", "origin")
    CAUSE.reset(token)
    event = seen[-1]
    assert (event.name, event.machine, event.args) == ("AState", m, "args")
    assert event.transition is event.transition
    assert event.transition.changed == (0,)
    assert event.transition.accepted
    assert event.mutation.type is ADD
    assert event.mutation.origin == "origin"
    assert event.mutation.cause is cause
    assert not event.is_check
    assert CAUSE.get() is None


def test_what_a_lone_handler_asks_for_is_queued_and_knows_its_cause() -> None:
    causes: list[Event | None] = []
    answers: list[object] = []

    def first(event: Event) -> None:
        assert m._clock.busy == RUNNING
        answers.append(m.add1("B"))

    m = machine(AState=first, BState=lambda event: causes.append(event.mutation.cause))
    warm(m, "A")
    m.add1("A")
    assert not causes[1:]  # one that is active is asked for again, and stays
    m.remove1("A")
    m.remove1("B")
    m.add1("A")
    assert isinstance(answers[-1], Queued)
    assert answers[-1].outcome is EXECUTED
    assert causes[-1] is not None and causes[-1].name == "AState"
    assert (m.active_states(), m._clock.busy) == (["B", "A"], 0)


def test_a_lone_handler_that_raises_leaves_an_exception() -> None:
    failing = False

    def handler(event: Event) -> None:
        if failing:
            raise ValueError("no")

    m = machine(AState=handler)
    warm(m, "A")
    failing = True
    assert m.add1("A") is CANCELED
    assert m.active_states() == ["Exception"]
    assert (m.tick("A"), str(m.err)) == (4, "no")
    assert (m._clock.busy, CAUSE.get()) == (0, None)


def test_the_error_of_a_handler_that_first_runs_has_no_other_behind_it() -> None:
    def handler(event: Event) -> None:
        raise ValueError("no")

    m = machine(AState=handler)
    m.add1("A")
    assert m.err is not None and m.err.__context__ is None
    with pytest.raises(StateUnknownError) as raised:
        m.add1("X")
    assert raised.value.__suppress_context__


def test_what_ends_the_program_passes_through_and_leaves_the_machine_idle() -> None:
    ending = False

    def handler(event: Event) -> None:
        if ending:
            raise KeyboardInterrupt

    m = machine(AState=handler)
    warm(m, "A")
    ending = True
    with pytest.raises(KeyboardInterrupt):
        m.add1("A")
    assert not m._clock.busy & RUNNING
    assert CAUSE.get() is None


async def test_a_lone_handler_may_be_async() -> None:
    ran = asyncio.Event()

    async def handler(event: Event) -> None:
        ran.set()
        await asyncio.Event().wait()

    m = Machine(FLAGS, id="m")
    m.bind({"AState": handler})
    m.add1("A")
    await ran.wait()
    m.remove1("A")
    await asyncio.sleep(0)
    ran.clear()
    m.add1("A")
    await ran.wait()
    await m.dispose()


def test_a_tracer_that_comes_in_a_lone_handler_sees_the_end() -> None:
    watcher, coming = Watcher(), False

    def handler(event: Event) -> None:
        if coming:
            m.trace(watcher)

    m = machine(AState=handler)
    warm(m, "A")
    coming = True
    m.add1("A")
    assert watcher.ended == [True]
    assert m._clock.busy == WATCHED


def test_a_lone_handler_may_detach_itself() -> None:
    m = Machine(FLAGS, id="m")
    binding = m.bind({"AState": lambda _: m.detach(binding)})
    m.add1("A")
    m.remove1("A")
    assert m.add1("A") is EXECUTED
    assert m._owners == ()


def test_a_whole_order_that_was_taken_over_ends_with_the_next_change() -> None:
    m = machine()
    warm(m, "A", "B", "C")
    m.add(("A", "B", "C"))
    m.grow({"G": State(require="A")})
    assert m.active_states() == ["A", "B", "C"]
    m.add1("G")
    assert m.active_states() == ["B", "C", "A", "G"]
    assert not m._clock.busy


def test_plans_do_not_explode() -> None:
    """Of independent flags each has four plans, however many configurations there were."""
    schema = Schema({f"S{i}": State() for i in range(20)})
    m = Machine(schema, id="m")
    chosen, seen = random.Random(20), {m.time()}
    for _ in range(40_000):
        m.toggle1(f"S{chosen.randrange(20)}")
        seen.add(tuple(tick & 1 for tick in m.time()))
    calls = m._planner._calls.values()
    assert len(seen) > 30_000
    assert len(calls) == 40
    assert all(len(call.plans) <= 2 and call.mask.bit_count() == 1 for call in calls)
    assert all(plan.by_order is None for call in calls for plan in call.plans.values())
