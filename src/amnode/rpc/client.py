"""RpcClient: makes one connection to a source and keeps a replica of it.

    client = RpcClient("unix:/run/me/door.sock", id="rc-me", secret=secret)
    await client.start()
    await client.source.add1("Open")
    await client.stop()

Rules:

1. `start` ends with a replica that is in step, or with an error and nothing left behind, also
   when it is cancelled.
2. The end of a connection comes once: what is pending fails, the replica's waits end, and
   `on_lost` is called, unless it was this side that stopped.
3. What its machine says (`ClientStates`) follows what it does; it has no part in a call.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

import msgspec

from amnode.errors import (
    ConnectionLost,
    OptionError,
    RpcError,
    RpcTimeoutError,
)
from amnode.machine.machine import Machine
from amnode.machine.queue import MutationType
from amnode.machine.schema import Schema, States
from amnode.rpc.network_machine import NetworkMachine, RemoteResult, SelectedMachine
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.handshake import ClientHandshake, check_identity
from amnode.rpc.protocol.session import (
    Advanced,
    Answered,
    Called,
    ClientSession,
    Closed,
    Delivered,
    Event,
    Opened,
    Resynced,
)
from amnode.rpc.protocol.wire import NIL, Outcome, Role
from amnode.rpc.states import ClientStates
from amnode.rpc.transport import STREAMS, Connection, Transport

#: What a new start clears: while ErrNetwork is active, no connection is made.
_ERRORS = ("ErrNetwork", "ErrNetworkTimeout", "ErrRpc", "ErrConnecting", "Exception")


class PayloadArgs(msgspec.Struct, frozen=True):
    """What comes with `ServerPayload`.

    Attributes:
        name: what the server called it.
        data: as msgpack; `msgspec.msgpack.decode(data, type=...)` reads it.
        source_id: the machine that it comes from.
    """

    name: str
    data: msgspec.Raw
    source_id: str


class RpcClient:
    """A connection to a source, and the replica that it keeps.

    Args:
        address: of the source's `Mux`.
        id: what the server knows this client by; by convention `rc-` and a name. The machine of
            the client has it too, and its replica `rnm-` and the name.
        secret: shared with the server; never crosses.
        schema: what the source must have: every state in it must exist there identically. None
            takes what the source has.
        role: "controller" may change states that are open; "observer" only reads.
        states: which states to follow; None follows all.
        consumer: a machine (with `ConsumerStates`) that gets each payload as a `ServerPayload`.
        on_payload: called with the name and the data of each payload.
        on_lost: called once when the connection has ended, unless `stop` ended it.
        options: the limits.
        transport: how to reach the server.
        entropy: fresh random bytes, as `os.urandom` makes them.

    Attributes:
        machine: what the client says of itself (`ClientStates`).

    Raises:
        OptionError: the id, the role or the secret cannot work.
    """

    def __init__(
        self,
        address: str,
        *,
        id: str,
        secret: bytes,
        schema: Schema | type[States] | None = None,
        role: str = "controller",
        states: Sequence[str] | None = None,
        consumer: Machine | None = None,
        on_payload: Callable[[str, msgspec.Raw], None] | None = None,
        on_lost: Callable[[Exception], None] | None = None,
        options: RpcOptions | None = None,
        transport: Transport = STREAMS,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if role not in tuple(Role):
            raise OptionError(f"{role!r} is no role; use {' or '.join(Role)}.")
        if not secret:
            raise OptionError("The secret is empty; a client has to have one.")
        self.id = check_identity(id)
        self.machine = Machine(ClientStates, id=id)
        self._address = address
        self._secret = secret
        self._schema = (
            schema if isinstance(schema, Schema) or schema is None else schema.schema()
        )
        self._role = Role(role)
        self._states = states
        self._consumer = consumer
        self._on_payload = on_payload
        self._on_lost = on_lost
        self._options = options or RpcOptions()
        self._transport = transport
        self._entropy = entropy
        self._link: _Link | None = None
        #: The last link that ended; its connection may still be closing.
        self._left: _Link | None = None
        self._source: NetworkMachine | None = None

    def __repr__(self) -> str:
        return f"<RpcClient {self.id} to {self._address}>"

    @property
    def address(self) -> str:
        """Where the source is."""
        return self._address

    @property
    def source(self) -> NetworkMachine:
        """The replica of the last start.

        Raises:
            RpcError: no start has succeeded yet.
        """
        if self._source is None:
            raise RpcError(f"Client {self.id} has no replica before its first start.")
        return self._source

    async def start(self) -> None:
        """Connects, shakes hands, and brings the replica in step.

        A client whose connection has ended may be started again; it then has a new replica.

        Raises:
            RpcError: it is started already.
            OptionError: the address cannot work.
            ConnectionLost: nobody listens, or the connection was cut.
            RpcTimeoutError: the server did not answer in time.
            AuthError: one of the two does not know the secret, or the id is not known.
            RefusedError: the server said no; the message is its reason.
            SchemaError: the source lacks states that `schema` has.
            StateUnknownError: the source lacks states that `states` names.
        """
        if self._link is not None:
            raise RpcError(f"Client {self.id} is started already; stop it first.")
        handshake = ClientHandshake(self.id, self._role, self._secret, self._entropy(32))
        session = ClientSession(handshake, self._schema, self._states, self._options)
        link = self._link = _Link(self, session)
        self.machine.remove(_ERRORS)
        self.machine.add(("Start", "Connecting"))
        try:
            await self._connect(link)
        except (Exception, asyncio.CancelledError) as error:
            if not link.stopping:
                self._failed(error)
            link.abort()
            self._ended(link)
            await link.gone()
            raise

    async def stop(self) -> None:
        """Ends the connection in good order; calling it again changes nothing.

        What is pending fails with `ConnectionLost`. A `start` that is under way fails likewise.
        """
        link = self._link
        if link is not None:
            self.machine.add1("Disconnecting")
            link.close("the client stops")
        elif (link := self._left) is None:
            return
        try:
            await link.gone()
        finally:
            link.abort()
            self._ended(link)

    async def _connect(self, link: _Link) -> None:
        options = self._options
        try:
            async with asyncio.timeout(options.connect_timeout):
                await self._transport.connect(
                    self._address, link, close_timeout=options.close_timeout
                )
        except TimeoutError:
            raise RpcTimeoutError(
                f"No connection to {self._address} within {options.connect_timeout} s."
            ) from None
        try:
            async with asyncio.timeout(options.handshake_timeout):
                await link.opened
        except RpcTimeoutError:  # the server's word, not the timer's
            raise
        except TimeoutError:
            raise RpcTimeoutError(
                f"The server at {self._address} did not shake hands within "
                f"{options.handshake_timeout} s."
            ) from None

    def _failed(self, error: BaseException) -> None:
        """A start has failed; a cancelled one is no error."""
        if isinstance(error, Exception):
            if self.machine.not1("Connected"):
                self.machine.add_err_state("ErrConnecting", error)
            self._record(error)
            self.machine.add1("ConnRetryFailed")

    def _record(self, error: Exception) -> None:
        state = "ErrRpc"
        if isinstance(error, RpcTimeoutError):
            state = "ErrNetworkTimeout"
        elif isinstance(error, ConnectionLost):
            state = "ErrNetwork"
        self.machine.add_err_state(state, error)

    def _ended(self, link: _Link) -> None:
        if self._link is link:
            self._link, self._left = None, link
            self.machine.add1("Disconnected")
            self.machine.remove1("Start")

    # -- what the link tells -----------------------------------------------------------------

    def link_connected(self) -> None:
        """There is a connection; the handshake may be faster than `start`."""
        self.machine.add1("Connected")

    def link_opened(self, link: _Link, event: Opened) -> NetworkMachine:
        """The handshake is done."""
        replica_id = f"rnm-{self.id.removeprefix('rc-')}"
        if event.selected is None:
            source = NetworkMachine(
                event.schema, id=replica_id, source_id=event.machine_id, calls=link
            )
        else:
            source = SelectedMachine(
                event.schema,
                id=replica_id,
                source_id=event.machine_id,
                calls=link,
                selected=event.selected,
            )
        source.load(event.pairs)
        self._source = source
        self.machine.add1("HandshakeDone")
        return source

    def link_delivered(self, source_id: str, event: Delivered) -> None:
        """A payload came."""
        args = PayloadArgs(event.name, event.data, source_id)
        self.machine.add1("ServerPayload", args)
        try:
            if self._consumer is not None:
                self._consumer.add1("ServerPayload", args)
            if self._on_payload is not None:
                self._on_payload(event.name, event.data)
        except Exception as error:
            self.machine.add_err_state("ErrDelivery", error)

    def link_resynced(self) -> None:
        """A checksum was wrong."""
        self.machine.add1("MetricSync")

    def link_lost(self, link: _Link, error: Exception, cause: Exception) -> None:
        """The connection of an open link has ended, and not by `stop` (rule 2)."""
        if self._link is link:
            self._record(cause)
            self._ended(link)
        if self._on_lost is not None:
            try:
                self._on_lost(error)
            except Exception as raised:
                self.machine.add_err(raised)


class _Link:
    """One connection of a client: its handler, and the calls of its replica."""

    def __init__(self, client: RpcClient, session: ClientSession) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        #: Whether this side ends the connection, or gave it up.
        self.stopping = False
        self._client = client
        self._session = session
        self._connection: Connection | None = None
        self._gone: asyncio.Future[None] = loop.create_future()
        self._replica: NetworkMachine | None = None
        self._results: dict[int, RemoteResult] = {}
        self._over: ConnectionLost | None = None

    # -- for the client ----------------------------------------------------------------------

    def close(self, reason: str) -> None:
        """Ends in good order."""
        self.stopping = True
        self._session.goodbye(reason)
        self._finish(ConnectionLost(f"The connection was closed here: {reason}."))

    def abort(self) -> None:
        """Cuts the connection, if there is one; what is pending fails."""
        self.stopping = True
        self._finish(ConnectionLost("The connection was given up here."))
        if self._connection is not None:
            self._connection.abort()

    async def gone(self) -> None:
        """Waits until the connection is no more."""
        if self._connection is not None:
            await asyncio.shield(self._gone)

    # -- for the replica (see `Calls`) -------------------------------------------------------

    @property
    def queue_tick(self) -> int:
        """Of the source."""
        return self._session.follower.queue_tick

    @property
    def machine_tick(self) -> int:
        """Of the source."""
        return self._session.follower.machine_tick

    def call(self, type_: MutationType, states: list[int], args: object) -> RemoteResult:
        """Sends a mutation; on a connection that is gone, the result fails."""
        if self._over is not None:
            result = RemoteResult(self, 0)
            result.settle(Outcome.ERROR, NIL, self._over)
            return result
        raw = NIL if args is None else wire.encode(args, "The arguments")
        seq = self._session.mutate(type_, states, raw)
        result = self._results[seq] = RemoteResult(self, seq)
        if self._connection is not None:
            self._connection.hurry()
        return result

    def cancel(self, seq: int) -> None:
        """Tells the source that nobody waits for the answer any more."""
        self._session.cancel(seq)
        if self._connection is not None:
            self._connection.hurry()

    # -- the connection's handler ------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """See `Handler`."""
        self._connection = connection
        if self._over is not None:
            connection.abort()
        else:
            self._client.link_connected()
            connection.wake()

    def received(self, data: bytes) -> None:
        """See `Handler`."""
        try:
            for event in self._session.receive(data):
                if type(event) is Answered:
                    self._answered(event)
                elif type(event) is Advanced and self._replica is not None:
                    self._replica.advance(event.pairs)
                else:
                    self._other(event)
        except Exception as error:  # a fault here: recorded, and the connection is given up
            self._client.machine.add_err(error)
            self._session.fail(RpcError("The client failed; its own log says why."))
            self._lost(error)

    def sink(self) -> None:
        """See `Handler`: nothing is bulk."""

    def sunk(self, count: int) -> None:
        """See `Handler`."""

    def outgoing(self) -> bytes:
        """See `Handler`."""
        return self._session.to_send()

    def lost(self, error: Exception | None) -> None:
        """See `Handler`."""
        if not self._gone.done():
            self._gone.set_result(None)
        because = "" if error is None else f" ({error})"
        self._lost(ConnectionLost(f"The connection was cut{because}."))

    # -- inside ------------------------------------------------------------------------------

    def _answered(self, event: Answered) -> None:
        result = self._results.pop(event.seq)
        if event.outcome is Outcome.ERROR:
            result.settle(event.outcome, NIL, wire.error_from_raw(event.value))
        else:
            result.settle(event.outcome, event.value, None)

    def _other(self, event: Event | Called) -> None:
        if isinstance(event, Opened):
            self._replica = self._client.link_opened(self, event)
            if not self.opened.done():
                self.opened.set_result(None)
        elif isinstance(event, Delivered) and self._replica is not None:
            self._client.link_delivered(self._replica.source_id, event)
        elif isinstance(event, Resynced):
            self._client.link_resynced()
        elif isinstance(event, Closed):
            self._lost(event.error)

    def _lost(self, cause: Exception) -> None:
        """The end, if it was not this side that wanted it."""
        if self._over is not None:
            return
        if isinstance(cause, ConnectionLost):
            error = cause
        else:
            error = ConnectionLost(f"The connection ended: {cause}")
            error.__cause__ = cause
        was_open = self._replica is not None
        self._refuse_opening(cause)
        self._finish(error)
        if was_open and not self.stopping:
            self._client.link_lost(self, error, cause)

    def _finish(self, error: ConnectionLost) -> None:
        """Everything that is pending fails, once."""
        if self._over is not None:
            return
        self._over = error
        self._refuse_opening(error)
        if self._connection is not None:
            self._connection.close()
        results, self._results = self._results, {}
        for result in results.values():
            result.settle(Outcome.ERROR, NIL, error)
        if self._replica is not None:
            self._replica.lose(error)

    def _refuse_opening(self, error: Exception) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # nobody may be waiting for it
