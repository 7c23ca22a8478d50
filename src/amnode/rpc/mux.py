"""Mux: listens once, and makes a server for each client.

Rules:

1. At most `pending_limit` connections have not shaken hands; for a newer one, the oldest is
   turned away. Over TLS they count from the moment that is agreed.
2. A client id has one server, and one session. A second connection of it is refused with a
   reason, or, with `replace` or if the first one was cut off, ends the first session. One that
   resumes the session goes on with its server.
3. `admit` is asked after the client has proved itself, and last: a client that it admits is
   told of by `on_disconnected`, once, when its session has ended, however that was.
4. One follower of the source feeds all servers; a tracer is there only while a client wants
   to see each mutation on its own.
5. `on_connected` is part of taking a client in: one for whom it raises is refused. What the
   other callbacks raise stops nothing. Either is recorded at the server's machine.
6. What a source adds as `SendPayload`, with a name and data, goes to its clients, or to the one
   that it names; a schema that has this state as an error keeps it.
7. A source that is a replica serves while it follows its own source: when that is another
   machine, its clients are cut and come back; when it is lost for good, they are let go.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from types import MappingProxyType

from amnode.errors import DeliveryError, RefusedError
from amnode.machine.binding import Binding
from amnode.machine.machine import ErrorArgs, Machine
from amnode.machine.transition import Event, Transition
from amnode.rpc.exposure import Exposure, Gate, Taker
from amnode.rpc.network_machine import NetworkMachine, RemoteTransition
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol.handshake import SecretOf, check_identity
from amnode.rpc.protocol.sync import mixes
from amnode.rpc.protocol.wire import Role
from amnode.rpc.server import RpcServer
from amnode.rpc.states import MuxStates
from amnode.rpc.transport.by_address import STREAMS
from amnode.rpc.transport.port import Handler, Listener, Transport

#: Fresh bytes from the system.
Entropy = Callable[[int], bytes]


class Mux:
    """Exposes a machine at an address to any number of clients.

    Args:
        source: the machine that clients follow; it may be a replica of another.
        address: where to listen, such as `unix:/run/me/door.sock` or `tcp:127.0.0.1:0`.
        name: of the mux; its machine is `rm-NAME`, its servers' are `rs-NAME-1` and so on, and
            clients are told `rs-NAME`.
        secret_of: the secret of a client (its id, its role), looked up at its hello; None
            refuses it, and tells it no more than a wrong secret would. It is not looked up for
            a client that resumes its session: to shut one out, close its server too.
        exposure: what controllers may do; nothing by default.
        options: the limits.
        admit: asked once a client has proved itself (rule 3); a text is why it is refused.
        on_connected: called when a client's handshake is done; if it raises, the client is
            refused, and then told of by `on_disconnected` (rule 5).
        on_disconnected: called when an admitted client's connection has ended, with the reason.
        on_cut: called when an admitted client was cut off, with the reason; its session goes on
            for `session_ttl`.
        on_resumed: called when it is back in time.
        takers: who takes mutations over that add one state alone; see `exposure.Taker`.
        allow_id: the one client id that may come in, on top of its secret; None is any.
        replace: whether a new connection of a client ends its old one (rule 2).
        transport: how clients reach it.
        entropy: fresh random bytes, as `os.urandom` makes them.

    Attributes:
        machine: what the mux says of itself (`MuxStates`).
    """

    def __init__(
        self,
        source: Machine | NetworkMachine,
        address: str,
        *,
        name: str,
        secret_of: SecretOf,
        exposure: Exposure | None = None,
        options: RpcOptions | None = None,
        admit: Callable[[RpcServer], str | None] | None = None,
        on_connected: Callable[[RpcServer], None] | None = None,
        on_disconnected: Callable[[RpcServer, str], None] | None = None,
        on_cut: Callable[[RpcServer, str], None] | None = None,
        on_resumed: Callable[[RpcServer], None] | None = None,
        takers: Mapping[str, Taker] | None = None,
        allow_id: str | None = None,
        replace: bool = False,
        transport: Transport = STREAMS,
        entropy: Entropy = os.urandom,
    ) -> None:
        self.machine = Machine(MuxStates, id=f"rm-{name}")
        self.machine.bind(_Handlers())
        self._source = source
        if isinstance(source, Machine) and not source.incarnation:
            source.incarnation = entropy(16)
        self._address = address
        self._name = name
        self._server_id = check_identity(f"rs-{name}")
        self._secret_of = secret_of if allow_id is None else _only(allow_id, secret_of)
        self._gate = Gate(source.schema, exposure or Exposure(), takers)
        self._factors = mixes(len(source.schema))
        self._options = options or RpcOptions()
        self._admit = admit
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._on_cut = on_cut
        self._on_resumed = on_resumed
        self._replace = replace
        self._transport = transport
        self._entropy = entropy
        self._decoy = entropy(32)
        self._feed = _Feed(source, self._gate)
        self._payloads = _Payloads(self)
        self._bound: Binding | None = None
        self._listener: Listener | None = None
        self._starting = asyncio.Lock()
        #: How often it was stopped: a start that was stopped meanwhile must not listen.
        self._stops = 0
        self._count = 0
        self._pending: dict[RpcServer, None] = {}
        self._servers: dict[str, RpcServer] = {}
        self._sessions: dict[bytes, RpcServer] = {}
        #: The servers that have a connection, or will; done when one has it no more.
        self._connections: dict[RpcServer, asyncio.Future[None]] = {}
        self._disposals: dict[asyncio.Task[None], None] = {}

    def __repr__(self) -> str:
        return f"<Mux {self.machine.id} at {self._address}>"

    @property
    def address(self) -> str:
        """Where clients connect; while it listens, with the port that the system chose."""
        return self._address if self._listener is None else self._listener.address

    @property
    def source(self) -> Machine | NetworkMachine:
        """The machine that clients follow."""
        return self._source

    @property
    def servers(self) -> Mapping[str, RpcServer]:
        """The servers of admitted clients, by client id; a live view."""
        return MappingProxyType(self._servers)

    async def __aenter__(self) -> Mux:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Starts to listen; does nothing if it does already.

        While another start is under way it waits for that, and tries itself if it fails. One
        that is stopped meanwhile returns, and does not listen.

        Raises:
            OptionError: the address cannot work.
            ConnectionLost: the address is taken, or the system refuses it.
        """
        stops = self._stops
        async with self._starting:
            if self._stops == stops and self._listener is None:
                await self._listen(stops)

    async def _listen(self, stops: int) -> None:
        """Starts to listen, unless it is stopped meanwhile."""
        self.machine.remove(("ErrNetwork", "Exception"))
        self.machine.add1("Start")
        before = dict(self._connections)
        listener: Listener | None = None
        try:
            listener = await self._transport.listen(
                self._address, self._accept, close_timeout=self._options.close_timeout
            )
        except BaseException as error:
            if self._stops == stops:
                if isinstance(error, Exception):
                    self.machine.add_err_state("ErrNetwork", error)
                self.machine.remove1("Start")
            raise
        else:
            if self._stops == stops:
                self._listener, listener = listener, None
                self._feed.start()
                self._bind()
                self.machine.add1("Ready")
        finally:
            if listener is not None:
                listener.close()
            if self._listener is None:
                for server in [*self._connections]:
                    if server not in before:  # it came meanwhile, and nobody is there for it
                        server.close("the server stops")

    async def stop(self) -> None:
        """Stops listening and ends every connection; calling it again changes nothing.

        Clients are told. A connection that does not close within `close_timeout` is cut.
        """
        self._stops += 1
        self._unbind()
        self._stop_listening()
        self._feed.stop()
        self.machine.remove1("Start")
        ending = dict(self._connections)
        for server in ending:
            server.close("the server stops")
        try:
            if ending:
                await asyncio.wait(ending.values())
            if self._disposals:
                await asyncio.wait(self._disposals)
        finally:
            for server, gone in ending.items():
                if not gone.done():
                    server.abort()

    def refuse_pending(self, reason: str) -> None:
        """Turns away who has not shaken hands: the secret that it began with holds no more."""
        for server in [*self._pending]:
            server.refuse(RefusedError(reason))

    def abort(self) -> None:
        """Stops listening and cuts every connection, at once; nobody is told anything."""
        self._unbind()
        self._stop_listening()
        self._feed.stop()
        self.machine.remove1("Start")
        for server in [*self._connections]:
            server.abort()

    def _bind(self) -> None:
        """Rule 6."""
        source = self._source
        if not isinstance(source, Machine) or "SendPayload" not in source.schema:
            return
        if source.schema["SendPayload"].multi:
            self._bound = source.bind(self._payloads)

    def _unbind(self) -> None:
        if self._bound is not None and isinstance(self._source, Machine):
            self._source.detach(self._bound)
            self._bound = None

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    # -- connections -----------------------------------------------------------------------

    def _accept(self) -> Handler:
        if len(self._pending) >= self._options.pending_limit:  # rule 1
            self._turn_away(next(iter(self._pending)))
        self._count += 1
        server = RpcServer(
            self._source,
            id=f"{self._server_id}-{self._count}",
            server_id=self._server_id,
            gate=self._gate,
            factors=self._factors,
            host=self,
            secret_of=self._secret_of,
            key_of=self._key_of,
            nonce=self._entropy(32),
            decoy=self._decoy,
            options=self._options,
        )
        self._pending[server] = None
        self._connections[server] = asyncio.get_running_loop().create_future()
        self.machine.add1("ClientConnected")
        return server

    def _turn_away(self, oldest: RpcServer) -> None:
        """Makes room: an honest client is through before it is the oldest."""
        waiting = len(self._pending)
        error = RefusedError(
            f"{waiting} connections were waiting for their handshake; try again."
        )
        self.machine.add1("NewServerErr", ErrorArgs(error))
        oldest.refuse(error)

    # -- what servers tell (see `Host`) ----------------------------------------------------

    def admit(self, server: RpcServer) -> str | None:
        """Rules 2, 3 and 7."""
        if isinstance(self._source, NetworkMachine) and self._source.lost is not None:
            return f"Its source is lost: {self._source.lost}"
        if server.resumes:
            return None  # it was admitted when its session began
        client_id = server.client_id
        old = self._servers.get(client_id)
        if old is not None and not self._replace:
            if old.is_connected:
                return f"{client_id} is connected already; one connection a client is allowed."
            if old.role is not server.role:
                return f"{client_id} has a session as {old.role.value}, which it may resume."
        reason = None if self._admit is None else self._admit(server)
        if reason is not None:
            return reason
        if old is not None:
            old.close("replaced by a newer connection of the same client")
        self._servers[client_id] = server
        return None

    def heir(self, session: bytes) -> RpcServer | None:
        """The server whose session a new connection resumes."""
        return self._sessions.get(session)

    def _key_of(self, session: bytes, client_id: str, role: Role) -> bytes | None:
        """The key of a session that is here, and is that client's in that role."""
        server = self._sessions.get(session)
        if server is None or (server.client_id, server.role) != (client_id, role):
            return None
        return server.session_key

    def opened(self, server: RpcServer) -> None:
        """A client's handshake is done."""
        self._pending.pop(server, None)
        if self._options.session_ttl > 0:
            self._sessions[server.session] = server
        self._feed.add(server)
        if isinstance(self._source, NetworkMachine) and self._source.lost is not None:
            self._feed.source_lost(self._source.lost)  # it was, since the client was admitted
            return
        self.machine.add1("HasClients")
        self.machine.remove1("NewServerErr")
        if self._on_connected is not None:
            try:
                self._on_connected(server)
            except Exception as error:
                self._refuse_failed(server, error)

    def _refuse_failed(self, server: RpcServer, error: Exception) -> None:
        """Rule 5; what the program raised is not the client's to know."""
        server.machine.add_err(error)
        self.machine.add1("NewServerErr", ErrorArgs(error))
        server.refuse(
            RefusedError("The server could not take the client in; its own log says why.")
        )

    def cut(self, server: RpcServer, reason: str) -> None:
        """The connection of a server is no more; its client may come back."""
        self._feed.remove(server)
        if self._on_cut is not None:
            on_cut = self._on_cut
            server.guard(lambda: on_cut(server, reason))

    def resumed(self, server: RpcServer) -> None:
        """The client of a server is back."""
        self._feed.add(server)
        if self._on_resumed is not None:
            on_resumed = self._on_resumed
            server.guard(lambda: on_resumed(server))

    def ended(self, server: RpcServer, reason: str) -> None:
        """A server serves no more."""
        self._pending.pop(server, None)
        if self._sessions.get(server.session) is server:
            del self._sessions[server.session]
        self._feed.remove(server)
        if self._servers.get(server.client_id) is not server:
            return  # it was never admitted
        del self._servers[server.client_id]
        if not self._servers:
            self.machine.remove1("HasClients")
        if self._on_disconnected is not None:
            on_disconnected = self._on_disconnected
            server.guard(lambda: on_disconnected(server, reason))

    def disconnected(self, server: RpcServer) -> None:
        """A server has ended, and has no connection."""
        gone = self._connections.pop(server, None)
        if gone is None:
            return
        gone.set_result(None)
        loop = asyncio.get_running_loop()
        disposal = loop.create_task(server.machine.dispose(), context=Context())
        self._disposals[disposal] = None
        disposal.add_done_callback(lambda done: self._disposals.pop(done, None))


