"""R8, R13 and R15: leases by the thousand, cancels at every await, and supervisors that die."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import tempfile
import threading
from functools import partial
from pathlib import Path

import psutil

from amnode import Client, LeasedWorker
from tests.chaos.found import Found
from tests.promises.pools import (
    PATIENCE,
    WatchedSupervisor,
    client_of,
    gone,
    pool,
    program,
    short,
)
from tests.promises.stepping import EndOfSteps, cancelled_at
from tests.promises.workers import BusyStates, Plain

TOKEN = b"t" * 32


def _census(worker: psutil.Process) -> dict[str, int]:
    gc.collect()
    me = psutil.Process()
    return {
        "descriptors": me.num_fds(),
        "descriptors of the worker": worker.num_fds(),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
        "processes": len(me.children(recursive=True)),
    }


async def cycles(count: int, chance: random.Random, found: Found) -> None:
    """R8: what is there after all of them was there after the 100th, or the tenth part."""
    before: dict[str, int] = {}
    async with pool(1) as supervisor, client_of(supervisor) as client:
        worker = psutil.Process((await supervisor.workers())[0].pid)
        for number in range(count):
            with found.timed("cycle"):
                async with client.lease() as leased:
                    for _ in range(chance.randrange(3)):
                        await leased.call(Plain.square, number)
            await supervisor.all_idle(1)
            if number == min(100, count // 10):
                before = _census(worker)
        after = _census(worker)
    found.counts["lease cycles"] += count
    found.check(after == before, f"left behind: {before} became {after}")


async def cancels(count: int, chance: random.Random, found: Found) -> None:
    """R13: an acquire, a call and a release, cancelled at each of their awaits in turn."""
    acquires = count - 2 * (count // 3)
    await _cancelled_acquires(acquires, chance, found)
    for name in ("call", "release"):
        await _cancelled(name, count // 3, chance, found)


async def _cancelled(name: str, count: int, chance: random.Random, found: Found) -> None:
    """Nothing is lost by it: the same worker serves on, and what was asked ran at most once."""
    step = 0
    async with pool(1, grace=1000.0) as supervisor, client_of(supervisor) as client:
        (mine,) = [row.id for row in await supervisor.workers()]
        for number in range(count):
            step += 1
            late = chance.random() < 0.5
            worker = await client.req_worker()
            before = await worker.call(Plain.count_of_runs)
            make = worker.release if name == "release" else partial(_call, worker, number)
            try:
                await cancelled_at(make, step, late=late)
                found.counts[f"cancelled {name}"] += 1
            except EndOfSteps:
                found.counts[f"all of a {name}"] += 1
                step = 0
            if name == "call":
                ran = await worker.call(Plain.count_of_runs) - before
                found.check(ran in (0, 1), f"call, step {step}: ran {ran} times")
            await worker.release()
            await supervisor.all_idle(1)
            now = [row.id for row in await supervisor.workers()]
            found.check(now == [mine], f"{name}, step {step}, late={late}: {mine}, now {now}")
            mine = now[0]


async def _call(worker: LeasedWorker, number: int) -> int:
    return await worker.call(Plain.square, number)


async def _cancelled_acquires(count: int, chance: random.Random, found: Found) -> None:
    async with pool(1, delivery_timeout=1000.0, grace=1000.0) as supervisor:
        (mine,) = [row.id for row in await supervisor.workers()]
        step = 0
        while found.counts["cancelled acquire"] < count:
            step += 1
            late = chance.random() < 0.5
            async with client_of(supervisor) as client:
                try:
                    await cancelled_at(client.req_worker, step, late=late)
                    found.counts["cancelled acquire"] += 1
                except EndOfSteps as end:
                    await end.args[0].release()
                    found.counts["all of an acquire"] += 1
                    step = 0
            await supervisor.all_idle(1)
            now = [row.id for row in await supervisor.workers()]
            found.check(now == [mine], f"step {step}, late={late}: {mine} became {now}")
            mine = now[0]


async def restarts(count: int, chance: random.Random, found: Found) -> None:
    """R15: a supervisor is killed while jobs run; the next one adopts all workers."""
    for _ in range(count):
        with tempfile.TemporaryDirectory(prefix="am-", dir="/tmp") as name:
            await _restart(Path(name), chance, found)
        found.counts["supervisors killed"] += 1


async def _restart(directory: Path, chance: random.Random, found: Found) -> None:
    state, fifo = str(directory / "state"), directory / "gate"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    told = {"token": TOKEN.hex(), "name": "me", "state_dir": state}
    size = chance.randint(1, 3)
    async with program("supervisor", size=size, **told) as victim:
        said = await victim.said()
        async with (
            Client("client", Plain, addrs=[said["address"]], token=TOKEN) as client,
            client.lease() as worker,
        ):
            call = asyncio.create_task(worker.call(Plain.gate, str(fifo)))
            await worker.machine.when1(BusyStates.Begun)
            os.kill(victim.pid, signal.SIGKILL)
            await victim.ended()
            opts = short(size, adopt_wait=60.0)
            async with WatchedSupervisor(
                Plain, name="me", token=TOKEN, opts=opts, state_dir=state
            ) as supervisor:
                await supervisor.when_ready()
                await supervisor.until(lambda view: view.counts.leased == 1)
                pids = {row.pid for row in await supervisor.workers()}
                found.check(pids == set(said["pids"]), f"{said['pids']} became {pids}")
                os.write(held, b"unharmed")
                async with asyncio.timeout(PATIENCE):
                    found.check(await call == "unharmed", "a lease was interrupted")
                await worker.release()
                await supervisor.all_idle(size)
    os.close(held)
    for pid in said["pids"]:
        await gone(pid)
