"""The contract of transports, over each of them; a new one joins the list."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from pathlib import Path
from random import Random
from ssl import PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER, SSLContext

import pytest
import trustme

from amnode.errors import AuthError, ConnectionLost, OptionError
from amnode.rpc.address import Address
from amnode.rpc.transport.by_address import STREAMS, StreamTransport
from amnode.rpc.transport.port import Connection, Listener
from amnode.rpc.transport.tcp import alternating
from amnode.rpc.transport.unix import peer_uid


class Peer:
    """A handler that notes what happens to it, and says what it is told to."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.got = bytearray()
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

    async def has(self, size: int) -> bytearray:
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
        near.got, far.got = bytearray(), bytearray()
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


# -- bulk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_a_sink_gets_exactly_its_bytes_however_they_are_split(
    room: Room, seed: int
) -> None:
    rng = Random(seed)
    near, far = await room.pair()
    sizes = [rng.choice((1, 7, 4096, 300_000)) for _ in range(rng.randint(1, 4))]
    tail = rng.choice((1, 50, 70_000))
    sent = b"H" + rng.randbytes(sum(sizes) + tail)

    def reply(data: bytes) -> list[bytes]:
        if far.got == b"H":
            far.rooms = [memoryview(bytearray(size)) for size in sizes]
            far.room = far.rooms.pop(0)
        return []

    far.reply = reply
    near.say(b"H")
    await far.has(1)
    at = 1
    while at < len(sent):
        some = sent[at : at + rng.choice((1, 5, 4000, 90_000, 400_000))]
        at += len(some)
        near.say(some)
        if rng.random() < 0.3:
            await far.has(at)
    assert await far.has(len(sent)) == sent
    assert sum(far.fills) == sum(sizes)  # neither less nor a byte of the tail
    assert far.room is None


async def test_what_comes_with_the_head_of_bulk_is_received_and_the_rest_sunk(
    room: Room,
) -> None:
    near, far = await room.pair()
    body = bytes(range(256)) * 2000

    def reply(data: bytes) -> list[bytes]:
        if not far.fills and (left := 1 + len(body) - len(far.got)) > 0:
            far.room = memoryview(bytearray(left))
        return []

    far.reply = reply
    near.bulk = [b"H", memoryview(body), b"after"]
    near.chunk = 3
    near.link.wake()
    assert await far.has(len(body) + 6) == b"H" + body + b"after"
    near.say(b"!")
    assert (await far.has(len(body) + 7))[-1:] == b"!"


async def test_bulk_crosses_both_ways_in_order_unjoined(room: Room) -> None:
    near, far = await room.pair()
    data = Random(1).randbytes(3_000_000)
    view = memoryview(data)
    pieces = [view[at : at + 200_000] for at in range(0, len(view), 200_000)]
    for peer in (near, far):
        mixed: list[bytes | bytearray | memoryview] = []
        for i, piece in enumerate(pieces):
            mixed += [b"%03d" % i, bytearray(piece[:10]), piece[10:]]
        peer.bulk, peer.chunk = mixed, 4
        peer.link.wake()
    wanted = b"".join(b"%03d" % i + piece for i, piece in enumerate(pieces))
    assert await near.has(len(wanted)) == wanted
    assert await far.has(len(wanted)) == wanted


async def test_an_empty_sink_is_none(room: Room) -> None:
    near, far = await room.pair()
    far.room = memoryview(bytearray())
    near.say(b"a")
    await far.has(1)
    near.say(b"b")
    assert await far.has(2) == b"ab"
    assert not far.fills


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_handler_that_ends_amid_its_sink_is_given_nothing_more(
    room: Room, end: str
) -> None:
    near, far = await room.pair()
    whole = bytearray(1_000_000)
    far.room = memoryview(whole)
    near.say(b"x")
    await far.has(1)  # from here on into the sink
    sunk = far.sunk

    def once(count: int) -> None:
        sunk(count)
        getattr(far.link, end)()

    far.sunk = once  # type: ignore[method-assign]
    near.bulk = [b"y" * 400_000] * 3
    near.link.wake()
    await far.ended.wait()
    await near.ended.wait()
    assert len(far.fills) == 1
    assert whole.count(b"y") == far.fills[0]
    assert len(far.ends) == len(near.ends) == 1


