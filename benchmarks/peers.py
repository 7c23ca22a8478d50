"""Other ways to call another process, each as its documentation shows: they echo bytes.

What is not installed is named and left out: pip install 'amnode[bench]'. Where a library leaves
the choice, it gets what is quickest: bytes as they are, no compression, uvloop at both ends.

    python benchmarks/peers.py grpc.aio unix:/run/x/grpc      # serves until its input is closed
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from benchmarks.processes import obey, run, stay, take_core

# Set before it is imported: its handlers of forks have something to say of each process that
# is started later.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

#: Sends bytes there and back; an awaitable where the library is asynchronous.
Call: TypeAlias = Callable[[bytes], "Awaitable[object] | object"]


@dataclass(frozen=True)
class Peer:
    """One library.

    Attributes:
        package: what is installed.
        style: how it is called here.
        serve: serves at an address until the input is closed.
        connect: the other end; gives what sends bytes there and back.
    """

    package: str
    style: str
    serve: Callable[[str], None]
    connect: Callable[[str], AbstractAsyncContextManager[Call]]


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    return host, int(port)


def _path(address: str) -> str | None:
    return address.removeprefix("unix:") if address.startswith("unix:") else None


# -- grpc.aio ---------------------------------------------------------------------------------


def serve_grpc(address: str) -> None:
    import grpc
    import grpc.aio

    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    async def serve() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(echo)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("Echo", {"Echo": handler}),)
        )
        port = server.add_insecure_port(address.removeprefix("tcp:"))
        await server.start()
        ready = address if _path(address) else f"tcp:127.0.0.1:{port}"
        await obey(ready, {})
        await server.stop(None)

    run(serve())


@contextlib.asynccontextmanager
async def connect_grpc(address: str) -> AsyncGenerator[Call]:
    import grpc.aio

    async with grpc.aio.insecure_channel(address.removeprefix("tcp:")) as channel:
        yield channel.unary_unary("/Echo/Echo")


# -- rpyc -------------------------------------------------------------------------------------


def serve_rpyc(address: str) -> None:
    import rpyc
    from rpyc.utils.server import ThreadedServer

    class Echo(rpyc.Service):
        def exposed_echo(self, data: bytes) -> bytes:
            return data

    path = _path(address)
    where = {"hostname": "127.0.0.1", "port": 0} if path is None else {"socket_path": path}
    server = ThreadedServer(Echo(), **where)
    threading.Thread(target=server.start, daemon=True).start()
    stay(address if path else f"tcp:127.0.0.1:{server.port}")


@contextlib.asynccontextmanager
async def connect_rpyc(address: str) -> AsyncGenerator[Call]:
    import rpyc
    from rpyc.utils.factory import unix_connect

    path = _path(address)
    made = rpyc.connect(*_host_and_port(address)) if path is None else unix_connect(path)
    with contextlib.closing(made):
        yield made.root.echo


# -- Pyro5 ------------------------------------------------------------------------------------


def serve_pyro(address: str) -> None:
    import Pyro5.api

    @Pyro5.api.expose
    class Echo:
        def echo(self, data: bytes) -> bytes:
            return data

    path = _path(address)
    daemon = Pyro5.api.Daemon(host="127.0.0.1", unixsocket=path)
    daemon.register(Echo, "echo")
    threading.Thread(target=daemon.requestLoop, daemon=True).start()
    stay(address if path else f"tcp:{daemon.locationStr}")


@contextlib.asynccontextmanager
async def connect_pyro(address: str) -> AsyncGenerator[Call]:
    import Pyro5.api

    Pyro5.api.config.SERIALIZER = "marshal"  # the one that takes bytes as they are
    path = _path(address)
    where = address.removeprefix("tcp:") if path is None else f"./u:{path}"
    with Pyro5.api.Proxy(f"PYRO:echo@{where}") as proxy:
        yield proxy.echo


# -- pyzmq ------------------------------------------------------------------------------------


def serve_zmq(address: str) -> None:
    import zmq
    import zmq.asyncio

    async def echo(router: Any) -> None:
        while True:
            await router.send_multipart(await router.recv_multipart())

    async def serve() -> None:
        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router:
            path = _path(address)
            router.bind("tcp://127.0.0.1:*" if path is None else f"ipc://{path}")
            where = router.getsockopt_string(zmq.LAST_ENDPOINT)
            echoing = asyncio.create_task(echo(router))
            await obey(address if path else where.replace("//", ""), {})
            echoing.cancel()

    run(serve())


@contextlib.asynccontextmanager
async def connect_zmq(address: str) -> AsyncGenerator[Call]:
    import zmq
    import zmq.asyncio

    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as dealer:
        path = _path(address)
        dealer.connect(address.replace("tcp:", "tcp://") if path is None else f"ipc://{path}")

        async def call(data: bytes) -> object:
            await dealer.send(data)
            return await dealer.recv()

        yield call


# -- websockets -------------------------------------------------------------------------------


def serve_websockets(address: str) -> None:
    from websockets.asyncio.server import serve, unix_serve

    async def echo(socket: Any) -> None:
        async for message in socket:
            await socket.send(message)

    async def serve_here() -> None:
        path = _path(address)
        if path is None:
            serving = serve(echo, "127.0.0.1", 0, compression=None)
        else:
            serving = unix_serve(echo, path, compression=None)
        async with serving as server:
            if path is None:
                port = next(iter(server.sockets)).getsockname()[1]
                await obey(f"tcp:127.0.0.1:{port}", {})
            else:
                await obey(address, {})

    run(serve_here())


@contextlib.asynccontextmanager
async def connect_websockets(address: str) -> AsyncGenerator[Call]:
    from websockets.asyncio.client import connect, unix_connect

    path = _path(address)
    if path is None:
        connecting = connect(f"ws://{address.removeprefix('tcp:')}", compression=None)
    else:
        connecting = unix_connect(path, uri="ws://localhost", compression=None)
    async with connecting as socket:

        async def call(data: bytes) -> object:
            await socket.send(data)
            return await socket.recv()

        yield call


PEERS: dict[str, Peer] = {
    "grpc.aio": Peer("grpcio", "async", serve_grpc, connect_grpc),
    "websockets": Peer("websockets", "async", serve_websockets, connect_websockets),
    "pyzmq": Peer("pyzmq", "async", serve_zmq, connect_zmq),
    "rpyc": Peer("rpyc", "sync", serve_rpyc, connect_rpyc),
    "Pyro5": Peer("Pyro5", "sync", serve_pyro, connect_pyro),
}


def installed() -> dict[str, str]:
    """The versions of those that are installed, by name; names the others."""
    found: dict[str, str] = {}
    for name, peer in PEERS.items():
        try:
            found[name] = importlib.metadata.version(peer.package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed, and left out.")
    return found


def main(name: str, address: str) -> None:
    PEERS[name].serve(address)


if __name__ == "__main__":
    main(*take_core(sys.argv[1:]))
