"""LeaseWatch: tells the log of leases that a client has held for longer than anybody should.

A lease that is forgotten keeps a worker from everybody else, and nothing fails at the place
that forgot it. So the report says where it was taken, if the client was told to remember that.

1. Each lease is reported at most once.
2. Nothing is remembered, and no timer set, unless it was asked for.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from types import FrameType

logger = logging.getLogger("amnode.node")

#: Frames of the report: the innermost ones of the caller's own code.
_FRAMES = 6

#: Modules whose frames say nothing about who asked.
_BETWEEN = ("amnode", "asyncio", "contextlib", "uvloop")


class LeaseWatch:
    """Watches the leases of one client.

    Args:
        client: its name.
        after: seconds after which a lease is reported; None is never.
        trace: whether to remember where each was taken.
    """

    def __init__(self, client: str, after: float | None, *, trace: bool) -> None:
        self._client = client
        self._after = after
        self._trace = trace
        self._timers: dict[tuple[str, int], asyncio.TimerHandle] = {}

    def place(self) -> str:
        """Where in the caller's code a lease is asked for, or ""; to be called there."""
        return _caller() if self._trace else ""

    def begin(self, worker_id: str, epoch: int, place: str) -> None:
        """A lease was taken."""
        if self._after is not None:
            loop = asyncio.get_running_loop()
            self._timers[worker_id, epoch] = loop.call_later(
                self._after, self._report, worker_id, epoch, place
            )

    def end(self, worker_id: str, epoch: int) -> None:
        """It is released or lost."""
        timer = self._timers.pop((worker_id, epoch), None)
        if timer is not None:
            timer.cancel()

    def _report(self, worker_id: str, epoch: int, place: str) -> None:
        self._timers.pop((worker_id, epoch), None)
        said = (
            f"It was taken here:\n{place}" if place else "Pass trace_leases=True to see where."
        )
        logger.warning(
            "Client %s has held worker %s for more than %g s (epoch %d). %s",
            *(self._client, worker_id, self._after, epoch, said),
        )


def _caller() -> str:
    """The innermost frames of the caller's own code, the outermost first."""
    lines: list[str] = []
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and len(lines) < _FRAMES:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in _BETWEEN:
            code = frame.f_code
            lines.append(f"  {code.co_filename}:{frame.f_lineno} in {code.co_qualname}")
        frame = frame.f_back
    return "\n".join(reversed(lines))
