"""Outside: what the drivers of the pool touch beside their event loop.

`REAL` is the system. A simulation gives its own, so that nothing that a driver does depends on
anything but what it was given.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, Protocol

import msgspec

from amnode.launch.reaper import end_descendants
from amnode.node import private_directory
from amnode.node.job_note import Page
from amnode.node.memory import resident
from amnode.rpc.transport.by_address import STREAMS
from amnode.rpc.transport.port import Transport

if TYPE_CHECKING:  # a worker needs none of it
    from pathlib import Path

    from amnode.launch.process import AdoptedProcess
    from amnode.node.policy.adopt_records import WorkerRecord

#: Bytes of a random number from 0 to 1, and one more than the greatest of them.
_DRAW_BYTES, _DRAW_RANGE = 6, 2.0**48


class Files(Protocol):
    """What is done to private directories."""

    def open_state(self, path: str) -> State:
        """Opens one that outlives its supervisor.

        Raises:
            StateDirectoryError: it cannot be used; says why.
        """
        ...

    def create(self) -> tuple[str, int]:
        """Makes one and locks it; returns its path and the lock."""
        ...

    def remove(self, path: str, lock: int) -> None:
        """Removes one with what is in it, and lets the lock go."""
        ...

    def remove_file(self, path: str) -> None:
        """Removes one file, if it is there."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Writes one file whole, for its owner alone; raises OSError."""
        ...

    def rename(self, path: str, new: str) -> None:
        """Gives one file another name, if it is there."""
        ...

    def page(self, path: str, size: int) -> Page:
        """Makes a file of so many zeros, for its owner alone, and shares its memory.

        It lasts as long as what is returned. Raises OSError.
        """
        ...

    def read_page(self, path: str, size: int) -> bytes:
        """What is in such a file; fewer bytes if it is none."""
        ...

    def remove_abandoned(self, path: str, own: str) -> bool:
        """Removes a directory that nobody else will; returns whether it is gone."""
        ...


class State(Protocol):
    """An open state directory; see `state_directory`."""

    path: str
    generation: int

    def records(self) -> list[WorkerRecord]:
        """The workers of the supervisor before."""
        ...

    def write(self, record: WorkerRecord) -> None:
        """Keeps a record."""
        ...

    def forget(self, worker_id: str) -> None:
        """There is no such worker any more."""
        ...

    def keep(self, name: str, data: bytes) -> None:
        """Keeps a file of another kind."""
        ...

    def drop(self, name: str) -> None:
        """Removes it, if it is there."""
        ...

    def kept(self, matches: Callable[[str], bool], most: int) -> list[tuple[str, bytes]]:
        """The files whose names match, of at most so many bytes each."""
        ...

    def oldest_first(self, suffix: str) -> list[str]:
        """The names of the files with a suffix, without it."""
        ...

    def close(self) -> None:
        """Lets go of it."""
        ...


class RealFiles:
    """The directories of this system."""

    def open_state(self, path: str) -> State:
        """See `Files`."""
        from amnode.node.state_directory import StateDirectory  # a worker has none

        return StateDirectory(path)

    def create(self) -> tuple[str, int]:
        """See `Files`."""
        return private_directory.create()

    def remove(self, path: str, lock: int) -> None:
        """See `Files`."""
        private_directory.remove(path)
        os.close(lock)

    def remove_file(self, path: str) -> None:
        """See `Files`."""
        with suppress(FileNotFoundError):
            os.unlink(path)

    def write(self, path: str, data: bytes) -> None:
        """See `Files`."""
        private_directory.write(path, data)

    def rename(self, path: str, new: str) -> None:
        """See `Files`."""
        with suppress(FileNotFoundError):
            os.replace(path, new)

    def page(self, path: str, size: int) -> Page:
        """See `Files`."""
        return private_directory.page(path, size)

    def read_page(self, path: str, size: int) -> bytes:
        """See `Files`."""
        return private_directory.read_page(path, size)

    def remove_abandoned(self, path: str, own: str) -> bool:
        """See `Files`."""
        return private_directory.remove_abandoned(path, own)


class Processes(Protocol):
    """What is known of processes that somebody else started."""

    def started_at(self, pid: int) -> float:
        """When one started; 0 if there is none, or it has ended."""
        ...

    def adopt(self, pid: int, start: float, output: Path) -> AdoptedProcess:
        """Follows one."""
        ...


class RealProcesses:
    """The processes of this system; see `amnode.launch.process`."""

    def started_at(self, pid: int) -> float:
        """See `Processes`."""
        from amnode.launch.process import started_at  # a worker adopts nobody

        return started_at(pid)

    def adopt(self, pid: int, start: float, output: Path) -> AdoptedProcess:
        """See `Processes`."""
        from amnode.launch.process import adopt

        return adopt(pid, start, output)


def end_process(code: int) -> NoReturn:
    """Ends the process with all that it started; no thread that a job left can keep it."""
    try:
        with suppress(OSError, ValueError, AttributeError):  # a job may have closed them
            sys.stdout.flush()
            sys.stderr.flush()
        end_descendants(os.getpid())
    finally:
        os._exit(code)


class Host(Protocol):
    """The process that a worker lives in."""

    def write(self, text: str) -> None:
        """Writes to its output."""
        ...

    def exit(self, code: int) -> None:
        """Ends it at once, whatever is going on in it."""
        ...

    def end_in(self, seconds: float, words: str) -> Callable[[], None]:
        """Ends it in so many seconds, even if its loop is blocked; what it returns stops that.

        It exits with `EXIT_HARD_DEADLINE`, and `words` are the last line of its output.
        """
        ...


class OwnProcess:
    """The process that runs this code."""

    def write(self, text: str) -> None:
        """Writes to the standard error."""
        with suppress(OSError, ValueError, AttributeError):  # a job may have closed it
            sys.stderr.write(text)
            sys.stderr.flush()

    def exit(self, code: int) -> None:
        """Ends it with all that it started."""
        end_process(code)

    def end_in(self, seconds: float, words: str) -> Callable[[], None]:
        """See `Host`."""
        from amnode.node.hard_deadline import HARD_DEADLINE  # few need it

        HARD_DEADLINE.set(seconds, words)
        return HARD_DEADLINE.clear


class Outside(msgspec.Struct, frozen=True):
    """What a driver touches.

    Attributes:
        transport: how machines reach each other.
        entropy: fresh random bytes, as `os.urandom` makes them.
        files: private directories.
        memory: bytes of memory that the process has.
        wall: seconds since 1970 (UTC), to be shown to people; nothing is decided by it.
        processes: those that somebody else started.
    """

    transport: Transport = STREAMS
    entropy: Callable[[int], bytes] = os.urandom
    files: Files = RealFiles()
    memory: Callable[[], int] = resident
    wall: Callable[[], float] = time.time
    processes: Processes = RealProcesses()

    def draw(self) -> float:
        """A random number from 0 to 1, 1 excluded."""
        return int.from_bytes(self.entropy(_DRAW_BYTES), "big") / _DRAW_RANGE


#: The system itself.
REAL = Outside()
