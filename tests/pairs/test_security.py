"""The security checklist, as far as a connection goes: each item a test of its name.

The handshake itself (item 3) is in test_handshake.py, the work of a check (4) in
unit/rpc/test_auth.py.
"""

from __future__ import annotations

import ast
import asyncio
import sys
import tracemalloc
from pathlib import Path

import msgspec
import pytest

import amnode.rpc
from amnode.errors import AuthError, ConnectionLost, ProtocolError
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.session import Called, Closed, Phase
from amnode.rpc.protocol.wire import NIL, Outcome, Role
from amnode.rpc.transport.by_address import STREAMS
from amnode.rpc.transport.port import Connection
from tests.pairs.driven import House
from tests.pairs.driven import house as house  # a fixture
from tests.pairs.session_pair import Pair, deliver


class Stranger:
    """A peer that sends what it is told to, and waits for the end."""

    def __init__(self, *data: bytes) -> None:
        self.data = list(data)
        self.got = b""
        self.ended = asyncio.Event()
        self.connection: Connection | None = None

    def connected(self, connection: Connection) -> None:
        self.connection = connection
        connection.wake()

    def received(self, data: bytes) -> None:
        self.got += data

    def sink(self) -> None:
        pass

    def sunk(self, count: int) -> None:
        pass

    def outgoing(self) -> bytes:
        data = b"".join(self.data)
        self.data.clear()
        return data

    def lost(self, error: Exception | None) -> None:
        self.ended.set()

    async def visit(self, address: str) -> list[wire.AnyMessage]:
        """Connects, sends, and returns what it was told by the end."""
        await STREAMS.connect(address, self, close_timeout=1)
        await self.ended.wait()
        framer, told = wire.Framer(1 << 20), list[wire.AnyMessage]()
        framer.feed(self.got)
        while (body := framer.next()) is not None:
            told.append(wire.from_frame(body))
        return told


HELLO = wire.to_frame(wire.Hello(wire.VERSION, "rc-me", Role.CONTROLLER, b"n" * 32, b"", 0))
DIFFERENCE = wire.Difference([0, 1], 1, 1)
CLOCK = wire.ClockData(0, 1, [], 0)
EVERY: list[wire.Message] = [
    wire.Challenge(wire.VERSION, "s", b"n" * 32, False, 0),
    wire.Proof(b"p" * 32),
    wire.Welcome(b"p" * 32),
    wire.Subscribe(b"", None, 0, 0),
    wire.Synced("m", b"i" * 16, [], None, None, CLOCK),
    wire.Failure(wire.WireError("RpcError", "x", {})),
    wire.Goodbye("x"),
    wire.Mutate(1, 0, [0], NIL),
    wire.Answer(1, Outcome.EXECUTED, DIFFERENCE, NIL),
    wire.Cancel(1),
    wire.Update(DIFFERENCE),
    wire.Resync(),
    wire.Snapshot(CLOCK),
    wire.Payload(1, "p", NIL),
    wire.Alive(),
    wire.Step(DIFFERENCE, 0, [0]),
    wire.Ack(0, 0),
    wire.Body(1, 1),
    wire.Chunk(1, b"x"),
    wire.Drop(1),
    wire.Credit(1),
    wire.Item(1, 1, NIL),
    wire.Allow(1, 0, 1),
    wire.End(1, None),
    wire.Stop(1),
]


# -- 2: no open door ---------------------------------------------------------------------


@pytest.mark.parametrize("message", EVERY, ids=wire.describe)
async def test_2_any_message_first_ends_the_connection_and_runs_nothing(
    house: House, message: wire.Message
) -> None:
    mux = await house.mux()
    before = house.source.time(), house.source.queue_tick
    for start in (b"", HELLO):
        if start and isinstance(message, wire.Proof):
            continue  # that is what comes next
        await Stranger(start + wire.to_frame(message)).visit(house.address)
    assert (house.source.time(), house.source.queue_tick) == before
    assert house.handlers.seen == [] and house.connected == [] and not mux.servers


async def test_2_a_handshake_that_is_cut_anywhere_ends_within_its_deadline(
    house: House,
) -> None:
    mux = await house.mux(options=RpcOptions(handshake_timeout=0.05))
    strangers = [Stranger(HELLO[:cut]) for cut in range(0, len(HELLO) + 1, 3)]
    await asyncio.gather(*(stranger.visit(house.address) for stranger in strangers))
    assert house.connected == [] and not mux.servers


async def test_2_not_more_than_a_small_frame_is_taken_from_a_stranger(house: House) -> None:
    await house.mux()
    told = await Stranger((4097).to_bytes(4, "little") + b"x" * 4097).visit(house.address)
    assert isinstance(told[0], wire.Failure) and "4096" in told[0].error.message
    garbage = await Stranger(b"GET / HTTP/1.1\r\n\r\n").visit(house.address)
    assert isinstance(garbage[0], wire.Failure)


# -- 3: replay, over a real connection ---------------------------------------------------


async def test_3_a_recorded_session_that_is_replayed_does_not_pass(house: House) -> None:
    mux = await house.mux()
    recorded = Pair().opened()  # the right secret, id and role, but another server's nonce
    told = await Stranger(bytes(recorded.to_server)).visit(house.address)
    assert isinstance(told[0], wire.Challenge) and isinstance(told[1], wire.Failure)
    assert told[1].error.name == AuthError.__name__
    assert not mux.servers and house.connected == []


# -- 4: constant time --------------------------------------------------------------------


