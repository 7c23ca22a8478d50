"""StateDirectory: where a supervisor keeps what the next one has to know of its workers.

    lock          held by the supervisor that has the directory
    generation    how often one was started here
    ID.worker     one worker: its secret, its process, its address

1. Directory and files are for their owner alone (0700, 0600); a directory or file that is a
   symbolic link, belongs to somebody else, or is open to others is refused by name.
2. One supervisor at a time has it (promise S14); the lock of one that dies is let go.
3. A file is written whole and then put in place, so a reader finds the old one or the new one.
4. The generation grows before anything else is done here.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from amnode.errors import StateDirectoryError
from amnode.node.policy.adopt_records import (
    MOST_BYTES,
    WorkerRecord,
    decode_generation,
    decode_record,
    encode_generation,
    encode_record,
    file_name,
)

_LOCK, _GENERATION, _SUFFIX, _NEW = "lock", "generation", ".worker", ".new"
_PRIVATE_FILE = os.O_CLOEXEC | os.O_NOFOLLOW


class StateDirectory:
    """An open state directory.

    Args:
        path: of the directory; it is made if it does not exist.

    Attributes:
        path: absolute.
        generation: of the supervisor that opened it: 1 for the first.

    Raises:
        StateDirectoryError: another supervisor has it, or it is not safe to be used, or what is
            in it is no state; names the file, and says what to do.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        _make(self.path)
        self._lock = self._take_lock()
        try:
            self.generation = self._count()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of it; the records stay. Calling it again changes nothing."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def records(self) -> list[WorkerRecord]:
        """The workers of the supervisor before, in the order of their names.

        Raises:
            StateDirectoryError: a file is no record; names it.
        """
        found: list[WorkerRecord] = []
        for name in sorted(os.listdir(self.path)):
            if name.endswith(_NEW):
                os.unlink(f"{self.path}/{name}")  # somebody died while it was written
            elif name.endswith(_SUFFIX):
                record = decode_record(self._read(name), f"{self.path}/{name}")
                if file_name(record.worker_id) != name:
                    raise self._unsafe(name, f"it is the record of {record.worker_id}")
                found.append(record)
        return found

    def write(self, record: WorkerRecord) -> None:
        """Keeps a record, in place of an older one of the same worker.

        Raises:
            StateDirectoryError: it cannot be written.
        """
        self._write(file_name(record.worker_id), encode_record(record))

    def forget(self, worker_id: str) -> None:
        """There is no such worker any more."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}/{file_name(worker_id)}")

    # -- what else is kept in it -----------------------------------------------------------

    def keep(self, name: str, data: bytes) -> None:
        """Keeps a file; raises StateDirectoryError if it cannot be written."""
        self._write(name, data)

    def drop(self, name: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}/{name}")

    def kept(self, matches: Callable[[str], bool], most: int) -> list[tuple[str, bytes]]:
        """The files whose names match, in the order of these, and what is in each.

        Raises:
            StateDirectoryError: one cannot be read, is open to others, or has more than `most`
                bytes.
        """
        names = sorted(name for name in os.listdir(self.path) if matches(name))
        return [(name, self._read(name, most)) for name in names]

    def oldest_first(self, suffix: str) -> list[str]:
        """The files with this suffix, without it, by when they were written last."""
        found: list[tuple[float, str]] = []
        for name in os.listdir(self.path):
            if name.endswith(suffix):
                written = os.lstat(f"{self.path}/{name}").st_mtime
                found.append((written, name.removesuffix(suffix)))
        return [name for _, name in sorted(found)]

    # -- files -----------------------------------------------------------------------------

    def _take_lock(self) -> int:
        path = f"{self.path}/{_LOCK}"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | _PRIVATE_FILE, 0o600)
        except OSError as error:
            raise self._unsafe(_LOCK, error.strerror or str(error)) from None
        try:
            self._check_file(_LOCK, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StateDirectoryError(
                f"{self.path} is in use by another supervisor; stop that one, or take another "
                "state directory."
            ) from None
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _count(self) -> int:
        """Rule 4."""
        path = f"{self.path}/{_GENERATION}"
        before = (
            decode_generation(self._read(_GENERATION), path) if os.path.lexists(path) else 0
        )
        self._write(_GENERATION, encode_generation(before + 1))
        return before + 1

    def _read(self, name: str, most: int = MOST_BYTES) -> bytes:
        try:
            file = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_NONBLOCK | _PRIVATE_FILE)
        except OSError as error:
            raise self._unsafe(name, error.strerror or str(error)) from None
        try:
            self._check_file(name, file)
            data = os.read(file, most + 1)
        finally:
            os.close(file)
        if len(data) > most:
            raise self._unsafe(name, f"it has more than {most} bytes")
        return data

    def _write(self, name: str, data: bytes) -> None:
        """Rule 3."""
        new = f"{self.path}/{name}{_NEW}"
        try:
            with suppress(FileNotFoundError):
                os.unlink(new)
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PRIVATE_FILE, 0o600)
            try:
                os.write(file, data)
            finally:
                os.close(file)
            os.replace(new, f"{self.path}/{name}")
        except OSError as error:
            with suppress(OSError):
                os.unlink(new)
            raise self._unsafe(name, f"it cannot be written ({error.strerror})") from None

    def _check_file(self, name: str, file: int) -> None:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise self._unsafe(name, "it is no file")
        _check_private(f"{self.path}/{name}", found)

    def _unsafe(self, name: str, why: str) -> StateDirectoryError:
        return StateDirectoryError(f"{self.path}/{name} cannot be used: {why}.")


def _make(path: str) -> None:
    """Rule 1, for the directory."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise StateDirectoryError(
            f"State directory {path} cannot be made: {error.strerror}."
        ) from None
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise StateDirectoryError(
            f"{path} is no directory (a symbolic link is refused); name the directory itself."
        )
    _check_private(path, found)


def _check_private(path: str, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise StateDirectoryError(
            f"{path} belongs to user {found.st_uid}, and this program runs as {os.geteuid()}; "
            "take a directory of its own."
        )
    if found.st_mode & 0o077:
        raise StateDirectoryError(
            f"{path} is open to others (mode {stat.S_IMODE(found.st_mode):o}); it holds "
            "secrets, so it must be for its owner alone: `chmod go-rwx`."
        )
