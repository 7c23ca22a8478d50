"""Connections: the only file that opens a socket.

    unix:PATH        a Unix stream socket; only its owner may connect (mode 0600)
    memory:NAME      two ends in one event loop; no socket at all
    tcp:HOST:PORT    TCP without delay; on loopback only, unless plaintext is allowed in words
    tls:HOST:PORT    TLS 1.2 or newer over TCP

A driver is a `Handler`. It does not write: it *wakes* its connection, which asks it for its
`outgoing` bytes once, as late as the loop turn allows. Bulk is not joined before it is written,
and read straight into the handler's `sink`.

One file, though long: it alone may open sockets, and the kinds of them share what follows.
Rules:

1. All that a turn has to say leaves as one write. What is said while bytes are being received
   leaves when they have been taken, the rest at the end of the turn.
2. A handler exists before its connection does; nothing that arrives can be missed.
3. `lost` is called exactly once for each connection that was `connected`, and last.
4. While the peer does not read, nothing is asked for: states that move meanwhile are merged.
5. A closing connection may take `close_timeout` seconds to write what is left, then it is cut.
6. Callbacks run in a context of their own, so that no cause of a mutation sticks to them.
7. The protocol of a transport is a `_Sink` exactly while the handler has a sink: what it reads
   is never more than fits, so that no byte behind the view is taken with it.
8. A handler is made for a peer only when it may be one: of a Unix socket its user is checked,
   by both ends, and of TLS its certificate.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, cast
from weakref import WeakValueDictionary

from amnode.errors import AuthError, ConnectionLost, OptionError
from amnode.rpc.address import Address, endpoint, is_loopback, parse_address, plain

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

#: What can be written. It is kept, not copied, until the system has it: never change it after.
Buffer: TypeAlias = bytes | bytearray | memoryview

#: Connections that the kernel completes before they are accepted.
_BACKLOG: Final = 1024
#: Seconds between two attempts on a Unix listener whose backlog is full; there is no event for
#: it. The caller's own deadline bounds them.
_BACKLOG_PAUSE: Final = 0.01
#: The longest path that fits the address of a Unix socket.
_MAX_UNIX_PATH: Final = 107
#: What a path through a directory descriptor takes in front of the name.
_MAX_UNIX_NAME: Final = _MAX_UNIX_PATH - len("/proc/self/fd/1234567/")
#: The schemes of connections whose end the system may not tell.
NETWORK: Final = ("tcp", "tls")
#: Bytes that a transport holds before nothing more is asked for (rule 4). What it holds at most
#: is this and one answer of the handler; more than this made bulk no faster.
_WRITE_LIMIT: Final = 64 * 1024
#: Buffers below so many bytes are joined where a loop writes one at a time.
_JOINED: Final = 64 * 1024
#: Seconds that an address of a host has before the next is tried beside it; RFC 8305 has it.
_HEAD_START: Final = 0.25
#: Seconds for the handshake of TLS, which the loop makes before there is a handler; nothing but
#: this bounds who is at it.
_TLS_HANDSHAKE: Final = 5.0
#: The number of TLS 1.2, the oldest version that is spoken.
_TLS_1_2: Final = 0x0303
#: Where the system tells the user at the other end of a Unix socket: Linux, and macOS (its
#: SOL_LOCAL and LOCAL_PEERCRED). Both put the user's number into the same four bytes.
_PEER_CREDENTIALS: Final = (
    (socket.SOL_SOCKET, socket.SO_PEERCRED) if hasattr(socket, "SO_PEERCRED") else (0, 1)
)
_ROOT: Final = 0
#: Where Linux tells how many bytes the other end has acknowledged: `tcpi_bytes_acked` of its
#: `tcp_info`, the last field that is asked for.
_BYTES_ACKED: Final = 120
_TCP_INFO_SIZE: Final = _BYTES_ACKED + 8


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


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a Unix socket, as it was when it connected or listened."""
    credentials = sock.getsockopt(*_PEER_CREDENTIALS, 76)
    return int.from_bytes(credentials[4:8], sys.byteorder)


