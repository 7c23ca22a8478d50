"""What a machine here has beyond a replica: its queue, its family, its end, its errors."""

from __future__ import annotations

import asyncio
import logging

import pytest

from amnode.errors import MachineDisposedError, StateUnknownError
from amnode.machine.machine import Machine
from amnode.machine.queue import MutationType
from amnode.machine.schema import State, States
from amnode.machine.transition import Event, Transition

ADD, REMOVE, SET = MutationType.ADD, MutationType.REMOVE, MutationType.SET


class Flags(States):
    A = State()
    B = State()
    C = State()
    ErrX = State(require=("Exception",))


def machine(id: str = "m", parent: Machine | None = None) -> Machine:
    return Machine(Flags, id=id, parent=parent)


# -- the queue -----------------------------------------------------------------------------


def test_what_is_queued_can_be_read() -> None:
    m, seen = machine(), list[bool]()

    def ask(event: Event) -> None:
        m.add(("B", "C"), args=1)
        m.set("A")
        m.remove("A")
        seen.extend(
            (
                m.is_queued(ADD, ("B",)),
                m.is_queued(ADD, ("B", "C"), exactly=True),
                m.is_queued(ADD, ("B",), exactly=True),
                m.is_queued(ADD, ("B",), without_args=True),
                m.is_queued(REMOVE, "A", without_args=True),
                m.is_queued(REMOVE, ("B",)),
                m.will_be(("C", "B")),
                m.will_be("A"),
                m.will_be(("A", "B")),
                m.will_be_removed("A"),
                m.will_be_removed("B"),
            )
        )

    m.bind({"AState": ask})
    m.add1("A")
    yes, no = True, False
    assert seen == [yes, yes, no, no, yes, no, yes, yes, no, yes, no]
    assert not m.is_queued(SET, "A")


# -- errors --------------------------------------------------------------------------------


async def test_what_a_body_raises_becomes_an_error_state() -> None:
    m, seen = machine(), list[object]()
    m.bind({"ErrXState": lambda e: seen.append(e.args.args)})
    error = ValueError("x")
    with m.errors_as("ErrX", {"worker": 1}):
        raise error
    assert m.err is error
    assert m.is_(("ErrX", "Exception"))
    assert seen == [{"worker": 1}]
    m.remove1("Exception")
    with m.errors_as():
        pass
    assert not m.is_err
    with m.errors_as():
        raise error
    assert m.active_states() == ["Exception"]


async def test_a_cancellation_passes_through() -> None:
    m = machine()
    with pytest.raises(asyncio.CancelledError), m.errors_as():
        raise asyncio.CancelledError
    with pytest.raises(SystemExit), m.errors_as():
        raise SystemExit
    with pytest.raises(StateUnknownError), m.errors_as("ErrY"):
        raise AssertionError("the body must not run")
    assert not m.is_err


# -- family --------------------------------------------------------------------------------


class Seen:
    def __init__(self) -> None:
        self.ids: list[str] = []

    def machine_init(self, machine: Machine) -> None:
        self.ids.append(f"+{machine.id}")

    def transition_end(self, transition: Transition) -> None:
        self.ids.append(transition.machine.id)


def test_children_have_the_tracers_that_are_inherited() -> None:
    root, own, inherited = machine("root"), Seen(), Seen()
    root.trace(own)
    root.trace(inherited, inherit=True)
    child = machine("child", root)
    grandchild = machine("grandchild", child)
    assert (root.parent, child.parent, grandchild.parent) == (None, root, child)
    assert (root.children, child.children) == ((child,), (grandchild,))
    grandchild.add1("A")
    root.add1("A")
    assert own.ids == ["root"]
    assert inherited.ids == ["+child", "+grandchild", "grandchild", "root"]
    root.untrace(inherited)
    machine("late", root)
    assert inherited.ids[-1] == "root"


def test_tracers_and_tags_from_the_start() -> None:
    seen = Seen()
    m = Machine(Flags, id="m", tags=["role:test"], tracers=[seen])
    assert m.tags == ("role:test",)
    assert machine().tags == ()
    assert seen.ids == ["+m"]


async def test_children_end_with_their_parent() -> None:
    root = machine("root")
    child = machine("child", root)
    alone = machine("alone", root)
    await alone.dispose()
    assert root.children == (child,)
    ended: list[str] = []

    async def work(event: Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(event.machine.id)

    for m in (root, child):
        m.bind({"AState": work})
        m.add1("A")
    await asyncio.sleep(0)
    await root.dispose()
    assert sorted(ended) == ["child", "root"]
    assert child.disposed
    assert root.children == ()
    with pytest.raises(MachineDisposedError, match="root was disposed, so late cannot"):
        machine("late", root)


# -- the end -------------------------------------------------------------------------------


async def test_hooks_run_in_their_order_when_the_tasks_have_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    m, seen = machine(), list[str]()

    async def work(event: Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("task")

    def fail(m: Machine) -> None:
        seen.append("fail")
        raise ValueError("broken hook")

    async def later(m: Machine) -> None:
        await asyncio.sleep(0)
        seen.append(f"later {m.disposed}")

    m.bind({"AState": work})
    m.add1("A")
    await asyncio.sleep(0)
    for hook in (fail, later, lambda m: seen.append("last")):
        m.on_dispose(hook)
    with caplog.at_level(logging.ERROR):
        await m.dispose()
        await m.dispose()
    assert seen == ["task", "fail", "later True", "last"]
    assert "broken hook" in caplog.text
    with pytest.raises(MachineDisposedError):
        m.on_dispose(fail)


async def test_a_dispose_that_is_cancelled_while_a_child_ends_cancels_its_own_tasks() -> None:
    root = machine("root")
    child = machine("child", root)
    ended: list[str] = []

    async def work(event: Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(event.machine.id)

    for m in (root, child):
        m.bind({"AnyState": work})
        m.add1("A")
    await asyncio.sleep(0)
    disposing = asyncio.create_task(root.dispose(drain=1000))
    await asyncio.sleep(0)
    disposing.cancel()
    await asyncio.wait([disposing])
    await asyncio.sleep(0)
    assert sorted(ended) == ["child", "root"]
