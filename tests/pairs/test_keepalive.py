"""A peer that is silent: alive or dead, over TCP."""

from __future__ import annotations

import asyncio

import pytest

from amnode.errors import ConnectionLost, RpcTimeoutError
from amnode.machine.queue import EXECUTED
from amnode.rpc.options import RpcOptions
from tests.pairs.driven import EAGER, House
from tests.pairs.driven import house as house  # fixtures
from tests.pairs.driven import tcp as tcp

FAST = RpcOptions(keepalive=0.05, session_ttl=0, reconnect_tries=0)


async def test_both_ends_notice_a_black_hole(tcp: House) -> None:
    mux = await tcp.mux(options=FAST)
    proxy = await tcp.behind_proxy()
    lost: list[Exception] = []
    client = await tcp.connect(options=FAST, on_lost=lost.append)
    server = mux.servers["rc-me"]
    wait = client.source.when1("Open")
    proxy.freeze()
    with pytest.raises(ConnectionLost):
        await wait
    await tcp.gone.wait()
    assert isinstance(lost[0].__cause__, RpcTimeoutError)
    assert client.machine.is_(("ErrNetworkTimeout", "Exception"))
    assert server.machine.is_(("ErrNetworkTimeout", "ErrNetwork"))


async def test_a_session_goes_on_after_a_black_hole(tcp: House) -> None:
    mux = await tcp.mux(options=RpcOptions(keepalive=0.05))
    proxy = await tcp.behind_proxy()
    client = await tcp.connect(options=EAGER)
    server = mux.servers["rc-me"]
    proxy.freeze_these()
    result = client.source.add1("Unlocked")
    await client.machine.when1("RetryingConn")
    assert await result is EXECUTED
    assert mux.servers["rc-me"] is server and tcp.resumed
    assert tcp.source.tick("Unlocked") == 1


async def test_silent_peers_that_are_there_stay(tcp: House) -> None:
    mux = await tcp.mux(options=FAST)
    proxy = await tcp.behind_proxy()
    client = await tcp.connect(options=FAST)
    loop = asyncio.get_running_loop()
    until = loop.time() + 6 * FAST.keepalive
    passed = proxy.passed
    over = loop.create_future()
    loop.call_at(until, over.set_result, None)
    await over
    assert client.machine.is1("Ready") and mux.servers["rc-me"].is_connected
    assert proxy.passed > passed  # they said that they are alive
    assert await client.source.add1("Unlocked") is EXECUTED


@pytest.mark.parametrize(
    ("mine", "theirs", "agreed"), [(0, 0.5, 0.5), (0.25, 0, 0.25), (0.5, 0.25, 0.25), (0, 0, 0)]
)
async def test_the_shorter_interval_counts(
    tcp: House, mine: float, theirs: float, agreed: float
) -> None:
    mux = await tcp.mux(options=RpcOptions(keepalive=theirs))
    client = await tcp.connect(options=RpcOptions(keepalive=mine))
    link, server = client._link, mux.servers["rc-me"]
    assert link is not None
    assert link.session.keepalive == server.session_now.keepalive == agreed
    assert (link._pulse is not None) == (server._pulse is not None) == bool(agreed)


async def test_connections_of_one_host_need_none(house: House) -> None:
    mux = await house.mux(options=FAST)
    client = await house.connect(options=FAST)
    assert client._link is not None and client._link._pulse is None
    assert mux.servers["rc-me"]._pulse is None
