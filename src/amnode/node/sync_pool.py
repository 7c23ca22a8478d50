"""SyncPool: a `Pool` for code without an event loop, from any thread.

    with SyncPool(Squares) as pool:
        pool.call(Squares.square, 7)
        for square in pool.map(Squares.square, range(1000)): ...

1. The pool lives on a loop in a thread of its own. Whatever is called here goes there, and what
   blocks here waits for it.
2. Interrupted (Ctrl-C), a call is cancelled at its worker.
3. A pool that nobody stopped is stopped at the end of the program, or when nobody has it.
"""

from __future__ import annotations

import asyncio
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from typing import Any, ParamSpec, Self, TypeVar

from amnode.errors import AmnodeError, OptionError, PoolError
from amnode.launch.process import Launcher
from amnode.node.jobs import Job, StreamJob
from amnode.node.launching import LaunchBy
from amnode.node.leased import Calls, LeasedWorker
from amnode.node.listing import WorkerState
from amnode.node.local_pool import Pool, PoolCalls
from amnode.node.loop_thread import LoopThread, result_of
from amnode.node.operator_args import WorkerRow
from amnode.node.policy.options import (
    ClientOptions,
    DispatchOptions,
    PoolSize,
    SupervisorOptions,
)
from amnode.node.policy.view import PoolView
from amnode.node.pool_map import arguments_of
from amnode.node.submitted import OnProgress
from amnode.node.sync_map import SyncMap
from amnode.node.sync_stream import SyncStream
from amnode.node.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")


class SyncCall(Future[R]):
    """A call that was made by `SyncPool.submit`: a `concurrent.futures.Future`.

    Unlike that of an executor it can be cancelled while it runs: its job is then cancelled at
    its worker.
    """

    def __init__(self, thread: LoopThread) -> None:
        super().__init__()
        self._thread = thread
        self._made: asyncio.Future[R] | None = None

    def cancel(self) -> bool:
        """Cancels the call; returns False if it is done already."""
        if self.cancelled():
            return True
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()  # whoever waits for it is told
        self._thread.soon(self._cancel_made)
        return True

    def make(self, make: Callable[[], asyncio.Future[R]]) -> None:
        """Makes the call; called in the thread of the loop."""
        if self.cancelled():
            return
        try:
            self._made = make()
        except AmnodeError as error:
            self._end(error, None)
        else:
            self._made.add_done_callback(self._made_done)

    def _cancel_made(self) -> None:
        if self._made is not None:
            self._made.cancel()

    def _made_done(self, made: asyncio.Future[R]) -> None:
        if not made.cancelled():
            error = made.exception()
            self._end(error, None if error is not None else made.result())

    def _end(self, error: BaseException | None, value: Any) -> None:
        try:
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
        except InvalidStateError:  # cancelled meanwhile, by another thread
            return


