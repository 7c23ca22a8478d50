"""Connections over stream sockets, whichever family those are of.

Beside the rules of the port:

1. The protocol of a transport is a `_Sink` exactly while the handler has a sink: what it reads
   is never more than fits, so that no byte behind the view is taken with it.
2. A handler is made for a peer only when it may be one: of a Unix socket its user is checked,
   by both ends, and of TLS its certificate.
3. A Unix socket loses nothing that a peer wrote before it was gone: loops end a transport at
   the first write that fails, so what stands unread then is read.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from amnode.errors import AuthError
from amnode.rpc.address import Address, endpoint
from amnode.rpc.transport.failures import tls_error
from amnode.rpc.transport.port import NETWORK, Accept, Buffer, Connection, Handler, Listener

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

#: Seconds for the handshake of TLS, which the loop makes before there is a handler; nothing but
#: this bounds who is at it.
TLS_HANDSHAKE: Final = 5.0
#: Connections that the kernel completes before they are accepted.
_BACKLOG: Final = 1024
#: Bytes that a transport holds before nothing more is asked for. What it holds at most is this
#: and one answer of the handler; more than this made bulk no faster.
_WRITE_LIMIT: Final = 64 * 1024
#: Bytes that are read at a time of what is left (rule 3).
_REST: Final = 64 * 1024
#: Buffers below so many bytes are joined where a loop writes one at a time.
_JOINED: Final = 64 * 1024
#: Where Linux tells how many bytes the other end has acknowledged: `tcpi_bytes_acked` of its
#: `tcp_info`, the last field that is asked for.
_BYTES_ACKED: Final = 120
_TCP_INFO_SIZE: Final = _BYTES_ACKED + 8


class StreamConnection(Connection, asyncio.Protocol):
    """One end of a stream socket: the protocol of its transport, while there is no sink.

    One that connects is *made* only when the loop has taken its socket over, a turn after
    `connection_made`. uvloop forgets to close a socket whose transport ended before that, so an
    end that is wanted earlier waits until then.
    """

    def __init__(self, scheme: str, peer: str, close_timeout: float) -> None:
        super().__init__(scheme, peer, close_timeout)
        self._transport: asyncio.Transport | None = None
        # uvloop writes a sequence with one system call, and TLS encrypts it piece by piece.
        # The standard loop of Python 3.11 joins it, and that of 3.12.0 to 3.12.8 never pauses.
        self._scatters = self._gathers or scheme == "tls"
        self._made = True
        self._end_wanted: Callable[[], None] | None = None

    def settle(self, sock: socket.socket) -> None:
        """The loop has taken the socket over."""
        self._made = True
        if self._lost:
            sock.detach()  # its descriptor went with the transport
        elif self._end_wanted is not None:
            self._end_wanted()

    def start(self, transport: asyncio.Transport, handler: Handler) -> None:
        """There is a transport, and what it drives."""
        self._transport = transport
        transport.set_write_buffer_limits(_WRITE_LIMIT)
        self._begin(handler)

    def pause_reading(self) -> None:
        """See `Connection.pause_reading`."""
        if self._transport is not None and not self.closing:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See `Connection.resume_reading`."""
        if self._transport is not None and not self.closing:
            self._transport.resume_reading()

    @property
    def flushed(self) -> bool:
        """See `Connection`."""
        transport = self._transport
        return transport is not None and not transport.get_write_buffer_size()

    def data_received(self, data: bytes) -> None:
        """Bytes came; called by the loop, as the next three are."""
        self._take(data)

    def pause_writing(self) -> None:
        """The transport holds enough (rule 4 of the port)."""
        self._paused = True
        if self.stall_timeout is not None and not self.closing:
            self._watch(self.stall_timeout)

    def resume_writing(self) -> None:
        """It has room again."""
        self._paused = False
        self._forget_stall()
        self.wake()

    def _watch(self, seconds: float) -> None:
        """Looks whether the peer reads: in so many seconds, and again while it does."""
        before = self._untaken()

        def look() -> None:
            if not self.closing and self._untaken() < before:
                self._watch(seconds)
            else:
                self.abort()

        self._stall = self._loop.call_later(seconds, look, context=self._context)

    def _untaken(self) -> int:
        """A number that falls as the peer takes what was written.

        Of a network the system is asked for what it has brought across, where it tells: from
        the transport it takes bytes in large steps, and those that TLS has encrypted unseen.
        """
        if self._transport is None:
            return 0
        if self.scheme in NETWORK and sys.platform == "linux":
            sock = self._transport.get_extra_info("socket")
            told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
            return -int.from_bytes(told[_BYTES_ACKED:_TCP_INFO_SIZE], sys.byteorder)
        return self._transport.get_write_buffer_size()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is no more."""
        if exc is not None and self.scheme == "unix" and not self.closing:
            self._read_rest()
        self._view = None
        self._end(tls_error(self.peer, exc) if self.scheme == "tls" else exc)
        self._transport = None

    def _read_rest(self) -> None:
        """Takes what the peer had written before it was gone (rule 3)."""
        assert self._transport is not None
        self._paused = True  # there is nobody to answer
        descriptor = self._transport.get_extra_info("socket").fileno()
        while not self.closing:
            try:
                rest = memoryview(os.read(descriptor, _REST))
            except OSError:  # there is no more
                return
            if not rest:
                return
            while rest and (view := self._view) is not None and not self.closing:
                count = min(len(rest), len(view))
                view[:count] = rest[:count]
                rest = rest[count:]
                self._filled(count)
            if rest:
                self._take(bytes(rest))

    def _write(self, data: bytes | Sequence[Buffer]) -> None:
        if self._transport is None:
            return
        if type(data) is bytes:
            self._transport.write(data)
        elif self._scatters:
            self._transport.writelines(cast("Sequence[Buffer]", data))
        else:
            for piece in _pieces(cast("Sequence[Buffer]", data)):
                self._transport.write(piece)

    @property
    def view(self) -> memoryview:
        """What a `_Sink` reads into."""
        return cast("memoryview", self._view)

    def filled(self, count: int) -> None:
        """A `_Sink` has read so many bytes."""
        self._filled(count)

    def _aim(self, view: memoryview | None) -> None:
        had = self._view is not None
        super()._aim(view)
        if self._transport is not None and had != (self._view is not None):  # rule 1
            self._transport.set_protocol(self if had else _Sink(self))

    def _close(self) -> None:
        if self._transport is not None:
            self._end_with(self._transport.close)

    def _abort(self) -> None:
        if self._transport is not None:
            self._end_with(self._transport.abort)

    def _end_with(self, end: Callable[[], None]) -> None:
        if self._made:
            end()
        else:
            self._end_wanted = end


class Connecting(StreamConnection):
    """The end that connects."""

    def __init__(self, at: Address, peer: str, handler: Handler, close_timeout: float) -> None:
        super().__init__(at.scheme, peer, close_timeout)
        self._given = handler
        self._made = at.scheme == "tls"  # its socket was taken over before the handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is a transport; called by the loop."""
        self.start(cast("asyncio.Transport", transport), self._given)