class _Users:
    """Which users may be at the other end of a Unix socket (rule 8)."""

    def __init__(self, allowed: frozenset[int], uid_of: Callable[[socket.socket], int]) -> None:
        self._allowed = allowed
        self._uid_of = uid_of

    def peer(self, sock: socket.socket) -> int:
        """The user at the other end.

        Raises:
            AuthError: it may not be there.
        """
        try:
            uid = self._uid_of(sock)
        except OSError as error:
            raise AuthError(f"The user at the other end is unknown: {_why(error)}.") from error
        if uid not in (os.geteuid(), _ROOT) and uid not in self._allowed:
            raise AuthError(
                f"The other end of the Unix socket is of user {uid}, neither ours nor root; "
                f"if that is right, pass StreamTransport(allow_uids=frozenset({{{uid}}}))."
            )
        return uid


def _check_version(option: str, context: ssl.SSLContext | None) -> None:
    if context is not None and context.minimum_version < _TLS_1_2:
        raise OptionError(
            f"{option} allows {context.minimum_version.name}; set its minimum_version to "
            "ssl.TLSVersion.TLSv1_2."
        )


def _check_verifies(context: ssl.SSLContext | None) -> None:
    if context is not None and not context.verify_mode:
        raise OptionError(
            "client_tls trusts every server: its verify_mode is CERT_NONE; set it to "
            "ssl.CERT_REQUIRED and load the certificate of who signs for your servers."
        )


def _needed(at: Address, option: str, context: ssl.SSLContext | None) -> ssl.SSLContext:
    if context is None:
        raise OptionError(f"{at} needs TLS; pass StreamTransport({option}=SSLContext).")
    return context


class StreamTransport:
    """Every address that `amnode.rpc.address` lists.

    Args:
        server_tls: what listeners on `tls:` addresses show and ask for; one whose `verify_mode`
            is `CERT_REQUIRED` serves only who shows a certificate.
        client_tls: what connections to `tls:` addresses trust and show.
        allow_plaintext: whether `tcp:` may be listened on off loopback, where others can read
            along.
        allow_uids: users at the other end of a Unix socket, beside one's own and root.
        uid_of: tells the user at the other end.

    Raises:
        OptionError: a TLS context that is too weak to protect anything.
    """

    def __init__(
        self,
        *,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        allow_plaintext: bool = False,
        allow_uids: frozenset[int] | None = None,
        uid_of: Callable[[socket.socket], int] = peer_uid,
    ) -> None:
        _check_version("server_tls", server_tls)
        _check_version("client_tls", client_tls)
        _check_verifies(client_tls)
        self._server_tls = server_tls
        self._client_tls = client_tls
        self._allow_plaintext = allow_plaintext
        self._users = _Users(allow_uids or frozenset(), uid_of)
        self._listeners: WeakValueDictionary[str, _MemoryListener] = WeakValueDictionary()

    async def listen(self, address: str, accept: Accept, *, close_timeout: float) -> Listener:
        """See `Transport.listen`."""
        at = parse_address(address)
        if at.scheme == "memory":
            return self._listen_memory(at, accept, close_timeout)
        if at.scheme == "unix":
            making = lambda: _listen_unix(at, accept, close_timeout, self._users)  # noqa: E731
        else:
            tls = _needed(at, "server_tls", self._server_tls) if at.scheme == "tls" else None
            allowed = self._allow_plaintext or tls is not None
            making = lambda: _listen_tcp(at, accept, close_timeout, tls, allowed)  # noqa: E731
        return await _without_cause(making, lambda made: made.close())

    async def connect(
        self, address: str, handler: Handler, *, close_timeout: float
    ) -> Connection:
        """See `Transport.connect`."""
        at = parse_address(address)
        if at.scheme == "memory":
            return self._connect_memory(at, handler, close_timeout)
        if at.scheme == "unix":
            making = lambda: _connect_unix(at, handler, close_timeout, self._users)  # noqa: E731
        elif not at.port:
            raise OptionError(f"{address} has no port to connect to; 0 is for listening.")
        elif at.scheme == "tcp":
            making = lambda: _connect_tcp(at, handler, close_timeout)  # noqa: E731
        else:
            tls = _needed(at, "client_tls", self._client_tls)
            making = lambda: _connect_tls(at, handler, close_timeout, tls)  # noqa: E731
        return await _without_cause(making, lambda made: made.abort())

    def _listen_memory(
        self, at: Address, accept: Accept, close_timeout: float
    ) -> _MemoryListener:
        taken = self._listeners.get(at.name)
        if taken is not None and taken.open_here():
            raise ConnectionLost(f"{at} is taken.")
        listener = _MemoryListener(at, accept, close_timeout)
        self._listeners[at.name] = listener
        return listener

    def _connect_memory(
        self, at: Address, handler: Handler, close_timeout: float
    ) -> Connection:
        listener = self._listeners.get(at.name)
        if listener is None or not listener.open_here():
            raise ConnectionLost(f"Nobody listens at {at}.")
        return listener.connect(handler, close_timeout)


