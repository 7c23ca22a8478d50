"""Timers: many deadlines of one loop, on one timer of it.

A deadline that is set and cleared costs no timer of the loop: one is armed for the earliest,
and one that finds nothing due when it fires is armed again, or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from amnode.node.policy.deadlines import Deadlines


class Timers:
    """Calls back what is due, once each."""

    def __init__(self) -> None:
        self._deadlines: Deadlines[Hashable] = Deadlines()
        self._callbacks: dict[Hashable, Callable[[], object]] = {}
        self._handle: asyncio.TimerHandle | None = None
        self._armed_for = 0.0

    def __len__(self) -> int:
        """How many deadlines are set."""
        return len(self._callbacks)

    def set(self, key: Hashable, delay: float, callback: Callable[[], object]) -> None:
        """Has `callback` called in so many seconds; a key has one deadline, the newest."""
        loop = asyncio.get_running_loop()
        at = loop.time() + delay
        self._deadlines.set(key, at)
        self._callbacks[key] = callback
        if self._handle is None or at < self._armed_for:
            self._arm(loop, at)

    def clear(self, key: Hashable) -> None:
        """Has nothing called for this key; it need not be set."""
        if self._callbacks.pop(key, None) is not None:
            self._deadlines.clear(key)

    def close(self) -> None:
        """Forgets all of them."""
        for key in [*self._callbacks]:
            self.clear(key)
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed_for = at
        self._handle = loop.call_at(at, self._due)

    def _due(self) -> None:
        loop = asyncio.get_running_loop()
        self._handle = None
        now = max(loop.time(), self._armed_for)  # a loop may be a moment early
        try:
            while (key := self._deadlines.pop(now)) is not None:
                self._callbacks.pop(key)()
        finally:
            at = self._deadlines.next()
            if at is not None and (self._handle is None or at < self._armed_for):
                self._arm(loop, at)
