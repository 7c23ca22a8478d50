"""`amnode ps`: who holds which worker since when, who waits, and why the pool does not grow."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Group, RenderableType

from amnode.cli.operator import operator
from amnode.cli.shared import NOWHERE, PLAIN, Output, Where, run_async
from amnode.cli.show import console, duration, plural, size, table, write_json
from amnode.node.operator_args import PoolListing, WaiterRow, WorkerRow
from amnode.node.progress import Progress

#: See `WorkerState`.
State = Literal["initing", "rpc", "idle", "busy", "ready"]

_WORKERS = (
    *("WORKER", ">PID", "STATE", "HELD BY", ">FOR", "JOB", ">JOBS", ">AGE", ">RSS"),
    "NOTE",
)
_WAITERS = ("WAITING", ">PLACE", ">FOR", ">LEFT", ">HOLDS")


def ps(
    *,
    state: Annotated[
        State | None, Parameter(help="Only workers in this state.", negative="")
    ] = None,
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Lists the workers of a pool, and who waits for one.

    A line a worker: its process, what it is to the pool, who holds it for how long, the jobs
    it has done, its age and memory, and what keeps it from being leased. Then a line a request
    that waits, in the order of the queue, and why the pool is not growing, if it is not.
    """
    listing = run_async(_listing(where, state or ""))
    if output.json:
        write_json(listing)
    else:
        console().print(shown(listing))


async def _listing(where: Where, state: str) -> PoolListing:
    async with operator(where) as supervisor:
        return await supervisor.listing(state)


def shown(listing: PoolListing) -> RenderableType:
    """The pool as text and tables."""
    parts: list[RenderableType] = [headline(listing)]
    parts += remarks(listing)
    if listing.workers:
        parts += ["", table(_WORKERS, map(_worker, listing.workers))]
    if listing.waiters:
        parts += ["", table(_WAITERS, map(_waiter, listing.waiters))]
    return Group(*parts)


def headline(listing: PoolListing) -> str:
    """The pool in one line."""
    counts, bounds = listing.pool.counts, listing.pool.size
    return (
        f"{listing.name} ({listing.kind}): {condition(listing)}, "
        f"up {duration(listing.uptime)}, pid {listing.pid}; "
        f"{plural(counts.total, 'worker')} of {bounds.min} to {bounds.max}: "
        f"{counts.leased + counts.handed_over} leased, {counts.idle} idle, "
        f"{counts.starting} starting, {counts.draining + counts.dying} ending; "
        f"{counts.waiting} waiting"
    )


def condition(listing: PoolListing) -> str:
    """What the pool is doing, in one word or two; the gravest first."""
    pool = listing.pool
    if pool.stopping:
        return "stopping"
    if pool.broken:
        return "held back"
    if pool.drained:
        return "drained"
    if pool.draining:
        return "draining"
    if pool.to_restart:
        return f"restarting ({pool.to_restart} to go)"
    if pool.pool_starting:
        return "starting"
    return "ready" if pool.pool_ready else "short of workers"


def remarks(listing: PoolListing) -> list[str]:
    """What there is to say of the pool beside its numbers."""
    pool = listing.pool
    said = [f"not growing: {pool.why_not_growing}"] if pool.why_not_growing else []
    if pool.broken and pool.broken not in pool.why_not_growing:
        said.append(f"held back: {pool.broken}")
    if pool.fallback:
        said.append(f"workers start by command, because {pool.fallback}")
    return said


def doing(job: str, progress: Progress | None) -> str:
    """A job, and how far it says that it is; "" if there is none."""
    if progress is None:
        return job
    share = progress.share
    far = f"{share:.0%}" if share is not None else f"{progress.done:g}"
    return f"{job} {far} {progress.note}".rstrip()


def _worker(row: WorkerRow) -> tuple[str, ...]:
    state = row.condition
    if state == "idle" and not row.ready:
        state = "not ready"
    return (
        row.id,
        str(row.pid or "-"),
        state,
        row.client or "-",
        duration(row.leased_for) if row.leased_for else "-",
        doing(row.job, row.progress) or "-",
        str(row.jobs_done),
        duration(row.age),
        size(row.memory),
        row.note,
    )


def _waiter(row: WaiterRow) -> tuple[str, ...]:
    return (
        row.client + (" (of a peer)" if row.guest else ""),
        str(row.place),
        duration(row.waited),
        duration(row.time_left),
        str(row.held),
    )