#: The transport that drivers use unless they are given another.
STREAMS: Final[Transport] = StreamTransport()


def _gathers_writes(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether all that is written to a transport in one turn leaves as one: uvloop does so."""
    return type(loop).__module__.partition(".")[0] == "uvloop"


async def _without_cause(work: Callable[[], Awaitable[T]], undo: Callable[[T], None]) -> T:
    """Does some work in an empty context (rule 6).

    Args:
        work: what to do.
        undo: called with its result, if it was done at the very turn of a cancellation.
    """

    async def run() -> T:
        return await work()

    task = asyncio.get_running_loop().create_task(run(), context=Context())
    try:
        return await task
    except asyncio.CancelledError:
        if task.done() and not task.cancelled() and task.exception() is None:
            undo(task.result())
        raise


# -- memory ------------------------------------------------------------------------------


class _MemoryConnection(Connection):
    """One of two ends in one loop; what one writes, the other gets a turn later."""

    def __init__(self, name: str, close_timeout: float) -> None:
        super().__init__("memory", name, close_timeout)
        self.other: _MemoryConnection | None = None
        self._reads = True
        #: What came while nothing was read, and what came after that.
        self._unread: deque[bytes | Sequence[Buffer]] = deque()

    def join(self, other: _MemoryConnection) -> None:
        """Makes two ends one connection."""
        self.other, other.other = other, self

    def begin(self, handler: Handler) -> None:
        """Gives it its handler."""
        self._begin(handler)

    def _write(self, data: bytes | Sequence[Buffer]) -> None:
        if self.other is not None:
            self._loop.call_soon(self.other._arrive, data, context=self.other._context)

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True
        self._loop.call_soon(self._catch_up, context=self._context)

    def _catch_up(self) -> None:
        while self._reads and self._unread:
            self._read(self._unread.popleft())

    def _arrive(self, data: bytes | Sequence[Buffer]) -> None:
        if self._reads and not self._unread:
            self._read(data)
        else:
            self._unread.append(data)

    def _read(self, data: bytes | Sequence[Buffer]) -> None:
        if self._view is None and isinstance(data, bytes):
            self._take(data)
        else:
            for buffer in (data,) if isinstance(data, bytes) else data:
                self._pour(memoryview(buffer))

    def _pour(self, rest: memoryview) -> None:
        """Fills the views that there are; what is left is taken."""
        while rest and (view := self._view) is not None:
            count = min(len(rest), len(view))
            view[:count] = rest[:count]
            rest = rest[count:]
            self._filled(count)
        if rest:
            self._take(bytes(rest))

    def _close(self) -> None:
        other, self.other = self.other, None
        self._loop.call_soon(self._end, None, context=self._context)
        if other is not None:
            self._loop.call_soon(other._close_end, context=other._context)

    def _close_end(self) -> None:
        self.other = None
        self._end(None)

    def _abort(self) -> None:
        self._close()


class _MemoryListener(Listener):
    def __init__(self, at: Address, accept: Accept, close_timeout: float) -> None:
        self.address = str(at)
        self._name = at.name
        self._accept = accept
        self._close_timeout = close_timeout
        self._loop = asyncio.get_running_loop()
        self._open = True

    def open_here(self) -> bool:
        """Whether it accepts, in the running loop."""
        return self._open and self._loop is asyncio.get_running_loop()

    def connect(self, handler: Handler, close_timeout: float) -> Connection:
        """Makes both ends; the far one hears of it first."""
        theirs = _MemoryConnection(self._name, self._close_timeout)
        ours = _MemoryConnection(self._name, close_timeout)
        ours.join(theirs)
        theirs.begin(self._accept())
        ours.begin(handler)
        return ours

    def close(self) -> None:
        self._open = False


# -- stream sockets ----------------------------------------------------------------------


class _StreamConnection(Connection, asyncio.Protocol):
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
        if self._transport is not None and not self.closing:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self.closing:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def pause_writing(self) -> None:
        self._paused = True
        if self.stall_timeout is not None and not self.closing:
            self._watch(self.stall_timeout)

    def resume_writing(self) -> None:
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
        self._view = None
        self._end(_tls_error(self.peer, exc) if self.scheme == "tls" else exc)
        self._transport = None

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
        if self._transport is not None and had != (self._view is not None):  # rule 7
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


class _Connecting(_StreamConnection):
    """The end that connects."""

    def __init__(self, at: Address, peer: str, handler: Handler, close_timeout: float) -> None:
        super().__init__(at.scheme, peer, close_timeout)
        self._given = handler
        self._made = at.scheme == "tls"  # its socket was taken over before the handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.start(cast("asyncio.Transport", transport), self._given)


class _ConnectingWithTls(_Connecting):
    """The end that connects with TLS, and knows whether the other ever spoke.

    With TLS 1.3 a client is done before its certificate is looked at, and servers of asyncio
    hang up on one that they refuse without a word.
    """

    _heard = False

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        error = _tls_error(self.peer, exc)
        if not (self._heard or self.closing or isinstance(error, AuthError)):
            error = ConnectionLost(
                f"{self.peer} agreed on TLS, then hung up without a word. If it asks for a "
                "certificate, client_tls needs one that it trusts."
            )
        super().connection_lost(error)


class _Waiting(asyncio.Protocol):
    """Keeps what happens to a transport until TLS is agreed, when a connection takes over."""

    def __init__(self) -> None:
        self._came: list[bytes] = []
        self._error: Exception | None = None
        #: Whether the transport is no more.
        self.lost = False

    def data_received(self, data: bytes) -> None:
        self._came.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost, self._error = True, exc

    def check(self) -> None:
        """Raises what speaks against a handshake: the end, or one who speaks no TLS."""
        if self._came:
            raise AuthError("The other end speaks no TLS: it spoke first; compare the ports.")
        if self.lost:
            raise self._error or ConnectionResetError()

    def hand_over(self, transport: asyncio.Transport, connection: _Connecting) -> None:
        """The connection sees all that happened, in order (rule 2)."""
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._came:
            connection.data_received(b"".join(self._came))
        if self.lost:
            connection.connection_lost(self._error)


class _Accepted(_StreamConnection):
    """The end that was connected to; has no handler before its peer is admitted (rule 8)."""

    def __init__(self, listener: _StreamListener) -> None:
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
    """The protocol of a transport that reads straight into a view (rule 7)."""

    def __init__(self, connection: _StreamConnection) -> None:
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


class _StreamListener(Listener):
    """Accepts at a socket. Holds its server: uvloop closes one that nothing references."""

    def __init__(
        self, at: Address, accept: Accept, close_timeout: float, users: _Users | None = None
    ) -> None:
        self.address = str(at)
        self.at = at
        self.accept = accept
        self.close_timeout = close_timeout
        self._users = users
        self._file: tuple[int, int] | None = None
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
                ssl_handshake_timeout=None if tls is None else _TLS_HANDSHAKE,
            )
        try:
            self._server, cancelled = await _to_its_end(making)
        except BaseException:
            sock.close()
            self.close()
            raise
        if cancelled:
            self.close()
            raise asyncio.CancelledError

    def owns(self, file: tuple[int, int]) -> None:
        """The file that its address names, to be removed with it."""
        self._file = file

    def named(self, transport: asyncio.Transport) -> str:
        """Who connected.

        Raises:
            AuthError: it may not, or comes too late: the handshake of TLS takes its time.
        """
        if self._closed:
            raise AuthError(f"{self.address} accepts no more.")
        if self._users is not None:
            return f"user {self._users.peer(transport.get_extra_info('socket'))}"
        where = transport.get_extra_info("peername")
        return endpoint(*where[:2]) if where else "a peer that is gone"

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._file is not None:
            _remove_own(self.at.name, self._file)

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


async def _take_over(at: Address, sock: socket.socket, connection: _Connecting) -> Connection:
    """Makes a connected socket a connection; the socket is closed if that fails."""
    loop = asyncio.get_running_loop()
    if at.scheme == "unix":
        making = loop.create_unix_connection(lambda: connection, sock=sock)
    else:
        making = loop.create_connection(lambda: connection, sock=sock)
    try:
        _, cancelled = await _to_its_end(making)
    except BaseException:
        sock.close()
        raise
    connection.settle(sock)
    if cancelled:
        connection.abort()
        raise asyncio.CancelledError
    return connection


async def _take_over_with_tls(
    at: Address, sock: socket.socket, connection: _Connecting, tls: ssl.SSLContext
) -> Connection:
    """The same with TLS, in two steps.

    uvloop, told to do both at once, closes the descriptor of a socket whose handshake fails at
    its start, and leaves the socket to close it once more, when it is another's.
    """
    loop = asyncio.get_running_loop()
    waiting = _Waiting()
    try:
        made, cancelled = await _to_its_end(loop.create_connection(lambda: waiting, sock=sock))
    except BaseException:
        sock.close()
        raise
    try:
        if cancelled:
            raise asyncio.CancelledError
        waiting.check()
        stream = await loop.start_tls(
            made[0],
            waiting,
            tls,
            server_hostname=at.name,
            ssl_handshake_timeout=_TLS_HANDSHAKE,
        )
    except BaseException:
        made[0].abort()
        raise
    waiting.hand_over(cast("asyncio.Transport", stream), connection)
    return connection


async def _to_its_end(work: Coroutine[Any, Any, T]) -> tuple[T, bool]:
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


# -- Unix sockets ------------------------------------------------------------------------


async def _listen_unix(
    at: Address, accept: Accept, close_timeout: float, users: _Users
) -> Listener:
    sock = _unix_socket()
    path = at.name
    try:
        file = _bind(sock, path)
    except OSError as error:
        sock.close()
        raise ConnectionLost(f"{at} cannot be listened on: {error.strerror}.") from error
    except OptionError:
        sock.close()
        raise
    listener = _StreamListener(at, accept, close_timeout, users)
    listener.owns(file)
    await listener.serve(sock)
    return listener


async def _connect_unix(
    at: Address, handler: Handler, close_timeout: float, users: _Users
) -> Connection:
    sock = _unix_socket()
    try:
        with short_path(at.name) as short:
            while not _try_connect(sock, short):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(_BACKLOG_PAUSE)
        users.peer(sock)
        return await _take_over(at, sock, _Connecting(at, at.name, handler, close_timeout))
    except OSError as error:
        sock.close()
        raise ConnectionLost(f"Nobody answers at {at}: {error.strerror}.") from error
    except BaseException:
        sock.close()
        raise


def _unix_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _try_connect(sock: socket.socket, path: str) -> bool:
    """Connects, at once as Unix sockets do; False if the backlog is full."""
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True


def _bind(sock: socket.socket, path: str) -> tuple[int, int]:
    """Binds, replacing a file that no process listens on; returns the file's identity."""
    # On Linux the file takes the mode of the socket, so that there is no moment at which others
    # may connect.
    os.fchmod(sock.fileno(), 0o600)
    with short_path(path) as short:
        try:
            sock.bind(short)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path, short):
                raise
            os.unlink(path)
            sock.bind(short)
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _is_stale(path: str, short: str) -> bool:
    """Whether a path is a socket that a process left behind."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with _unix_socket() as probe:
        try:
            probe.connect(short)
        except ConnectionRefusedError:
            return True
        except OSError:  # a full backlog, or not ours to know: somebody is there
            return False
    return False


def _remove_own(path: str, file: tuple[int, int]) -> None:
    """Removes a socket's file, unless another has taken its place."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if (found.st_dev, found.st_ino) == file:
        with suppress(FileNotFoundError):
            os.unlink(path)


