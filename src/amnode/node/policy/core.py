"""The pool's decisions: an event and the time in, actions out.

    Event -> handle(now) -> [Action] -> the driver does them -> Events

`PoolCore` composes the other files of this package; each rule stands in one of them, and here
stands only what is about the pool as a whole. It waits for nothing, starts nothing and reads no
clock: the driver feeds it, in the order in which things happened, keeps one timer at
`next_deadline`, and does what it is told.

1. Time never falls; an event that seems earlier happened now.
2. Whatever follows an event is decided at once, in `_settle`: nothing is left for later but
   what has a deadline. Of a check that was answered as always nothing follows but the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amnode.node.policy import events, sizing
from amnode.node.policy.adoption import Adoption
from amnode.node.policy.deadlines import NOT_ITS_FAULT, Deadlines, Due
from amnode.node.policy.ending import Ending
from amnode.node.policy.events import Action, Event
from amnode.node.policy.leasing import Leasing
from amnode.node.policy.options import PoolSize, SupervisorOptions
from amnode.node.policy.passing import Passing
from amnode.node.policy.pool import WHOLE, Pool
from amnode.node.policy.renewal import Renewal
from amnode.node.policy.roster import Condition, Doom, Member, Roster
from amnode.node.policy.starting import Starting
from amnode.node.policy.view import PoolView, Shown, look, show
from amnode.node.policy.waitlist import Waitlist
from amnode.node.policy.watching import Watching


class PoolCore:
    """The pool of one supervisor.

    Args:
        options: what it goes by.
        kind: what its workers are; a request for another is denied.
        schema_hash: of its workers' schema; likewise.
        name_worker: the machine id of the n-th worker, never the same one twice.
        draw: a random number from 0 to 1, for jitter.

    Attributes:
        decided: how often an event was more than routine, so that `shown` may be another.
    """

    def __init__(
        self,
        options: SupervisorOptions,
        *,
        kind: str,
        schema_hash: str,
        name_worker: Callable[[int], str],
        draw: Callable[[], float],
    ) -> None:
        self.options = options
        self._pool = Pool(options, kind=kind, schema_hash=schema_hash, draw=draw)
        self._ending = Ending(self._pool)
        self._starting = Starting(self._pool, self._ending, name_worker)
        self._passing = Passing(self._pool)
        self._leasing = Leasing(self._pool, self._ending, self._starting, self._passing)
        self._adoption = Adoption(self._pool, self._ending, self._leasing)
        self._renewal = Renewal(self._pool, self._ending)
        self._watching = Watching(
            self._pool,
            ending=self._ending,
            starting=self._starting,
            renewal=self._renewal,
            leasing=self._leasing,
            adoption=self._adoption,
        )
        self._promised: float | None = None
        self.decided = 0
        self._on_event: dict[type[Any], Callable[[Any], None]] = {
            events.Tick: self._on_tick,
            events.StopRequested: self._on_stop,
            events.Resized: self._on_resized,
            events.DrainRequested: self._on_drain,
            **self._passing.on_event,
        }
        self._on_due: dict[Due, Callable[[Member], None]] = {}
        for part in (
            self._ending,
            self._starting,
            self._leasing,
            self._adoption,
            self._renewal,
            self._watching,
        ):
            self._on_event.update(part.on_event)
            self._on_due.update(part.on_due)

    @property
    def roster(self) -> Roster:
        """Who is in the pool."""
        return self._pool.roster

    @property
    def waitlist(self) -> Waitlist:
        """Who waits for a worker."""
        return self._pool.waitlist

    @property
    def size(self) -> PoolSize:
        """The bounds that hold now."""
        return self._pool.size

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened at `now` (monotonic, s); returns what to do, in order."""
        pool = self._pool
        pool.now = now = max(now, pool.now)
        if not self._lags(now) and self._watching.is_routine(event):
            self._promised = self.next_deadline()
            return []
        self.decided += 1
        self._discount_lag(now)
        self._on_event[type(event)](event)
        while (due := pool.due.pop(now)) is not None:
            self._is_due(*due)
        for waiter in pool.waitlist.expire(now):
            self._leasing.deny(*waiter.key, self._leasing.too_late(), timed_out=True)
        for key in self._passing.expire(now):
            self._leasing.deny(*key, self._leasing.too_late(), timed_out=True)
        self._settle()
        pool.settle_bounds()
        self._promised = self.next_deadline()
        actions, pool.actions = pool.actions, []
        return actions

    def next_deadline(self) -> float | None:
        """When the driver is to send `Tick` next, or None."""
        dues = (
            self._pool.due.next(),
            self._pool.waitlist.next_deadline(),
            self._passing.next_deadline(),
        )
        return min([at for at in dues if at is not None], default=None)

    def shown(self) -> Shown:
        """What of the view shows as states."""
        return show(self._pool)

    def view(self, now: float) -> PoolView:
        """What the pool looks like; costs the same whatever its size."""
        return look(self._pool, max(now, self._pool.now))

    def check(self) -> None:
        """Raise AssertionError unless S7, S9, S19 and the indexes hold; scans the pool."""
        self._pool.check()
        self._passing.check()
        self.view(self._pool.now).check()

    # -- the pool as a whole ---------------------------------------------------------------

    def _on_tick(self, event: events.Tick) -> None:
        """What is due follows by itself."""

    def _on_stop(self, event: events.StopRequested) -> None:
        pool = self._pool
        grace = pool.options.stop_grace if event.grace is None else max(0.0, event.grace)
        drain_at = pool.now + grace
        earlier = pool.due.get((Due.DRAIN, WHOLE))
        if not pool.stopping or (earlier is not None and drain_at < earlier):
            pool.due.set((Due.DRAIN, WHOLE), drain_at)
        if pool.stopping:
            return
        pool.stopping = True
        pool.restarting.clear()
        self._leasing.deny_all("The pool is stopping.")
        for member in pool.roster:
            if member.condition is Condition.STARTING:
                doom = Doom("the pool is stopping", expected=True)
                self._ending.end(member, doom, force=False)
            elif member.doom is None:
                self._ending.update(member)

    def _on_resized(self, event: events.Resized) -> None:
        self._pool.resize(event.size)

    def _on_drain(self, event: events.DrainRequested) -> None:
        self._pool.draining = event.on

    # -- what follows ----------------------------------------------------------------------

    def _settle(self) -> None:
        """Serve who waits, then see to the size of the pool (invariant 2)."""
        pool = self._pool
        pool.was_ready = pool.was_ready or pool.is_ready
        if pool.stopping:
            if not len(pool.roster) and not pool.stopped:
                pool.stopped = True
                pool.due = Deadlines()
                pool.act(events.Stopped())
            return
        self._renewal.step()
        while sizing.is_over(pool.size, pool.roster.live) and self._retire_spare():
            pass  # before it is offered to who waits
        while pool.may_lease and pool.roster.available and pool.waitlist.eligible:
            member, waiter = pool.roster.offered(), pool.waitlist.take()
            assert member is not None and waiter is not None, "An index is outdated (L2)."
            self._leasing.serve(member, waiter)
        self._passing.step()
        self._shrink()
        self._fill()

    def _retire_spare(self) -> bool:
        """Retire the worker that is idle for longest; False when there is none to spare."""
        roster = self._pool.roster
        spare = roster.most_idle()
        if spare is None or not sizing.is_ready(self._pool.size, roster.ready - 1):
            return False  # the others are still starting
        self._ending.retire(spare, "it is one too many")
        return True

    def _shrink(self) -> None:
        pool = self._pool
        while True:
            spare = pool.roster.most_idle()
            since = spare.idle_since if spare is not None else None
            linger = 0.0 if pool.trimming else pool.options.linger
            at = sizing.surplus_at(pool.roster.live, pool.wanted, since, linger)
            if at is None or at > pool.now:
                break
            if not self._retire_spare():
                at = None  # looked at again when another has started
                break
        pool.trimming = pool.trimming and pool.roster.live > pool.wanted
        if at is None:
            pool.due.clear((Due.LINGER, WHOLE))
        else:
            pool.due.set((Due.LINGER, WHOLE), at)

    def _fill(self) -> None:
        pool, roster = self._pool, self._pool.roster
        if pool.restart.is_open and not pool.is_missing:
            pool.restart.whole()
        live = roster.live + pool.failing
        missing = sizing.missing(pool.size, live, len(roster), pool.wanted)
        if pool.due.get((Due.PAUSE, WHOLE)) is not None:
            missing = 0
        while missing and pool.restart.may_start(pool.now):
            self._starting.spawn()
            missing -= 1
        at = pool.restart.next_start(pool.now) if missing else None
        if at is None:
            pool.due.clear((Due.RETRY, WHOLE))
        else:
            pool.due.set((Due.RETRY, WHOLE), at)

    # -- deadlines -------------------------------------------------------------------------

    def _is_due(self, due: Due, worker_id: str) -> None:
        if due is Due.DRAIN:
            self._ending.drained()
        member = self._pool.roster.get(worker_id)
        if member is not None:  # what belongs to the pool is seen to in `_settle`
            self._on_due[due](member)

    def _lags(self, now: float) -> bool:
        """Whether what was due was not seen to in time."""
        promised = self._promised
        return promised is not None and now - promised > self.options.lag_tolerance

    def _discount_lag(self, now: float) -> None:
        """A supervisor that was held up itself gives the time back to those it waits for."""
        pool = self._pool
        if self._promised is None or not self._lags(now):
            return
        lag = now - self._promised
        for member in pool.roster:
            for due in NOT_ITS_FAULT:
                at = pool.due.get((due, member.worker_id))
                if at is not None:
                    pool.due.set((due, member.worker_id), at + lag)
