"""One job at a time: answered exactly once, over when its coroutine has ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from amnode import (
    AmnodeError,
    ConnectionLost,
    JobCancelled,
    JobError,
    JobFailed,
    JobTimeoutError,
    LeaseLost,
    RefusedError,
    WorkerError,
    job,
)
from amnode.node.job_thread import JobThread
from amnode.node.jobs import Job
from amnode.node.progress import Progress
from amnode.node.timers import Timers
from amnode.node.work import Bounds, Driver, Work
from amnode.rpc.options import RpcOptions


class Jobs:
    @job
    async def any(self) -> Any: ...

    @job(thread=True)
    def blocking(self) -> Any: ...


class OwnError(Exception):
    pass


class Replied:
    """A reply that remembers."""

    def __init__(self) -> None:
        self.answers: list[object] = []
        self.cancel: Callable[[], None] | None = None

    def answer(self, value: object = None) -> None:
        assert isinstance(value, bytes)
        self.answers.append(msgspec.msgpack.decode(value))

    def fail(self, error: AmnodeError) -> None:
        self.answers.append(error)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self.cancel = callback


class Started:
    """A work with everything about it."""

    def __init__(
        self,
        body: Callable[[], Any],
        *,
        job: Job[..., Any] = Jobs.any,
        deadline: float | None = None,
        hard_deadline: float | None = None,
        patience: float = 1000.0,
    ) -> None:
        self.reply = Replied()
        self.ends: list[AmnodeError | None] = []
        self.stuck = asyncio.Event()
        self.told: list[Progress] = []
        self.armed: list[str] = []
        self.timers = Timers()
        self.thread = JobThread("of the test")
        driver = Driver(
            timers=self.timers,
            thread=self.thread,
            known={"OwnError": OwnError},
            why_ending=lambda: "the lease is over",
            end_in=self.end_in,
            on_stuck=self.stuck.set,
            on_progress=lambda news, progress: self.told.append(progress),
            on_end=self.ended,
        )
        bounds = Bounds(deadline, hard_deadline, patience)
        self.work = Work(job, body, self.reply, bounds=bounds, driver=driver)

    def end_in(self, seconds: float, words: str) -> Callable[[], None]:
        self.armed.append(words)
        return self.armed.clear

    def ended(self, error: AmnodeError | None) -> None:
        self.ends.append(error)
        self.thread.close()

    def start(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.work.run())
        self.work.start(task)
        return task

    def only(self, kind: type[BaseException]) -> AmnodeError:
        """The one answer, which is an error and what `on_end` heard too."""
        (answer,) = self.reply.answers
        assert isinstance(answer, kind) and isinstance(answer, AmnodeError)
        assert self.ends == [answer]
        return answer


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_result() -> None:
    async def body() -> int:
        return 7

    started = Started(body)
    await started.start()
    assert started.reply.answers == [7]
    assert started.ends == [None]


async def test_what_it_raises() -> None:
    async def body() -> None:
        raise KeyError("x")

    started = Started(body)
    await started.start()
    error = started.only(JobFailed)
    assert isinstance(error, JobFailed)
    assert error.error_type == "KeyError"
    assert "raise KeyError" in error.traceback


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class OwnExit(BaseException):
    pass


@pytest.mark.parametrize(
    "raised",
    [
        GeneratorExit(),
        BaseExceptionGroup("both", [KeyboardInterrupt()]),
        OwnExit("out"),
        MuteError(),
        ValueError("half of a pair: \udc80"),
        ValueError("x" * 5_000_000),
        StopAsyncIteration(),
    ],
    ids=lambda raised: type(raised).__name__,
)
async def test_whatever_it_raises_is_answered_and_can_be_sent(raised: BaseException) -> None:
    async def body() -> None:
        raise raised

    started = Started(body)
    await started.start()
    error = started.only(JobFailed)
    assert isinstance(error, JobFailed)
    assert error.error_type == type(raised).__name__
    sent = msgspec.msgpack.encode(error.to_data())  # what is no UTF-8 fails here
    assert len(sent) < RpcOptions().frame_limit // 2


@pytest.mark.parametrize(
    "raised",
    [LeaseLost("mine"), ConnectionLost("mine"), WorkerError("mine"), RefusedError("mine")],
    ids=lambda raised: type(raised).__name__,
)
async def test_an_error_of_this_package_out_of_a_job_is_the_jobs(raised: AmnodeError) -> None:
    async def body() -> None:
        raise raised

    started = Started(body)
    await started.start()
    error = started.only(JobFailed)
    assert isinstance(error, JobFailed)
    assert error.error_type == type(raised).__name__
    assert "mine" in str(error)


async def test_a_second_cancel_does_not_cut_its_clean_up() -> None:
    begun, tidying, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def body() -> None:
        begun.set()
        try:
            await forever()
        finally:
            tidying.set()
            await may_end.wait()
            done.append("tidied up")

    started = Started(body)
    task = started.start()
    await begun.wait()
    started.work.cancel()
    await tidying.wait()
    started.work.cancel()
    started.work.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    started.only(JobCancelled)
    assert done == ["tidied up"]


async def test_a_timeout_of_its_own_is_no_deadline() -> None:
    async def body() -> None:
        raise TimeoutError("mine")

    started = Started(body, deadline=1000.0)
    await started.start()
    started.only(JobFailed)


async def test_its_deadline() -> None:
    started = Started(forever, deadline=0.01)
    with pytest.raises(asyncio.CancelledError):
        await started.start()
    started.only(JobTimeoutError)


async def test_a_result_that_cannot_be_sent() -> None:
    async def body() -> object:
        return object()

    started = Started(body)
    await started.start()
    started.only(JobFailed)


async def test_cancelled_before_there_is_a_task() -> None:
    started = Started(forever)
    assert started.reply.cancel is not None
    started.reply.cancel()
    started.only(JobCancelled)


async def test_cancelled_before_its_first_step() -> None:
    started = Started(forever)
    task = started.start()
    started.work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    started.only(JobCancelled)


async def test_cancelled_while_it_runs_it_is_over_when_it_has_ended() -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        begun.set()
        try:
            await forever()
        finally:
            await may_end.wait()

    started = Started(body)
    task = started.start()
    await begun.wait()
    started.work.cancel()
    await asyncio.sleep(0)
    assert started.reply.answers == [] and started.ends == []
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "the lease is over" in str(started.only(JobCancelled))


async def test_a_result_in_spite_of_a_cancel_counts() -> None:
    begun = asyncio.Event()

    async def body() -> str:
        begun.set()
        try:
            await forever()
        except asyncio.CancelledError:
            return "all the same"
        return ""

    started = Started(body)
    task = started.start()
    await begun.wait()
    started.work.cancel()
    await task
    assert started.reply.answers == ["all the same"]
    started.work.cancel()
    assert started.ends == [None]


@pytest.mark.parametrize("by", ["cancel", "deadline"])
async def test_one_that_does_not_stop_is_stuck(by: str) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        begun.set()
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    started = Started(body, deadline=0.01 if by == "deadline" else None, patience=0.01)
    task = started.start()
    await begun.wait()
    if by == "cancel":
        started.work.cancel()
    await started.stuck.wait()
    assert started.reply.answers == []
    may_end.set()
    await task
    assert started.reply.answers == [None]


async def test_one_that_ends_its_process_is_answered_by_that() -> None:
    async def body() -> None:
        raise SystemExit(4)

    started = Started(body)
    loop = asyncio.get_running_loop()
    # A task that raises this one has its loop raise it too; what comes first is the callback.
    steps = started.work.run()
    with pytest.raises(SystemExit):
        steps.send(None)
    ended: asyncio.Future[None] = loop.create_future()
    ended.set_exception(SystemExit(4))
    started.work._task_ended(ended)
    ended.exception()
    assert started.reply.answers == [] and started.ends == []


# -- on the thread -------------------------------------------------------------------------


async def test_a_result_from_the_thread() -> None:
    started = Started(threading.get_ident, job=Jobs.blocking)
    await started.start()
    assert started.reply.answers != [threading.get_ident()]
    assert started.ends == [None]


async def test_a_function_on_the_thread_is_over_when_it_has_returned() -> None:
    begun, may_end = threading.Event(), threading.Event()
    seen: list[bool] = []

    def body() -> str:
        begun.set()
        may_end.wait()
        seen.append(job.cancelled())
        return "in spite of it"

    started = Started(body, job=Jobs.blocking)
    task = started.start()
    await asyncio.to_thread(begun.wait)
    started.work.cancel()
    task.cancel()  # as the end of its state does
    await asyncio.sleep(0)
    assert started.reply.answers == [] and not task.done()
    may_end.set()
    await task
    assert seen == [True]
    assert started.reply.answers == ["in spite of it"]


async def test_progress_in_the_thread_raises_once_it_is_cancelled() -> None:
    begun = threading.Event()

    def body() -> None:
        begun.set()
        while True:
            job.progress(1)

    started = Started(body, job=Jobs.blocking, deadline=0.01)
    with pytest.raises(asyncio.CancelledError):
        await started.start()
    started.only(JobTimeoutError)


async def test_what_the_thread_raises() -> None:
    def body() -> None:
        raise OwnError("mine")

    started = Started(body, job=Jobs.blocking)
    await started.start()
    error = started.only(JobFailed)
    assert isinstance(error, JobFailed)
    assert error.raised


# -- progress ------------------------------------------------------------------------------


async def test_the_newest_report_is_told_and_the_last_before_the_answer() -> None:
    async def body() -> int:
        for n in range(1000):
            job.progress(n, 1000)
        await asyncio.sleep(0)
        job.progress(1000, 1000, "done")
        return 7

    started = Started(body)
    await started.start()
    assert started.told[-1] == Progress(1000, 1000, "done")
    assert [p.done for p in started.told] == [0, 1000]
    assert started.reply.answers == [7]
    assert len(started.timers) == 0


async def test_reports_are_told_after_a_pause_while_it_goes_on() -> None:
    told, gate = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        job.progress(1)
        job.progress(2)
        job.progress(3)
        await gate.wait()

    started = Started(body)
    task = started.start()
    started.timers.set("soon", 0.2, told.set)
    await told.wait()
    assert [p.done for p in started.told] == [1, 3]
    gate.set()
    await task
    assert len(started.told) == 2


async def test_reports_of_what_is_left_of_a_job_go_nowhere() -> None:
    gate = asyncio.Event()

    async def later() -> None:
        await gate.wait()
        job.progress(7)

    async def body() -> asyncio.Task[None]:
        left.append(asyncio.create_task(later()))
        return None  # type: ignore[return-value]

    left: list[asyncio.Task[None]] = []
    started = Started(body)
    await started.start()
    gate.set()
    with pytest.raises(JobError, match="has ended"):
        await left[0]
    assert started.told == []


@pytest.mark.parametrize("wrong", ["1", None, True, float("nan"), float("inf")])
async def test_what_is_no_progress(wrong: Any) -> None:
    async def body() -> None:
        with pytest.raises(JobError, match=r"done of job\.progress"):
            job.progress(wrong)
        if wrong is not None:
            with pytest.raises(JobError, match=r"total of job\.progress"):
                job.progress(1, wrong)
        with pytest.raises(JobError, match=r"note of job\.progress"):
            job.progress(1, 1, 7)  # type: ignore[arg-type]
        job.progress(1, None, "x" * 5000)

    started = Started(body)
    await started.start()
    assert started.ends == [None]
    assert len(started.told[0].note) == 1000


def test_the_share_that_is_done() -> None:
    assert [Progress(n, 4).share for n in (-1, 0, 1, 4, 9)] == [0.0, 0.0, 0.25, 1.0, 1.0]
    assert Progress(1).share is None
    assert Progress(0, 0).share is None


# -- the hard deadline ---------------------------------------------------------------------


async def test_the_hard_deadline_is_armed_before_the_first_step_and_disarmed_after() -> None:
    armed: list[list[str]] = []

    async def body() -> None:
        armed.append([*started.armed])

    started = Started(body, hard_deadline=5.0)
    await started.work.run()
    assert "job any went on past its hard deadline of 5 s" in armed[0][0]
    assert started.armed == []
