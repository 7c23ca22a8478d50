"""A machine as its users see it: mutations, queue, errors, bindings, tasks, the end."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from typing import Any

import pytest

from amnode.errors import (
    BindingError,
    MachineDisposedError,
    MachineError,
    SchemaError,
    StateUnknownError,
)
from amnode.machine.machine import ErrorArgs, Machine
from amnode.machine.queue import CANCELED, EXECUTED, Queued, Result
from amnode.machine.schema import Schema, State, States
from amnode.machine.transition import Event


class Flags(States):
    A = State()
    B = State()
    C = State()
    M = State(multi=True)
    ErrX = State(require=("Exception",))


def machine(**options: Any) -> Machine:
    return Machine(Flags, id="m", **options)


class Log:
    """Runs something when a handler is called, and keeps what it gave."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.names: list[str] = []


# -- mutations -----------------------------------------------------------------------------


def test_add_remove_set_toggle() -> None:
    m = machine()
    assert m.add1("A") is EXECUTED
    assert m.add(("B", "C", "B")) is EXECUTED
    assert m.active_states() == ["B", "C", "A"]
    assert m.remove1("C") is EXECUTED
    assert m.remove(["A", "B"]) is EXECUTED
    assert m.set1("C") is EXECUTED
    assert m.set(["B", "A"]) is EXECUTED
    assert m.active_states() == ["B", "A"]
    assert m.toggle1("A")
    assert m.toggle1("C")
    assert m.active_states() == ["C", "B"]
    assert m.toggle(("A", "B"))  # not all are active: added
    assert m.active_states() == ["A", "B", "C"]
    assert m.toggle(("A", "B"))
    assert m.active_states() == ["C"]


def test_a_multi_state_called_again_is_a_new_instance() -> None:
    m = machine()
    m.add1("M")
    m.add1("M")
    m.set1("M")
    assert m.tick("M") == 5


def test_removing_what_is_inactive_at_top_level_is_a_transition() -> None:
    m, seen = machine(), list[str]()
    m.bind({"AnyState": lambda e: seen.append(e.name)})
    assert m.remove1("A") is EXECUTED
    assert seen == ["AnyState"]


@pytest.mark.parametrize("cached", [True, False])
def test_automatic_states_follow_a_change(cached: bool) -> None:
    schema = Schema(
        {"A": State(), "Ready": State(auto=True, require=("A",)), "Heartbeat": State()}
    )
    m = Machine(schema, id="m", cached=cached)
    m.add1("Heartbeat")
    assert m.active_states() == ["Heartbeat"]
    m.add1("A")
    assert m.active_states() == ["Heartbeat", "A", "Ready"]
    assert m.queue_tick == 3  # automatic mutations do not count
    m.remove1("A")
    assert m.active_states() == ["Heartbeat"]


# -- the queue -----------------------------------------------------------------------------


async def test_what_is_asked_for_inside_a_handler_waits_its_turn() -> None:
    m, log = machine(), Log()

    def handle(event: Event) -> None:
        log.results += [m.add1("B"), m.add1("B"), m.remove1("B"), m.add1("M"), m.add1("M")]
        log.names += m.active_states()

    m.bind({"AState": handle})
    assert m.add1("A") is EXECUTED
    one, equal, gone, *multi = log.results
    assert log.names == ["A"]
    assert isinstance(one, Queued)
    assert one.tick == 3
    assert equal is EXECUTED
    assert repr([gone, *multi]) == "[Queued(4), Queued(5), Queued(6)]"
    assert (m.tick("B"), m.tick("M"), m.queue_tick) == (2, 3, 6)
    assert await one is EXECUTED


async def test_a_queued_result_can_be_awaited_also_when_it_is_canceled() -> None:
    m, log = machine(), Log()
    m.bind(
        {
            "AState": lambda _: log.results.extend([m.add1("B"), m.add1("C")]),
            "BEnter": lambda _: False,
        }
    )

    async def wait(k: int) -> Result:
        return await log.results[k]

    m.add1("A")
    assert bool(log.results[0])
    assert await asyncio.gather(wait(0), wait(1)) == [CANCELED, EXECUTED]


