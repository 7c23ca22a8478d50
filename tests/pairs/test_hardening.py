"""What a hostile, broken or differently set peer must not be able to do, found by trying."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from amnode.errors import (
    ConnectionLost,
    DeliveryError,
    OptionError,
    RefusedError,
    RpcError,
)
from amnode.machine.machine import Machine
from amnode.machine.queue import EXECUTED
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event
from amnode.rpc.options import RpcOptions
from amnode.rpc.origin import Origin
from amnode.rpc.protocol import wire
from tests.pairs.driven import EAGER, Door, House
from tests.pairs.driven import house as house  # a fixture
from tests.pairs.driven import line as line  # a fixture
from tests.pairs.driven import tcp as tcp  # a fixture
from tests.pairs.session_pair import Pair, deliver, sent_by

MIB = 1024 * 1024


def origin_of(event: Event) -> Origin:
    origin = event.mutation.origin
    assert isinstance(origin, Origin)
    return origin


async def test_a_source_that_is_restarted_under_its_old_id_is_another_machine(
    line: House,
) -> None:
    mux = await line.mux()
    proxy = await line.behind_proxy()
    client = await line.connect(options=EAGER)
    door = client.source
    for _ in range(3):
        line.source.add1("Knocked")
    await door.add1("Unlocked")
    context, waiting = door.state_ctx("Unlocked"), door.when_time(["Knocked"], [20])
    proxy.refusing = True
    proxy.cut()
    await client.machine.when1("RetryingConn")
    await mux.stop()
    other = House(mux.address)
    other.source = Machine(Door, id=line.source.id)
    try:
        other.source.add1("Unlocked")
        await other.mux()
        proxy.target = other.address
        proxy.refusing = False
        with pytest.raises(ConnectionLost, match="restarted"):
            await waiting
        assert not context.valid and client.source is door
        assert door.clock() == other.source.clock()
        await client.stop()
    finally:
        await other.close()


async def test_calls_go_on_beside_a_payload_over_the_outgoing_limit(tcp: House) -> None:
    mux = await tcp.mux(options=RpcOptions(outgoing_limit=1000, credit=1024, chunk_size=1024))
    got: list[int] = []
    client = await tcp.connect(on_payload=lambda _name, data: got.append(len(data)))
    delivery = asyncio.ensure_future(mux.servers["rc-me"].deliver("big", bytes(2 * MIB)))
    await client.machine.when_time(["ServerDelivering"], [1])
    assert await client.source.add1("Unlocked") is EXECUTED
    assert not got  # the payload is still on its way
    delivery.cancel()


async def test_a_small_window_at_one_end_only_slows(house: House) -> None:
    mux = await house.mux(options=RpcOptions(credit=4096, chunk_size=1024))
    client = await house.connect(options=RpcOptions(credit=4 * MIB))
    await mux.servers["rc-me"].deliver("news", bytes(MIB))
    assert client.machine.tick("ServerPayload") == 1


async def test_a_server_that_cuts_after_each_handshake_wears_its_client_out(
    line: House,
) -> None:
    mux = await line.mux()
    await line.behind_proxy()
    lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    options = RpcOptions(reconnect_base=0.001, reconnect_cap=0.5, reconnect_tries=5)
    client = line.client(options=options, on_lost=lost.set_result)
    await client.start()
    mux._on_connected = lambda server: server.abort()
    mux.servers["rc-me"].abort()
    assert "5 attempts" in str(await lost)


async def test_text_that_is_no_unicode_ends_a_stream_and_nothing_else(house: House) -> None:
    await house.mux()
    client = await house.connect()
    door = client.source

    async def items() -> AsyncIterator[int]:
        yield 1
        raise ValueError("a file named \udcff")

    house.handlers.on_work = lambda event: origin_of(event).defer().stream(items())
    with pytest.raises(RpcError, match=r"a file named \\udcff"):
        _ = [item async for item in door.stream(["Work"], item_type=int)]

    def refuse(event: Event) -> bool:
        origin_of(event).refuse(RefusedError("not \udcff"))
        return False

    house.handlers.may_knock = refuse
    with pytest.raises(RefusedError, match=r"not \\udcff"):
        await door.add1("Knocked", {"times": 1})
    assert await door.add1("Unlocked") is EXECUTED
    (mux,) = house.muxes
    mux.servers["rc-me"].close("for \udcff")
    await house.gone.wait()


@pytest.mark.parametrize("name", ["x" * 5000, 7, "\ud800"])
async def test_a_payload_of_no_name_is_an_error_here_and_disturbs_nobody(
    house: House, name: Any
) -> None:
    mux = await house.mux()
    got: list[str] = []
    client = await house.connect(on_payload=lambda name, _data: got.append(name))
    server = mux.servers["rc-me"]
    with pytest.raises(DeliveryError, match="cannot be the name of a payload"):
        server.send_payload(name, 1)
    await server.deliver("good", 2)
    assert got == ["good"] and client.machine.is1("Ready")


async def test_steps_that_nobody_takes_become_one_update(tcp: House) -> None:
    mux = await tcp.mux(options=RpcOptions(outgoing_limit=2000))
    client = await tcp.connect(every=True)
    link, server = client._link, mux.servers["rc-me"]
    assert link is not None and link.connection is not None
    assert server._connection is not None
    server._connection._paused = True  # as if the transport were full
    for _ in range(2000):
        tcp.source.add1("Knocked")
    assert server.session_now.queued < 10_000
    server._connection._paused = False
    server._connection.wake()
    await client.source.when_time(["Knocked"], [tcp.source.tick("Knocked")])
    assert client.source.time() == tcp.source.time()


@pytest.mark.parametrize("how", ["break", "cancel", "async with"])
async def test_a_reader_that_leaves_ends_its_stream(house: House, how: str) -> None:
    await house.mux()
    door = (await house.connect()).source
    closed = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    house.handlers.on_work = lambda event: origin_of(event).defer().stream(items())

    async def read(enough: int) -> None:
        count = 0
        async for _ in door.stream(["Work"], item_type=int):
            count += 1
            if count == enough:
                break

    if how == "break":
        await read(3)
    elif how == "cancel":
        task = asyncio.ensure_future(read(1 << 60))
        await door.when1("Work")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
    else:
        async with door.stream(["Work"], item_type=int) as stream:
            assert await anext(stream) == 1
    gc.collect()
    await closed.wait()


def test_acknowledgements_that_say_nothing_new_cost_nothing() -> None:
    pair = Pair().opened()
    for seq in range(1, 4000):
        deliver(pair.server, wire.to_frame(wire.Allow(seq, 0, 1)))
    looked: list[int] = []

    class Watched(dict[Any, Any]):
        def __iter__(self) -> Any:
            looked.append(1)
            return super().__iter__()

    memory = pair.server.memory
    memory.downloads = Watched(memory.downloads)
    for _ in range(100):
        deliver(pair.server, wire.to_frame(wire.Ack(0, 0)))
    assert len(memory.downloads) == 3999 and looked == []


async def test_other_relations_after_a_restart_end_the_client(line: House) -> None:
    mux = await line.mux()
    proxy = await line.behind_proxy()
    lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    await line.connect(options=EAGER, on_lost=lost.set_result)
    proxy.refusing = True
    proxy.cut()
    await mux.stop()
    states = {**Door.schema().to_states(), "Hidden": State(after=("Open",))}
    other = House(mux.address)
    other.source = Machine(Schema(states, order=Door.schema().names), id=line.source.id)
    try:
        await other.mux()
        proxy.target = other.address
        proxy.refusing = False
        assert "other states" in str(await lost)
    finally:
        await other.close()


async def test_keep_alive_is_offered_where_it_is_kept(house: House) -> None:
    mux = await house.mux()
    client = await house.connect()
    assert client._link is not None
    assert client._link.session.keepalive == mux.servers["rc-me"].session_now.keepalive == 0


def test_last_words_fit_the_frame_of_a_stranger_and_forge_no_line() -> None:
    pair = Pair(refuse="no\n" * 9000)
    pair.exchange()
    (closed,) = pair.seen_by_client[-1:]
    assert isinstance(closed.error, RefusedError)  # type: ignore[union-attr]
    assert len(str(closed.error)) < 4096 and "\n" not in str(closed.error)  # type: ignore[union-attr]


async def test_an_observer_does_not_take_the_place_of_a_controller_that_was_cut(
    line: House,
) -> None:
    await line.mux()
    proxy = await line.behind_proxy()
    client = await line.connect(options=EAGER)
    proxy.refusing = True
    proxy.cut()
    await client.machine.when1("RetryingConn")
    proxy.refusing = False
    other = line.client(role="observer", options=RpcOptions(reconnect_tries=0))
    first = await asyncio.gather(other.start(), return_exceptions=True)
    assert isinstance(first[0], RefusedError)
    assert await client.source.add1("Unlocked") is EXECUTED


@pytest.mark.parametrize("interval", [float("inf"), float("nan"), 1e8, 0.0001, -1])
def test_an_interval_that_cannot_cross_is_refused(interval: float) -> None:
    house = House("memory:nowhere")
    with pytest.raises(OptionError, match="push_interval"):
        house.client(push_interval=interval)
    if interval > 1:
        with pytest.raises(OptionError, match="keepalive"):
            RpcOptions(keepalive=interval)


def test_what_was_not_sent_is_one_piece_of_the_value() -> None:
    pair = Pair().opened()
    data = bytes(100_000)
    value = wire.encode(data, "It")
    pair.server.send_payload("p", value)
    sent = pair.server.to_send()
    assert not isinstance(sent, bytes)
    assert any(memoryview(part).obj is data for part in sent)
    assert sent_by(pair.server) == b""
    assert isinstance(msgspec.msgpack.decode(b"\xc0"), type(None))
