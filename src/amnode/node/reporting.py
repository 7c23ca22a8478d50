"""What a supervisor tells of itself: its pool, who has which worker, who waits.

Asked for as a state, by the program or by an operator through the local server, which gets what
it asked for as the answer. Nothing is changed by any of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

from amnode.errors import OptionError
from amnode.machine.machine import Machine
from amnode.machine.transition import Event
from amnode.node.listing import (
    ListArgs,
    WorkerState,
    matches,
    row_of,
    state_named,
    waiters,
)
from amnode.node.operating import may_operate, refuse
from amnode.node.operator_args import ListWorkersArgs, PoolListing, WorkerRow
from amnode.node.policy.core import PoolCore
from amnode.node.states import SupervisorStates
from amnode.rpc.origin import Origin

S = SupervisorStates


class Subject(Protocol):
    """What is told of: a supervisor."""

    name: str
    worker_kind: str

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


class Reporting:
    """The telling states of one supervisor.

    Args:
        machine: the supervisor's.
        subject: the supervisor.
        pid_of: the process of a worker; 0 if there is none.
    """

    def __init__(
        self, machine: Machine, subject: Subject, pid_of: Callable[[str], int]
    ) -> None:
        self._machine = machine
        self._subject = subject
        self._pid_of = pid_of
        self._started_at = 0.0
        machine.bind(self)

    def start(self) -> None:
        """The supervisor starts now."""
        self._started_at = self._now()

    def rows(self, state: WorkerState | None) -> list[WorkerRow]:
        """The workers in a state, oldest first."""
        now = self._now()
        return [
            row_of(member, self._pid_of(member.worker_id), now)
            for member in self._subject.core.roster
            if matches(member, state)
        ]

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
        )

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

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
