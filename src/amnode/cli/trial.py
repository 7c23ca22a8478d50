"""A worker that does next to nothing, by which `doctor` proves that a pool works here."""

from __future__ import annotations

from amnode.node.jobs import job
from amnode.node.worker import Worker


class Trial(Worker):
    """Adds one."""

    @job
    async def add_one(self, n: int) -> int:
        """Adds one."""
        return n + 1
