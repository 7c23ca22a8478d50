"""LeasedWorker: what a client holds while a worker is its own.

Calls are run one at a time, in the order made. Rules:

1. Up to `CREDIT` of them are sent ahead of their turn, so that the worker goes on with the next
   as soon as one is over; the others wait here. One that was not sent when the worker was lost
   has not run.
2. Of those that were sent, only the first without an answer can have begun, unless its job may
   run twice (see `dispatcher.py`). So where the worker is known to have died, over a connection
   that loses nothing that was written, the others have not run either.
3. A call that is cancelled returns at once. Its job may still be stopping then; the worker
   begins the next when it has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, ParamSpec, TypeVar

import msgspec

from amnode.errors import (
    AmnodeError,
    AuthError,
    ConnectionLost,
    LeaseLost,
    OptionError,
    Outcome,
    WorkerError,
)
from amnode.node.args import CrashReport, WorkArgs
from amnode.node.jobs import Job
from amnode.node.pending_call import PendingCall
from amnode.node.policy import crash
from amnode.node.policy.options import checked_wait
from amnode.node.states import WorkerStates
from amnode.rpc.address import parse_address
from amnode.rpc.client import RpcClient
from amnode.rpc.network_machine import NetworkMachine
from amnode.rpc.protocol import wire
from amnode.rpc.transport.port import NETWORK

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("amnode.node")

S = WorkerStates

#: Calls that are sent ahead of their turn: enough to keep a worker busy, and few to take back.
CREDIT = 32


class CallOptions(msgspec.Struct, frozen=True):
    """How calls are made; see `LeasedWorker.options`."""

    deadline: float | None = None


class LeasedWorker:
    """A worker that one client has to itself until it releases it.

    Attributes:
        id: the machine id of the worker.
        epoch: of the lease; with the id, it fences whatever the client writes elsewhere.
        machine: the worker's states, followed live; reads and waits are local.
    """

    def __init__(
        self,
        rpc: RpcClient,
        worker_id: str,
        epoch: int,
        release: Callable[[LeasedWorker], asyncio.Future[None]],
        why_lost: Callable[[LeasedWorker], Awaitable[CrashReport | None]],
    ) -> None:
        self.id = worker_id
        self.epoch = epoch
        self.rpc = rpc
        self._release = release
        self._why_lost = why_lost
        self._options = CallOptions()
        self._released = False
        self._over: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        #: Calls that were sent and not answered, and those that wait (rule 1).
        self._sent: dict[PendingCall[Any], None] = {}
        self._waiting: deque[PendingCall[Any]] = deque()
        self._sending = False
        #: Whether a call was lost that may have run: the first without an answer.
        self._in_doubt = False
        #: Those of lost calls, which find out why.
        self._asking: dict[asyncio.Task[None], None] = {}
        #: Done once it is known, or given up, why the worker was lost.
        self.report: asyncio.Future[CrashReport | None] = self._loop.create_future()

    @property
    def machine(self) -> NetworkMachine:
        """The worker's states, followed live; reads and waits are local."""
        return self.rpc.source

    def __repr__(self) -> str:
        return f"<LeasedWorker {self.id} epoch={self.epoch}>"

    # -- calling -----------------------------------------------------------------------------

    def options(self, *, deadline: float | None = None) -> Calls:
        """Says how the next calls are made: `worker.options(deadline=2).call(...)`.

        Args:
            deadline: seconds that the job may take, from its start; then it is cancelled and
                the call raises `JobTimeoutError`. None, the default, is no limit.
        """
        checked_wait("deadline", deadline, least=0.001)
        return Calls(self, msgspec.structs.replace(self._options, deadline=deadline))

    async def call(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a job of the worker and returns its result.

        Args:
            job: such as `Squares.square`.
            args: of the job, checked here in number and at the worker in type.
            kwargs: likewise.

        Raises:
            JobArgumentsError: they do not fit; the message names the argument. It was not run.
            JobFailed: the job raised; has the remote traceback as a note.
            JobCancelled: the job was cancelled at the worker.
            WorkerError: the worker died; says of what, and what its last lines were.
            LeaseLost: the lease is over.
            DeliveryError: the arguments or the result are over 1 GiB.
        """
        return await self.call_with(self._options, job, args, kwargs)

    async def call_with(
        self,
        options: CallOptions,
        job: Job[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> R:
        """Makes one call; what `call` and `Calls.call` share."""
        return await self.begin(options, job, args, kwargs)

    def begin(
        self,
        options: CallOptions,
        job: Job[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> PendingCall[R]:
        """Makes one call without waiting for it; others may be made before it is answered.

        Raises:
            JobArgumentsError: see `call`; so for what the future may raise.
        """
        if not isinstance(job, Job):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(
                f"{job!r} is no job; pass the job itself, such as Squares.square."
            )
        work = WorkArgs(
            job=job.name,
            args=job.encode(args, kwargs),
            epoch=self.epoch,
            deadline=options.deadline,
        )
        call = PendingCall(self, job, work, self._loop)
        if len(self._sent) < CREDIT and not self._waiting:
            self._send(call)
        else:
            self._waiting.append(call)
        return call

    def _send(self, call: PendingCall[Any]) -> None:
        machine = self.rpc.source
        if self._released or machine.lost is not None or self._is_ending:
            self._explain(call, Outcome.NOT_RUN)
            return
        self._sent[call] = None
        try:
            value = wire.encode(call.work, "The arguments")
            machine.begin(machine.index(S.WorkRequested), value, call)
        except AmnodeError as error:
            self._sent.pop(call, None)
            call.fail(error)

    # -- for calls ---------------------------------------------------------------------------

    def call_over(self, call: PendingCall[Any]) -> None:
        """See `Caller`: another may be sent (rule 1)."""
        self._sent.pop(call, None)
        if self._waiting and not self._sending:
            self._send_more()

    def _send_more(self) -> None:
        self._sending = True  # one that fails at once is over at once, too
        try:
            while self._waiting and len(self._sent) < CREDIT:
                self._send(self._waiting.popleft())
        finally:
            self._sending = False

    def call_taken_back(self, call: PendingCall[Any]) -> None:
        """See `Caller`."""
        if call in self._sent:
            self.machine.take_back(call)
        elif call in self._waiting:
            self._waiting.remove(call)
            call.tell_over()

    def call_lost(self, call: PendingCall[Any], error: ConnectionLost) -> None:
        """See `Caller`: it fails when it is known why (rule 2)."""
        behind = self._in_doubt and not call.job.idempotent
        if error.outcome is Outcome.UNKNOWN:
            self._in_doubt = True
        if not call.done():
            self._explain(call, error.outcome, behind=behind)

    def _explain(
        self, call: PendingCall[Any], outcome: Outcome, *, behind: bool = False
    ) -> None:
        task = self._loop.create_task(self._fail(call, outcome, behind), context=Context())
        self._asking[task] = None
        task.add_done_callback(self._asking.pop)
        call.add_done_callback(lambda _call: task.cancel())

    async def _fail(self, call: PendingCall[Any], outcome: Outcome, behind: bool) -> None:
        error = await self._lost(outcome)
        if behind and isinstance(error, WorkerError) and self._tells_all:
            error.outcome = Outcome.NOT_RUN
        call.fail(error)

    @property
    def _tells_all(self) -> bool:
        """Whether all that the worker wrote before it died has come (rule 2)."""
        known = self.report.done() and self.report.result() is not None
        return known and parse_address(self.rpc.address).scheme not in NETWORK

    async def _lost(self, outcome: Outcome) -> WorkerError | LeaseLost:
        """What a call on a worker that is gone ends with."""
        if self._released:
            return LeaseLost(f"The lease of {self.id} was released.", outcome=outcome)
        # A lease that the worker said it is ending, with no call in it, needs no other word.
        told = self._was_refused or (outcome is Outcome.NOT_RUN and self._is_ending)
        report = None if told else await self._why_lost(self)
        if report is None and self._ended_orderly():
            why = str(self.machine.lost or "its worker is ending it").rstrip(".")
            if self._was_refused:
                why = "the connection to it was cut for longer than its grace"
            return LeaseLost(
                f"The lease of {self.id} ended: {why}. Ask for a new worker.", outcome=outcome
            )
        return crash.error(self.id, report, outcome)

    @property
    def _is_ending(self) -> bool:
        return self.machine.is1(S.Releasing)

    @property
    def _was_refused(self) -> bool:
        """The worker is there, and does not know the lease any more."""
        lost = self.machine.lost
        return lost is not None and isinstance(lost.__cause__, AuthError)

    def _ended_orderly(self) -> bool:
        return self._is_ending or self._was_refused or self.machine.not1(S.Leased)

    # -- the end -----------------------------------------------------------------------------

    async def release(self) -> None:
        """Ends the lease; the worker's hook has run when this returns."""
        if self._over is None:
            self._released = True
            self._over = self._release(self)
        await asyncio.shield(self._over)


class Calls:
    """Calls with options of their own; made by `LeasedWorker.options`."""

    def __init__(self, worker: LeasedWorker, options: CallOptions) -> None:
        self._worker = worker
        self._options = options

    async def call(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a job; see `LeasedWorker.call`.

        Raises:
            JobTimeoutError: it ran past the deadline, and was cancelled.
        """
        return await self._worker.call_with(self._options, job, args, kwargs)
