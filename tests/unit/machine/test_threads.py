"""The door for other threads: order, answers, errors, load, and the end."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import pytest

from amnode.errors import MachineDisposedError, MachineError, StateUnknownError
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED, Result
from amnode.machine.schema import Schema, State

SCHEMA = Schema({"A": State(), "B": State(), "M": State(multi=True)})


async def test_each_mutation_has_its_answer() -> None:
    m = Machine(SCHEMA, id="m")
    m.bind({"BEnter": lambda _: False})
    door = m.thread_door()
    assert m.thread_door() is door

    def ask() -> list[Any]:
        futures: list[Future[Result]] = [
            door.add1("A", 1),
            door.add(("A", "B")),
            door.remove1("A"),
            door.set(("A",)),
            door.toggle(("A",)),
            door.remove(("A",)),
            door.add_err(ValueError("x")),
        ]
        return [door.wait(future, 20) for future in futures]

    answers = await asyncio.to_thread(ask)
    assert answers == [EXECUTED, CANCELED, *[EXECUTED] * 5]
    assert m.clock() == {"A": 4, "B": 0, "M": 0, "Exception": 1}
    assert await asyncio.wrap_future(door.call(m.active_states)) == ["Exception"]


async def test_threads_at_once_lose_nothing() -> None:
    m, order = Machine(SCHEMA, id="m"), dict[int, list[int]]()
    m.bind({"MState": lambda e: order.setdefault(e.args[0], []).append(e.args[1])})
    door = m.thread_door()
    threads, calls = 8, 250
    together = threading.Barrier(threads)

    def ask(k: int) -> int:
        together.wait(20)
        futures = [door.add1("M", (k, n)) for n in range(calls)]
        return sum(future.result(20) is EXECUTED for future in futures)

    with ThreadPoolExecutor(threads) as pool:
        loop = asyncio.get_running_loop()
        done = await asyncio.gather(
            *(loop.run_in_executor(pool, ask, k) for k in range(threads))
        )
    assert done == [calls] * threads
    assert m.tick("M") == 2 * threads * calls - 1
    assert m.queue_tick == threads * calls + 1
    assert all(seen == list(range(calls)) for seen in order.values())  # each in its order


async def test_errors_go_to_who_asked() -> None:
    m = Machine(SCHEMA, id="m")
    door = m.thread_door()
    unknown = await asyncio.to_thread(door.add1, "X")
    with pytest.raises(StateUnknownError):
        await asyncio.wrap_future(unknown)
    taken_back = await asyncio.to_thread(lambda: door.add1("A"))
    del taken_back
    future = door.add1("B")
    future.cancel()
    await asyncio.sleep(0)
    with pytest.raises(CancelledError):
        future.result(0)
    assert not m.is1("B")
    waiting = door.add1("A")
    with pytest.raises(MachineError, match="cannot wait for itself"):
        door.wait(waiting)
    assert await asyncio.wrap_future(waiting) is EXECUTED
    await m.dispose()
    assert await asyncio.wrap_future(door.add1("B")) is CANCELED


def test_without_a_loop() -> None:
    m = Machine(SCHEMA, id="m")
    with pytest.raises(MachineError, match="on its running loop"):
        m.thread_door()

    async def make() -> Any:
        return m.thread_door()

    door = asyncio.run(make())
    with pytest.raises(MachineDisposedError, match="loop of machine m is closed"):
        door.add1("A").result(0)


def test_what_ends_the_program_is_not_kept() -> None:
    m = Machine(SCHEMA, id="m")

    def end(_event: object) -> None:
        raise SystemExit(3)

    m.bind({"AState": end})
    futures: list[Future[Result]] = []

    async def run() -> None:
        futures.append(m.thread_door().add1("A"))
        await asyncio.Event().wait()

    with pytest.raises(SystemExit):
        asyncio.run(run())
    with pytest.raises(SystemExit):
        futures[0].result(0)


def test_another_loop_has_another_door() -> None:
    m = Machine(SCHEMA, id="m")

    async def add(state: str) -> Any:
        door = m.thread_door()
        future = await asyncio.to_thread(door.add1, state)
        assert await asyncio.wrap_future(future) is EXECUTED
        return door

    assert asyncio.run(add("A")) is not asyncio.run(add("B"))
    assert m.is_(("A", "B"))
