"""Tail: the output of one worker, line by line as it is written, also after its end.

A line is given when it is whole; the last one also without its end, once the worker has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from amnode.launch.output import last_lines
from amnode.launch.output_file import TAIL_BYTES, read_since

#: Lines that one read can have.
_MANY = TAIL_BYTES


class Tail:
    """A reader of one output file.

    Args:
        path: where it is now; it gets another name when the worker has ended.
        lines: how many of those that are there at the beginning.
    """

    def __init__(self, path: Callable[[], Path], lines: int) -> None:
        self._path = path
        self._first: int | None = lines
        self._held = b""
        try:
            end = path().lstat().st_size
        except OSError:
            end = 0
        self._position = max(0, end - TAIL_BYTES)
        self._is_cut = self._position > 0

    def read(self, *, ended: bool) -> tuple[str, ...]:
        """The next lines; none if nothing whole was written.

        Args:
            ended: nothing more will be written.
        """
        data, self._position = read_since(self._path(), self._position)
        if not ended and len(data) < TAIL_BYTES:
            whole = data.rfind(b"\n") + 1
            data, held = self._held + data[:whole] if whole else b"", data[whole:]
            self._held = held if whole else self._held + held
        else:
            data, self._held = self._held + data, b""
        lines = last_lines(data, _MANY, cut=self._is_cut)
        self._is_cut = self._is_cut and not data
        if self._first is not None:
            first, self._first = self._first, None
            return lines[-first:] if first else ()
        return lines