async def test_what_is_on_its_way_to_a_closed_end_goes_into_no_sink(room: Room) -> None:
    near, far = await room.pair()
    whole = bytearray(1_000_000)
    far.room = memoryview(whole)
    near.say(b"x")
    await far.has(1)
    near.bulk, near.chunk = [b"y" * 20_000] * 5, 5
    near.link.wake()
    while near.bulk:  # noqa: ASYNC110 - each turn asks for it
        await asyncio.sleep(0)
    far.link.close()
    before = sum(far.fills)
    near.bulk = [b"y" * 1000]
    near.link.wake()
    await far.ended.wait()
    await near.ended.wait()
    assert whole.count(b"y") == before == sum(far.fills)


@pytest.mark.parametrize("sinks", [[], [100], [100, 70_000], [200_000]])
async def test_what_a_peer_wrote_is_read_also_where_a_write_notices_that_it_is_gone(
    tmp_path: Path, sinks: list[int]
) -> None:
    room = Room(f"unix:{tmp_path}/s")
    await room.open()
    near, far = await room.pair()
    last = bytes(range(256)) * 500
    assert near.connection is not None and far.connection is not None
    near.rooms = [memoryview(bytearray(size)) for size in sinks]
    near.room = near.rooms.pop(0) if near.rooms else None
    far.say(b"?")
    await near.has(1)
    near.got.clear()
    near.connection.pause_reading()
    far.say(last)
    far.connection.close()
    await far.ended.wait()
    near.say(b"are you there?")
    await near.ended.wait()
    assert near.got == last
    assert len(near.ends) == 1
    await room.close()


async def test_a_peer_that_goes_amid_a_sink_ends_it_once(room: Room) -> None:
    near, far = await room.pair()
    far.room = memoryview(bytearray(1000))
    near.say(b"x")
    await far.has(1)
    near.say(b"y")
    await far.has(2)
    near.link.abort()
    await far.ended.wait()
    assert len(far.ends) == 1 and far.fills == [1]


async def test_replies_leave_while_a_sink_is_filled(room: Room) -> None:
    near, far = await room.pair()
    far.room = memoryview(bytearray(5))
    near.say(b"x")
    await far.has(1)
    sunk = far.sunk

    def answering(count: int) -> None:
        sunk(count)
        far.to_say.append(b"%d" % count)

    far.sunk = answering  # type: ignore[method-assign]
    near.say(b"12")
    assert await near.has(1) == b"2"
    near.say(b"345")
    assert await near.has(2) == b"23"


async def test_a_closed_end_with_unread_data_ends_both(room: Room) -> None:
    near, far = await room.pair()
    near.bulk, near.chunk = [b"z" * 100_000] * 20, 20
    near.link.wake()
    await asyncio.sleep(0)
    far.link.close()
    await far.ended.wait()
    await near.ended.wait()
    assert len(near.ends) == len(far.ends) == 1


async def test_a_connection_says_what_it_is_and_who_is_there(room: Room) -> None:
    near, far = await room.pair()
    scheme, _, rest = room.address.partition(":")
    assert near.link.scheme == far.link.scheme == scheme
    if scheme == "unix":
        assert (near.link.peer, far.link.peer) == (rest, f"user {os.geteuid()}")
    elif scheme == "memory":
        assert near.link.peer == far.link.peer == rest
    else:
        assert near.link.peer.replace("127.0.0.1", "localhost") == rest.replace(
            "127.0.0.1", "localhost"
        )
        assert far.link.peer.rpartition(":")[0] in ("127.0.0.1", "[::1]")


# -- addresses -----------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["", "unix", "unix:", "memory:", "tcp:1", "/tmp/x"])
async def test_an_address_that_cannot_work_is_refused(address: str) -> None:
    for call in (
        STREAMS.listen(address, Peer, close_timeout=1),
        STREAMS.connect(address, Peer(), close_timeout=1),
    ):
        with pytest.raises(OptionError, match="no address"):
            await call


async def test_a_listener_on_port_0_says_which_it_got() -> None:
    for address in ("tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp:localhost:0"):
        listener = await STREAMS.listen(address, Peer, close_timeout=1)
        head, _, port = listener.address.rpartition(":")
        assert head == address.rpartition(":")[0]
        assert int(port) > 0
        listener.close()
    with pytest.raises(OptionError, match="no port to connect to"):
        await STREAMS.connect("tcp:127.0.0.1:0", Peer(), close_timeout=1)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.7", "[2001:db8::1]"])
async def test_nothing_is_listened_on_off_loopback_in_plain(host: str) -> None:
    with pytest.raises(OptionError, match=r"allow_plaintext=True"):
        await STREAMS.listen(f"tcp:{host}:0", Peer, close_timeout=1)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
