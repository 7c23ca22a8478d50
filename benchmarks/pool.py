"""What a pool does when a worker is killed, how soon one is leased, and what idling costs.

    python benchmarks/pool.py [--short | --long]

Supervisor and client run in this process, workers as the supervisor starts them by default.
Goals: a SIGKILL noticed within 10 ms at the 99th percentile, the pending call failed and
another worker leased within 50 ms each, a warm lease in 2 ms, nothing left by 10,000 leases,
and at most 1 % of a core for 50 idle workers.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))

from harness import Figure, figures
from pool_peers import peers
from pool_worker import Bench, BenchStates

from amnode import Cause, Client, PoolSize, Supervisor, SupervisorOptions, WorkerError


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


@asynccontextmanager
async def pool(size: PoolSize) -> AsyncIterator[tuple[Supervisor, Client]]:
    """A pool at its size, and a client that is connected."""
    opts = SupervisorOptions(size=size, restart_settle=0.0)
    async with Supervisor(Bench, opts=opts) as supervisor:
        await supervisor.when_ready()
        await supervisor.machine.when1("PoolNormalized")
        async with Client(
            "bench", Bench, addrs=[supervisor.address], token=supervisor.token
        ) as me:
            await me.machine.when1("SuperReady")
            yield supervisor, me


async def noticed(samples: int) -> list[float]:
    """From a SIGKILL of an idle worker until the states of the pool say that it is missing."""
    found: list[float] = []
    async with pool(PoolSize(2, 2)) as (supervisor, _):
        for _ in range(samples):
            await supervisor.machine.when1("PoolNormalized")
            victim = (await supervisor.workers())[0]
            missing = supervisor.machine.when1("NormalizingPool")
            killed = time.perf_counter()
            os.kill(victim.pid, signal.SIGKILL)
            await missing
            found.append(time.perf_counter() - killed)
    return found


async def replaced(samples: int, size: PoolSize) -> tuple[list[float], list[float]]:
    """From a SIGKILL of a busy worker until its call has failed; until another one answered."""
    failed: list[float] = []
    leased: list[float] = []
    async with pool(size) as (supervisor, client):
        for _ in range(samples):
            await supervisor.machine.when1("PoolNormalized")
            async with client.lease() as worker:
                call = asyncio.create_task(worker.call(Bench.last))
                await worker.machine.when1(BenchStates.Begun)
                pid = (await supervisor.worker(worker.id)).pid
                killed = time.perf_counter()
                os.kill(pid, signal.SIGKILL)
                try:
                    await call
                except WorkerError as error:
                    failed.append(time.perf_counter() - killed)
                    if error.cause is not Cause.SIGNAL:
                        raise
            async with client.lease() as worker:
                assert await worker.call(Bench.square, 3) == 9
                leased.append(time.perf_counter() - killed)
    return failed, leased


async def warm_leases(samples: int) -> list[float]:
    """From a request until a worker can be called."""
    found: list[float] = []
    async with pool(PoolSize(2, 2)) as (_, client):
        for _ in range(samples):
            asked = time.perf_counter()
            worker = await client.req_worker()
            found.append(time.perf_counter() - asked)
            await worker.release()
    return found


def census(worker: psutil.Process) -> dict[str, int]:
    """What can be left behind, counted."""
    gc.collect()
    me = psutil.Process()
    return {
        "descriptors": me.num_fds(),
        "descriptors of the worker": worker.num_fds(),
        "threads": threading.active_count(),
        "threads of the worker": worker.num_threads(),
        "tasks": len(asyncio.all_tasks()),
        "processes": len(me.children(recursive=True)),
        "files in /dev/shm": len(list(Path("/dev/shm").iterdir())),
        "temporary files": len(list(Path(tempfile.gettempdir()).rglob("*"))),
    }


async def cycles(count: int) -> list[Figure]:
    """Leases with a call in each; what is there at the end and was not at the 100th."""
    async with pool(PoolSize(1, 1)) as (supervisor, client):
        worker = psutil.Process((await supervisor.workers())[0].pid)
        me, before, sizes = psutil.Process(), dict[str, int](), (0, 0)
        started = time.perf_counter()
        for number in range(count):
            async with client.lease() as leased:
                await leased.call(Bench.square, number)
            if number == 99:
                before = census(worker)
            elif number == count // 2:
                sizes = (me.memory_info().rss, worker.memory_info().rss)
        rate = count / (time.perf_counter() - started)
        after = census(worker)
        grown = [
            (now.memory_info().rss - then) / 2**20
            for now, then in zip((me, worker), sizes, strict=True)
        ]
    rows = [Figure(f"more {name}", after[name] - before[name], "", 0) for name in before]
    rows.append(Figure("supervisor and client grow, last half", grown[0], "MiB", 1))
    rows.append(Figure("worker grows, last half", grown[1], "MiB", 1))
    return [Figure("cycles, each with a call", rate, "a second"), *rows]


async def idling(workers: int, seconds: float) -> float:
    """Per cent of a core that a supervisor takes while nobody asks for anything."""
    opts = SupervisorOptions(size=PoolSize(workers, workers))
    async with Supervisor(Bench, opts=opts) as supervisor:
        await supervisor.when_ready()
        await supervisor.machine.when1("PoolNormalized")
        await asyncio.sleep(1)
        used, began = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        return 100 * (time.process_time() - used) / (time.perf_counter() - began)


def others(samples: int) -> None:
    """The same kill, for those that have a pool or a call to lose."""
    print(
        f"{'a busy worker killed, in others: medians':44} {'call failed':>14} {'next call':>14}"
    )
    with tempfile.TemporaryDirectory(prefix="am-") as directory:
        line = str(Path(directory, "line"))
        os.mkfifo(line)
        for name, run in peers().items():
            times = [run(line) for _ in range(samples)]
            fails = [failed for failed, _ in times if failed is not None]
            answered = percentile([next_one for _, next_one in times], 0.5) * 1e3
            said = f"{percentile(fails, 0.5) * 1e3:.1f} ms" if fails else "never"
            print(f"  {name:42} {said:>14} {answered:>11.1f} ms")


#: Kills, leases, seconds at rest, and kills of each other library.
LENGTHS = {
    "short": (10, 200, 5.0, 1),
    "usual": (150, 10_000, 10.0, 5),
    "long": (1000, 50_000, 60.0, 50),
}


async def main(samples: int, count: int, rest: float) -> None:
    """Prints the figures."""
    seen = await noticed(samples)
    failed, leased = await replaced(samples, PoolSize(2, 4, 1))
    _, forked = await replaced(max(20, samples // 5), PoolSize(1, 1))
    warm = await warm_leases(5 * samples)
    rows = [
        Figure("SIGKILL noticed, median", percentile(seen, 0.5) * 1e3, "ms", 1),
        Figure("SIGKILL noticed, 99th", percentile(seen, 0.99) * 1e3, "ms", 10),
        Figure("pending call failed, 99th", percentile(failed, 0.99) * 1e3, "ms", 50),
        Figure("a warm one leased instead, 99th", percentile(leased, 0.99) * 1e3, "ms", 50),
        Figure("none warm: a new one leased, median", percentile(forked, 0.5) * 1e3, "ms"),
        Figure("a warm lease, median", percentile(warm, 0.5) * 1e3, "ms", 2),
        Figure("a warm lease, 99th", percentile(warm, 0.99) * 1e3, "ms"),
    ]
    figures(f"a pool, {samples} kills", rows)
    figures(f"{count} leases", await cycles(count))
    share = await idling(50, rest)
    figures("at rest", [Figure("supervisor of 50 idle workers", share, "% of a core", 1)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("short", "long"):
        parser.add_argument(
            f"--{name}", dest="length", action="store_const", const=name, default="usual"
        )
    *lengths, of_others = LENGTHS[parser.parse_args().length]
    logging.getLogger("amnode").setLevel(logging.CRITICAL)  # the ends are the benchmark's own
    with tempfile.TemporaryDirectory(prefix="am-") as own:  # files of others do not count
        tempfile.tempdir = own
        asyncio.run(main(*lengths))
        tempfile.tempdir = None
    others(of_others)
