"""What a replica asks its source: can_add, can_remove, when_args."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amnode.errors import ConnectionLost, ProtocolError, RefusedError, StateUnknownError
from amnode.machine.queue import EXECUTED
from tests.pairs.driven import EAGER, House, Knock
from tests.pairs.driven import anywhere as anywhere  # fixtures
from tests.pairs.driven import line as line


async def _await(result: Any) -> Any:
    return await result


async def test_the_source_decides_whether_states_could_change(anywhere: House) -> None:
    await anywhere.mux()
    door = (await anywhere.connect()).source
    assert not await door.can_add1("Open")  # which requires Unlocked
    assert await door.can_add(["Unlocked", "Open"])
    assert await door.can_remove1("Open")
    anywhere.source.add1("Unlocked")
    before = anywhere.source.time(), anywhere.source.queue_tick
    assert await door.can_add1("Open")
    assert await door.can_remove(["Unlocked", "Open"])
    assert (anywhere.source.time(), anywhere.source.queue_tick) == before


async def test_a_negotiation_handler_is_asked_with_the_arguments(anywhere: House) -> None:
    await anywhere.mux()
    door = (await anywhere.connect()).source
    anywhere.handlers.may_knock = lambda event: event.args.times < 3
    assert await door.can_add1("Knocked", Knock(2))
    assert not await door.can_add(["Knocked"], Knock(3))
    assert anywhere.source.tick("Knocked") == 0


async def test_what_is_closed_could_not_change(anywhere: House) -> None:
    await anywhere.mux()
    client = await anywhere.connect()
    door = client.source
    assert not await door.can_add1("Hidden")
    assert not await door.can_remove1("Knocked")
    with pytest.raises(StateUnknownError):
        door.can_add1("Opn")
    observer = await anywhere.connect(id="rc-you", secret=b"another", role="observer")
    assert not await observer.source.can_add1("Unlocked")
    with pytest.raises(ProtocolError):
        await door.can_add1("Knocked", {"times": "three"})


async def test_a_wait_for_arguments_is_decided_at_the_source(anywhere: House) -> None:
    await anywhere.mux()
    door = (await anywhere.connect()).source
    wait = door.when_args("Knocked", {"times": 3})
    await door.add1("Knocked", Knock(2))
    assert not wait.done
    assert await door.add1("Knocked", Knock(3)) is EXECUTED
    assert await wait is EXECUTED
    assert door.tick("Knocked") == anywhere.source.tick("Knocked")


async def test_a_wait_for_arguments_that_cannot_match_is_an_error(anywhere: House) -> None:
    await anywhere.mux()
    door = (await anywhere.connect()).source
    with pytest.raises(RefusedError, match="no arguments"):
        await door.when_args("Unlocked", {"times": 3})
    with pytest.raises(RefusedError, match="no arguments"):
        await door.when_args("Hidden", {})
    with pytest.raises(ProtocolError, match="no field 'tims'"):
        await door.when_args("Knocked", {"tims": 3})
    observer = await anywhere.connect(id="rc-you", secret=b"another", role="observer")
    with pytest.raises(RefusedError, match="observer"):
        await observer.source.when_args("Knocked", {"times": 3})


async def test_a_wait_that_is_cancelled_ends_at_the_source(anywhere: House) -> None:
    mux = await anywhere.mux()
    door = (await anywhere.connect()).source
    task = asyncio.ensure_future(_await(door.when_args("Knocked", {"times": 3})))
    await door.add1("Unlocked")
    server = mux.servers["rc-me"]
    assert len(server._service._awaited) == 1
    task.cancel()
    await asyncio.wait((task,))
    await door.add1("Closed")
    assert not server._service._awaited
    assert await door.add1("Knocked", Knock(3)) is EXECUTED


async def test_a_wait_for_arguments_goes_on_over_a_cut(line: House) -> None:
    await line.mux()
    proxy = await line.behind_proxy()
    client = await line.connect(options=EAGER)
    wait = client.source.when_args("Knocked", {"times": 3})
    await client.source.add1("Unlocked")
    proxy.refusing = True
    proxy.cut()
    await line.until(lambda: line.cut)
    line.source.add1("Knocked", Knock(3))
    proxy.refusing = False
    assert await wait is EXECUTED


async def test_a_wait_whose_connection_ends_says_so(line: House) -> None:
    await line.mux()
    client = await line.connect()
    wait = client.source.when_args("Knocked", {"times": 3})
    await client.source.add1("Unlocked")
    await client.stop()
    with pytest.raises(ConnectionLost):
        await wait
