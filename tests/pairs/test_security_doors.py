"""The security checklist at real doors: strangers at each kind of listener, slow ones, many."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import pytest
import trustme

from amnode.errors import DeliveryError
from amnode.rpc.mux import Mux
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.client_session import ClientSession
from amnode.rpc.protocol.handshake import ClientHandshake
from amnode.rpc.protocol.memory import ClientMemory
from amnode.rpc.protocol.session import Called, Closed, Phase
from amnode.rpc.protocol.subscription import Subscription
from amnode.rpc.protocol.wire import NIL, Outcome, Role
from amnode.rpc.transport.by_address import STREAMS, StreamTransport
from tests.pairs.driven import SECRET, House
from tests.pairs.session_pair import Pair, deliver, sent_by

AUTHORITY = trustme.CA()
SOON = RpcOptions(handshake_timeout=0.1)
HELLO = wire.to_frame(wire.Hello(wire.VERSION, "rc-me", Role.CONTROLLER, b"n" * 32, b"", 0))
DIFFERENCE = wire.Difference([0, 1], 1, 1)
CLOCK = wire.ClockData(0, 1, [], 0)
#: Every message of the table but the first two of a client, which are due.
EVERY: list[wire.Message] = [
    wire.Challenge(wire.VERSION, "s", b"n" * 32, False, 0),
    wire.Welcome(b"p" * 32),
    wire.Subscribe(b"", None, 0, 0),
    wire.Synced("m", b"i" * 16, [], None, None, CLOCK),
    wire.Failure(wire.WireError("RpcError", "x", {})),
    wire.Goodbye("x"),
    wire.Alive(),
    wire.Mutate(1, 0, [0], NIL),
    wire.Answer(1, Outcome.EXECUTED, DIFFERENCE, NIL),
    wire.Cancel(1),
    wire.Update(DIFFERENCE),
    wire.Resync(),
    wire.Snapshot(CLOCK),
    wire.Payload(1, "p", NIL),
    wire.Step(DIFFERENCE, 0, [0]),
    wire.Ack(0, 0),
    wire.Body(1, 1 << 30),
    wire.Chunk(1, b"x"),
    wire.Drop(1),
    wire.Credit(1),
    wire.Item(1, 1, NIL),
    wire.Allow(1, 0, 1),
    wire.End(1, None),
    wire.Stop(1),
]


class Door:
    """A house with one kind of listener, and how strangers reach it."""

    def __init__(self, address: str) -> None:
        self.tls: ssl.SSLContext | None = None
        transport = STREAMS
        if address.startswith("tls"):
            server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            AUTHORITY.issue_cert("localhost").configure_cert(server)
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            AUTHORITY.configure_trust(self.tls)
            transport = StreamTransport(server_tls=server, client_tls=self.tls)
        self.house = House(address, transport)

    async def open(
        self, limit: int = 1 << 16
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of a stranger."""
        scheme, _, place = self.house.address.partition(":")
        if scheme == "unix":
            return await asyncio.open_unix_connection(place, limit=limit)
        host, _, port = place.rpartition(":")
        name = "localhost" if self.tls else None
        return await asyncio.open_connection(
            host, int(port), ssl=self.tls, server_hostname=name, limit=limit
        )

    async def visit(self, *data: bytes) -> list[wire.AnyMessage]:
        """Sends that, and returns what was said until the other side closed."""
        reader, writer = await self.open()
        try:
            writer.writelines(data)
            said = await reader.read()
        finally:
            await leave(writer)
        framer, told = wire.Framer(1 << 20), list[wire.AnyMessage]()
        framer.feed(said)
        while (body := framer.next()) is not None:
            told.append(wire.from_frame(body))
        return told

    def untouched(self) -> bool:
        """Nobody was let in, and nothing ran."""
        house = self.house
        ticks = house.source.ticks()
        return not (any(ticks) or house.handlers.seen or house.connected)


async def leave(writer: asyncio.StreamWriter) -> None:
    """Closes a connection that may have been closed at the other end."""
    writer.close()
    with suppress(OSError, ssl.SSLError):  # it was reset
        await writer.wait_closed()


