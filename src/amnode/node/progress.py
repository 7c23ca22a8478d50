"""How far a job is: what it says of itself while it runs, and who hears it.

`job.progress(done, total, note)` and `job.cancelled()` find the job that they are called in by
a context variable, so tasks and threads that copy the context of the job belong to it.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import Any, Protocol

import msgspec

from amnode.errors import JobError

#: Characters of a note that cross.
_LONGEST_NOTE = 1000


class Progress(msgspec.Struct, frozen=True):
    """How far a job is, as it says.

    Attributes:
        done: how much is done, in whatever unit the job counts.
        total: how much there is to do; None if the job does not know.
        note: what it is at, or "".
    """

    done: int | float
    total: int | float | None = None
    note: str = ""

    @property
    def share(self) -> float | None:
        """What part is done, from 0 to 1; None where nobody knows."""
        return min(1.0, max(0.0, self.done / self.total)) if self.total else None


class Running(Protocol):
    """A job that runs; the code in it finds it here."""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether it was told to stop."""
        ...

    def report(self, progress: Progress) -> None:
        """Says how far it is; one that was told to stop is stopped here, in a thread."""
        ...


#: The job that this code is part of.
RUNNING: ContextVar[Running | None] = ContextVar("amnode_job", default=None)


def running(what: str) -> Running:
    """The job that the caller is part of.

    Raises:
        JobError: it is part of none, or of one that is over.
    """
    found = RUNNING.get()
    if found is None:
        raise JobError(
            f"{what} was called outside of a job; it is for code that a job runs, also in "
            "tasks and threads that it starts with its context."
        )
    if found.over:
        raise JobError(f"{what} was called by code of a job that has ended.")
    return found


def report(done: float, total: float | None, note: str) -> None:
    """See `job.progress`."""
    found = running("job.progress()")
    _check("done", done)
    if total is not None:
        _check("total", total)
    if not isinstance(note, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise JobError(f"The note of job.progress() is {note!r}; it must be text.")
    found.report(Progress(done, total, note[:_LONGEST_NOTE]))


def _check(name: str, value: Any) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
    ):
        raise JobError(f"{name} of job.progress() is {value!r}; it must be a number.")
