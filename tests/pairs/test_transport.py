"""The contract of transports, over each of them; a new one joins the list."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from pathlib import Path
from ssl import PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest
import trustme

from amnode.errors import ConnectionLost, OptionError
from amnode.rpc.transport import (
    STREAMS,
    Connection,
    Listener,
    StreamTransport,
)


class Peer:
    """A handler that notes what happens to it, and says what it is told to."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.got = b""
        self.writes: list[bytes] = []
        self.to_say: list[bytes] = []
        #: Where what comes has to go, and what is to follow once that is full.
        self.room: memoryview | None = None
        self.rooms: list[memoryview | None] = []
        self.fills: list[int] = []
        self.bulk: list[bytes | bytearray | memoryview] = []
        self.chunk = 1
        self.ends: list[Exception | None] = []
        self.reply: Callable[[bytes], list[bytes]] = lambda data: []
        self.ended = asyncio.Event()
        self.came = asyncio.Event()
        self.wrote = asyncio.Event()
        self._changed = asyncio.Event()

    def connected(self, connection: Connection) -> None:
        assert self.connection is None
        self.connection = connection
        self.came.set()

    def received(self, data: bytes) -> None:
        assert not self.ends
        self.got += data
        self.to_say += self.reply(data)
        self._changed.set()

    def sink(self) -> memoryview | None:
        return self.room

    def sunk(self, count: int) -> None:
        assert self.room is not None and not self.ends
        self.got += self.room[:count]
        self.fills.append(count)
        left = self.room[count:]
        self.room = left if left else self.rooms.pop(0) if self.rooms else None
        self._changed.set()

    def outgoing(self) -> bytes | list[bytes | bytearray | memoryview]:
        if self.bulk:
            some, self.bulk = self.bulk[: self.chunk], self.bulk[self.chunk :]
            if self.bulk:
                self.link.wake()
            return some
        data = b"".join(self.to_say)
        self.to_say.clear()
        if data:
            self.writes.append(data)
            self.wrote.set()
        return data

    def lost(self, error: Exception | None) -> None:
        self.ends.append(error)
        self.ended.set()
        self._changed.set()

    @property
    def link(self) -> Connection:
        assert self.connection is not None
        return self.connection

    def say(self, *data: bytes) -> None:
        self.to_say += data
        self.link.wake()

    async def has(self, size: int) -> bytes:
        """Waits until so many bytes came."""
        while len(self.got) < size:
            self._changed.clear()
            await self._changed.wait()
        return self.got


class Room:
    """A listener, and the peers at both of its sides."""

    def __init__(
        self, address: str, timeout: float = 1.0, transport: StreamTransport | None = None
    ) -> None:
        self.address = address
        self.transport = transport or StreamTransport()
        self.timeout = timeout
        self.accepted: list[Peer] = []
        self.made: list[Peer] = []
        self.listener: Listener | None = None
        self.came = asyncio.Event()

    def accept(self) -> Peer:
        self.accepted.append(Peer())
        self.came.set()
        return self.accepted[-1]

    async def open(self) -> None:
        self.listener = await self.transport.listen(
            self.address, self.accept, close_timeout=self.timeout
        )
        self.address = self.listener.address

    async def pair(self) -> tuple[Peer, Peer]:
        near = Peer()
        self.made.append(near)
        await self.transport.connect(self.address, near, close_timeout=self.timeout)
        near.say(b"hello")
        while not self.accepted:
            await self.came.wait()
        far = self.accepted[-1]
        await far.has(5)
        near.got = far.got = b""
        near.writes.clear()
        return near, far

    async def close(self) -> None:
        if self.listener is not None:
            self.listener.close()
        for peer in (*self.made, *self.accepted):
            if peer.connection is not None:
                peer.connection.abort()
                await peer.ended.wait()


