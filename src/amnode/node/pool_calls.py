"""PoolCall: one call that a `Pool` was given, and the handle by which it is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, Protocol, TypeVar

from amnode.node.jobs import Job
from amnode.node.leased import CallOptions

R = TypeVar("R")


class Piece(Protocol):
    """What a worker gets as one message, and where its answer goes.

    Attributes:
        args: of the job.
        kwargs: likewise.
        options: how it is called.
        paced: the name under which it is known how long it takes.
        calls: how many calls it stands for.
        retries: how often it may run again after its worker was lost.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: CallOptions
    paced: str
    calls: int
    retries: int

    @property
    def job(self) -> Job[..., Any]:
        """What runs."""
        ...

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        ...

    def ended(self, error: BaseException | None, value: Any) -> None:
        """It has its answer."""
        ...


class PoolCall(Generic[R]):
    """A call that was made by `Pool.submit`.

    Awaiting it gives the result, or raises what the job raised. It may be awaited more than
    once. Cancelling who awaits it, or `cancel()`, cancels the call: one that has not started
    never will, and one that runs is cancelled at its worker.
    """

    __slots__ = (
        "_future",
        "args",
        "calls",
        "job",
        "kwargs",
        "options",
        "paced",
        "retries",
    )

    def __init__(
        self,
        job: Job[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions,
        future: asyncio.Future[R],
    ) -> None:
        self.job = job
        self.args = args
        self.kwargs = kwargs
        self.options = options
        self.paced = job.name
        self.calls = 1
        self.retries = 0
        self._future = future

    def __await__(self) -> Generator[Any, None, R]:
        return self._future.__await__()

    def __repr__(self) -> str:
        how = "cancelled" if self.cancelled() else "done" if self.done() else "open"
        return f"<PoolCall {self.job.name} {how}>"

    def cancel(self) -> bool:
        """Cancels the call; returns False if it is done already."""
        return self._future.cancel()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._future.cancelled()

    def done(self) -> bool:
        """Whether awaiting it would return or raise at once."""
        return self._future.done()

    def result(self) -> R:
        """What awaiting it gives, once it is done.

        Raises:
            asyncio.InvalidStateError: it is not.
        """
        return self._future.result()

    def exception(self) -> BaseException | None:
        """What awaiting it raises, once it is done; None if it does not."""
        return self._future.exception()

    def add_done_callback(self, callback: Callable[[PoolCall[R]], object]) -> None:
        """Calls back, soon after it is done."""
        self._future.add_done_callback(lambda _: callback(self))

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._future.done()

    def ended(self, error: BaseException | None, value: Any) -> None:
        """It has its answer; called by the pool."""
        if self._future.done():
            return
        if error is None:
            self._future.set_result(value)
        else:
            self._future.set_exception(error)
