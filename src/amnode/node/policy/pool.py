"""The data that all decisions about one pool share.

Each decision stands in a file of its own; here are only the data, and the few ways to change
them that all of those files use. `now` is the time of the event that is being handled.

1. `size` is replaced whole. What is above it, since it was made smaller or since it was there
   before this supervisor, may stay until it goes by itself: `most` and `most_of` say how much
   that is, and then only fall.
2. `asked` has the requests that a worker was asked to serve and has not answered, each with
   that worker.
"""

from __future__ import annotations

from collections.abc import Callable

from amnode.node.policy import sizing
from amnode.node.policy.deadlines import Deadlines, Due
from amnode.node.policy.events import Action
from amnode.node.policy.options import PoolSize, SupervisorOptions
from amnode.node.policy.restart import Restart
from amnode.node.policy.roster import Condition, Member, Roster
from amnode.node.policy.waitlist import Waitlist

WHOLE = ""  # the deadlines that belong to no worker


class Pool:
    """What there is of one pool, and what was decided about it.

    Args:
        options: what it goes by.
        kind: what its workers are.
        schema_hash: of their schema.
        draw: a random number from 0 to 1, for jitter.

    Attributes:
        size: the bounds that hold now.
        now: the time of the event that is handled.
        actions: what the driver is to do for it.
        failing: workers that failed to start and have not ended yet.
        was_ready: the minimum was ready once.
        stopping: a stop was asked for; `stopped`: it is complete.
        draining: no new leases are granted until that is taken back.
        restarting: the workers that a rolling restart has still to replace.
        recovering: workers that were found and have not told of their leases yet.
        trimming: the size was made smaller, and what is over goes without its linger.
        spawn_error: why the last process could not be started.
        fallback: why the last one was started in a slower way, or "".
    """

    def __init__(
        self,
        options: SupervisorOptions,
        *,
        kind: str,
        schema_hash: str,
        draw: Callable[[], float],
    ) -> None:
        self.options = options
        self.kind = kind
        self.schema_hash = schema_hash
        self.draw = draw
        self.size = options.size
        self.roster = Roster()
        self.waitlist = Waitlist(self.room)
        self.restart = Restart(options)
        self.due: Deadlines[tuple[Due, str]] = Deadlines()
        self.asked: dict[tuple[str, str], Member] = {}
        self.actions: list[Action] = []
        self.now = 0.0
        self.failing = 0
        self.was_ready = False
        self.stopping = False
        self.stopped = False
        self.draining = False
        self.restarting: dict[str, None] = {}
        self.recovering: dict[str, None] = {}
        self.trimming = False
        self.spawn_error = ""
        self.fallback = ""
        self.most = options.size.max
        self.most_of: dict[str, int] = {}

    # -- changes ---------------------------------------------------------------------------

    def act(self, action: Action) -> None:
        """The driver is to do this, after what it was told before."""
        self.actions.append(action)

    def set(self, due: Due, worker_id: str, wait: float) -> None:
        """Something is due in so many seconds."""
        self.due.set((due, worker_id), self.now + wait)

    def clear(self, member: Member, *dues: Due) -> None:
        """These are not due any more."""
        for due in dues:
            self.due.clear((due, member.worker_id))

    def resize(self, size: PoolSize) -> None:
        """Other bounds hold from now on (invariant 1)."""
        self.size = size
        self.trimming = True
        self.most = max(size.max, len(self.roster))
        self.most_of = {
            name: number
            for name, number in self.roster.holders()
            if number > size.max_per_client
        }
        self.waitlist.refresh_all()

    def allow(self, name: str) -> None:
        """A client of that name has what it has, by its workers' own word (invariant 1)."""
        held = self.roster.held_by(name)
        if held > self.size.max_per_client:
            self.most_of[name] = held

    def settle_bounds(self) -> None:
        """What has gone may not come again (invariant 1)."""
        self.most = max(self.size.max, min(self.most, len(self.roster)))
        for name, number in [*self.most_of.items()]:
            held = self.roster.held_by(name)
            if held <= self.size.max_per_client:
                del self.most_of[name]
            else:
                self.most_of[name] = min(number, held)

    # -- questions -------------------------------------------------------------------------

    def alive(self, worker_id: str) -> Member | None:
        """The member, unless it is unknown or being ended."""
        member = self.roster.get(worker_id)
        return member if member is not None and member.doom is None else None

    def room(self, name: str) -> int:
        """How many more workers a client of that name may have."""
        return self.size.max_per_client - self.roster.held_by(name)

    def mismatch(self, kind: str, schema_hash: str) -> str:
        """Why somebody of this kind and schema has no business here, or ""."""
        if kind != self.kind:
            return f"this pool's kind is {self.kind!r}, the other is {kind!r}"
        if schema_hash != self.schema_hash:
            return (
                f"this pool's schema of kind {kind!r} has the hash {self.schema_hash!r}, "
                f"the other {schema_hash!r}"
            )
        return ""

    @property
    def target(self) -> int:
        """The number of workers that the pool should have."""
        waiting = self.waitlist.eligible if self.may_lease else 0
        return sizing.target(self.size, self.roster.in_use, waiting)

    @property
    def wanted(self) -> int:
        """`target`, and those that are to take the place of worn ones."""
        worn = self.roster.spent + min(self.roster.worn, self.options.renew_at_once)
        return sizing.with_replacements(self.size, self.target, worn)

    @property
    def is_missing(self) -> bool:
        """Whether fewer workers have started than there should be."""
        started = self.roster.live - self.roster.count(Condition.STARTING)
        return not self.stopping and started < self.target

    @property
    def is_ready(self) -> bool:
        """Whether at least the minimum is ready, and the pool is not stopping."""
        return not self.stopping and sizing.is_ready(self.size, self.roster.ready)

    @property
    def _to_come(self) -> int:
        """The workers that could be granted next: idle, starting, or still to be started."""
        if not self.may_lease:
            return 0
        held_back = self.restart.is_open or self.due.get((Due.PAUSE, WHOLE)) is not None
        room = 0 if held_back else max(0, self.size.max - len(self.roster))
        return self.roster.available + self.roster.count(Condition.STARTING) + room

    @property
    def spare(self) -> int:
        """How many requests could be served here beyond those that wait."""
        return max(0, self._to_come - self.waitlist.eligible)

    def takes_guest(self, name: str) -> bool:
        """Whether a request of that client, which a peer passes on, could be served here."""
        return self.spare > 0 and self.room(name) > self.waitlist.length(name)

    @property
    def unserved(self) -> int:
        """How many of the requests that wait have no worker to come."""
        if self.stopping or self.recovering:
            return 0  # the first is denied, the second not known yet
        return max(0, self.waitlist.eligible - self._to_come)

    @property
    def may_lease(self) -> bool:
        """Whether new leases are granted at all."""
        return not (self.stopping or self.draining or self.recovering)

    def check(self) -> None:
        """Raise AssertionError unless S7, S9 and the indexes hold; scans the pool."""
        self.roster.check(self.most, self.size.max_per_client, self.most_of)
        self.waitlist.check()
        for key, member in self.asked.items():
            held = member.held
            assert held is not None and held.waiter is not None, f"{key} is with nobody (S10)."
            assert held.waiter.key == key and held.is_asked, f"{key} is lost (S10)."
            assert key not in self.waitlist, f"{key} waits and is served."
        unserved = self.may_lease and self.waitlist.eligible and self.roster.available
        assert not unserved, "A worker is idle and a request waits (L2)."
