"""`amnode crashes`: which workers died of what, and what each was doing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from amnode.cli.logs import matched
from amnode.cli.operator import operator
from amnode.cli.ps import doing
from amnode.cli.shared import NOWHERE, PLAIN, Output, Where, run_async
from amnode.cli.show import console, duration, table, write_json
from amnode.errors import WorkerMissingError
from amnode.node.operator_args import CrashListing, ListCrashesArgs
from amnode.node.policy.crash import last_line
from amnode.node.policy.crashes import CrashRecord
from amnode.node.states import SupervisorStates

S = SupervisorStates

_COLUMNS = (">#", "WHEN", "WORKER", "ENDED BY", "WHILE", "HELD BY", "JOB", ">AGE", "LAST LINE")


def crashes(
    which: Annotated[
        str, Parameter(show_default=False, help="A crash's number, or a worker: all of one.")
    ] = "",
    /,
    *,
    last: Annotated[
        bool, Parameter(negative="", help="The last one, with everything that is known.")
    ] = False,
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Lists the last crashes of workers; of one, shows everything that is known.

    That is: its cause, the exit code or signal, its last lines, what its supervisor saw last,
    and of one that hung, where its threads were. The last `crashes_kept` are remembered, with a
    state directory also over a restart of the supervisor.
    """
    found = run_async(_crashes(where))
    if which:
        found = _chosen(found, which)
    if last:
        found = found[-1:]
    if output.json:
        write_json(found)
    elif not found:
        print("No worker has crashed.")
    elif len(found) == 1 and (which or last):
        print("\n".join(_told(found[0])))
    else:
        console().print(table(_COLUMNS, map(_row, found)))


async def _crashes(where: Where) -> list[CrashRecord]:
    async with operator(where) as supervisor:
        listing = await supervisor.ask(S.ListCrashes, ListCrashesArgs(), CrashListing)
        return list(listing.crashes)


def _chosen(found: list[CrashRecord], which: str) -> list[CrashRecord]:
    by_number = [record for record in found if str(record.number) == which]
    if by_number:
        return by_number
    try:
        worker_id = matched(which, (record.worker_id for record in found))
    except WorkerMissingError:
        raise WorkerMissingError(
            f"No crash of {which!r} is remembered; `amnode crashes` lists those that are."
        ) from None
    return [record for record in found if record.worker_id == worker_id]


def _row(record: CrashRecord) -> tuple[str, ...]:
    report = record.report
    return (
        str(record.number),
        _when(record),
        record.worker_id,
        _how(record),
        report.state,
        record.client or "-",
        record.job or "-",
        duration(record.age),
        last_line(report.output) or "-",
    )


def _when(record: CrashRecord) -> str:
    return datetime.fromtimestamp(record.at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _how(record: CrashRecord) -> str:
    report = record.report
    if report.cause in ("signal", "exit code", "lost"):
        code = "" if report.exit_code is None else f"exit code {report.exit_code}"
        return report.signal or code or "nobody knows"
    return report.cause


def _told(record: CrashRecord) -> Iterator[str]:
    """All that is known of one."""
    report = record.report
    yield f"Crash {record.number}, {_when(record)}"
    yield report.message
    yield ""
    facts = {
        "cause": report.cause,
        "pid": report.pid or "unknown",
        "exit code": "-" if report.exit_code is None else report.exit_code,
        "signal": report.signal or "-",
        "while": report.state,
        "held by": f"{record.client}, epoch {record.epoch}" if record.client else "nobody",
        "age": duration(record.age),
        "jobs done": record.jobs_done,
        "job": doing(record.job, record.progress) or "none",
    }
    yield from (f"{name:<10} {value}" for name, value in facts.items())
    parts = (
        ("What its supervisor saw last:", record.transitions),
        ("Where its threads were:", report.stack),
        ("What it wrote last:", report.output),
    )
    for title, lines in parts:
        if lines:
            yield from ("", title, *(f"  {line}" for line in lines))