@contextmanager
def short_path(path: str) -> Generator[str]:
    """The path itself, or one through a descriptor of its directory if it is too long."""
    if len(os.fsencode(path)) <= _MAX_UNIX_PATH:
        yield path
        return
    parent, name = os.path.split(path)
    if len(os.fsencode(name)) > _MAX_UNIX_NAME:
        raise OptionError(
            f"The socket name {name!r} is too long; at most {_MAX_UNIX_NAME} bytes."
        )
    directory = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{name}"
    finally:
        os.close(directory)


# -- TCP and TLS -------------------------------------------------------------------------


async def _listen_tcp(
    at: Address,
    accept: Accept,
    close_timeout: float,
    tls: ssl.SSLContext | None,
    off_loopback: bool,
) -> Listener:
    sock = await _bind_first(at, off_loopback)
    bound = Address(at.scheme, at.name, sock.getsockname()[1])
    listener = _StreamListener(bound, accept, close_timeout)
    await listener.serve(sock, tls)
    return listener


async def _connect_tcp(at: Address, handler: Handler, close_timeout: float) -> Connection:
    sock, where = await _reach_first(at)
    try:
        connection = _Connecting(at, endpoint(*where[:2]), handler, close_timeout)
        return await _take_over(at, sock, connection)
    except OSError as error:
        raise ConnectionLost(f"{at} hung up: {_why(error)}.") from error


