"""Payloads, arguments and answers of any size, and who waits for whom."""

from __future__ import annotations

import array
import asyncio
import gc
import tracemalloc
from typing import Any

import msgspec
import pytest

from amnode.errors import ConnectionLost, DeliveryError, RefusedError
from amnode.machine.machine import Machine
from amnode.machine.mixins import StateSource
from amnode.machine.queue import EXECUTED
from amnode.machine.schema import State, States
from amnode.machine.transition import Event
from amnode.rpc.client import RpcClient
from amnode.rpc.exposure import Exposure
from amnode.rpc.mux import Mux
from amnode.rpc.options import RpcOptions
from amnode.rpc.origin import Origin
from tests.pairs.driven import EAGER, House
from tests.pairs.driven import anywhere as anywhere  # fixtures
from tests.pairs.driven import line as line
from tests.pairs.driven import tcp as tcp

MIB = 1024 * 1024


class Load(msgspec.Struct):
    """What comes with a call."""

    data: bytes


class Store(States):
    """Takes data, and gives it."""

    Put = State(multi=True)
    Get = State(multi=True)
    Tick = State(multi=True)


class Named(msgspec.Struct, frozen=True):
    """A payload for the clients of a source."""

    name: str
    data: Any
    to: str = ""


class Shelf:
    """Handlers of a store."""

    def __init__(self) -> None:
        self.data: Any = b""
        self.puts = 0

    def PutState(self, event: Event) -> None:
        self.data = event.args.data
        self.puts += 1

    def GetState(self, event: Event) -> None:
        origin = event.mutation.origin
        assert isinstance(origin, Origin)
        origin.defer().answer(self.data)


STORE = Exposure(mutable={"Put": Load, "Get": None, "Tick": None})


async def store(house: House, **options: Any) -> Shelf:
    house.source = Machine(Store, id="store")
    shelf = Shelf()
    house.source.bind(shelf)
    await house.mux(exposure=STORE, **options)
    return shelf


def reading(client: RpcClient) -> Any:
    link = client._link
    assert link is not None and link.connection is not None
    return link.connection


async def test_a_delivery_ends_although_its_acknowledgement_may_wait(tcp: House) -> None:
    mux = await tcp.mux()
    await tcp.connect(options=RpcOptions(ack_delay=0.01))
    (server,) = mux.servers.values()
    await server.deliver("p", b"data")


# -- any size ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 32 * MIB + 7])
async def test_arguments_and_answers_of_any_size_cross(anywhere: House, size: int) -> None:
    shelf = await store(anywhere)
    door = (await anywhere.connect()).source
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert await door.add1("Put", Load(data)) is EXECUTED
    assert shelf.data == data
    assert await door.request(["Get"], result_type=bytes) == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, "array"])
async def test_any_buffer_crosses_as_bytes(anywhere: House, kind: Any) -> None:
    shelf = await store(anywhere)
    door = (await anywhere.connect()).source
    numbers = array.array("d", range(100_000))
    shelf.data = memoryview(numbers) if kind == "array" else kind(numbers.tobytes())
    assert await door.request(["Get"], result_type=bytes) == numbers.tobytes()
    view = await door.request(["Get"], result_type=memoryview)
    assert view == numbers.tobytes() and view.nbytes == 800_000


async def test_a_large_answer_is_not_copied_for_a_memoryview(tcp: House) -> None:
    shelf = await store(tcp)
    door = (await tcp.connect()).source
    shelf.data = b"x" * (16 * MIB)
    gc.collect()
    tracemalloc.start()
    try:
        view = await door.request(["Get"], result_type=memoryview)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert view.nbytes == 16 * MIB
    assert peak < 24 * MIB  # once at the client; the server sends slices of what it has


async def test_several_large_values_at_once_both_ways(anywhere: House) -> None:
    shelf = await store(anywhere, options=RpcOptions(outgoing_limit=4 * MIB))
    got: dict[str, int] = {}
    client = await anywhere.connect(on_payload=lambda name, data: got.update({name: len(data)}))
    shelf.data = b"y" * (9 * MIB)
    server = anywhere.muxes[0].servers["rc-me"]
    delivery = asyncio.ensure_future(server.deliver("big", b"z" * (10 * MIB)))
    gets = [client.source.request(["Get"], result_type=bytes) for _ in range(3)]
    puts = [client.source.add1("Put", Load(b"w" * (5 * MIB))) for _ in range(2)]
    for get in gets:
        assert len(await get) == 9 * MIB
    for put in puts:
        assert await put is EXECUTED
    await delivery
    assert got == {"big": 10 * MIB + 5} and shelf.puts == 2


