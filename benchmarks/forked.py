"""How soon a pool has workers, and what an idle one costs, on the machine at hand.

Goals: a worker is ready within 30 ms of asking for it, eight of them within 150 ms, and an idle
one that has loaded nothing of its own takes at most 8 MiB.

    python benchmarks/forked.py [samples]
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from statistics import median
from typing import Literal

sys.path.insert(0, str(Path(__file__).parent))

from harness import Figure, figures
from idle_worker import Idle

from amnode import PoolSize, Supervisor, SupervisorOptions


def options(count: int) -> SupervisorOptions:
    return SupervisorOptions(size=PoolSize(count, 16, 0), term_timeout=5.0)


async def resized(supervisor: Supervisor, count: int) -> float:
    """Seconds until the pool has so many workers, all of them ready."""
    asked = time.monotonic()
    supervisor.set_pool(count, 16, 0)
    await supervisor.machine.when1("PoolNormalized")
    taken = time.monotonic() - asked
    # The others go in their own time, which no state tells.
    while supervisor.view().counts.total != count:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return taken


async def starts(supervisor: Supervisor, first: int, then: int, samples: int) -> list[float]:
    """Seconds to get from one number of workers to another, again and again."""
    found: list[float] = []
    for _ in range(samples):
        await resized(supervisor, first)
        found.append(await resized(supervisor, then))
    return found


def memory(pid: int) -> tuple[float, float]:
    """Its proportional share, and what is its own alone, in MiB."""
    values = {"Pss": 0.0, "Private_Dirty": 0.0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name = line.partition(":")[0]
        if name in values:
            values[name] = int(line.split()[1]) / 1024
    return values["Pss"], values["Private_Dirty"]


async def measured(
    launcher: Literal["auto", "command"], samples: int
) -> tuple[list[float], list[float], list[tuple[float, float]]]:
    """One more worker, eight at once, and the memory of each of eight."""
    async with Supervisor(Idle, opts=options(1), launcher=launcher) as supervisor:
        await supervisor.when_ready()
        one = await starts(supervisor, 1, 2, samples)
        eight = await starts(supervisor, 0, 8, max(3, samples // 5))
        shares = [memory(row.pid) for row in await supervisor.workers()]
    return one, eight, shares


async def main(samples: int = 30) -> None:
    """Prints the figures of both ways."""
    one, eight, shares = await measured("auto", samples)
    by_command = await measured("command", max(3, samples // 5))
    rows = [
        Figure("asked for to ready, median", median(one) * 1e3, "ms", 30),
        Figure("eight at once, median", median(eight) * 1e3, "ms", 150),
        Figure("the same by command: one, median", median(by_command[0]) * 1e3, "ms"),
        Figure("… eight at once, median", median(by_command[1]) * 1e3, "ms"),
        Figure("memory of one of eight, idle", median(s[0] for s in shares), "MiB", 8),
        Figure("… its own alone", median(s[1] for s in shares), "MiB"),
        Figure("… by command", median(s[0] for s in by_command[2]), "MiB"),
    ]
    figures("a pool that grows", rows)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
