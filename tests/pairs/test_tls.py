"""TLS: who is refused, and how it is told; the token is needed inside it as well."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import trustme

from amnode.errors import AuthError, ConnectionLost, OptionError
from amnode.rpc.transport.by_address import STREAMS, StreamTransport
from tests.pairs.driven import SECRET, House
from tests.pairs.test_transport import Peer, Room

#: Who signs for both sides, and somebody else.
AUTHORITY, STRANGER = trustme.CA(), trustme.CA()


def server_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def client_of(
    trusted: trustme.CA = AUTHORITY, shown: trustme.LeafCert | None = None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusted.configure_trust(context)
    if shown is not None:
        shown.configure_cert(context)
    return context


def mutual_server() -> ssl.SSLContext:
    context = server_of(AUTHORITY.issue_cert("localhost"))
    context.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.configure_trust(context)
    return context


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    """A peer of long ago, which knows TLS up to 1.1 only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


class Handmade:
    """One side of a handshake, made step by step over a plain socket."""

    def __init__(
        self, context: ssl.SSLContext, sock: socket.socket, server_hostname: str | None
    ) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in,
            self._out,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )

    def say(self, data: bytes) -> None:
        """Encrypts what leaves with the next step."""
        self._tls.write(data)

    async def shake(self, before_the_end: Callable[[], None] = lambda: None) -> None:
        """Shakes hands to the end; what it has to say last leaves in any case."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await loop.sock_sendall(self._sock, self._out.read())
                data = await loop.sock_recv(self._sock, 65_536)
                if not data:
                    raise ConnectionResetError from None
                self._in.write(data)
            except ssl.SSLError:
                await loop.sock_sendall(self._sock, self._out.read())
                raise
            else:
                before_the_end()
                await loop.sock_sendall(self._sock, self._out.read())
                return


async def handmade_client(room: Room) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    where = ("127.0.0.1", int(room.address.rpartition(":")[2]))
    await asyncio.get_running_loop().sock_connect(sock, where)
    return sock


@pytest.fixture
async def rooms() -> AsyncIterator[Callable[..., Room]]:
    """Makes rooms, which are closed at the end."""
    made: list[Room] = []

    def make(server: ssl.SSLContext, client: ssl.SSLContext | None = None) -> Room:
        transport = StreamTransport(server_tls=server, client_tls=client or client_of())
        made.append(Room("tls:localhost:0", transport=transport))
        return made[-1]

    yield make
    for room in made:
        await room.close()


async def refused(room: Room) -> AuthError:
    """What a client is told that cannot connect; the server made no handler for it."""
    await room.open()
    near = Peer()
    with pytest.raises(AuthError) as caught:
        await room.transport.connect(room.address, near, close_timeout=1)
    assert near.connection is None and not near.ends
    assert room.accepted == []
    assert "certificates" in str(caught.value) and "TLS" in str(caught.value)
    return caught.value


# -- the certificate of a server -----------------------------------------------------------


async def test_an_expired_certificate_is_refused(rooms: Callable[..., Room]) -> None:
    expired = AUTHORITY.issue_cert("localhost", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    assert "expired" in str(await refused(rooms(server_of(expired))))


async def test_a_certificate_that_nobody_trusted_signed_is_refused(
    rooms: Callable[..., Room],
) -> None:
    error = await refused(rooms(server_of(STRANGER.issue_cert("localhost"))))
    assert "self-signed" in str(error) or "local issuer" in str(error)


async def test_the_certificate_of_another_host_is_refused(rooms: Callable[..., Room]) -> None:
    error = await refused(rooms(server_of(AUTHORITY.issue_cert("elsewhere.example"))))
    assert "localhost" in str(error)


async def test_a_server_of_tls_1_1_is_refused(rooms: Callable[..., Room]) -> None:
    """One that another program runs, since ours cannot be made so."""
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        address = f"tls:localhost:{listener.getsockname()[1]}"
        transport = StreamTransport(client_tls=client_of())
        task = asyncio.ensure_future(transport.connect(address, Peer(), close_timeout=1))
        accepted, _ = await loop.sock_accept(listener)
        with accepted:
            ancient = Handmade(
                old(server_of(AUTHORITY.issue_cert("localhost"))), accepted, None
            )
            with pytest.raises(ssl.SSLError):
                await ancient.shake()
            with pytest.raises(AuthError, match=r"versions of TLS \(1\.2 at least\)"):
                await task


# -- the certificate of a client -----------------------------------------------------------


async def test_a_client_that_shows_the_certificate_asked_for_is_served(
    rooms: Callable[..., Room],
) -> None:
    shown = AUTHORITY.issue_cert("client.example")
    room = rooms(mutual_server(), client_of(shown=shown))
    await room.open()
    near, far = await room.pair()
    near.say(b"far")
    assert await far.has(3) == b"far"


@pytest.mark.parametrize("shown", [None, STRANGER.issue_cert("client.example")])
async def test_a_client_without_the_certificate_asked_for_is_refused(
    rooms: Callable[..., Room], shown: trustme.LeafCert | None
) -> None:
    room = rooms(mutual_server(), client_of(shown=shown))
    await room.open()
    near = Peer()
    # With TLS 1.3 the client is done first, and is told when it listens.
    await room.transport.connect(room.address, near, close_timeout=1)
    await near.ended.wait()
    assert isinstance(near.ends[0], ConnectionLost | AuthError)
    assert "ertificate" in str(near.ends[0])
    assert len(near.ends) == 1 and near.got == b"" and room.accepted == []


async def test_a_client_of_tls_1_1_is_refused(rooms: Callable[..., Room]) -> None:
    room = rooms(server_of(AUTHORITY.issue_cert("localhost")))
    await room.open()
    with await handmade_client(room) as sock:
        ancient = Handmade(old(client_of()), sock, "localhost")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ancient.shake()
    assert room.accepted == []


# -- no TLS at the other end ---------------------------------------------------------------


async def test_a_client_that_speaks_no_tls_reaches_no_handler(
    rooms: Callable[..., Room],
) -> None:
    room = rooms(server_of(AUTHORITY.issue_cert("localhost")))
    await room.open()
    near = Peer()
    plain = f"tcp:127.0.0.1:{room.address.rpartition(':')[2]}"
    await STREAMS.connect(plain, near, close_timeout=1)
    near.say(b"GET / HTTP/1.1\r\n\r\n")
    await near.ended.wait()
    assert room.accepted == []


@pytest.mark.parametrize("first", [b"", b"220 mail.example ESMTP\r\n"])
async def test_a_server_that_hangs_up_is_lost_or_named_for_what_it_is(first: bytes) -> None:
    loop = asyncio.get_running_loop()

    async def serve(listener: socket.socket) -> None:
        accepted, _ = await loop.sock_accept(listener)
        with accepted:
            await loop.sock_sendall(accepted, first)
            while first and await loop.sock_recv(accepted, 4096):  # the other hangs up
                pass

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        address = f"tls:localhost:{listener.getsockname()[1]}"
        transport = StreamTransport(client_tls=client_of())
        for _ in range(30):  # a descriptor that is closed twice is soon another's
            serving = asyncio.ensure_future(serve(listener))
            with pytest.raises(AuthError if first else ConnectionLost, match=r"TLS|hung up"):
                await transport.connect(address, Peer(), close_timeout=1)
            await serving


async def test_a_handshake_that_is_not_answered_can_be_cancelled() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        mute.setblocking(False)
        address = f"tls:localhost:{mute.getsockname()[1]}"
        transport = StreamTransport(client_tls=client_of())
        near = Peer()
        task = asyncio.ensure_future(transport.connect(address, near, close_timeout=1))
        loop = asyncio.get_running_loop()
        accepted, _ = await loop.sock_accept(mute)
        with accepted:
            assert await loop.sock_recv(accepted, 1) == b"\x16"  # it has begun
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while await loop.sock_recv(accepted, 4096):  # to its end
                pass
    assert near.connection is None


@pytest.mark.parametrize("end", ["open", "lost"])
async def test_what_comes_with_the_end_of_a_handshake_is_received(end: str) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        address = f"tls:localhost:{listener.getsockname()[1]}"
        transport = StreamTransport(client_tls=client_of())
        near = Peer()
        task = asyncio.ensure_future(transport.connect(address, near, close_timeout=1))
        accepted, _ = await loop.sock_accept(listener)
        context = server_of(AUTHORITY.issue_cert("localhost"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # there the server is done last
        with accepted:
            server = Handmade(context, accepted, None)
            await server.shake(before_the_end=lambda: server.say(b"first words"))
            if end == "lost":
                accepted.shutdown(socket.SHUT_RDWR)
            await task
            assert await near.has(11) == b"first words"
            if end == "open":
                near.link.abort()
            await near.ended.wait()
    assert len(near.ends) == 1


async def test_a_listener_that_closed_admits_nobody_whose_handshake_ends_later(
    rooms: Callable[..., Room],
) -> None:
    room = rooms(server_of(AUTHORITY.issue_cert("localhost")))
    await room.open()
    assert room.listener is not None
    with await handmade_client(room) as sock:
        client = Handmade(client_of(), sock, "localhost")
        await client.shake(before_the_end=room.listener.close)
        with suppress(ConnectionResetError):
            while await asyncio.get_running_loop().sock_recv(sock, 4096):  # tickets, the end
                pass
    assert room.accepted == []


# -- what is passed ------------------------------------------------------------------------


async def test_tls_without_its_context_says_which_argument_is_missing() -> None:
    with pytest.raises(OptionError, match=r"StreamTransport\(server_tls=SSLContext\)"):
        await STREAMS.listen("tls:localhost:0", Peer, close_timeout=1)
    with pytest.raises(OptionError, match=r"StreamTransport\(client_tls=SSLContext\)"):
        await STREAMS.connect("tls:localhost:7", Peer(), close_timeout=1)


@pytest.mark.parametrize("option", ["server_tls", "client_tls"])
def test_a_context_that_allows_tls_1_1_is_refused(option: str) -> None:
    context = client_of()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OptionError, match=rf"{option} allows TLSv1_1; set its minimum_version"):
        StreamTransport(**{option: context})  # type: ignore[arg-type]


def test_a_client_that_trusts_every_server_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises(OptionError, match="trusts every server"):
        StreamTransport(client_tls=context)


def test_who_uses_no_tls_does_not_import_it() -> None:
    probe = (
        "import sys, asyncio; [sys.modules.pop(n) for n in list(sys.modules) if n == 'ssl'];"
        "import amnode.rpc.transport; print('ssl' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True)
    assert done.stdout == b"False\n"


# -- inside --------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SECRET, b"another"])
async def test_the_token_is_needed_inside_tls(secret: bytes) -> None:
    transport = StreamTransport(
        server_tls=server_of(AUTHORITY.issue_cert("localhost")), client_tls=client_of()
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tls:localhost:{free.getsockname()[1]}"
    house = House(address)
    try:
        await house.mux(transport=transport)
        client = house.client(secret=secret, transport=transport)
        if secret == SECRET:
            await client.start()
            assert house.connected == ["rc-me"]
        else:
            with pytest.raises(AuthError):
                await client.start()
            assert house.connected == []
    finally:
        await house.close()
