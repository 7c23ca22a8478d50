"""SimActor: one who lives in a process of its own, and is started again when that is killed."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amnode.testing.deployment import Deployment
    from amnode.testing.host import SimProcess


class SimActor(ABC):
    """A supervisor or a client of a deployment, and those that take its place.

    Args:
        deployment: where it lives.
        name: its processes are called so, with the number of the life.

    Attributes:
        process: that it lives in, or lived in last; None before its first life.
    """

    def __init__(self, deployment: Deployment, name: str) -> None:
        self.process: SimProcess | None = None
        self._deployment = deployment
        self._process_name = name
        self._lives = 0
        self._stop: asyncio.Event | None = None

    def start(self) -> None:
        """Starts it, or the next one; does nothing while one lives."""
        if self.process is not None and self.process.record is None:
            return
        self._lives += 1
        self._begin_anew()
        name = f"{self._process_name}.{self._lives}"
        self.process = self._deployment.host.start(name, self._run)
        self._deployment.watch(self.process.place, self._look)

    def start_again(self) -> None:
        """Starts the next one after a while; `heal` has done so already for all."""
        if not self._deployment.resting:
            self.start()

    def stop(self) -> None:
        """Asks it to stop."""
        if self.process is not None and self._stop is not None:
            self._deployment.loop.post(self.process.place, 0.0, self._stop.set)

    def told_to_stop(self) -> asyncio.Event:
        """Set when it is to stop; to be asked for once, at the start of its life."""
        self._stop = asyncio.Event()
        return self._stop

    @abstractmethod
    def _begin_anew(self) -> None:
        """Forgets what the life before knew."""

    @abstractmethod
    async def _run(self, process: SimProcess) -> int:
        """Its life; returns the exit code."""

    @abstractmethod
    def _look(self) -> None:
        """Checks after each of its turns what can be seen of it."""