async def test_off_loopback_is_listened_on_where_that_is_allowed_in_words(host: str) -> None:
    room = Room(f"tcp:{host}:0", transport=StreamTransport(allow_plaintext=True))
    await room.open()
    try:
        near, far = await room.pair()
        near.say(b"far")
        assert await far.has(3) == b"far"
    finally:
        await room.close()


async def test_tls_may_be_listened_on_off_loopback(tls: tuple[SSLContext, SSLContext]) -> None:
    transport = StreamTransport(server_tls=tls[0])
    listener = await transport.listen("tls:0.0.0.0:0", Peer, close_timeout=1)
    listener.close()


async def test_an_address_that_is_not_of_this_host_is_an_error_that_says_so() -> None:
    transport = StreamTransport(allow_plaintext=True)
    with pytest.raises(ConnectionLost, match=r"192\.0\.2\.7:0 cannot be listened on: Cannot"):
        await transport.listen("tcp:192.0.2.7:0", Peer, close_timeout=1)


async def test_a_host_that_nobody_knows_is_an_error_that_says_so() -> None:
    for call in (
        STREAMS.listen("tcp:nobody.invalid:7", Peer, close_timeout=1),
        STREAMS.connect("tcp:nobody.invalid:7", Peer(), close_timeout=1),
    ):
        with pytest.raises(ConnectionLost, match=r"host of tcp:nobody\.invalid:7 is unknown"):
            await call


@pytest.mark.parametrize("room", ["tcp", "tcp6", "tls"], indirect=True)
async def test_tcp_does_not_wait_to_gather_what_is_small(room: Room) -> None:
    near, far = await room.pair()
    for peer in (near, far):
        sock = transport_of(peer).get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# -- a peer that does not read -------------------------------------------------------------


def transport_of(peer: Peer) -> asyncio.Transport:
    """What a connection over a socket drives, to stop it from reading."""
    return peer.link._transport  # type: ignore[attr-defined, no-any-return]


async def test_what_comes_while_nothing_is_read_keeps_its_order(room: Room) -> None:
    near, far = await room.pair()
    for count in range(5):
        far.link.pause_reading()
        near.say(b"1")
        for _ in range(3):
            await asyncio.sleep(0)
        near.say(b"2")
        for _ in range(count):  # what was said is on its way, or not even that
            await asyncio.sleep(0)
        far.link.resume_reading()
        near.say(b"3")
        assert (await far.has(3 * count + 3))[3 * count :] == b"123"


@pytest.mark.parametrize("room", ["unix", "tcp", "tcp6", "tls"], indirect=True)
async def test_bulk_is_asked_for_as_the_peer_reads_it(room: Room) -> None:
    near, far = await room.pair()
    transport_of(far).pause_reading()
    piece = b"b" * 262_144
    near.bulk = [piece] * 100
    near.link.wake()
    asked = -1
    while asked != len(near.bulk):  # until it is asked for no more
        asked = len(near.bulk)
        for _ in range(50):
            await asyncio.sleep(0)
    assert asked > 20
    held = transport_of(near).get_write_buffer_size()
    assert held <= 65_536 + len(piece) + 40_000  # of TLS: what it has encrypted
    far.room = memoryview(bytearray(len(piece) * 70))
    transport_of(far).resume_reading()
    assert (await far.has(100 * len(piece))).count(b"b") == 100 * len(piece)


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
async def test_a_connection_that_is_reset_as_it_is_made_leaves_nothing(
    scheme: str, tls: tuple[SSLContext, SSLContext]
) -> None:
    loop = asyncio.get_running_loop()
    transport = StreamTransport(client_tls=tls[1])

    async def reset(listener: socket.socket) -> None:
        accepted, _ = await loop.sock_accept(listener)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        address = f"{scheme}:127.0.0.1:{listener.getsockname()[1]}"
        for _ in range(30):  # a descriptor that is closed twice is soon another's
            near = Peer()
            resetting = asyncio.ensure_future(reset(listener))
            try:
                await transport.connect(address, near, close_timeout=1)
            except ConnectionLost:
                assert near.connection is None
            else:
                await near.ended.wait()
            await resetting


