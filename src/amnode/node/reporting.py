"""What a supervisor tells of itself: its pool and who waits, crashes, what workers wrote.

Asked for as a state, by the program or by an operator through the local server, which gets what
it asked for as the answer. Nothing is changed by any of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Protocol

from amnode.errors import OptionError, StateDirectoryError, WorkerMissingError
from amnode.machine.machine import Machine
from amnode.machine.transition import Event
from amnode.node.adopt import Home
from amnode.node.args import CrashReport
from amnode.node.listing import (
    ListArgs,
    WorkerState,
    matches,
    row_of,
    state_named,
    waiters,
)
from amnode.node.operating import may_operate, refuse
from amnode.node.operator_args import (
    CrashListing,
    ListCrashesArgs,
    ListWorkersArgs,
    OutputPart,
    PoolListing,
    ReadOutputArgs,
    WorkerRow,
)
from amnode.node.output_tail import Tail
from amnode.node.policy.core import PoolCore
from amnode.node.policy.crashes import CrashLog, CrashRecord, Last, last_of
from amnode.node.policy.options import SupervisorOptions
from amnode.node.policy.roster import Member
from amnode.node.states import SupervisorStates
from amnode.node.worker_link import WorkerLink
from amnode.rpc.origin import Origin

logger = logging.getLogger("amnode.node")

S = SupervisorStates

#: Seconds between two looks at files that somebody follows.
_LOOK_EVERY = 0.2

#: More lines than a worker writes between two of them.
_ALL = 1_000_000


class Subject(Protocol):
    """What is told of: a supervisor."""

    name: str
    worker_kind: str
    opts: SupervisorOptions

    @property
    def core(self) -> PoolCore:
        """The pool's data."""
        ...

    @property
    def local_addr(self) -> str:
        """Where operators connect."""
        ...

    def public_addr(self) -> str:
        """Where clients connect."""
        ...


def _name_of(worker_id: str) -> str:
    """The name of its files."""
    return worker_id.removeprefix("nw-")


def _id_of(name: str) -> str:
    """The other way round."""
    return f"nw-{name}"


