"""One job at a time: answered exactly once, over when its coroutine has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from amnode import (
    AmnodeError,
    ConnectionLost,
    JobCancelled,
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
