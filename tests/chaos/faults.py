"""R5, R6 and R7: faults of processes, in each state that a worker can have.

What the matrix has beside these is not injected here, and why stands in `ELSEWHERE`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

from amnode import Cause, JobCancelled, WorkerError
from tests.chaos.found import Found
from tests.promises.pools import PATIENCE, WatchedSupervisor, client_of, pool
from tests.promises.test_killed_worker import RawClient
from tests.promises.workers import BusyStates, Plain

#: By signal from outside, with what the report must say; None for an orderly end.
SIGNALS: dict[str, tuple[Cause, str] | None] = {
    "SIGKILL": (Cause.SIGNAL, "SIGKILL"),
    "SIGSEGV": (Cause.SIGNAL, "SIGSEGV"),
    "SIGTERM": None,
    "SIGSTOP": (Cause.HANG, "SIGKILL"),
}

#: By a job, so only while one runs.
JOBS: dict[str, tuple[Cause, str]] = {
    "exit": (Cause.EXIT_CODE, ""),
    "interrupt": (Cause.SIGNAL, "SIGINT"),
    "block": (Cause.HANG, "SIGKILL"),
}

STATES = ("idle", "handed over", "busy", "draining", "starting")

#: Cells that are not injected by this run, and the reason.
ELSEWHERE = {
    "exit, interrupt, block x idle, handed over, starting": "no job runs there to do it",
    "SIGSTOP x starting": "is the same as one that never calls back: tests/promises",
    "memory limit": "renewal by max_rss: tests/promises/test_renewal.py; no cgroup here",
    "bad starts": "tests/promises/test_restart_loop.py and test_slow_start.py",
    "network": "figure R5-network; each byte of it: make cuts and make fuzz",
    "client SIGKILL": "tests/promises/test_killed_client.py",
    "supervisor SIGKILL": "figure R15",
    "host (descriptors, full disk, EAGAIN, clock)": "not injected",
}

CHECKS = {"worker_check_interval": 0.05, "healthcheck_pause": 0.05, "check_timeout": 0.5}
MANY: dict[str, Any] = {"restart_intensity": 1_000_000, **CHECKS}


async def matrix(count: int, chance: random.Random, found: Found) -> None:
    """Each cell in turn, `count` injections altogether, in random order."""
    cells = [(fault, state) for fault in SIGNALS for state in STATES]
    cells.remove(("SIGSTOP", "starting"))
    cells += [(fault, state) for fault in JOBS for state in ("busy", "draining")]
    for number in range(count):
        if number % len(cells) == 0:
            chance.shuffle(cells)
        await _cell(*cells[number % len(cells)], found)
    for cell, reason in ELSEWHERE.items():
        found.counts[f"not here: {cell} ({reason})"] += 0


async def _cell(fault: str, state: str, found: Found) -> None:
    name = f"{fault} x {state}"
    try:
        async with asyncio.timeout(3 * PATIENCE), pool(1, **MANY) as supervisor:
            began = time.perf_counter()
            await INJECT[state](supervisor, fault, found)
            await supervisor.all_idle(1)
            found.times[f"whole after {name}"].append(time.perf_counter() - began)
            async with client_of(supervisor, "after") as client, client.lease() as worker:
                found.check(await worker.call(Plain.square, 7) == 49, f"{name}: wrong answer")
    except (AssertionError, TimeoutError) as error:
        found.check(False, f"{name}: {type(error).__name__} {error}")
    found.counts[name] += 1


def _send(pid: int, fault: str) -> None:
    os.kill(pid, getattr(signal, fault))


def _cause(name: str, fault: str, error: BaseException | None, found: Found) -> None:
    expected = (SIGNALS | JOBS)[fault]
    if expected is not None:
        same = isinstance(error, WorkerError) and (error.cause, error.signal) == expected
        found.check(same, f"{name}: the cause is {error!r}, not {expected}")


async def _idle(supervisor: WatchedSupervisor, fault: str, found: Found) -> None:
    row = (await supervisor.workers())[0]
    missing = supervisor.machine.when1("NormalizingPool")
    _send(row.pid, fault)
    async with asyncio.timeout(PATIENCE):
        await missing
    await supervisor.all_idle(1)  # what it was is known when it has ended
    _cause(f"{fault} x idle", fault, supervisor.machine.err, found)


async def _handed_over(supervisor: WatchedSupervisor, fault: str, found: Found) -> None:
    raw = RawClient(supervisor)
    grant = await raw.ask()
    row = await supervisor.row(grant.worker_id)
    missing = supervisor.machine.when1("NormalizingPool")
    _send(row.pid, fault)
    async with asyncio.timeout(PATIENCE):
        await missing
    await raw.rpc.stop()
    await supervisor.all_idle(1)
    _cause(f"{fault} x handed over", fault, supervisor.machine.err, found)


async def _busy(supervisor: WatchedSupervisor, fault: str, found: Found) -> None:
    async with client_of(supervisor) as client, client.lease() as worker:
        await _fail_call(supervisor, worker, f"{fault} x busy", fault, found)


async def _draining(supervisor: WatchedSupervisor, fault: str, found: Found) -> None:
    async with client_of(supervisor) as client:
        async with client.lease() as worker:
            drain = asyncio.create_task(supervisor.drain())
            await asyncio.sleep(0)
            await _fail_call(supervisor, worker, f"{fault} x draining", fault, found)
        async with asyncio.timeout(PATIENCE):
            await drain
    supervisor.resume()


async def _fail_call(
    supervisor: WatchedSupervisor, worker: Any, name: str, fault: str, found: Found
) -> None:
    if fault in JOBS:
        block = fault == "block"
        call = worker.call(Plain.block, 1000.0) if block else worker.call(Plain.die, fault)
        call = asyncio.create_task(call)
    else:
        call = asyncio.create_task(worker.call(Plain.last))
        await worker.machine.when1(BusyStates.Begun)
        _send((await supervisor.row(worker.id)).pid, fault)
    error: BaseException | None = None
    try:
        async with asyncio.timeout(PATIENCE):
            await call
    except (WorkerError, JobCancelled) as caught:
        error = caught
    found.check(error is not None, f"{name}: the call did not fail")
    _cause(name, fault, error, found)


async def _starting(supervisor: WatchedSupervisor, fault: str, found: Found) -> None:
    _send((await supervisor.workers())[0].pid, "SIGKILL")
    await supervisor.until(lambda view: view.counts.idle == 0)
    async with asyncio.timeout(PATIENCE):
        while not (pids := [row.pid for row in await supervisor.workers() if row.pid]):  # noqa: ASYNC110
            await asyncio.sleep(0)  # no state says that it has a process
    try:
        _send(pids[0], fault)
    except ProcessLookupError:
        found.counts["a worker that was gone before its fault"] += 1


Inject = Callable[[WatchedSupervisor, str, Found], Awaitable[None]]
INJECT: dict[str, Inject] = {
    "idle": _idle,
    "handed over": _handed_over,
    "busy": _busy,
    "draining": _draining,
    "starting": _starting,
}


async def kills(count: int, chance: random.Random, found: Found) -> None:
    """R6: SIGKILL, and how long it takes to notice, to fail the call, to lease another."""
    async with (
        pool(2, warm=1, most=4, **MANY) as supervisor,
        client_of(supervisor) as client,
    ):
        for _ in range(count):
            await supervisor.until(lambda v: v.counts.idle == v.counts.total == 3)
            state = chance.choice(("idle", "handed over", "busy"))
            found.counts[f"killed while {state}"] += 1
            if state == "idle":
                row = chance.choice(await supervisor.workers())
                missing = supervisor.machine.when1("NormalizingPool")
                with found.timed("SIGKILL noticed"):
                    os.kill(row.pid, signal.SIGKILL)
                    await missing
                continue
            if state == "handed over":
                await _kill_handed_over(supervisor, found)
                continue
            async with client.lease() as worker:
                call = asyncio.create_task(worker.call(Plain.last))
                await worker.machine.when1(BusyStates.Begun)
                row = await supervisor.row(worker.id)
                began = time.perf_counter()
                os.kill(row.pid, signal.SIGKILL)
                (error,) = await asyncio.gather(call, return_exceptions=True)
                found.times["call failed"].append(time.perf_counter() - began)
                _cause("a kill while busy", "SIGKILL", error, found)  # type: ignore[arg-type]
            async with client.lease() as worker:
                await worker.call(Plain.square, 3)
                found.times["another leased"].append(time.perf_counter() - began)
    found.within("SIGKILL noticed", 0.99, 0.01)
    found.within("call failed", 0.99, 0.05)
    found.within("another leased", 0.99, 0.05)


async def _kill_handed_over(supervisor: WatchedSupervisor, found: Found) -> None:
    raw = RawClient(supervisor)
    grant = await raw.ask()
    row = await supervisor.row(grant.worker_id)
    with found.timed("told who was granted it"):
        os.kill(row.pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            crashed = await raw.crashed
    report = crashed.report
    found.check(
        (report.cause, report.signal, report.state) == (Cause.SIGNAL, "SIGKILL", "handed over"),
        f"a kill while handed over: {report}",
    )
    await raw.rpc.stop()


async def hangs(count: int, chance: random.Random, found: Found) -> None:
    """R7: a blocked loop or a stopped process is found within three checks."""
    for _ in range(count):
        fault, state = chance.choice(
            (("SIGSTOP", "idle"), ("SIGSTOP", "busy"), ("block", "busy"))
        )
        await _cell(fault, state, found)