@pytest.fixture(params=["unix", "memory", "tcp", "tcp6", "tls"])
async def room(
    request: pytest.FixtureRequest, tmp_path: Path, tls: tuple[SSLContext, SSLContext]
) -> AsyncIterator[Room]:
    address = {
        "unix": f"unix:{tmp_path}/s",
        "memory": "memory:room",
        "tcp": "tcp:127.0.0.1:0",
        "tcp6": "tcp:[::1]:0",
        "tls": "tls:localhost:0",
    }[request.param]
    room = Room(address, 1.0, StreamTransport(server_tls=tls[0], client_tls=tls[1]))
    await room.open()
    yield room
    await room.close()


@pytest.fixture(scope="module")
def tls() -> tuple[SSLContext, SSLContext]:
    """What a server shows, and what a client trusts."""
    authority = trustme.CA()
    server, client = SSLContext(PROTOCOL_TLS_SERVER), SSLContext(PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def test_bytes_cross_both_ways_in_order(room: Room) -> None:
    near, far = await room.pair()
    for i in range(50):
        near.say(bytes([i]))
        far.say(bytes([100 + i]))
    assert await far.has(50) == bytes(range(50))
    assert await near.has(50) == bytes(range(100, 150))


async def test_what_is_said_in_one_turn_leaves_as_one_write(room: Room) -> None:
    near, far = await room.pair()
    near.say(b"a")
    near.say(b"b", b"c")
    await far.has(3)
    assert near.writes == [b"abc"]


async def test_what_is_said_while_receiving_leaves_when_it_was_taken(room: Room) -> None:
    near, far = await room.pair()

    def reply(data: bytes) -> list[bytes]:
        far.link.wake()
        far.link.hurry()
        assert far.writes == []  # not amid the bytes that it answers
        return [b"1", b"2"]

    far.reply = reply
    near.say(b"?")
    await near.has(2)
    assert far.writes == [b"12"]


async def test_hurry_says_the_same_as_wake(room: Room) -> None:
    near, far = await room.pair()
    near.to_say.append(b"now")
    near.link.hurry()
    assert await far.has(3) == b"now"


async def test_close_writes_what_is_left_and_ends_once_at_both_sides(room: Room) -> None:
    near, far = await room.pair()
    near.to_say.append(b"x" * 300_000)
    near.link.close()
    near.link.close()
    assert near.link.closing
    await far.ended.wait()
    await near.ended.wait()
    assert far.got == b"x" * 300_000
    assert near.ends == far.ends == [None]
    near.say(b"too late")
    near.link.abort()
    await asyncio.sleep(0)
    assert near.ends == [None]


async def test_abort_ends_at_both_sides(room: Room) -> None:
    near, far = await room.pair()
    far.link.abort()
    await far.ended.wait()
    await near.ended.wait()
    assert (len(near.ends), len(far.ends)) == (1, 1)


async def test_a_closed_listener_accepts_no_more_and_leaves_its_connections(room: Room) -> None:
    near, far = await room.pair()
    assert room.listener is not None
    room.listener.close()
    room.listener.close()
    with pytest.raises(ConnectionLost, match="Nobody"):
        await room.transport.connect(room.address, Peer(), close_timeout=1)
    near.say(b"still here")
    await far.has(10)


async def test_an_address_is_taken_once_and_free_again_after_close(room: Room) -> None:
    with pytest.raises(ConnectionLost, match=r"taken|in use"):
        await room.transport.listen(room.address, Peer, close_timeout=1)
    assert room.listener is not None
    room.listener.close()
    await room.open()
    await room.pair()


async def test_callbacks_carry_no_context_of_those_who_made_the_connection(room: Room) -> None:
    mark: ContextVar[str] = ContextVar("mark", default="none")
    seen: list[str] = []
    mark.set("mine")
    near, far = await room.pair()
    near.reply = far.reply = lambda data: (seen.append(mark.get()), [])[1]
    near.say(b"a")
    far.say(b"b")
    await near.has(1)
    await far.has(1)
    assert seen == ["none", "none"]


async def test_the_handler_is_there_before_anything_can_arrive(room: Room) -> None:
    far: list[Peer] = []

    def accept() -> Peer:
        far.append(peer := Peer())
        peer.reply = lambda data: [b"first words"]
        return peer

    room.accept = accept  # type: ignore[method-assign]
    assert room.listener is not None
    room.listener.close()
    await room.open()
    near = Peer()
    room.made.append(near)
    await room.transport.connect(room.address, near, close_timeout=1)
    await near.came.wait()
    near.say(b"?")
    assert await near.has(11) == b"first words"
    room.accepted += far


@pytest.mark.parametrize("address", ["", "unix", "unix:", "memory:", "tcp:1", "/tmp/x"])
async def test_an_address_that_cannot_work_is_refused(address: str) -> None:
    for call in (
        STREAMS.listen(address, Peer, close_timeout=1),
        STREAMS.connect(address, Peer(), close_timeout=1),
    ):
        with pytest.raises(OptionError, match="no address"):
            await call


# -- Unix sockets ------------------------------------------------------------------------


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


async def test_a_unix_socket_is_its_owners_and_gone_after_close(tmp_path: Path) -> None:
    path = tmp_path / "s"
    old = os.umask(0)
    try:
        listener = await STREAMS.listen(f"unix:{path}", Peer, close_timeout=1)
    finally:
        os.umask(old)
    assert stat.S_ISSOCK(path.lstat().st_mode) and mode_of(path) == 0o600
    listener.close()
    assert not path.exists()


async def test_a_path_over_107_bytes_works(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    room = Room(f"unix:{directory}/socket", 1.0)
    await room.open()
    try:
        near, far = await room.pair()
        near.say(b"far")
        assert await far.has(3) == b"far"
        assert mode_of(directory / "socket") == 0o600
    finally:
        await room.close()
    assert list(directory.iterdir()) == []
    with pytest.raises(OptionError, match="too long"):
        await STREAMS.listen(f"unix:{directory}/{'n' * 108}", Peer, close_timeout=1)


async def test_a_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists()
    listener = await STREAMS.listen(f"unix:{path}", Peer, close_timeout=1)
    listener.close()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(ConnectionLost, match="in use"):
        await STREAMS.listen(f"unix:{path}", Peer, close_timeout=1)
    assert path.read_text() == "mine"


async def test_a_file_that_took_the_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = await STREAMS.listen(f"unix:{path}", Peer, close_timeout=1)
    path.unlink()
    path.write_text("mine")
    listener.close()
    assert path.read_text() == "mine"


async def test_a_directory_that_does_not_exist_is_an_error_that_says_so(tmp_path: Path) -> None:
    for work in (
        STREAMS.listen(f"unix:{tmp_path}/no/s", Peer, close_timeout=1),
        STREAMS.connect(f"unix:{tmp_path}/no/s", Peer(), close_timeout=1),
    ):
        with pytest.raises(ConnectionLost, match="No such file"):
            await work


async def test_a_peer_that_does_not_read_is_cut_after_the_close_timeout(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        near = Peer()
        await STREAMS.connect(f"unix:{path}", near, close_timeout=0.05)
        near.to_say.append(b"x" * 8_000_000)
        near.link.close()
        await near.ended.wait()
    assert len(near.ends) == 1


async def test_while_a_peer_does_not_read_nothing_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        near = Peer()
        await STREAMS.connect(f"unix:{path}", near, close_timeout=0.05)
        near.say(b"x" * 8_000_000)
        await near.wrote.wait()
        for _ in range(3):
            near.say(b"y")
            await asyncio.sleep(0)
        assert near.writes == [b"x" * 8_000_000]  # rule 4
        other, _ = deaf.accept()
        loop = asyncio.get_running_loop()
        other.setblocking(False)
        got = 0
        with other:
            while got < 8_000_003:
                got += len(await loop.sock_recv(other, 1 << 20))
            near.link.abort()
            await near.ended.wait()
    assert near.writes[1:] == [b"yyy"]


async def test_a_connect_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    room = Room(f"unix:{tmp_path}/s", 1.0)
    await room.open()
    try:
        for turns in range(6):
            near = Peer()
            room.made.append(near)
            task: asyncio.Task[Any] = asyncio.ensure_future(
                room.transport.connect(room.address, near, close_timeout=1)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            if near.connection is not None:
                near.connection.abort()
        for peer in room.accepted:
            await peer.ended.wait()
    finally:
        await room.close()
