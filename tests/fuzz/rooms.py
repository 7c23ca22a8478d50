"""What is fuzzed: one side of a connection in a chosen phase, and what must hold there.

Each room has a side of a connection in it, without I/O:

- *server*: a `ServerSession` and the `Gate`, over a source that the room moves.
- *client*: a `ClientSession` with calls and streams under way.
- *actor*: a whole `RpcServer` of a real `Mux` and machine, over a connection that is a list.

Rules, checked after every piece that arrives:

1. Nothing is raised. What the peer did wrong is told as `Closed`, with a `ProtocolError`,
   `AuthError` or `RefusedError` (`FAULTS`), and as a last frame that is a `Failure`.
2. After `Closed` there is nothing.
3. A peer that does not know the secret gets no further than the handshake.
4. The source moves by mutations only that a controller may make; closed states never move.
5. What is kept for a peer is within its bound, and what is to be sent is sent in bounded steps.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from itertools import count
from time import thread_time_ns
from typing import Any, Final

import msgspec

from amnode.errors import (
    AmnodeError,
    AuthError,
    ProtocolError,
    RefusedError,
    SchemaError,
    StateUnknownError,
)
from amnode.machine.machine import Machine
from amnode.machine.schema import State, States
from amnode.rpc.exposure import Exposure, Gate
from amnode.rpc.mux import Mux
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.client_session import ClientSession
from amnode.rpc.protocol.handshake import ClientHandshake, ServerHandshake
from amnode.rpc.protocol.memory import ClientMemory
from amnode.rpc.protocol.server_session import ServerSession
from amnode.rpc.protocol.session import (
    Admitted,
    Called,
    Cancelled,
    Closed,
    Event,
    Opened,
    Session,
    Streamed,
)
from amnode.rpc.protocol.subscription import Subscription
from amnode.rpc.protocol.sync import mixes
from amnode.rpc.protocol.wire import Outcome, Role
from amnode.rpc.transport.port import Accept, Buffer, Connection, Handler, Listener

SECRET: Final = b"a secret that both sides know"
DECOY: Final = b"d" * 32
NONCE: Final = b"n" * 32
#: Phases in which the peer is trusted begin here, and a session is open.
TRUSTED, OPEN = 2, 3
OPTIONS: Final = RpcOptions()
#: What a peer may be told that it did wrong; the last two are of what a subscription names, and
#: of a schema that is not the one that the client needs.
FAULTS: Final = (ProtocolError, AuthError, RefusedError, StateUnknownError, SchemaError)
#: Times that a side may have something more to say, with nobody answering.
_STEPS: Final = 64


class Fields(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of an open state."""

    n: int
    text: str = ""


class Hall(States):
    """What is followed; half of it is closed."""

    Lit = State()
    "Open both ways, without arguments."
    Named = State(multi=True)
    "Open to add, with arguments."
    Deferred = State(multi=True)
    "Open to add; the answer comes later, and it reads a stream."
    Closed = State()
    "Closed."
    Locked = State(multi=True, require=("Closed",))
    "Closed."


LIT, NAMED, DEFERRED, CLOSED = range(4)
SCHEMA: Final = Hall.schema()
FACTORS: Final = mixes(len(SCHEMA))
EXPOSURE: Final = Exposure(
    mutable={"Lit": None, "Named": Fields, "Deferred": None}, removable={"Lit": None}
)
GATE: Final = Gate(SCHEMA, EXPOSURE)
#: What a controller may do, written out once more.
ALLOWED: Final = {0: {LIT, NAMED, DEFERRED}, 1: {LIT}, 2: set[int](), 3: {LIT}}

_fresh = count(1)
#: What differs between two errors of one kind: numbers, and where msgspec found what.
_PARTICULAR: Final = re.compile(r"-?\d[\d.e, ]*| - at .*|'.*|got .*|\[.*\]")


class Case(msgspec.Struct, frozen=True):
    """One peer: what it sends, piece by piece, to which side in which phase.

    Attributes:
        room: a key of `ROOMS`.
        depth: messages of the handshake that went before; from `TRUSTED` on they were right.
        role: of the client.
        pieces: the bytes as they arrive.
    """

    room: str
    depth: int
    role: Role
    pieces: list[bytes]


class Broken(Exception):
    """A rule was broken."""


def hold(rule: int, truth: object, what: str) -> None:
    """Raises `Broken` if a rule does not hold."""
    if not truth:
        raise Broken(f"rule {rule}: {what}")


