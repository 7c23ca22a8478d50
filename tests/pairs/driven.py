"""A real machine, its mux and its clients, over one of the transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from ssl import PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import msgspec
import pytest
import trustme

from amnode.machine.machine import Machine
from amnode.machine.schema import State, States
from amnode.machine.transition import Event
from amnode.rpc.client import RpcClient
from amnode.rpc.exposure import ErrorReport, Exposure
from amnode.rpc.mux import Mux
from amnode.rpc.options import RpcOptions
from amnode.rpc.server import RpcServer
from amnode.rpc.transport.by_address import STREAMS, StreamTransport
from amnode.rpc.transport.port import Transport
from tests.pairs.proxy import Proxy

SECRET = b"a secret that both sides know"
#: A client that comes back as soon as it can.
EAGER = RpcOptions(reconnect_base=0.001, reconnect_cap=0.002, reconnect_tries=10_000)


class Knock(msgspec.Struct, forbid_unknown_fields=True):
    """What comes with a knock."""

    times: int


class Door(States):
    """What the clients follow."""

    Unlocked = State()
    Open = State(require=("Unlocked",), remove=("Closed",))
    Closed = State(remove=("Open",))
    Knocked = State(multi=True)
    Work = State(multi=True)
    Hidden = State()
    ErrOnClient = State(require=("Exception",))


class Handlers:
    """Handlers of the door, which a test replaces as it likes."""

    def __init__(self) -> None:
        self.on_work: Callable[[Event], object] = lambda event: None
        self.may_knock: Callable[[Event], object] = lambda event: None
        self.seen: list[tuple[str, Any]] = []

    def KnockedEnter(self, event: Event) -> bool | None:
        self.seen.append(("KnockedEnter", event.args))
        return self.may_knock(event)  # type: ignore[return-value]

    def WorkState(self, event: Event) -> None:
        self.on_work(event)


EXPOSURE = Exposure(
    mutable={
        "Unlocked": None,
        "Open": None,
        "Closed": None,
        "Knocked": Knock,
        "Work": None,
        "ErrOnClient": ErrorReport,
        "Exception": ErrorReport,
    },
    removable={"Unlocked": None, "Open": None, "Closed": None},
)


class House:
    """A door, its mux, and whoever came.

    Args:
        address: where the mux listens.
        transport: how.

    Attributes:
        address: where the clients connect; with port 0, the port of the last mux.
        proxy: what stands between them, once `behind_proxy` was called.
        cut: the clients that were cut off.
        resumed: the clients that came back.
    """

    def __init__(self, address: str, transport: Transport = STREAMS) -> None:
        self.address = address
        self.transport = transport
        self.proxy: Proxy | None = None
        self.cut: list[str] = []
        self.resumed: list[str] = []
        self.changed = asyncio.Event()
        self.source = Machine(Door, id="door")
        self.handlers = Handlers()
        self.source.bind(self.handlers)
        self.muxes: list[Mux] = []
        self.clients: list[RpcClient] = []
        self.secrets = {"rc-me": SECRET, "rc-you": b"another"}
        self.connected: list[str] = []
        self.disconnected: list[tuple[str, str]] = []
        self.gone = asyncio.Event()

    async def mux(self, **options: Any) -> Mux:
        def left(server: RpcServer, reason: str) -> None:
            self.disconnected.append((server.client_id, reason))
            self.gone.set()
            self.changed.set()

        def note(where: list[str]) -> Callable[..., None]:
            def noted(server: RpcServer, _reason: str = "") -> None:
                where.append(server.client_id)
                self.changed.set()

            return noted

        defaults: dict[str, Any] = {
            "name": "door",
            "exposure": EXPOSURE,
            "secret_of": lambda client_id, _role: self.secrets.get(client_id),
            "on_connected": lambda server: self.connected.append(server.client_id),
            "on_disconnected": left,
            "on_cut": note(self.cut),
            "on_resumed": note(self.resumed),
            "transport": self.transport,
        }
        mux = Mux(self.source, self.address, **{**defaults, **options})
        self.muxes.append(mux)
        await mux.start()
        self.address = mux.address
        return mux

    async def behind_proxy(self) -> Proxy:
        """Has clients connect through a proxy, which can do harm."""
        self.proxy = Proxy(self.address)
        self.address = await self.proxy.start()
        return self.proxy

    async def until(self, true: Callable[[], object]) -> None:
        """Waits for what a callback of the mux, or a handler, tells of."""
        while not true():
            self.changed.clear()
            await self.changed.wait()

    def client(self, **options: Any) -> RpcClient:
        defaults: dict[str, Any] = {
            "id": "rc-me",
            "secret": SECRET,
            "transport": self.transport,
        }
        client = RpcClient(self.address, **{**defaults, **options})
        self.clients.append(client)
        return client

    async def connect(self, **options: Any) -> RpcClient:
        client = self.client(**options)
        await client.start()
        return client

    async def close(self) -> None:
        for client in self.clients:
            await client.stop()
            await client.machine.dispose()
        for mux in self.muxes:
            await mux.stop()
            await mux.machine.dispose()
        if self.proxy is not None:
            await self.proxy.close()
        await self.source.dispose()


def _house(kind: str, tmp_path: Path) -> House:
    address = {
        "unix": f"unix:{tmp_path}/door",
        "memory": "memory:door",
        "tcp": "tcp:127.0.0.1:0",
        "tcp6": "tcp:[::1]:0",
        "tls": "tls:localhost:0",
    }[kind]
    return House(address, _with_tls() if kind == "tls" else STREAMS)


@cache
def _with_tls() -> StreamTransport:
    authority = trustme.CA()
    server, client = SSLContext(PROTOCOL_TLS_SERVER), SSLContext(PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return StreamTransport(server_tls=server, client_tls=client)


@pytest.fixture(params=["unix", "memory"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A house over each transport of one host."""
    house = _house(request.param, tmp_path)
    yield house
    await house.close()


@pytest.fixture(params=["unix", "memory", "tcp", "tcp6", "tls"])
async def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A house over each transport."""
    house = _house(request.param, tmp_path)
    yield house
    await house.close()


@pytest.fixture(params=["unix", "tcp"])
async def line(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A house whose connections can be cut by a proxy; see `House.behind_proxy`."""
    house = _house(request.param, tmp_path)
    yield house
    await house.close()


@pytest.fixture
async def tcp(tmp_path: Path) -> AsyncIterator[House]:
    """A house over TCP, where there is a keep-alive."""
    house = _house("tcp", tmp_path)
    yield house
    await house.close()
