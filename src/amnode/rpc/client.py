"""RpcClient: keeps a replica of a source, over a connection that comes back.

    client = RpcClient("unix:/run/me/door.sock", id="rc-me", secret=secret)
    await client.start()
    await client.source.add1("Open")
    await client.stop()

Rules:

1. `start` ends with a replica that is in step, or with an error and nothing left behind, also
   when it is cancelled.
2. A connection that is cut is made again, within the limits of the options; the session is
   resumed, and the replica stays the same object. What is final ends the client at once: a
   server that says goodbye, does not know the secret any more, or breaks the protocol.
3. The end comes once: what is pending fails, the replica's waits end, and `on_lost` is called,
   unless it was this side that stopped.
4. What its machine says (`ClientStates`) follows what it does; it has no part in a call.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context

import msgspec

from amnode.errors import (
    ConnectionLost,
    OptionError,
    ProtocolError,
    RefusedError,
    RpcError,
    RpcTimeoutError,
)
from amnode.machine.machine import Machine
from amnode.machine.schema import Schema, States
from amnode.rpc.address import parse_address
from amnode.rpc.backoff import Backoff
from amnode.rpc.link import Link
from amnode.rpc.network_machine import NetworkMachine, SelectedMachine
from amnode.rpc.options import MOST_SECONDS, RpcOptions
from amnode.rpc.protocol.client_session import ClientSession
from amnode.rpc.protocol.handshake import ClientHandshake, check_identity
from amnode.rpc.protocol.memory import ClientMemory
from amnode.rpc.protocol.session import Delivered, Opened
from amnode.rpc.protocol.subscription import Subscription, schema_hash
from amnode.rpc.protocol.wire import Role
from amnode.rpc.remote import Conversation
from amnode.rpc.states import ClientStates
from amnode.rpc.transport.by_address import STREAMS
from amnode.rpc.transport.port import NETWORK, Transport

#: What a new start clears: while ErrNetwork is active, no connection is made.
_ERRORS = ("ErrNetwork", "ErrNetworkTimeout", "ErrRpc", "ErrConnecting", "Exception")
#: What ends an attempt to come back that may go better next time (rule 2).
_PASSING = (ConnectionLost, RpcTimeoutError, RefusedError)
#: The shortest push interval that crosses.
_LEAST_INTERVAL = 0.001
#: Why nobody answers, if nobody listens.
_NOBODY = (ConnectionRefusedError, FileNotFoundError)


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
        all_but: whether `states` are those not to follow.
        shallow: whether only activity is of interest: ticks then count the changes seen.
        every: whether each mutation is to arrive on its own: the replica's tracers are told its
            type and the states that it called. Else all of one loop turn arrive as one.
        push_interval: the least time between two updates that nobody asked for, in seconds.
            Default 0: each is sent at once.
        consumer: a machine (with `ConsumerStates`) that gets each payload as a `ServerPayload`.
        on_payload: called with the name and the data of each payload, which counts as taken
            when this has returned.
        private: who gets the payloads of some names, which nobody else hears of.
        on_lost: called once when the connection is lost for good, unless `stop` ended it.
        comes_back: whether a server at whose address nobody listens any more may come back.
            False takes that for its end, at once.
        options: the limits.
        transport: how to reach the server.
        entropy: fresh random bytes, as `os.urandom` makes them.

    Attributes:
        machine: what the client says of itself (`ClientStates`).
        scheme: of the last connection, such as "unix"; "" before the first.

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
        all_but: bool = False,
        shallow: bool = False,
        every: bool = False,
        push_interval: float = 0.0,
        consumer: Machine | None = None,
        on_payload: Callable[[str, msgspec.Raw], None] | None = None,
        private: Mapping[str, Callable[[msgspec.Raw], None]] | None = None,
        on_lost: Callable[[Exception], None] | None = None,
        comes_back: bool = True,
        options: RpcOptions | None = None,
        transport: Transport = STREAMS,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if role not in tuple(Role):
            raise OptionError(f"{role!r} is no role; use {' or '.join(Role)}.")
        if not secret:
            raise OptionError("The secret is empty; a client has to have one.")
        if push_interval and not _LEAST_INTERVAL <= push_interval <= MOST_SECONDS:
            raise OptionError(
                f"push_interval is {push_interval}; it must be 0, or from {_LEAST_INTERVAL} to "
                f"{MOST_SECONDS} s."
            )
        if all_but and states is None:
            raise OptionError("all_but is set, and no states are named; name some.")
        self.id = check_identity(id)
        self.machine = Machine(ClientStates, id=id)
        self._address = address
        self._secret = secret
        self._schema = schema.schema() if isinstance(schema, type) else schema
        self._role = Role(role)
        self._subscription = Subscription(
            None if states is None else tuple(states), all_but, shallow, every, push_interval
        )
        self._consumer = consumer
        self._on_payload = on_payload
        self._private = private or {}
        self._on_lost = on_lost
        self._comes_back = comes_back
        self._options = options or RpcOptions()
        self._transport = transport
        self._entropy = entropy
        self.scheme = ""
        self._link: Link | None = None
        #: The last link that ended; its connection may still be closing.
        self._left: Link | None = None
        self._returning: asyncio.Task[None] | None = None
        self._backoff: Backoff | None = None
        #: When the last connection was opened.
        self._opened_at = 0.0
        self._conversation: Conversation | None = None
        self._source: NetworkMachine | None = None

    def __repr__(self) -> str:
        return f"<RpcClient {self.id} to {self._address}>"

    @property
    def address(self) -> str:
        """Where the source is."""
        return self._address

    @property
    def options(self) -> RpcOptions:
        """The limits."""
        return self._options

    @property
    def source(self) -> NetworkMachine:
        """The replica of the last start.

        Raises:
            RpcError: no start has succeeded yet.
        """
        if self._source is None:
            raise RpcError(f"Client {self.id} has no replica before its first start.")
        return self._source

    async def __aenter__(self) -> RpcClient:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

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
        if self._link is not None or self._returning is not None:
            raise RpcError(f"Client {self.id} is started already; stop it first.")
        self._conversation = self._backoff = None
        self.machine.remove(_ERRORS)
        self.machine.add(("Start", "Connecting"))
        link = self._link = self._new_link(ClientMemory(self._options))
        try:
            await self._connect(link)
        except (Exception, asyncio.CancelledError) as error:
            if not link.stopping:
                self._failed(error)
            link.close("the client gave up")  # a server that has opened the session drops it
            self._ended(link)
            try:
                await link.gone()
            finally:
                link.abort()
            raise

    async def stop(self) -> None:
        """Ends the connection in good order; calling it again changes nothing.

        What is pending fails with `ConnectionLost`. A `start` that is under way fails likewise.
        """
        over = ConnectionLost("The connection was closed here: the client stops.")
        if self._returning is not None:
            self._returning.cancel()
            self._end(over)
            await asyncio.wait([self._returning])
        link = self._link
        if link is not None:
            self.machine.add1("Disconnecting")
            link.close("the client stops")
        elif (link := self._left) is None:
            return
        self._end(over)
        try:
            await link.gone()
        finally:
            link.abort()
            self._ended(link)

    # -- connecting ------------------------------------------------------------------------

    def _new_link(self, memory: ClientMemory) -> Link:
        options = self._options
        scheme = parse_address(self._address).scheme
        handshake = ClientHandshake(
            self.id,
            self._role,
            self._secret,
            self._entropy(32),
            keepalive=round(options.keepalive * 1000) if scheme in NETWORK else 0,
            resume=memory.ticket,
        )
        session = ClientSession(
            handshake, memory, self._schema, self._subscription, self._options
        )
        return Link(self, session)

    async def _connect(self, link: Link) -> None:
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

    async def _return(self, conversation: Conversation, lost: ConnectionLost) -> None:
        """Tries to come back, until it is back or that is hopeless (rule 2)."""
        loop = asyncio.get_running_loop()
        backoff = self._backoff
        if backoff is None or loop.time() - self._opened_at >= self._options.reconnect_cap:
            backoff = self._backoff = Backoff(self._options, loop.time())
        error: Exception = lost
        while (delay := backoff.next(loop.time(), self._chance())) is not None:
            await asyncio.sleep(delay)
            try:
                async with asyncio.timeout(backoff.left(loop.time())):
                    await self._attempt(conversation)
            except TimeoutError as failed:
                error = failed if isinstance(failed, RpcTimeoutError) else error
            except _PASSING as failed:
                error = failed
                if not self._comes_back and isinstance(failed.__cause__, _NOBODY):
                    break
            except Exception as failed:
                self._give_up(failed, failed)
                return
            else:
                return
        self._give_up(ConnectionLost(f"{lost} {backoff.exhausted()}: {error}"), error)

    def _chance(self) -> float:
        """A random number from 0 to 1."""
        return int.from_bytes(self._entropy(4), "little") / 0xFFFF_FFFF

    async def _attempt(self, conversation: Conversation) -> None:
        self.machine.remove(_ERRORS)
        self.machine.add(("RetryingConn", "Connecting"))
        if len(conversation):
            self.machine.add1("RetryingCall")
        link = self._link = self._new_link(conversation.memory)
        try:
            await self._connect(link)
        except BaseException as error:
            self._link = None
            link.abort()
            if isinstance(error, Exception):
                self._attempt_failed(error)
            await link.gone()
            raise

    def _attempt_failed(self, error: Exception) -> None:
        if self.machine.not1("Connected"):
            self.machine.add_err_state("ErrConnecting", error)
        else:
            self._record(error)
            self.machine.add1("Disconnected")
            self.machine.add1("RetryingConn")

    def _give_up(self, error: Exception, cause: Exception) -> None:
        """There is no way back."""
        self._returning = None
        self.machine.add1("ConnRetryFailed")
        self._lose(error, cause)

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

    def _ended(self, link: Link | None) -> None:
        if self._link is link:
            self._link = None
            self.machine.add1("Disconnected")
            self.machine.remove(("Start", "RetryingConn", "RetryingCall"))
        if link is not None:
            self._left = link

    def _end(self, error: ConnectionLost) -> None:
        """The session is over."""
        if self._conversation is not None:
            self._conversation.end(error)
        if self._source is not None:
            self._source.lose(error)

    def _lose(self, error: Exception, cause: Exception) -> None:
        """The end, if it was not this side that wanted it (rule 3)."""
        self._record(cause)
        lost = error
        if not isinstance(lost, ConnectionLost):
            lost = ConnectionLost(f"The connection ended: {error}")
            lost.__cause__ = error
        if self._conversation is not None and len(self._conversation):
            self.machine.add1("CallRetryFailed")
            self.machine.remove1("CallRetryFailed")
        self._ended(self._link)
        self._end(lost)
        if self._on_lost is not None:
            try:
                self._on_lost(lost)
            except Exception as raised:
                self.machine.add_err(raised)

    # -- what the link tells -----------------------------------------------------------------

    def link_connected(self) -> None:
        """There is a connection; the handshake may be faster than `start`."""
        link = self._link
        if link is not None and link.connection is not None:
            self.scheme = link.connection.scheme
        self.machine.add1("Connected")

    def link_opened(self, link: Link, event: Opened) -> tuple[Conversation, NetworkMachine]:
        """The handshake is done."""
        conversation, source = self._conversation, self._source
        self._opened_at = asyncio.get_running_loop().time()
        assert link.connection is not None  # it brought the event
        if conversation is None or source is None:
            conversation = self._conversation = Conversation(link.session, link.connection)
            source = self._source = self._new_replica(event, conversation)
        else:
            self._go_on(link, event, conversation, source)
        self.machine.add1("HandshakeDone")
        self.machine.remove1("RetryingCall")
        return conversation, source

    def _go_on(
        self,
        link: Link,
        event: Opened,
        conversation: Conversation,
        source: NetworkMachine,
    ) -> None:
        """The connection is back."""
        if schema_hash(event.schema) != schema_hash(source.schema):
            raise ProtocolError(
                "The source has other states than before; a new client has to be made."
            )
        assert link.connection is not None
        if not conversation.go_on(link.session, link.connection):
            error = ConnectionLost("The session was lost; what was asked in it has failed.")
            self.machine.add1("CallRetryFailed")
            self.machine.add_err_state("ErrNetwork", error)
            self.machine.remove(("CallRetryFailed", "ErrNetwork", "Exception"))
        shallow = self._subscription.shallow
        source.reload(event.machine_id, event.incarnation, event.pairs, shallow=shallow)

    def _new_replica(self, event: Opened, conversation: Conversation) -> NetworkMachine:
        replica_id = f"rnm-{self.id.removeprefix('rc-')}"
        if event.selected is None:
            source = NetworkMachine(
                event.schema,
                id=replica_id,
                source_id=event.machine_id,
                incarnation=event.incarnation,
                calls=conversation,
            )
        else:
            source = SelectedMachine(
                event.schema,
                id=replica_id,
                source_id=event.machine_id,
                incarnation=event.incarnation,
                calls=conversation,
                selected=event.selected,
            )
        source.load(event.pairs)
        return source

    def link_delivered(self, source_id: str, event: Delivered) -> None:
        """A payload came."""
        if event.name in self._private:
            self._private[event.name](event.data)
            return
        args = PayloadArgs(event.name, event.data, source_id)
        self.machine.add1("ServerPayload", args)
        try:
            if self._consumer is not None:
                self._consumer.add1("ServerPayload", args)
            if self._on_payload is not None:
                self._on_payload(event.name, event.data)
        except Exception as error:
            self.machine.add_err_state("ErrDelivery", error)

    def link_announced(self) -> None:
        """A large value is on its way."""
        self.machine.add1("ServerDelivering")

    def link_resynced(self) -> None:
        """A checksum was wrong."""
        self.machine.add1("MetricSync")

    def link_lost(self, link: Link, cause: Exception, *, final: bool) -> None:
        """The connection of an open link has ended, and not by `stop` (rules 2 and 3)."""
        conversation = self._conversation
        if self._link is not link or conversation is None:
            return
        error = cause if isinstance(cause, ConnectionLost) else None
        if final or self._options.reconnect_tries == 0:
            self._lose(cause, cause)
            return
        self._link, self._left = None, link
        conversation.cut()
        self._record(cause)
        self.machine.add1("Disconnected")
        self.machine.add1("RetryingConn")
        lost = error or ConnectionLost(str(cause))
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._return(conversation, lost), context=Context())
        self._returning = task
        task.add_done_callback(self._returned)

    def _returned(self, task: asyncio.Task[None]) -> None:
        if self._returning is task:
            self._returning = None
        if task.cancelled():
            self._ended(None)  # by `stop`, which may have been cancelled itself
        elif (error := task.exception()) is not None:
            self.machine.add_err(error)
