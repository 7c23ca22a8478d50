"""LoopHost: a process that is a coroutine of some loop, as the host of a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from amnode.node.names import EXIT_HARD_DEADLINE


class Ends(Protocol):
    """What can be ended as a process is."""

    def write(self, text: str) -> None:
        """Writes to its output."""
        ...

    def exit(self, code: int) -> None:
        """Ends it at once."""
        ...


class LoopHost:
    """What is no process, but a coroutine of some loop, as the host of a worker.

    Args:
        process: what stands for one.
    """

    def __init__(self, process: Ends) -> None:
        self.write = process.write
        self.exit = process.exit

    def end_in(self, seconds: float, words: str) -> Callable[[], None]:
        """See `Host`; what blocks the loop blocks this too."""
        return asyncio.get_running_loop().call_later(seconds, self._end, words).cancel

    def _end(self, words: str) -> None:
        self.write(f"{words}\n")
        self.exit(EXIT_HARD_DEADLINE)
