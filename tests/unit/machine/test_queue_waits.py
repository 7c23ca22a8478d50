"""Waiting for a mutation to have run, and for the queue to end."""

from __future__ import annotations

import pytest

from amnode.errors import ContextExpiredError, MachineDisposedError
from amnode.machine.combine import wait_all
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED, Result
from amnode.machine.queue_waits import QueueWait
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event


def machine() -> Machine:
    return Machine(Schema({"A": State(), "B": State(), "C": State()}), id="m")


async def test_a_queued_mutation_ends_its_wait_with_its_outcome() -> None:
    m, waits = machine(), list[QueueWait]()

    def ask(event: Event) -> None:
        waits.extend(m.when_queue(m.add1(state)) for state in ("B", "C"))
        assert not waits[0].done()

    m.bind({"AState": ask, "BEnter": lambda _: False})
    m.add1("A")
    assert [await wait for wait in waits] == [CANCELED, EXECUTED]
    assert not m._tracers


async def test_what_has_run_is_done_at_once() -> None:
    m, queued = machine(), list[Result]()
    m.bind({"AState": lambda _: queued.append(m.add1("B"))})
    assert await m.when_queue(m.add1("A")) is EXECUTED
    assert await m.when_queue(queued[0]) is EXECUTED
    assert await m.when_queue(CANCELED) is CANCELED
    assert await m.when_queue(1) is None
    assert await m.when_queue_ends() is None
    assert not m._tracers


async def test_a_tick_of_the_queue() -> None:
    m = machine()
    m.bind({"BEnter": lambda _: False})
    waits = [m.when_queue(tick) for tick in (2, 3, 5)]
    m.add1("A")
    m.add1("B")
    m.add1("B")
    assert [wait.done() for wait in waits] == [True, True, False]
    assert (waits[0].result(), waits[1].result()) == (EXECUTED, CANCELED)
    waits[2].cancel()
    assert not m._tracers


async def test_automatic_mutations_are_not_counted() -> None:
    m = Machine(Schema({"A": State(), "B": State(auto=True)}), id="m")
    wait = m.when_queue(3)
    m.add1("A")
    assert m.is1("B")
    assert not wait.done()
    m.remove1("A")
    assert wait.result() is EXECUTED


async def test_the_end_of_the_queue() -> None:
    m, seen = machine(), list[bool]()

    def ask(event: Event) -> None:
        m.add1("C")
        wait = m.when_queue_ends()
        wait.add_done_callback(lambda _: seen.append(m.is1("C")))
        waits.append(wait)

    waits: list[QueueWait] = []
    m.bind({"AState": ask})
    m.add1("A")
    await waits[0]
    assert m.is1("C")
    assert not m._tracers


async def test_a_context_and_the_end_of_the_machine() -> None:
    m = machine()
    context = m.state_ctx("A")
    wait = m.when_queue(9, ctx=context)
    m.add1("A")
    for late in (wait, m.when_queue(9, ctx=context)):
        with pytest.raises(ContextExpiredError):
            await late
    waits: list[QueueWait] = []

    def ask(event: Event) -> None:
        waits.append(m.when_queue(m.add1("C")))
        waits.append(m.when_queue(99))
        waits.append(m.when_queue_ends())
        m._dispose_now()

    m.bind({"BState": ask})
    m.add1("B")
    await m.dispose()
    assert await waits[0] is CANCELED
    for late in (*waits[1:], m.when_queue(99)):
        with pytest.raises(MachineDisposedError):
            await late


async def test_it_says_what_is_waited_for() -> None:
    m = machine()
    waits: list[QueueWait] = []
    m.bind({"AState": lambda _: waits.append(m.when_queue_ends())})
    m.add1("A")
    waits.append(m.when_queue(7))
    assert [wait.describe() for wait in waits] == [
        "m: the end of the queue",
        "m: queue tick 7 (is at 2)",
    ]
    with pytest.raises(TimeoutError, match="queue tick 7"):
        await wait_all(*waits, timeout=0)
    assert len(m._queue_waits or ()) == 0