@pytest.fixture(params=["unix", "tcp", "tls"])
async def door(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Door]:
    """A door of each kind."""
    address = {
        "unix": f"unix:{tmp_path}/door",
        "tcp": "tcp:127.0.0.1:0",
        "tls": "tls:localhost:0",
    }[request.param]
    door = Door(address)
    yield door
    await door.house.close()


def kept(mux: Mux) -> int:
    """Bytes that a mux keeps of peers which have not shaken hands."""
    return sum(server.session_now.received_bytes_kept for server in mux._pending)


async def until(condition: Callable[[], object]) -> None:
    """Gives the loop its turns until something holds; the test's own limit ends it."""
    while not condition():  # noqa: ASYNC110 - it is inside, where no event tells of it
        await asyncio.sleep(0.001)


# -- 2: no open door -----------------------------------------------------------------------


async def test_2_every_message_first_ends_the_connection_and_runs_nothing(door: Door) -> None:
    mux = await door.house.mux(options=SOON)
    visits = [(start, message) for start in (b"", HELLO) for message in EVERY]
    visits.append((b"", wire.Proof(b"p" * 32)))
    for start, message in visits:
        told = await door.visit(start + wire.to_frame(message))
        challenges = told[: bool(start)]
        assert all(isinstance(said, wire.Challenge) for said in challenges)
        rest = told[len(challenges) :]
        if isinstance(message, wire.Failure | wire.Goodbye):
            assert rest == [], "the peer has said that it goes"
        else:
            (failure,) = rest
            assert isinstance(failure, wire.Failure)
            assert type(message).__name__ in failure.error.message
    assert door.untouched() and not mux.servers and not mux._pending


async def test_2_a_handshake_that_is_cut_anywhere_ends_in_time(door: Door) -> None:
    mux = await door.house.mux(options=SOON)
    whole = HELLO + wire.to_frame(wire.Proof(b"p" * 32))
    cuts = [*range(0, len(HELLO), 4), *range(len(HELLO), len(whole), 4)]
    told = await asyncio.gather(*(door.visit(whole[:cut]) for cut in cuts))
    for cut, said in zip(cuts, told, strict=True):
        assert isinstance(said[0], wire.Challenge) == (cut >= len(HELLO))
        assert isinstance(said[-1], wire.Failure)
        assert said[-1].error.name == "RpcTimeoutError"
    assert door.untouched() and not mux.servers and not mux._pending


async def test_2_who_says_nothing_at_all_is_closed_in_time(door: Door) -> None:
    mux = await door.house.mux(options=SOON)
    (told,) = await door.visit()
    assert isinstance(told, wire.Failure) and "0.1 s" in told.error.message
    assert door.untouched() and not mux._pending


async def test_2_not_more_than_4_kib_is_kept_of_a_stranger(door: Door) -> None:
    mux = await door.house.mux()
    reader, writer = await door.open()
    try:
        writer.write((4096).to_bytes(4, "little") + b"x" * 4095)
        await until(lambda: kept(mux) == 4099)
        writer.write(b"x" * 100_000)  # the frame is whole now, and nonsense
        assert isinstance(wire.from_frame((await reader.read())[4:]), wire.Failure)
    except ConnectionResetError:
        pass  # what is not read resets the connection
    finally:
        await leave(writer)
    await until(lambda: not mux._pending)
    assert kept(mux) == 0 and door.untouched()


# -- 6: length first -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 4097, (1 << 32) - 1])
async def test_6_lengths_that_lie_cost_no_memory_at_a_real_door(
    tmp_path: Path, size: int
) -> None:
    door = Door(f"unix:{tmp_path}/door")
    try:
        mux = await door.house.mux()
        header = size.to_bytes(4, "little")
        await asyncio.gather(*(door.visit(header) for _ in range(50)))
        before = _resident()
        for _ in range(10):
            told = await asyncio.gather(*(door.visit(header) for _ in range(50)))
            assert all(isinstance(said, wire.Failure) for (said,) in told)
        assert _resident() - before < 4 << 20
        assert door.untouched() and not mux._pending
    finally:
        await door.house.close()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


