"""Items leave one after the other, and whatever ends the stream closes its generator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from amnode.node.items import AHEAD, send_all, send_from_thread
from amnode.node.job_thread import JobThread


class Reader:
    """Takes items while it is allowed to."""

    def __init__(self, room: int = 1000) -> None:
        self.items: list[object] = []
        self.room = room
        self.full = asyncio.Event()
        self.more = asyncio.Event()

    async def send(self, item: object) -> None:
        while len(self.items) >= self.room:
            self.full.set()
            self.more.clear()
            await self.more.wait()
        self.items.append(item)


def negated(item: int) -> int:
    return -item


async def test_all_are_sent_as_they_are_encoded() -> None:
    async def numbers() -> AsyncIterator[int]:
        for n in range(3):
            yield n

    reader = Reader()
    await send_all(numbers(), negated, reader.send)
    assert reader.items == [0, -1, -2]


async def test_it_is_held_back_and_closed_where_it_is_when_it_is_cancelled() -> None:
    made: list[object] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for n in range(1000):
                made.append(n)
                yield n
        finally:
            await asyncio.sleep(0)
            made.append("closed")

    reader = Reader(room=2)
    task = asyncio.create_task(send_all(numbers(), negated, reader.send))
    await reader.full.wait()
    assert made == [0, 1, 2]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made == [0, 1, 2, "closed"]


async def test_what_has_no_aclose_needs_none() -> None:
    class Numbers:
        def __init__(self) -> None:
            self.left = 2

        def __aiter__(self) -> Numbers:
            return self

        async def __anext__(self) -> int:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return self.left

    reader = Reader()
    await send_all(Numbers(), negated, reader.send)
    assert reader.items == [-1, 0]


async def test_a_thread_sends_all_in_order() -> None:
    thread = JobThread("t")
    reader = Reader()
    await send_from_thread(thread, lambda: iter(range(500)), negated, reader.send)
    assert reader.items == [-n for n in range(500)]
    thread.close()


async def test_a_thread_is_a_few_items_ahead_and_is_closed_on_it() -> None:
    thread = JobThread("t")
    made: list[object] = []

    def numbers() -> Iterator[int]:
        try:
            for n in range(1000):
                made.append(n)
                yield n
        finally:
            made.append(threading.current_thread().name)

    reader = Reader(room=2)
    task = asyncio.create_task(send_from_thread(thread, numbers, negated, reader.send))
    await reader.full.wait()
    assert len(made) <= 2 + 1 + AHEAD + 1
    reader.room = 20
    reader.full.clear()
    reader.more.set()
    await reader.full.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made[-1] == "t"
    assert reader.items == [-n for n in range(20)]
    thread.close()


async def test_what_a_thread_raises_is_raised_after_its_items() -> None:
    thread = JobThread("t")

    def numbers() -> Iterator[int]:
        yield 1
        raise KeyError("x")

    reader = Reader()
    with pytest.raises(KeyError):
        await send_from_thread(thread, numbers, negated, reader.send)
    assert reader.items == [-1]
    thread.close()


async def test_a_cancel_while_the_thread_cleans_up_waits_for_it() -> None:
    thread = JobThread("t")
    begun, go_on = threading.Event(), threading.Event()
    closed: list[bool] = []

    def numbers() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            begun.set()
            closed.append(go_on.wait(10))

    reader = Reader(room=1)
    task = asyncio.create_task(send_from_thread(thread, numbers, negated, reader.send))
    await reader.full.wait()
    task.cancel()
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == [True]
    thread.close()
