"""The worker of the benchmark of pools: a job that answers, and one that lasts."""

from __future__ import annotations

import asyncio

from amnode import State, Worker, WorkerStates, job


class BenchStates(WorkerStates):
    """A worker that says when a job has begun."""

    Begun = State(require=("Leased",))
    "The body of the job that lasts runs."


class Bench(Worker):
    """Answers, or works until it is killed. Its memory is its own, so it is used again."""

    schema = BenchStates

    @job
    async def square(self, n: int) -> int:
        return n * n

    @job
    async def last(self) -> None:
        self.machine.add1(BenchStates.Begun)
        await asyncio.Event().wait()

    async def on_release(self) -> None:
        """There is nothing to clear."""
