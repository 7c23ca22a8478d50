"""Connections: the only file that opens a socket.

    unix:PATH     a Unix stream socket; only its owner may connect (mode 0600)
    memory:NAME   two ends in one event loop; no socket at all

A driver is a `Handler`. It does not write: it *wakes* its connection, which asks it for its
`outgoing` bytes once, as late as the loop turn allows. Rules:

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
import errno
import os
import socket
import stat
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import Any, Final, Protocol, TypeVar, cast
from weakref import WeakValueDictionary

from amnode.errors import ConnectionLost, OptionError

T = TypeVar("T")

#: Connections that the kernel completes before they are accepted.
_BACKLOG: Final = 1024
#: Seconds between two attempts on a Unix listener whose backlog is full; there is no event for
#: it. The caller's own deadline bounds them.
_BACKLOG_PAUSE: Final = 0.01
#: The longest path that fits the address of a Unix socket.
_MAX_UNIX_PATH: Final = 107
#: What a path through a directory descriptor takes in front of the name.
_MAX_UNIX_NAME: Final = _MAX_UNIX_PATH - len("/proc/self/fd/1234567/")


class Handler(Protocol):
    """What a connection drives."""

    def connected(self, connection: Connection) -> None:
        """The connection exists."""
        ...

    def received(self, data: bytes) -> None:
        """Bytes came, in any split. Must not raise."""
        ...

    def outgoing(self) -> bytes:
        """What there is to write now; asked after `Connection.wake`."""
        ...

    def lost(self, error: Exception | None) -> None:
        """The connection is no more; None after an orderly end. Called once, last."""
        ...


class Connection(ABC):
    """One end of a connection.

    Args:
        handler: what it drives.
        close_timeout: see rule 5, in seconds.
    """

    def __init__(self, handler: Handler, close_timeout: float) -> None:
        self._handler = handler
        self._close_timeout = close_timeout
        self._loop = asyncio.get_running_loop()
        self._context = Context()
        self._gathers = _gathers_writes(self._loop)
        self._receiving = False
        self._waking = False
        self._paused = False
        #: Whether the connection was closed, at this end or the other.
        self.closing = False
        self._lost = False
        self._cut: asyncio.TimerHandle | None = None

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
        elif not self._receiving:
            self._flush()

    def close(self) -> None:
        """Writes what the handler has, then closes; calling it again changes nothing."""
        if self.closing:
            return
        data = self._handler.outgoing()
        self.closing = True
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
            self._abort()

    def _take(self, data: bytes) -> None:
        """Called with what arrived."""
        if self.closing:
            return
        self._receiving = True
        try:
            self._handler.received(data)
        finally:
            self._receiving = False
        self._flush()

    def _flush(self) -> None:
        self._waking = False
        if self._paused or self.closing:  # rule 4
            return
        data = self._handler.outgoing()
        if data:
            self._write(data)

    def _pause(self) -> None:
        self._paused = True

    def _resume(self) -> None:
        self._paused = False
        self.wake()

    def _end(self, error: Exception | None) -> None:
        """Called when the connection is no more (rule 3)."""
        if self._lost:
            return
        self._lost = self.closing = True
        if self._cut is not None:
            self._cut.cancel()
        self._handler.lost(error)

    @abstractmethod
    def _write(self, data: bytes) -> None: ...
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


#: Makes the handler of a new connection.
Accept = Callable[[], Handler]


class Transport(Protocol):
    """How drivers reach each other; the simulator has its own."""

    async def listen(self, address: str, accept: Accept, *, close_timeout: float) -> Listener:
        """Starts to accept connections.

        Raises:
            OptionError: the address cannot work.
            ConnectionLost: it is taken, or the system refuses it.
        """
        ...

    async def connect(
        self, address: str, handler: Handler, *, close_timeout: float
    ) -> Connection:
        """Makes a connection; `handler.connected` was called when it returns.

        Raises:
            OptionError: the address cannot work.
            ConnectionLost: nobody answers there.
        """
        ...


class LocalTransport:
    """`unix:` and `memory:` addresses."""

    def __init__(self) -> None:
        self._listeners: WeakValueDictionary[str, _MemoryListener] = WeakValueDictionary()

    async def listen(self, address: str, accept: Accept, *, close_timeout: float) -> Listener:
        """See `Transport.listen`."""
        scheme, rest = parse_address(address)
        if scheme == "memory":
            return self._listen_memory(address, rest, accept, close_timeout)
        path = rest
        return await _without_cause(
            lambda: _listen_unix(address, path, accept, close_timeout),
            lambda made: made.close(),
        )

    async def connect(
        self, address: str, handler: Handler, *, close_timeout: float
    ) -> Connection:
        """See `Transport.connect`."""
        scheme, rest = parse_address(address)
        if scheme == "unix":
            path = rest
            return await _without_cause(
                lambda: _connect_unix(address, path, handler, close_timeout),
                lambda made: made.abort(),
            )
        listener = self._listeners.get(rest)
        if listener is None or not listener.open_here():
            raise ConnectionLost(f"Nobody listens at {address}.")
        return listener.connect(handler, close_timeout)

    def _listen_memory(
        self, address: str, name: str, accept: Accept, close_timeout: float
    ) -> Listener:
        taken = self._listeners.get(name)
        if taken is not None and taken.open_here():
            raise ConnectionLost(f"{address} is taken.")
        listener = _MemoryListener(address, accept, close_timeout)
        self._listeners[name] = listener
        return listener


#: The transport that drivers use unless they are given another.
LOCAL: Final[Transport] = LocalTransport()


def parse_address(address: str) -> tuple[str, str]:
    """The scheme of an address, and what follows it.

    Raises:
        OptionError: there is no such scheme, or nothing follows it.
    """
    scheme, colon, rest = address.partition(":")
    if scheme not in ("unix", "memory") or not colon or not rest:
        raise OptionError(f"{address!r} is no address; use unix:/path/to.sock or memory:name.")
    return scheme, rest


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

    def __init__(self, handler: Handler, close_timeout: float) -> None:
        super().__init__(handler, close_timeout)
        self.other: _MemoryConnection | None = None

    def join(self, other: _MemoryConnection) -> None:
        """Makes two ends one connection."""
        self.other, other.other = other, self

    def _write(self, data: bytes) -> None:
        if self.other is not None:
            self._loop.call_soon(self.other._take, data, context=self.other._context)

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
    def __init__(self, address: str, accept: Accept, close_timeout: float) -> None:
        self.address = address
        self._accept = accept
        self._close_timeout = close_timeout
        self._loop = asyncio.get_running_loop()
        self._open = True

    def open_here(self) -> bool:
        """Whether it accepts, in the running loop."""
        return self._open and self._loop is asyncio.get_running_loop()

    def connect(self, handler: Handler, close_timeout: float) -> Connection:
        """Makes both ends; the far one hears of it first."""
        accepted = self._accept()
        theirs = _MemoryConnection(accepted, self._close_timeout)
        ours = _MemoryConnection(handler, close_timeout)
        ours.join(theirs)
        accepted.connected(theirs)
        handler.connected(ours)
        return ours

    def close(self) -> None:
        self._open = False


# -- Unix sockets ------------------------------------------------------------------------


class _StreamConnection(Connection, asyncio.Protocol):
    """One end of a stream socket: the protocol of its transport.

    One that connects is *made* only when the loop has taken its socket over, a turn after
    `connection_made`. uvloop forgets to close a socket whose transport ended before that, so an
    end that is wanted earlier waits until then.
    """

    def __init__(self, handler: Handler, close_timeout: float, *, made: bool = True) -> None:
        super().__init__(handler, close_timeout)
        self._transport: asyncio.Transport | None = None
        self._made = made
        self._end_wanted: Callable[[], None] | None = None

    def settle(self, sock: socket.socket) -> None:
        """The loop has taken the socket over."""
        self._made = True
        if self._lost:
            sock.detach()  # its descriptor went with the transport
        elif self._end_wanted is not None:
            self._end_wanted()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._handler.connected(self)

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def pause_writing(self) -> None:
        self._pause()

    def resume_writing(self) -> None:
        self._resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        self._transport = None

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

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


class _UnixListener(Listener):
    """Holds its server: uvloop closes one that nothing references."""

    def __init__(
        self, address: str, path: str, file: tuple[int, int], server: asyncio.Server
    ) -> None:
        self.address = address
        self._path = path
        self._file = file
        self._server: asyncio.Server | None = server

    def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        _remove_own(self._path, self._file)


async def _listen_unix(
    address: str, path: str, accept: Accept, close_timeout: float
) -> Listener:
    sock = _unix_socket()
    try:
        file = _bind(sock, path)
    except OSError as error:
        sock.close()
        raise ConnectionLost(f"{address} cannot be listened on: {error.strerror}.") from error
    except OptionError:
        sock.close()
        raise
    loop = asyncio.get_running_loop()
    making = loop.create_unix_server(
        lambda: _StreamConnection(accept(), close_timeout), sock=sock, backlog=_BACKLOG
    )
    try:
        server, cancelled = await _to_its_end(making)
    except BaseException:
        sock.close()
        _remove_own(path, file)
        raise
    listener = _UnixListener(address, path, file, server)
    if cancelled:
        listener.close()
        raise asyncio.CancelledError
    return listener


async def _connect_unix(
    address: str, path: str, handler: Handler, close_timeout: float
) -> Connection:
    sock = _unix_socket()
    loop = asyncio.get_running_loop()
    try:
        with _short_path(path) as short:
            while not _try_connect(sock, short):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(_BACKLOG_PAUSE)
        making = loop.create_unix_connection(
            lambda: _StreamConnection(handler, close_timeout, made=False), sock=sock
        )
        (_, connection), cancelled = await _to_its_end(making)
    except OSError as error:
        sock.close()
        raise ConnectionLost(f"Nobody answers at {address}: {error.strerror}.") from error
    except BaseException:
        sock.close()
        raise
    connection.settle(sock)
    if cancelled:
        connection.abort()
        raise asyncio.CancelledError
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
    with _short_path(path) as short:
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
def _short_path(path: str) -> Generator[str]:
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
