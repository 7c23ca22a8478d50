"""`amnode doctor`: what this machine offers, what each lack costs, and what to do about it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence

from amnode.cli.findings import Finding, Verdict, pool
from amnode.cli.trial import Trial
from amnode.errors import AmnodeError
from amnode.node.client import Client
from amnode.node.policy.options import PoolSize, SupervisorOptions
from amnode.node.supervisor import Supervisor

#: Calls of which the median is told.
_CALLS = 200

#: Seconds that a pool of one may take; one that needs more would help nobody.
_PATIENCE = 30.0

_MARKS = {
    Verdict.OK: "ok",
    Verdict.NOTE: "note",
    Verdict.WORSE: "less",
    Verdict.MISSING: "MISSING",
}


async def try_pool() -> Finding:
    """Starts a pool of one worker and has it do some calls; always a finding."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await _run_pool()
    except (AmnodeError, OSError) as error:
        return pool(f"{type(error).__name__}: {error}")
    except TimeoutError:
        return pool(f"not done within {_PATIENCE:g} s")


async def _run_pool() -> Finding:
    begun = time.perf_counter()
    size = PoolSize(min=1, max=1, warm=0)
    async with Supervisor(Trial, opts=SupervisorOptions(size=size)) as supervisor:
        await supervisor.when_ready()
        ready = time.perf_counter() - begun
        fallback = supervisor.view().fallback
        async with (
            Client("doctor", Trial, addrs=[supervisor.address], token=supervisor.token) as client,
            client.lease() as worker,
        ):
            took = [await _timed(worker.call(Trial.add_one, n)) for n in range(_CALLS)]
    ways = f"started by command, because {fallback}" if fallback else "forked"
    return pool("", ready=ready, call=statistics.median(took), ways=ways)


async def _timed(call: asyncio.Future[int]) -> float:
    begun = time.perf_counter()
    await call
    return time.perf_counter() - begun


def lines(found: Sequence[Finding]) -> Iterator[str]:
    """Findings for a person, one after the other."""
    width = max(len(f.name) for f in found)
    for finding in found:
        yield f"{_MARKS[finding.verdict]:7}  {finding.name:{width}}  {finding.found}"
        if finding.cost:
            yield f"{'':7}  {'':{width}}  cost: {finding.cost}"
        if finding.remedy:
            yield f"{'':7}  {'':{width}}  do:   {finding.remedy}"
