"""One job at a time: a call from its request to its answer.

Rules:

1. A call is answered exactly once, whatever ends it: its result, what it raised, its deadline,
   its client's cancel, or the end of the lease.
2. It is over when its code has ended: its coroutine, or its function on the thread. `Working`
   lasts until then.
3. One that is told to stop, by its client or its deadline, and has not ended `patience` later
   will not: `on_stuck` is told, and the worker pays for it.
4. Code on the loop is told by `CancelledError` at its next await. Code on the thread is told by
   `job.cancelled()`, and by a `CancelledError` out of `job.progress`.
5. What a job says of its progress is told at most every `PROGRESS_PAUSE` seconds, the newest
   only, and the last of it before the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from amnode.errors import AmnodeError, JobCancelled, JobFailed, JobTimeoutError
from amnode.node import failures
from amnode.node.items import send_all, send_from_thread
from amnode.node.job_thread import JobThread
from amnode.node.jobs import Job, StreamJob
from amnode.node.progress import RUNNING, Progress
from amnode.node.timers import Timers
from amnode.node.values import to_wire
from amnode.rpc.streams import Outlet

#: Seconds between two reports of progress.
PROGRESS_PAUSE = 0.05


class Reply(Protocol):
    """Where the answer of a call goes."""

    def answer(self, value: object = None) -> None:
        """The call ended well."""
        ...

    def fail(self, error: AmnodeError) -> None:
        """It did not."""
        ...

    def outlet(self) -> Outlet:
        """Where the items of a stream go, before the answer."""
        ...

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Calls back when nobody waits for the answer any more."""
        ...


class Bounds(msgspec.Struct, frozen=True):
    """How long a call may take; all in seconds.

    Attributes:
        deadline: the job is cancelled then; None is never.
        hard_deadline: the process ends then; None is never.
        patience: a job that is told to stop has so long.
    """

    deadline: float | None
    hard_deadline: float | None
    patience: float


class Driver(msgspec.Struct, frozen=True):
    """What every call needs of the worker that runs it.

    Attributes:
        timers: of the worker.
        thread: of the worker.
        known: the exceptions of the worker's class.
        why_ending: why the lease is ending, or "" while it is not; for who is told of a cancel.
        end_in: see `Host.end_in`.
        on_stuck: called when a job does not stop (rule 3).
        on_progress: called with what a job says of itself (rule 5).
        on_end: called once when it is over, with what it failed of or None.
    """

    timers: Timers
    thread: JobThread
    known: failures.Known
    why_ending: Callable[[], str]
    end_in: Callable[[float, str], Callable[[], None]]
    on_stuck: Callable[[], None]
    on_progress: Callable[[int, Progress], None]
    on_end: Callable[[AmnodeError | None], None]


