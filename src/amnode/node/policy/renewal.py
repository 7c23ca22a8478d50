"""When a worker has served long enough, and how a new one takes its place.

    fresh --a limit, or a rolling restart--> worn, or spent --idle, and replaced--> retired

A worker becomes *worn* by its jobs, its age, its memory, or since all workers are to be
restarted. By its jobs it is *spent* too: it serves nobody any more.

1. Only an idle worker is replaced: between leases, never in one.
2. Its replacement starts first where `max` allows, and a worn one goes only while the minimum
   stays ready. Where `min` is `max` there is no room for that, and its limits send one worker
   after another; a rolling restart is not begun there, and waits.
3. At most `renew_at_once` worn ones are replaced side by side. Spent ones are of no use, so
   each is replaced at once.
4. A rolling restart is about the workers that there were when it was asked for. It is over when
   each of them is gone.
"""

from __future__ import annotations

from amnode.node.args import WorkerInfo
from amnode.node.policy import events, sizing
from amnode.node.policy.deadlines import Due
from amnode.node.policy.ending import Ending
from amnode.node.policy.pool import Pool
from amnode.node.policy.roster import Condition, Member

_ROLLING = "all workers are being restarted"


class Renewal:
    """The replacement of the worn workers of one pool."""

    def __init__(self, pool: Pool, ending: Ending) -> None:
        self._pool = pool
        self._ending = ending
        self.on_event = {events.RestartRequested: self._on_restart}
        self.on_due = {Due.AGED: self._due_aged}

    def heard(self, member: Member, info: WorkerInfo) -> None:
        """A worker told about itself: see what its limits say."""
        limits = member.limits
        if limits.jobs is not None and info.jobs_done >= limits.jobs:
            member.spent = True
            self._wear(member, f"it has done {info.jobs_done} jobs")
        elif limits.rss is not None and info.rss >= limits.rss:
            self._wear(member, f"it has {info.rss} resident bytes")

    def _due_aged(self, member: Member) -> None:
        self._wear(member, f"it is {self._pool.now - member.started_at:.0f} s old")

    def _wear(self, member: Member, why: str) -> None:
        member.worn = member.worn or why
        self._ending.update(member)

    def _on_restart(self, event: events.RestartRequested) -> None:
        if self._pool.stopping:
            return
        for member in self._pool.roster:  # invariant 4
            self._pool.restarting[member.worker_id] = None
            if member.doom is None:
                member.worn = _ROLLING
                self._ending.update(member)

    def step(self) -> None:
        """Retire those worn workers that may go now."""
        for member in self._pool.roster.next_worn():
            if not member.asked and not member.resting and self._may_go(member):
                self._ending.retire(member, member.worn)

    def _may_go(self, member: Member) -> bool:
        """Invariant 2."""
        pool, roster = self._pool, self._pool.roster
        if member.info is None:
            return False  # it cannot be asked
        started = roster.live - roster.count(Condition.STARTING)
        ready = roster.ready - member.counts_as_ready
        others, size = started - 1, pool.size
        if sizing.has_replacement(size, others=others, wanted=pool.target, ready=ready):
            return True
        if not member.spent and self._under_way >= pool.options.renew_at_once:
            return False  # invariant 3
        if not sizing.can_renew(size):
            return member.spent or not (pool.is_missing or member.worn is _ROLLING)
        return sizing.may_go_first(size, total=len(roster), ready=ready)

    @property
    def _under_way(self) -> int:
        """How many are on their way in or out."""
        count = self._pool.roster.count
        return count(Condition.STARTING) + count(Condition.DRAINING) + count(Condition.DYING)
