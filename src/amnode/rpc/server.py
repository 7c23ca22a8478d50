"""RpcServer: one source and one client, for one session.

It takes what the client asks for, lets `Gate` decide whether it may, has the source run it, and
answers with the difference. What its machine says (`ServerStates`) follows what it does; the
machine has no part in a call.

Rules:

1. Mutations run in the order sent, each before the next is read.
2. Each is answered once: when it ran, or, if a handler deferred it, when the handler says so.
3. Nothing reaches the source before the handshake is done.
4. A connection that is cut is not the end: for `session_ttl` the client may come back. What is
   deferred goes on, and what is to be said is kept. The connection with which it comes back
   first has a server of its own, which gives it over to this one; the old one is closed first.
5. The end comes once: deferred answers are cancelled, the host is told, the machine ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Protocol, TypeVar

from amnode.errors import (
    AmnodeError,
    ConnectionLost,
    DeliveryError,
    RefusedError,
    RpcError,
    RpcTimeoutError,
)
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED, MutationType, Result
from amnode.rpc.exposure import Gate
from amnode.rpc.network_machine import NetworkMachine, RemoteResult
from amnode.rpc.options import RpcOptions
from amnode.rpc.origin import Deferred, Origin
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.flow import Outgoing
from amnode.rpc.protocol.handshake import KeyOf, SecretOf, ServerHandshake
from amnode.rpc.protocol.server_session import ServerSession
from amnode.rpc.protocol.session import (
    Admitted,
    Allowed,
    Called,
    Cancelled,
    Closed,
    Event,
    Greeted,
    Opened,
    Resynced,
    Streamed,
    StreamEnded,
    Taken,
)
from amnode.rpc.protocol.wire import NIL, Outcome, Request, Role, Value
from amnode.rpc.pulse import Pulse
from amnode.rpc.states import ServerStates
from amnode.rpc.streams import Incoming, Pump
from amnode.rpc.transport import NETWORK, Connection

T = TypeVar("T")

_EXECUTED = Outcome.EXECUTED
_ADD = int(MutationType.ADD)
#: The types of which there is a quick form for one state.
_SINGLE = (_ADD, int(MutationType.REMOVE))
_FIRST_REQUEST = int(Request.CAN_ADD)


class Host(Protocol):
    """Who made a server, and is told of its life."""

    def admit(self, server: RpcServer) -> str | None:
        """The client has proved itself; a text is why it is not admitted."""
        ...

    def heir(self, session: bytes) -> RpcServer | None:
        """The server whose session a new connection resumes."""
        ...

    def opened(self, server: RpcServer) -> None:
        """The handshake is done, for the first time."""
        ...

    def resumed(self, server: RpcServer) -> None:
        """The client of a server is back."""
        ...

    def cut(self, server: RpcServer, reason: str) -> None:
        """The connection of a server is no more; its client may come back."""
        ...

    def ended(self, server: RpcServer, reason: str) -> None:
        """The server serves no more."""
        ...

    def disconnected(self, server: RpcServer) -> None:
        """The server has ended, and has no connection."""
        ...


class RpcServer:
    """One source, one client; made by a `Mux`. The handler of one connection at a time.

    Args:
        source: the machine that the client follows; it may be a replica itself.
        id: of the server's own machine.
        server_id: what the client is told in the handshake.
        gate: what the client may do.
        factors: of the source's states, from `sync.mixes`.
        host: who made it.
        secret_of: the secrets of clients.
        key_of: the keys of sessions.
        nonce: 32 fresh bytes.
        decoy: 32 bytes that nobody knows.
        options: the limits.

    Attributes:
        source: the machine that the client follows.
        machine: what the server says of itself (`ServerStates`).
        client_id: the id in the client's hello; proved from the moment it is admitted.
        role: what the client is there for.
    """

    def __init__(
        self,
        source: Machine | NetworkMachine,
        *,
        id: str,
        server_id: str,
        gate: Gate,
        factors: Sequence[int],
        host: Host,
        secret_of: SecretOf,
        key_of: KeyOf,
        nonce: bytes,
        decoy: bytes,
        options: RpcOptions,
    ) -> None:
        self.source = source
        self.machine = Machine(ServerStates, id=id)
        self.client_id = ""
        self.role = Role.OBSERVER
        self._gate = gate
        self._host = host
        self._options = options
        handshake = ServerHandshake(
            server_id,
            nonce,
            decoy,
            secret_of,
            self._admit,
            key_of=key_of,
            keepalive=round(options.keepalive * 1000),
        )
        self._session = ServerSession(source, factors, handshake, options)
        self._connection: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._push_timer: asyncio.TimerHandle | None = None
        self._pulse: Pulse | None = None
        self._deferred: dict[int, Deferred] = {}
        self._pumps: dict[int, Pump] = {}
        self._uploads: dict[int, Incoming[Any]] = {}
        self._queued: dict[asyncio.Task[None], None] = {}
        self._awaited: dict[int, asyncio.Task[None]] = {}
        self._takers: list[asyncio.Future[None]] = []
        self._reading_stopped = False
        self._shook_hands = False
        self._ended = False

    def __repr__(self) -> str:
        return f"<RpcServer {self.machine.id} client={self.client_id!r}>"

    @property
    def is_open(self) -> bool:
        """Whether the handshake was done and the session has not ended."""
        return self._shook_hands and not self._ended

    @property
    def is_connected(self) -> bool:
        """Whether the client is there right now."""
        return self.is_open and self._connection is not None

    @property
    def resumes(self) -> bool:
        """Whether its connection is one that resumes the session of another server."""
        return self._session.resumes

    @property
    def session(self) -> bytes:
        """The id of the session; empty before the client was admitted."""
        ticket = self._session.memory.ticket
        return b"" if ticket is None else ticket.session

    @property
    def session_key(self) -> bytes | None:
        """The key that resumes the session, while it can be; a secret."""
        ticket = self._session.memory.ticket
        return ticket.key if ticket is not None and self.is_open else None

    def send_payload(self, name: str, data: object = None) -> None:
        """Sends named data to the client, after all states that the source has had so far.

        While the client is cut off, it is kept. Bytes (and other buffers) of any size are sent
        without a copy, so they must not change before the client has them; see `deliver`.

        Args:
            name: what it is; the client's `ServerPayload` carries it.
            data: anything that msgspec encodes, or a `msgspec.Raw` that is sent as it is.

        Raises:
            DeliveryError: it cannot be encoded, or more than `payload_limit` waits.
            ConnectionLost: there is no client any more.
        """
        self._send_payload(name, self._payload(name, data))

    async def deliver(self, name: str, data: object = None) -> None:
        """Sends named data, and waits until the client has it; see `send_payload`.

        While more waits for the client than `payload_limit`, it waits with sending, so that a
        slow reader slows its writer.

        Raises:
            DeliveryError: it cannot be encoded, or is larger than `body_limit`.
            ConnectionLost: there is no client any more.
        """
        value = self._payload(name, data)
        memory = self._session.memory
        while not memory.has_room(value):
            await self._taken()
        number = self._send_payload(name, value)
        while memory.arrived < number:
            await self._taken()

    def close(self, reason: str) -> None:
        """Ends the session in good order; the client is told why, and cannot resume it."""
        self._session.goodbye(reason)
        self._finish(reason)

    def abort(self) -> None:
        """Cuts the connection; what was not written is dropped, and the session ends."""
        connection = self._connection
        self._finish("the connection was cut here")
        if connection is not None:
            connection.abort()

    def refuse(self, error: AmnodeError) -> None:
        """Ends the session with an error, which the client is told."""
        self._session.fail(error)
        self._finish(str(error))

    # -- the connection's handler ----------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """See `Handler`."""
        self._connection = connection
        connection.stall_timeout = self._options.stall_timeout
        self._await_handshake()
        for state in ("Start", "RpcAccepting", "RpcReady", "ClientConnected"):
            self.machine.add1(state)

    def received(self, data: bytes) -> None:
        """See `Handler`."""
        server = self  # the one that goes on, once a session is resumed
        if self._pulse is not None:
            self._pulse.heard()
        try:
            for event in self._session.receive(data):
                if type(event) is Called:
                    server._called(event)
                elif type(event) is Admitted:
                    server = server._admitted(event)
                else:
                    server._other(event)
            if self._session.choked:
                server._read_no_more()
        except Exception as error:  # a callback of the program, or a fault here
            server._broke(error)

    def outgoing(self) -> Outgoing:
        """See `Handler`."""
        session = self._session
        data = session.to_send()
        if data and self._pulse is not None:
            self._pulse.said()
        if session.held and self._push_timer is None:
            loop = asyncio.get_running_loop()
            self._push_timer = loop.call_later(
                session.push_interval, self._push_now, context=Context()
            )
        if session.ready:
            self._wake()
        if self._reading_stopped and not session.choked:
            self._read_again()
        return data

    def sink(self) -> memoryview | None:
        """See `Handler`."""
        return self._session.sink()

    def sunk(self, count: int) -> None:
        """See `Handler`."""
        if self._pulse is not None:
            self._pulse.heard()
        self._session.sunk(count)

    def lost(self, error: Exception | None) -> None:
        """See `Handler` (rule 4)."""
        self._connection = None
        if not self._ended:
            lost = ConnectionLost(f"Client {self.client_id!r} is gone{_because(error)}.")
            self._cut(lost)
        if self._ended:
            self._host.disconnected(self)

    # -- for the host and for origins ------------------------------------------------------

    def moved(self, states: Sequence[tuple[int, int]]) -> None:
        """The source moved: pairs of a state's index and its tick."""
        if self._session.mark(states) and self._connection is not None:
            self._connection.wake()

    @property
    def wants_steps(self) -> bool:
        """Whether the client wants to see each mutation on its own."""
        return self._session.every

    def stepped(
        self, states: Sequence[tuple[int, int]], type_: int, called: Sequence[int]
    ) -> None:
        """The source moved by one mutation."""
        self._session.step(states, type_, called)
        self._wake()

    def source_grew(self) -> None:
        """The source has more states, which this connection does not know."""
        self._session.source_grew()

    def adopt(self, session: ServerSession, connection: Connection) -> None:
        """The client is back, on this connection (rule 4)."""
        old = self._connection
        session.memory = self._session.memory
        self._stop_timers()
        self._session, self._connection = session, connection
        self._reading_stopped = False
        if old is not None:
            old.hand_over(_Left())
            old.abort()
        connection.hand_over(self)
        self._await_handshake()
        self.machine.remove(("ErrNetwork", "ErrNetworkTimeout", "Exception"))
        self.machine.add1("ClientConnected")
        self.machine.add1("Handshaking")

    def answer(self, seq: int, outcome: Outcome, value: Value) -> None:
        """Answers a mutation, with the difference up to now.

        Raises:
            DeliveryError: the value is too large; the client is told so.
        """
        self._forget(seq)
        try:
            self._session.answer(seq, outcome, value)
        except DeliveryError as error:
            self.machine.add_err_state("ErrSendPayload", error)
            raise
        finally:
            self._wake()

    def answer_plainly(self, seq: int) -> None:
        """Answers a mutation that was executed, has no value, and was not deferred."""
        self._session.answer(seq, _EXECUTED)
        if self._connection is not None:
            self._connection.wake()

    def keep(self, seq: int, deferred: Deferred) -> None:
        """Remembers an answer that is to come, to be told if nobody waits for it any more."""
        self._deferred[seq] = deferred

    def guard(self, callback: Callable[[], object]) -> None:
        """Calls back into the program; what it raises is recorded, and stops nothing."""
        try:
            callback()
        except Exception as error:
            self.machine.add_err(error)

    def start_download(
        self,
        seq: int,
        items: AsyncIterator[Any],
        done: Callable[[AmnodeError | None], object],
    ) -> Pump:
        """Sends items to the client, before the answer to a mutation.

        Raises:
            RpcError: the client asked for one answer, not for a stream.
        """
        if not self._session.wants_stream(seq):
            raise RpcError("The client asked for one answer; it reads a stream with `stream`.")
        pump = self._pumps[seq] = Pump(self, seq, items, done)
        return pump

    def start_upload(self, seq: int, item_type: type[T]) -> Incoming[T]:
        """Reads the items that come with a mutation."""
        if seq in self._uploads:
            raise RpcError("The stream of this mutation is being read already.")
        incoming = self._uploads[seq] = Incoming(
            self, seq, item_type, lambda: self._close_upload(seq)
        )
        self._session.open_upload(seq)
        self._wake()
        return incoming

    # -- the port of streams ---------------------------------------------------------------

    def has_room(self, seq: int) -> bool:
        """See `Port`."""
        return self._session.has_room(seq)

    def send_item(self, seq: int, value: Value) -> None:
        """See `Port`."""
        self._session.send_item(seq, value)
        self._wake()

    def consumed(self, seq: int, size: int) -> None:
        """See `Port`."""
        self._session.consumed(seq, size)
        self._wake()

    # -- inside: mutations -----------------------------------------------------------------

    def _called(self, event: Called) -> None:
        if event.type >= _FIRST_REQUEST:
            self._requested(event)
            return
        origin = Origin(self, event.seq)
        try:
            args = self._gate.check(self.role, event.type, event.states, event.args)
            result = self._mutate(event.type, event.states, args, origin)
        except AmnodeError as error:  # refused before anything was changed
            self._session.answer(event.seq, Outcome.ERROR, wire.error_to_raw(error))
            return
        if isinstance(result, Result) and (result is EXECUTED or result is CANCELED):
            origin.ran(result)
        elif isinstance(result, RemoteResult):
            self._await(event.seq, result)
        else:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._ran_later(origin, result), context=Context())
            self._queued[task] = None
            task.add_done_callback(lambda done: self._queued.pop(done, None))

    def _mutate(
        self, type_: int, states: Sequence[int], args: object, origin: Origin
    ) -> Result | RemoteResult:
        names, source = self._gate.names, self.source
        if isinstance(source, NetworkMachine):
            return source.forward(MutationType(type_), states, args)
        if len(states) == 1 and type_ in _SINGLE:
            mutate1 = source.add1 if type_ == _ADD else source.remove1
            return mutate1(names[states[0]], args, origin=origin)
        mutate = (source.add, source.remove, source.set, source.toggle)[type_]
        return mutate([names[i] for i in states], args, origin=origin)

    async def _ran_later(self, origin: Origin, result: Result) -> None:
        origin.ran(await result)

    def _requested(self, event: Called) -> None:
        """What reads the source, and changes nothing."""
        try:
            answer = self._ask_source(event)
        except AmnodeError as error:
            self._session.answer(event.seq, Outcome.ERROR, wire.error_to_raw(error))
            return
        if isinstance(answer, bool):
            outcome = Outcome.EXECUTED if answer else Outcome.CANCELED
            self._session.answer(event.seq, outcome)
        else:
            self._await(event.seq, answer)

    def _ask_source(self, event: Called) -> bool | Awaitable[object]:
        gate, source = self._gate, self.source
        if event.type == Request.WHEN_ARGS:
            return source.when_args(*gate.check_match(self.role, event.states, event.args))
        adds = event.type == Request.CAN_ADD
        try:
            type_ = MutationType.ADD if adds else MutationType.REMOVE
            args = gate.check(self.role, type_, event.states, event.args)
        except RefusedError:
            return False
        names = [gate.names[i] for i in event.states]
        return source.can_add(names, args) if adds else source.can_remove(names, args)

    def _await(self, seq: int, result: Awaitable[object]) -> None:
        """Answers a mutation with what something else will say."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._answer_later(seq, result), context=Context())
        self._awaited[seq] = task
        task.add_done_callback(lambda _done: self._awaited.pop(seq, None))

    async def _answer_later(self, seq: int, result: Awaitable[object]) -> None:
        try:
            outcome = await result
        except AmnodeError as error:
            self.answer(seq, Outcome.ERROR, wire.error_to_raw(error))
            return
        said_no = outcome is CANCELED or outcome is False
        value = result.value if isinstance(result, RemoteResult) else NIL
        self.answer(seq, Outcome.CANCELED if said_no else _EXECUTED, value)

    def _cancelled(self, seq: int) -> None:
        """Nobody waits for an answer any more, which is still due."""
        deferred = self._deferred.get(seq)
        task = self._awaited.get(seq)
        if deferred is None and task is None:
            return  # it waits for its turn in the queue, and will run
        self._session.answer(seq, Outcome.CANCELED)
        self._forget(seq)
        if deferred is not None:
            deferred.cancel()
        if task is not None:
            task.cancel()

    def _forget(self, seq: int) -> None:
        """A mutation is answered: its streams are over."""
        self._deferred.pop(seq, None)
        self._pumps.pop(seq, None)
        incoming = self._uploads.pop(seq, None)
        if incoming is not None:
            incoming.end(RpcError("The mutation of this stream is answered."))

    def _close_upload(self, seq: int) -> None:
        self._session.close_upload(seq)
        self._wake()

    # -- inside: payloads ------------------------------------------------------------------

    def _payload(self, name: str, data: object) -> Value:
        try:
            return wire.encode(data, f"Payload {name!r}")
        except DeliveryError as error:
            self.machine.add_err_state("ErrSendPayload", error)
            raise

    def _send_payload(self, name: str, value: Value) -> int:
        if self._ended or not self._shook_hands:
            raise ConnectionLost(f"Payload {name!r} has no client to go to.")
        try:
            number = self._session.send_payload(name, value)
        except DeliveryError as error:
            self.machine.add_err_state("ErrSendPayload", error)
            raise
        self._wake()
        return number

    async def _taken(self) -> None:
        """Waits until the client has taken some payload."""
        if self._ended or not self._shook_hands:
            raise ConnectionLost(f"Client {self.client_id!r} is gone; it may have the payload.")
        taker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        try:
            await taker
        finally:
            if taker in self._takers:
                self._takers.remove(taker)

    def _tell_takers(self) -> None:
        takers, self._takers = self._takers, []
        for taker in takers:
            if not taker.done():
                taker.set_result(None)

    # -- inside: the session ---------------------------------------------------------------

    def _other(self, event: Event | Called) -> None:
        if isinstance(event, Cancelled):
            self._cancelled(event.seq)
        elif isinstance(event, (Allowed, Streamed, StreamEnded)):
            self._streamed(event)
        elif isinstance(event, Taken):
            self._tell_takers()
        elif isinstance(event, Greeted):
            self.client_id, self.role = event.client_id, event.role
            self.machine.add1("Handshaking")
        elif isinstance(event, Opened):
            self._opened(event)
        elif isinstance(event, Resynced):
            self.machine.add1("MetricSync")
        elif isinstance(event, Closed):
            self._closed(event)

    def _streamed(self, event: Allowed | Streamed | StreamEnded) -> None:
        if isinstance(event, Allowed):
            if (pump := self._pumps.get(event.seq)) is not None:
                pump.allowed()
        elif (incoming := self._uploads.get(event.seq)) is None:
            return
        elif isinstance(event, Streamed):
            incoming.put(event.data)
        else:
            incoming.end(event.error)

    def _admit(self, _client_id: str, _role: Role) -> str | None:
        return self._host.admit(self)

    def _admitted(self, event: Admitted) -> RpcServer:
        """Says who goes on with this connection (rule 4)."""
        if not event.resumed:
            return self
        heir = self._host.heir(event.session)
        connection, self._connection = self._connection, None
        if heir is None or connection is None:
            raise RpcError("A session was resumed that is gone.")
        heir.adopt(self._session, connection)
        self._finish("it went on with another server")
        self._host.disconnected(self)
        return heir

    def _opened(self, event: Opened) -> None:
        self._stop_timers()
        session, connection = self._session, self._connection
        if session.keepalive and connection is not None and connection.scheme in NETWORK:
            self._pulse = Pulse(session.keepalive, self._say_alive, self._dead)
        self.machine.add1("HandshakeDone")
        self.machine.remove1("Exception")
        if event.resumed:
            self._host.resumed(self)
        else:
            self._shook_hands = True
            self._host.opened(self)

    def _closed(self, event: Closed) -> None:
        orderly = event.by_peer and isinstance(event.error, ConnectionLost)
        if not orderly:
            self.machine.add_err_state("ErrRpc", event.error)
        self._finish(str(event.error))

    def _cut(self, lost: ConnectionLost) -> None:
        """The connection is gone, and the session may go on (rule 4)."""
        self._stop_timers()
        self.machine.add_err_state("ErrNetwork", lost)
        ttl = self._options.session_ttl
        if not self._shook_hands or ttl <= 0:
            self._finish(str(lost))
            return
        self._session.cut()
        self.machine.remove(("ClientConnected", "HandshakeDone"))
        self._timer = asyncio.get_running_loop().call_later(
            ttl,
            lambda: self._finish(f"{lost} It did not come back within {ttl} s."),
            context=Context(),
        )
        self._host.cut(self, str(lost))

    def _await_handshake(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            self._options.handshake_timeout, self._too_slow, context=Context()
        )

    def _too_slow(self) -> None:
        seconds = self._options.handshake_timeout
        error = RpcTimeoutError(f"The handshake was not done within {seconds} s.")
        self.machine.add_err_state("ErrNetworkTimeout", error)
        self.refuse(error)

    def _say_alive(self) -> None:
        self._session.say_alive()
        self._wake()

    def _dead(self) -> None:
        seconds = 2 * self._session.keepalive
        error = RpcTimeoutError(f"Nothing was heard of the client for {seconds} s.")
        self.machine.add_err_state("ErrNetworkTimeout", error)
        if self._connection is not None:
            self._connection.abort()

    def _push_now(self) -> None:
        self._push_timer = None
        if self._session.release():
            self._wake()

    def _wake(self) -> None:
        if self._connection is not None:
            self._connection.wake()

    def _read_no_more(self) -> None:
        """The client does not take what it asked for: it is not served until it does."""
        if self._connection is not None and not self._reading_stopped:
            self._reading_stopped = True
            self._connection.pause_reading()

    def _read_again(self) -> None:
        self._reading_stopped = False
        if self._connection is not None:
            self._connection.resume_reading()
            loop = asyncio.get_running_loop()
            loop.call_soon(self._go_on, context=Context())

    def _go_on(self) -> None:
        """Takes what had arrived when it was stopped."""
        self.received(b"")
        self._wake()

    def _broke(self, error: Exception) -> None:
        """A fault on this side: recorded here, hidden from the peer."""
        self.machine.add_err(error)
        self._session.fail(RpcError("The server failed; its own log says why."))
        self._finish(f"{type(error).__name__}: {error}")

    def _finish(self, reason: str) -> None:
        """The end (rule 5)."""
        if self._ended:
            return
        self._ended = True
        self._stop_timers()
        if self._connection is not None:
            self._connection.close()
        for task in (*self._queued, *self._awaited.values()):
            task.cancel()
        deferred, self._deferred = self._deferred, {}
        for left in deferred.values():
            left.cancel()
        uploads, self._uploads = self._uploads, {}
        for incoming in uploads.values():
            incoming.end(ConnectionLost(f"The stream was cut: {reason}"))
        self._tell_takers()
        self.machine.remove(("ClientConnected", "Start"))
        self._host.ended(self, reason)
        if self._connection is None:
            self._host.disconnected(self)

    def _stop_timers(self) -> None:
        for timer in (self._timer, self._push_timer, self._pulse):
            if timer is not None:
                timer.cancel()
        self._timer = self._push_timer = self._pulse = None


class _Left:
    """The handler of a connection that its server has left: nothing is wanted of it."""

    def connected(self, connection: Connection) -> None:
        """See `Handler`."""

    def received(self, data: bytes) -> None:
        """See `Handler`."""

    def outgoing(self) -> bytes:
        """See `Handler`."""
        return b""

    def sink(self) -> None:
        """See `Handler`."""

    def sunk(self, count: int) -> None:
        """See `Handler`."""

    def lost(self, error: Exception | None) -> None:
        """See `Handler`."""


def _because(error: Exception | None) -> str:
    return "" if error is None else f": {error}"