# -- 8: slow and many ----------------------------------------------------------------------


async def test_8_honest_clients_connect_among_a_thousand_half_open_and_a_hundred_slow_peers(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    door = Door(f"unix:{tmp_path}/door")
    strangers: list[asyncio.StreamWriter] = []
    took: list[float] = []
    try:
        mux = await door.house.mux()
        for _ in range(10):
            for _ in range(100):
                strangers.append((await door.open())[1])
            slow = strangers[-100:]
            client, at = door.house.client(), 0
            started = perf_counter()
            starting = asyncio.ensure_future(client.start())
            while not starting.done():  # a byte of each, in every turn of the loop
                for writer in slow:
                    if not writer.transport.is_closing():  # the oldest are turned away
                        writer.write(HELLO[at : at + 1])
                at += 1
                await asyncio.sleep(0)
            await starting
            took.append(perf_counter() - started)
            assert len(mux._pending) <= RpcOptions().pending_limit
            await client.stop()
        assert door.house.connected == ["rc-me"] * 10
        record_property("slowest connect among strangers, seconds", max(took))
    finally:
        for writer in strangers:
            await leave(writer)
        await door.house.close()


class Deaf:
    """A client that has shaken hands, and reads nothing any more."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.writer: asyncio.StreamWriter | None = None
        options = RpcOptions()
        self.session = ClientSession(
            ClientHandshake("rc-me", Role.CONTROLLER, SECRET, b"c" * 32),
            ClientMemory(options),
            None,
            Subscription(),
            options,
        )

    async def shake(self) -> asyncio.StreamWriter:
        """Shakes hands."""
        reader, writer = await self.door.open(limit=1024)
        self.writer = writer
        while self.session.phase is not Phase.OPEN:
            writer.write(sent_by(self.session))
            list(self.session.receive(await reader.read(4096)))
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        return writer

    async def leave(self) -> None:
        """Closes its connection."""
        if self.writer is not None:
            await leave(self.writer)


OUTGOING = 256 * 1024


async def test_8_a_peer_that_asks_and_never_reads_costs_its_bound_and_is_cut(
    tmp_path: Path,
) -> None:
    door = Door(f"unix:{tmp_path}/door")
    # Long enough to fill the queue on a machine that is busy, too.
    options = RpcOptions(outgoing_limit=OUTGOING, stall_timeout=1.0, session_ttl=0)
    deaf = Deaf(door)
    try:
        mux = await door.house.mux(options=options)
        writer = await deaf.shake()
        await until(lambda: "rc-me" in mux.servers)
        server = mux.servers["rc-me"]
        most = 0
        asked = wire.to_frame(wire.Resync()) * 2_000
        while not door.house.disconnected:
            if (
                not writer.transport.is_closing()
                and writer.transport.get_write_buffer_size() == 0
            ):
                writer.write(asked)
            await asyncio.sleep(0)
            most = max(most, server.session_now.queued)
        assert OUTGOING < most <= OUTGOING + 1024, "one more answer"
        assert mux.servers == {}
    finally:
        await deaf.leave()
        await door.house.close()


async def test_8_payloads_for_a_peer_that_never_reads_are_bounded(tmp_path: Path) -> None:
    door = Door(f"unix:{tmp_path}/door")
    options = RpcOptions(payload_limit=1 << 20, stall_timeout=0.2, session_ttl=0)
    deaf = Deaf(door)
    try:
        mux = await door.house.mux(options=options)
        await deaf.shake()
        await until(lambda: "rc-me" in mux.servers)
        server, sent = mux.servers["rc-me"], 0
        with pytest.raises(DeliveryError, match="payload_limit"):
            while True:
                server.send_payload("big", b"x" * 60_000)
                sent += 60_000
        assert sent <= 1 << 20
        await until(lambda: door.house.disconnected)
    finally:
        await deaf.leave()
        await door.house.close()


async def test_8_who_reads_gets_what_is_larger_than_all_that_may_wait(tmp_path: Path) -> None:
    door = Door(f"unix:{tmp_path}/door")
    options = RpcOptions(outgoing_limit=1, credit=1024, chunk_size=1024)
    try:
        mux = await door.house.mux(options=options)
        client = await door.house.connect(options=options)
        await mux.servers["rc-me"].deliver("big", b"x" * 100_000)
        for _ in range(100):  # each answer is more than may wait, so each stops the reading
            _ = client.source.add1("Unlocked")
        assert await client.source.add1("Open")
    finally:
        await door.house.close()


# -- 16: TLS -------------------------------------------------------------------------------


async def test_16_a_good_certificate_is_no_token() -> None:
    """Who passes TLS, with a certificate of its own, is a stranger without the token."""
    door = Door("tls:localhost:0")
    assert door.tls is not None
    AUTHORITY.issue_cert("client.example").configure_cert(door.tls)
    try:
        mux = await door.house.mux(options=SOON)
        for frames in (HELLO + wire.to_frame(wire.Proof(b"p" * 32)), wire.to_frame(EVERY[7])):
            told = await door.visit(frames)
            assert isinstance(told[-1], wire.Failure)
        assert door.untouched() and not mux.servers
    finally:
        await door.house.close()


# -- 8: what one message may cost ----------------------------------------------------------


def test_8_frames_that_came_at_once_are_not_answered_at_once() -> None:
    options = RpcOptions(outgoing_limit=1000)
    pair = Pair(options=options).opened()
    data = wire.to_frame(wire.Resync()) * 10_000
    answered = deliver(pair.server, data)
    assert pair.server.choked and len(answered) < 100
    assert pair.server.queued <= 1000 + 64
    while pair.server.choked:
        sent_by(pair.server)
        answered += deliver(pair.server, b"")
        assert pair.server.queued <= 1000 + 64
    assert len(answered) == 10_000 and pair.server.received_bytes_kept == 0


def test_8_an_answer_that_is_on_its_way_is_not_sent_twice() -> None:
    pair = Pair(options=RpcOptions(chunk_size=1024, credit=1024)).opened()
    mutation = wire.to_frame(wire.Mutate(1, 0, [0], NIL))
    (called,) = deliver(pair.server, mutation)
    assert isinstance(called, Called)
    pair.server.answer(1, Outcome.EXECUTED, wire.to_raw(b"x" * 100_000))
    before = pair.server.queued
    assert deliver(pair.server, mutation * 1000) == []
    assert pair.server.queued == before
    sent_by(pair.server)
    assert deliver(pair.server, mutation * 1000) == []
    assert pair.server.queued < before


def test_8_bodies_that_are_announced_cost_nothing_and_are_few() -> None:
    pair = Pair().opened()
    before = _resident()
    announced = deliver(pair.server, wire.to_frame(wire.Body(1, 1 << 30)))
    assert announced and _resident() - before < 1 << 20
    (closed,) = deliver(pair.server, wire.to_frame(wire.Body(2, 1)))
    assert isinstance(closed, Closed) and "body_limit" in str(closed.error)
    pair = Pair().opened()
    bodies = b"".join(wire.to_frame(wire.Body(number, 1)) for number in range(1, 100))
    *announced, closed = deliver(pair.server, bodies)
    assert isinstance(closed, Closed) and "64 bodies" in str(closed.error)
    assert len(announced) == 64


def test_8_a_chunk_that_comes_otherwise_than_asked_for_ends_where_it_belongs() -> None:
    """Bytes for a sink that come by `receive`, as after a stop."""
    pair = Pair().opened()
    value = bytes(wire.to_raw(b"y" * 200_000))
    deliver(pair.server, wire.to_frame(wire.Body(1, len(value))))
    frame = wire.chunk_header(1, len(value)) + value
    assert deliver(pair.server, frame[:1000]) == []
    assert pair.server.sink() is not None
    assert deliver(pair.server, frame[1000:150_000]) == []
    mutation = wire.Mutate(1, 0, [0], wire.body_reference(1))
    (called,) = deliver(pair.server, frame[150_000:] + wire.to_frame(mutation))
    assert isinstance(called, Called) and bytes(called.args) == value
