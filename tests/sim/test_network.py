"""The simulated network: what arrives, when, and what breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from amnode.errors import ConnectionLost, OptionError
from amnode.rpc.transport.port import Connection
from amnode.testing import Place, SimLoop, SimNetwork, SimTransport, Weather


class End:
    """A handler that says what it is told to, and keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.to_say: list[bytes] = []
        self.over: list[Exception | None] = []
        self.connection: Connection | None = None

    def connected(self, connection: Connection) -> None:
        self.connection = connection

    def received(self, data: bytes) -> None:
        self.heard.append(data)

    def sink(self) -> memoryview | None:
        return None

    def sunk(self, count: int) -> None: ...

    def outgoing(self) -> bytes:
        data = b"".join(self.to_say)
        self.to_say.clear()
        return data

    def lost(self, error: Exception | None) -> None:
        self.over.append(error)

    def say(self, data: bytes) -> None:
        self.to_say.append(data)
        assert self.connection is not None
        self.connection.wake()


class Net:
    """A server process and a client process."""

    def __init__(self, loop: SimLoop, weather: Weather) -> None:
        self.loop = loop
        self.network = SimNetwork(loop, Random(1), weather, lambda *_: None)
        self.server, self.client = Place("server"), Place("client")
        self.accepted: list[End] = []
        self.made = End()

    def _accept(self) -> End:
        self.accepted.append(End())
        return self.accepted[-1]

    async def connect(self) -> End:
        with self.loop.within(self.server):
            await self.transport(self.server).listen("x:door", self._accept, close_timeout=1.0)
        loop, done = self.loop, self.loop.create_future()

        async def connect() -> None:
            await self.transport(self.client).connect("x:door", self.made, close_timeout=1.0)
            loop.post(loop.outer, 0.0, done.set_result, None)

        loop.post(self.client, 0.0, lambda: loop.create_task(connect()))
        await done
        await asyncio.sleep(1.0)
        return self.made

    def transport(self, place: Place) -> SimTransport:
        return self.network.transport(place)

    def say(self, place: Place, end: End, data: bytes) -> None:
        self.loop.post(place, 0.0, end.say, data)


def run(story: Callable[[Net], Coroutine[Any, Any, None]], **weather: float) -> None:
    loop = SimLoop("1")
    try:
        loop.run_until_complete(story(Net(loop, Weather(**weather))))
        assert not loop.uncaught
    finally:
        loop.close()


def test_bytes_arrive_in_order_in_any_pieces() -> None:
    async def story(net: Net) -> None:
        client = await net.connect()
        for n in range(50):
            net.say(net.client, client, bytes([n]) * 10)
            await asyncio.sleep(0.001)
        await asyncio.sleep(1.0)
        (server,) = net.accepted
        assert b"".join(server.heard) == b"".join(bytes([n]) * 10 for n in range(50))
        assert {len(piece) for piece in server.heard} != {10}

    run(story, split=0.5)


def test_nobody_answers_where_nobody_listens() -> None:
    async def story(net: Net) -> None:
        transport = net.transport(net.client)
        with pytest.raises(ConnectionLost, match="Nobody answers") as nobody:
            await transport.connect("x:door", End(), close_timeout=1.0)
        assert isinstance(nobody.value.__cause__, FileNotFoundError)
        with pytest.raises(OptionError):
            await transport.connect("door", End(), close_timeout=1.0)
        await net.connect()
        with pytest.raises(ConnectionLost, match="taken"):
            await net.transport(net.server).listen("x:door", End, close_timeout=1.0)

    run(story)


def test_a_close_comes_after_what_was_said_and_a_reset_does_not() -> None:
    async def story(net: Net) -> None:
        client = await net.connect()
        net.say(net.client, client, b"last words")
        assert client.connection is not None
        net.loop.post(net.client, 0.001, client.connection.close)
        await asyncio.sleep(1.0)
        (server,) = net.accepted
        assert (server.heard, server.over, client.over) == ([b"last words"], [None], [None])
        assert not net.network.cables

    run(story, split=0.0)


def test_a_reset_loses_what_is_under_way_at_both_ends() -> None:
    async def story(net: Net) -> None:
        client = await net.connect()
        (cable,) = net.network.cables.values()
        net.say(net.client, client, b"lost")
        await asyncio.sleep(0.0001)
        net.network.reset(cable)
        await asyncio.sleep(1.0)
        (server,) = net.accepted
        assert not server.heard
        assert [type(error) for error in server.over + client.over] == [
            ConnectionResetError
        ] * 2

    run(story, latency=0.1, split=0.0)


def test_what_is_held_arrives_later_and_what_is_hushed_never() -> None:
    async def story(net: Net) -> None:
        client = await net.connect()
        (cable,), (server,) = net.network.cables.values(), net.accepted
        net.network.hold(cable, 5.0)
        net.say(net.client, client, b"held")
        await asyncio.sleep(4.0)
        assert not server.heard
        net.network.heal()
        await asyncio.sleep(0.5)
        assert server.heard == [b"held"]
        net.network.part("server", "client", 2.0)
        net.say(net.client, client, b"parted")
        await asyncio.sleep(1.0)
        assert server.heard == [b"held"]
        await asyncio.sleep(2.0)
        assert server.heard == [b"held", b"parted"]
        net.network.hush(cable, 3.0)
        net.say(net.client, client, b"never")
        await asyncio.sleep(2.0)
        assert not server.over
        await asyncio.sleep(2.0)
        assert server.heard == [b"held", b"parted"]
        assert len(server.over) == len(client.over) == 1

    run(story, split=0.0)


@pytest.mark.parametrize("abrupt", [0.0, 1.0])
def test_the_end_of_a_process_is_heard_at_the_other_side(abrupt: float) -> None:
    async def story(net: Net) -> None:
        await net.connect()
        (server,) = net.accepted
        assert len(net.network.open_of(net.client)) == 1
        net.loop.end_place(net.client)
        net.network.end_of(net.client)
        assert net.network.open_of(net.client) == []
        await asyncio.sleep(1.0)
        assert len(server.over) == 1
        assert isinstance(server.over[0], ConnectionResetError) == bool(abrupt)
        assert not net.made.over
        assert not net.network.cables

    run(story, abrupt=abrupt)


def test_a_sender_who_is_far_ahead_is_paused() -> None:
    async def story(net: Net) -> None:
        client = await net.connect()
        (server,) = net.accepted
        net.loop.stop_place(net.server)
        net.say(net.client, client, b"x" * 300_000)
        await asyncio.sleep(1.0)
        net.say(net.client, client, b"y")
        await asyncio.sleep(1.0)
        net.say(net.client, client, b"z")
        await asyncio.sleep(1.0)
        assert client.to_say  # nothing more is asked for
        net.loop.continue_place(net.server)
        await asyncio.sleep(1.0)
        assert not client.to_say
        assert b"".join(server.heard).endswith(b"yz")

    run(story, split=0.0)
