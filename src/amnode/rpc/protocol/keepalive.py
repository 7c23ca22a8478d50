"""Whether the peer is still there, by what is heard of it.

Each side says something at least every half interval, and takes the peer for dead once it has
heard nothing for one and a half; so a dead one is noticed within two. Rules:

1. The interval is the shorter one of what both sides want; none if neither wants any.
2. A check that comes late by more than a quarter of the interval says that *this* side was held
   up: what came meanwhile may not be read yet, so the peer gets another half interval.
"""

from __future__ import annotations

from typing import Final

#: What the sums of times may be off by, as a part of them.
_ROUNDING: Final = 1e-9


def agreed(mine: int, theirs: int) -> int:
    """The interval of both sides, in milliseconds; 0 is none (rule 1)."""
    return min(mine, theirs) if mine and theirs else mine or theirs


class KeepAlive:
    """One side's view.

    Args:
        interval: what was agreed, in seconds.
        now: the time.
    """

    __slots__ = ("_due", "_heard", "_interval", "heard", "said")

    def __init__(self, interval: float, now: float) -> None:
        self._interval = interval
        self._heard = now
        self._due = now + interval / 2
        #: Set to True when something was heard or said since the last check.
        self.heard = self.said = False

    @property
    def due(self) -> float:
        """When `check` is to be called next."""
        return self._due

    def check(self, now: float) -> tuple[bool, bool]:
        """Whether something has to be said, and whether the peer is dead."""
        half = self._interval / 2
        if self.heard:
            self._heard = now
        elif now - self._due > half / 2:  # rule 2
            self._heard = max(self._heard, now - self._interval)
        quiet = not self.said
        self.heard = self.said = False
        self._due = now + half
        silence = now - self._heard + _ROUNDING * (now + self._interval)
        return quiet, silence >= 1.5 * self._interval
