"""JobNote: which job a worker runs and how far it is, where its supervisor can read it.

It is a page of a file that both processes share, so it costs no message and no system call, and
is there still when the worker was killed in the middle of the job.

    byte 0    length of the name; 0 while there is no job
    1 ...     the name
    256, 257  length of the progress; 0 while none was reported
    258 ...   the progress, as msgpack

1. A length is written last, and taken away first: who reads meanwhile finds less, not garbage.
2. The reader takes nothing for granted: the page is the worker's, who may write what it likes.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from amnode.node.progress import Progress

#: Bytes of the page.
SIZE = 2048

_LONGEST_NAME, _PROGRESS = 255, 256
_ROOM = SIZE - _PROGRESS - 2

_encoder = msgspec.msgpack.Encoder()


class Page(Protocol):
    """Bytes that can be changed in place."""

    def __setitem__(self, place: slice, data: bytes, /) -> None:
        """Writes some of them."""
        ...


class JobNote:
    """The worker's side.

    Args:
        page: `SIZE` bytes, all of them 0.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._has_progress = False
        #: Each name, and its length as it is written.
        self._names: dict[str, tuple[bytes, bytes]] = {}

    def begin(self, job: str) -> None:
        """A job runs now."""
        known = self._names.get(job)
        if known is None:
            name = job.encode("utf-8", "replace")[:_LONGEST_NAME]
            known = self._names[job] = name, len(name).to_bytes(1, "big")
        name, name_length = known
        page = self._page
        if self._has_progress:
            self._has_progress = False
            page[_PROGRESS : _PROGRESS + 2] = b"\0\0"
        page[1 : 1 + len(name)] = name
        page[0:1] = name_length

    def progress(self, progress: Progress) -> None:
        """It says how far it is."""
        self._has_progress = True
        data = _encoder.encode(progress)
        if len(data) > _ROOM:
            data = _encoder.encode(Progress(progress.done, progress.total))
        page, start = self._page, _PROGRESS + 2
        page[_PROGRESS:start] = b"\0\0"
        page[start : start + len(data)] = data
        page[_PROGRESS:start] = len(data).to_bytes(2, "big")

    def end(self) -> None:
        """There is no job any more."""
        self._page[0:1] = b"\0"


def read_note(page: bytes) -> tuple[str, Progress | None]:
    """The job that runs, or "", and how far it says that it is (rule 2)."""
    length = page[0] if len(page) == SIZE else 0
    if not length:
        return "", None
    name = page[1 : 1 + length].decode("utf-8", "replace")
    start = _PROGRESS + 2
    size = int.from_bytes(page[_PROGRESS:start], "big")
    if not size:
        return name, None
    try:
        return name, msgspec.msgpack.decode(page[start : start + size], type=Progress)
    except (msgspec.DecodeError, RecursionError):
        return name, None
