"""The supervisor is not on the data path: when it is killed, a lease goes on to its end. The
workers wait `orphan_ttl` for another supervisor and then end by themselves; nothing remains,
its directory included.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from amnode import Client
from tests.promises.pools import gone, program
from tests.promises.workers import Plain


def directory_of(address: str) -> Path:
    return Path(address.removeprefix("unix:")).parent


async def test_a_lease_goes_on_and_then_nothing_remains() -> None:
    async with program("supervisor", size=2) as victim:
        told = await victim.said()
        token = bytes.fromhex(told["token"])
        async with (
            Client("me", Plain, addrs=[told["address"]], token=token) as client,
            client.lease() as worker,
        ):
            await worker.call(Plain.keep, "before")
            mine = await worker.call(Plain.pid)
            os.kill(victim.pid, signal.SIGKILL)
            assert await victim.ended() == -signal.SIGKILL
            await client.machine.when1("SuperDisconnected")
            for pid in told["pids"]:  # the idle one
                if pid != mine:
                    await gone(pid)
            # Its orphan_ttl is over for the leased one as well, by now.
            assert await worker.call(Plain.keep, "after") == ["before", "after"]
        await gone(mine)
    # What a supervisor that was killed cannot remove, its last worker does.
    assert not Path(told["address"].removeprefix("unix:")).parent.exists()


async def test_a_job_goes_on_and_its_worker_ends_after_it() -> None:
    async with program("supervisor", size=1, lease=True) as victim:
        told = await victim.said()
        os.kill(victim.pid, signal.SIGKILL)  # supervisor and client in one process
        for pid in told["pids"]:
            await gone(pid)
    assert not Path(told["address"].removeprefix("unix:")).parent.exists()


async def test_nothing_remains_of_a_worker_that_died_before_it_either() -> None:
    async with program("supervisor", size=2) as victim:
        told = await victim.said()
        directory = directory_of(told["address"])
        os.kill(told["pids"][0], signal.SIGKILL)
        token = bytes.fromhex(told["token"])
        async with Client("me", Plain, addrs=[told["address"]], token=token) as client:
            both = [await client.req_worker(), await client.req_worker()]  # whole again
            pids = [await worker.call(Plain.pid) for worker in both]
            assert told["pids"][0] not in pids
            os.kill(victim.pid, signal.SIGKILL)
            await victim.ended()
        for pid in pids:
            await gone(pid)
        assert not directory.exists()
