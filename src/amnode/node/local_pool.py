"""Pool: a supervisor, its workers and a client of them in one object, for one program.

    async with Pool(Squares) as pool:
        await pool.call(Squares.square, 7)
        await pool.map(Squares.square, range(1000))

1. A call goes to any worker; what must be on one worker takes a lease.
2. The calls of a pool and its leases share the workers: neither waits while the other idles.
3. What was asked of a pool ends with it: a stop waits for the calls that were made, or cancels
   them, and leaves no process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

import msgspec

from amnode.errors import OptionError, PoolError
from amnode.launch.process import Launcher
from amnode.node.client import Client
from amnode.node.failures import known_of
from amnode.node.jobs import Job, StreamJob
from amnode.node.launching import LaunchBy
from amnode.node.leased import CallOptions, LeasedWorker
from amnode.node.listing import WorkerRow, WorkerState
from amnode.node.policy import events
from amnode.node.policy.options import (
    ClientOptions,
    DispatchOptions,
    PoolSize,
    SupervisorOptions,
    checked,
)
from amnode.node.policy.view import PoolView
from amnode.node.pool_calls import Hold, PoolCall
from amnode.node.pool_feed import Feed
from amnode.node.pool_map import MapOptions, PoolMap, arguments_of
from amnode.node.pool_stream import PoolStream
from amnode.node.progress import Progress
from amnode.node.states import SupervisorStates
from amnode.node.submitted import OnProgress, Submitted
from amnode.node.supervisor import Supervisor
from amnode.node.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")

S = SupervisorStates


#: What changes how many workers the calls may have.
_SHIFTS = (events.Requested, events.Resized, events.DrainRequested)


class PoolCalls:
    """Calls to the workers of a pool, with options of their own; made by `Pool.options`."""

    def __init__(self, pool: Pool, options: CallOptions) -> None:
        self._pool = pool
        self._options = options

    async def call(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a job on whichever worker is free, and returns its result.

        Cancelling it cancels the job. It waits for a worker for as long as it has to; whoever
        will not wait so long cancels it, such as by `asyncio.timeout`.

        Args:
            job: such as `Squares.square`.
            args: of the job.
            kwargs: likewise.

        Raises:
            JobError: what `LeasedWorker.call` raises of it.
            WorkerError: the worker died while it ran this; says of what. A call that had not
                started is made again, on another worker.
            LeaseTimeoutError: the pool could get no worker at all.
            PoolError: the pool is stopped, or its workers fail to start; says why.
        """
        return await self.begin(self._options, job, args, kwargs)

    def submit(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> Submitted[R]:
        """Makes a call and returns its handle at once.

        The handle is awaited for the result, iterated for the progress that the job reports,
        and cancels the call. Args and errors are those of `call`.
        """
        made: list[asyncio.Future[R]] = []

        def make(report: OnProgress) -> Coroutine[Any, Any, R]:
            made.append(self.begin(self._told(report), job, args, kwargs))
            return _result_of(made[0])

        submitted = Submitted(make, job.name)
        # It may be cancelled before it has waited for the first time.
        submitted.add_done_callback(lambda _: made[0].cancel())
        return submitted

    def stream(self, job: StreamJob[P, R], *args: P.args, **kwargs: P.kwargs) -> PoolStream[R]:
        """Runs a job that is a generator, on whichever worker is free; see `PoolStream`.

        Args and errors are those of `LeasedWorker.stream`.
        """
        return self._pool.make_stream(self._options, job, args, kwargs)

    def begin(
        self,
        options: CallOptions | None,
        job: Job[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> asyncio.Future[R]:
        """Makes a call; what `call` and `submit` share. Cancelling the future cancels it."""
        return self._pool.make(options or self._options, job, args, kwargs)

    def _told(self, report: OnProgress) -> CallOptions:
        also = self._options.on_progress

        def tell(progress: Progress) -> None:
            report(progress)
            if also is not None:
                also(progress)

        return msgspec.structs.replace(self._options, on_progress=tell)

    def map(
        self,
        job: Job[..., R],
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        chunk: int | None = None,
        buffer: int | None = None,
        return_exceptions: bool = False,
    ) -> PoolMap[R]:
        """Runs a job for each of many arguments.

            squares = await pool.map(Squares.square, range(1000))       # a list
            async for square in pool.map(Squares.square, count()): ...  # one by one

        Args:
            job: such as `Squares.square`.
            iterables: one for each argument of the job, as the built-in `map` takes them; or
                one asynchronous iterable. Read as far as there is room, so it may be endless.
            ordered: whether results come in the order of the arguments, or as they are ready.
            chunk: so many calls are sent as one message, and fail as one if their worker dies.
                By default as many as take about 2 ms, so that small calls share what a message
                costs, and long ones go one by one.
            buffer: so many arguments are read at most whose results nobody has taken yet. By
                default twice as many as the workers have.
            return_exceptions: whether a call that fails gives its error as its result; by
                default the first one ends the map, which raises it, and cancels the rest.

        Raises:
            OptionError: a number that cannot work, or nothing to iterate over.
        """
        how = MapOptions(
            ordered=ordered, chunk=chunk, buffer=buffer, return_exceptions=return_exceptions
        )
        return self._pool.make_map(self._options, job, iterables, how)

    def map_handed(
        self,
        job: Job[..., R],
        handed: AsyncIterator[tuple[Any, ...]],
        *,
        ordered: bool,
        chunk: int | None,
        return_exceptions: bool,
    ) -> PoolMap[R]:
        """The map of `SyncPool`: arguments come from another thread, as they were bundled."""
        how = MapOptions(
            ordered=ordered, chunk=chunk, return_exceptions=return_exceptions, packed=True
        )
        return self._pool.make_map(self._options, job, (handed,), how)


class Pool(PoolCalls):
    """Worker processes of one class, and what calls them.

    Args:
        worker: the `Worker` class. What it keeps on `self` stays in its process; since calls
            go to any worker, whoever needs that state to be there again takes a `lease`.
        min: the pool is ready with so many workers.
        max: there are never more of them.
        warm: so many are kept idle beside those in use.
        size: all three, instead.
        name: of the pool, for logs and reports.
        opts: of the supervisor; see `SupervisorOptions`.
        client_opts: of the client; see `ClientOptions`.
        dispatch: how calls are given to workers; see `DispatchOptions`.
        launcher: how processes come to be; see `Supervisor`.

    Attributes:
        supervisor: of the workers; its `machine` has the states of the pool.
        client: by which the pool leases them.

    Raises:
        OptionError: an argument that cannot work.
    """

    def __init__(
        self,
        worker: type[Worker],
        *,
        min: int | None = None,
        max: int | None = None,
        warm: int | None = None,
        size: PoolSize | None = None,
        name: str = "",
        opts: SupervisorOptions | None = None,
        client_opts: ClientOptions | None = None,
        dispatch: DispatchOptions | None = None,
        launcher: Launcher | LaunchBy = "auto",
    ) -> None:
        super().__init__(self, CallOptions())
        opts = checked(opts, SupervisorOptions)
        size = _size_of(min, max, warm, size or opts.size)
        self.supervisor = Supervisor(
            worker,
            name=name,
            opts=msgspec.structs.replace(opts, size=size),
            launcher=launcher,
            on_decided=self._decided,
        )
        self.client = Client(
            self.supervisor.name, worker, token=self.supervisor.token, opts=client_opts
        )
        self._feed = Feed(
            self.client,
            checked(dispatch, DispatchOptions),
            limit=self._limit,
            others=self._others,
        )
        self._known = known_of(worker)
        self._pid = os.getpid()
        self._started = self._stopped = False
        self._waiting = 0  # for leases of their own
        self._watch: asyncio.Task[None] | None = None

    # -- its life ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the pool; its first workers come while the first calls are made.

        Raises:
            PoolError: it was started before.
        """
        if self._started:
            raise PoolError(f"Pool {self.supervisor.name} was started before; make a new one.")
        self._started = True
        await self.supervisor.start()
        self.client.start([self.supervisor.address])
        self._watch = asyncio.get_running_loop().create_task(self._watch_breaker())

    async def when_ready(self) -> None:
        """Waits until at least the minimum of workers is ready; calls need not wait for it.

        Raises:
            PoolError: the workers fail to start; says of what.
        """
        await self.supervisor.when_ready()

    async def stop(self, *, cancel: bool = False) -> None:
        """Takes no more calls, waits for those that were made, and ends every process.

        Args:
            cancel: whether they are cancelled instead. Cancelling the stop does that too.
        """
        if self._stopped or not self._started:
            return
        self._stopped = True
        try:
            if not cancel:
                await self._feed.idle()
        finally:
            await self._end()

    async def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        try:
            await self._feed.close(f"Pool {self.supervisor.name} was stopped.")
            await self.client.dispose()
        finally:
            await self.supervisor.dispose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: object, *_error: object) -> None:
        await self.stop(cancel=kind is not None)

    # -- workers -----------------------------------------------------------------------------

    def options(
        self,
        *,
        deadline: float | None = None,
        hard_deadline: float | None = None,
        retry: int = 0,
        on_progress: OnProgress | None = None,
    ) -> PoolCalls:
        """Says how the next calls are made: `pool.options(deadline=2).call(...)`.

        Args and errors are those of `LeasedWorker.options`.
        """
        options = CallOptions(
            deadline=deadline,
            hard_deadline=hard_deadline,
            retry=retry,
            on_progress=on_progress,
        )
        return PoolCalls(self, options)

    @asynccontextmanager
    async def lease(
        self, *, timeout: float | None = None
    ) -> AsyncGenerator[LeasedWorker, None]:
        """A worker to oneself, for the body of an `async with`; see `Client.lease`."""
        self._check()
        self._waiting += 1
        try:
            self._feed.look()
            worker = await self.client.req_worker(timeout=timeout)
        finally:
            self._waiting -= 1
        try:
            yield worker
        finally:
            await worker.release()

    @property
    def leased(self) -> list[LeasedWorker]:
        """The workers that calls have now; to be looked at, for they are the pool's to use."""
        return self._feed.leased

    async def workers(self, state: WorkerState | None = None) -> list[WorkerRow]:
        """Lists workers; see `Supervisor.workers`."""
        return await self.supervisor.workers(state)

    def set_pool(self, min: int, max: int, warm: int) -> None:
        """Gives the pool another size, at once; see `Supervisor.set_pool`."""
        self.supervisor.set_pool(min, max, warm)

    def view(self) -> PoolView:
        """The pool in numbers; see `Supervisor.view`."""
        return self.supervisor.view()

    # -- for the calls -----------------------------------------------------------------------

    def make(
        self,
        options: CallOptions,
        job: Job[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> asyncio.Future[R]:
        """Makes a call."""
        self._check()
        options.check(job)
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        call = PoolCall(job, args, kwargs, options, future)
        future.add_done_callback(partial(self._call_done, call))
        self._feed.call(call)
        return future

    def make_map(
        self,
        options: CallOptions,
        job: Job[..., R],
        iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...],
        how: MapOptions,
    ) -> PoolMap[R]:
        """Makes a map."""
        self._check()
        options.check(job)
        if job.streams:
            raise OptionError(f"Job {job.name} gives items, not a result; use `stream`.")
        arguments, total = arguments_of(iterables)
        if options.deadline is not None or options.hard_deadline is not None:
            if how.chunk not in (None, 1):
                raise OptionError(
                    f"chunk is {how.chunk}, with a deadline; that is of one call, so leave "
                    "chunk out, and calls go one by one."
                )
            how = msgspec.structs.replace(how, chunk=1)
        return PoolMap(self._feed, job, arguments, total, options, how, self._known)

    def make_stream(
        self,
        options: CallOptions,
        job: StreamJob[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> PoolStream[R]:
        """Makes a stream."""
        self._check()
        options.check_stream(job)
        return PoolStream(self._hold, self._feed, options, job, args, kwargs)

    def _hold(self, hold: Hold) -> None:
        self._check()
        hold.future.add_done_callback(partial(self._call_done, hold))
        self._feed.call(hold)

    def _call_done(self, call: PoolCall[Any], future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._feed.cancel(call)

    def _check(self) -> None:
        name = self.supervisor.name
        if os.getpid() != self._pid:
            raise PoolError(
                f"Pool {name} belongs to process {self._pid}, from which this one was forked; "
                "make a pool of its own here."
            )
        if not self._started:
            raise PoolError(f"Pool {name} is not started; use `async with` or `start()`.")
        if self._stopped:
            raise PoolError(f"Pool {name} was stopped.")
        if not self._feed.workers and self._broken:
            raise PoolError(self._broken)

    @property
    def _broken(self) -> str:
        """Why there is no worker, nor will be for a while; "" otherwise."""
        if self.supervisor.machine.not1(S.ErrPool) or self.supervisor.core.roster.ready:
            return ""
        return self.view().broken

    async def _watch_breaker(self) -> None:
        machine = self.supervisor.machine
        while True:
            await machine.when1(S.ErrPool)
            if self._broken:
                self._feed.broken(self._broken)
            await machine.when_not1(S.ErrPool)

    def _limit(self) -> int:
        if self.supervisor.machine.is1(S.Draining):
            return 0
        size = self.supervisor.core.size
        return min(size.max, size.max_per_client)

    def _others(self) -> bool:
        waiting = len(self.supervisor.core.waitlist)
        return self._waiting > 0 or waiting > self._feed.asked

    def _decided(self, event: events.Event, _actions: object) -> None:
        if isinstance(event, _SHIFTS):
            asyncio.get_running_loop().call_soon(self._feed.look)


def _size_of(min: int | None, max: int | None, warm: int | None, size: PoolSize) -> PoolSize:
    """The size, with what was given by itself."""
    given = {"min": min, "max": max, "warm": warm}
    return msgspec.structs.replace(size, **{n: v for n, v in given.items() if v is not None})


async def _result_of(call: asyncio.Future[R]) -> R:
    return await call
