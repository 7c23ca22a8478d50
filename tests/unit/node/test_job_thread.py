"""The one thread on which what blocks runs: in order, in its context, with any outcome."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from amnode.node.job_thread import JobThread

VALUE: ContextVar[int] = ContextVar("VALUE", default=0)


@pytest.fixture
def thread() -> Iterator[JobThread]:
    made = JobThread("of the test")
    yield made
    made.close()
    made.close()


async def test_calls_run_one_after_the_other_on_one_thread(thread: JobThread) -> None:
    order: list[int] = []
    gate = threading.Event()
    first = thread.run(lambda: (gate.wait(), order.append(1), threading.get_ident()))
    second = thread.run(lambda: (order.append(2), threading.get_ident()))
    await asyncio.sleep(0)
    assert not first.done()
    gate.set()
    one, two = (await first)[0], (await second)[0]
    assert order == [1, 2]
    assert one[-1] == two[-1] != threading.get_ident()


async def test_it_has_the_context_of_who_gave_it(thread: JobThread) -> None:
    VALUE.set(7)
    assert await thread.run(VALUE.get) == (7, None)


@pytest.mark.parametrize("raised", [ValueError("x"), StopIteration(3), SystemExit(4)])
async def test_what_it_raises_is_a_value(thread: JobThread, raised: BaseException) -> None:
    def body() -> None:
        raise raised

    assert await thread.run(body) == (None, raised)


async def test_nobody_may_wait_for_it_any_more(thread: JobThread) -> None:
    gate = threading.Event()
    came = thread.run(gate.wait)
    came.cancel()
    gate.set()
    assert await thread.run(lambda: 1) == (1, None)


def test_the_loop_may_be_gone() -> None:
    thread, gate = JobThread("of the test"), threading.Event()

    async def give() -> threading.Thread:
        thread.run(gate.wait)
        (found,) = (t for t in threading.enumerate() if t.name == "of the test")
        return found

    running = asyncio.run(give())
    thread.close()
    gate.set()
    running.join()