class Timer:
    """The longest that one piece took, in nanoseconds of this thread, and in which case."""

    def __init__(self) -> None:
        self.worst = 0
        self.case: Case | None = None

    def note(self, nanoseconds: int, case: Case) -> None:
        """One piece took so long."""
        if nanoseconds > self.worst:
            self.worst, self.case = nanoseconds, case


def sent_by(session: Session) -> bytes:
    """What a session has to say, in one piece."""
    data = session.to_send()
    return data if isinstance(data, bytes) else b"".join(data)


def feed(session: Session, data: bytes) -> Iterator[Event | Called]:
    """Gives bytes to a session as a connection does: into its sink, where it has one."""
    while (view := session.sink()) is not None and data:
        size = min(len(view), len(data))
        view[:size] = data[:size]
        session.sunk(size)
        data = data[size:]
    yield from session.receive(data)


class Source:
    """A source whose ticks the room moves."""

    def __init__(self) -> None:
        self.root_id = "hall"
        self.incarnation = b"i" * 16
        self.schema = SCHEMA
        self.now = [0] * len(SCHEMA)
        self.queue_tick = 1
        self.machine_tick = 0

    @property
    def followed_states(self) -> Sequence[int]:
        """See `Source`."""
        return range(len(self.now))

    def ticks(self) -> Sequence[int]:
        """See `Source`."""
        return self.now


class Room:
    """What both sides have: what was told, and the rules that do not depend on the side.

    Args:
        session: the side.
        trusted: whether the peer has proved itself.
    """

    def __init__(self, session: Session, *, trusted: bool) -> None:
        self.session = session
        self.trusted = trusted
        self.told: list[str] = []
        self.closed: Closed | None = None

    def take(self, piece: bytes) -> None:
        """One piece arrives."""
        for event in feed(self.session, piece):
            hold(2, self.closed is None, "something came after Closed")
            if isinstance(event, Closed):
                self.closed = event
            else:
                self.told.append(type(event).__name__)
                self.happened(event)

    def happened(self, event: Event | Called) -> None:
        """An event came; does what a driver would."""
        raise NotImplementedError

    def check(self) -> None:
        """The rules, after a piece."""
        session = self.session
        last = b""
        for _ in range(_STEPS):
            data = sent_by(session)
            if not data:
                break
            last = data
        hold(5, not session.ready, "it does not end to have something to say")
        limit = OPTIONS.frame_limit + OPTIONS.body_limit if self.trusted else 4096
        kept = session.received_bytes_kept
        hold(
            5, self.closed is not None or kept <= limit + wire.HEADER, f"{kept} bytes are kept"
        )
        if self.closed is not None and not self.closed.by_peer:
            hold(1, isinstance(self.closed.error, FAULTS), repr(self.closed.error))
            hold(1, _ends_with_failure(last), "the last frame is no Failure")

    def signature(self) -> str:
        """What happened, without the numbers."""
        end = "-"
        if self.closed is not None:
            error = self.closed.error
            text = "" if self.closed.by_peer else _PARTICULAR.sub("", str(error))
            end = f"{type(error).__name__}{text}"
        return f"{type(self).__name__}|{''.join(self.told[:1])}|{end}"


def _ends_with_failure(data: bytes) -> bool:
    framer, last = wire.Framer(1 << 31), b""
    framer.feed(data)
    while (body := framer.next()) is not None:
        last = body
    return bool(last) and isinstance(wire.from_frame(last), wire.Failure)


# -- a server ------------------------------------------------------------------------------


def _server(nonce: bytes, source: Source) -> ServerSession:
    handshake = ServerHandshake(
        "rs-hall",
        nonce,
        DECOY,
        lambda client_id, _role: SECRET if client_id == "rc-me" else None,
        lambda _client_id, _role: None,
    )
    return ServerSession(source, FACTORS, handshake, OPTIONS)


def _client(nonce: bytes, role: Role) -> ClientSession:
    return ClientSession(
        ClientHandshake("rc-me", role, SECRET, nonce),
        ClientMemory(OPTIONS),
        SCHEMA,
        Subscription(),
        OPTIONS,
    )


class Handshake(msgspec.Struct, frozen=True):
    """What crosses before a session is open, where both nonces are `NONCE`."""

    up: list[bytes]
    down: list[bytes]


def _handshake(role: Role) -> Handshake:
    client, server = _client(NONCE, role), _server(NONCE, Source())
    made = Handshake([], [])
    while len(made.up) < OPEN or len(made.down) < OPEN:
        sent = sent_by(client)
        made.up.extend(frames(sent))
        list(server.receive(sent))
        sent = sent_by(server)
        made.down.extend(frames(sent))
        list(client.receive(sent))
    return made