class SyncCalls:
    """Calls to the workers of a pool, with options of their own; made by `SyncPool.options`."""

    def __init__(self, thread: LoopThread, calls: PoolCalls) -> None:
        self._thread = thread
        self._calls = calls

    def call(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a job on whichever worker is free, and returns its result; see `Pool.call`."""
        self._thread.check()
        call = self.submit(job, *args, **kwargs)
        try:
            return result_of(call)
        finally:
            if not call.done():  # interrupted
                call.cancel()

    def submit(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> SyncCall[R]:
        """Makes a call and returns its future at once; see `Pool.submit`.

        What is wrong with the call itself, the future raises.
        """
        call: SyncCall[R] = SyncCall(self._thread)
        self._thread.soon(call.make, lambda: self._calls.begin(None, job, args, kwargs))
        return call

    def map(
        self,
        job: Job[..., R],
        *iterables: Iterable[Any],
        ordered: bool = True,
        chunk: int | None = None,
        buffer: int | None = None,
        return_exceptions: bool = False,
    ) -> SyncMap[R]:
        """Runs a job for each of many arguments, and iterates over the results.

            for square in pool.map(Squares.square, range(1000)): ...

        The iterables are read by whoever iterates, a little ahead. Args and errors are those of
        `Pool.map`.
        """
        arguments, _ = arguments_of(iterables)
        if isinstance(arguments, AsyncIterator):
            raise OptionError("An asynchronous iterable is for `Pool`; pass another one.")
        # What does not fit is told here and now, not when somebody iterates.
        how: dict[str, Any] = {
            "ordered": ordered,
            "chunk": chunk,
            "return_exceptions": return_exceptions,
        }
        self._calls.map(job, (), buffer=buffer, **how)
        return SyncMap(
            self._thread,
            arguments,
            lambda handed: self._calls.map_handed(job, handed, **how),
            buffer,
        )

    def stream(self, job: StreamJob[P, R], *args: P.args, **kwargs: P.kwargs) -> SyncStream[R]:
        """Runs a job that is a generator, and iterates over what it gives.

            for frame in pool.stream(Films.frames, "a.mp4"): ...

        Args and errors are those of `Pool.stream`.
        """
        make = self._calls.stream
        return SyncStream(self._thread, lambda: make(job, *args, **kwargs))


class SyncWorker:
    """A worker to oneself; made by `SyncPool.lease`.

    Attributes:
        id: the machine id of the worker.
        epoch: of the lease; see `LeasedWorker`.
    """

    def __init__(
        self, thread: LoopThread, worker: LeasedWorker, calls: Calls | None = None
    ) -> None:
        self.id = worker.id
        self.epoch = worker.epoch
        self._thread = thread
        self._worker = worker
        self._calls = calls or worker

    def options(
        self,
        *,
        deadline: float | None = None,
        hard_deadline: float | None = None,
        retry: int = 0,
        on_progress: OnProgress | None = None,
    ) -> SyncWorker:
        """Says how the next calls are made; see `LeasedWorker.options`.

        `on_progress` is called in the thread of the pool's loop.
        """
        calls = self._worker.options(
            deadline=deadline,
            hard_deadline=hard_deadline,
            retry=retry,
            on_progress=on_progress,
        )
        return SyncWorker(self._thread, self._worker, calls)

    def call(self, job: Job[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs a job of the worker and returns its result; see `LeasedWorker.call`."""
        return self._thread.run(self._calls.call(job, *args, **kwargs))


class SyncPool(SyncCalls):
    """A `Pool` whose methods block; see there for the arguments and the errors.

    It may be used from any thread, several at once. In a process that was forked from the one
    that made it, it raises `PoolError`.
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
        self._pool = Pool(
            worker,
            min=min,
            max=max,
            warm=warm,
            size=size,
            name=name,
            opts=opts,
            client_opts=client_opts,
            dispatch=dispatch,
            launcher=launcher,
        )
        pool = self._pool
        label = f"Pool {pool.supervisor.name}"
        super().__init__(LoopThread(label, lambda: pool.stop(cancel=True)), pool)
        self._started = False
        self._finalizer: weakref.finalize[..., SyncPool] | None = None

    # -- its life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the pool; its first workers come while the first calls are made.

        Raises:
            PoolError: it was started before.
        """
        if self._started:
            raise PoolError(f"{self._thread.name} was started before; make a new one.")
        self._started = True
        self._thread.start()
        finalizer = self._finalizer = weakref.finalize(self, _abandoned, self._thread)
        finalizer.atexit = False  # the thread sees to the end of the program
        try:
            self._thread.run(self._pool.start())
        except BaseException:
            self.stop(cancel=True)
            raise

    def when_ready(self) -> None:
        """Waits until at least the minimum of workers is ready; see `Pool.when_ready`."""
        self._thread.run(self._pool.when_ready())

    def stop(self, *, cancel: bool = False) -> None:
        """Takes no more calls, waits for those that were made, and ends every process.

        Args:
            cancel: whether they are cancelled instead; an interrupt does that too.
        """
        if not self._started or self._thread.is_elsewhere or self._thread.is_over:
            return
        try:
            self._thread.run(self._pool.stop(cancel=cancel))
        finally:
            self._thread.end()
            if self._finalizer is not None:
                self._finalizer.detach()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        self.stop(cancel=kind is not None)

    # -- workers -----------------------------------------------------------------------------

    def options(
        self,
        *,
        deadline: float | None = None,
        hard_deadline: float | None = None,
        retry: int = 0,
        on_progress: OnProgress | None = None,
    ) -> SyncCalls:
        """Says how the next calls are made; see `Pool.options`.

        `on_progress` is called in the thread of the pool's loop.
        """
        calls = self._pool.options(
            deadline=deadline,
            hard_deadline=hard_deadline,
            retry=retry,
            on_progress=on_progress,
        )
        return SyncCalls(self._thread, calls)

    @contextmanager
    def lease(self, *, timeout: float | None = None) -> Generator[SyncWorker]:
        """A worker to oneself, for the body of a `with`; see `Pool.lease`."""
        lease = self._pool.lease(timeout=timeout)
        worker = self._thread.run(lease.__aenter__())
        try:
            yield SyncWorker(self._thread, worker)
        finally:
            self._thread.run(lease.__aexit__(None, None, None))

    def workers(self, state: WorkerState | None = None) -> list[WorkerRow]:
        """Lists workers; see `Supervisor.workers`."""
        return self._thread.run(self._pool.workers(state))

    def set_pool(self, min: int, max: int, warm: int) -> None:
        """Gives the pool another size, at once; see `Supervisor.set_pool`."""

        async def set_pool() -> None:
            self._pool.set_pool(min, max, warm)

        self._thread.run(set_pool())

    def view(self) -> PoolView:
        """The pool in numbers; see `Supervisor.view`."""

        async def view() -> PoolView:
            return self._pool.view()

        return self._thread.run(view())


def _abandoned(thread: LoopThread) -> None:
    """Nobody has the pool any more, and nobody stopped it."""
    warnings.warn(
        f"{thread.name} was not stopped; use `with`, or stop().", ResourceWarning, stacklevel=2
    )
    thread.abandon()
