"""Several waits as one: all, any, too late, ended by an error, cancelled."""

from __future__ import annotations

import asyncio

import pytest

from amnode.errors import (
    ContextExpiredError,
    MachineDisposedError,
    OptionError,
    WaitTimeoutError,
)
from amnode.machine.combine import wait_all, wait_any
from amnode.machine.machine import Machine
from amnode.machine.schema import Schema, State

SCHEMA = Schema({"A": State(), "B": State(), "M": State(multi=True)})


def machine(id: str = "m") -> Machine:
    return Machine(SCHEMA, id=id)


async def begun(*machines: Machine) -> None:
    await asyncio.sleep(0)
    assert all(len(m._waits) for m in machines)


async def test_all_of_several_machines() -> None:
    one, two = machine("one"), machine("two")
    waiting = asyncio.ensure_future(wait_all(one.when1("A"), two.when1("B")))
    await begun(one)
    two.add1("B")
    two.remove1("B")  # it was true once, which counts
    one.add1("A")
    await waiting
    await wait_all(timeout=0)


async def test_any_says_which_and_drops_the_others() -> None:
    m = machine()
    waiting = asyncio.ensure_future(wait_any(m.when1("A"), m.when1("B")))
    await begun(m)
    m.add1("B")
    assert await waiting == 1
    assert len(m._waits) == 0
    assert await wait_any(m.when1("A"), m.when1("B"), m.when_not1("A")) == 1
    with pytest.raises(OptionError, match="at least one"):
        await wait_any()


async def test_the_timeout_says_what_never_came_true() -> None:
    m = machine()
    m.add1("B")
    waits = (
        m.when(("A", "B")),
        m.when_not(("B", "A")),
        m.when_time(("M",), (5,)),
        m.when_args("M", {"id": 1}),
        m.when_query(no),
        m.when_disposed(),
        m.when1("B"),
    )
    with pytest.raises(WaitTimeoutError) as caught:
        await wait_all(*waits, timeout=0)
    assert str(caught.value) == (
        "After 0 s this has not come true: m: A (is not), B; m: not A, not B (it is); "
        "m: M at tick 5 (is at 0); m: M called with {'id': 1}; m: the query no; m: disposed."
    )
    assert isinstance(caught.value, TimeoutError)
    assert len(m._waits) == 0
    with pytest.raises(WaitTimeoutError, match=r"m: A \(is not\)\.$"):
        await wait_any(m.when1("A"), timeout=0)


def no(clock: object) -> bool:
    return False


async def test_an_error_of_one_ends_all() -> None:
    m = machine()
    context = m.state_ctx("B")
    waiting = asyncio.ensure_future(wait_all(m.when1("A"), m.when1("M", ctx=context)))
    await begun(m)
    m.add1("B")
    with pytest.raises(ContextExpiredError):
        await waiting
    assert len(m._waits) == 0
    waiting = asyncio.ensure_future(wait_any(m.when1("A"), m.when1("M")))
    await begun(m)
    await m.dispose()
    with pytest.raises(MachineDisposedError):
        await waiting


async def test_a_caller_that_is_cancelled_leaves_nothing() -> None:
    m = machine()
    waiting = asyncio.ensure_future(wait_all(m.when1("A"), m.when_query(no)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert len(m._waits) == 0
    gone = m.when1("A")
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait_all(gone)