def test_removing_what_is_inactive_inside_a_transition_is_executed_at_once() -> None:
    m, log = machine(), Log()
    m.bind(
        {"AState": lambda _: log.results.extend([m.remove1("B"), m.add1("B"), m.remove1("C")])}
    )
    m.add1("A")
    assert repr(log.results) == "[EXECUTED, Queued(3), Queued(4)]"


def test_the_queue_is_bounded_but_an_error_finds_its_way_in() -> None:
    m, log = machine(queue_limit=1), Log()

    def handle(event: Event) -> None:
        log.results += [m.add1("B"), m.add1("C")]
        log.results += [m.add_err(ValueError("in")), m.add_err(ValueError("no more"))]

    m.bind({"AState": handle})
    m.add1("A")
    assert repr(log.results) == "[Queued(3), CANCELED, Queued(4), CANCELED]"
    assert m.clock() == {"A": 1, "B": 1, "C": 0, "M": 0, "ErrX": 0, "Exception": 1}
    assert str(m.err) == "no more"


def test_arguments_are_kept_apart_from_equal_mutations() -> None:
    m, log = machine(), Log()
    m.bind(
        {
            "AState": lambda _: log.results.extend([m.add1("B"), m.add1("B", 1)]),
            "BB": lambda e: log.names.append(str(e.args)),
        }
    )
    m.add1("A")
    assert repr(log.results) == "[Queued(3), Queued(4)]"
    assert log.names == ["1"]


# -- errors --------------------------------------------------------------------------------


def test_errors_are_states() -> None:
    m, seen = machine(), list[ErrorArgs]()
    m.bind({"ExceptionState": lambda e: seen.append(e.args)})
    assert not m.is_err
    error = ValueError("x")
    assert m.add_err(error) is EXECUTED
    assert m.is_err
    assert m.err is error
    assert (seen[0].error, seen[0].handler, seen[0].traceback) == (error, None, "")
    m.remove1("Exception")
    assert not m.is_err
    assert m.err is error  # it outlives the state


def test_an_error_state_comes_with_exception_in_one_mutation() -> None:
    m, seen = machine(), list[tuple[str, ErrorArgs]]()
    m.bind(
        {
            name: lambda e: seen.append((e.name, e.args))
            for name in ("ExceptionState", "ErrXState")
        }
    )
    error = ValueError("x")
    assert m.add_err_state("ErrX", error, {"worker": "w1"})
    assert m.active_states() == ["Exception", "ErrX"]
    assert [name for name, _ in seen] == ["ExceptionState", "ErrXState"]
    assert seen[0][1] is seen[1][1]
    assert (seen[0][1].error, seen[0][1].args) == (error, {"worker": "w1"})
    m.remove1("Exception")
    assert m.active_states() == []  # what requires Exception goes with it


def test_no_error_and_a_cancellation_add_nothing() -> None:
    m = machine()
    assert m.add_err(None) is EXECUTED
    assert m.add_err(asyncio.CancelledError()) is EXECUTED
    assert m.add_err_state("ErrX", None) is EXECUTED
    assert (m.err, m.queue_tick) == (None, 1)


def test_an_error_is_set_at_once_also_inside_a_transition() -> None:
    m, seen = machine(), list[object]()

    def handle(event: Event) -> None:
        m.add_err(ValueError("x"))
        seen.extend((str(m.err), m.is_err))

    m.bind({"AState": handle})
    m.add1("A")
    assert seen == ["x", False]
    assert m.is_err


def test_the_error_of_a_handler_goes_before_what_is_queued() -> None:
    m, seen = machine(), list[str]()

    def handle(event: Event) -> None:
        m.add1("B")
        raise ValueError("x")

    m.bind({"AState": handle, "AnyState": lambda e: seen.append(str(m))})
    m.add1("A")
    assert seen == ["(Exception:1)", "(B:1 Exception:1)"]


# -- bindings ------------------------------------------------------------------------------


class Handlers:
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def AState(self, event: Event) -> None:
        self.seen.append(f"{self.name} {event.name}")

    def AnyState(self, event: Event) -> None:
        self.seen.append(f"{self.name} {event.name}")


def test_each_name_runs_in_all_bindings_before_the_next() -> None:
    m, seen = machine(), list[str]()
    m.bind(Handlers("one", seen))
    m.bind({"AState": lambda e: seen.append(f"two {e.name}")})
    m.bind(Handlers("three", seen))
    m.add1("A")
    assert seen == [
        "one AState",
        "two AState",
        "three AState",
        "one AnyState",
        "three AnyState",
    ]