@pytest.mark.parametrize("room", ["tcp", "tcp6", "tls"], indirect=True)
async def test_a_client_that_is_gone_before_it_is_accepted_harms_nobody(room: Room) -> None:
    host, _, port = room.address.partition(":")[2].rpartition(":")
    for _ in range(20):
        with socket.create_connection((host.strip("[]"), int(port))) as gone:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    near = Peer()
    room.made.append(near)
    await room.transport.connect(room.address, near, close_timeout=1)
    near.say(b"here")
    while not any(peer.got == b"here" for peer in room.accepted):  # noqa: ASYNC110 - of many
        await asyncio.sleep(0)


# -- cancellation --------------------------------------------------------------------------


@pytest.mark.parametrize("room", ["unix", "tcp", "tcp6", "tls"], indirect=True)
async def test_a_connect_that_is_cancelled_anywhere_leaves_nothing(room: Room) -> None:
    turns, done = 0, False
    while not done:
        near = Peer()
        room.made.append(near)
        task: asyncio.Task[Connection] = asyncio.ensure_future(
            room.transport.connect(room.address, near, close_timeout=1)
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        done = task.done()
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled() is not done
        if near.connection is not None:
            near.connection.abort()
        turns += 1
    for peer in room.accepted:
        await peer.ended.wait()


async def test_a_listen_that_is_cancelled_anywhere_leaves_nothing(
    tmp_path: Path, tls: tuple[SSLContext, SSLContext]
) -> None:
    transport = StreamTransport(server_tls=tls[0])
    for address in (f"unix:{tmp_path}/s", "tcp:127.0.0.1:0", "tcp:localhost:0", "tls:[::1]:0"):
        turns, done = 0, False
        while not done:
            task: asyncio.Task[Listener] = asyncio.ensure_future(
                transport.listen(address, Peer, close_timeout=1)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled() is not done
            if done:
                task.result().close()
            turns += 1
    assert not (tmp_path / "s").exists()


# -- the user at the other end of a Unix socket --------------------------------------------


class Users:
    """Says of each peer that it is the user of the day."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.asked = asyncio.Event()

    def __call__(self, sock: socket.socket) -> int:
        self.asked.set()
        return self.uid


async def test_the_system_says_who_is_there() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_uid(one) == os.geteuid()


async def test_a_stranger_that_connects_is_closed_without_a_handler(tmp_path: Path) -> None:
    room = Room(f"unix:{tmp_path}/s", transport=StreamTransport(uid_of=Users(4242)))
    await room.open()
    near = Peer()
    await STREAMS.connect(room.address, near, close_timeout=1)
    near.say(b"let me in")
    await near.ended.wait()
    assert room.accepted == [] and near.got == b""
    await room.close()


async def test_a_listener_of_a_stranger_is_not_spoken_to(tmp_path: Path) -> None:
    room = Room(f"unix:{tmp_path}/s")
    await room.open()
    near = Peer()
    with pytest.raises(AuthError, match=r"user 4242.*allow_uids=frozenset\(\{4242\}\)"):
        await StreamTransport(uid_of=Users(4242)).connect(room.address, near, close_timeout=1)
    assert near.connection is None
    while not room.accepted:
        await room.came.wait()
    await room.accepted[0].ended.wait()
    assert room.accepted[0].got == b""
    await room.close()


async def test_who_cannot_be_told_is_a_stranger(tmp_path: Path) -> None:
    def unknown(sock: socket.socket) -> int:
        raise OSError(errno.ENOTCONN, "gone")

    room = Room(f"unix:{tmp_path}/s", transport=StreamTransport(uid_of=unknown))
    await room.open()
    near = Peer()
    await STREAMS.connect(room.address, near, close_timeout=1)
    await near.ended.wait()
    with pytest.raises(AuthError, match=r"user at the other end is unknown: .*not connected"):
        await room.transport.connect(room.address, Peer(), close_timeout=1)
    assert room.accepted == []
    await room.close()


@pytest.mark.parametrize("uid", [0, 4242], ids=["root", "one that is allowed"])
async def test_root_and_who_is_allowed_may_connect(tmp_path: Path, uid: int) -> None:
    transport = StreamTransport(uid_of=Users(uid), allow_uids=frozenset({4242}))
    room = Room(f"unix:{tmp_path}/s", transport=transport)
    await room.open()
    near, far = await room.pair()
    assert far.link.peer == f"user {uid}"
    near.say(b"far")
    await far.has(3)
    await room.close()


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


@pytest.mark.parametrize("room", ["unix", "tcp", "tls"], indirect=True)
async def test_a_peer_that_reads_slowly_is_not_taken_for_one_that_reads_nothing(
    room: Room,
) -> None:
    near, far = await room.pair()
    link, reading = near.link, transport_of(far)
    received = far.received

    def once(data: bytes) -> None:
        reading.pause_reading()
        received(data)

    async def watched_anew() -> None:
        timer = link._stall
        while link._stall in (timer, None) and not near.ends:  # noqa: ASYNC110 - of no event
            await asyncio.sleep(0)

    far.received = once  # type: ignore[method-assign]
    # Small, and longer than a system waits before it asks a peer whether there is room again.
    reading.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    link.stall_timeout = 0.25
    near.bulk = [b"s" * 4_000_000] * 5
    link.wake()
    await watched_anew()
    for _ in range(4):
        enough = len(far.got) + 500_000
        while len(far.got) < enough:
            reading.resume_reading()
            await far.has(len(far.got) + 1)
        await watched_anew()
        assert near.ends == []
    await near.ended.wait()  # it reads nothing any more
    assert len(near.ends) == 1


# -- a name with several addresses ---------------------------------------------------------


class Street:
    """What a name stands for: addresses nobody answers at, that refuse, and that are good."""

    def __init__(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = room
        self.port = int(room.address.rpartition(":")[2])
        self._socks: list[socket.socket] = []
        self.found: list[tuple[socket.AddressFamily, tuple[str, int]]] = []

        async def resolve(at: Address) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
            return self.found

        monkeypatch.setattr("amnode.rpc.transport.tcp.resolve", resolve)

    def dead(self) -> None:
        """One whose backlog is full: whoever connects hears nothing."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        self._socks.append(listener)
        for _ in range(4):
            self._socks.append(caller := socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        self.found.append((socket.AF_INET, listener.getsockname()))

    def closed(self) -> None:
        """One where nobody listens."""
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        self._socks.append(bound)
        self.found.append((socket.AF_INET, bound.getsockname()))

    def good(self) -> None:
        """Where the room is."""
        self.found.append((socket.AF_INET, ("127.0.0.1", self.port)))

    def close(self) -> None:
        for sock in self._socks:
            sock.close()


@pytest.fixture
async def street(room: Room, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Street]:
    street = Street(room, monkeypatch)
    yield street
    street.close()


on_a_network = pytest.mark.parametrize("room", ["tcp", "tls"], indirect=True)


@on_a_network
@pytest.mark.parametrize(
    "order", [["dead", "good"], ["dead", "closed", "good"], ["good", "dead"], ["good", "good"]]
)
async def test_an_address_that_does_not_answer_keeps_nobody_from_the_next(
    street: Street, order: list[str]
) -> None:
    for kind in order:
        getattr(street, kind)()
    near, far = await street.room.pair()
    near.say(b"far")
    assert await far.has(3) == b"far"


def test_addresses_of_both_kinds_are_tried_in_turn() -> None:
    six = [(socket.AF_INET6, (f"::{i}", 1)) for i in range(3)]
    four = [(socket.AF_INET, ("127.0.0.1", 1))]
    assert alternating([*six, *four]) == [six[0], four[0], *six[1:]]
    assert alternating([*four, *six]) == [four[0], *six]
    assert alternating([]) == []


@on_a_network
async def test_a_name_whose_addresses_all_refuse_says_so(street: Street) -> None:
    street.closed()
    street.closed()
    with pytest.raises(ConnectionLost, match=r"Nobody answers at .*refused"):
        await street.room.transport.connect(street.room.address, Peer(), close_timeout=1)
    street.found.clear()
    with pytest.raises(ConnectionLost, match="it has no address"):
        await street.room.transport.connect(street.room.address, Peer(), close_timeout=1)


@on_a_network
async def test_a_connect_to_one_of_several_that_is_cancelled_leaves_nothing(
    street: Street,
) -> None:
    street.closed()
    street.good()
    street.good()
    turns, done = 0, False
    while not done:
        near = Peer()
        street.room.made.append(near)
        task: asyncio.Task[Connection] = asyncio.ensure_future(
            street.room.transport.connect(street.room.address, near, close_timeout=1)
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        done = task.done()
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled() is not done
        if near.connection is not None:
            near.connection.abort()
        turns += 1
    for peer in street.room.accepted:
        await peer.ended.wait()
    street.found.clear()
    street.dead()
    street.dead()
    task = asyncio.ensure_future(
        street.room.transport.connect(street.room.address, Peer(), close_timeout=1)
    )
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
