"""What is due when, and for what: one heap of deadlines; the driver needs only the next one.

1. A key has at most one deadline; setting it again replaces it.
2. What is due comes out in the order of time, and at one time in the order it was set.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable
from enum import IntEnum, auto
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_SLACK = 64  # replaced entries that may lie in the heap before it is rebuilt


class Due(IntEnum):
    """What a deadline is for."""

    STEP = auto()  # a start has had its time
    LINK = auto()  # to connect again; a connection or the first word on it
    CHECK = auto()  # the next check, or the answer to it
    SETTLED = auto()  # a start has held
    CLEAN = auto()  # the last error is not recent any more
    RESTED = auto()  # to ask again after a refusal
    UNREADY = auto()  # an idle worker that is not ready has had its time
    SIGNAL = auto()  # the next signal, as the last one did not end it
    REQUEST = auto()  # the request that the worker was asked to serve
    SILENT = auto()  # a worker that was found has not told of its lease
    LEAK = auto()  # a lease is longer than it should be
    AGED = auto()  # a worker is as old as one may get
    LINGER = auto()  # the surplus goes
    PAUSE = auto()  # to start processes again after one could not be
    RETRY = auto()  # to start workers again after they failed
    DRAIN = auto()  # the grace of a stop


#: What a worker that is being ended has no more of.
WHILE_ALIVE = (
    Due.STEP,
    Due.LINK,
    Due.CHECK,
    Due.SETTLED,
    Due.CLEAN,
    Due.RESTED,
    Due.UNREADY,
    Due.AGED,
    Due.SILENT,
    Due.LEAK,
)
#: What is put off when the supervisor itself was held up.
NOT_ITS_FAULT = (Due.STEP, Due.LINK, Due.CHECK)


class Deadlines(Generic[K]):
    """Named deadlines. Setting, clearing and taking one cost O(log n)."""

    def __init__(self) -> None:
        self._at: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: K, at: float) -> None:
        """`key` is due at `at`; infinity is never."""
        if at == math.inf:
            self.clear(key)
            return
        self._serial += 1
        self._at[key] = (at, self._serial)
        heapq.heappush(self._heap, (at, self._serial, key))
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._heap = [(at, serial, key) for key, (at, serial) in self._at.items()]
            heapq.heapify(self._heap)

    def clear(self, key: K) -> None:
        """`key` has no deadline any more."""
        self._at.pop(key, None)

    def get(self, key: K) -> float | None:
        """When `key` is due, or None."""
        found = self._at.get(key)
        return found[0] if found else None

    def next(self) -> float | None:
        """The earliest deadline, or None."""
        while self._heap:
            at, serial, key = self._heap[0]
            if self._at.get(key) == (at, serial):
                return at
            heapq.heappop(self._heap)  # replaced or cleared since
        return None

    def pop(self, now: float) -> K | None:
        """Take the first key that is due by `now`, or None."""
        at = self.next()
        if at is None or at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._at[key]
        return key
