"""Jobs on a pool, beside the other pools of processes: calls, maps, bytes, starts, cancels.

    python benchmarks/jobs.py [--quick] [--large] [call map bytes first cancel]

`call` pins everything to one core, for calls one after the other leave the others idle. `map`
has two workers on whatever there is, each contender by itself, in turns. `first` is from the
start of a fresh interpreter, imports included. `--large` adds Dask and Ray, which take a while.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from amnode import (
    DispatchOptions,
    Pool,
    SyncPool,
    Worker,
    WorkerOptions,
    WorkerStates,
    job,
)
from amnode.node.jobs import AsyncJob

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from benchmarks.echo import connected
from benchmarks.harness import Contender, Figure, figures, standings, take_turns
from benchmarks.jobs_rivals import LARGE, RIVALS, Rival
from benchmarks.processes import cores, pin, run, started

ECHO = Path(__file__).with_name("echo.py")
ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20


class Squares(Worker):
    """Next to no work, so that what is measured is the way to it."""

    def __init__(self) -> None:
        super().__init__(opts=WorkerOptions(release_timeout=1.0))

    @job
    async def square(self, n: int) -> int:
        return n * n

    @job(idempotent=True)
    async def square_again(self, n: int) -> int:
        return n * n

    @job
    async def echo(self, data: bytes) -> bytes:
        return data

    @job
    async def last(self) -> None:
        await asyncio.Event().wait()

    @job
    async def stubborn(self) -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


def _installed(large: bool) -> list[Rival]:
    found: list[Rival] = []
    for rival in (*RIVALS, *(LARGE if large else ())):
        if rival.is_installed:
            found.append(rival)
        else:
            print(f"  {rival.name} is not installed")
    return found


def _kept(size: int) -> Pool:
    return Pool(Squares, min=size, max=size, warm=0, dispatch=DispatchOptions(hold=3600.0))


# -- one call after the other --------------------------------------------------------------


async def calls(quick: bool, large: bool) -> None:
    """p50 and p99 of one warm call, everything on one core; ratios to a bare echo."""
    before = cores()
    if before:
        pin(before[0])
    try:
        async with contextlib.AsyncExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="am-"))
            server = await stack.enter_async_context(started(ECHO, f"unix:{directory}/echo"))
            echo = await stack.enter_async_context(connected(server.ready))
            pool = await stack.enter_async_context(_kept(2))
            blocking = stack.enter_context(SyncPool(Squares, min=1, max=1, warm=0))
            worker = await stack.enter_async_context(pool.lease())
            frame = (40).to_bytes(4, "little") + bytes(40)
            contenders = [
                Contender("a bare echo of 40 bytes", lambda: echo.call(frame)),
                Contender(
                    "await worker.call(...)", lambda: worker.call(Squares.square, 7), 2.5
                ),
                Contender("await pool.call(...)", lambda: pool.call(Squares.square, 7)),
                Contender("SyncPool.call(...)", lambda: blocking.call(Squares.square, 7)),
            ]
            for rival in _installed(large):
                opened = stack.enter_context(rival.open(1))
                contenders.append(Contender(rival.name, lambda call=opened.call: call(7)))
            rounds = 2 if quick else 20
            rows = await take_turns(contenders, rounds=rounds, count=20 if quick else 100)
            standings("one call after the other, one core", rows)
    finally:
        if before:
            pin(*before)


# -- many small calls ----------------------------------------------------------------------


async def maps(quick: bool, large: bool) -> None:
    """Calls a second of `map` with two workers, at equal chunk sizes."""
    counts = (
        {1: 2_000, 16: 10_000, 100: 20_000} if quick else {1: 20_000, 16: 100_000, 100: 300_000}
    )
    rounds = 1 if quick else 3
    rates: dict[tuple[str, int | None], list[float]] = {}
    rivals = _installed(False)
    for _ in range(rounds):
        async with _kept(2) as pool:
            await pool.map(Squares.square, range(2_000), chunk=1)
            await pool.map(Squares.square_again, range(2_000), chunk=1)
            for chunk in (*counts, None):
                count = counts[chunk or 100]
                for name, each in (
                    ("amnode", Squares.square),
                    ("amnode, idempotent", Squares.square_again),
                ):
                    begun = time.perf_counter()
                    await pool.map(each, range(count), chunk=chunk)
                    took = time.perf_counter() - begun
                    rates.setdefault((name, chunk), []).append(count / took)
        for rival in rivals:
            with rival.open(2) as opened:
                assert opened.map is not None
                opened.map(range(500), 1)
                for chunk, count in counts.items():
                    begun = time.perf_counter()
                    opened.map(range(count), chunk)
                    took = time.perf_counter() - begun
                    rates.setdefault((rival.name, chunk), []).append(count / took)
    heads = "".join(f"{f'chunk {chunk}':>14}" for chunk in (*counts, "auto"))
    print(f"{'calls a second of map, 2 workers':40}{heads}")
    for name in dict.fromkeys(name for name, _ in rates):
        cells = [rates.get((name, chunk)) for chunk in (*counts, None)]
        shown = "".join(f"{median(cell):>14,.0f}" if cell else f"{'':>14}" for cell in cells)
        print(f"  {name:38}{shown}")


# -- bytes ---------------------------------------------------------------------------------


async def large_bytes(quick: bool, large: bool) -> None:
    """32 MiB to a worker and back; gigabytes a second, both directions counted."""
    data = bytes(32 * MIB)
    rounds = 2 if quick else 10

    async def rate(send: Callable[[bytes], Awaitable[object] | object]) -> float:
        taken: list[float] = []
        for _ in range(rounds + 1):
            begun = time.perf_counter()
            coming = send(data)
            back = await coming if isinstance(coming, Awaitable) else coming
            taken.append(time.perf_counter() - begun)
            assert len(back) == len(data)  # type: ignore[arg-type]
        return 2 * len(data) / median(taken[1:]) / 1e9

    rows: list[Figure] = []
    async with _kept(1) as pool, pool.lease() as worker:
        rows.append(
            Figure("amnode", await rate(lambda d: worker.call(Squares.echo, d)), "GB/s")
        )
    for rival in _installed(large):
        with rival.open(1) as opened:
            assert opened.echo is not None
            rows.append(Figure(rival.name, await rate(opened.echo), "GB/s"))
    figures("32 MiB there and back", rows)


# -- from nothing --------------------------------------------------------------------------

_FIRST = {
    "amnode.Pool": """
