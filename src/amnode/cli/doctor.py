"""`amnode doctor`: what this machine offers, what each lack costs, and what to do about it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from amnode.cli.exits import Exit
from amnode.cli.findings import Finding, Verdict, pool, worst
from amnode.cli.probes import probe
from amnode.cli.shared import PLAIN, Output, run_async
from amnode.cli.show import console, write_json
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

_SUMS = {
    Verdict.OK: "This machine offers all that amnode can use.",
    Verdict.NOTE: "Pools run here; the notes concern only some of them.",
    Verdict.WORSE: "Pools run here, with less than they could have: see what it costs.",
    Verdict.MISSING: "Pools do not run here until what is missing is there.",
}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        verdict: the gravest of the findings.
        findings: all of them, in the order in which they were looked for.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]


def doctor(
    *,
    try_pool: Annotated[
        bool,
        Parameter(
            name="--try", negative="", help="Also start a pool of one worker, and call it."
        ),
    ] = False,
    output: Output = PLAIN,
) -> int:
    """Says what this machine offers, what each lack costs, and what to do about it.

    Ends with 1 if something is missing without which no pool can run. Nothing is changed, and
    with --try nothing is left.
    """
    found = list(probe())
    if try_pool:
        found.append(run_async(tried()))
    verdict = worst(found)
    if output.json:
        write_json(Report(verdict=verdict, findings=tuple(found)))
    else:
        console().print("\n".join(lines(found)), soft_wrap=True)
    return Exit.FAILED if verdict is Verdict.MISSING else Exit.OK


async def tried() -> Finding:
    """Starts a pool of one worker and has it do some calls; always a finding."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await _run_pool()
    except TimeoutError:
        return pool(f"not done within {_PATIENCE:g} s")
    except (AmnodeError, OSError) as error:
        return pool(f"{type(error).__name__}: {error}")


async def _run_pool() -> Finding:
    begun = time.perf_counter()
    size = PoolSize(min=1, max=1, warm=0)
    async with Supervisor(Trial, opts=SupervisorOptions(size=size)) as supervisor:
        await supervisor.when_ready()
        ready = time.perf_counter() - begun
        fallback = supervisor.view().fallback
        async with (
            Client(
                "doctor", Trial, addrs=[supervisor.address], token=supervisor.token
            ) as client,
            client.lease() as worker,
        ):
            took = [await _timed(worker.call(Trial.add_one, n)) for n in range(_CALLS)]
    ways = f"started by command, because {fallback}" if fallback else "forked"
    return pool("", ready=ready, call=statistics.median(took), ways=ways)


async def _timed(call: Coroutine[Any, Any, int]) -> float:
    begun = time.perf_counter()  # finer than the clock of uvloop, which has milliseconds
    await call
    return time.perf_counter() - begun


def lines(found: Sequence[Finding]) -> Iterator[str]:
    """Findings for a person, and what they come to."""
    width = max(len(f.name) for f in found)
    for finding in found:
        yield f"{_MARKS[finding.verdict]:7}  {finding.name:{width}}  {finding.found}"
        if finding.cost:
            yield f"{'':7}  {'':{width}}  cost: {finding.cost}"
        if finding.remedy:
            yield f"{'':7}  {'':{width}}  do:   {finding.remedy}"
    yield ""
    yield _SUMS[worst(found)]
