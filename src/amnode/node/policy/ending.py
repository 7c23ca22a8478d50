"""How a worker is brought to its end: asked first, signalled when it may be.

    retire --its yes--> it ends by itself --too slow--> SIGTERM --> SIGKILL, again and again
       | its no: it serves
       v
    idle, and asked again after a rest

1. A worker is ended by force only if it failed to start, does not answer its checks, has agreed
   to end, or the grace of a stop is over (promises S11, S12).
2. One that is ended by force while it serves is handed over or leased until its exit (S8).
"""

from __future__ import annotations

import msgspec

from amnode.errors import Cause
from amnode.node.args import CrashReport
from amnode.node.policy import events
from amnode.node.policy.deadlines import WHILE_ALIVE, Due
from amnode.node.policy.pool import Pool
from amnode.node.policy.roster import SERVING, Condition, Doom, Member


class Ending:
    """The ends of the workers of one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.on_event = {events.RetireAnswered: self._on_retire_answered}
        self.on_due = {Due.SIGNAL: self._due_signal, Due.RESTED: self._due_rested}

    def update(self, member: Member) -> None:
        """Something about a worker has changed: index it, and see whether it may go."""
        pool = self._pool
        pool.roster.refresh(member, pool.now)
        if member.doom or member.resting or member.asked or member.info is None:
            return
        if member.condition is Condition.DRAINING:
            self.retire(member, member.retiring)
        elif member.condition is Condition.IDLE and (member.unfit or pool.stopping):
            self.retire(member, member.unfit or "the pool is stopping")

    def retire(self, member: Member, why: str) -> None:
        """Ask it to end; it says no while it serves (promise S12)."""
        pool = self._pool
        pool.roster.move(member, Condition.DRAINING, None, pool.now)
        member.retiring = why
        member.asked = True
        pool.act(events.Retire(member.worker_id, member.tick, why))

    def _on_retire_answered(self, event: events.RetireAnswered) -> None:
        member = self._pool.alive(event.worker_id)
        if member is None or not member.asked:
            return
        member.asked = False
        if event.accepted:
            doom = Doom(member.retiring, expected=True)
            self.end(member, doom, force=False, asked=True)
            return
        if event.accepted is False and member.condition is Condition.DRAINING:
            self._pool.roster.move(member, Condition.IDLE, None, self._pool.now)
        self.rest(member)

    def rest(self, member: Member) -> None:
        """It said no: it is left alone for a moment."""
        member.resting = True
        self._pool.set(Due.RESTED, member.worker_id, self._pool.options.healthcheck_pause)
        self.update(member)

    def _due_rested(self, member: Member) -> None:
        member.resting = False
        self.update(member)

    def end(self, member: Member, doom: Doom, *, force: bool, asked: bool = False) -> None:
        """End a worker (invariant 1). `asked`: it is about to end by itself, give it time."""
        pool = self._pool
        member.doom = msgspec.structs.replace(doom, state=member.condition.value)
        pool.clear(member, *WHILE_ALIVE)
        if member.condition in SERVING:  # invariant 2
            pool.roster.refresh(member, pool.now)
        else:
            pool.roster.move(member, Condition.DYING, None, pool.now)
        if asked:
            pool.set(Due.SIGNAL, member.worker_id, pool.options.term_timeout)
        elif member.has_process:
            self.signal(member, force=force)

    def signal(self, member: Member, *, force: bool) -> None:
        """The next signal; `force`: no SIGTERM before SIGKILL."""
        assert member.doom is not None, "A signal needs a reason (S12)."
        if force:
            member.signals = max(member.signals, 1)
        member.signals += 1
        why = member.doom.why
        attempt = member.signals - 1
        hung = attempt == 1 and member.doom.cause is Cause.HANG
        self._pool.act(
            events.Kill(member.worker_id, why, attempt, hung)
            if attempt
            else events.Terminate(member.worker_id, why)
        )
        self._pool.set(Due.SIGNAL, member.worker_id, self._pool.options.term_timeout)

    def _due_signal(self, member: Member) -> None:
        self.signal(member, force=False)

    def drained(self) -> None:
        """The grace of a stop is over."""
        for member in self._pool.roster:
            if member.doom is None:
                why = "the pool is stopping and its grace is over"
                self.end(member, Doom(why, expected=True), force=False)

    def forget(
        self,
        member: Member,
        report: CrashReport | None,
        *,
        why: str,
        expected: bool,
        failed: bool,
    ) -> None:
        """It has no process any more.

        Args:
            member: who.
            report: what its death looked like; None if it never had a process.
            why: in one line.
            expected: it was meant to end.
            failed: its start was one that failed.
        """
        pool = self._pool
        self.remove(member)
        pool.act(events.Forget(member.worker_id, report, expected, failed))
        if failed:
            pool.restart.failed(member.worker_id, pool.now, why, pool.draw())

    def remove(self, member: Member) -> None:
        """It is no member any more."""
        pool, held = self._pool, member.held
        pool.roster.remove(member)
        if held is not None:
            pool.waitlist.refresh(held.name)
        pool.failing -= member.start_failed
        pool.restarting.pop(member.worker_id, None)
        pool.recovering.pop(member.worker_id, None)
        pool.clear(member, *WHILE_ALIVE, Due.SIGNAL, Due.REQUEST)
