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
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, ParamSpec, TypeVar

import msgspec

from amnode.errors import (
    AmnodeError,
    AuthError,
    Cause,
    ConnectionLost,
    JobFailed,
    LeaseError,
    LeaseLost,
    OptionError,
    Outcome,
    WorkerError,
)
from amnode.node import failures
from amnode.node.args import CrashReport, WorkArgs
from amnode.node.job_stream import JobStream, StreamCall
from amnode.node.jobs import Job, StreamJob
from amnode.node.pending_call import PendingCall
from amnode.node.policy import crash
from amnode.node.policy.options import checked_wait
from amnode.node.progress import Progress
from amnode.node.states import WorkerStates
from amnode.node.submitted import News, OnProgress, Submitted
from amnode.node.values import Packed, beside
from amnode.rpc.client import RpcClient
from amnode.rpc.network_machine import NetworkMachine
from amnode.rpc.protocol import wire

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("amnode.node")

S = WorkerStates

#: What is written to such a connection arrives, even if its process ends at once.
_LOSSLESS = ("unix", "memory")

_encode = msgspec.msgpack.Encoder().encode

#: Calls that are sent ahead of their turn: enough to keep a worker busy, and few to take back.
CREDIT = 32


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How calls are made; see `LeasedWorker.options`.

    Raises:
        OptionError: a value that cannot work.
    """

    deadline: float | None = None
    hard_deadline: float | None = None
    retry: int = 0
    on_progress: OnProgress | None = None

    def __post_init__(self) -> None:
        checked_wait("deadline", self.deadline, least=0.001)
        checked_wait("hard_deadline", self.hard_deadline, least=0.001)
        if None not in (self.deadline, self.hard_deadline):
            soft, hard = self.deadline or 0.0, self.hard_deadline or 0.0
            if hard < soft:
                raise OptionError(
                    f"hard_deadline is {hard:g} s, before the deadline of {soft:g} s; it is "
                    "for jobs that do not stop at their deadline, so it must be later."
                )
        if type(self.retry) is not int or self.retry < 0:
            raise OptionError(f"retry is {self.retry!r}; it must be a whole number, 0 or more.")
        if self.on_progress is not None and not callable(self.on_progress):
            raise OptionError(f"on_progress is {self.on_progress!r}; it must be callable.")

    def check(self, job: Job[..., Any]) -> None:
        """Whether calls of a job may be made so.

        Raises:
            OptionError: it is no job, or may not be retried.
        """
        if not isinstance(job, Job):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(
                f"{job!r} is no job; pass the job itself, such as Squares.square."
            )
        if self.retry and not job.idempotent:
            raise OptionError(
                f"retry={self.retry} may run {job.name} twice, which was not declared to be "
                "harmless: declare it with @job(idempotent=True), or leave retry out."
            )

    def check_stream(self, job: StreamJob[..., Any]) -> None:
        """Whether a job may be streamed so.

        Raises:
            OptionError: it is no job that gives items, or `retry` was asked for.
        """
        if self.retry:
            raise OptionError(
                f"retry={self.retry}: a stream is not made again, for some of its items may "
                "have been read; leave retry out."
            )
        self.check(job)
        if not job.streams:
            raise OptionError(
                f"Job {job.name} gives a result, not items; ask for it with `call`."
            )


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
        renew: Callable[[LeasedWorker], Awaitable[None]],
        *,
        news: News,
        known: failures.Known,
    ) -> None:
        self.id = worker_id
        self.epoch = epoch
        self.rpc = rpc
        self._release = release
        self._why_lost = why_lost
        self._renew = renew
        self._renewal = asyncio.Lock()
        self._news = news
        self._known = known
        self._options = CallOptions()
        self._released = False
        self._over: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        # Looked up once, for every call asks for them.
        self._ending = rpc.source.mask_of((S.Releasing,))
        self._requested = rpc.source.index(S.WorkRequested)
        #: Calls that were sent and not answered, and those that wait (rule 1).
        self._sent: dict[PendingCall[Any] | StreamCall, None] = {}
        self._waiting: deque[PendingCall[Any] | StreamCall] = deque()
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

    @property
    def released(self) -> bool:
        """Whether its client has given it back."""
        return self._released

    def __repr__(self) -> str:
        return f"<LeasedWorker {self.id} epoch={self.epoch}>"

    # -- calling -----------------------------------------------------------------------------

    def options(
        self,
        *,
        deadline: float | None = None,
        hard_deadline: float | None = None,
        retry: int = 0,
        on_progress: OnProgress | None = None,
    ) -> Calls:
        """Says how the next calls are made: `worker.options(deadline=2).call(...)`.

        Args:
            deadline: seconds that the job may take, from its start; then it is cancelled and
                the call raises `JobTimeoutError`. None, the default, is no limit.
            hard_deadline: seconds after which the worker's process ends, whatever the job does;
                the call raises `WorkerError` with the cause `Cause.HARD_DEADLINE`, and the pool
                makes another worker. None, the default, is no limit.
            retry: how often the call is made again, each time on another worker, if its worker
                dies or is lost; for jobs declared as idempotent. This object goes on with the
                new worker.
            on_progress: called with each report of `job.progress`; some are left out where they
                come faster than 20 a second, the last one never.

        Raises:
            OptionError: a value that cannot work.
        """
        options = CallOptions(
            deadline=deadline,
            hard_deadline=hard_deadline,
            retry=retry,
            on_progress=on_progress,
        )
        return Calls(self, options)

    async def call(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a job of the worker and returns its result.

        Args:
            job: such as `Squares.square`.
            args: of the job, checked here in number and at the worker in type.
            kwargs: likewise.

        Raises:
            JobArgumentsError: they do not fit; the message names the argument. It was not run.
            Exception: the job raised it, and it is one of Python's own or in `exceptions` of
                the worker class; has the remote traceback as a note, and a `JobFailed` as its
                cause.
            JobFailed: the job raised another one, which `error_type` names.
            JobCancelled: the job was cancelled at the worker.
            WorkerError: the worker died; says of what, and what its last lines were.
            LeaseLost: the lease is over.
            DeliveryError: the arguments or the result are over 1 GiB.
        """
        return await self.begin(self._options, job, args, kwargs)  # which are no retries

    async def call_with(
        self,
        options: CallOptions,
        job: Job[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> R:
        """Makes one call; what `call` and `Calls.call` share."""
        if not options.retry:
            return await self.begin(options, job, args, kwargs)
        left = options.retry
        while True:
            lease = self.id, self.epoch
            try:
                return await self.begin(options, job, args, kwargs)
            except WorkerError as error:
                if not left or error.cause is Cause.HARD_DEADLINE:
                    raise
                left -= 1
                await self._go_on(lease, error)

    def begin(
        self,
        options: CallOptions,
        job: Job[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> PendingCall[R]:
        """Makes one call without waiting for it; others may be made before it is answered.

        It is made once, whatever `options.retry` says.

        Raises:
            OptionError: it is no job, or may not be retried.
            JobArgumentsError: see `call`; so for what the future may raise.
        """
        options.check(job)
        if job.streams:
            raise OptionError(
                f"Job {job.name} gives items, not a result; ask for it with `stream`."
            )
        packed = job.encode(args, kwargs)
        work = self._work(options, job, packed)
        call = PendingCall(self, job, work, packed.buffers, self._loop)
        if options.on_progress is not None:
            call.add_done_callback(lambda _call: self._news.forget(work.news))
        self._make(call)
        return call

    def _work(self, options: CallOptions, job: Job[..., Any], packed: Packed) -> WorkArgs:
        return WorkArgs(
            job=job.name,
            args=memoryview(packed.data),
            epoch=self.epoch,
            deadline=options.deadline,
            hard_deadline=options.hard_deadline,
            news=self._news.listen(options.on_progress) if options.on_progress else 0,
        )

    def _make(self, call: PendingCall[Any] | StreamCall) -> None:
        if len(self._sent) < CREDIT and not self._waiting:
            self._send(call)
        else:
            self._waiting.append(call)

    def stream(self, job: StreamJob[P, R], *args: P.args, **kwargs: P.kwargs) -> JobStream[R]:
        """Runs a job that is a generator, and gives what it yields, item by item.

        The job begins when the stream is first read, or entered with `async with`, and is one
        of the calls of this worker until the stream is over: other calls wait for it. A reader
        that is slow holds the generator back at its `yield`; one that stops (`aclose`, the end
        of `async with`, `break`) stops it there.

        Args:
            job: such as `Films.frames`.
            args: of the job, checked here in number and at the worker in type.
            kwargs: likewise.

        Returns:
            An async iterator, for one task at a time. Reading it raises what `call` does, after
            all items that had come.

        Raises:
            OptionError: it is no such job.
            JobArgumentsError: their number is not right, or one cannot be sent.
        """
        return self.stream_with(self._options, job, args, kwargs)

    def stream_with(
        self,
        options: CallOptions,
        job: StreamJob[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> JobStream[R]:
        """Makes one stream; what `stream` and `Calls.stream` share."""
        options.check_stream(job)
        packed = job.encode(args, kwargs)

        def begin() -> StreamCall:
            call = StreamCall(self, job, self._work(options, job, packed), packed.buffers)
            self._make(call)
            return call

        return JobStream(begin, self._leave, self._stream_failed)

    def _leave(self, call: StreamCall) -> None:
        """A stream is left before it was sent."""
        if call in self._waiting:
            self._waiting.remove(call)

    async def _stream_failed(self, call: StreamCall, error: Exception) -> Exception:
        """What is raised where a stream is read."""
        if isinstance(error, JobFailed):
            return self.call_raised(call, error)
        if isinstance(error, ConnectionLost):
            return await self._why(error.outcome, call.behind and not call.job.idempotent)
        return error

    def submit(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> Submitted[R]:
        """Makes a call and returns at once; see `Submitted` and `call`."""
        return self.submit_with(self._options, job, args, kwargs)

    def submit_with(
        self,
        options: CallOptions,
        job: Job[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Submitted[R]:
        """Makes one call; what `submit` and `Calls.submit` share."""
        options.check(job)
        also = options.on_progress

        def make(report: OnProgress) -> Coroutine[Any, Any, R]:
            def tell(progress: Progress) -> None:
                report(progress)
                if also is not None:
                    also(progress)

            told = msgspec.structs.replace(options, on_progress=tell)
            return self.call_with(told, job, args, kwargs)

        return Submitted(make, job.name)

    async def _go_on(self, lost: tuple[str, int], error: WorkerError) -> None:
        """Goes on with another worker, unless another call has brought one already."""
        async with self._renewal:
            if self._released:
                raise error
            if (self.id, self.epoch) == lost:
                logger.debug("Worker %s is lost; its call runs again: %s", self.id, error)
                try:
                    await self._renew(self)
                except LeaseError as none:
                    raise none from error

    def take_over(self, other: LeasedWorker) -> None:
        """Goes on with the worker of another lease, which is this one's from now on."""
        self.id, self.epoch, self.rpc = other.id, other.epoch, other.rpc
        self.report = other.report
        self._in_doubt = False

    def _send(self, call: PendingCall[Any] | StreamCall) -> None:
        machine = self.rpc.source
        if self._released or machine.is_lost or machine.has_active(self._ending):
            if isinstance(call, StreamCall):
                call.fail(ConnectionLost("The worker is gone.", outcome=Outcome.NOT_RUN))
            else:
                self._explain(call, Outcome.NOT_RUN)
            return
        self._sent[call] = None
        try:
            value = wire.encode(
                beside(_encode(call.work), call.buffers) if call.buffers else call.work,
                "The arguments",
            )
            index = self._requested
            if isinstance(call, StreamCall):
                call.sent(machine.begin_stream(index, value, call, call.job.decode_item))
            else:
                machine.begin(index, value, call)
        except AmnodeError as error:
            self._sent.pop(call, None)
            call.fail(error)

    # -- for calls ---------------------------------------------------------------------------

    def call_raised(self, call: PendingCall[Any] | StreamCall, failure: JobFailed) -> Exception:
        """See `Caller`."""
        return failures.as_raised(failure, {**call.job.known, **self._known})

    def call_over(self, call: PendingCall[Any] | StreamCall) -> None:
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

    def call_lost(self, call: PendingCall[Any] | StreamCall, error: ConnectionLost) -> None:
        """See `Caller`: it fails when it is known why (rule 2)."""
        call.behind = self._in_doubt
        if error.outcome is Outcome.UNKNOWN:
            self._in_doubt = True
        if isinstance(call, PendingCall) and not call.done():
            behind = call.behind and not call.job.idempotent
            self._explain(call, error.outcome, behind=behind)

    def _explain(
        self, call: PendingCall[Any], outcome: Outcome, *, behind: bool = False
    ) -> None:
        task = self._loop.create_task(self._fail(call, outcome, behind), context=Context())
        self._asking[task] = None
        task.add_done_callback(self._asking.pop)
        call.add_done_callback(lambda _call: task.cancel())

    async def _fail(self, call: PendingCall[Any], outcome: Outcome, behind: bool) -> None:
        call.fail(await self._why(outcome, behind))

    async def _why(self, outcome: Outcome, behind: bool) -> WorkerError | LeaseLost:
        error = await self._lost(outcome)
        if behind and isinstance(error, WorkerError) and self._tells_all:
            error.outcome = Outcome.NOT_RUN
        return error

    @property
    def _tells_all(self) -> bool:
        """Whether all that the worker wrote before it died has come (rule 2)."""
        known = self.report.done() and self.report.result() is not None
        return known and self.rpc.scheme in _LOSSLESS

    async def _lost(self, outcome: Outcome) -> WorkerError | LeaseLost:
        """What a call on a worker that is gone ends with."""
        if self._released:
            return LeaseLost(f"The lease of {self.id} was released.", outcome=outcome)
        machine = self.machine  # the lease may go on with another one
        # A lease that the worker said it is ending, with no call in it, needs no other word.
        told = self._was_refused or (outcome is Outcome.NOT_RUN and self._is_ending)
        report = None if told else await self._why_lost(self)
        if report is None and self._ended_orderly(machine):
            why = str(machine.lost or "its worker is ending it").rstrip(".")
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

    def _ended_orderly(self, machine: NetworkMachine) -> bool:
        return machine.is1(S.Releasing) or machine.not1(S.Leased) or self._was_refused

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

    def submit(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> Submitted[R]:
        """Makes a call and returns at once; see `LeasedWorker.submit`."""
        return self._worker.submit_with(self._options, job, args, kwargs)

    def stream(self, job: StreamJob[P, R], *args: P.args, **kwargs: P.kwargs) -> JobStream[R]:
        """Runs a job that is a generator; see `LeasedWorker.stream`. The deadlines are of all
        of it, from the first item asked for to the end.

        Raises:
            JobTimeoutError: (reading) it ran past the deadline, and was cancelled.
        """
        return self._worker.stream_with(self._options, job, args, kwargs)
