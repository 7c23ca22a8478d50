"""`amnode logs`: what workers write, as they write it, and what those wrote that are gone.

A worker is named by its id, or by the end of it: the number is enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from typing import Annotated

import msgspec
from cyclopts import Parameter

from amnode.cli.operator import Operator, operator
from amnode.cli.shared import NOWHERE, PLAIN, Output, Where, run_async
from amnode.cli.show import write_json
from amnode.errors import WorkerMissingError
from amnode.node.operator_args import OutputPart, ReadOutputArgs
from amnode.node.states import SupervisorStates

S = SupervisorStates


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line, as JSON shows it.

    Attributes:
        worker_id: who wrote it.
        line: what, made safe to show.
    """

    worker_id: str
    line: str


def logs(
    worker: Annotated[
        str, Parameter(show_default=False, help="Whose; its number will do. All by default.")
    ] = "",
    /,
    *,
    follow: Annotated[
        bool,
        Parameter(
            name=["--follow", "-f"],
            negative="",
            help="Go on as more is written, until the worker ends or Ctrl-C.",
        ),
    ] = False,
    lines: Annotated[
        int, Parameter(name=["--lines", "-n"], help="Of what is there already, so many lines.")
    ] = 100,
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Shows what workers wrote, also those that have ended.

    Control characters are shown as escapes. The output of the last `outputs_kept` workers that
    ended is there still.
    """
    run_async(_logs(where, worker, ReadOutputArgs(lines=lines, follow=follow), output))


async def _logs(where: Where, worker: str, args: ReadOutputArgs, output: Output) -> None:
    async with operator(where) as supervisor:
        worker_id = await id_of(supervisor, worker) if worker else ""
        asked = ReadOutputArgs(worker_id=worker_id, lines=args.lines, follow=args.follow)
        stream = supervisor.source.stream([S.ReadOutput], asked, item_type=OutputPart)
        async with aclosing(stream) as parts:
            async for part in parts:
                _show(part, output, named=not worker_id)


def _show(part: OutputPart, output: Output, *, named: bool) -> None:
    if output.json:
        for line in part.lines:
            write_json(Line(worker_id=part.worker_id, line=line))
        return
    before = f"{part.worker_id}  " if named else ""
    print("\n".join(f"{before}{line}" for line in part.lines), flush=True)


async def id_of(supervisor: Operator, worker: str) -> str:
    """The id of the worker that a person names, among those that are and that were.

    Raises:
        WorkerMissingError: there is none, or more than one.
    """
    listing = await supervisor.listing()
    return matched(worker, [*listing.outputs, *(row.id for row in listing.workers)])


def matched(worker: str, ids: Iterable[str]) -> str:
    """The one id that is this, or ends so: the number, or more of it.

    Raises:
        WorkerMissingError: there is none, or more than one.
    """
    known = list(dict.fromkeys(ids))
    if worker in known:
        return worker
    found = [one for one in known if one.endswith(f"-{worker}")]
    if len(found) == 1:
        return found[0]
    among = ", ".join(found or known) or "none at all"
    what = "Which worker" if found else "There is no worker"
    raise WorkerMissingError(f"{what} {worker!r}{'?' if found else ''}: there are {among}.")
