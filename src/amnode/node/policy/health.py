"""Missed checks, errors, and what they make of a worker.

A ready worker is asked for a sign of life every `worker_check_interval`, one question at a
time. What misses is asked again after `healthcheck_pause`; the third time the question is a
hello on a new connection, and no answer to that is a hang. Any answer, late ones too, clears
the slate. A connection that is lost is asked for the same way, by connecting again.

1. At most one check of a worker is outstanding.
2. A miss counts only for the check that is outstanding.
3. A hang takes `MISSES` misses with no answer in between.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto

MISSES = 3


class Verdict(Enum):
    """What a miss means."""

    AGAIN = auto()  # ask again after a pause
    HANG = auto()  # it is not going to answer
    IGNORED = auto()  # that check was over already


class Health:
    """The checks of one worker."""

    __slots__ = ("_check", "misses", "outstanding")

    def __init__(self) -> None:
        self._check = 0
        self.misses = 0
        self.outstanding = 0

    def ask(self) -> tuple[int, int, bool]:
        """Begin a check: its number, which attempt it is, and whether by a new connection."""
        assert not self.outstanding, "A check is outstanding already (invariant 1)."
        self._check += 1
        self.outstanding = self._check
        attempt = self.misses + 1
        return self._check, attempt, attempt >= MISSES

    def answered(self) -> None:
        """The worker gave a sign of life."""
        self.outstanding = 0
        self.misses = 0

    def missed(self, check: int) -> Verdict:
        """Nothing came of a check, or (number 0) of an attempt to connect again."""
        if check and check != self.outstanding:  # invariant 2
            return Verdict.IGNORED
        self.outstanding = 0
        self.misses += 1
        return Verdict.HANG if self.misses >= MISSES else Verdict.AGAIN

    def suspend(self) -> None:
        """The connection is gone: the outstanding check will not be answered, nor counts."""
        self.outstanding = 0


class ErrorLog:
    """The errors of one worker that still count.

    Args:
        ttl: how long an error counts.
        recent: how long it keeps the worker from being leased.
        kill: this many make the worker unfit.
    """

    __slots__ = ("_kill", "_recent", "_times", "_ttl", "last")

    def __init__(self, *, ttl: float, recent: float, kill: int) -> None:
        self._ttl = ttl
        self._recent = recent
        self._kill = kill
        self._times: deque[float] = deque()
        self.last = ""

    def add(self, now: float, reason: str) -> None:
        """An error was seen."""
        self._times.append(now)
        self.last = reason
        while self._times[0] < now - self._ttl or len(self._times) > self._kill:
            self._times.popleft()

    @property
    def clean_at(self) -> float:
        """When the last error stops being recent; 0 where there was none."""
        return self._times[-1] + self._recent if self._times else 0.0

    def is_unfit(self, now: float) -> bool:
        """Whether too many errors count at this time."""
        return sum(1 for at in self._times if at >= now - self._ttl) >= self._kill
