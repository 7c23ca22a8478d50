"""PendingCall: one call of a job, from the moment when it was made to its answer.

It is a future: to be awaited, asked, or called back from. Cancelling it tells the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from amnode.errors import AmnodeError, ConnectionLost, JobFailed, RefusedError
from amnode.node.args import WorkArgs
from amnode.node.jobs import Job
from amnode.rpc.protocol.wire import Outcome

if TYPE_CHECKING:
    from typing import Protocol

    from amnode.node.job_stream import StreamCall

    class Caller(Protocol):
        """Who made the call."""

        def call_over(self, call: PendingCall[Any] | StreamCall) -> None:
            """The worker has nothing more to do with it."""
            ...

        def call_taken_back(self, call: PendingCall[Any]) -> None:
            """Nobody waits for it any more."""
            ...

        def call_raised(self, call: PendingCall[Any], failure: JobFailed) -> Exception:
            """Its job raised; what to raise for that here."""
            ...

        def call_lost(self, call: PendingCall[Any] | StreamCall, error: ConnectionLost) -> None:
            """The connection was lost before its answer came; nobody may be waiting for it."""
            ...


R = TypeVar("R")

_EXECUTED = Outcome.EXECUTED


class PendingCall(asyncio.Future[R]):
    """One call; made by `LeasedWorker.begin`.

    Args:
        caller: who made it.
        job: which job.
        work: what is sent.
        buffers: what goes with it, beside it (see `values.py`).
        loop: the running loop.

    Attributes:
        job: which job.
        work: what is sent.
        buffers: what goes with it.
        seq: the number of its mutation; 0 while it was not sent.
        behind: whether the connection was lost with another call before it.
        on_over: called once with the call, in the turn in which the worker has nothing more to
            do with it and it is done; for one that was cancelled, that is after it is done.
    """

    def __init__(
        self,
        caller: Caller,
        job: Job[..., R],
        work: WorkArgs,
        buffers: Sequence[memoryview],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(loop=loop)
        self.job = job
        self.work = work
        self.buffers = buffers
        self.seq = 0
        self.behind = False
        self.on_over: Callable[[PendingCall[R]], None] | None = None
        self._caller = caller

    def cancel(self, msg: Any = None) -> bool:
        """Takes the call back: a job that runs is cancelled, one that waits does not run."""
        if not super().cancel(msg):
            return False
        self._caller.call_taken_back(self)
        return True

    def settle(self, outcome: Outcome, value: msgspec.Raw, error: Exception | None) -> None:
        """The answer is here, or never will be; see `rpc.remote.Settled`."""
        self._caller.call_over(self)
        if isinstance(error, ConnectionLost):
            self._caller.call_lost(self, error)
        elif not self.done():
            self._take(outcome, value, error)
        if self.on_over is not None and self.done():
            self.tell_over()

    def _take(self, outcome: Outcome, value: msgspec.Raw, error: Exception | None) -> None:
        if outcome is _EXECUTED:
            try:
                self.set_result(self.job.decode_answer(value))
            except AmnodeError as unfit:
                self.set_exception(unfit)
        elif error is None:
            self.set_exception(RefusedError("The source canceled the mutation."))
        elif isinstance(error, JobFailed):
            self.set_exception(self._caller.call_raised(self, error))
        else:
            self.set_exception(error)

    def fail(self, error: Exception) -> None:
        """Ends it with an error, if it has not ended."""
        if not self.done():
            self.set_exception(error)
        self.tell_over()

    def tell_over(self) -> None:
        """The worker has nothing more to do with it."""
        on_over, self.on_over = self.on_over, None
        if on_over is not None:
            on_over(self)