def frames(data: bytes) -> Iterator[bytes]:
    """Each by itself: a client subscribes in the same write in which it proves itself."""
    while data:
        end = wire.HEADER + int.from_bytes(data[: wire.HEADER], "little")
        yield data[:end]
        data = data[end:]


HANDSHAKES: Final = {role: _handshake(role) for role in Role}


class ServerRoom(Room):
    """A server session, its gate, and a source."""

    def __init__(self, depth: int, role: Role) -> None:
        self.source = Source()
        trusted = depth >= TRUSTED
        nonce = NONCE if trusted else next(_fresh).to_bytes(32, "little")
        self.server = _server(nonce, self.source)
        super().__init__(self.server, trusted=trusted)
        self.role = role
        self.moves = [0] * len(SCHEMA)
        for message in HANDSHAKES[role].up[:depth]:
            list(self.server.receive(message))
        if depth == OPEN:
            self.server.send_payload("hello", wire.to_raw([1]))
        sent_by(self.server)

    def happened(self, event: Event | Called) -> None:
        """Does what `RpcServer` does."""
        server = self.server
        if isinstance(event, Called):
            hold(3, self.trusted, "a stranger called")
            self._called(event)
        elif isinstance(event, Cancelled):
            server.answer(event.seq, Outcome.CANCELED)
        elif isinstance(event, Streamed):
            server.consumed(event.seq, len(event.data))
        elif isinstance(event, Admitted | Opened):
            hold(3, self.trusted, "a stranger was admitted")

    def _called(self, event: Called) -> None:
        try:
            if event.type == wire.Request.WHEN_ARGS:
                GATE.check_match(self.role, event.states, event.args)
            else:
                type_ = event.type if event.type < wire.Request.CAN_ADD else event.type - 4
                GATE.check(self.role, type_, event.states, event.args)
        except (RefusedError, ProtocolError) as error:
            self.server.answer(event.seq, Outcome.ERROR, wire.error_to_raw(error))
            return
        if event.type < wire.Request.CAN_ADD:
            self._move(event)
        if DEFERRED in event.states:
            self.server.open_upload(event.seq)
            return
        if self.server.wants_stream(event.seq):
            while self.server.has_room(event.seq) and len(self.told) < _STEPS:
                self.server.send_item(event.seq, wire.to_raw("an item"))
                self.told.append("item")
        self.server.answer(event.seq, Outcome.EXECUTED, wire.to_raw("done"))

    def _move(self, event: Called) -> None:
        for state in event.states:
            may = self.role is Role.CONTROLLER and state in ALLOWED[event.type]
            self.moves[state] += may
            self.source.now[state] += 1
        self.source.queue_tick += 1
        self.server.mark(event.states, self.source.now)

    def check(self) -> None:
        """See `Room`; rules 4 and 5."""
        super().check()
        hold(4, self.source.now == self.moves, f"{self.source.now} is not {self.moves}")
        hold(4, not any(self.moves[CLOSED:]), "a closed state moved")
        memory = self.server.memory
        hold(5, len(memory.answering) <= OPTIONS.call_limit, "too many calls")
        hold(5, len(memory.downloads) <= OPTIONS.call_limit, "too many streams")


# -- a client ------------------------------------------------------------------------------


class ClientRoom(Room):
    """A client session, with calls and streams under way."""

    def __init__(self, depth: int, role: Role) -> None:
        trusted = depth >= TRUSTED
        nonce = NONCE if trusted else next(_fresh).to_bytes(32, "little")
        self.client = client = _client(nonce, role)
        super().__init__(client, trusted=trusted)
        for message in HANDSHAKES[role].down[:depth]:
            list(client.receive(message))
        if depth == OPEN:
            client.ask(0, [LIT])
            client.ask(0, [NAMED], wire.to_raw({"n": 1}), download=True)
            client.ask(0, [DEFERRED], upload=True)
            client.ask(wire.Request.CAN_ADD, [LIT])
        sent_by(client)

    def happened(self, event: Event | Called) -> None:
        """Does what `Conversation` does."""
        client = self.client
        if isinstance(event, Opened):
            hold(3, self.trusted, "a stranger opened a session")
        elif isinstance(event, Streamed):
            client.consumed(event.seq, len(event.data))
        while client.has_room(3) and len(self.told) < _STEPS:
            client.send_item(3, wire.to_raw("an item"))
            self.told.append("item")

    def check(self) -> None:
        """See `Room`; the replica has a time that a source can have."""
        super().check()
        hold(4, min(self.client.follower.ticks, default=0) >= 0, "a tick below 0")