def test_4_secrets_are_compared_in_one_place_and_never_by_equality() -> None:
    root = Path(next(iter(amnode.rpc.__path__)))
    words = ("secret", "proof", "digest", "token", "expected")
    found: list[str] = []
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and any(
                isinstance(op, ast.Eq | ast.NotEq | ast.In) for op in node.ops
            ):
                text = ast.unparse(node)
                found += [f"{path.name}: {text}" for word in words if word in text.lower()]
    assert found == []


async def test_4_an_unknown_id_and_a_wrong_secret_end_with_the_same_bytes(
    house: House,
) -> None:
    await house.mux()
    told: list[list[wire.AnyMessage]] = []
    for client_id in ("rc-me", "rc-nobody"):
        hello = wire.Hello(wire.VERSION, client_id, Role.CONTROLLER, b"n" * 32, b"", 0)
        frames = wire.to_frame(hello) + wire.to_frame(wire.Proof(b"p" * 32))
        told.append((await Stranger(frames).visit(house.address))[1:])
    assert told[0] == told[1] != []


# -- 5: no dangerous decoding ------------------------------------------------------------


def test_5_class_paths_in_every_text_field_import_nothing() -> None:
    name = "xml.dom.pulldom"  # a module that nothing here imports
    assert name not in sys.modules
    for text in (name, f"{name}:parse", f"{name}.parse", "os.system"):
        hello = wire.Hello(wire.VERSION, text, Role.CONTROLLER, b"n" * 32, b"", 0)
        deliver(Pair(known={}).server, wire.to_frame(hello))
        pair = Pair().opened()
        for to_server in (
            wire.Failure(wire.WireError(text, text, {text: text})),
            wire.Goodbye(text),
            wire.Mutate(1, 0, [0], wire.to_raw({text: [text]})),
        ):
            deliver(pair.server, wire.to_frame(to_server))
        for to_client in (wire.Payload(1, text, wire.to_raw({text: text})),):
            deliver(pair.client, wire.to_frame(to_client))
        fresh = Pair()
        fresh.client.to_send()
        deliver(
            fresh.client, wire.to_frame(wire.Challenge(wire.VERSION, text, b"n" * 32, False, 0))
        )
    assert name not in sys.modules


# -- 6: length first ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 4097, 2**31, 2**32 - 1])
def test_6_ten_thousand_lengths_that_lie_cost_no_memory(size: int) -> None:
    header = size.to_bytes(4, "little")
    (closed,) = deliver(Pair().server, header)
    assert isinstance(closed, Closed) and isinstance(closed.error, ProtocolError)
    tracemalloc.start()
    try:
        base, _ = tracemalloc.get_traced_memory()
        framers = [wire.Framer(4096) for _ in range(10_000)]
        made, _ = tracemalloc.get_traced_memory()
        for framer in framers:
            framer.feed(header)
            with pytest.raises(ProtocolError):
                framer.next()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made - base < 16 << 20 and peak - made < 2 << 20


# -- 7: depth, width, numbers ------------------------------------------------------------

START = b"\x95\x10\x01\x00"  # Mutate 1, add, then states and arguments
ODD: dict[str, bytes] = {
    "a million deep": START + b"\x91\x00" + b"\x91" * 10**6 + b"\xc0",
    "a million deep maps": START + b"\x91\x00" + b"\x81\xc0" * 10**6 + b"\xc0",
    "a million wide": START + b"\xdd\x00\x0f\x42\x40" + b"\x00" * 10**6 + b"\xc0",
    "a million announced": START + b"\xdd\x00\x0f\x42\x40\x00\xc0",
    "four billion announced": START + b"\x91\x00\xdd\xff\xff\xff\xff",
    "beyond 64 bits": b"\x92\x12" + b"\xcf" + b"\xff" * 8,
    "negative": b"\x92\x12\xff",
    "NaN": b"\x92\x12\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    "bad UTF-8": b"\x92\x08\xa2\xff\xfe",
    "an unknown tag": b"\x92\x7f\x01",
    "a map": b"\x82\x10\x01\x10\x01",
    "an extension": b"\xc7\x04\x01abcd",
    "nothing": b"\xc0",
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD.keys())
async def test_7_odd_values_end_in_an_error_frame_and_leave_the_source_alone(
    house: House, body: bytes
) -> None:
    await house.mux()
    client = await house.connect()
    before = house.source.time(), house.source.queue_tick
    link = client._link
    assert link is not None
    wait = client.source.when1("Hidden")
    link.session._outbox.put(len(body).to_bytes(4, "little") + body)
    assert link.connection is not None
    link.connection.wake()
    with pytest.raises(ConnectionLost, match="Not a message"):
        await wait
    assert (house.source.time(), house.source.queue_tick) == before
    assert isinstance(client.machine.err, ProtocolError)


def test_7_duplicate_keys_are_one_key_and_do_no_harm() -> None:
    pair = Pair().opened()
    body = b"\x92\x07\x93\xa8RpcError\xa1x\x82\xa1a\xa1b\xa1a\xa1c"
    (closed,) = deliver(pair.server, len(body).to_bytes(4, "little") + body)
    assert isinstance(closed, Closed) and closed.by_peer
    assert pair.server.phase is Phase.CLOSED


def test_7_arguments_that_are_odd_reach_nobody_undecoded() -> None:
    pair = Pair().opened()
    deep = msgspec.Raw(b"\x91" * 500 + b"\xc0")  # allowed on the wire
    (called,) = deliver(pair.server, wire.to_frame(wire.Mutate(1, 0, [0], deep)))
    assert isinstance(called, Called) and isinstance(called.args, msgspec.Raw)
