"""How a worker comes up: its process, its call, its connection, its first word.

    spawning --> calling back --> connecting --> getting ready --> started

1. A start takes at most `start_timeout`, from its process to its first word; an end before that
   is one of a failed start.
2. A worker that is connected, ready, and has told about itself has started; one of another kind
   or schema has no business here.
"""

from __future__ import annotations

from collections.abc import Callable

from amnode.errors import Cause
from amnode.node.args import WorkerInfo
from amnode.node.policy import events
from amnode.node.policy.deadlines import Due
from amnode.node.policy.ending import Ending
from amnode.node.policy.pool import WHOLE, Pool
from amnode.node.policy.roster import Condition, Doom, Limits, Member, Step


class Starting:
    """The starts of the workers of one pool.

    Args:
        pool: the data.
        ending: for those whose start fails.
        name_worker: the machine id of the n-th worker, never the same one twice.
    """

    def __init__(self, pool: Pool, ending: Ending, name_worker: Callable[[int], str]) -> None:
        self._pool = pool
        self._ending = ending
        self._name_worker = name_worker
        self._number = 0
        self.on_event = {
            events.Started: self._on_started,
            events.SpawnFailed: self._on_spawn_failed,
            events.CalledBack: self._on_called_back,
        }
        self.on_due = {Due.STEP: self._due_step, Due.SETTLED: self._due_settled}

    def spawn(self) -> None:
        """Start one more worker."""
        pool = self._pool
        self._number += 1
        worker_id = self._name_worker(self._number)
        limits = Limits.of(pool.options, pool.draw)
        member = Member.start(worker_id, pool.now, pool.options, limits)
        pool.roster.add(member, pool.now)
        pool.restart.started(worker_id, pool.now)
        pool.act(events.Spawn(worker_id, self._number))

    def _on_started(self, event: events.Started) -> None:
        member = self._pool.roster.get(event.worker_id)
        if member is None:
            return
        member.has_process = True
        self._pool.fallback = event.fallback
        if member.doom is not None:
            self._ending.signal(member, force=True)
            return
        member.step = Step.CALLING_BACK
        self._pool.set(Due.STEP, member.worker_id, self._pool.options.start_timeout)

    def _on_spawn_failed(self, event: events.SpawnFailed) -> None:
        pool = self._pool
        member = pool.roster.get(event.worker_id)
        if member is None:
            return
        pool.spawn_error = event.reason
        stopping = pool.stopping
        self._ending.forget(
            member, None, why=event.reason, expected=stopping, failed=not stopping
        )
        pool.set(Due.PAUSE, WHOLE, pool.options.pool_pause)

    def _on_called_back(self, event: events.CalledBack) -> None:
        member = self._pool.roster.get(event.worker_id)
        if member is None or member.doom or member.step is not Step.CALLING_BACK:
            return
        member.address = event.address
        member.step = Step.CONNECTING
        member.connecting = True
        self._pool.act(events.Connect(member.worker_id, member.address))

    def connected(self, member: Member) -> None:
        """The handshake with it is done; what it says of itself is next."""
        member.step = Step.GETTING_READY

    def failed(self, member: Member, cause: Cause, why: str) -> None:
        """It will not come up: it is ended."""
        # Until its exit, when the failure counts, nothing is started in its place.
        self._pool.failing += 1
        member.start_failed = True
        self._ending.end(member, Doom(why, cause), force=True)

    def _due_step(self, member: Member) -> None:
        why = f"it did not {member.step} within {self._pool.options.start_timeout:g} s"
        self.failed(member, Cause.START_TIMEOUT, why)

    def is_ours(self, member: Member, info: WorkerInfo) -> bool:
        """Whether it is what it was started as; it is ended if not (invariant 2)."""
        wrong = self._pool.mismatch(info.kind, info.schema_hash)
        if wrong:
            self.failed(member, Cause.REFUSED, f"it is no worker of this pool: {wrong}")
        return not wrong

    def promote(self, member: Member) -> None:
        """See whether it has started (invariant 2)."""
        if member.condition is Condition.STARTING and member.ready and member.info is not None:
            self._pool.roster.move(member, Condition.IDLE, None, self._pool.now)
            self.has_started(member)

    def has_started(self, member: Member) -> None:
        """It is one of the pool's from now on."""
        pool = self._pool
        member.ready_at = pool.now
        pool.restart.ready(member.worker_id)
        pool.set(Due.SETTLED, member.worker_id, pool.options.restart_settle)
        pool.clear(member, Due.STEP)
        pool.set(Due.CHECK, member.worker_id, pool.options.worker_check_interval)
        if member.limits.age is not None:
            pool.due.set((Due.AGED, member.worker_id), member.started_at + member.limits.age)

    def _due_settled(self, member: Member) -> None:
        self._pool.restart.settled(member.started_at)
