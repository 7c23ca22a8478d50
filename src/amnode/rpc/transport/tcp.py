"""TCP without delay: `tcp:HOST:PORT`, IPv4 and IPv6; `tls.py` goes on from here.

On loopback only, unless plaintext is allowed in words.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from amnode.errors import ConnectionLost, OptionError
from amnode.rpc.address import Address, endpoint, is_loopback
from amnode.rpc.transport.failures import why
from amnode.rpc.transport.port import Accept, Connection, Handler, Listener
from amnode.rpc.transport.stream import Connecting, StreamListener, take_over

if TYPE_CHECKING:
    import ssl

#: Seconds that an address of a host has before the next is tried beside it; RFC 8305 has it.
_HEAD_START: Final = 0.25


async def listen(
    at: Address,
    accept: Accept,
    close_timeout: float,
    tls: ssl.SSLContext | None,
    off_loopback: bool,
) -> Listener:
    """See `Transport.listen`.

    Args:
        at: where.
        accept: makes the handler of a connection.
        close_timeout: of its connections.
        tls: what connections agree on first, or None for plaintext.
        off_loopback: whether others than this machine may be let in.
    """
    sock = await _bind_first(at, off_loopback)
    bound = Address(at.scheme, at.name, sock.getsockname()[1])
    listener = StreamListener(bound, accept, close_timeout)
    await listener.serve(sock, tls)
    return listener


async def connect(at: Address, handler: Handler, close_timeout: float) -> Connection:
    """See `Transport.connect`."""
    sock, where = await reach_first(at)
    try:
        connection = Connecting(at, endpoint(*where[:2]), handler, close_timeout)
        return await take_over(at, sock, connection)
    except OSError as error:
        raise ConnectionLost(f"{at} hung up: {why(error)}.") from error


async def _bind_first(at: Address, off_loopback: bool) -> socket.socket:
    """A socket that is bound to the first address of a host that can be listened on."""
    failed: OSError | None = None
    for family, where in await _addresses(at):
        try:
            return _bind(at, family, where, off_loopback)
        except OSError as error:
            failed = error
    raise _unusable(f"{at} cannot be listened on", failed)


async def reach_first(at: Address) -> tuple[socket.socket, Any]:
    """A socket that is connected to the first address of a host that answers, and that."""
    left = deque(alternating(await _addresses(at)))
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
    lost = ConnectionLost(f"{failure}: {'it has no address' if error is None else why(error)}.")
    lost.__cause__ = error
    return lost


def alternating(
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
        return await resolve(at)
    except (OSError, UnicodeError) as error:
        raise ConnectionLost(f"The host of {at} is unknown: {why(error)}.") from error


async def resolve(at: Address) -> list[tuple[socket.AddressFamily, Any]]:
    """The addresses of a host, best first. One that is an address is looked up nowhere."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            ip = socket.inet_ntop(family, socket.inet_pton(family, at.name))
            return [(family, (ip, at.port))]
    found = await asyncio.get_running_loop().getaddrinfo(
        at.name, at.port, type=socket.SOCK_STREAM
    )
    return [(family, where) for family, _, _, _, where in found]


def _socket(family: socket.AddressFamily) -> socket.socket:
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    return socket.socket(family, kind, socket.IPPROTO_TCP)  # or asyncio leaves the delay


async def _reach(family: socket.AddressFamily, where: Any) -> socket.socket:
    sock = _socket(family)
    try:
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(
    at: Address, family: socket.AddressFamily, where: Any, off_loopback: bool
) -> socket.socket:
    if not (off_loopback or is_loopback(where[0])):
        raise OptionError(
            f"{at} is not on loopback, and others could read along; listen on tls:, or pass "
            "StreamTransport(allow_plaintext=True)."
        )
    sock = _socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
    except BaseException:
        sock.close()
        raise
    return sock
