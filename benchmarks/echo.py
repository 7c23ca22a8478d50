"""The baseline of all that crosses a socket: a bare Protocol that sends frames back.

A frame is a length of 4 bytes and what follows; a call is one future. That is as little as a
call over the same loop and the same transport can be. `raw_*` is the same for large data: two
blocking sockets and no loop.

    python benchmarks/echo.py unix:/run/x/echo      # serves until its input is closed
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from benchmarks.processes import obey, run, take_core

HEADER = 4  # bytes of a frame's length
_LENGTH = struct.Struct("<I")


class Frames(asyncio.Protocol):
    """Cuts what arrives into frames, and does nothing else."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are writable, but no subclasses of asyncio.Transport
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, have = 0, len(data)
        while have - at >= HEADER:
            end = at + HEADER + _LENGTH.unpack_from(data, at)[0]
            if end > have:
                break
            self.received(data[at:end])
            at = end
        self._rest = data[at:]

    def received(self, frame: bytes) -> None:
        raise NotImplementedError


class EchoServer(Frames):
    """Sends each frame back, or another one in its place.

    Args:
        answer: what is sent for each frame; None for the frame itself.
        here: where connections are kept while they exist.
    """

    def __init__(
        self, answer: bytes | None = None, here: dict[EchoServer, None] | None = None
    ) -> None:
        super().__init__()
        self._answer = answer
        self._here = {} if here is None else here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._here[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._here.pop(self, None)

    def received(self, frame: bytes) -> None:
        self.send(frame if self._answer is None else self._answer)

    def send(self, frame: bytes) -> None:
        assert self.transport is not None
        self.transport.write(frame)


class EchoClient(Frames):
    """Resolves the futures of calls in the order in which they were made."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._loop = asyncio.get_running_loop()

    def call(self, frame: bytes) -> asyncio.Future[bytes]:
        assert self.transport is not None
        self.transport.write(frame)
        return self.next_frame()

    def next_frame(self) -> asyncio.Future[bytes]:
        """A frame that comes without being asked for."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting.append(future)
        return future

    def received(self, frame: bytes) -> None:
        self._waiting.popleft().set_result(frame)


async def listen(
    address: str, make: Callable[[], asyncio.Protocol]
) -> tuple[asyncio.Server, str]:
    """Listens at `unix:PATH` or `tcp:HOST:PORT`; the server, and where it is."""
    loop = asyncio.get_running_loop()
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        return await loop.create_unix_server(make, rest, backlog=1024), address
    host, _, port = rest.rpartition(":")
    server = await loop.create_server(make, host, int(port), backlog=1024)
    return server, f"tcp:{host}:{server.sockets[0].getsockname()[1]}"


async def connect(address: str, make: Callable[[], Frames]) -> Frames:
    """Connects to such an address."""
    loop = asyncio.get_running_loop()
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        return (await loop.create_unix_connection(make, rest))[1]
    host, _, port = rest.rpartition(":")
    return (await loop.create_connection(make, host, int(port)))[1]


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncGenerator[EchoClient]:
    """One client."""
    client = cast(EchoClient, await connect(address, EchoClient))
    assert client.transport is not None
    try:
        yield client
    finally:
        client.transport.close()


# -- blocking --------------------------------------------------------------------------------


def raw_serve(address: str) -> str:
    """Serves one connection after the other in a thread; where it listens."""
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(rest)
    else:
        listener = socket.create_server((rest.rpartition(":")[0], 0))
        address = "tcp:{}:{}".format(*listener.getsockname()[:2])
    listener.listen()
    threading.Thread(target=_raw_serve, args=(listener,), daemon=True).start()
    return address


def _raw_serve(listener: socket.socket) -> None:
    while True:
        peer, _ = listener.accept()
        with _undelayed(peer):
            while header := peer.recv(HEADER, socket.MSG_WAITALL):
                data = bytearray(_LENGTH.unpack(header)[0])
                _receive_into(peer, data)
                peer.sendall(header)
                peer.sendall(data)


@contextlib.contextmanager
def raw_connected(address: str) -> Generator[socket.socket]:
    """One client's socket."""
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        made = socket.socket(socket.AF_UNIX)
        made.connect(rest)
    else:
        host, _, port = rest.rpartition(":")
        made = socket.create_connection((host, int(port)))
    with _undelayed(made):
        yield made


def _undelayed(made: socket.socket) -> socket.socket:
    """What a loop does to its TCP sockets by itself."""
    if made.family != socket.AF_UNIX:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def raw_echo(peer: socket.socket, data: bytes) -> bytearray:
    """Sends all, then receives all."""
    peer.sendall(_LENGTH.pack(len(data)))
    peer.sendall(data)
    back = bytearray(_LENGTH.unpack(peer.recv(HEADER, socket.MSG_WAITALL))[0])
    _receive_into(peer, back)
    return back


def _receive_into(peer: socket.socket, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        got = peer.recv_into(view)
        if not got:
            raise ConnectionError("The peer closed the connection amid its data.")
        view = view[got:]


async def main(address: str) -> None:
    server, address = await listen(address, EchoServer)
    async with server:
        await obey(address, {})


if __name__ == "__main__":
    run(main(*take_core(sys.argv[1:])))
