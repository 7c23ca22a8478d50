"""How long the calls of a job take, and what follows: calls sent ahead, calls in one message.

1. What is not known yet is not small: a job's first calls go one by one. Where a message is
   small, a worker has at least two, so that it need not wait for the next.
2. A chunk grows by `_GROWTH` at most from one answer to the next, since the first call of a job
   may be another than the rest.
3. A chunk is never so long that workers would be idle at the end of what is known to come.
"""

from __future__ import annotations

from math import inf

#: The part of a new measure in the estimate.
_WEIGHT = 0.25
#: Rule 2.
_GROWTH = 8
#: Calls in one message at most.
CHUNK_MOST = 1024
#: Rule 3: chunks that each worker is to get of what is left.
_SHARES = 4


class Pace:
    """What is known of the calls of one job.

    Attributes:
        seconds: that one takes, as far as is known; None before the first.
    """

    __slots__ = ("_chunk", "_slice", "seconds")

    def __init__(self, slice: float) -> None:
        self.seconds: float | None = None
        self._slice = slice
        self._chunk = 1

    def took(self, seconds: float, calls: int) -> None:
        """So many calls in one message took so long, from their turn to their answer."""
        each = seconds / calls
        known = self.seconds
        # Down at once: the way to the worker is a part of a measure, the less the more calls.
        if known is None or each < known:
            self.seconds = each
        else:
            self.seconds = known + _WEIGHT * (each - known)
        if self.seconds <= 0.0 or self._slice / self.seconds > self._chunk:
            self._chunk = min(CHUNK_MOST, self._chunk * _GROWTH)

    def depth(self, calls: int, most: int) -> int:
        """How many messages of so many calls a worker may have."""
        if self.seconds is None:
            return 1
        work = self.seconds * calls
        if work > self._slice:
            return 1
        return (
            most if work * most <= self._slice else min(most, max(2, int(self._slice / work)))
        )

    def chunk(self, left: int | None, workers: int) -> int:
        """How many calls go in one message.

        Args:
            left: how many there will be; None where nobody knows.
            workers: that share them.
        """
        if self.seconds is None:
            return 1
        most = self._slice / self.seconds if self.seconds > 0.0 else inf
        fits = int(min(most, CHUNK_MOST))
        share = CHUNK_MOST if left is None else -(-left // (_SHARES * max(1, workers)))
        return max(1, min(self._chunk, fits, share))
