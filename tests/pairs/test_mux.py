"""A mux that is started and stopped at once, and one whose program fails in a callback."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from amnode.errors import ConnectionLost, RefusedError
from amnode.machine.machine import ErrorArgs
from amnode.machine.queue import EXECUTED
from amnode.machine.transition import Event
from amnode.rpc.mux import Mux
from amnode.rpc.server import RpcServer
from amnode.rpc.transport.port import Accept
from tests.pairs.driven import EAGER, House
from tests.pairs.driven import anywhere as anywhere  # a fixture
from tests.pairs.driven import house as house  # a fixture
from tests.pairs.driven import line as line  # a fixture
from tests.pairs.test_transport import Peer


def nobody(house: House) -> dict[str, Any]:
    """A mux of this house that lets nobody in."""
    return {"secret_of": lambda *_: None, "transport": house.transport}


# -- stop ----------------------------------------------------------------------------------


async def test_every_one_of_several_stops_returns(anywhere: House) -> None:
    mux = await anywhere.mux()
    await anywhere.connect()
    await asyncio.gather(mux.stop(), mux.stop(), mux.stop())
    assert not mux.servers and not mux.machine.active_states()


async def test_a_stop_that_is_cancelled_leaves_the_other_to_its_end(house: House) -> None:
    mux = await house.mux()
    await house.connect()
    first, second = (asyncio.ensure_future(mux.stop()) for _ in range(2))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait((second,))
    await first
    assert second.cancelled() and not mux.servers


async def test_a_stop_waits_for_no_client_that_came_after_it(house: House) -> None:
    mux = await house.mux()
    await house.connect()
    stopping = asyncio.ensure_future(mux.stop())
    await asyncio.sleep(0)
    await mux.start()
    you = await house.connect(id="rc-you", secret=b"another")
    await stopping
    assert [*mux.servers] == ["rc-you"] and you.machine.is1("Ready")
    assert mux.machine.is1("Ready")


# -- start ---------------------------------------------------------------------------------


async def test_a_second_start_waits_for_the_first(anywhere: House) -> None:
    mux = Mux(anywhere.source, anywhere.address, name="m", **nobody(anywhere))
    anywhere.muxes.append(mux)
    first = asyncio.ensure_future(mux.start())
    await asyncio.sleep(0)
    await mux.start()
    assert mux.machine.is1("Ready") and not mux.address.endswith(":0")
    await first


async def test_a_second_start_goes_on_where_the_first_is_cancelled(anywhere: House) -> None:
    mux = Mux(anywhere.source, anywhere.address, name="m", **nobody(anywhere))
    anywhere.muxes.append(mux)
    for turns in range(4):
        first, second = (asyncio.ensure_future(mux.start()) for _ in range(2))
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        await second
        assert mux.machine.is1("Ready") and not mux.address.endswith(":0")
        await asyncio.wait((first,))
        await mux.stop()


@pytest.mark.parametrize("turns", range(6))
async def test_start_and_stop_at_once_end_as_the_last_one_says(
    anywhere: House, turns: int
) -> None:
    mux = Mux(anywhere.source, anywhere.address, name="m", **nobody(anywhere))
    anywhere.muxes.append(mux)
    tasks: list[asyncio.Task[None]] = []
    for step in (mux.start, mux.stop, mux.start, mux.stop):
        tasks.append(asyncio.ensure_future(step()))
        for _ in range(turns):
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert not mux.machine.active_states()
    tasks = [asyncio.ensure_future(step()) for step in (mux.start, mux.stop, mux.start)]
    await asyncio.gather(*tasks)
    assert mux.machine.is1("Ready")
    address = mux.address
    await mux.stop()
    other = Mux(anywhere.source, address, name="n", **nobody(anywhere))
    anywhere.muxes.append(other)
    await other.start()  # nobody listens there


@pytest.mark.parametrize("end", ["cancel", "stop"])
async def test_who_connects_to_a_start_that_is_given_up_is_let_go(
    house: House, end: str
) -> None:
    gate = asyncio.Event()

    class Slow:
        """Listens, and takes its time to say so."""

        connect = house.transport.connect

        async def listen(self, address: str, accept: Accept, *, close_timeout: float) -> Any:
            made = await house.transport.listen(address, accept, close_timeout=close_timeout)
            try:
                await gate.wait()
            except asyncio.CancelledError:
                made.close()
                raise
            return made

    mux = Mux(house.source, house.address, name="m", **{**nobody(house), "transport": Slow()})
    house.muxes.append(mux)
    starting = asyncio.ensure_future(mux.start())
    mute = Peer()
    while mute.connection is None:
        await asyncio.sleep(0)
        with suppress(ConnectionLost):
            await house.transport.connect(house.address, mute, close_timeout=1)
    while not mux._connections:  # noqa: ASYNC110 - no event tells of it
        await asyncio.sleep(0)
    if end == "stop":
        stopping = asyncio.ensure_future(mux.stop())
        await asyncio.sleep(0)
        late = Peer()
        await house.transport.connect(house.address, late, close_timeout=1)
        gate.set()
        await asyncio.wait((stopping, starting))
        await late.ended.wait()
    else:
        starting.cancel()
        await asyncio.wait((starting,))
    await mute.ended.wait()
    assert not mux.machine.active_states()


# -- callbacks that raise ------------------------------------------------------------------


class Fails:
    """A callback that raises, and keeps whom it was called for."""

    def __init__(self) -> None:
        self.server: RpcServer | None = None
        self.error: BaseException | None = None

    def __call__(self, server: RpcServer, _reason: str = "") -> None:
        self.server = server
        server.machine.bind(self)
        raise ValueError("of the program")

    def ExceptionState(self, event: Event) -> None:
        assert isinstance(event.args, ErrorArgs)
        self.error = event.args.error


async def test_a_client_that_on_connected_fails_for_is_refused(house: House) -> None:
    fails = Fails()
    mux = await house.mux(on_connected=fails)
    ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    client = house.client(on_lost=ended.set_result)
    try:
        await client.start()
    except RefusedError as error:
        refusal: Exception = error
    else:
        refusal = await ended
    assert "could not take the client in" in str(refusal)
    assert "of the program" not in str(refusal)
    assert isinstance(fails.error, ValueError)
    await house.until(lambda: house.disconnected)
    assert [who for who, _ in house.disconnected] == ["rc-me"]
    assert not mux.servers and mux.machine.is_(("Ready", "NewServerErr"))
    assert mux.machine.not1("HasClients")


async def test_a_client_that_on_resumed_fails_for_goes_on(line: House) -> None:
    fails = Fails()
    mux = await line.mux(on_resumed=fails)
    proxy = await line.behind_proxy()
    client = await line.connect(options=EAGER)
    server = mux.servers["rc-me"]
    proxy.cut()
    await client.machine.when1("RetryingConn")
    await client.machine.when1("Ready")
    assert await client.source.add1("Unlocked") is EXECUTED
    assert fails.server is server and isinstance(fails.error, ValueError)
    assert mux.servers["rc-me"] is server and server.is_connected
    assert line.disconnected == []
