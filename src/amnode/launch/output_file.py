"""The file that a process writes to, as its launcher sees it.

1. Only its owner may read it. What is no regular file, or a symbolic link, is refused.
2. Processes append to it, so it can be cut while they write: what comes next is at its new end.
3. Of a file past its limit only the last part stays. Where the system can take the rest out of
   it in place, nothing else is touched, and its length still counts what is gone. Elsewhere it
   is emptied and its last part written again; what comes in that very moment may be lost.
4. What a process may have put in its place is never followed, nor waited for, and never cut.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from amnode.launch.output import last_lines

#: Bytes at the end of the output that `tail` looks at.
TAIL_BYTES = 64 * 1024

#: Bytes that a cut keeps at most: the loop waits while they are written.
_KEPT = 1024 * 1024

#: From <linux/falloc.h>.
_KEEP_SIZE = 1
_PUNCH_HOLE = 2

#: Opens what may be something else by now (rule 4).
_UNHELD = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OutputFile:
    """Where one process writes, from where on, and how much of it is kept.

    Args:
        path: of the file.
        start: bytes that were in it before; they are another process's.
        limit: bytes past which it is cut; 0 for never.
        identity: device and number of the file that was opened; without, it is never cut.
    """

    def __init__(
        self,
        path: Path,
        *,
        start: int = 0,
        limit: int = 0,
        identity: tuple[int, int] | None = None,
    ) -> None:
        self.path = path
        self.limit = limit
        self._start = start
        self._identity = identity
        #: Bytes at the beginning that were taken out.
        self._gone = 0

    @classmethod
    def opened(cls, path: Path, descriptor: int, limit: int) -> OutputFile:
        """The file behind a descriptor that `open_output` gave."""
        found = os.fstat(descriptor)
        identity = found.st_dev, found.st_ino
        return cls(path, start=found.st_size, limit=limit, identity=identity)

    @classmethod
    def found(cls, path: Path, limit: int) -> OutputFile:
        """The file that a process of before has been writing to; all of it is that one's."""
        identity = None
        with suppress(OSError):  # it is gone: nothing will be read, and nothing cut
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):  # rule 4
                identity = found.st_dev, found.st_ino
        return cls(path, limit=limit, identity=identity)

    def tail(self, lines: int) -> tuple[str, ...]:
        """The last lines, oldest first, safe to show; none if the file is gone."""
        return self._last_lines(lines, 0)

    def end(self) -> int:
        """How long the file is now; 0 if it is gone."""
        try:
            return self.path.lstat().st_size
        except OSError:
            return 0

    def since(self, position: int, lines: int) -> tuple[str, ...]:
        """The last of the lines that were written after the file was `position` bytes long."""
        return self._last_lines(lines, position)

    def cut(self) -> bool:
        """Cuts the file if it is past its limit (rule 3); whether it did."""
        end = self.end()
        if end < self._gone:  # the process emptied it
            self._gone = self._start = 0
        if not self.limit or end - self._gone <= self.limit:
            return False
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | _UNHELD)
        except OSError:  # gone, or nothing that can be cut (rule 4)
            return False
        try:
            found = os.fstat(descriptor)
            if (found.st_dev, found.st_ino) != self._identity:
                return False
            self._cut(descriptor)
        except OSError:  # a full disk: what is kept is short, and the next cut tries again
            return False
        finally:
            os.close(descriptor)
        return True

    def _cut(self, descriptor: int) -> None:
        first, data = self._kept(descriptor)
        if _take_out(descriptor, first):
            self._start = max(self._start, first)
            self._gone = first
            return
        while os.fstat(descriptor).st_size > first + len(data):  # more has come meanwhile
            first, data = self._kept(descriptor)
        os.ftruncate(descriptor, 0)
        self._start = 0
        os.write(descriptor, data)

    def _kept(self, descriptor: int) -> tuple[int, bytes]:
        """What stays: the last part, from the beginning of a line if it has one."""
        kept = min(self.limit // 4, _KEPT)
        first = os.fstat(descriptor).st_size - kept
        data = os.pread(descriptor, kept, first)
        line = data.find(b"\n") + 1
        return first + line, data[line:]

    def _last_lines(self, lines: int, position: int) -> tuple[str, ...]:
        try:
            with open(self.path, "rb", opener=_open_unheld) as file:
                size = file.seek(0, os.SEEK_END)
                first = max(self._start, position)
                # A file that is smaller than it was has been emptied: all of it is new.
                first = first if first <= size else 0
                start = max(first, size - TAIL_BYTES)
                file.seek(start)
                data = file.read(TAIL_BYTES)
        except OSError:
            return ()
        return last_lines(data, lines, cut=start > first)


def read_since(path: Path, position: int, most: int = TAIL_BYTES) -> tuple[bytes, int]:
    """What was written from a position on, at most so much, and where that ends.

    What was taken out of the file before is left out. Of one that is shorter than the position,
    since it was emptied, all is given; of one that is not there, nothing.
    """
    try:
        with open(path, "rb", opener=_open_unheld) as file:
            size = os.fstat(file.fileno()).st_size
            start = position if position <= size else 0
            with suppress(OSError, AttributeError):  # no hole is known, or no data follows
                start = os.lseek(file.fileno(), start, os.SEEK_DATA)
            data = os.pread(file.fileno(), most, start)
    except OSError:
        return b"", position
    return data, start + len(data)


def _take_out(descriptor: int, length: int) -> bool:
    """Gives the first bytes of a file back to the system; False where it cannot.

    The others keep their places, so that whoever writes meanwhile is not disturbed.
    """
    if sys.platform != "linux":
        return False
    import ctypes  # where nothing is cut nobody needs it

    flags = _KEEP_SIZE | _PUNCH_HOLE
    zero, count = ctypes.c_long(0), ctypes.c_long(length)
    return ctypes.CDLL(None).fallocate(descriptor, flags, zero, count) == 0


def open_output(path: Path, undo: ExitStack) -> int:
    """Opens the file to append to it (rule 1); `undo` removes it if it was made.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    # Without O_NONBLOCK the opening of a FIFO would wait for its reader.
    flags = os.O_WRONLY | os.O_APPEND | _UNHELD
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        descriptor = os.open(path, flags)
    else:
        undo.callback(path.unlink, missing_ok=True)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "its output is no regular file", str(path))
    os.set_blocking(descriptor, True)
    return descriptor


def _open_unheld(path: str, flags: int) -> int:
    return os.open(path, flags | _UNHELD)
