"""No zombie is left: whoever ends a worker, and however, its process is reaped while the pool
goes on, not only when the pool stops.
"""

from __future__ import annotations

import asyncio

import psutil
import pytest

from amnode import WorkerError
from tests.promises.pools import PATIENCE, WatchedSupervisor, client_of, pool
from tests.promises.workers import Plain

#: How a worker's process may end, itself or by others.
WAYS = ["SIGKILL", "SIGSEGV", "exit", "sys.exit"]


def zombies() -> list[int]:
    """Those below this process, of whoever is their parent there."""
    found: list[int] = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


async def reaped() -> None:
    """Waits until there is no zombie."""
    async with asyncio.timeout(PATIENCE):
        while zombies():  # noqa: ASYNC110 - nobody is told when another one reaps a process
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("launcher", ["auto", "command"])
async def test_those_that_end_while_the_pool_goes_on_are_reaped(launcher: str) -> None:
    async with (
        pool(2, launcher=launcher, restart_intensity=100) as supervisor,
        client_of(supervisor) as client,
    ):
        for how in WAYS:
            async with client.lease() as worker:
                pid = (await supervisor.row(worker.id)).pid
                with pytest.raises(WorkerError):
                    await worker.call(Plain.die, how)
            await reaped()
            assert not psutil.pid_exists(pid)
        await supervisor.all_idle(2)


async def test_those_that_a_worker_left_behind_are_reaped() -> None:
    """A worker does not wait for a process that it started; whoever gets it then does."""
    async with pool(1) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            left = [await worker.call(Plain.grandchild) for _ in range(3)]
            with pytest.raises(WorkerError):
                await worker.call(Plain.die, "SIGKILL")
        await supervisor.all_idle(1)
        await reaped()
        assert not [pid for pid in left if psutil.pid_exists(pid)]


async def test_those_that_the_pool_ends_are_reaped() -> None:
    async with pool(2) as supervisor:
        await _resized(supervisor, 4)
        await _resized(supervisor, 1)
        await reaped()


async def _resized(supervisor: WatchedSupervisor, size: int) -> None:
    supervisor.set_pool(size, size, 0)
    await supervisor.all_idle(size)
