"""Link: one connection of a client, from its hello to its end.

The client makes a link for each attempt; what goes on over several is the `Conversation`.
Rules:

1. The end comes once. It is final if the peer said so, or if either side broke the protocol.
2. A link that was never open only fails its `opened`; one that was open tells its client.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING

from amnode.errors import AmnodeError, AuthError, ConnectionLost, RpcError, RpcTimeoutError
from amnode.machine.queue import MutationType
from amnode.rpc.network_machine import NetworkMachine
from amnode.rpc.protocol.client_session import ClientSession
from amnode.rpc.protocol.flow import Outgoing
from amnode.rpc.protocol.session import (
    Advanced,
    Announced,
    Answered,
    Called,
    Closed,
    Delivered,
    Event,
    Opened,
    Resynced,
    Stepped,
)
from amnode.rpc.pulse import Pulse
from amnode.rpc.remote import Conversation
from amnode.rpc.transport.port import NETWORK, Connection

if TYPE_CHECKING:
    from amnode.rpc.client import RpcClient


class Link:
    """One connection of a client: its handler.

    Args:
        client: whose it is.
        session: of the connection.

    Attributes:
        session: of the connection.
        connection: None before it is made.
        opened: done when the handshake is, or with the error that ended it before.
        stopping: whether this side ends the connection, or gave it up.
    """

    def __init__(self, client: RpcClient, session: ClientSession) -> None:
        loop = asyncio.get_running_loop()
        self.session = session
        self.connection: Connection | None = None
        self.opened: asyncio.Future[None] = loop.create_future()
        self.stopping = False
        self._client = client
        self._gone: asyncio.Future[None] = loop.create_future()
        self._conversation: Conversation | None = None
        self._replica: NetworkMachine | None = None
        self._pulse: Pulse | None = None
        self._late: asyncio.TimerHandle | None = None
        self._over = False

    # -- for the client ----------------------------------------------------------------------

    def close(self, reason: str) -> None:
        """Ends in good order."""
        self.stopping = True
        self.session.goodbye(reason)
        self._finish(ConnectionLost(f"The connection was closed here: {reason}."))

    def abort(self) -> None:
        """Cuts the connection, if there is one."""
        self.stopping = True
        self._finish(ConnectionLost("The connection was given up here."))
        if self.connection is not None:
            self.connection.abort()

    async def gone(self) -> None:
        """Waits until the connection is no more."""
        if self.connection is not None:
            await asyncio.shield(self._gone)

    # -- the connection's handler ------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """See `Handler`."""
        self.connection = connection
        connection.stall_timeout = self._client.options.stall_timeout
        if self._over:
            connection.abort()
        else:
            self._client.link_connected()
            connection.wake()

    def received(self, data: bytes) -> bool:
        """See `Handler`."""
        if self._pulse is not None:
            self._pulse.keepalive.heard = True
        try:
            for event in self.session.receive(data):
                self._happened(event)
        except Exception as error:  # a fault here: recorded, and the connection is given up
            if not isinstance(error, AmnodeError):
                self._client.machine.add_err(error)
            self.session.fail(RpcError("The client failed; its own log says why."))
            self._lost(error, final=True)
        if self.session.is_late and self._late is None and not self._over:
            delay = self._client.options.ack_delay
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(delay, self._ack_late, context=Context())
        return self.session.has_more

    def outgoing(self) -> Outgoing:
        """See `Handler`."""
        data = self.session.to_send()
        if data:
            if self._pulse is not None:
                self._pulse.keepalive.said = True
            if type(data) is not bytes and self.session.ready and self.connection is not None:
                self.connection.wake()
        return data

    def sink(self) -> memoryview | None:
        """See `Handler`."""
        return self.session.sink()

    def sunk(self, count: int) -> None:
        """See `Handler`."""
        if self._pulse is not None:
            self._pulse.keepalive.heard = True
        self.session.sunk(count)

    def lost(self, error: Exception | None) -> None:
        """See `Handler`."""
        if not self._gone.done():
            self._gone.set_result(None)
        if isinstance(error, AmnodeError):  # what a handshake of TLS came to
            self._lost(error, final=isinstance(error, AuthError))
            return
        because = "" if error is None else f" ({error})"
        self._lost(ConnectionLost(f"The connection was cut{because}."), final=False)

    # -- inside ------------------------------------------------------------------------------

    def _happened(self, event: Event | Called) -> None:
        if self._conversation is None or self._replica is None:
            self._opening(event)
        elif type(event) is Answered:
            self._conversation.answered(event)
        elif type(event) is Advanced:
            self._replica.advance(event.pairs)
        elif type(event) is Stepped:
            type_ = MutationType(event.type)
            self._replica.advance(event.pairs, type_, event.called)
        elif isinstance(event, Delivered):
            self._client.link_delivered(self._replica.source_id, event)
        elif isinstance(event, Resynced):
            self._client.link_resynced()
        elif isinstance(event, Announced):
            self._client.link_announced()
        elif isinstance(event, Closed):
            self._lost(event.error, final=True)
        elif isinstance(event, Event):
            self._conversation.happened(event)

    def _opening(self, event: Event | Called) -> None:
        """What may come before the handshake is done."""
        if isinstance(event, Closed):
            self._lost(event.error, final=True)
        elif isinstance(event, Opened):
            self._conversation, self._replica = self._client.link_opened(self, event)
            interval = self.session.keepalive
            connection = self.connection
            if interval and connection is not None and connection.scheme in NETWORK:
                self._pulse = Pulse(interval, self._say_alive, self._dead)
            if not self.opened.done():
                self.opened.set_result(None)

    def _ack_late(self) -> None:
        self._late = None
        self.session.ack_late()
        if self.connection is not None:
            self.connection.wake()

    def _say_alive(self) -> None:
        self.session.say_alive()
        if self.connection is not None:
            self.connection.wake()

    def _dead(self) -> None:
        seconds = 2 * self.session.keepalive
        error = RpcTimeoutError(f"Nothing was heard of the server for {seconds} s.")
        self._lost(error, final=False)
        if self.connection is not None:
            self.connection.abort()

    def _lost(self, cause: Exception, *, final: bool) -> None:
        """The end, if it was not this side that wanted it (rules 1 and 2)."""
        if self._over:
            return
        self._finish(cause)
        if self._conversation is not None and not self.stopping:
            self._client.link_lost(self, cause, final=final)

    def _finish(self, error: Exception) -> None:
        if self._over:
            return
        self._over = True
        for timer in (self._pulse, self._late):
            if timer is not None:
                timer.cancel()
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # nobody may be waiting for it
        if self.connection is not None:
            self.connection.close()
