"""Who is in the pool, and in what condition.

    starting --> idle <--> handed over --> leased
                 |  ^          |             |
                 v  |          +--> idle <---+   on the worker's own word
              draining
                 | its own yes
                 v
               dying --> gone            an exit ends any of them

1. A member is in exactly one condition (promise S7); a worker that is ended by force while it
   is handed over or leased stays so until its exit (S8).
2. A worker can be *offered* when it is idle, connected, ready, has told about itself, and
   nothing is held against it: an error, a refusal, a missed check. `offered` finds the one
   that came last in constant time.
   One that is *spent*, since it has done all its jobs, is offered to nobody any more; one that
   is only *worn* is, until another has taken its place.
3. A worker *counts as ready* when it is idle, handed over or leased, connected, ready, without
   a recent error and not being ended.
4. `held_by` is the number of workers handed over to or leased by a name (S9).
5. Whoever changes a member calls `refresh`; nothing on the way of a request scans the roster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec

from amnode.errors import Cause
from amnode.node.args import WorkerInfo
from amnode.node.policy.health import ErrorLog, Health
from amnode.node.policy.lease import Held
from amnode.node.policy.options import SupervisorOptions


class Condition(StrEnum):
    """What a worker is to the pool."""

    STARTING = "starting"
    IDLE = "idle"
    HANDED_OVER = "handed over"
    LEASED = "leased"
    DRAINING = "draining"
    DYING = "dying"


NOBODY: Mapping[str, int] = MappingProxyType({})
SERVING = (Condition.HANDED_OVER, Condition.LEASED)


class Step(StrEnum):
    """How far a start is, and so what it failed to do in time."""

    SPAWNING = "start its process"
    CALLING_BACK = "call back"
    CONNECTING = "accept a connection"
    GETTING_READY = "become ready"


class Doom(msgspec.Struct, frozen=True):
    """Why the supervisor ends a worker.

    `cause` is what the crash report says; None leaves that to the exit record. `expected`: the
    worker agreed, or the pool is stopping; its end is no failure. `state`: what the worker was
    to the pool when that was decided.
    """

    why: str
    cause: Cause | None = None
    expected: bool = False
    state: str = ""


class Limits(msgspec.Struct, frozen=True):
    """What makes one worker worn; None is no limit."""

    jobs: float | None = None
    age: float | None = None
    rss: float | None = None

    @classmethod
    def of(cls, options: SupervisorOptions, draw: Callable[[], float]) -> Limits:
        """The limits of the options, each lowered by its own chance."""

        def lowered(limit: float | None) -> float | None:
            return None if limit is None else limit * (1 - options.renew_jitter * draw())

        return cls(
            lowered(options.max_jobs), lowered(options.max_age), lowered(options.max_rss)
        )


NO_LIMITS = Limits()


class Member(msgspec.Struct, eq=False):
    """A worker, as the supervisor knows it.

    Attributes:
        worker_id: its machine id.
        started_at: when its process was asked for.
        health, errors: what its checks and errors say.
        condition: see above.
        step: how far the start is, while it is starting.
        address: where it listens for the supervisor.
        has_process: the process was started.
        proven: it is known to be the worker of that id, so that it may be signalled.
        linked: there is a connection to it.
        connecting: one is being made.
        ready: its Ready, while linked.
        ready_at: when it had started: connected, ready, and heard of.
        info: its own last word on this connection.
        tick: of its Leased, as far as known.
        held: whom it serves.
        idle_since: since when it can be offered.
        leased_since: since when it serves its client, by its own word; None if it serves none.
        blemished: it has a recent error.
        resting: it refused something a moment ago.
        unfit: why it is to be retired as soon as it may be, or "".
        limits: what makes it worn.
        worn: why another is to take its place, or "".
        spent: it is worn, and serves nobody any more.
        retiring: why it drains, or "".
        asked: it was asked to retire and has not answered.
        doom: why it is being ended, or None.
        signals: how many it was sent: none, SIGTERM, and then SIGKILL each time.
        start_failed: it is being ended because it did not start.
    """

    worker_id: str
    started_at: float
    health: Health
    errors: ErrorLog
    condition: Condition = Condition.STARTING
    step: Step = Step.SPAWNING
    address: str = ""
    has_process: bool = False
    proven: bool = True
    linked: bool = False
    connecting: bool = False
    ready: bool = False
    ready_at: float | None = None
    info: WorkerInfo | None = None
    tick: int = 0
    held: Held | None = None
    idle_since: float = 0.0
    leased_since: float | None = None
    blemished: bool = False
    resting: bool = False
    unfit: str = ""
    limits: Limits = NO_LIMITS
    worn: str = ""
    spent: bool = False
    retiring: str = ""
    asked: bool = False
    doom: Doom | None = None
    signals: int = 0
    start_failed: bool = False

    @classmethod
    def start(
        cls, worker_id: str, now: float, options: SupervisorOptions, limits: Limits = NO_LIMITS
    ) -> Member:
        """A worker whose process is being asked for."""
        errors = ErrorLog(
            ttl=options.worker_err_ttl,
            recent=options.worker_err_recent,
            kill=options.worker_err_kill,
        )
        return cls(worker_id, now, Health(), errors, limits=limits)

    @property
    def is_offerable(self) -> bool:
        """Invariant 2."""
        return (
            self.condition is Condition.IDLE
            and self.linked
            and self.ready
            and self.info is not None
            and not (self.blemished or self.resting or self.unfit or self.spent)
            and not self.health.misses
        )

    @property
    def counts_as_ready(self) -> bool:
        """Invariant 3."""
        return (
            (self.condition is Condition.IDLE or self.condition in SERVING)
            and self.linked
            and self.ready
            and not self.blemished
            and self.doom is None
        )


class _Marks(msgspec.Struct):
    """What the indexes hold of a member."""

    condition: Condition
    ready: bool = False
    holder: Held | None = None


class Roster(msgspec.Struct):
    """All members, and the indexes over them."""

    _members: dict[str, Member] = msgspec.field(default_factory=dict[str, Member])
    _marks: dict[str, _Marks] = msgspec.field(default_factory=dict[str, _Marks])
    _offers: dict[str, Member] = msgspec.field(default_factory=dict[str, Member])
    _counts: dict[Condition, int] = msgspec.field(
        default_factory=lambda: dict.fromkeys(Condition, 0)
    )
    _worn: dict[str, Member] = msgspec.field(default_factory=dict[str, Member])
    _spent: dict[str, Member] = msgspec.field(default_factory=dict[str, Member])
    _held_by: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    _of_client: dict[str, dict[str, Member]] = msgspec.field(
        default_factory=dict[str, dict[str, Member]]
    )
    ready: int = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def get(self, worker_id: str) -> Member | None:
        """The member of that id, or None."""
        return self._members.get(worker_id)

    def add(self, member: Member, now: float) -> None:
        """Take in a new worker."""
        assert member.worker_id not in self._members, "A worker id is used twice (S7)."
        self._members[member.worker_id] = member
        self._marks[member.worker_id] = _Marks(member.condition)
        self._counts[member.condition] += 1
        self.refresh(member, now)

    def remove(self, member: Member) -> None:
        """Forget a worker that has no process any more."""
        marks = self._marks.pop(member.worker_id)
        del self._members[member.worker_id]
        for index in (self._offers, self._worn, self._spent):
            index.pop(member.worker_id, None)
        self._counts[marks.condition] -= 1
        self.ready -= marks.ready
        self._drop_holder(member, marks.holder)

    def move(self, member: Member, condition: Condition, held: Held | None, now: float) -> None:
        """Put a member into another condition, with whom it serves in it."""
        member.condition = condition
        member.held = held
        self.refresh(member, now)

    def refresh(self, member: Member, now: float) -> None:
        """Bring the indexes up to date with a member that was changed."""
        marks = self._marks[member.worker_id]
        if marks.condition is not member.condition:
            self._counts[marks.condition] -= 1
            self._counts[member.condition] += 1
            marks.condition = member.condition
        if marks.ready != member.counts_as_ready:
            marks.ready = member.counts_as_ready
            self.ready += 1 if marks.ready else -1
        if marks.holder is not member.held:
            self._drop_holder(member, marks.holder)
            self._note_holder(member)
            marks.holder = member.held
        if member.worn or member.worker_id in self._worn or member.worker_id in self._spent:
            self._note_worn(member)
        if not member.is_offerable:
            self._offers.pop(member.worker_id, None)
        elif member.worker_id not in self._offers:
            member.idle_since = now
            self._offers[member.worker_id] = member

    # -- questions, all in constant time ---------------------------------------------------

    def count(self, condition: Condition) -> int:
        """How many are in that condition."""
        return self._counts[condition]

    @property
    def live(self) -> int:
        """How many count towards the size that the pool should have."""
        counts = self._counts
        return counts[Condition.STARTING] + counts[Condition.IDLE] + self.in_use

    @property
    def in_use(self) -> int:
        """How many are handed over or leased."""
        return self._counts[Condition.HANDED_OVER] + self._counts[Condition.LEASED]

    @property
    def available(self) -> int:
        """How many can be offered."""
        return len(self._offers)

    def offered(self) -> Member | None:
        """The worker to serve the next request: the one that is idle for the shortest time."""
        return self._offers[next(reversed(self._offers))] if self._offers else None

    def most_idle(self) -> Member | None:
        """The worker that goes first when there are too many."""
        return self._offers[next(iter(self._offers))] if self._offers else None

    @property
    def worn(self) -> int:
        """How many idle workers are worn and not spent."""
        return len(self._worn)

    @property
    def spent(self) -> int:
        """How many idle workers are spent."""
        return len(self._spent)

    def next_worn(self) -> Iterator[Member]:
        """The idle workers that another is to replace: spent ones first, then the oldest."""
        return iter([*self._spent.values(), *self._worn.values()])

    def holders(self) -> list[tuple[str, int]]:
        """How many workers each name has that has any."""
        return list(self._held_by.items())

    def held_by(self, name: str) -> int:
        """How many workers clients of that name have."""
        return self._held_by.get(name, 0)

    def of_client(self, client_id: str) -> list[tuple[Member, Held]]:
        """The workers that this client has, with their leases."""
        members = self._of_client.get(client_id, {}).values()
        return [(m, m.held) for m in members if m.held is not None]

    # -- indexes ---------------------------------------------------------------------------

    def _note_worn(self, member: Member) -> None:
        idle = member.condition is Condition.IDLE and bool(member.worn)
        for index, belongs in (
            (self._spent, idle and member.spent),
            (self._worn, idle and not member.spent),
        ):
            if belongs:
                index[member.worker_id] = member
            else:
                index.pop(member.worker_id, None)

    def _note_holder(self, member: Member) -> None:
        if member.held is not None:
            name = member.held.name
            self._held_by[name] = self._held_by.get(name, 0) + 1
            of_client = self._of_client.setdefault(member.held.client_id, {})
            of_client[member.worker_id] = member

    def _drop_holder(self, member: Member, holder: Held | None) -> None:
        if holder is None:
            return
        self._held_by[holder.name] -= 1
        if not self._held_by[holder.name]:
            del self._held_by[holder.name]
        of_client = self._of_client[holder.client_id]
        del of_client[member.worker_id]
        if not of_client:
            del self._of_client[holder.client_id]

    def check(
        self, most: int, most_per_client: int, most_of: Mapping[str, int] = NOBODY
    ) -> None:
        """Raise AssertionError unless S7, S9 and the indexes hold; scans the roster.

        Args:
            most: workers that there may be.
            most_per_client: workers that a name may have.
            most_of: names that may have more, since they had them when it was less.
        """
        assert len(self) <= most, f"{len(self)} workers, at most {most} (S7)."
        members = self._members.values()
        for condition in Condition:
            found = sum(1 for m in members if m.condition is condition)
            assert found == self._counts[condition], f"{condition}: {found} (S7)."
        for m in members:
            serves = m.condition in SERVING
            assert serves == (m.held is not None), f"{m.worker_id} is {m.condition} (S7)."
            assert m.linked or not m.ready, f"{m.worker_id} is ready by hearsay (S8)."
            started = m.has_process or m.step is Step.SPAWNING
            assert started, f"{m.worker_id} has no process (S7)."
        worn = [m.worker_id for m in members if m.condition is Condition.IDLE and m.worn]
        assert sorted(worn) == sorted([*self._worn, *self._spent]), "The worn are outdated."
        offers = [m.worker_id for m in members if m.is_offerable]
        assert sorted(offers) == sorted(self._offers), "The offers are outdated."
        assert self.ready == sum(1 for m in members if m.counts_as_ready), "Ready is outdated."
        held: dict[str, int] = {}
        for m in members:
            if m.held is not None:
                held[m.held.name] = held.get(m.held.name, 0) + 1
                assert m.worker_id in self._of_client[m.held.client_id], "An index is outdated."
        assert held == self._held_by, "The quota counts something else (S9)."
        for name, number in held.items():
            allowed = max(most_per_client, most_of.get(name, 0))
            assert number <= allowed, f"{name} has {number} workers (S9)."
