"""Unix stream sockets: `unix:PATH`; only the owner of the file may connect (mode 0600).

Whose process is at the other end is asked of the system, by both ends.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final

from amnode.errors import AuthError, ConnectionLost, OptionError
from amnode.rpc.address import Address
from amnode.rpc.transport.failures import why
from amnode.rpc.transport.port import Accept, Connection, Handler, Listener
from amnode.rpc.transport.stream import Connecting, StreamListener, take_over

#: Seconds between two attempts on a listener whose backlog is full; there is no event for it.
#: The caller's own deadline bounds them.
_BACKLOG_PAUSE: Final = 0.01
#: The longest path that fits the address of a Unix socket.
_MAX_PATH: Final = 107
#: What a path through a directory descriptor takes in front of the name.
_MAX_NAME: Final = _MAX_PATH - len("/proc/self/fd/1234567/")
#: Where the system tells the user at the other end: Linux, and macOS (its SOL_LOCAL and
#: LOCAL_PEERCRED). Both put the user's number into the same four bytes.
_PEER_CREDENTIALS: Final = (
    (socket.SOL_SOCKET, socket.SO_PEERCRED) if hasattr(socket, "SO_PEERCRED") else (0, 1)
)
_ROOT: Final = 0


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a Unix socket, as it was when it connected or listened."""
    credentials = sock.getsockopt(*_PEER_CREDENTIALS, 76)
    return int.from_bytes(credentials[4:8], sys.byteorder)


class Users:
    """Which users may be at the other end of a Unix socket (rule 2 of `stream.py`)."""

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
            raise AuthError(f"The user at the other end is unknown: {why(error)}.") from error
        if uid not in (os.geteuid(), _ROOT) and uid not in self._allowed:
            raise AuthError(
                f"The other end of the Unix socket is of user {uid}, neither ours nor root; "
                f"if that is right, pass StreamTransport(allow_uids=frozenset({{{uid}}}))."
            )
        return uid


async def listen(at: Address, accept: Accept, close_timeout: float, users: Users) -> Listener:
    """See `Transport.listen`."""
    sock = _socket()
    path = at.name
    try:
        file = _bind(sock, path)
    except OSError as error:
        sock.close()
        raise ConnectionLost(f"{at} cannot be listened on: {error.strerror}.") from error
    except OptionError:
        sock.close()
        raise
    listener = StreamListener(
        at,
        accept,
        close_timeout,
        who=lambda peer: f"user {users.peer(peer)}",
        on_close=lambda: _remove_own(path, file),
    )
    await listener.serve(sock)
    return listener


async def connect(
    at: Address, handler: Handler, close_timeout: float, users: Users
) -> Connection:
    """See `Transport.connect`."""
    sock = _socket()
    try:
        with short_path(at.name) as short:
            while not _try_connect(sock, short):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(_BACKLOG_PAUSE)
        users.peer(sock)
        return await take_over(at, sock, Connecting(at, at.name, handler, close_timeout))
    except OSError as error:
        sock.close()
        raise ConnectionLost(f"Nobody answers at {at}: {error.strerror}.") from error
    except BaseException:
        sock.close()
        raise


def _socket() -> socket.socket:
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
    with _socket() as probe:
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
    if len(os.fsencode(path)) <= _MAX_PATH:
        yield path
        return
    parent, name = os.path.split(path)
    if len(os.fsencode(name)) > _MAX_NAME:
        raise OptionError(f"The socket name {name!r} is too long; at most {_MAX_NAME} bytes.")
    directory = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{name}"
    finally:
        os.close(directory)
