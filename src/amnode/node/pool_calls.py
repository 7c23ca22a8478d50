"""What a `Pool` has to do: a message to a worker, and where its answer goes."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, Protocol, TypeVar

import msgspec

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
        alone: whether nothing else is to be at its worker: it was lost once.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: CallOptions
    paced: str
    calls: int
    retries: int
    alone: bool

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
    """One call, from the moment when it was made to its answer; a `Piece`."""

    __slots__ = (
        "alone",
        "args",
        "calls",
        "future",
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
        # The pool itself makes it again, on another worker.
        self.options = msgspec.structs.replace(options, retry=0) if options.retry else options
        self.retries = options.retry
        self.paced = job.name
        self.calls = 1
        self.alone = False
        self.future = future

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.done()

    def ended(self, error: BaseException | None, value: Any) -> None:
        """It has its answer."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(error)


class Hold(PoolCall[Any]):
    """Not a call, but a worker for one, by key: a stream makes its own, and lets it go."""