class _Accepted(StreamConnection):
    """The end that was connected to; has no handler before its peer is admitted (rule 2)."""

    def __init__(self, listener: StreamListener) -> None:
        super().__init__(listener.at.scheme, "", listener.close_timeout)
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        try:
            self.peer = self._listener.named(stream)
        except AuthError:  # a stranger is told nothing, and nobody here waits for it
            self._lost = self.closing = True
            stream.abort()
        else:
            self.start(stream, self._listener.accept())


class _Sink(asyncio.BufferedProtocol):
    """The protocol of a transport that reads straight into a view (rule 1)."""

    def __init__(self, connection: StreamConnection) -> None:
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._connection.view

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.filled(nbytes)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)


class StreamListener(Listener):
    """Accepts at a socket. Holds its server: uvloop closes one that nothing references.

    Args:
        at: its address.
        accept: makes the handler of a connection.
        close_timeout: of its connections.
        who: names who connected, or raises AuthError; None takes the address of the peer.
        on_close: called once when it is closed.
    """

    def __init__(
        self,
        at: Address,
        accept: Accept,
        close_timeout: float,
        *,
        who: Callable[[socket.socket], str] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.address = str(at)
        self.at = at
        self.accept = accept
        self.close_timeout = close_timeout
        self._who = who
        self._on_close = on_close
        self._server: asyncio.Server | None = None
        self._closed = False

    async def serve(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accepts at a bound socket, which is closed if that fails."""
        loop = asyncio.get_running_loop()
        if self.at.scheme == "unix":
            making = loop.create_unix_server(self._make, sock=sock, backlog=_BACKLOG)
        else:
            making = loop.create_server(
                self._make,
                sock=sock,
                backlog=_BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else TLS_HANDSHAKE,
            )
        try:
            self._server, cancelled = await to_its_end(making)
        except BaseException:
            sock.close()
            self.close()
            raise
        if cancelled:
            self.close()
            raise asyncio.CancelledError

    def named(self, transport: asyncio.Transport) -> str:
        """Who connected.

        Raises:
            AuthError: it may not, or comes too late: the handshake of TLS takes its time.
        """
        if self._closed:
            raise AuthError(f"{self.address} accepts no more.")
        if self._who is not None:
            return self._who(transport.get_extra_info("socket"))
        where = transport.get_extra_info("peername")
        return endpoint(*where[:2]) if where else "a peer that is gone"

    def close(self) -> None:
        """See `Listener.close`."""
        if self._closed:
            return
        self._closed = True
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._on_close is not None:
            self._on_close()

    def _make(self) -> _Accepted:
        return _Accepted(self)


def _pieces(buffers: Sequence[Buffer]) -> Generator[Buffer]:
    """The same bytes, small buffers joined and large ones as they are."""
    small: list[Buffer] = []
    for buffer in buffers:
        if len(buffer) < _JOINED:
            small.append(buffer)
            continue
        if small:
            yield b"".join(small)
            small.clear()
        yield buffer
    if small:
        yield b"".join(small)


async def take_over(at: Address, sock: socket.socket, connection: Connecting) -> Connection:
    """Makes a connected socket a connection; the socket is closed if that fails."""
    loop = asyncio.get_running_loop()
    if at.scheme == "unix":
        making = loop.create_unix_connection(lambda: connection, sock=sock)
    else:
        making = loop.create_connection(lambda: connection, sock=sock)
    try:
        _, cancelled = await to_its_end(making)
    except BaseException:
        sock.close()
        raise
    connection.settle(sock)
    if cancelled:
        connection.abort()
        raise asyncio.CancelledError
    return connection


async def to_its_end(work: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """Awaits a step that must not be cut in two; says whether it was cancelled meanwhile.

    A transport whose making is cancelled half-way is half alive: uvloop calls `connection_made`
    and never `connection_lost`, and its descriptor is closed by both. The step takes a turn.
    """
    task = asyncio.get_running_loop().create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    return task.result(), cancelled
