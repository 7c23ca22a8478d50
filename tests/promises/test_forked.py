"""Workers are forked, where that can be, from one process that has imported what they need.
They are as they would be if each had been started by itself, and end with all that they
started, however they end; the process that forked them ends with the pool.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from amnode import OptionError, Supervisor, WorkerError
from amnode.launch.command import CommandLauncher
from amnode.launch.forkserver import ForkServerLauncher
from tests.promises.pools import (
    PATIENCE,
    WatchedSupervisor,
    client_of,
    gone,
    is_alive,
    pool,
    server_of,
    short,
)
from tests.promises.threaded import Threaded
from tests.promises.workers import BusyStates, Plain, Preloading

pytestmark = [pytest.mark.needs("pidfd"), pytest.mark.needs("proc")]


async def test_one_process_forks_all_of_them_and_ends_with_the_pool() -> None:
    async with pool(3) as supervisor, client_of(supervisor) as client:
        (server,) = server_of(supervisor)
        workers = [await client.req_worker() for _ in range(3)]
        told = [await worker.call(Plain.relatives) for worker in workers]
        assert {parent for parent, _ in told} == {server}
        assert supervisor.view().fallback == ""
        await supervisor.stop()
        assert not is_alive(server)


@pytest.mark.parametrize("launcher", ["command", "of my own"])
async def test_another_launcher_can_be_chosen(launcher: str) -> None:
    chosen = CommandLauncher() if launcher == "of my own" else launcher
    async with (
        pool(1, launcher=chosen) as supervisor,
        client_of(supervisor) as client,
        client.lease() as worker,
    ):
        assert server_of(supervisor) == []
        assert (await worker.call(Plain.relatives))[0] == os.getpid()


async def test_a_launcher_of_my_own_is_mine_to_close(tmp_path: Path) -> None:
    launcher = ForkServerLauncher(
        output=tmp_path / "server", modules=["tests.promises.workers"], path=sys.path
    )
    for _ in range(2):
        async with pool(1, launcher=launcher) as supervisor:
            assert server_of(supervisor) == [launcher.server_pid]
        assert launcher.server_pid is not None
    await launcher.close()


def test_a_way_to_start_that_there_is_not_is_refused() -> None:
    with pytest.raises(OptionError, match="launcher is 'magic'"):
        Supervisor(Plain, launcher="magic")  # pyright: ignore[reportArgumentType] - that is the test


async def test_what_the_class_wants_is_imported_before_the_fork() -> None:
    async with pool(1, Preloading) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            _, modules = await worker.call(Plain.relatives)
        assert "colorsys" in modules


async def test_imports_that_start_threads_are_no_harm_and_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pool(1, Threaded) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            assert (await worker.call(Plain.relatives))[0] == os.getpid()
        why = "the imports of the workers started threads (pump)"
        assert why in supervisor.view().fallback
        assert len([r for r in caplog.records if why in r.getMessage()]) == 1


async def test_the_process_that_forks_them_can_be_killed() -> None:
    async with pool(2) as supervisor, client_of(supervisor) as client:
        (server,) = server_of(supervisor)
        async with client.lease() as worker:
            os.kill(server, signal.SIGKILL)
            await gone(server)
            assert await worker.call(Plain.square, 7) == 49
            with pytest.raises(WorkerError):
                await worker.call(Plain.die, "SIGKILL")
        await supervisor.all_idle(2)
        assert server_of(supervisor) not in ([], [server])


SCRIPT = """
import asyncio, json, os, sys
sys.path.insert(0, os.environ["ROOT"])
from amnode import Client, PoolSize, Supervisor, SupervisorOptions, Worker, job

with open(os.environ["RUNS"], "a") as file:
    file.write("run ")

class Mine(Worker):
    @job
    async def where(self) -> str:
        return type(self).__module__

async def main():
    opts = SupervisorOptions(size=PoolSize(3, 3, 0))
    async with Supervisor(Mine, opts=opts) as supervisor:
        await supervisor.machine.when1("PoolNormalized")
        async with Client("me", Mine, addrs=[supervisor.address], token=supervisor.token) as me:
            async with me.lease() as worker:
                rows = await supervisor.workers()
                print(json.dumps([len(rows), await worker.call(Mine.where)]))

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_a_script_is_run_once_more_however_many_workers_it_has(tmp_path: Path) -> None:
    script, runs = tmp_path / "script.py", tmp_path / "runs"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script)),
        env={**os.environ, "ROOT": root, "RUNS": str(runs)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        told, _ = await process.communicate()
    assert json.loads(told) == [3, "__amnode_main__"]
    assert runs.read_text() == "run run "


# -- what they started ------------------------------------------------------------------------


async def test_what_an_idle_worker_left_running_ends_with_it() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            daemon = await worker.call(Plain.daemon)
        await supervisor.all_idle(1)
        row = await supervisor.row(worker.id)
        assert is_alive(daemon)
        missing = supervisor.machine.when1("NormalizingPool")
        os.kill(row.pid, signal.SIGKILL)
        await gone(daemon)
        (server,) = server_of(supervisor)
        await missing
        await supervisor.all_idle(1)
        assert _children(server) == {one.pid for one in await supervisor.workers()}


async def test_what_a_busy_worker_left_running_ends_with_it() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client, client.lease() as worker:
        daemon = await worker.call(Plain.daemon)
        running = asyncio.create_task(worker.call(Plain.last))
        await worker.machine.when1(BusyStates.Begun)
        os.kill((await supervisor.row(worker.id)).pid, signal.SIGKILL)
        with pytest.raises(WorkerError):
            await running
        await gone(daemon)


@pytest.mark.parametrize("launcher", ["auto", "command"])
@pytest.mark.parametrize("how", ["it stops", "it is stuck", "it is hung"])
async def test_it_ends_with_one_that_ends_in_another_way(launcher: str, how: str) -> None:
    checks = {"worker_check_interval": 0.05, "healthcheck_pause": 0.05, "check_timeout": 0.2}
    changes = checks if how == "it is hung" else {}
    async with pool(1, launcher=launcher, **changes) as supervisor:
        async with client_of(supervisor) as client, client.lease() as worker:
            daemon = await worker.call(Plain.daemon)
            if how == "it is hung":
                with pytest.raises(WorkerError):
                    await worker.call(Plain.block, 1000.0)
            elif how == "it is stuck":
                with pytest.raises(WorkerError):
                    await worker.options(deadline=0.01).call(Plain.stubborn)
        await supervisor.stop()
        await gone(daemon)


PROGRAM = (
    "from amnode import run_worker; from tests.promises.workers import Plain; run_worker(Plain)"
)


async def test_it_ends_with_a_program_of_my_own() -> None:
    bin_ = [sys.executable, "-c", PROGRAM]
    async with WatchedSupervisor("Plain", bin_, Plain.schema, opts=short(1)) as supervisor:
        await supervisor.when_ready()
        assert server_of(supervisor) == []
        async with client_of(supervisor) as client, client.lease() as worker:
            daemon = await worker.call(Plain.daemon)
        await supervisor.stop()
        await gone(daemon)


def _children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
