"""How a supervisor that was started again takes over the workers that are there.

    found --connected, and its own word--> proven, and one of the pool's
      | says stale                           | says stale
      v                                      v
    disowned <-------- no answer at all (before it is proven)

1. Nothing is granted until each worker that was found has told of its lease, is stale or dead,
   or has been silent for `conn_timeout`.
2. A worker is sent no signal before it is proven: it has shown its secret, and its id (promise
   S11). One that does not answer is disowned; it ends by itself, as it has no supervisor.
3. A disowned worker is no member any more, and not to be ended: it belongs to somebody else.
4. A lease that is found goes on as it is, whatever the supervisor thinks of its worker.
"""

from __future__ import annotations

import math

from amnode.node.args import WorkerInfo
from amnode.node.policy import events
from amnode.node.policy.deadlines import Due
from amnode.node.policy.ending import Ending
from amnode.node.policy.leasing import Leasing
from amnode.node.policy.pool import Pool
from amnode.node.policy.roster import Condition, Limits, Member, Step


class Adoption:
    """The workers of one pool that its supervisor did not start."""

    def __init__(self, pool: Pool, ending: Ending, leasing: Leasing) -> None:
        self._pool = pool
        self._ending = ending
        self._leasing = leasing
        self.on_event = {events.Found: self._on_found, events.Stale: self._on_stale}
        self.on_due = {Due.SILENT: self._due_silent}

    def _on_found(self, event: events.Found) -> None:
        pool = self._pool
        for worker_id, address in event.workers:
            limits = Limits.of(pool.options, pool.draw)
            member = Member.start(worker_id, pool.now, pool.options, limits)
            member.condition = Condition.IDLE  # as one whose connection was lost
            member.step = Step.GETTING_READY
            member.has_process = True
            member.proven = False
            member.ready_at = -math.inf  # its end is no failed start
            member.address = address
            pool.roster.add(member, pool.now)
            pool.recovering[worker_id] = None
            pool.set(Due.LINK, worker_id, 0.0)
            pool.set(Due.SILENT, worker_id, pool.options.conn_timeout)
        pool.most = max(pool.most, len(pool.roster))

    def heard(self, member: Member, info: WorkerInfo) -> bool:
        """A worker told about itself; False when it is not the one that was looked for."""
        pool = self._pool
        pool.recovering.pop(member.worker_id, None)
        pool.clear(member, Due.SILENT)
        if member.proven:
            return True
        if info.worker_id != member.worker_id:
            self.disown(member, f"at its address there is {info.worker_id}")
            return False
        member.proven = True
        member.started_at = pool.now - info.age
        if member.limits.age is not None:
            pool.due.set((Due.AGED, member.worker_id), member.started_at + member.limits.age)
        wrong = pool.mismatch(info.kind, info.schema_hash)
        if wrong:
            member.unfit = f"it was started by another program: {wrong}"
        return True

    def _due_silent(self, member: Member) -> None:
        self._pool.recovering.pop(member.worker_id, None)

    def _on_stale(self, event: events.Stale) -> None:
        member = self._pool.roster.get(event.worker_id)
        if member is not None:
            self.disown(member, event.reason)

    def disown(self, member: Member, why: str) -> None:
        """It belongs to somebody else, or to nobody (invariant 3)."""
        if member.held is not None:
            self._leasing.put_back(member.held)
        self._ending.remove(member)
        self._pool.act(events.Disown(member.worker_id, why))
