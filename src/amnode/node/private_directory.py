"""The directory of one supervisor: sockets and output of its workers, for its user alone.

Its supervisor holds a lock on it, which the system lets go when that process is gone, however
it went. Whoever can take the lock then knows that nobody will tidy up any more: the last worker
removes the directory.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

_LOCK = "lock"


def create() -> tuple[str, int]:
    """Makes a directory, mode 0700, and locks it; returns its path and the lock."""
    import tempfile  # a worker never makes one

    path = tempfile.mkdtemp(prefix="amnode-")
    lock = os.open(f"{path}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return path, lock


def write(path: str, data: bytes) -> None:
    """Puts a file in place whole, mode 0600, so a reader finds the old one or the new one.

    Raises:
        OSError: it cannot be written.
    """
    new = f"{path}.new"
    with suppress(FileNotFoundError):  # somebody died while it was written
        os.unlink(new)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(new, flags, 0o600)
    try:
        try:
            while data:
                data = data[os.write(file, data) :]
        finally:
            os.close(file)
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise


def page(path: str, size: int) -> mmap.mmap:
    """Makes a file of zeros, mode 0600, and maps it into memory that others can map too.

    Raises:
        OSError: there is such a file already, or it cannot be made.
    """
    import mmap  # who does not share pages needs it not

    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(path, flags, 0o600)
    try:
        os.ftruncate(file, size)
        return mmap.mmap(file, size)
    finally:
        os.close(file)


def read_page(path: str, size: int) -> bytes:
    """What is in a file that `page` made; fewer bytes if there is none such."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(file, size)
    except OSError:
        return b""
    finally:
        os.close(file)


def remove(path: str) -> None:
    """Removes a directory that `create` made, with what is in it, as far as it is there."""
    with suppress(FileNotFoundError):  # who is ending removes its own, and the last one all
        with os.scandir(path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                    os.unlink(entry)
        with suppress(OSError):  # something that is not ours was put there: it stays
            os.rmdir(path)


def remove_abandoned(path: str, own: str) -> bool:
    """Called by a worker that nobody supervises: removes what nobody else will.

    Any number of workers may call it at the same time: each takes its own files away before
    it looks, so the last one to look finds none.

    Args:
        path: the directory.
        own: the name of the worker, whose files go in any case.

    Returns:
        Whether the directory is gone: its supervisor is dead and no other worker lives in it.
    """
    with suppress(FileNotFoundError):
        os.unlink(f"{path}/{own}.log")
    try:
        lock = os.open(f"{path}/{_LOCK}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if any(name.endswith(".log") for name in os.listdir(path)):
            return False
    except BlockingIOError:  # the supervisor lives, and looks after it
        return False
    except FileNotFoundError:
        return True
    finally:
        os.close(lock)
    remove(path)
    return True
