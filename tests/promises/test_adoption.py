"""A supervisor that is killed and started again with its state directory takes over the workers
that live, without interrupting a lease. What it finds it proves before it trusts it; what
belongs to somebody else it lets go.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from amnode import Cause, Client, OptionError, StateDirectoryError, WorkerError
from tests.promises.pools import (
    PATIENCE,
    WatchedSupervisor,
    client_of,
    gone,
    is_alive,
    program,
    server_of,
    short,
)
from tests.promises.workers import BusyStates, Plain

TOKEN = b"t" * 32


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def _supervisor(state_dir: Path, size: int, **more: Any) -> WatchedSupervisor:
    return WatchedSupervisor(
        Plain, name="me", token=TOKEN, opts=short(size, **more), state_dir=str(state_dir)
    )


@asynccontextmanager
async def first(state_dir: Path, size: int, **more: Any) -> AsyncIterator[dict[str, Any]]:
    """A supervisor in a process of its own."""
    told = {"token": TOKEN.hex(), "name": "me", "state_dir": str(state_dir), **more}
    async with program("supervisor", size=size, **told) as victim:
        yield {**await victim.said(), "victim": victim}


async def _kill(told: dict[str, Any]) -> None:
    os.kill(told["victim"].pid, signal.SIGKILL)
    await told["victim"].ended()


def _client(told: dict[str, Any], name: str = "client") -> Client:
    return Client(name, Plain, addrs=[told["address"]], token=TOKEN)


async def _pids(supervisor: WatchedSupervisor) -> set[int]:
    return {row.pid for row in await supervisor.workers()}


def _names(state_dir: Path) -> list[str]:
    """What is in it, but for the output of workers that have ended."""
    return sorted(file.name for file in state_dir.iterdir() if file.suffix != ".old")


def _copy(state_dir: Path, copy: Path) -> None:
    copy.mkdir(mode=0o700)
    for file in state_dir.iterdir():
        if file.is_file():
            shutil.copy(file, copy / file.name)


async def test_living_workers_are_adopted_and_a_lease_goes_on(
    state_dir: Path, tmp_path: Path
) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    async with first(state_dir, 3) as told, _client(told) as client:
        worker = await client.req_worker()
        call = asyncio.create_task(worker.call(Plain.gate, str(fifo)))
        await worker.machine.when1(BusyStates.Begun)
        await _kill(told)
        async with _supervisor(state_dir, 3) as supervisor:
            await supervisor.when_ready()
            assert await _pids(supervisor) == set(told["pids"])
            await supervisor.until(lambda view: view.counts.leased == 1)
            row = await supervisor.row(worker.id)
            assert (row.client, row.epoch) == ("client", worker.epoch)
            os.write(held, b"unharmed")
            assert await call == "unharmed"
            await worker.release()
            await supervisor.all_idle(3)
            async with client.lease() as again:  # it has found the new supervisor
                assert await again.call(Plain.square, 7) == 49
            assert await _pids(supervisor) == set(told["pids"])
            assert supervisor.machine.err is None
    os.close(held)
    for pid in told["pids"]:
        await gone(pid)
    assert _names(state_dir) == ["generation", "lock"]
    assert state_dir.joinpath("generation").read_text() == "2\n"


async def test_an_adopted_worker_that_is_killed_is_noticed_and_replaced(
    state_dir: Path,
) -> None:
    async with first(state_dir, 2) as told, _client(told) as client:
        worker = await client.req_worker()
        call = asyncio.create_task(worker.call(Plain.last))
        await worker.machine.when1(BusyStates.Begun)
        await _kill(told)
        async with _supervisor(state_dir, 2) as supervisor:
            await supervisor.when_ready()
            await supervisor.until(lambda view: view.counts.leased == 1)
            await client.machine.when1("SuperReady")
            os.kill((await supervisor.row(worker.id)).pid, signal.SIGKILL)
            # A kernel that is new enough tells how, although it was nobody's child here.
            with pytest.raises(WorkerError, match=r"by SIGKILL|nobody knows how") as caught:
                await call
            told = caught.value.signal == "SIGKILL"
            assert caught.value.cause is (Cause.SIGNAL if told else Cause.LOST)
            await worker.release()
            await supervisor.all_idle(2)


async def test_an_adopted_worker_that_hangs_is_killed(state_dir: Path) -> None:
    checks = {"worker_check_interval": 0.05, "healthcheck_pause": 0.05, "check_timeout": 0.5}
    async with first(state_dir, 1) as told:
        await _kill(told)
        async with _supervisor(state_dir, 1, **checks) as supervisor:
            await supervisor.when_ready()
            (pid,) = told["pids"]
            missing = supervisor.machine.when1("NormalizingPool")
            os.kill(pid, signal.SIGSTOP)
            await missing
            await supervisor.all_idle(1)
            await gone(pid)
            assert pid not in await _pids(supervisor)


async def test_those_that_died_meanwhile_are_replaced(state_dir: Path) -> None:
    async with first(state_dir, 2) as told:
        await _kill(told)
        os.kill(told["pids"][0], signal.SIGKILL)
        await gone(told["pids"][0])
        async with _supervisor(state_dir, 2) as supervisor:
            await supervisor.all_idle(2)
            assert await _pids(supervisor) & set(told["pids"]) == {told["pids"][1]}
            async with client_of(supervisor) as client, client.lease() as worker:
                assert await worker.call(Plain.square, 7) == 49


async def test_a_supervisor_that_stops_leaves_no_worker_to_adopt(state_dir: Path) -> None:
    async with _supervisor(state_dir, 1) as supervisor:
        await supervisor.all_idle(1)
        (pid,) = await _pids(supervisor)
    assert not is_alive(pid)
    async with _supervisor(state_dir, 1) as supervisor:
        await supervisor.all_idle(1)


async def test_nobody_comes_back(state_dir: Path) -> None:
    async with first(state_dir, 1, adopt_wait=0.0) as told:
        await _kill(told)
        for pid in told["pids"]:
            await gone(pid)
        assert state_dir.joinpath("lock").exists()  # it is not theirs to remove
        async with _supervisor(state_dir, 1) as supervisor:
            await supervisor.all_idle(1)


async def test_a_directory_has_one_supervisor(state_dir: Path) -> None:
    async with _supervisor(state_dir, 1) as supervisor:
        await supervisor.all_idle(1)
        with pytest.raises(StateDirectoryError, match="in use by another supervisor"):
            await _supervisor(state_dir, 1).start()


async def test_a_copied_directory_gives_each_worker_one_supervisor(
    state_dir: Path, tmp_path: Path
) -> None:
    """The newer one takes the workers over; the other lets them go, and harms none of them."""
    async with _supervisor(state_dir, 2) as old:
        await old.all_idle(2)
        workers = await _pids(old)
        server = server_of(old)
        copy = tmp_path / "copy"
        _copy(state_dir, copy)
        async with client_of(old) as client:
            worker = await client.req_worker()
            async with _supervisor(copy, 2, stop_grace=PATIENCE) as new:
                await new.when_ready()
                assert await _pids(new) == workers
                await old.until(lambda v: v.counts.idle == v.counts.total == 2)
                assert not workers & await _pids(old)
                assert await worker.call(Plain.square, 7) == 49
                assert (await new.row(worker.id)).condition == "leased"
                await old.stop()
                assert all(is_alive(pid) for pid in workers)
                await worker.release()
                await new.all_idle(2)
        for pid in (*workers, *server):  # which stays for those that it has forked
            await gone(pid)


async def test_garbage_in_it_is_an_error_that_names_the_file(state_dir: Path) -> None:
    async with _supervisor(state_dir, 0, most=1):
        pass
    file = state_dir / "nw-plain-1.worker"
    file.touch(0o600)
    file.write_text("garbage")
    for _ in range(2):
        with pytest.raises(StateDirectoryError, match=r"nw-plain-1\.worker cannot be used"):
            await _supervisor(state_dir, 1).start()
    file.unlink()
    async with _supervisor(state_dir, 1) as supervisor:
        await supervisor.all_idle(1)


def test_a_state_directory_needs_a_name_and_a_token(state_dir: Path) -> None:
    with pytest.raises(OptionError, match="pass name and token"):
        WatchedSupervisor(Plain, state_dir=str(state_dir))
