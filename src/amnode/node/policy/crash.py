"""What is known of a death, as a report: one cause, one line, and the worker's last lines.

What the supervisor decided before the end is the cause, for the signal that ended a hung
process was its own: hang, start timeout, refused. Otherwise the exit record says it: exit code
or signal, or the deadline for which the worker ended itself, which its output may have to
tell. A death without a record (somebody else's child) is "lost" (promise S20).

The text of a worker's output comes from outside: control characters in the line that goes into
the message are shown as escapes, and it is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from amnode.errors import Cause, Outcome, WorkerError, WorkerHealthError
from amnode.node.args import CrashReport
from amnode.node.names import EXIT_HARD_DEADLINE, EXIT_STUCK

_LONGEST_LINE = 200
#: What faulthandler lets a process exit with (`node/hard_deadline.py`).
_BY_FAULTHANDLER = 1


class ExitFacts(Protocol):
    """How a process ended; the launcher's exit record is one."""

    @property
    def pid(self) -> int:
        """Of the process."""
        ...

    @property
    def exit_code(self) -> int | None:
        """What it exited with; None where that is unknown or a signal ended it."""
        ...

    @property
    def signal(self) -> str:
        """The name of the signal that ended it, or an empty text."""
        ...

    @property
    def known(self) -> bool:
        """Whether the two above are known."""
        ...


class Hang(msgspec.Struct, frozen=True):
    """What a process that hung was doing.

    Attributes:
        stopped: it stood still, by SIGSTOP or a debugger.
        stack: where its threads were, as faulthandler writes it; empty if nobody could say.
    """

    stopped: bool = False
    stack: tuple[str, ...] = ()


def report(
    worker_id: str,
    facts: ExitFacts,
    *,
    state: str,
    output: Sequence[str] = (),
    decided: Cause | None = None,
    why: str = "",
    hang: Hang | None = None,
) -> CrashReport:
    """The report of a death.

    Args:
        worker_id: of the worker.
        facts: how its process ended.
        state: what the worker was doing for the pool, such as "leased".
        output: the last lines it wrote, oldest first.
        decided: what the supervisor ended it for, if it did.
        why: the supervisor's reason, in words.
        hang: what it was doing, if it hung.
    """
    hang = hang or Hang()
    cause = decided or _cause(facts, output)
    message = f"Worker {worker_id} (pid {facts.pid}) {_how(facts)} while {state}"
    if why:
        message += f": {why.rstrip('.')}"
    if hang.stopped:
        message += "; it was stopped, by SIGSTOP or a debugger"
    elif where := innermost(hang.stack):
        message += f"; it was at {where}"
    last = last_line(output)
    message += f"; its last line: {last}" if last else "; it wrote nothing"
    return CrashReport(
        cause=cause.value,
        message=message.rstrip(".") + ".",
        pid=facts.pid,
        exit_code=facts.exit_code,
        signal=facts.signal,
        output=tuple(output),
        state=state,
        stack=hang.stack,
        stopped=hang.stopped,
    )


def error(
    worker_id: str, report: CrashReport | None, outcome: Outcome = Outcome.UNKNOWN
) -> WorkerError:
    """The exception that a report is raised or recorded as.

    Args:
        worker_id: of the worker.
        report: of its death; None if nobody could say why it is gone.
        outcome: what is known of the call that ended with it.
    """
    if report is None:
        return WorkerError(
            f"The connection to worker {worker_id} was lost, and nobody could say why.",
            outcome=outcome,
            worker_id=worker_id,
        )
    kind = WorkerHealthError if report.cause == Cause.HANG else WorkerError
    return kind(
        report.message,
        cause=Cause(report.cause),
        outcome=outcome,
        worker_id=worker_id,
        exit_code=report.exit_code,
        signal=report.signal,
        output=report.output,
        stack=report.stack,
    )


def last_line(output: Sequence[str]) -> str:
    """The last line that says something, safe to be shown, or an empty text."""
    for line in reversed(output):
        text = line.strip()
        if text:
            shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
            return shown if len(shown) <= _LONGEST_LINE else shown[: _LONGEST_LINE - 3] + "..."
    return ""


def innermost(stack: Sequence[str]) -> str:
    """Where the main thread is, of stacks as faulthandler writes them; it has the last one."""
    where = ""
    for line, before in zip(stack[1:], stack, strict=False):
        if before.endswith("(most recent call first):"):
            where = line.strip()
    return where


def owed_to_its_job(facts: ExitFacts, output: Sequence[str]) -> bool:
    """Whether a worker ended itself since its job would not end: no fault of the pool's."""
    stuck = facts.exit_code == EXIT_STUCK
    return stuck or _cause(facts, output) is Cause.HARD_DEADLINE


def _cause(facts: ExitFacts, output: Sequence[str]) -> Cause:
    if not facts.known:
        return Cause.LOST
    if facts.exit_code == EXIT_HARD_DEADLINE:
        return Cause.HARD_DEADLINE
    if facts.exit_code == _BY_FAULTHANDLER and any(map(_is_timeout, output)):
        return Cause.HARD_DEADLINE
    return Cause.SIGNAL if facts.signal else Cause.EXIT_CODE


def _is_timeout(line: str) -> bool:
    """Whether faulthandler says that its time was up, as it does before it ends a process."""
    return line.startswith("Timeout (") and line.rstrip().endswith(")!")


def _how(facts: ExitFacts) -> str:
    if not facts.known:
        return "ended, nobody knows how,"
    if facts.signal:
        return f"was ended by {facts.signal}"
    return f"exited with code {facts.exit_code}"
