"""Mux: listens once, and makes a server for each client.

Rules:

1. At most `pending_limit` connections have not shaken hands; for a newer one, the oldest is
   turned away.
2. A client id has one server. A second connection of it is refused with a reason, or, with
   `replace`, ends the first one.
3. `admit` is asked after the client has proved itself, and last: a client that it admits is
   told of by `on_disconnected`, once, however its connection ends.
4. One tracer on the source feeds all servers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextvars import Context
from types import MappingProxyType

from amnode.errors import RefusedError
from amnode.machine.machine import ErrorArgs, Machine
from amnode.machine.transition import Event, Transition
from amnode.rpc.exposure import Exposure, Gate
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol.handshake import SecretOf, check_identity
from amnode.rpc.protocol.sync import mixes
from amnode.rpc.server import RpcServer
from amnode.rpc.states import MuxStates
from amnode.rpc.transport import LOCAL, Handler, Listener, Transport

#: Fresh bytes from the system.
Entropy = Callable[[int], bytes]


class Mux:
    """Exposes a machine at an address to any number of clients.

    Args:
        source: the machine that clients follow.
        address: where to listen, such as `unix:/run/me/door.sock` or `memory:door`.
        name: of the mux; its machine is `rm-NAME`, its servers' are `rs-NAME-1` and so on, and
            clients are told `rs-NAME`.
        secret_of: the secret of a client (its id, its role), looked up at its hello; None
            refuses it, and tells it no more than a wrong secret would.
        exposure: what controllers may do; nothing by default.
        options: the limits.
        admit: asked once a client has proved itself (rule 3); a text is why it is refused.
        on_connected: called when a client's handshake is done.
        on_disconnected: called when an admitted client's connection has ended, with the reason.
        replace: whether a new connection of a client ends its old one (rule 2).
        transport: how clients reach it.
        entropy: fresh random bytes, as `os.urandom` makes them.

    Attributes:
        machine: what the mux says of itself (`MuxStates`).
    """

    def __init__(
        self,
        source: Machine,
        address: str,
        *,
        name: str,
        secret_of: SecretOf,
        exposure: Exposure | None = None,
        options: RpcOptions | None = None,
        admit: Callable[[RpcServer], str | None] | None = None,
        on_connected: Callable[[RpcServer], None] | None = None,
        on_disconnected: Callable[[RpcServer, str], None] | None = None,
        replace: bool = False,
        transport: Transport = LOCAL,
        entropy: Entropy = os.urandom,
    ) -> None:
        self.machine = Machine(MuxStates, id=f"rm-{name}")
        self.machine.bind(_Handlers())
        self._source = source
        self._address = address
        self._name = name
        self._server_id = check_identity(f"rs-{name}")
        self._secret_of = secret_of
        self._gate = Gate(source.schema, exposure or Exposure())
        self._factors = mixes(len(source.schema))
        self._options = options or RpcOptions()
        self._admit = admit
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._replace = replace
        self._transport = transport
        self._entropy = entropy
        self._decoy = entropy(32)
        self._tracer = _SourceTracer(self._gate)
        self._listener: Listener | None = None
        self._count = 0
        self._pending: dict[RpcServer, None] = {}
        self._servers: dict[str, RpcServer] = {}
        self._connections: dict[RpcServer, None] = {}
        self._disposals: dict[asyncio.Task[None], None] = {}
        self._emptied: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Mux {self.machine.id} at {self._address}>"

    @property
    def address(self) -> str:
        """Where clients connect."""
        return self._address

    @property
    def source(self) -> Machine:
        """The machine that clients follow."""
        return self._source

    @property
    def servers(self) -> Mapping[str, RpcServer]:
        """The servers of admitted clients, by client id; a live view."""
        return MappingProxyType(self._servers)

    async def start(self) -> None:
        """Starts to listen; does nothing if it does already.

        Raises:
            OptionError: the address cannot work.
            ConnectionLost: the address is taken, or the system refuses it.
        """
        if self.machine.is1("Start"):
            return
        self.machine.remove(("ErrNetwork", "Exception"))
        self.machine.add1("Start")
        try:
            self._listener = await self._transport.listen(
                self._address, self._accept, close_timeout=self._options.close_timeout
            )
        except BaseException as error:
            if isinstance(error, Exception):
                self.machine.add_err_state("ErrNetwork", error)
            self.machine.remove1("Start")
            raise
        if not self.machine.is1("Start"):  # stopped meanwhile
            self._stop_listening()
            return
        if len(self._source.schema) != len(self._gate.names):  # it grew while nobody served it
            self._gate.grow(self._source.schema)
        self._source.trace(self._tracer)
        self.machine.add1("Ready")

    async def stop(self) -> None:
        """Stops listening and ends every connection; calling it again changes nothing.

        Clients are told. A connection that does not close within `close_timeout` is cut.
        """
        self._stop_listening()
        self._source.untrace(self._tracer)
        self.machine.remove1("Start")
        for server in [*self._connections]:
            server.close("the server stops")
        try:
            if self._connections:
                self._emptied = asyncio.get_running_loop().create_future()
                await self._emptied
            if self._disposals:
                await asyncio.wait(self._disposals)
        finally:
            self._emptied = None
            for server in [*self._connections]:
                server.abort()

    def refuse_pending(self, reason: str) -> None:
        """Turns away who has not shaken hands: the secret that it began with holds no more."""
        for server in [*self._pending]:
            server.refuse(RefusedError(reason))

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
            nonce=self._entropy(32),
            decoy=self._decoy,
            options=self._options,
        )
        self._pending[server] = None
        self._connections[server] = None
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
        """Rules 2 and 3."""
        client_id = server.client_id
        if client_id in self._servers and not self._replace:
            return f"{client_id} is connected already; one connection a client is allowed."
        reason = None if self._admit is None else self._admit(server)
        if reason is not None:
            return reason
        if (old := self._servers.get(client_id)) is not None:
            old.close("replaced by a newer connection of the same client")
        self._servers[client_id] = server
        return None

    def opened(self, server: RpcServer) -> None:
        """A client's handshake is done."""
        self._pending.pop(server, None)
        self._tracer.add(server)
        self.machine.add1("HasClients")
        self.machine.remove1("NewServerErr")
        if self._on_connected is not None:
            self._on_connected(server)

    def ended(self, server: RpcServer, reason: str) -> None:
        """A server serves no more."""
        self._pending.pop(server, None)
        self._tracer.remove(server)
        if self._servers.get(server.client_id) is not server:
            return  # it was never admitted
        del self._servers[server.client_id]
        if not self._servers:
            self.machine.remove1("HasClients")
        if self._on_disconnected is not None:
            on_disconnected = self._on_disconnected
            server.guard(lambda: on_disconnected(server, reason))

    def disconnected(self, server: RpcServer) -> None:
        """The connection of a server is no more."""
        self._connections.pop(server, None)
        loop = asyncio.get_running_loop()
        disposal = loop.create_task(server.machine.dispose(), context=Context())
        self._disposals[disposal] = None
        disposal.add_done_callback(lambda done: self._disposals.pop(done, None))
        if self._emptied is not None and not self._connections and not self._emptied.done():
            self._emptied.set_result(None)


class _Handlers:
    """Handlers of the mux's machine."""

    def ClientConnectedState(self, event: Event) -> None:
        """The state is an event: it removes itself."""
        event.machine.remove1("ClientConnected")


class _SourceTracer:
    """Tells the open servers of each transition of the source (rule 4)."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._servers: dict[RpcServer, None] = {}

    def add(self, server: RpcServer) -> None:
        """Starts to tell a server."""
        self._servers[server] = None

    def remove(self, server: RpcServer) -> None:
        """Stops to."""
        self._servers.pop(server, None)

    def transition_end(self, transition: Transition) -> None:
        """See `amnode.machine.tracing`."""
        if not transition.changed or not self._servers:
            return
        ticks = transition.machine.time()
        moved = [(index, ticks[index]) for index in transition.changed]
        for server in self._servers:
            server.moved(moved)

    def schema_changed(self, source: Machine) -> None:
        """See `amnode.machine.tracing`."""
        self._gate.grow(source.schema)
        for server in self._servers:
            server.source_grew()
