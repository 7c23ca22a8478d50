"""What drivers and transports agree on: the only way in which a driver meets the network.

A driver is a `Handler`. It does not write: it *wakes* its connection, which asks it for its
`outgoing` bytes once, as late as the loop turn allows. Bulk is not joined before it is written,
and read straight into the handler's `sink`.

Rules, which every transport keeps:

1. All that a turn has to say leaves as one write. What is said while bytes are being received
   leaves when they have been taken, the rest at the end of the turn.
2. A handler exists before its connection does; nothing that arrives can be missed.
3. `lost` is called exactly once for each connection that was `connected`, and last.
4. While the peer does not read, nothing is asked for: states that move meanwhile are merged.
5. A closing connection may take `close_timeout` seconds to write what is left, then it is cut.
6. Callbacks run in a context of their own, so that no cause of a mutation sticks to them.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Final, Protocol, TypeAlias

from amnode.rpc.address import plain

#: What can be written. It is kept, not copied, until the system has it: never change it after.
Buffer: TypeAlias = bytes | bytearray | memoryview

#: The schemes of connections whose end the system may not tell.
NETWORK: Final = ("tcp", "tls")


class Handler(Protocol):
    """What a connection drives."""

    def connected(self, connection: Connection) -> None:
        """The connection exists."""
        ...

    def received(self, data: bytes) -> bool | None:
        """Bytes came, in any split. Must not raise.

        Returns:
            False if there is surely neither a sink nor anything to write, so that it is not
            asked for them.
        """
        ...

    def sink(self) -> memoryview | None:
        """Where the next bytes have to go; asked after each `received` and `sunk`.

        A writable view of bytes, which takes exactly as many as it has, or None (or an empty
        one) for `received`.
        """
        ...

    def sunk(self, count: int) -> None:
        """So many bytes of the sink were filled, from its start. Must not raise."""
        ...

    def outgoing(self) -> bytes | Sequence[Buffer]:
        """What there is to write now; asked after `Connection.wake`.

        A sequence is written in its order without being joined. It is asked once: who has more
        wakes the connection from here.
        """
        ...

    def lost(self, error: Exception | None) -> None:
        """The connection is no more; None after an orderly end. Called once, last."""
        ...


class Connection(ABC):
    """One end of a connection.

    Args:
        scheme: of its address.
        peer: who is at the other end.
        close_timeout: see rule 5, in seconds.

    Attributes:
        scheme: "unix", "memory", "tcp" or "tls".
        peer: who is at the other end, for messages: `127.0.0.1:41234`, a path, `user 1000`.
        stall_timeout: seconds that the peer may read nothing while something waits for it,
            before it is cut off (looked at once in so many seconds, so within two of them);
            None waits for ever. The handler sets it.
    """

    _handler: Handler

    def __init__(self, scheme: str, peer: str, close_timeout: float) -> None:
        self.scheme = scheme
        self.peer = plain(peer)
        self._close_timeout = close_timeout
        self._loop = asyncio.get_running_loop()
        self._context = Context()
        self._gathers = _gathers_writes(self._loop)
        self._receiving = False
        self._waking = False
        self._paused = False
        self._view: memoryview | None = None
        #: Whether the connection was closed, at this end or the other.
        self.closing = False
        self._lost = False
        self._cut: asyncio.TimerHandle | None = None
        self.stall_timeout: float | None = None
        self._stall: asyncio.TimerHandle | None = None

    def hand_over(self, handler: Handler) -> None:
        """Gives it another handler, which hears of all that happens from now on."""
        self._handler = handler

    @property
    def flushed(self) -> bool:
        """Whether the system has all that was written."""
        return True

    @property
    def will_ask(self) -> bool:
        """Whether the handler will be asked in this turn anyway."""
        return self._receiving or self._waking

    def wake(self) -> None:
        """The handler has something to write (rule 1)."""
        if not (self._receiving or self._waking):
            self._waking = True
            self._loop.call_soon(self._flush, context=self._context)

    def hurry(self) -> None:
        """Like `wake`, for what gains nothing by waiting for the end of the turn.

        Where the loop gathers the writes of a turn itself the handler is asked at once.
        """
        if not self._gathers:
            self.wake()
        elif not (self._receiving or self._paused or self.closing):
            data = self._handler.outgoing()
            if data:
                self._write(data)

    def close(self) -> None:
        """Writes what the handler has, then closes; calling it again changes nothing."""
        if self.closing:
            return
        data = self._handler.outgoing()
        self.closing = True
        self._aim(None)
        if data:
            self._write(data)
        self._cut = self._loop.call_later(
            self._close_timeout, self._abort, context=self._context
        )
        self._close()

    def abort(self) -> None:
        """Closes at once; what was not written is dropped."""
        if not self._lost:
            self.closing = True
            self._aim(None)
            self._abort()

    def _begin(self, handler: Handler) -> None:
        """Gives it the handler that it drives (rule 2)."""
        self._handler = handler
        handler.connected(self)

    def _take(self, data: bytes) -> None:
        """Called with what arrived."""
        if self.closing:
            return
        self._receiving = True
        try:
            if self._handler.received(data) is False:
                return
            view = None if self.closing else self._handler.sink()
        finally:
            self._receiving = False
        if view is not None:
            self._aim(view)
        self._flush()

    def _filled(self, count: int) -> None:
        """Called when so many bytes were put into the view."""
        if self.closing:
            return
        self._receiving = True
        try:
            self._handler.sunk(count)
            view = None if self.closing else self._handler.sink()
        finally:
            self._receiving = False
        self._aim(view)
        self._flush()

    def _aim(self, view: memoryview | None) -> None:
        """Has what arrives go into a view, or be taken as it comes."""
        self._view = view or None  # an empty one has no room

    def _flush(self) -> None:
        self._waking = False
        if self._paused or self.closing:  # rule 4
            return
        data = self._handler.outgoing()
        if data:
            self._write(data)

    def _forget_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _end(self, error: Exception | None) -> None:
        """Called when the connection is no more (rule 3)."""
        if self._lost:
            return
        self._lost = self.closing = True
        self._forget_stall()
        if self._cut is not None:
            self._cut.cancel()
        self._handler.lost(error)

    @abstractmethod
    def pause_reading(self) -> None:
        """Takes nothing from the peer until `resume_reading`; again changes nothing."""

    @abstractmethod
    def resume_reading(self) -> None:
        """Takes what comes again."""

    @abstractmethod
    def _write(self, data: bytes | Sequence[Buffer]) -> None: ...
    @abstractmethod
    def _close(self) -> None: ...
    @abstractmethod
    def _abort(self) -> None: ...


class Listener(ABC):
    """Accepts connections until it is closed.

    Attributes:
        address: where clients connect.
    """

    address: str

    @abstractmethod
    def close(self) -> None:
        """Accepts no more; connections that exist go on. Calling it again changes nothing."""


#: Makes the handler of a new connection. Must not raise.
Accept = Callable[[], Handler]


class Transport(Protocol):
    """How drivers reach each other; the simulator has its own."""

    async def listen(self, address: str, accept: Accept, *, close_timeout: float) -> Listener:
        """Starts to accept connections.

        Raises:
            OptionError: the address cannot work, or not without TLS.
            ConnectionLost: it is taken, or the system refuses it.
        """
        ...

    async def connect(
        self, address: str, handler: Handler, *, close_timeout: float
    ) -> Connection:
        """Makes a connection; `handler.connected` was called when it returns.

        Raises:
            OptionError: the address cannot work.
            AuthError: who answers there cannot be trusted, by its user or certificate.
            ConnectionLost: nobody answers there.
        """
        ...


def _gathers_writes(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether all that is written to a transport in one turn leaves as one: uvloop does so."""
    return type(loop).__module__.partition(".")[0] == "uvloop"