import asyncio
from amnode import Pool
from benchmarks.jobs_worker import Small
async def main():
    async with Pool(Small, min=1, max=2, warm=0) as pool:
        print(await pool.call(Small.square, 7), flush=True)
asyncio.run(main())
""",
    "amnode.Pool, 8 workers ready": """
import asyncio
from amnode import Pool
from benchmarks.jobs_worker import Small
async def main():
    async with Pool(Small, min=8, max=8, warm=0) as pool:
        await pool.when_ready()
        print(49, flush=True)
asyncio.run(main())
""",
    "ProcessPoolExecutor": """
from concurrent.futures import ProcessPoolExecutor
from benchmarks.jobs_rivals import square
with ProcessPoolExecutor(2) as pool:
    print(pool.submit(square, 7).result(), flush=True)
""",
    "multiprocessing.Pool": """
from multiprocessing import Pool
from benchmarks.jobs_rivals import square
with Pool(2) as pool:
    print(pool.apply(square, (7,)), flush=True)
""",
    "loky": """
from loky import ProcessPoolExecutor
from benchmarks.jobs_rivals import square
pool = ProcessPoolExecutor(2)
print(pool.submit(square, 7).result(), flush=True)
pool.shutdown(kill_workers=True)
""",
    "an interpreter that imports asyncio": "import asyncio\nprint(49, flush=True)",
}


async def first(quick: bool, large: bool) -> None:
    """Seconds from the start of an interpreter to the first result."""
    taken: dict[str, list[float]] = {name: [] for name in _FIRST}
    goals = {"amnode.Pool": 300.0, "amnode.Pool, 8 workers ready": 350.0}
    for _ in range(2 if quick else 10):
        for name, program in _FIRST.items():
            if name == "loky" and not RIVALS[2].is_installed:
                continue
            begun = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", program),
                stdout=asyncio.subprocess.PIPE,
                cwd=ROOT,
            )
            assert process.stdout is not None
            line = await process.stdout.readline()
            taken[name].append(time.perf_counter() - begun)
            assert line.strip() == b"49"
            await process.communicate()
    figures(
        "from nothing to the first result",
        [
            Figure(name, 1e3 * median(times), "ms", goals.get(name))
            for name, times in taken.items()
            if times
        ],
    )


# -- cancelling ----------------------------------------------------------------------------


async def _cancelled(pool: Pool, which: AsyncJob[[], None]) -> tuple[float, str]:
    """Seconds until another call is answered after a cancel, and the worker that had it."""
    call = asyncio.ensure_future(pool.call(which))
    busy: list[str] = []
    while not busy:
        await asyncio.sleep(0.001)
        busy = [w.id for w in pool.leased if w.machine.is1(WorkerStates.Working)]
    before = time.perf_counter()
    call.cancel()
    await pool.call(Squares.square, 7)
    took = time.perf_counter() - before
    with contextlib.suppress(asyncio.CancelledError):
        await call
    return took, busy[0]


async def cancels(quick: bool, large: bool) -> None:
    """From the cancel of a running job until the pool has answered another call."""
    rows: list[Figure] = []
    for name, which, size, goal in (
        ("a job that stops: the same worker", Squares.last, 1, 10.0),
        ("one that does not: a warm worker", Squares.stubborn, 4, 100.0),
    ):
        taken: list[float] = []
        async with Pool(Squares, min=1, max=size, warm=size - 1) as pool:
            for _ in range(3 if quick else 20):
                await pool.supervisor.machine.when1("PoolNormalized")
                took, worker_id = await _cancelled(pool, which)
                taken.append(took)
                roster = pool.supervisor.core.roster
                while which is Squares.stubborn and roster.get(worker_id):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)  # it is ended, and replaced
        rows.append(Figure(name, 1e3 * median(taken), "ms", goal))
    figures("a running job is cancelled, and another answered", rows)


PARTS = {"call": calls, "map": maps, "bytes": large_bytes, "first": first, "cancel": cancels}


async def main() -> None:
    """Prints the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--large", action="store_true")
    given = parser.parse_args()
    for name in given.parts or PARTS:
        await PARTS[name](given.quick, given.large)


if __name__ == "__main__":
    run(main())
