"""A mux that is started and stopped while it is still at the one before."""

from __future__ import annotations

import asyncio

from tests.pairs.driven import House
from tests.pairs.driven import anywhere as anywhere  # a fixture
from tests.pairs.driven import house as house  # a fixture

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
