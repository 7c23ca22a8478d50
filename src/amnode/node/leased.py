"""LeasedWorker: what a client holds while a worker is its own.

Calls go one at a time, in the order made; one that was not sent when the worker was lost has
not run.

A call that is cancelled returns at once. The job may still be stopping then, so the next call
waits until the worker's states say that it has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
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
from amnode.node.policy import crash
from amnode.node.policy.options import checked_wait
from amnode.node.states import WorkerStates
from amnode.rpc.client import RpcClient
from amnode.rpc.network_machine import NetworkMachine, RemoteResult

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("amnode.node")

S = WorkerStates


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
        self._turn = asyncio.Lock()
        self._options = CallOptions()
        self._released = False
        self._over: asyncio.Future[None] | None = None
        self._last: RemoteResult | None = None
        #: Done once it is known, or given up, why the worker was lost.
        self.report: asyncio.Future[CrashReport | None] = (
            asyncio.get_running_loop().create_future()
        )

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
            DeliveryError: the arguments or the result are over 4 MiB.
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
        async with self._turn:
            await self._worker_rests()
            if self._released or self.machine.lost is not None or self._is_ending:
                raise await self._lost(Outcome.NOT_RUN)
            call = self.machine.request((S.WorkRequested,), work, result_type=bytes)
            self._last = call.result
            try:
                data = await call
            except ConnectionLost:
                raise await self._lost(Outcome.UNKNOWN) from None
        return job.decode_result(data)

    async def _worker_rests(self) -> None:
        """Waits until the call before, which may have been cancelled, has really ended."""
        try:
            if self._last is not None and not self._last.done:
                await self._last
            if self.machine.any1(S.WorkRequested, S.Working):
                await self.machine.when_not((S.WorkRequested, S.Working))
        except ConnectionLost:
            raise await self._lost(Outcome.NOT_RUN) from None
        except AmnodeError as error:
            logger.debug("The cancelled call on %s ended so: %s", self.id, error)

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
