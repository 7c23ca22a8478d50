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
    """

    __slots__ = ("_dead", "_keepalive", "_loop", "_say_alive", "_timer")

    def __init__(
        self, interval: float, say_alive: Callable[[], object], dead: Callable[[], object]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._keepalive = KeepAlive(interval, self._loop.time())
        self._say_alive = say_alive
        self._dead = dead
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    def heard(self) -> None:
        """Something came from the peer."""
        self._keepalive.heard = True

    def said(self) -> None:
        """Something was sent to it."""
        self._keepalive.said = True

    def cancel(self) -> None:
        """No more checks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = self._loop.call_at(self._keepalive.due, self._check, context=Context())

    def _check(self) -> None:
        quiet, dead = self._keepalive.check(self._loop.time())
        if dead:
            self.cancel()
            self._dead()
            return
        self._arm()
        if quiet:
            self._say_alive()
