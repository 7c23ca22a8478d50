"""TLS 1.2 or newer over TCP: `tls:HOST:PORT`; what is agreed on before a connection begins."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final, cast

from amnode.errors import AuthError, ConnectionLost, OptionError
from amnode.rpc.address import Address, endpoint
from amnode.rpc.transport.failures import tls_error, why
from amnode.rpc.transport.port import Connection, Handler
from amnode.rpc.transport.stream import TLS_HANDSHAKE, Connecting, to_its_end
from amnode.rpc.transport.tcp import reach_first

if TYPE_CHECKING:
    import ssl

#: The number of TLS 1.2, the oldest version that is spoken.
_TLS_1_2: Final = 0x0303


def check_version(option: str, context: ssl.SSLContext | None) -> None:
    """Raises OptionError for one that speaks versions which protect nothing."""
    if context is not None and context.minimum_version < _TLS_1_2:
        raise OptionError(
            f"{option} allows {context.minimum_version.name}; set its minimum_version to "
            "ssl.TLSVersion.TLSv1_2."
        )


def check_verifies(context: ssl.SSLContext | None) -> None:
    """Raises OptionError for one that trusts everybody."""
    if context is not None and not context.verify_mode:
        raise OptionError(
            "client_tls trusts every server: its verify_mode is CERT_NONE; set it to "
            "ssl.CERT_REQUIRED and load the certificate of who signs for your servers."
        )


def needed(at: Address, option: str, context: ssl.SSLContext | None) -> ssl.SSLContext:
    """The context, which an address of TLS cannot do without; raises OptionError."""
    if context is None:
        raise OptionError(f"{at} needs TLS; pass StreamTransport({option}=SSLContext).")
    return context


async def connect(
    at: Address, handler: Handler, close_timeout: float, tls: ssl.SSLContext
) -> Connection:
    """See `Transport.connect`."""
    sock, where = await reach_first(at)
    try:
        connection = _ConnectingWithTls(at, endpoint(*where[:2]), handler, close_timeout)
        return await _take_over_with_tls(at, sock, connection, tls)
    except OSError as error:
        told = tls_error(f"{at}", error)
        if isinstance(told, AuthError):
            raise told from error
        raise ConnectionLost(
            f"{at} hung up during the handshake of TLS: {why(error)}. It may speak no TLS, or "
            "none of version 1.2 at least; its own log may say so."
        ) from error


class _ConnectingWithTls(Connecting):
    """The end that connects with TLS, and knows whether the other ever spoke.

    With TLS 1.3 a client is done before its certificate is looked at, and servers of asyncio
    hang up on one that they refuse without a word.
    """

    _heard = False

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        error = tls_error(self.peer, exc)
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

    def hand_over(self, transport: asyncio.Transport, connection: Connecting) -> None:
        """The connection sees all that happened, in order (rule 2 of the port)."""
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._came:
            connection.data_received(b"".join(self._came))
        if self.lost:
            connection.connection_lost(self._error)


async def _take_over_with_tls(
    at: Address, sock: socket.socket, connection: Connecting, tls: ssl.SSLContext
) -> Connection:
    """The same with TLS, in two steps.

    uvloop, told to do both at once, closes the descriptor of a socket whose handshake fails at
    its start, and leaves the socket to close it once more, when it is another's.
    """
    loop = asyncio.get_running_loop()
    waiting = _Waiting()
    try:
        made, cancelled = await to_its_end(loop.create_connection(lambda: waiting, sock=sock))
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
            ssl_handshake_timeout=TLS_HANDSHAKE,
        )
    except BaseException:
        made[0].abort()
        raise
    waiting.hand_over(cast("asyncio.Transport", stream), connection)
    return connection
