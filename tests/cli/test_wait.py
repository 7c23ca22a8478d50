"""`amnode wait` ends when a machine is in the states that it names, or with 5."""

from __future__ import annotations

import asyncio
import json

from tests.cli.running import PATIENCE, amnode, start
from tests.cli.workers import Signal
from tests.promises.pools import client_of, pool
from tests.promises.workers import Plain


async def test_what_is_so_already_ends_it_at_once() -> None:
    async with pool(1) as supervisor:
        ended = await amnode("wait", "PoolReady", "Start", "--json")
        assert ended.code == 0 and ended.json["machine"] == supervisor.machine.id
        assert ended.json["states"] == {"PoolReady": 1, "Start": 1}
        not_there = await amnode("wait", "Draining", "ErrPool", "--not")
        assert (not_there.code, not_there.out, not_there.err) == (0, "", "")


async def test_it_waits_for_a_supervisor() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        async with client.lease():
            draining = asyncio.create_task(supervisor.drain())
            waiting = await start("wait", "Drained")
            # It is connected, so it waits; what it waits for is not there yet.
            await _until_connected(supervisor)
            assert waiting.returncode is None
        async with asyncio.timeout(PATIENCE):
            assert await waiting.wait() == 0
        await waiting.communicate()
        await draining


async def test_it_waits_for_a_worker() -> None:
    async with (
        pool(1, Signal) as supervisor,
        client_of(supervisor, kind=Signal) as client,
        client.lease() as worker,
    ):
        await worker.call(Signal.burn_out)
        ended = await amnode("wait", "Broken", "Leased", "--worker", worker.id, "--json")
        assert ended.code == 0 and ended.json["states"]["Broken"] == 1
        gone = await amnode("wait", "--not", "Powered", "-w", "1")
        assert gone.code == 0


async def test_a_state_that_is_over_at_once_is_seen() -> None:
    async with pool(1) as supervisor:
        waiting = await start("wait", "WorkerKilled", "--json")
        await _until_connected(supervisor)
        told = asyncio.create_task(waiting.communicate())
        async with asyncio.timeout(PATIENCE):
            for _ in range(4):  # a kill may still be sooner than its wait, which nobody sees
                (row,) = await supervisor.workers()
                died = supervisor.machine.when1("WorkerKilled")
                supervisor._links[row.id].kill()
                await died
                await supervisor.all_idle(1)
                if told.done():
                    break
            out, err = await told
        assert (waiting.returncode, err) == (0, b"")
        assert json.loads(out)["states"]["WorkerKilled"] >= 1
        await supervisor.all_idle(1)


async def test_past_its_time_it_ends_with_5_and_says_what_is() -> None:
    async with pool(1) as supervisor:
        late = await amnode("wait", "Drained", "--timeout", "0.01")
        assert (late.code, late.out) == (5, "")
        assert f"{supervisor.machine.id} is not yet in Drained: Drained:0" in late.err


async def test_an_unknown_state_is_a_usage_error() -> None:
    async with pool(1, Plain):
        wrong = await amnode("wait", "PoolRaedy")
        assert wrong.code == 2 and "PoolReady" in wrong.err
        assert (await amnode("wait")).code == 2


async def test_a_supervisor_that_ends_ends_it() -> None:
    async with pool(1) as supervisor:
        waiting = await start("wait", "Drained")
        await _until_connected(supervisor)
    async with asyncio.timeout(PATIENCE):
        _, err = await waiting.communicate()
    assert waiting.returncode == 3 and b"Traceback" not in err


async def _until_connected(supervisor: object) -> None:
    """Waits until an operator is there; its wait is a local one, which nobody else sees."""
    mux = supervisor.local_rpc  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENCE):
        await mux.machine.when1("HasClients")
