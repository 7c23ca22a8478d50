"""Whatever is cancelled at any await leaves nothing, and the connection goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from amnode.machine.queue import EXECUTED
from amnode.machine.transition import Event
from amnode.rpc.client import RpcClient
from amnode.rpc.options import RpcOptions
from amnode.rpc.origin import Origin
from tests.pairs.driven import EAGER, House
from tests.pairs.driven import line as line  # a fixture
from tests.promises.stepping import EndOfSteps, cancelled_at

#: More suspensions than anything here has.
MOST = 60


async def at_each_await(
    make: Callable[[], Awaitable[Any]],
    after: Callable[[], Awaitable[Any]],
    *,
    late: bool,
) -> int:
    """Cancels it at its first await, then at its second, and so on; returns how many it has."""
    for at in range(1, MOST):
        try:
            await cancelled_at(make, at, late=late)
        except EndOfSteps:
            await after()
            return at - 1
        await after()
    raise AssertionError(f"It has more than {MOST} awaits.")


async def numbers() -> AsyncIterator[int]:
    for number in range(3):
        await asyncio.sleep(0)
        yield number


def work(event: Event) -> None:
    origin = event.mutation.origin
    assert isinstance(origin, Origin)
    reply = origin.defer()
    if reply.wants_stream:
        reply.stream(numbers())
    else:
        reply.answer(7)


@pytest.mark.parametrize("late", [False, True])
async def test_calls_streams_and_deliveries(line: House, late: bool) -> None:
    mux = await line.mux(options=RpcOptions(payload_limit=1))
    client = await line.connect()
    line.handlers.on_work = work
    server = mux.servers["rc-me"]
    door = client.source

    async def read() -> list[int]:
        stream = door.stream(["Work"], item_type=int)
        try:
            return [item async for item in stream]
        finally:
            await stream.aclose()

    async def call() -> int:
        return await door.request(["Work"], result_type=int, upload=numbers())

    async def still_there() -> None:
        assert await door.add1("Unlocked") is EXECUTED
        assert await door.request(["Work"], result_type=int) == 7

    for make in (call, read, lambda: server.deliver("some", b"x" * 100)):
        assert await at_each_await(make, still_there, late=late) >= 1
    talk = client._conversation
    assert talk is not None and len(talk) == 0
    assert not server._service._deferred and not server._service._pumps and not server._takers


@pytest.mark.parametrize("late", [False, True])
async def test_start_and_stop(line: House, late: bool) -> None:
    await line.mux(options=RpcOptions(session_ttl=0))  # a start that is given up cuts it
    clients: list[RpcClient] = []

    async def start() -> None:
        clients.append(line.client(options=EAGER))
        await clients[-1].start()

    async def nobody_is_left() -> None:
        await clients[-1].stop()
        assert clients[-1].machine.not_(("Start", "Connected", "Ready", "RetryingConn"))
        await line.until(lambda: not line.muxes[0].servers)

    assert await at_each_await(start, nobody_is_left, late=late) >= 2

    async def stop() -> None:
        await clients[-1].stop()

    async def again() -> None:
        await nobody_is_left()
        clients.append(await line.connect(options=EAGER))

    clients.append(await line.connect(options=EAGER))
    assert await at_each_await(stop, again, late=late) >= 1


@pytest.mark.parametrize("late", [False, True])
async def test_stop_while_it_comes_back(line: House, late: bool) -> None:
    await line.mux(replace=True)
    proxy = await line.behind_proxy()
    clients: list[RpcClient] = []

    async def stop() -> None:
        await clients[-1].stop()

    async def begin() -> None:
        clients.append(line.client(options=EAGER))
        await clients[-1].start()
        proxy.cut()
        await clients[-1].machine.when1("RetryingConn")

    async def again() -> None:
        await clients[-1].stop()
        assert clients[-1].machine.not_(("Start", "Connected", "Ready", "RetryingConn"))
        assert clients[-1]._returning is None and clients[-1]._link is None
        await begin()

    await begin()
    assert await at_each_await(stop, again, late=late) >= 1
