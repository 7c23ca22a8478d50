"""What the pool looks like from outside: the data that its published states are made of.

1. Exactly one of `normalizing` and `normalized`; at most one of `starting` and `ready`
   (promise S19).
2. `ready` is "at least `min` workers are ready", unless the pool is stopping.
3. `available` needs `ready`, as WorkersAvailable requires PoolReady, and that leases are
   granted at all. Requests do not need `ready`: they are served by whatever worker is idle.
"""

from __future__ import annotations

import msgspec

from amnode.node.policy.deadlines import Due
from amnode.node.policy.options import PoolSize
from amnode.node.policy.pool import WHOLE, Pool
from amnode.node.policy.roster import Condition


class Counts(msgspec.Struct, frozen=True):
    """How many workers are in which condition, and what is asked of them."""

    starting: int
    idle: int
    handed_over: int
    leased: int
    draining: int
    dying: int
    ready: int
    available: int
    waiting: int
    target: int

    @property
    def total(self) -> int:
        """All workers of the roster."""
        return (
            self.starting
            + self.idle
            + self.handed_over
            + self.leased
            + self.draining
            + self.dying
        )


class Shown(msgspec.Struct, frozen=True, gc=False):
    """What of a view the published states are made of; see `PoolView`."""

    pool_starting: bool
    pool_ready: bool
    workers_available: bool
    normalizing: bool
    drained: bool
    to_restart: int
    broken: str
    spare: int


class PoolView(msgspec.Struct, frozen=True):
    """The pool at one moment.

    Attributes:
        pool_starting: it has not been ready since its start (PoolStarting).
        pool_ready: at least the minimum is ready (PoolReady).
        workers_available: a worker is idle (WorkersAvailable).
        normalizing: workers are missing or still starting (NormalizingPool).
        normalized: none is (PoolNormalized).
        stopping: a stop was asked for.
        stopped: it is complete.
        draining: no new leases are granted (Draining).
        drained: that, and none is left (Drained).
        to_restart: workers that a rolling restart has still to replace (RollingRestart).
        size: the bounds that hold.
        counts: the numbers.
        broken: why starts are held back (ErrPool), or "".
        why_not_growing: one line on what keeps workers missing, or "".
        spare: how many more requests could be served, as peers are told.
        fallback: why workers are started in a slower way than by fork, or "".
    """

    pool_starting: bool
    pool_ready: bool
    workers_available: bool
    normalizing: bool
    normalized: bool
    stopping: bool
    stopped: bool
    draining: bool
    drained: bool
    to_restart: int
    size: PoolSize
    counts: Counts
    broken: str
    why_not_growing: str
    spare: int
    fallback: str

    def check(self) -> None:
        """Raise AssertionError unless S19 holds."""
        assert self.normalizing != self.normalized, "Neither or both of a group (S19)."
        assert not (self.pool_starting and self.pool_ready), "Both of a group (S19)."
        assert self.pool_ready or not self.workers_available, "A require is not met (S19)."
        assert self.counts.available <= self.counts.idle, "More available than idle (S19)."


def show(pool: Pool) -> Shown:
    """What the states are made of; it is asked for after every event."""
    ready = pool.is_ready
    return Shown(
        pool_starting=not (pool.was_ready or pool.stopping),
        pool_ready=ready,
        workers_available=ready and pool.may_lease and pool.roster.available > 0,
        normalizing=pool.is_missing,
        drained=pool.draining and not pool.roster.in_use,
        to_restart=len(pool.restarting),
        broken=pool.restart.reason,
        spare=pool.spare,
    )


def look(pool: Pool, now: float) -> PoolView:
    """The view of a pool; a function of its data and nothing else."""
    shown = show(pool)
    return PoolView(
        pool_starting=shown.pool_starting,
        pool_ready=shown.pool_ready,
        workers_available=shown.workers_available,
        normalizing=shown.normalizing,
        normalized=not shown.normalizing,
        stopping=pool.stopping,
        stopped=pool.stopped,
        draining=pool.draining,
        drained=shown.drained,
        to_restart=shown.to_restart,
        size=pool.size,
        counts=_count(pool),
        broken=shown.broken,
        why_not_growing=_why_not_growing(pool, now),
        spare=shown.spare,
        fallback=pool.fallback,
    )


def _count(pool: Pool) -> Counts:
    count = pool.roster.count
    return Counts(
        starting=count(Condition.STARTING),
        idle=count(Condition.IDLE),
        handed_over=count(Condition.HANDED_OVER),
        leased=count(Condition.LEASED),
        draining=count(Condition.DRAINING),
        dying=count(Condition.DYING),
        ready=pool.roster.ready,
        available=pool.roster.available,
        waiting=len(pool.waitlist),
        target=pool.target,
    )


def _why_not_growing(pool: Pool, now: float) -> str:
    if pool.stopping:
        return "the pool is stopping"
    if pool.is_missing:
        return _why_missing(pool, now)
    if pool.recovering:
        return f"{len(pool.recovering)} workers of before have not told of their leases yet"
    if pool.draining:
        return "the pool is draining, and grants no leases"
    if pool.waitlist.eligible:
        return _at_most(pool)
    if len(pool.waitlist):
        return f"who waits has {pool.size.max_per_client} workers already, as many as one may"
    return ""


def _why_missing(pool: Pool, now: float) -> str:
    at = pool.restart.next_start(now)
    if pool.restart.is_open:
        if at is None:
            return f"one start is being tried, because {pool.restart.reason}"
        return f"no start for {at - now:.1f} s, because {pool.restart.reason}"
    pause_until = pool.due.get((Due.PAUSE, WHOLE))
    if pause_until is not None:
        return f"no start for {pause_until - now:.1f} s, because {pool.spawn_error}"
    starting = pool.roster.count(Condition.STARTING)
    slowly = f", by command, because {pool.fallback}" if pool.fallback else ""
    if starting:
        return f"{starting} worker{' is' if starting == 1 else 's are'} starting{slowly}"
    if len(pool.roster) >= pool.size.max:
        return _at_most(pool)
    if at is not None and at > now:
        return f"no start for {at - now:.1f} s, as too many have failed"
    return "no worker has been started yet"


def _at_most(pool: Pool) -> str:
    return f"there are {len(pool.roster)} workers, of at most {pool.size.max}"
