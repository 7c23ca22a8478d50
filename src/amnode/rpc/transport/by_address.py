"""The transport that drivers use unless they are given another: every kind of address.

unix:PATH        a Unix stream socket; only its owner may connect (mode 0600)
memory:NAME      two ends in one event loop; no socket at all
tcp:HOST:PORT    TCP without delay; on loopback only, unless plaintext is allowed in words
tls:HOST:PORT    TLS 1.2 or newer over TCP
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import TYPE_CHECKING, Final, TypeVar
from weakref import WeakValueDictionary

from amnode.errors import ConnectionLost, OptionError
from amnode.rpc.address import Address, parse_address
from amnode.rpc.transport import tcp, tls, unix
from amnode.rpc.transport.memory import MemoryListener
from amnode.rpc.transport.port import Accept, Connection, Handler, Listener, Transport
from amnode.rpc.transport.unix import Users, peer_uid

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")


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
        tls.check_version("server_tls", server_tls)
        tls.check_version("client_tls", client_tls)
        tls.check_verifies(client_tls)
        self._server_tls = server_tls
        self._client_tls = client_tls
        self._allow_plaintext = allow_plaintext
        self._users = Users(allow_uids or frozenset(), uid_of)
        self._listeners: WeakValueDictionary[str, MemoryListener] = WeakValueDictionary()

    async def listen(self, address: str, accept: Accept, *, close_timeout: float) -> Listener:
        """See `Transport.listen`."""
        at = parse_address(address)
        if at.scheme == "memory":
            return self._listen_memory(at, accept, close_timeout)
        if at.scheme == "unix":
            making = lambda: unix.listen(at, accept, close_timeout, self._users)  # noqa: E731
        else:
            secure = self._server_tls
            secure = tls.needed(at, "server_tls", secure) if at.scheme == "tls" else None
            allowed = self._allow_plaintext or secure is not None
            making = lambda: tcp.listen(at, accept, close_timeout, secure, allowed)  # noqa: E731
        return await _without_cause(making, lambda made: made.close())

    async def connect(
        self, address: str, handler: Handler, *, close_timeout: float
    ) -> Connection:
        """See `Transport.connect`."""
        at = parse_address(address)
        if at.scheme == "memory":
            return self._connect_memory(at, handler, close_timeout)
        if at.scheme == "unix":
            making = lambda: unix.connect(at, handler, close_timeout, self._users)  # noqa: E731
        elif not at.port:
            raise OptionError(f"{address} has no port to connect to; 0 is for listening.")
        elif at.scheme == "tcp":
            making = lambda: tcp.connect(at, handler, close_timeout)  # noqa: E731
        else:
            secure = tls.needed(at, "client_tls", self._client_tls)
            making = lambda: tls.connect(at, handler, close_timeout, secure)  # noqa: E731
        return await _without_cause(making, lambda made: made.abort())

    def _listen_memory(
        self, at: Address, accept: Accept, close_timeout: float
    ) -> MemoryListener:
        taken = self._listeners.get(at.name)
        if taken is not None and taken.open_here():
            raise ConnectionLost(f"{at} is taken.")
        listener = MemoryListener(at, accept, close_timeout)
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


async def _without_cause(work: Callable[[], Awaitable[T]], undo: Callable[[T], None]) -> T:
    """Does some work in an empty context (rule 6 of the port).

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