def test_machines_with_the_same_handlers_keep_them_apart() -> None:
    one, two, seen = machine(), machine(), list[str]()
    one.bind(Handlers("one", seen))
    two.bind(Handlers("two", seen))
    assert one._planner is two._planner
    one.add1("A")
    two.add1("A")
    assert seen == ["one AState", "one AnyState", "two AState", "two AnyState"]


def test_a_binding_can_be_taken_off() -> None:
    m, seen = machine(), list[str]()
    binding = m.bind(Handlers("one", seen))
    m.detach(binding)
    m.add1("A")
    assert seen == []
    with pytest.raises(BindingError, match="is not bound to machine m"):
        m.detach(binding)


def test_detaching_while_mutations_are_queued() -> None:
    m, seen = machine(), list[str]()
    watched = m.bind(
        {"BState": lambda e: seen.append(e.name), "CState": lambda e: seen.append(e.name)}
    )

    def handle(event: Event) -> None:
        m.add1("B")
        m.detach(watched)
        m.add1("C")
        m.bind({"CState": lambda e: seen.append("new " + e.name)})

    m.bind({"AState": handle})
    m.add1("A")
    assert seen == ["new CState"]
    assert m.active_states() == ["C", "B", "A"]


def test_a_binding_that_is_refused_binds_nothing() -> None:
    m = machine()
    with pytest.raises(BindingError):
        m.bind({"AState": print, "FooState": print})
    assert m._bindings == ()


# -- tasks ---------------------------------------------------------------------------------


