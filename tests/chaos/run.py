"""Runs figures and prints what they found."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from tests.chaos import ends, faults, lives, network, twins
from tests.chaos.found import Found


class FigureOf(NamedTuple):
    """One figure.

    Attributes:
        what: it shows.
        run: injects as often as it is told.
        times: how often, by default.
    """

    what: str
    run: Callable[[int, random.Random, Found], Awaitable[None]]
    times: int


FIGURES = {
    "R5": FigureOf("the fault matrix", faults.matrix, 100),
    "R5-network": FigureOf("faults of the network", network.faults, 60),
    "R6": FigureOf("kills, and their times", faults.kills, 200),
    "R7": FigureOf("hangs", faults.hangs, 12),
    "R8": FigureOf("lease cycles", lives.cycles, 5000),
    "R9": FigureOf("violent ends", ends.violent, 25),
    "R10": FigureOf("stale supervisors", twins.rounds, 10),
    "R13": FigureOf("cancels at every await", lives.cancels, 200),
    "R15-stop": FigureOf("graceful stops under load", ends.stops, 15),
    "R15": FigureOf("supervisors killed and restarted", lives.restarts, 10),
}


def run(name: str, count: int | None, seed: int) -> Found:
    """Runs one figure, and prints it."""
    figure, found, began = FIGURES[name], Found(), time.perf_counter()
    count = figure.times if count is None else count
    print(f"{name} {figure.what}: count {count}, seed {seed}", flush=True)
    asyncio.run(_run(figure, count, random.Random(seed), found))
    print("\n".join(found.lines()))
    print(
        f"  {len(found.violations)} violations, {time.perf_counter() - began:.0f} s", flush=True
    )
    return found


async def _run(figure: FigureOf, count: int, chance: random.Random, found: Found) -> None:
    await figure.run(count, chance, found)
