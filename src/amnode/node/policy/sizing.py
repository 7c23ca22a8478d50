"""How many workers there should be, and which one goes when there are too many.

A worker counts as *in use* from the moment it is asked to serve. A request that waits counts
as if it were served already, so that it makes the pool grow; granting it then changes nothing.
"""

from __future__ import annotations

from amnode.node.policy.options import PoolSize


def target(size: PoolSize, in_use: int, waiting: int = 0) -> int:
    """The number of workers, starting ones included, that the pool should have.

    Args:
        size: the bounds.
        in_use: workers that are handed over or leased.
        waiting: requests that wait although their client may have more workers.
    """
    return min(size.max, max(size.min, in_use + waiting) + size.warm)


def missing(size: PoolSize, live: int, total: int, wanted: int) -> int:
    """How many to start now: up to `wanted`, never past `max` processes (promise S7).

    Args:
        size: the bounds.
        live: workers that are neither draining nor dying.
        total: all of the roster.
        wanted: what `target` says.
    """
    return max(0, min(wanted - live, size.max - total))


def with_replacements(size: PoolSize, wanted: int, worn: int) -> int:
    """The number of workers while `worn` of them are being replaced, new ones first.

    Args:
        size: the bounds.
        wanted: what `target` says.
        worn: idle workers whose replacements may be started.
    """
    return min(size.max, wanted + worn)


def has_replacement(size: PoolSize, *, others: int, wanted: int, ready: int) -> bool:
    """Whether a worn idle worker can go, since others have taken its place.

    Args:
        size: the bounds.
        others: workers beside it that have started.
        wanted: what `target` says.
        ready: the workers beside it that are ready.
    """
    return others >= wanted and is_ready(size, ready)


def may_go_first(size: PoolSize, *, total: int, ready: int) -> bool:
    """Whether it can go before that, since there is no room and the minimum stays ready.

    Args:
        size: the bounds.
        total: all of the roster.
        ready: the workers beside it that are ready.
    """
    return total >= size.max and is_ready(size, ready)


def can_renew(size: PoolSize) -> bool:
    """Whether a worker can be replaced without a moment below `min` ready ones."""
    return size.min < size.max


def is_over(size: PoolSize, live: int) -> bool:
    """Whether there are more workers than there may be: the size was made smaller."""
    return live > size.max


def is_ready(size: PoolSize, ready: int) -> bool:
    """Whether the pool may call itself ready (promise S19)."""
    return ready >= size.min


def surplus_at(
    live: int, wanted: int, most_idle_since: float | None, linger: float
) -> float | None:
    """When the most idle worker is to go, or None while there is nothing to spare.

    Args:
        live: workers that are neither draining nor dying.
        wanted: what `target` says.
        most_idle_since: since when the worker that is idle longest is, or None.
        linger: how long a surplus worker stays.
    """
    if live <= wanted or most_idle_since is None:
        return None
    return most_idle_since + linger