class Reporting:
    """The telling states of one supervisor.

    Args:
        machine: the supervisor's.
        subject: the supervisor.
        link_of: the link of a worker; None if there is none.
        wall: the time of day.
    """

    def __init__(
        self,
        machine: Machine,
        subject: Subject,
        link_of: Callable[[str], WorkerLink | None],
        wall: Callable[[], float],
    ) -> None:
        self._machine = machine
        self._wall = wall
        self._home: Home | None = None
        self._crashes = CrashLog(subject.opts.crashes_kept)
        self._last: dict[str, Last] = {}
        self._subject = subject
        self._link_of = link_of
        self._started_at = 0.0
        machine.bind(self)

    def start(self, home: Home) -> None:
        """The supervisor starts now, in its directory."""
        self._started_at = self._now()
        self._home = home
        for record in home.crashes():
            self._crashes.restore(record)
        self._tidy(home)

    # -- crashes -----------------------------------------------------------------------------

    @property
    def crashes(self) -> list[CrashRecord]:
        """The last crashes, oldest first."""
        return list(self._crashes)

    def losing(self, worker_id: str) -> None:
        """Its connection is lost, or its process has ended: what is known of it is kept.

        The core has not heard of that yet, and forgets with it what the worker last told.
        """
        member, link = self._subject.core.roster.get(worker_id), self._link_of(worker_id)
        if member is not None and link is not None:
            before = self._last.get(worker_id, Last())
            moves, at = link.moves(), link.note()
            self._last[worker_id] = last_of(member, before, self._now(), moves, at)

    def ended(self, worker_id: str, report: CrashReport | None) -> None:
        """It is a member no more; `report` is None where that was meant to be."""
        last = self._last.pop(worker_id, Last())
        if report is None:
            return
        record = self._crashes.add(worker_id, report, last, self._wall())
        if self._home is not None:
            try:
                self._home.keep_crash(record)
            except StateDirectoryError as error:
                logger.warning("The report of a crash could not be kept: %s", error)
            self._tidy(self._home)

    def _tidy(self, home: Home) -> None:
        for record in self._crashes.outdated():
            home.drop_crash(record)

    # -- the pool ----------------------------------------------------------------------------

    def rows(self, state: WorkerState | None) -> list[WorkerRow]:
        """The workers in a state, oldest first."""
        now = self._now()
        return [
            self._row(member, now)
            for member in self._subject.core.roster
            if matches(member, state)
        ]

    def _row(self, member: Member, now: float) -> WorkerRow:
        link = self._link_of(member.worker_id)
        if link is None:
            return row_of(member, 0, ("", None), now)
        return row_of(member, link.pid, link.note(), now)

    def listing(self, state: WorkerState | None = None) -> PoolListing:
        """The pool, with the workers in a state."""
        subject, now = self._subject, self._now()
        return PoolListing(
            name=subject.name,
            kind=subject.worker_kind,
            pid=os.getpid(),
            uptime=now - self._started_at,
            public_addr=subject.public_addr(),
            local_addr=subject.local_addr,
            pool=subject.core.view(now),
            workers=tuple(self.rows(state)),
            waiters=waiters(subject.core, now),
            outputs=tuple(map(_id_of, self._home.outputs)) if self._home is not None else (),
        )

    # -- output ------------------------------------------------------------------------------

    def _has_output(self, worker_id: str) -> bool:
        return worker_id in self._sources()

    def _sources(self) -> list[str]:
        """Whose output there is, those that are no more first."""
        gone = [] if self._home is None else [_id_of(name) for name in self._home.outputs]
        return [*gone, *(m.worker_id for m in self._subject.core.roster if m.has_process)]

    async def _read(self, args: ReadOutputArgs) -> AsyncIterator[OutputPart]:
        """The output of one worker, or of all of them; see `ReadOutputArgs`."""
        home, roster = self._home, self._subject.core.roster
        assert home is not None, "Nobody can ask before the start."
        tails: dict[str, Tail] = {}
        lines = max(0, args.lines)
        while True:
            for worker_id in [args.worker_id] if args.worker_id else self._sources():
                if worker_id not in tails:
                    path = partial(home.output_of, _name_of(worker_id))
                    tails[worker_id] = Tail(path, lines)
                ended = not args.follow or roster.get(worker_id) is None
                found = tails[worker_id].read(ended=ended)
                if found:
                    yield OutputPart(worker_id=worker_id, lines=found)
                elif ended and args.worker_id:
                    return
            if not args.follow:
                return
            lines = _ALL  # of those that come later, everything
            await asyncio.sleep(_LOOK_EVERY)

    # -- the states ------------------------------------------------------------------------

    def ListWorkersEnter(self, event: Event) -> bool:
        """Says which, and where the reply goes."""
        if isinstance(event.args, ListArgs):
            return True
        if not isinstance(event.args, ListWorkersArgs):
            return False
        try:
            state_named(event.args.state)
        except OptionError as error:
            return refuse(event, error)
        return isinstance(event.mutation.origin, Origin) and may_operate(event)

    def ListWorkersState(self, event: Event) -> None:
        """Replies with the workers in a state."""
        self._machine.remove1(S.ListWorkers)
        args, origin = event.args, event.mutation.origin
        if isinstance(origin, Origin):
            origin.defer().answer(self.listing(state_named(args.state)))
        elif not args.reply.done():
            args.reply.set_result(self.rows(args.state))

    def ListCrashesEnter(self, event: Event) -> bool:
        """Comes from an operator."""
        return isinstance(event.mutation.origin, Origin) and may_operate(event)

    def ListCrashesState(self, event: Event) -> None:
        """Replies with the crashes of a worker, or of all."""
        self._machine.remove1(S.ListCrashes)
        args: ListCrashesArgs = event.args
        found = tuple(r for r in self._crashes if args.worker_id in ("", r.worker_id))
        origin = event.mutation.origin
        assert isinstance(origin, Origin), "The guard of the state has made sure of that."
        origin.defer().answer(CrashListing(crashes=found))

    def ReadOutputEnter(self, event: Event) -> bool:
        """Comes from an operator, and names a worker whose output there is, if one."""
        if not isinstance(event.mutation.origin, Origin) or not may_operate(event):
            return False
        args: ReadOutputArgs = event.args
        if not args.worker_id or self._has_output(args.worker_id):
            return True
        missing = f"There is no output of a worker {args.worker_id!r} here (any more)."
        return refuse(event, WorkerMissingError(missing, worker_id=args.worker_id))

    def ReadOutputState(self, event: Event) -> None:
        """Replies with a stream of what was written."""
        self._machine.remove1(S.ReadOutput)
        origin = event.mutation.origin
        assert isinstance(origin, Origin), "The guard of the state has made sure of that."
        origin.defer().stream(self._read(event.args))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
