"""A worker whose jobs note in a file that they began."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from amnode import State, Worker, WorkerStates, job


class MarkedStates(WorkerStates):
    """A worker that says when a job waits."""

    Waiting = State(require=("Leased",))
    "A job waits until it is cancelled."


class Marks(Worker):
    """Jobs that are done at once, and some that are not."""

    schema = MarkedStates

    async def on_release(self) -> None:
        """The next client is served by this process, too."""

    @job
    async def mark(self, path: str, n: int) -> int:
        _append(path, n)
        return n

    @job(idempotent=True)
    async def mark_again(self, path: str, n: int) -> int:
        _append(path, n)
        return n

    @job
    async def mark_late(self, path: str, n: int) -> int:
        _append(path, n)
        await asyncio.sleep(0)
        return n

    @job
    async def die(self, path: str, n: int) -> None:
        _append(path, n)
        os.kill(os.getpid(), signal.SIGKILL)

    @job(idempotent=True)
    async def die_again(self, path: str, n: int) -> None:
        _append(path, n)
        os.kill(os.getpid(), signal.SIGKILL)

    @job
    async def wait(self) -> None:
        self.machine.add1(MarkedStates.Waiting)
        await asyncio.Event().wait()


def _append(path: str, n: int) -> None:
    with Path(path).open("a") as file:
        file.write(f"{n}\n")
