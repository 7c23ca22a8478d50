"""Pulse: keeps one connection alive, and notices when its peer is dead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context

from amnode.rpc.protocol.keepalive import KeepAlive


class Pulse:
    """The timer of `KeepAlive`.

    Args:
        interval: what both sides agreed on, in seconds, more than 0.
        say_alive: called when something has to be said.
        dead: called once, when the peer is taken for dead.

    Attributes:
        keepalive: the rules; what is heard and said is noted there.
    """

    __slots__ = ("_dead", "_loop", "_say_alive", "_timer", "keepalive")

    def __init__(
        self, interval: float, say_alive: Callable[[], object], dead: Callable[[], object]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.keepalive = KeepAlive(interval, self._loop.time())
        self._say_alive = say_alive
        self._dead = dead
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    def cancel(self) -> None:
        """No more checks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = self._loop.call_at(self.keepalive.due, self._check, context=Context())

    def _check(self) -> None:
        quiet, dead = self.keepalive.check(self._loop.time())
        if dead:
            self.cancel()
            self._dead()
            return
        self._arm()
        if quiet:
            self._say_alive()
