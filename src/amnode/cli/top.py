"""`amnode top`: what `ps` shows, again and again.

On a terminal the view stays in place; elsewhere each look is printed below the one before.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

from cyclopts import Parameter
from rich.live import Live

from amnode.cli.operator import Operator, operator
from amnode.cli.ps import shown
from amnode.cli.shared import NOWHERE, PLAIN, Output, Where, run_async
from amnode.cli.show import console, write_json
from amnode.errors import ConnectionLost, OptionError


def top(
    *,
    every: Annotated[
        float, Parameter(name=["--every", "-d"], help="Seconds between two looks.")
    ] = 1.0,
    count: Annotated[
        int, Parameter(name=["--count", "-n"], help="End after so many; 0 is never.")
    ] = 0,
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Watches a pool: what `amnode ps` shows, live.

    Ctrl-C ends it. On a pipe the looks are printed one below the other; with --json, one a
    line.
    """
    if not every >= 0.05:
        raise OptionError(f"--every is {every:g}; it must be at least 0.05 seconds.")
    run_async(_top(where, every, count, output))


async def _top(where: Where, every: float, count: int, output: Output) -> None:
    async with operator(where) as supervisor:
        watching = asyncio.ensure_future(_watch(supervisor, every, count, output))
        try:
            await asyncio.wait((watching, supervisor.lost), return_when=asyncio.FIRST_COMPLETED)
            if not watching.done():
                raise ConnectionLost(f"Supervisor {supervisor.place.shown} has ended.")
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        watching.result()


async def _watch(supervisor: Operator, every: float, count: int, output: Output) -> None:
    if output.json or not sys.stdout.isatty():
        screen, looks = console(), 0
        while True:
            listing = await supervisor.listing()
            if output.json:
                write_json(listing)
            else:
                screen.print(shown(listing), "", sep="\n")
                sys.stdout.flush()
            looks += 1
            if looks == count:
                return
            await asyncio.sleep(every)
    view = shown(await supervisor.listing())
    with Live(
        view, console=console(), auto_refresh=False, screen=not count, vertical_overflow="crop"
    ) as live:
        looks = 1
        while looks != count:
            await asyncio.sleep(every)
            live.update(shown(await supervisor.listing()), refresh=True)
            looks += 1
