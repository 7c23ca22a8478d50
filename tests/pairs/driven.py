"""A real machine, its mux and its clients, over one of the transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from amnode.machine.machine import Machine
from amnode.machine.schema import State, States
from amnode.machine.transition import Event
from amnode.rpc.client import RpcClient
from amnode.rpc.exposure import ErrorReport, Exposure
from amnode.rpc.mux import Mux
from amnode.rpc.server import RpcServer

SECRET = b"a secret that both sides know"


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
    """A door, its mux, and whoever came."""

    def __init__(self, address: str) -> None:
        self.address = address
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

        defaults: dict[str, Any] = {
            "name": "door",
            "exposure": EXPOSURE,
            "secret_of": lambda client_id, _role: self.secrets.get(client_id),
            "on_connected": lambda server: self.connected.append(server.client_id),
            "on_disconnected": left,
        }
        mux = Mux(self.source, self.address, **{**defaults, **options})
        self.muxes.append(mux)
        await mux.start()
        return mux

    def client(self, **options: Any) -> RpcClient:
        defaults: dict[str, Any] = {"id": "rc-me", "secret": SECRET}
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
        await self.source.dispose()


@pytest.fixture(params=["unix", "memory"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """A house over each transport."""
    address = f"unix:{tmp_path}/door" if request.param == "unix" else "memory:door"
    house = House(address)
    yield house
    await house.close()
