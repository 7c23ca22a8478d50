"""One job at a time: a call from its request to its answer.

Rules:

1. A call is answered exactly once, whatever ends it: its result, what it raised, its deadline,
   its client's cancel, or the end of the lease.
2. It is over when its coroutine has ended. `Working` lasts until then.
3. One that is told to stop, by its client or its deadline, and has not ended `patience` later
   will not: `on_stuck` is told, and the worker pays for it.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from amnode.errors import AmnodeError, JobCancelled, JobFailed, JobTimeoutError
from amnode.node.jobs import Job

#: Characters of a message or a traceback that cross.
_TEXT_LIMIT = 64 * 1024


class Reply(Protocol):
    """Where the answer of a call goes."""

    def answer(self, value: object = None) -> None:
        """The call ended well."""
        ...

    def fail(self, error: AmnodeError) -> None:
        """It did not."""
        ...

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Calls back when nobody waits for the answer any more."""
        ...


class Work:
    """One call of one job.

    Args:
        job: which one.
        call: makes its coroutine, with the arguments already checked.
        reply: where the answer goes.
        deadline: seconds that it may take, or None.
        patience: seconds that it may take to stop.
        ending: why the lease is ending, or "" while it is not; for who is told of a cancel.
        on_stuck: called when it does not.
        on_end: called once when it is over, with what it failed of or None.
    """

    def __init__(
        self,
        job: Job[..., Any],
        call: Callable[[], Coroutine[Any, Any, Any]],
        reply: Reply,
        *,
        deadline: float | None,
        patience: float,
        ending: Callable[[], str],
        on_stuck: Callable[[], None],
        on_end: Callable[[AmnodeError | None], None],
    ) -> None:
        self.job = job
        self.task: asyncio.Task[None] | None = None
        self._call = call
        self._reply = reply
        self._deadline = deadline
        self._patience = patience
        self._ending = ending
        self._on_stuck = on_stuck
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        self._stopping = False
        self._over = False
        reply.on_cancel(self.cancel)

    def cancel(self) -> None:
        """Asks the job to stop; it is over when its coroutine has ended."""
        if self.task is None:
            self._end(JobCancelled(f"Job {self.job.name} was cancelled before it started."))
        else:
            self._stop(self.task)

    def start(self, task: asyncio.Task[None]) -> None:
        """The task that runs `run` exists."""
        self.task = task
        task.add_done_callback(self._task_ended)
        if self._deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._deadline, self._past_deadline, task)

    async def run(self) -> None:
        """Runs the job to its end and answers."""
        try:
            value = await self._call()
        except asyncio.CancelledError:
            self._end(self._why_cancelled())
            raise
        except (SystemExit, KeyboardInterrupt):
            raise  # it ends the process, which is the answer
        except BaseException as error:
            # Whatever it is, it is the job's: an error of this package must not pass for ours.
            self._end(failed(self.job.name, error))
            return
        try:
            data = self.job.encode_result(value)
        except JobFailed as error:
            self._end(error)
        else:
            self._end(None, data)

    def _past_deadline(self, task: asyncio.Task[None]) -> None:
        self._late = True
        self._stop(task)

    def _stop(self, task: asyncio.Task[None]) -> None:
        """Rule 3. Asking again changes nothing: a second cancel would cut its clean-up."""
        if self._stopping:
            return
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._patience, self._on_stuck)
        task.cancel()

    def _why_cancelled(self) -> AmnodeError:
        if not self._late:
            ending = self._ending()
            because = f": {ending}" if ending else ""
            return JobCancelled(f"Job {self.job.name} was cancelled{because}.")
        return JobTimeoutError(
            f"Job {self.job.name} ran past its deadline of {self._deadline:g} s and was "
            "cancelled; give it more time or less to do."
        )

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # maybe before its first step, so that its body never ran
            self._end(JobCancelled(f"Job {self.job.name} was cancelled before it started."))
        elif self._timer is not None:
            self._timer.cancel()  # a job that ends the process (SystemExit) has no other answer

    def _end(self, error: AmnodeError | None, data: bytes | None = None) -> None:
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._on_end(error)
        if error is None:
            self._reply.answer(data)
        else:
            self._reply.fail(error)


def failed(name: str, error: BaseException) -> JobFailed:
    """What a job raised, as data that crosses whatever it is."""
    kind = type(error).__name__
    try:
        said = str(error)
        trace = "".join(traceback.format_exception(error))
    except Exception as broken:  # an exception that cannot even be shown
        said = trace = f"(its text could not be made: {type(broken).__name__})"
    return JobFailed(
        f"Job {name} raised {kind}: {_sendable(said)}",
        error_type=_sendable(kind),
        traceback=_sendable(trace),
    )


def _sendable(text: str) -> str:
    """The text without what UTF-8 cannot say, and not longer than a frame can take."""
    if len(text) > _TEXT_LIMIT:
        half = _TEXT_LIMIT // 2
        text = f"{text[:half]}\n... cut ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()
