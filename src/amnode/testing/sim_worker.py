"""SimWorker: the workers of a simulation, and what their jobs do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from amnode.node.jobs import job
from amnode.node.outside import Outside
from amnode.node.policy.options import WorkerOptions
from amnode.node.worker import Worker


class JobWatch(Protocol):
    """Who is told of jobs."""

    def job_started(self, worker: SimWorker, number: int) -> None:
        """A job runs from now on."""
        ...

    def job_ended(self, worker: SimWorker) -> None:
        """It does no more, however it ended."""
        ...


class SimWorker(Worker):
    """A worker whose jobs do nothing but take time, and go wrong when told to.

    Args:
        opts: see `WorkerOptions`.
        outside: what it touches.
        watch: told of its jobs.
        draw: a random number from 0 to 1.
    """

    kind = "sim"

    def __init__(
        self,
        *,
        opts: WorkerOptions,
        outside: Outside,
        watch: JobWatch,
        draw: Callable[[], float],
    ) -> None:
        super().__init__(opts=opts, outside=outside)
        self.watch = watch
        self.draw = draw

    @job
    async def work(self, number: int, seconds: float) -> int:
        """Takes some time."""
        return await self.watched(number, asyncio.sleep(seconds, number))

    @job
    async def fail(self, number: int, seconds: float) -> int:
        """Takes some time, then raises."""

        async def failing() -> int:
            await asyncio.sleep(seconds)
            raise ValueError(f"job {number} fails as it was told to")

        return await self.watched(number, failing())

    @job
    async def linger(self, number: int, seconds: float) -> int:
        """Takes some time; when it is cancelled, that time again."""

        async def lingering() -> int:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                await asyncio.sleep(seconds)
                raise
            return number

        return await self.watched(number, lingering())

    @job
    async def leave(self, number: int, seconds: float) -> int:
        """Takes some time, then ends the process."""

        async def leaving() -> int:
            await asyncio.sleep(seconds)
            raise SystemExit(3)

        return await self.watched(number, leaving())

    async def watched(self, number: int, body: Any) -> int:
        """Runs the body of a job, and tells of its start and its end."""
        self.watch.job_started(self, number)
        try:
            return await body
        finally:
            self.watch.job_ended(self)

    async def on_release(self) -> None:
        """Takes a moment; sometimes it fails, which costs the worker."""
        await asyncio.sleep(self.draw() * 0.02)
        if self.draw() < 0.02:
            raise RuntimeError("on_release fails, as it does now and then")
