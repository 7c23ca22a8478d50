"""How long a client waits before it tries again to reach its server.

Exponential back-off with full jitter: each delay is drawn from 0 to a bound that doubles up to
a cap, so that a thousand clients of one server that comes back do not come at once.
"""

from __future__ import annotations

from amnode.rpc.options import RpcOptions


class Backoff:
    """The attempts after one loss of a connection, or after several in a row.

    Args:
        options: how many, how long, and the delays.
        now: when the connection was lost, in seconds.
    """

    __slots__ = ("_options", "_until", "tries")

    def __init__(self, options: RpcOptions, now: float) -> None:
        self._options = options
        self._until = now + options.reconnect_timeout
        #: How many attempts were made.
        self.tries = 0

    def next(self, now: float, draw: float) -> float | None:
        """The delay before the next attempt, in seconds; None if there is to be none.

        Args:
            now: the time.
            draw: a random number from 0 to 1.
        """
        options = self._options
        if self.tries >= options.reconnect_tries or now >= self._until:
            return None
        self.tries += 1
        exponent = min(self.tries - 1, 60)
        bound = min(options.reconnect_cap, options.reconnect_base * 2**exponent)
        return min(draw * bound, max(0.0, self._until - now))

    def left(self, now: float) -> float:
        """Seconds until no attempt may go on any more."""
        return max(0.0, self._until - now)

    def exhausted(self) -> str:
        """What was tried, for an error."""
        return f"{self.tries} attempts to come back failed"
