"""RpcServer: one source and one client, for one session.

It has the connection, brings what the client says to its `Service`, and sends what moves at the
source. What its machine says (`ServerStates`) follows what it does; it has no part in a call.

Rules:

1. Nothing reaches the source before the handshake is done.
2. A connection that is cut is not the end: for `session_ttl` the client may come back. What is
   deferred goes on, and what is to be said is kept. The connection with which it comes back
   first has a server of its own, which gives it over to this one; the old one is closed first.
3. The end comes once: deferred answers are cancelled, the host is told, the machine ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Protocol, TypeVar

from amnode.errors import (
    AmnodeError,
    ConnectionLost,
    DeliveryError,
    RefusedError,
    RpcError,
    RpcTimeoutError,
)
from amnode.machine.machine import Machine
from amnode.machine.queue import MutationType
from amnode.rpc.exposure import Gate
from amnode.rpc.network_machine import NetworkMachine
from amnode.rpc.options import RpcOptions
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
from amnode.rpc.protocol.wire import Outcome, Request, Role, Value
from amnode.rpc.pulse import Pulse
from amnode.rpc.service import Service
from amnode.rpc.states import ServerStates
from amnode.rpc.transport.port import NETWORK, Connection

T = TypeVar("T")

_EXECUTED = Outcome.EXECUTED
_ADD, _REMOVE = int(MutationType.ADD), int(MutationType.REMOVE)
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
        #: Of the connection that there is now, or was last.
        self.session_now = ServerSession(source, factors, handshake, options)
        self._service = Service(self, source, gate, self.session_now, options)
        self._connection: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._push_timer: asyncio.TimerHandle | None = None
        self._pulse: Pulse | None = None
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
    def flushed(self) -> bool:
        """Whether the client is there, and the system has all that was said to it."""
        connection = self._connection
        return (
            connection is not None
            and self._shook_hands
            and not self._ended
            and self.session_now.nothing_queued
            and connection.flushed
        )

    def hurry(self) -> None:
        """What was said leaves now, rather than with the rest of the turn."""
        if self._connection is not None:
            self._connection.hurry()

    @property
    def resumes(self) -> bool:
        """Whether its connection is one that resumes the session of another server."""
        return self.session_now.resumes

    @property
    def session(self) -> bytes:
        """The id of the session; empty before the client was admitted."""
        ticket = self.session_now.memory.ticket
        return b"" if ticket is None else ticket.session

    @property
    def session_key(self) -> bytes | None:
        """The key that resumes the session, while it can be; a secret."""
        ticket = self.session_now.memory.ticket
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
        memory = self.session_now.memory
        while not memory.has_room(value):
            await self._taken()
        number = self._send_payload(name, value)
        while memory.arrived < number:
            await self._taken()

    def close(self, reason: str) -> None:
        """Ends the session in good order; the client is told why, and cannot resume it."""
        self.session_now.goodbye(reason)
        self._finish(reason)

    def abort(self) -> None:
        """Cuts the connection; what was not written is dropped, and the session ends."""
        connection = self._connection
        self._finish("the connection was cut here")
        if connection is not None:
            connection.abort()

    def refuse(self, error: AmnodeError) -> None:
        """Ends the session with an error, which the client is told."""
        self.session_now.fail(error)
        self._finish(str(error))

    # -- the connection's handler ----------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """See `Handler`."""
        self._connection = self._service.connection = connection
        connection.stall_timeout = self._options.stall_timeout
        if connection.scheme not in NETWORK:
            self.session_now.forgo_keepalive()
        self._await_handshake()
        for state in ("Start", "RpcAccepting", "RpcReady", "ClientConnected"):
            self.machine.add1(state)

    def received(self, data: bytes) -> None:
        """See `Handler`."""
        server = self  # the one that goes on, once a session is resumed
        if self._pulse is not None:
            self._pulse.keepalive.heard = True
        try:
            for event in self.session_now.receive(data):
                if type(event) is Called:
                    server._service.called(event)
                elif type(event) is Admitted:
                    server = server._admitted(event)
                else:
                    server._other(event)
            if self.session_now.choked:
                server._read_no_more()
        except Exception as error:  # a callback of the program, or a fault here
            server.broke(error)

    def outgoing(self) -> Outgoing:
        """See `Handler`."""
        session = self.session_now
        data = session.to_send()
        if data and self._pulse is not None:
            self._pulse.keepalive.said = True
        if self._ended:
            return data
        if session.held and self._push_timer is None:
            loop = asyncio.get_running_loop()
            self._push_timer = loop.call_later(
                session.push_interval, self._push_now, context=Context()
            )
        if type(data) is not bytes and session.ready:
            self.wake()
        if self._reading_stopped and not session.choked:
            self._read_again()
        if self._service.waits:
            self._service.look()
        return data

    def sink(self) -> memoryview | None:
        """See `Handler`."""
        return self.session_now.sink()

    def sunk(self, count: int) -> None:
        """See `Handler`."""
        if self._pulse is not None:
            self._pulse.keepalive.heard = True
        self.session_now.sunk(count)

    def lost(self, error: Exception | None) -> None:
        """See `Handler` (rule 2)."""
        self._connection = self._service.connection = None
        if not self._ended:
            lost = ConnectionLost(f"Client {self.client_id!r} is gone{_because(error)}.")
            self._cut(lost)
        if self._ended:
            self._host.disconnected(self)

    # -- for the host and for origins ------------------------------------------------------

    def moved(self, changed: Sequence[int], ticks: Sequence[int]) -> None:
        """The source moved: the states that did, by index, and the ticks of all."""
        if self.session_now.mark(changed, ticks) and self._connection is not None:
            self._connection.wake()

    @property
    def wants_steps(self) -> bool:
        """Whether the client wants to see each mutation on its own."""
        return self.session_now.every

    def stepped(
        self, changed: Sequence[int], ticks: Sequence[int], type_: int, called: Sequence[int]
    ) -> None:
        """The source moved by one mutation."""
        self.session_now.step(changed, ticks, type_, called)
        self.wake()

    def source_grew(self) -> None:
        """The source has more states, which this connection does not know."""
        self.session_now.source_grew()

    def adopt(self, session: ServerSession, connection: Connection) -> None:
        """The client is back, on this connection (rule 2)."""
        old = self._connection
        session.memory = self.session_now.memory
        self._stop_timers()
        self.session_now = self._service.session = session
        self._connection = self._service.connection = connection
        self._reading_stopped = False
        if old is not None:
            old.hand_over(_Left())
            old.abort()
        connection.hand_over(self)
        self._await_handshake()
        self.machine.remove(("ErrNetwork", "ErrNetworkTimeout", "Exception"))
        self.machine.add1("ClientConnected")
        self.machine.add1("Handshaking")

    def guard(self, callback: Callable[[], object]) -> None:
        """Calls back into the program; what it raises is recorded, and stops nothing."""
        try:
            callback()
        except Exception as error:
            self.machine.add_err(error)

    def broke(self, error: Exception) -> None:
        """A fault on this side: recorded here, hidden from the peer."""
        self.machine.add_err(error)
        self.session_now.fail(RpcError("The server failed; its own log says why."))
        self._finish(f"{type(error).__name__}: {error}")

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
            number = self.session_now.send_payload(name, value)
        except DeliveryError as error:
            self.machine.add_err_state("ErrSendPayload", error)
            raise
        self.wake()
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
            self._service.cancelled(event.seq)
        elif isinstance(event, (Allowed, Streamed, StreamEnded)):
            self._service.streamed(event)
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

    def _admit(self, _client_id: str, _role: Role) -> str | None:
        return self._host.admit(self)

    def _admitted(self, event: Admitted) -> RpcServer:
        """Says who goes on with this connection (rule 2)."""
        if not event.resumed:
            return self
        heir = self._host.heir(event.session)
        connection, self._connection = self._connection, None
        if heir is None or connection is None:  # it ended between hello and proof
            self._connection = connection
            self.refuse(RefusedError("The session has just ended; a new one can be begun."))
            return self
        heir.adopt(self.session_now, connection)
        self._finish("it went on with another server")
        return heir

    def _opened(self, event: Opened) -> None:
        self._stop_timers()
        session, connection = self.session_now, self._connection
        if session.keepalive and connection is not None and connection.scheme in NETWORK:
            self._pulse = Pulse(session.keepalive, self._say_alive, self._dead)
        self.machine.add1("HandshakeDone")
        self.machine.remove1("Exception")
        self._service.look()
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
        """The connection is gone, and the session may go on (rule 2)."""
        self._stop_timers()
        self.machine.add_err_state("ErrNetwork", lost)
        ttl = self._options.session_ttl
        if not self._shook_hands or ttl <= 0:
            self._finish(str(lost))
            return
        self.session_now.cut()
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
        if self._shook_hands and self._connection is not None:
            self._connection.abort()  # it came back, and was cut off again (rule 2)
        else:
            self.refuse(error)

    def _say_alive(self) -> None:
        self.session_now.say_alive()
        self.wake()

    def _dead(self) -> None:
        seconds = 2 * self.session_now.keepalive
        error = RpcTimeoutError(f"Nothing was heard of the client for {seconds} s.")
        self.machine.add_err_state("ErrNetworkTimeout", error)
        if self._connection is not None:
            self._connection.abort()

    def _push_now(self) -> None:
        self._push_timer = None
        if self.session_now.release():
            self.wake()

    def wake(self) -> None:
        """There is something to write."""
        connection = self._connection
        if connection is not None and not connection.will_ask:
            connection.wake()

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
        self.wake()

    def _finish(self, reason: str) -> None:
        """The end (rule 3)."""
        if self._ended:
            return
        self._ended = True
        self._stop_timers()
        if self._connection is not None:
            self._connection.close()
        self._service.end(reason)
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