# -- slow readers --------------------------------------------------------------------------


async def test_a_reader_that_sleeps_delays_nobody_else(tcp: House) -> None:
    await store(tcp)
    mux = tcp.muxes[0]
    got: list[int] = []
    client = await tcp.connect(on_payload=lambda _name, data: got.append(len(data)))
    other = await tcp.connect(id="rc-you", secret=b"another")
    server = mux.servers["rc-me"]
    reading(client).pause_reading()
    data = b"p" * (64 * MIB)
    gc.collect()
    tracemalloc.start()
    try:
        delivery = asyncio.ensure_future(server.deliver("big", data))
        await other.source.add1("Tick")
        for tick in range(3, 103, 2):
            tcp.source.add1("Tick")
            await other.source.when_time(["Tick"], [tick])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB  # of 64
    assert not delivery.done() and got == []
    # Once it reads, states come before the rest of the payload.
    reading(client).resume_reading()
    await client.source.when_time(["Tick"], [101])
    assert got == [] and not delivery.done()
    await delivery
    assert got == [64 * MIB + 5]


async def test_states_are_not_delayed_by_a_payload_that_is_under_way(anywhere: House) -> None:
    await store(anywhere)
    got: list[int] = []
    client = await anywhere.connect(on_payload=lambda _name, data: got.append(len(data)))
    server = anywhere.muxes[0].servers["rc-me"]
    delivery = asyncio.ensure_future(server.deliver("big", b"p" * (32 * MIB)))
    await client.machine.when1("ServerDelivering")
    assert await client.source.add1("Tick") is EXECUTED
    assert got == []
    await delivery
    assert got == [32 * MIB + 5]


async def test_deliver_waits_for_room_and_send_payload_does_not(tcp: House) -> None:
    await store(tcp, options=RpcOptions(payload_limit=MIB))
    got: list[str] = []
    client = await tcp.connect(on_payload=lambda name, _data: got.append(name))
    server = tcp.muxes[0].servers["rc-me"]
    reading(client).pause_reading()
    server.send_payload("alone may be larger", b"a" * (8 * MIB))
    with pytest.raises(DeliveryError, match="payload_limit"):
        server.send_payload("second", b"b")
    assert server.machine.is1("ErrSendPayload")
    waiting = [asyncio.ensure_future(server.deliver(f"w{n}", b"c" * 1000)) for n in range(3)]
    await client.source.add1("Tick") if False else None
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    waiting[1].cancel()
    reading(client).resume_reading()
    await waiting[0]
    await waiting[2]
    assert got == ["alone may be larger", "w0", "w2"]


async def test_a_value_over_body_limit_is_refused_before_it_leaves(anywhere: House) -> None:
    small = RpcOptions(body_limit=MIB)
    shelf = await store(anywhere, options=small)
    client = await anywhere.connect(options=small)
    server = anywhere.muxes[0].servers["rc-me"]
    with pytest.raises(DeliveryError, match="body_limit"):
        client.source.add1("Put", Load(b"x" * (MIB + 1)))
    with pytest.raises(DeliveryError, match="body_limit"):
        await server.deliver("big", b"x" * (MIB + 1))
    assert await client.source.add1("Tick") is EXECUTED and shelf.puts == 0


async def test_deliver_to_a_client_that_goes_says_so(line: House) -> None:
    await store(line)
    client = await line.connect()
    server = line.muxes[0].servers["rc-me"]
    reading(client).pause_reading()
    delivery = asyncio.ensure_future(server.deliver("big", b"x" * (8 * MIB)))
    await asyncio.sleep(0)
    server.close("enough")
    with pytest.raises(ConnectionLost):
        await delivery
    with pytest.raises(ConnectionLost):
        await server.deliver("late", 1)