class Work:
    """An async final handler that says how it ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.go = asyncio.Event()

    async def work(self, event: Event) -> None:
        try:
            await self.go.wait()
            self.ended.append("done")
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_async_handler_is_a_task_that_its_state_owns() -> None:
    m, work = machine(), Work()
    m.bind({"AState": work.work})
    m.add1("A")
    await turns()
    m.remove1("A")
    await turns()
    assert work.ended == ["cancelled"]
    assert m._tasks == {}
    assert not m.is_err


async def test_a_task_that_ends_by_itself_is_forgotten() -> None:
    m, work = machine(), Work()
    m.bind({"AState": work.work})
    m.add1("A")
    work.go.set()
    await turns()
    assert work.ended == ["done"]
    assert m._tasks == {}


async def test_each_call_of_a_multi_state_has_its_own_task() -> None:
    m, work = machine(), Work()
    m.bind({"MState": work.work, "MM": lambda _: True})
    m.add1("M")
    m.add1("M")
    await turns()
    assert len(m._tasks[m.index("M")]) == 2
    m.remove1("M")
    await turns()
    assert work.ended == ["cancelled", "cancelled"]


async def test_what_a_task_raises_becomes_an_exception_of_its_handler() -> None:
    m, seen = machine(), list[Event]()

    async def fail(event: Event) -> None:
        await asyncio.sleep(0)
        raise ValueError("in a task")

    m.bind({"AState": fail, "ExceptionState": seen.append})
    m.add1("A")
    await m.when_err()
    args = seen[0].args
    assert str(m.err) == "in a task"
    assert "in fail" in args.traceback
    assert args.handler.name == "AState"
    assert seen[0].mutation.cause is args.handler
    assert m.is1("A")  # its handler had completed


async def test_a_mutation_made_inside_an_owned_task_does_not_cancel_it() -> None:
    m, ended = machine(), list[str]()

    async def once(event: Event) -> None:
        m.remove1("A")
        await asyncio.sleep(0)
        ended.append(str(m))

    m.bind({"AState": once})
    m.add1("A")
    await turns()
    assert ended == ["()"]


async def test_nor_does_one_made_by_a_handler_that_the_task_caused() -> None:
    m, ended = machine(), list[str]()

    async def work(event: Event) -> None:
        m.add1("B")
        await asyncio.sleep(0)
        ended.append(str(m))

    m.bind({"AState": work, "BState": lambda _: m.remove1("A") and None})
    m.add1("A")
    await turns()
    assert ended == ["(B:1)"]


async def test_nor_does_one_made_by_a_task_that_it_waits_for() -> None:
    m, ended = machine(), list[str]()

    async def remove() -> None:
        m.remove1("A")
        await asyncio.sleep(0)

    async def work(event: Event) -> None:
        await asyncio.create_task(remove())
        ended.append(str(m))

    m.bind({"AState": work})
    m.add1("A")
    await turns(8)
    assert ended == ["()"]


async def test_a_timer_that_a_task_left_behind_does_cancel_it() -> None:
    m, work = machine(), Work()

    async def start(event: Event) -> None:
        asyncio.get_running_loop().call_soon(m.remove1, "A")
        await work.work(event)

    m.bind({"AState": start})
    m.add1("A")
    await turns()
    assert work.ended == ["cancelled"]


async def test_tasks_end_with_states_that_an_error_undid() -> None:
    m, work = machine(), Work()

    def fail(event: Event) -> None:
        raise ValueError

    m.bind({"AState": work.work, "BState": fail, "AnyState": work.work})
    assert not m.add(("B", "A"))  # A's handler never ran
    assert not m.add(("A", "B"))  # A's task stays: it had completed
    await turns()
    assert len(m._tasks[m.index("A")]) == 1
    m.bind({"CState": work.work})
    m.bind({"CState": fail})
    assert not m.add1("C")  # one of two handlers of C had begun a task
    assert m.index("C") not in m._tasks
    await m.dispose(drain=0)


async def test_spawn_runs_until_the_state_ends() -> None:
    m, work = machine(), Work()
    m.add(("A", "B"))
    task = m.spawn("A", work.go.wait())
    other = m.spawn("B", work.go.wait())
    m.remove1("A")
    await asyncio.wait([task])
    assert task.cancelled()
    work.go.set()
    assert await other


async def test_spawn_needs_an_owner() -> None:
    m = machine()

    async def work() -> None: ...

    with pytest.raises(MachineError, match="has no active A"):
        m.spawn("A", work())
    with pytest.raises(StateUnknownError):
        m.spawn("X", work())
    await m.dispose()
    with pytest.raises(MachineDisposedError, match="was disposed"):
        m.spawn(None, work())


def test_tasks_need_a_running_loop() -> None:
    m, work, seen = machine(), Work(), list[Event]()
    m.bind({"AState": work.work, "ExceptionState": seen.append})
    m.add1("A")
    assert isinstance(m.err, MachineError)
    assert "AState is async" in str(m.err)
    assert seen[0].args.handler.name == "AState"
    with pytest.raises(RuntimeError, match="no running"):
        m.spawn("A", work.go.wait())


# -- the end -------------------------------------------------------------------------------


async def test_a_disposed_machine_refuses_and_keeps_its_values() -> None:
    m = machine()
    m.add1("A")
    assert not m.disposed
    await m.dispose()
    await m.dispose()
    assert m.disposed
    assert m.add1("B") is CANCELED
    assert m.remove(("A",)) is CANCELED
    assert m.set1("A") is CANCELED
    assert m.add_err(ValueError("x")) is CANCELED
    assert m.err is None
    assert str(m) == "(A:1)"


async def test_state_tasks_are_cancelled_at_once_and_the_machines_own_may_end() -> None:
    m, work, own = machine(), Work(), Work()

    async def end(event: Event) -> None:
        own.ended.append("begun")
        await asyncio.wait([*m._tasks[m.index("B")]])
        own.ended.append(*work.ended)

    m.bind({"BState": work.work, "AEnd": end})
    m.add(("A", "B"))
    m.remove1("A")
    await turns()
    await m.dispose()
    assert own.ended == ["begun", "cancelled"]
    assert m._tasks == {}


async def test_what_does_not_end_in_time_is_cancelled() -> None:
    m, work = machine(), Work()
    m.bind({"AnyState": work.work})
    m.add1("A")
    await turns()
    await m.dispose(drain=0)
    assert work.ended == ["cancelled"]


async def test_a_dispose_that_is_cancelled_cancels_the_tasks() -> None:
    m, work = machine(), Work()
    m.bind({"AnyState": work.work})
    m.add1("A")
    await turns()
    disposing = asyncio.create_task(m.dispose(drain=1000))
    await turns()
    disposing.cancel()
    await asyncio.wait([disposing])
    await turns()
    assert work.ended == ["cancelled"]


async def test_an_owned_task_may_dispose_its_machine() -> None:
    m, ended = machine(), list[str]()

    async def end(event: Event) -> None:
        await asyncio.wait_for(m.dispose(), 1000)
        ended.append("disposed")

    m.bind({"AState": end})
    m.add1("A")
    await turns(10)
    assert ended == ["disposed"]
    assert m.disposed


async def test_what_is_queued_at_the_end_is_canceled() -> None:
    m, log = machine(), Log()

    def handle(event: Event) -> None:
        log.results.append(m.add1("B"))
        m._dispose_now()
        log.results.append(m.add1("C"))

    async def never(event: Event) -> None:
        log.names.append("ran")

    m.bind({"AState": handle, "AnyState": never})
    m.add1("A")
    assert await log.results[0] is CANCELED
    assert log.results[1] is CANCELED
    await m.dispose()
    assert log.names == []
    assert str(m) == "(A:1)"


async def test_a_handler_that_raises_after_the_end_adds_nothing() -> None:
    m = machine()

    def handle(event: Event) -> None:
        m._dispose_now()
        raise ValueError("late")

    m.bind({"AState": handle})
    assert m.add1("A") is CANCELED
    assert str(m.err) == "late"
    assert not m.is_err
    await m.dispose()


async def test_a_task_that_fails_after_the_end_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    m = machine()

    async def fail(event: Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("too late")

    m.bind({"AState": fail})
    m.add1("A")
    await turns()
    with caplog.at_level(logging.ERROR):
        await m.dispose()
        await turns()
    assert "A task of machine m failed after its end" in caplog.text
    assert "too late" in caplog.text


def test_automatic_states_are_not_tried_by_a_machine_that_was_disposed() -> None:
    m = Machine(Schema({"A": State(), "B": State(auto=True)}), id="m")
    m.bind({"AState": lambda _: m._dispose_now()})
    assert m.add1("A") is EXECUTED
    assert str(m) == "(A:1)"


async def test_a_wait_and_an_automatic_state_in_one_machine() -> None:
    m = Machine(Schema({"A": State(), "B": State(auto=True, require="A")}), id="m")
    waits = [m.when1("A"), m.when(("A", "B"))]
    m.add1("A")
    m.remove1("A")
    m.add1("A")
    assert all(wait.done() for wait in waits)
    assert m.clock() == {"A": 3, "B": 3, "Exception": 0}


async def test_a_task_has_the_context_of_who_started_it() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    m, seen = machine(), list[str]()

    async def work(event: Event) -> None:
        seen.append(variable.get())

    m.bind({"AState": work})
    variable.set("set")
    m.add1("A")
    await turns()
    assert seen == ["set"]


# -- asking only ---------------------------------------------------------------------------


def test_asking_changes_nothing() -> None:
    m, seen = machine(), list[str]()

    def ask(event: Event) -> bool:
        seen.append(f"{event.name} {event.is_check}")
        assert m.add1("C") is (CANCELED if event.is_check else m._queue.pending[-1].result)
        return event.args != "no"

    m.bind({"AEnter": ask, "AState": lambda e: seen.append(e.name), "BExit": lambda _: False})
    assert m.can_add1("A")
    assert not m.can_add(["A", "C"], "no")
    assert m.can_remove1("B")
    assert m.can_remove("B")
    assert seen == ["AEnter True", "AEnter True"]
    assert (str(m), m.queue_tick) == ("()", 1)
    m.add1("A")
    assert seen[2:] == ["AEnter False", "AState"]
    m.add1("B")
    assert not m.can_remove(["B"])
    assert m.can_add("ErrX") is False  # its requirement is not met
    assert str(m) == "(B:1 C:1 A:1)"
    for ask_it in (m.can_add1, m.can_remove1):
        with pytest.raises(StateUnknownError):
            ask_it("X")


async def test_asking_inside_a_transition_and_after_the_end() -> None:
    m, seen = machine(), list[object]()

    def handle(event: Event) -> None:
        seen.extend((m.can_add1("B"), m.can_add1("C"), m.can_remove1("A"), m._running))
        seen.append(m.add1("B"))

    m.bind({"AState": handle, "CEnter": lambda _: False})
    m.add1("A")
    assert seen[:4] == [True, False, True, True]
    assert isinstance(seen[4], Queued)  # a check of it does not count as pending
    await m.dispose()
    assert not m.can_add1("B")


def test_no_automatic_state_is_tried_when_asked() -> None:
    m = Machine(Schema({"A": State(), "B": State(auto=True)}), id="m")
    assert m.can_add1("A")
    assert str(m) == "()"


def test_a_handler_that_raises_when_asked_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    m = machine()

    def fail(event: Event) -> None:
        raise {"A": ValueError("asked"), "B": SystemExit(1)}[event.name[0]]

    m.bind({"AEnter": fail, "BEnter": fail})
    with caplog.at_level(logging.ERROR):
        assert not m.can_add1("A")
    assert "Handler AEnter of machine m raised when asked" in caplog.text
    assert not m.is_err
    assert m.err is None
    with pytest.raises(SystemExit):
        m.can_add1("B")
    assert m.add1("C")  # it does not count as running


# -- a limit of tasks ----------------------------------------------------------------------


async def test_so_many_tasks_of_a_state_run_at_once() -> None:
    m = Machine(Schema({"M": State(multi=True, tasks=2), "N": State(multi=True)}), id="m")
    begun, go = list[int](), asyncio.Event()
    variable: ContextVar[int] = ContextVar("variable")

    async def work(event: Event) -> None:
        begun.append(event.args)
        assert variable.get() == event.args
        await go.wait()

    m.bind({"MState": work})
    for k in range(5):
        variable.set(k)
        m.add1("M", k)
    await turns()
    assert begun == [0, 1]
    go.set()
    await turns(12)
    assert begun == [0, 1, 2, 3, 4]
    assert m._tasks == {}


@pytest.mark.parametrize("how", ["state", "machine"])
async def test_those_that_wait_for_their_turn_end_with_their_owner(how: str) -> None:
    m, work = Machine(Schema({"M": State(multi=True, tasks=1)}), id="m"), Work()
    m.bind({"MState": work.work})
    for _ in range(3):
        m.add1("M")
    await turns()
    if how == "state":
        m.remove1("M")
        assert m.owner_of(next(iter(m._tasks[-1]))) == "m"
    await m.dispose()
    assert work.ended == ["cancelled"]
    assert m._tasks == {}


async def test_who_owns_a_task() -> None:
    m, work = machine(), Work()
    m.add1("A")
    task = m.spawn("A", work.go.wait())
    current = asyncio.current_task()
    assert current is not None
    assert (m.owner_of(task), m.owner_of(current)) == ("A", None)
    await m.dispose()


# -- growing -------------------------------------------------------------------------------


class Growing:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def AState(self, event: Event) -> None:
        self.seen.append(event.name)

    def AAnother(self, event: Event) -> None:  # a pair, once there is the second state
        self.seen.append(event.name)

    def schema_changed(self, machine: Machine) -> None:
        self.seen.append(f"version {machine.schema.version}")


async def test_a_machine_grows() -> None:
    m, growing = machine(), Growing()
    m.bind(growing)
    m.trace(growing)
    m.add(("B", "A", "M"))
    context, wait = m.state_ctx("A"), m.when_ticks("C", 1)
    m.grow({"Another": State(require="A", remove="B"), "Ready": State(auto=True)})
    assert m.state_names[-3:] == ("Exception", "Another", "Ready")
    assert m.active_states() == ["B", "A", "M"]
    assert context.valid
    later = m.when1("Another")
    m.add1("Another")
    assert later.done()
    assert growing.seen == ["AState", "version 8", "AAnother", "AAnother"]  # Ready came too
    assert m.is_(("A", "M", "Another", "Ready"))
    assert not m.is1("B")
    m.add1("C")
    assert wait.done()
    m._clock.check()
    m._planner.relations.check(m._clock.active())
    m.remove1("A")
    assert not m.is1("Another")


def test_growth_that_cannot_be_adds_nothing() -> None:
    m = Machine(Schema({"A": State(), "AB": State(), "BC": State()}), id="m")
    m.bind({"ABC": lambda _: None})
    with pytest.raises(SchemaError, match="State A exists"):
        m.grow({"A": State(), "D": State()})
    with pytest.raises(SchemaError, match="'Y' in require"):
        m.grow({"X": State(require="Y")})
    with pytest.raises(BindingError, match="could mean"):
        m.grow({"C": State()})
    assert m.schema.version == 4
    assert m.add1("A")
