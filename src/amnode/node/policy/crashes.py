"""What is remembered of workers that crashed: the last few, oldest first, as files too.

1. At most `kept` are remembered; for a new one, the oldest goes.
2. Numbers only grow, also over supervisors that have the same directory.
3. A file that is none is left out, and said to be: a report is worth no start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from amnode.node.args import CrashReport, Wire
from amnode.node.policy.roster import Member
from amnode.node.progress import Progress

_PREFIX, _SUFFIX = "crash-", ".json"

#: A file is far smaller; more is none.
MOST_BYTES = 1024 * 1024


class CrashRecord(Wire, frozen=True, kw_only=True):
    """One death that was not meant to be.

    Attributes:
        number: of it, from 1.
        at: when it was seen, in seconds since 1970 (UTC).
        worker_id: who died.
        client: the name of who held it, or "".
        epoch: of that lease, or 0.
        age: seconds since its process was asked for.
        jobs_done: when it last said so.
        job: the one that it ran, or "".
        progress: how far that said it was; null if it did not.
        transitions: what its supervisor saw last, oldest first.
        report: cause, exit code or signal, last lines, stacks; see `CrashReport`.
    """

    number: int
    at: float
    worker_id: str
    client: str
    epoch: int
    age: float
    jobs_done: int
    transitions: tuple[str, ...]
    report: CrashReport
    job: str = ""
    progress: Progress | None = None


class Last(msgspec.Struct, frozen=True):
    """What was known of a worker when its process ended; see `CrashRecord`."""

    client: str = ""
    epoch: int = 0
    age: float = 0.0
    jobs_done: int = 0
    transitions: tuple[str, ...] = ()
    job: str = ""
    progress: Progress | None = None


def last_of(
    member: Member,
    before: Last,
    now: float,
    transitions: tuple[str, ...],
    at: tuple[str, Progress | None] = ("", None),
) -> Last:
    """What is known of a worker now, or was before it lost its connection.

    Args:
        member: in the roster.
        before: what was known then.
        now: the time.
        transitions: what was seen of it.
        at: the job that it runs, and how far that is.
    """
    held = member.held
    return Last(
        client=held.name if held is not None else "",
        epoch=held.epoch if held is not None else 0,
        age=now - member.started_at,
        jobs_done=member.info.jobs_done if member.info is not None else before.jobs_done,
        transitions=transitions,
        job=at[0],
        progress=at[1],
    )


class CrashLog:
    """The last crashes of one pool.

    Args:
        kept: how many.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._records: deque[CrashRecord] = deque()
        self._last_number = 0

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[CrashRecord]:
        return iter(tuple(self._records))

    def add(self, worker_id: str, report: CrashReport, last: Last, at: float) -> CrashRecord:
        """Remembers a death."""
        record = CrashRecord(
            number=self._last_number + 1,
            at=at,
            worker_id=worker_id,
            client=last.client,
            epoch=last.epoch,
            age=last.age,
            jobs_done=last.jobs_done,
            transitions=last.transitions,
            report=report,
            job=last.job,
            progress=last.progress,
        )
        self.restore(record)
        return record

    def restore(self, record: CrashRecord) -> None:
        """Remembers one of before; the oldest come first."""
        self._last_number = max(self._last_number, record.number)
        self._records.append(record)

    def outdated(self) -> list[CrashRecord]:
        """Forgets, and returns, those that are too many (invariant 1)."""
        gone: list[CrashRecord] = []
        while len(self._records) > self._kept:
            gone.append(self._records.popleft())
        return gone


def encode_crash(record: CrashRecord) -> bytes:
    """The text of its file."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode_crash(data: bytes) -> CrashRecord | None:
    """A record out of its file; None if it is none (invariant 3)."""
    try:
        return msgspec.json.decode(data, type=CrashRecord)
    except (msgspec.DecodeError, RecursionError):
        return None


def crash_file(number: int) -> str:
    """The name of the file of a record, by which they sort."""
    return f"{_PREFIX}{number:09d}{_SUFFIX}"


def is_crash_file(name: str) -> bool:
    """Whether a file of that name is one."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)