async def _connect_tls(
    at: Address, handler: Handler, close_timeout: float, tls: ssl.SSLContext
) -> Connection:
    sock, where = await _reach_first(at)
    try:
        connection = _ConnectingWithTls(at, endpoint(*where[:2]), handler, close_timeout)
        return await _take_over_with_tls(at, sock, connection, tls)
    except OSError as error:
        told = _tls_error(f"{at}", error)
        if isinstance(told, AuthError):
            raise told from error
        raise ConnectionLost(
            f"{at} hung up during the handshake of TLS: {_why(error)}. It may speak no TLS, or "
            "none of version 1.2 at least; its own log may say so."
        ) from error


async def _bind_first(at: Address, off_loopback: bool) -> socket.socket:
    """A socket that is bound to the first address of a host that can be listened on."""
    failed: OSError | None = None
    for family, where in await _addresses(at):
        try:
            return _bind_tcp(at, family, where, off_loopback)
        except OSError as error:
            failed = error
    raise _unusable(f"{at} cannot be listened on", failed)


async def _reach_first(at: Address) -> tuple[socket.socket, Any]:
    """A socket that is connected to the first address of a host that answers, and that."""
    left = deque(_alternating(await _addresses(at)))
    racing: dict[asyncio.Task[socket.socket], Any] = {}
    try:
        sock, where = await _race(at, left, racing)
    finally:
        cancelled = await _give_up(racing)
    if cancelled:
        sock.close()
        raise asyncio.CancelledError
    return sock, where