class Work:
    """One call of one job.

    Args:
        job: which one.
        call: makes its coroutine, or makes the call on the thread; its arguments are checked.
        reply: where the answer goes.
        bounds: how long it may take.
        driver: of the worker.
        news: the number by which its caller knows the progress of this call; 0 if it does not
            care.

    Attributes:
        task: runs `run`, once it is started.
        over: whether it has ended.
        cancelled: whether it was told to stop.
    """

    def __init__(
        self,
        job: Job[..., Any],
        call: Callable[[], Any],
        reply: Reply,
        *,
        bounds: Bounds,
        driver: Driver,
        news: int = 0,
    ) -> None:
        self.job = job
        self.news = news
        self.task: asyncio.Task[None] | None = None
        self.over = False
        self.cancelled = False
        self._call = call
        self._plain = not (job.thread or job.streams)
        self._reply = reply
        self._bounds = bounds
        self._driver = driver
        self._late = False
        self._disarm: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        #: What it said last and nobody was told of, and whether that is about to be.
        self._progress: Progress | None = None
        self._telling = self._timed = False
        self._told_at = -PROGRESS_PAUSE
        reply.on_cancel(self.cancel)

    def cancel(self) -> None:
        """Asks the job to stop; it is over when its code has ended."""
        if self.task is None:
            self._end(JobCancelled(f"Job {self.job.name} was cancelled before it started."))
        else:
            self._stop(self.task)

    def start(self, task: asyncio.Task[None]) -> None:
        """The task that runs `run` exists."""
        self.task = task
        task.add_done_callback(self._task_ended)
        if self._bounds.deadline is not None:
            self._driver.timers.set(self, self._bounds.deadline, self._past_deadline)

    async def run(self) -> None:
        """Runs the job to its end and answers."""
        token = RUNNING.set(self)
        hard = self._bounds.hard_deadline
        if hard is not None:
            self._disarm = self._driver.end_in(
                hard,
                f"The worker ends: job {self.job.name} went on past its hard deadline of "
                f"{hard:g} s.",
            )
        try:
            if self._plain:
                value = await self._call()
            else:
                value = await self._made()
        except asyncio.CancelledError:
            self._end(self._why_cancelled())
            raise
        except (SystemExit, KeyboardInterrupt):
            raise  # it ends the process, which is the answer
        except BaseException as error:
            # Whatever it is, it is the job's: an error of this package must not pass for ours.
            self._end(failures.failed(self.job.name, error, self._driver.known))
            return
        finally:
            RUNNING.reset(token)
        if self.job.streams:
            self._end(None)
            return
        try:
            data = to_wire(self.job.encode_result(value))
        except JobFailed as error:
            self._end(error)
        else:
            self._end(None, data)

    def _made(self) -> Awaitable[Any]:
        """The job, as something to wait for."""
        if isinstance(self.job, StreamJob):
            return self._stream(self.job)
        return self._in_thread() if self.job.thread else self._call()

    async def _stream(self, job: StreamJob[..., Any]) -> None:
        send = self._reply.outlet().send
        if job.thread:
            await send_from_thread(self._driver.thread, self._call, job.encode_item, send)
        else:
            await send_all(self._call(), job.encode_item, send)

    async def _in_thread(self) -> Any:
        """Rules 2 and 4: nothing but its own end makes a function on the thread end."""
        came = self._driver.thread.run(self._call)
        while not came.done():
            try:
                await asyncio.wait((came,))
            except asyncio.CancelledError:
                self.cancelled = True
        value, error = came.result()
        if error is not None:
            raise error
        return value

    # -- progress ----------------------------------------------------------------------------

    def report(self, progress: Progress) -> None:
        """See `Running`; called on the loop, or on any thread."""
        self._progress = progress
        on_loop = _is_running(self._loop)
        if not self._telling:
            self._telling = True
            if on_loop:
                self._tell_soon()
            else:
                self._loop.call_soon_threadsafe(self._tell_soon)
        if self.cancelled and not on_loop:
            raise asyncio.CancelledError(f"Job {self.job.name} was told to stop.")

    def _tell_soon(self) -> None:
        if self.over:
            return
        left = self._told_at + PROGRESS_PAUSE - self._loop.time()
        if left <= 0:
            self._tell()
        else:
            self._timed = True
            self._driver.timers.set((self, "progress"), left, self._tell)

    def _tell(self) -> None:
        self._telling = False
        progress, self._progress = self._progress, None
        if progress is not None and not self.over:
            self._told_at = self._loop.time()
            self._driver.on_progress(self.news, progress)

    # -- its end -----------------------------------------------------------------------------

    def _past_deadline(self) -> None:
        self._late = True
        if self.task is not None:
            self._stop(self.task)

    def _stop(self, task: asyncio.Task[None]) -> None:
        """Rule 3. Asking again changes nothing: a second cancel would cut its clean-up."""
        if self.cancelled:
            return
        self.cancelled = True
        self._driver.timers.set(self, self._bounds.patience, self._driver.on_stuck)
        task.cancel()

    def _why_cancelled(self) -> AmnodeError:
        if not self._late:
            ending = self._driver.why_ending()
            because = f": {ending}" if ending else ""
            return JobCancelled(f"Job {self.job.name} was cancelled{because}.")
        return JobTimeoutError(
            f"Job {self.job.name} ran past its deadline of {self._bounds.deadline:g} s and was "
            "cancelled; give it more time or less to do."
        )

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # maybe before its first step, so that its body never ran
            self._end(JobCancelled(f"Job {self.job.name} was cancelled before it started."))
        else:
            self._let_go()  # a job that ends the process (SystemExit) has no other answer

    def _let_go(self) -> None:
        """Nothing is to come for it any more."""
        if self.task is not None:
            self._driver.timers.clear(self)
        if self._timed:
            self._driver.timers.clear((self, "progress"))
        if self._disarm is not None:
            self._disarm()
            self._disarm = None

    def _end(self, error: AmnodeError | None, data: object = None) -> None:
        if self.over:
            return
        if self._progress is not None:
            self._tell()
        self.over = True
        self._let_go()
        self._driver.on_end(error)
        if error is None:
            self._reply.answer(data)
        else:
            self._reply.fail(error)


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is the thread of a loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