# -- a whole server ------------------------------------------------------------------------


class Wire(Connection):
    """A connection whose other end is a list."""

    def __init__(self) -> None:
        super().__init__("memory", "a fuzzer", 1.0)
        self.written: list[bytes] = []
        self.bytes = 0

    def begin(self, handler: Handler) -> None:
        """Gives it its handler."""
        self._begin(handler)

    def arrive(self, data: bytes) -> None:
        """The peer sent something; it goes into the view, where there is one."""
        while data and self._view is not None and not self.closing:
            view = self._view
            size = min(len(view), len(data))
            view[:size] = data[:size]
            self._filled(size)
            data = data[size:]
        if data:
            self._take(data)

    def _write(self, data: bytes | Sequence[Buffer]) -> None:
        self.written = [data if isinstance(data, bytes) else b"".join(data)]
        self.bytes += len(self.written[0])

    def _close(self) -> None:
        self._end(None)

    def _abort(self) -> None:
        self._end(None)

    def pause_reading(self) -> None:
        """See `Connection`."""

    def resume_reading(self) -> None:
        """See `Connection`."""


class _Ear(Listener):
    address = "memory:hall"

    def close(self) -> None:
        """See `Listener`."""


class Wires:
    """A transport that keeps what makes a connection's handler."""

    accept: Accept

    async def listen(self, address: str, accept: Accept, *, close_timeout: float) -> Listener:
        """See `Transport`."""
        self.accept = accept
        return _Ear()

    async def connect(
        self, address: str, handler: Handler, *, close_timeout: float
    ) -> Connection:
        """See `Transport`; nobody does."""
        raise NotImplementedError


class Actor:
    """A mux on a real machine, for a whole run."""

    def __init__(self) -> None:
        self.machine = Machine(Hall, id="hall")
        self.fresh = NONCE
        self.known = False
        self.connected = 0
        self.wires = Wires()
        self.mux = Mux(
            self.machine,
            "memory:hall",
            name="hall",
            secret_of=lambda client_id, _role: SECRET if client_id == "rc-me" else None,
            exposure=EXPOSURE,
            on_connected=self._came,
            options=RpcOptions(keepalive=0),
            replace=True,
            transport=self.wires,
            entropy=lambda size: self.fresh[:size],
        )

    def _came(self, _server: object) -> None:
        self.connected += 1

    async def start(self) -> None:
        """Starts to listen."""
        await self.mux.start()

    async def stop(self) -> None:
        """Ends it all."""
        await self.mux.stop()
        await self.mux.machine.dispose()
        await self.machine.dispose()

    async def visit(self, case: Case, timer: Timer) -> str:
        """One peer comes, and goes; returns what happened."""
        trusted = case.depth >= TRUSTED
        self.fresh = NONCE if trusted else next(_fresh).to_bytes(32, "little")
        connection, came = Wire(), self.connected
        connection.begin(self.wires.accept())
        for message in HANDSHAKES[case.role].up[: case.depth]:
            connection.arrive(message)
        hold(3, self.connected - came == (case.depth == OPEN), "an honest client is not served")
        opened, before = self.connected, [*self.machine.ticks()]
        for piece in case.pieces:
            started = thread_time_ns()
            connection.arrive(piece)
            timer.note(thread_time_ns() - started, case)
            if connection.closing:
                break
        ended = connection.closing
        said = connection.written[-1] if connection.written else b""
        connection.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        now = [*self.machine.ticks()]
        if not trusted or case.role is Role.OBSERVER:
            hold(4, now == before, f"{before} became {now}")
        hold(3, trusted or self.connected == opened, "a stranger was connected")
        hold(4, not any(now[CLOSED:]), f"a closed state moved: {now}")
        hold(1, b"its own log says why" not in said, "a fault of the server")
        return f"Actor|{case.depth}|{'closed' if ended else 'open'}"


ROOMS: Final[dict[str, Any]] = {"server": ServerRoom, "client": ClientRoom}


def visit(case: Case, timer: Timer) -> str:
    """Runs a case in a room of a session; returns what happened.

    Raises:
        Broken: a rule was, this way.
    """
    room: Room = ROOMS[case.room](case.depth, case.role)
    for piece in case.pieces:
        started = thread_time_ns()
        try:
            room.take(piece)
        except AmnodeError as error:
            raise Broken(f"rule 1: {error!r} was raised") from error
        timer.note(thread_time_ns() - started, case)
        room.check()
        if room.closed is not None:
            break
    return room.signature()