async def test_a_client_that_asks_and_does_not_read_is_served_no_more(tcp: House) -> None:
    shelf = await store(tcp, options=RpcOptions(outgoing_limit=2 * MIB, chunk_size=1024))
    client = await tcp.connect()
    shelf.data = b"x" * (MIB // 2)
    served: list[int] = []

    class Count:
        def GetState(self, event: Event) -> None:
            served.append(1)
            tcp.changed.set()

    tcp.source.bind(Count())
    reading(client).pause_reading()
    calls = [client.source.request(["Get"], result_type=bytes) for _ in range(64)]
    await tcp.until(lambda: len(served) >= 4)
    other = await tcp.connect(id="rc-you", secret=b"another")
    for _ in range(20):
        await other.source.add1("Tick")
    assert len(served) < 20
    reading(client).resume_reading()
    for call in calls:
        assert len(await call) == MIB // 2
    assert len(served) == 64


async def test_a_client_that_never_reads_is_cut_off(tcp: House) -> None:
    options = RpcOptions(stall_timeout=0.05, session_ttl=0, credit=256 * MIB)
    await store(tcp, options=options)
    client = await tcp.connect(options=RpcOptions(reconnect_tries=0))
    server = tcp.muxes[0].servers["rc-me"]
    reading(client).pause_reading()
    with pytest.raises(ConnectionLost):
        await server.deliver("big", b"x" * (64 * MIB))
    await tcp.gone.wait()
    assert server.machine.is1("Exception")


async def test_a_payload_whose_connection_is_cut_amid_comes_once_and_whole(line: House) -> None:
    await store(line)
    proxy = await line.behind_proxy()
    got: list[bytes] = []
    client = await line.connect(
        options=EAGER, on_payload=lambda _n, data: got.append(msgspec.msgpack.decode(data))
    )
    server = line.muxes[0].servers["rc-me"]
    data = bytes(range(256)) * 8192
    proxy.cut_after(len(data) // 2)
    await server.deliver("big", data)
    assert got == [data] and line.resumed == ["rc-me"]
    proxy.cut_after(len(data) // 2)
    assert await client.source.add1("Put", Load(data)) is EXECUTED
    proxy.cut_after(len(data) // 2)
    assert await client.source.request(["Get"], result_type=bytes) == data
    assert len(line.resumed) == 3


async def test_a_large_call_that_is_taken_back_amid_is_not_made(line: House) -> None:
    shelf = await store(line)
    await line.behind_proxy()
    client = await line.connect(options=EAGER)
    assert line.proxy is not None
    line.proxy.freeze()

    async def put() -> Any:
        return await client.source.add1("Put", Load(b"x" * (16 * MIB)))

    task = asyncio.ensure_future(put())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    line.proxy.thaw()
    assert await client.source.add1("Tick") is EXECUTED
    assert shelf.puts == 0


async def test_too_many_calls_are_refused(tcp: House) -> None:
    await store(tcp)
    client = await tcp.connect(options=RpcOptions(call_limit=3))
    calls = [client.source.add1("Tick") for _ in range(3)]
    with pytest.raises(RefusedError, match="call_limit"):
        client.source.add1("Tick")
    assert [await call for call in calls] == [EXECUTED] * 3
    assert await client.source.add1("Tick") is EXECUTED


# -- payloads that a source hands over by a state ----------------------------------------------


class Talking(StateSource):
    """A source with states of its own."""

    Give = State(multi=True)


async def talker(house: House) -> Mux:
    house.source = Machine(Talking, id="talker")
    return await house.mux(exposure=Exposure(mutable={"Give": None}))


async def test_what_a_source_adds_as_a_payload_goes_to_its_clients(line: House) -> None:
    await talker(line)
    heard: list[Any] = []
    told = asyncio.Event()

    def take(name: str, data: msgspec.Raw) -> None:
        heard.append((name, msgspec.msgpack.decode(data)))
        told.set()

    await line.connect(on_payload=take)
    source = line.source
    assert not source.add1("SendPayload")  # without a name it is none
    assert source.add1("SendPayload", Named("news", [1, 2]))
    assert source.add1("SendPayload", Named("for another", 0, to="rc-you"))
    assert source.add1("SendPayload", Named("more", None, to="rc-me"))
    while len(heard) < 2:
        told.clear()
        await told.wait()
    assert heard == [("news", [1, 2]), ("more", None)]
    assert source.not1("SendPayload")


async def test_one_that_cannot_cross_is_an_error_of_the_source(line: House) -> None:
    mux = await talker(line)
    await line.connect()
    line.source.add1("SendPayload", Named("odd", object()))
    assert line.source.is1("ErrSendPayload")
    assert isinstance(line.source.err, DeliveryError)
    await mux.stop()
    line.source.remove(("ErrSendPayload", "Exception"))
    line.source.add1("SendPayload", Named("nobody serves it", object()))
    assert line.source.not1("ErrSendPayload")


async def test_an_answer_that_the_source_cannot_give_is_an_error_of_it(line: House) -> None:
    await talker(line)
    door = (await line.connect()).source

    def GiveState(event: Event) -> None:
        origin = event.mutation.origin
        assert isinstance(origin, Origin)
        with pytest.raises(DeliveryError):
            origin.defer().answer(object())

    line.source.bind({"GiveState": GiveState})
    with pytest.raises(DeliveryError):
        await door.request(["Give"])
    assert line.source.is1("ErrProviding")
