"""One transition, seen by its handlers: negotiation, finals, refusals, errors, rollback."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from amnode.errors import BindingError
from amnode.machine.machine import ErrorArgs, Machine
from amnode.machine.queue import CANCELED, EXECUTED, MutationType
from amnode.machine.schema import Schema, State
from amnode.machine.transition import CAUSE, Event, Transition


class Script:
    """A machine whose handlers write down that they ran, and do what they are told."""

    def __init__(self, *bound: str, **states: State) -> None:
        self.machine = Machine(Schema(states), id="m")
        self.ran: list[str] = []
        self.does: dict[str, Callable[[Event], Any]] = {}
        self.events: dict[str, Event] = {}
        self.machine.bind({name: self._handler(name) for name in bound})

    def _handler(self, name: str) -> Callable[[Event], Any]:
        def run(event: Event) -> Any:
            self.ran.append(name)
            self.events[name] = event
            return self.does.get(name, lambda _: None)(event)

        return run


def refuse(_event: Event) -> bool:
    return False


def fail(event: Event) -> None:
    raise ValueError(event.name)


def fail_unseen(event: Event) -> None:
    """Says whether anybody had asked for the transition before: the fast path has none."""
    raise ValueError("unseen" if event._transition is None else "seen")


def error_args(script: Script, handler: str = "ExceptionState") -> ErrorArgs:
    args = script.events[handler].args
    assert isinstance(args, ErrorArgs)
    return args


def test_an_event_says_what_is_going_on() -> None:
    script = Script("AState", A=State())
    origin = object()
    assert script.machine.add1("A", {"x": 1}, origin=origin) is EXECUTED
    event = script.events["AState"]
    assert event.machine is script.machine
    assert (event.name, event.args) == ("AState", {"x": 1})
    assert (event.mutation.type, event.mutation.called) == (MutationType.ADD, (0,))
    assert event.mutation.origin is origin
    assert event.mutation.cause is None
    transition = event.transition
    assert isinstance(transition, Transition)
    assert (transition.type, transition.called) == (MutationType.ADD, (0,))
    assert (transition.auto, transition.accepted, transition.changed) == (False, True, (0,))
    assert repr(event) == "<Event AState of m>"
    assert repr(transition) == "<Transition of m: <Mutation add (0,)>>"


def test_nothing_has_changed_while_it_is_negotiated() -> None:
    script = Script("BEnter", "BState", A=State(), B=State(remove="A"))
    seen: list[str] = []
    script.does["BEnter"] = script.does["BState"] = lambda e: seen.append(str(e.machine))
    script.machine.add1("A")
    script.machine.add1("B")
    assert seen == ["(A:1)", "(B:1)"]


@pytest.mark.parametrize("who", ["AExit", "BEnter", "CC", "AB", "AnyEnter"])
def test_each_of_them_can_refuse_and_no_further_one_is_asked(who: str) -> None:
    order = ["AExit", "BEnter", "CC", "AB", "AnyEnter", "AEnd", "BState", "AnyState"]
    script = Script(*order, A=State(), B=State(remove="A"), C=State())
    script.machine.add(("A", "C"))
    script.ran.clear()
    script.does[who] = refuse
    assert script.machine.add1("B") is CANCELED
    assert script.ran == order[: order.index(who) + 1]
    assert str(script.machine) == "(A:1 C:1)"
    script.does.clear()
    assert script.machine.add1("B") is EXECUTED
    assert script.ran[-len(order) :] == order


def test_only_false_refuses() -> None:
    script = Script("AEnter", A=State())
    for answer in (None, True, 0, ""):
        script.does["AEnter"] = lambda _, answer=answer: answer
        assert script.machine.add1("A")
        script.machine.remove1("A")


def test_a_guard_of_a_repeated_call_asks_what_was_called() -> None:
    script = Script("AA", A=State(), B=State())
    script.does["AA"] = lambda e: e.machine.index("A") not in e.mutation.called
    assert script.machine.add1("A")
    assert script.machine.add1("B")
    assert not script.machine.add1("A")


def test_an_unmet_requirement_cancels_before_any_handler() -> None:
    script = Script("AEnter", "AnyEnter", A=State(require="B"), B=State())
    assert script.machine.add1("A") is CANCELED
    assert script.ran == []


# -- automatic transitions -----------------------------------------------------------------


def test_a_refusal_in_an_automatic_transition_strikes_only_that_state() -> None:
    script = Script(
        "AEnter", "BEnter", "AnyEnter", A=State(auto=True), B=State(auto=True), C=State()
    )
    script.does["AEnter"] = refuse
    script.machine.add1("C")
    assert str(script.machine) == "(B:1 C:1)"
    assert script.ran == ["AnyEnter", "AEnter", "BEnter", "AnyEnter"]


def test_what_came_only_with_a_struck_state_is_gone() -> None:
    script = Script(
        "AEnter", A=State(auto=True, add="D"), B=State(auto=True), C=State(), D=State()
    )
    script.does["AEnter"] = refuse
    script.machine.add1("C")
    assert script.machine.is_(("B", "C"))
    assert script.machine.not_(("A", "D"))


def test_a_struck_state_is_back_if_another_called_one_adds_it() -> None:
    script = Script("AEnter", A=State(auto=True), B=State(auto=True, add="A"), C=State())
    script.does["AEnter"] = refuse
    script.machine.add1("C")
    assert script.machine.is_(("A", "B", "C"))


def test_with_no_target_left_it_is_canceled_before_any_enter() -> None:
    script = Script("AEnter", "AnyEnter", A=State(auto=True, remove="C"), C=State())
    script.does["AEnter"] = refuse
    assert script.machine.add1("C") is EXECUTED
    assert script.ran == ["AnyEnter", "AEnter"]
    assert str(script.machine) == "(C:1)"


def test_a_refusal_at_the_very_end_leaves_no_target_either() -> None:
    script = Script("CA", A=State(auto=True, remove="C"), C=State())
    script.does["CA"] = refuse
    assert script.machine.add1("C") is EXECUTED
    assert str(script.machine) == "(C:1)"


def test_pairs_are_fixed_before_the_first_of_them_runs() -> None:
    auto = State(auto=True)
    script = Script("AEnter", "CA", "CB", "DB", A=auto, B=auto, C=State(), D=State())
    script.does["AEnter"] = refuse
    script.does["CB"] = refuse
    script.machine.add(("C", "D"))
    assert script.ran == ["AEnter", "CB", "DB"]  # no CA: A was struck; DB though B was
    assert script.machine.not_(("A", "B"))


def test_a_state_that_is_not_automatic_refuses_the_whole() -> None:
    script = Script("DEnter", "AExit", A=State(auto=True, add="D"), C=State(), D=State())
    script.does["DEnter"] = refuse
    script.machine.add1("C")
    assert str(script.machine) == "(C:1)"


# -- handlers that raise ------------------------------------------------------------------


def test_an_error_in_negotiation_cancels_and_becomes_an_exception() -> None:
    script = Script("AEnter", "ExceptionState", A=State())
    script.does["AEnter"] = fail
    assert script.machine.add1("A") is CANCELED
    assert str(script.machine) == "(Exception:1)"
    args = error_args(script)
    assert args.error is script.machine.err
    assert isinstance(args.error, ValueError)
    assert args.handler is script.events["AEnter"]
    assert script.events["ExceptionState"].mutation.cause is args.handler
    assert "in fail" in args.traceback
    assert "ValueError: AEnter" in args.traceback
    assert repr(args) == "ErrorArgs(ValueError('AEnter'))"


def test_an_error_in_a_final_handler_undoes_what_has_not_completed() -> None:
    script = Script("AState", "BState", "CState", A=State(), B=State(), C=State(), D=State())
    script.does["BState"] = fail
    script.machine.add1("D")
    assert script.machine.set(("A", "B", "C")) is CANCELED
    assert script.ran == ["AState", "BState"]
    assert script.machine.clock() == {"A": 1, "B": 2, "C": 2, "D": 2, "Exception": 1}


def test_an_error_in_an_end_handler_undoes_all_that_was_activated() -> None:
    script = Script("AEnd", A=State(), B=State(remove="A"))
    script.does["AEnd"] = fail
    script.machine.add1("A")
    assert script.machine.add1("B") is CANCELED
    assert script.machine.clock() == {"A": 2, "B": 2, "Exception": 1}


def test_an_error_in_any_state_undoes_nothing() -> None:
    script = Script("AnyState", A=State())
    script.does["AnyState"] = lambda e: fail(e) if e.mutation.called == (0,) else None
    assert script.machine.add1("A") is CANCELED
    assert str(script.machine) == "(Exception:1 A:1)"


def test_what_requires_the_undone_is_undone_too() -> None:
    """A is Multi and was active; called again, its handler raises, and B cannot stay."""
    script = Script("AState", A=State(multi=True), B=State(require="A"), C=State(require="B"))
    script.machine.add(("A", "B", "C"))
    script.does["AState"] = fail
    assert script.machine.add1("A") is CANCELED
    assert script.machine.clock() == {"A": 4, "B": 2, "C": 2, "Exception": 1}
    script.machine._clock.check()


async def test_contexts_and_tasks_of_what_was_undone_end() -> None:
    script = Script("AState", A=State(multi=True), B=State(require="A"))
    script.machine.add(("A", "B"))
    context = script.machine.state_ctx("B")
    ended = asyncio.create_task(context.ended())
    task = script.machine.spawn("B", asyncio.Event().wait())
    await asyncio.sleep(0)
    script.does["AState"] = fail
    script.machine.add1("A")
    await asyncio.wait([ended, task])
    assert task.cancelled()
    assert not context.valid


def test_an_error_while_an_error_is_handled_is_logged_and_adds_no_second_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script("AEnter", "ExceptionState", A=State())
    script.does["AEnter"] = script.does["ExceptionState"] = fail
    with caplog.at_level(logging.ERROR):
        script.machine.add1("A")
    assert script.ran == ["AEnter", "ExceptionState"]
    assert str(script.machine.err) == "ExceptionState"
    assert script.machine.clock() == {"A": 0, "Exception": 2}
    assert "raised while an error was being handled" in caplog.text


def test_an_error_of_an_automatic_state_does_not_try_it_again_for_ever() -> None:
    script = Script("AEnter", A=State(auto=True), B=State())
    script.does["AEnter"] = fail
    assert script.machine.add1("B") is EXECUTED
    assert script.machine.clock() == {"A": 0, "B": 1, "Exception": 1}
    script.machine.remove1("B")
    assert script.ran == ["AEnter", "AEnter"]


def test_a_negotiation_handler_that_turns_out_async_is_an_error() -> None:
    async def decide() -> bool:
        return True

    script = Script("AEnter", A=State())
    script.does["AEnter"] = lambda _: decide()
    assert script.machine.add1("A") is CANCELED
    assert isinstance(script.machine.err, BindingError)


def test_what_ends_the_program_is_let_out_when_the_machine_is_whole_again() -> None:
    def interrupt(event: Event) -> None:
        event.machine.add1("B")
        raise KeyboardInterrupt

    script = Script("AState", A=State(), B=State(), C=State())
    script.does["AState"] = interrupt
    script.machine.add1("C")
    script.machine.remove1("C")
    with pytest.raises(KeyboardInterrupt):
        script.machine.add1("A")
    assert isinstance(script.machine.err, KeyboardInterrupt)
    assert str(script.machine) == "()"
    assert script.machine.add1("C")
    assert str(script.machine) == "(B:1 Exception:1 C:3)"  # what was pending follows


# -- one that nobody saw: made before, and all that runs is one final handler --------------


def test_the_transition_of_a_handler_is_made_when_first_asked_for() -> None:
    script = Script("AState", A=State(), B=State(remove="A"))
    script.machine.add1("A")
    assert script.events["AState"]._transition is None
    script.machine.remove1("A")
    origin = object()
    assert script.machine.add1("A", {"x": 1}, origin=origin) is EXECUTED
    event = script.events["AState"]
    assert event._transition is None
    assert not event.is_check
    assert event._transition is None  # nobody needs one to say that
    transition = event.transition
    assert event.transition is transition
    assert event.mutation is transition.mutation
    assert (transition.machine, transition.accepted) == (script.machine, True)
    assert (transition.type, transition.called) == (MutationType.ADD, (0,))
    assert (transition.changed, transition.error) == ((0,), None)
    mutation = event.mutation
    assert (mutation.args, mutation.origin, mutation.cause) == ({"x": 1}, origin, None)


def test_an_error_in_the_only_handler_undoes_it_and_what_requires_it() -> None:
    script = Script("AState", A=State(multi=True), B=State(require="A"), C=State())
    script.machine.add(("A", "B", "C"))
    script.machine.add1("A")
    context = script.machine.state_ctx("C")
    script.does["AState"] = fail_unseen
    assert script.machine.add1("A") is CANCELED
    assert str(script.machine.err) == "unseen"
    assert script.machine.clock() == {"A": 6, "B": 2, "C": 1, "Exception": 1}
    assert context.valid
    assert script.events["AState"].transition.changed == (0, 1)
    script.machine._clock.check()


def test_an_error_in_the_only_handler_undoes_nothing_if_that_is_any_state() -> None:
    script = Script("AnyState", A=State())
    script.machine.add1("A")
    script.machine.remove1("A")
    script.does["AnyState"] = lambda e: fail_unseen(e) if e.args == "fail" else None
    assert script.machine.add1("A", "fail") is CANCELED
    assert str(script.machine.err) == "unseen"
    assert str(script.machine) == "(Exception:1 A:3)"


@pytest.mark.parametrize("answer", [False, True, 0, "", object()])
def test_what_a_final_handler_returns_does_not_matter_if_it_is_no_coroutine(
    answer: object,
) -> None:
    script = Script("AState", A=State())
    script.does["AState"] = lambda _: answer
    for tick in (1, 3):  # the whole way, and the fast one
        assert script.machine.add1("A") is EXECUTED
        assert script.machine.clock() == {"A": tick, "Exception": 0}
        assert script.events["AState"].transition.started == []
        script.machine.remove1("A")


async def test_a_coroutine_of_the_only_handler_becomes_a_task_of_its_state() -> None:
    script = Script("AState", A=State())
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    for name in ("whole", "fast"):
        script.does["AState"] = lambda _, name=name: work(name)
        assert script.machine.add1("A") is EXECUTED
        ((owner, _coro, event),) = script.events["AState"].transition.started
        assert (owner, event) == (0, script.events["AState"])
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.sleep(0)
        assert name not in ended
        script.machine.remove1("A")
        await asyncio.wait([task])
        assert task.cancelled()
    assert ended == ["whole", "fast"]
    await script.machine.dispose()


# -- causes --------------------------------------------------------------------------------


def test_nested_mutations_carry_their_cause() -> None:
    script = Script("AState", "BState", A=State(), B=State(), C=State())
    script.does["AState"] = lambda e: e.machine.add1("B") and None
    script.machine.add1("A")
    assert script.events["BState"].mutation.cause is script.events["AState"]
    assert CAUSE.get() is None


def test_a_cause_crosses_machines() -> None:
    one, two = Script("AState", A=State()), Script("BState", B=State())
    one.does["AState"] = lambda _: two.machine.add1("B") and None
    one.machine.add1("A")
    assert two.events["BState"].mutation.cause is one.events["AState"]


async def test_a_cause_is_carried_into_tasks() -> None:
    script = Script("AState", "BState", A=State(), B=State())

    async def work(event: Event) -> None:
        event.machine.add1("B")

    def start(event: Event) -> Coroutine[Any, Any, None]:
        return work(event)

    script.does["AState"] = start
    script.machine.add1("A")
    await script.machine.when1("B")
    assert script.events["BState"].mutation.cause is script.events["AState"]
    await script.machine.dispose()


# -- bound objects, coroutines -------------------------------------------------------------


class Bound:
    def __init__(self) -> None:
        self.ran: list[str] = []

    def AEnter(self, event: Event) -> bool:
        self.ran.append(event.name)
        return True

    async def AState(self, event: Event) -> None:
        self.ran.append(event.name)


def test_methods_get_their_object_and_coroutines_of_undone_states_never_run() -> None:
    machine = Machine(Schema({"A": State(), "B": State()}), id="m")
    bound = Bound()
    machine.bind(bound)
    machine.bind({"AState": fail})
    assert machine.add(("B", "A")) is CANCELED
    assert bound.ran == ["AEnter"]
    assert machine.clock() == {"A": 2, "B": 1, "Exception": 1}


def test_tasks_that_nobody_undid_start_when_the_transition_is_over() -> None:
    """Without a loop they cannot; that is an error of their handler."""
    machine = Machine(Schema({"A": State()}), id="m")
    machine.bind(Bound())
    assert machine.add1("A") is EXECUTED
    assert "AState is async" in str(machine.err)


def test_a_check_stops_before_the_change() -> None:
    script = Script("AEnter", "AState", "BEnter", A=State(), B=State(require="A"))
    script.does["BEnter"] = refuse
    assert script.machine.can_add1("A")
    assert script.events["AEnter"].is_check
    assert not script.machine.can_add1("B")  # by the relations: nobody is asked
    assert not script.machine.can_add(("A", "B"))
    assert script.ran == ["AEnter", "AEnter", "BEnter"]
    assert script.machine.add1("A")
    assert not script.events["AEnter"].is_check


def test_an_observer_is_told_of_each_handler_and_how_it_ended() -> None:
    script = Script("AEnter", "AState", "BEnter", A=State(), B=State())
    script.does |= {"AState": fail, "BEnter": refuse}
    told: list[tuple[str, object]] = []

    class Observer:
        def handler_end(self, event: Event, answer: object) -> None:
            told.append((event.name, answer))

    script.machine.trace(Observer())
    script.machine.add1("A")
    script.machine.add1("B")
    assert told == [("AEnter", None), ("AState", script.machine.err), ("BEnter", False)]
    assert CAUSE.get() is None
