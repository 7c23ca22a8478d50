"""The worker of the benchmark of starts and of memory; its module imports nothing else."""

from __future__ import annotations

from amnode import Worker, job


class Idle(Worker):
    """Loads nothing of its own."""

    @job
    async def pid(self) -> int:
        """Never called: a worker has a job."""
        return 0
