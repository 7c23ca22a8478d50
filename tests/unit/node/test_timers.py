"""Many deadlines on one timer of the loop."""

from __future__ import annotations

import asyncio

from amnode.node.timers import Timers


async def test_what_is_due_is_called_once_in_the_order_of_time() -> None:
    timers, called = Timers(), []
    done = asyncio.Event()
    timers.set("b", 0.02, lambda: called.append("b"))
    timers.set("a", 0.01, lambda: called.append("a"))
    timers.set("c", 0.03, done.set)
    assert len(timers) == 3
    await done.wait()
    assert called == ["a", "b"]
    assert len(timers) == 0
    timers.close()


async def test_a_key_has_one_deadline_and_a_cleared_one_has_none() -> None:
    timers, called = Timers(), []
    done = asyncio.Event()
    timers.set("a", 0.001, lambda: called.append("first"))
    timers.set("a", 0.002, lambda: called.append("second"))
    timers.set("b", 0.001, lambda: called.append("never"))
    timers.clear("b")
    timers.clear("unknown")
    timers.set("end", 0.01, done.set)
    await done.wait()
    assert called == ["second"]
    timers.close()


async def test_many_that_are_set_and_cleared_cost_one_timer() -> None:
    timers = Timers()
    timers.set("first", 1000.0, lambda: None)
    handle = timers._handle
    for n in range(10_000):
        timers.set(n, 1000.0 + n, lambda: None)
        timers.clear(n)
    assert timers._handle is handle
    timers.close()
    assert timers._handle is None
    assert len(timers) == 0
    timers.close()


async def test_one_that_raises_keeps_none_of_the_others() -> None:
    timers, told = Timers(), []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: told.append(context["exception"]))
    done = asyncio.Event()

    def fail() -> None:
        raise ValueError("mine")

    timers.set("a", 0.001, fail)
    timers.set("b", 0.002, done.set)
    await done.wait()
    assert isinstance(told[0], ValueError)
    loop.set_exception_handler(None)
    timers.close()


async def test_a_callback_may_set_another() -> None:
    timers = Timers()
    done = asyncio.Event()
    timers.set("a", 0.001, lambda: timers.set("a", 0.001, done.set))
    await done.wait()
    timers.close()
