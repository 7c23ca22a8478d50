"""The worker of chaos: a job that takes its time, on the clock."""

from __future__ import annotations

import asyncio

from amnode import job
from tests.promises.workers import BusyStates, Plain


class Napping(Plain):
    """Works for as long as it is told."""

    kind = "Plain"

    @job
    async def nap(self, seconds: float) -> float:
        self.machine.add1(BusyStates.Begun)
        try:
            await asyncio.sleep(seconds)  # a job that lasts
        finally:
            self.machine.remove1(BusyStates.Begun)
        return seconds
