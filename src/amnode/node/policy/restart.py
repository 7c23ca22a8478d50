"""When a worker may be started again after starts that failed.

The words are OTP's: *intensity* failures within a *period* are too many. Here that does not end
the supervisor, it opens a breaker:

    closed --intensity failures in a period--> open --back-off over--> one trial start
      ^                                         ^                          |      |
      +------ the trial became ready -----------+------- it failed --------+      |
      +-----------------------------------------------------------------------<---+

A failed start is one that ended before it was ready, or within `restart_settle` of it.

1. In any window of a period, at most *intensity* starts follow a failed start (promise S13).
2. The k-th wait (from 0) is at most `cap` and lies within
   [b * (1 - jitter), b], b = min(base * 2**k, cap); invariant 1 may make it longer.
3. k falls to 0 only when a worker that was started after the last failure has settled.
"""

from __future__ import annotations

from collections import deque

from amnode.node.policy.options import SupervisorOptions

_MOST_DOUBLINGS = 64  # 2**64 seconds are past any cap


class Restart:
    """The breaker. `reason` says why it is open, in one line, or is empty."""

    def __init__(self, options: SupervisorOptions) -> None:
        self._options = options
        self._failures: deque[float] = deque()
        self._restarts: deque[float] = deque()
        self._failed_at: float | None = None
        self._level = 0
        self._retry_at = 0.0
        self._trial = ""
        self.reason = ""

    @property
    def is_open(self) -> bool:
        """Whether starts are held back."""
        return bool(self.reason)

    def may_start(self, now: float) -> bool:
        """Whether a worker may be started now."""
        if not self._suspicious(now):
            return True
        at = self.next_start(now)
        return at is not None and at <= now

    def next_start(self, now: float) -> float | None:
        """When a worker may be started, or None while that depends on the trial."""
        if not self._suspicious(now):
            return now
        if self._trial:
            return None
        at = max(now, self._retry_at if self.is_open else now)
        if len(self._restarts) >= self._options.restart_intensity:  # invariant 1
            oldest = self._restarts[-self._options.restart_intensity]
            at = max(at, oldest + self._options.restart_period)
        return at

    def started(self, worker_id: str, now: float) -> None:
        """A worker is being started, as `may_start` allowed."""
        if not self._suspicious(now):
            return
        self._restarts.append(now)
        if len(self._restarts) > self._options.restart_intensity:
            self._restarts.popleft()
        if self.is_open:
            self._trial = worker_id

    def ready(self, worker_id: str) -> None:
        """A worker became ready; if it is the trial, the breaker closes."""
        if worker_id == self._trial:
            self._trial = ""
            self.reason = ""

    def whole(self) -> None:
        """Nothing is missing any more: there is no start to hold back."""
        self._trial = ""
        self.reason = ""

    def settled(self, started_at: float) -> None:
        """A worker that was started at that time has been ready for long enough."""
        if self._failed_at is not None and started_at > self._failed_at:  # invariant 3
            self._failed_at = None
            self._level = 0
            self._failures.clear()

    def failed(self, worker_id: str, now: float, why: str, draw: float) -> None:
        """A start failed; `draw` is a random number from 0 to 1, for the jitter."""
        self._failed_at = now
        self._failures.append(now)
        while self._failures[0] <= now - self._options.restart_period:
            self._failures.popleft()
        if worker_id == self._trial and self._trial:
            self._trial = ""
            self._open(now, why, draw)
        elif not self.is_open and (
            self._level or len(self._failures) >= self._options.restart_intensity
        ):
            self._open(now, why, draw)

    def _open(self, now: float, why: str, draw: float) -> None:
        options = self._options
        doublings = min(self._level, _MOST_DOUBLINGS)
        wait = min(options.back_off_cap, options.back_off_base * 2.0**doublings)
        self._retry_at = now + wait * (1 - options.back_off_jitter * draw)  # invariant 2
        self._level += 1
        self.reason = (
            f"{len(self._failures)} starts failed within {options.restart_period:g} s; "
            f"the last one: {why}"
        )

    def _suspicious(self, now: float) -> bool:
        """Whether a start now follows a failed one."""
        if self._failed_at is None:
            return False
        if self.is_open or self._level:
            return True
        return now - self._failed_at < self._options.restart_period