def _only(client_id: str, secret_of: SecretOf) -> SecretOf:
    """The secret of one client, and of no other."""
    return lambda asked, role: secret_of(asked, role) if asked == client_id else None


class _Handlers:
    """Handlers of the mux's machine."""

    def ClientConnectedState(self, event: Event) -> None:
        """The state is an event: it removes itself."""
        event.machine.remove1("ClientConnected")


class _Payloads:
    """The handlers of a source's `SendPayload` (rule 6)."""

    def __init__(self, mux: Mux) -> None:
        self._mux = mux

    def SendPayloadEnter(self, event: Event) -> bool:
        """Has a name."""
        return bool(getattr(event.args, "name", ""))

    def SendPayloadState(self, event: Event) -> None:
        """Sends it to whom it is for, of those who are there."""
        event.machine.remove1("SendPayload")
        args = event.args
        to = getattr(args, "to", "")
        for server in [*self._mux.servers.values()]:
            if server.is_open and to in ("", server.client_id):
                try:
                    server.send_payload(args.name, getattr(args, "data", None))
                except DeliveryError as error:
                    event.machine.add_err_state("ErrSendPayload", error)


class _Feed:
    """Tells the open servers of what moves at the source (rule 4)."""

    def __init__(self, source: Machine | NetworkMachine, gate: Gate) -> None:
        self._source = source
        self._gate = gate
        self._servers: dict[RpcServer, None] = {}
        self._steps = _Steps()

    def start(self) -> None:
        """Follows the source."""
        if len(self._source.schema) != len(self._gate.names):  # it grew while nobody served it
            self._gate.grow(self._source.schema)
        self._source.follow(self)

    def stop(self) -> None:
        """Follows it no more."""
        self._source.unfollow(self)
        self._source.untrace(self._steps)

    def add(self, server: RpcServer) -> None:
        """Starts to tell a server."""
        if server.wants_steps:
            self._steps.servers[server] = None
            self._source.trace(self._steps)
        else:
            self._servers[server] = None

    def remove(self, server: RpcServer) -> None:
        """Stops to."""
        self._servers.pop(server, None)
        if self._steps.servers.pop(server, self) is not self and not self._steps.servers:
            self._source.untrace(self._steps)

    def moved(self, changed: Sequence[int], ticks: Sequence[int]) -> None:
        """See `amnode.machine.tracing.Follower`."""
        for server in self._servers:
            if server.session_now.mark(changed, ticks):
                server.wake()

    def schema_changed(self, machine: Machine) -> None:
        """See `amnode.machine.tracing.Follower`."""
        self._gate.grow(machine.schema)
        for server in (*self._servers, *self._steps.servers):
            server.source_grew()

    def source_restarted(self) -> None:
        """See `NetworkMachine.follow` (rule 7)."""
        for server in (*self._servers, *self._steps.servers):
            server.abort()

    def source_lost(self, error: Exception) -> None:
        """See `NetworkMachine.follow` (rule 7)."""
        for server in (*self._servers, *self._steps.servers):
            server.close(f"its source is lost: {error}")


class _Steps:
    """The tracer for servers whose clients want to see each mutation on its own."""

    def __init__(self) -> None:
        self.servers: dict[RpcServer, None] = {}

    def transition_end(self, transition: Transition | RemoteTransition) -> None:
        """See `amnode.machine.tracing`."""
        if not transition.accepted:
            return
        ticks = transition.machine.ticks()
        changed = transition.changed
        if isinstance(transition, RemoteTransition):
            type_, called = transition.type, transition.called
        else:
            type_, called = transition.mutation.type, transition.mutation.called
        for server in [*self.servers]:
            if type_ is None:  # the sum of several, from another source
                server.moved(changed, ticks)
            else:
                server.stepped(changed, ticks, int(type_), called)