async def _race(
    at: Address,
    left: deque[tuple[socket.AddressFamily, Any]],
    racing: dict[asyncio.Task[socket.socket], Any],
) -> tuple[socket.socket, Any]:
    """Tries each address with a head start before the next one is tried beside it (RFC 8305).

    One that does not answer keeps nobody from the others. Those that lost are left in `racing`.
    """
    failed: OSError | None = None
    while left or racing:
        if left:
            family, where = left.popleft()
            racing[asyncio.get_running_loop().create_task(_reach(family, where))] = where
        await asyncio.wait(
            racing,
            timeout=_HEAD_START if left else None,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for task in [task for task in racing if task.done()]:
            where = racing.pop(task)
            try:
                return task.result(), where
            except OSError as error:
                failed = error
    raise _unusable(f"Nobody answers at {at}", failed)


async def _give_up(racing: dict[asyncio.Task[socket.socket], Any]) -> bool:
    """Ends what has lost, to its end; says whether it was cancelled meanwhile."""
    for task in racing:
        task.cancel()
    cancelled = False
    while not all(task.done() for task in racing):
        try:
            await asyncio.wait(racing)
        except asyncio.CancelledError:
            cancelled = True
    for task in racing:
        if not task.cancelled() and task.exception() is None:
            task.result().close()
    return cancelled


def _unusable(failure: str, error: OSError | None) -> ConnectionLost:
    """Says why none of the addresses of a host can be used; it raised the last error."""
    lost = ConnectionLost(
        f"{failure}: {'it has no address' if error is None else _why(error)}."
    )
    lost.__cause__ = error
    return lost


def _alternating(
    found: list[tuple[socket.AddressFamily, Any]],
) -> list[tuple[socket.AddressFamily, Any]]:
    """The same addresses, one of IPv6 and one of IPv4 in turn, the best first."""
    first = [each for each in found if each[0] == found[0][0]]
    second = [each for each in found if each[0] != found[0][0]]
    both = min(len(first), len(second))
    turns = [each for pair in zip(first, second, strict=False) for each in pair]
    return turns + first[both:] + second[both:]


async def _addresses(at: Address) -> list[tuple[socket.AddressFamily, Any]]:
    try:
        return await _resolve(at)
    except (OSError, UnicodeError) as error:
        raise ConnectionLost(f"The host of {at} is unknown: {_why(error)}.") from error


async def _resolve(at: Address) -> list[tuple[socket.AddressFamily, Any]]:
    """The addresses of a host, best first. One that is an address is looked up nowhere."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            ip = socket.inet_ntop(family, socket.inet_pton(family, at.name))
            return [(family, (ip, at.port))]
    found = await asyncio.get_running_loop().getaddrinfo(
        at.name, at.port, type=socket.SOCK_STREAM
    )
    return [(family, where) for family, _, _, _, where in found]


def _tcp_socket(family: socket.AddressFamily) -> socket.socket:
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    return socket.socket(family, kind, socket.IPPROTO_TCP)  # or asyncio leaves the delay


async def _reach(family: socket.AddressFamily, where: Any) -> socket.socket:
    sock = _tcp_socket(family)
    try:
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_tcp(
    at: Address, family: socket.AddressFamily, where: Any, off_loopback: bool
) -> socket.socket:
    if not (off_loopback or is_loopback(where[0])):
        raise OptionError(
            f"{at} is not on loopback, and others could read along; listen on tls:, or pass "
            "StreamTransport(allow_plaintext=True)."
        )
    sock = _tcp_socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
    except BaseException:
        sock.close()
        raise
    return sock


def _why(error: Exception) -> str:
    """What the system says; asyncio puts its own words, an address, in its place."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    said = error.strerror if isinstance(error, OSError) else None
    return said or str(error) or "the connection was cut"


def _tls_error(peer: str, error: Exception | None) -> Exception | None:
    """An error of TLS as one of the tree, with what to look at; any other as it is."""
    import ssl  # here, since who uses no TLS needs none of it

    if not isinstance(error, ssl.SSLError):
        return error
    why = getattr(error, "verify_message", None) or error.reason or str(error)
    return AuthError(
        f"No TLS with {peer}: {plain(why)}. Compare the certificates of both sides (by whom, "
        "until when, for which host) and their versions of TLS (1.2 at least)."
    )
