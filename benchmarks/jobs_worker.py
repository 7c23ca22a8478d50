"""The worker of the programs that `jobs.py` starts: a module that imports nothing else."""

from __future__ import annotations

from amnode import Worker, job


class Small(Worker):
    """Next to no work."""

    @job
    async def square(self, n: int) -> int:
        return n * n
