"""Connections that are cut, split, delayed and frozen at random: all converges, nothing runs
twice. Every case can be repeated by its seed.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import msgspec
import pytest

from amnode.errors import ConnectionLost, Outcome
from amnode.machine.queue import EXECUTED
from amnode.machine.transition import Event
from amnode.rpc.client import RpcClient
from amnode.rpc.options import RpcOptions
from amnode.rpc.origin import Origin
from tests.pairs.driven import EAGER, House, Knock
from tests.pairs.driven import tcp as tcp  # a fixture
from tests.pairs.proxy import Proxy

#: Small, so that everything goes in pieces.
SMALL = {"chunk_size": 1024, "credit": 4096, "stream_credit": 4096}


class Journal:
    """What ran at the source, by number."""

    def __init__(self, house: House) -> None:
        self.ran: list[int] = []
        house.source.bind(self)

    def KnockedState(self, event: Event) -> None:
        self.ran.append(event.args.times)


def harm(proxy: Proxy, random: Random) -> None:
    """One fault, of those that pass."""
    kind = random.randrange(4)
    if kind == 0:
        proxy.cut()
    elif kind == 1:
        proxy.cut_after(random.randrange(1, 400))
    elif kind == 2:
        proxy.turns = random.randrange(4)
    else:
        size = random.choice((1, 3, 50, 100_000))
        proxy.split = lambda data: [data[i : i + size] for i in range(0, len(data), size)]


def heal(proxy: Proxy) -> None:
    proxy.turns = 0
    proxy.split = lambda data: [data]
    proxy.cut_after(10**12)


def never_falls(client: RpcClient) -> list[tuple[int, ...]]:
    """Has each move of the replica compared with the one before."""
    times = [client.source.time()]

    class Tracer:
        def transition_end(self, transition: Any) -> None:
            now = transition.machine.time()
            assert all(a <= b for a, b in zip(times[-1], now, strict=True))
            times.append(now)

    tracer = Tracer()
    client.source.trace(tracer)
    return times


@pytest.mark.parametrize("seed", range(8))
async def test_mutations_run_once_and_in_order_whatever_happens(tcp: House, seed: int) -> None:
    random = Random(seed)
    await tcp.mux(options=RpcOptions(**SMALL))
    proxy = await tcp.behind_proxy()
    client = await tcp.connect(options=msgspec.structs.replace(EAGER, **SMALL))
    journal, door = Journal(tcp), client.source
    times = never_falls(client)
    results: list[Any] = []
    for number in range(150):
        if random.random() < 0.2:
            harm(proxy, random)
        results.append(door.add1("Knocked", Knock(number)))
        if random.random() < 0.3:
            tcp.source.add1(random.choice(("Unlocked", "Open", "Closed", "Hidden")))
        if random.random() < 0.3:
            assert await results[random.randrange(len(results))] is EXECUTED
    heal(proxy)
    for result in results:
        assert await result is EXECUTED
    assert journal.ran == list(range(150))
    tcp.source.add1("Work")
    await door.when1("Work")
    assert door.time() == tcp.source.time() and len(times) > 1
    assert len(tcp.cut) >= 1 and len(set(tcp.connected)) == 1 and tcp.disconnected == []


@pytest.mark.parametrize("seed", range(4))
async def test_where_sessions_are_lost_too_nothing_runs_twice_and_errors_tell_the_truth(
    tcp: House, seed: int
) -> None:
    random = Random(seed)
    await tcp.mux(options=RpcOptions(session_ttl=0.001, **SMALL))
    proxy = await tcp.behind_proxy()
    client = await tcp.connect(options=msgspec.structs.replace(EAGER, **SMALL))
    journal, door = Journal(tcp), client.source
    results: list[Any] = []
    for number in range(100):
        if random.random() < 0.2:
            proxy.cut_after(random.randrange(1, 400))
        results.append(door.add1("Knocked", Knock(number)))
        if random.random() < 0.3:
            await asyncio.wait([asyncio.ensure_future(_settled(results[-1]))])
    heal(proxy)
    outcomes = [await _settled(result) for result in results]
    assert journal.ran == sorted(set(journal.ran))
    for number, outcome in enumerate(outcomes):
        if outcome is EXECUTED:
            assert number in journal.ran
        elif outcome is Outcome.NOT_RUN:
            assert number not in journal.ran
        else:
            assert outcome is Outcome.UNKNOWN
    assert EXECUTED in outcomes


async def _settled(result: Any) -> Any:
    try:
        return await result
    except ConnectionLost as error:
        return error.outcome


@pytest.mark.parametrize("seed", range(4))
async def test_large_values_and_streams_come_once_and_whole_whatever_happens(
    tcp: House, seed: int
) -> None:
    random = Random(seed)
    options = msgspec.structs.replace(EAGER, **SMALL)
    await tcp.mux(options=RpcOptions(**SMALL))
    proxy = await tcp.behind_proxy()
    payloads: list[Any] = []
    client = await tcp.connect(
        options=options, on_payload=lambda _n, data: payloads.append(_decoded(data))
    )
    server = tcp.muxes[0].servers["rc-me"]

    async def items() -> Any:
        for number in range(40):
            yield bytes([number]) * random.randrange(3000)

    def work(event: Event) -> None:
        origin = event.mutation.origin
        assert isinstance(origin, Origin)
        if random.random() < 0.5:
            proxy.cut_after(random.randrange(1, 5000))
        origin.defer().stream(items())

    tcp.handlers.on_work = work
    sent = [bytes([n]) * random.randrange(20_000) for n in range(10)]

    async def deliver() -> None:
        for data in sent:
            await server.deliver("some", data)
            proxy.cut_after(random.randrange(1, 20_000))

    delivery = asyncio.ensure_future(deliver())
    for _ in range(3):
        got = [set(item) async for item in client.source.stream(["Work"], item_type=bytes)]
        assert len(got) == 40
        assert all(item <= {number} for number, item in enumerate(got))
    await delivery
    assert payloads == sent
    assert len(tcp.connected) == 1 and tcp.disconnected == []


def _decoded(data: msgspec.Raw) -> Any:
    return msgspec.msgpack.decode(data)


async def test_one_byte_at_a_time_changes_nothing(tcp: House) -> None:
    await tcp.mux()
    proxy = await tcp.behind_proxy()
    proxy.split = lambda data: [bytes([byte]) for byte in data]
    client = await tcp.connect()
    for number in range(20):
        assert await client.source.add1("Knocked", Knock(number)) is EXECUTED
    assert client.source.time() == tcp.source.time()


async def test_a_cut_at_each_byte_of_an_exchange(tcp: House) -> None:
    """The handshake of the resumption is cut as well, until it gets through."""
    await tcp.mux()
    proxy = await tcp.behind_proxy()
    client = await tcp.connect(options=EAGER)
    journal = Journal(tcp)
    for number in range(60):
        proxy.cut_after(number + 1)
        assert await client.source.add1("Knocked", Knock(number)) is EXECUTED
    assert journal.ran == list(range(60))
    assert len(tcp.connected) == 1 and len(tcp.resumed) >= 20


async def test_a_resumption_that_is_cut_at_any_byte_is_made_again(tcp: House) -> None:
    await tcp.mux()
    proxy = await tcp.behind_proxy()
    client = await tcp.connect(options=EAGER)
    for size in range(5, 500, 15):
        proxy.cut()
        await client.machine.when1("RetryingConn")
        proxy.cut_after(size)
        assert await client.source.add1("Unlocked") is EXECUTED
    assert len(tcp.connected) == 1 and tcp.disconnected == []
