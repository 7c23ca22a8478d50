"""One child process: how it is watched, how it is ended, and what is known of its end.

The only file that sends a signal. Rules:

1. A signal goes to a child that has not been reaped: its number is not a stranger's yet.
2. A child leads a process group of its own. When it has ended, whatever is left of the group is
   killed *before* the child is reaped, while its number still holds the group's.
3. The end is noticed by the child's pidfd, or where there is none, by one waiting thread.
4. A child that somebody else reaped, or the kernel where SIGCHLD is ignored, has ended and
   nobody knows how. Its number is a stranger's from then on.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from amnode.launch.output import last_lines

#: Bytes at the end of the output that `tail` looks at.
TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a process ended.

    Attributes:
        pid: of the process.
        exit_code: what it exited with; None if a signal ended it.
        signal: the name of the signal that ended it, such as "SIGKILL", or "".
        known: False where the system could not say.
        seen_at: when its end was seen, in seconds of the monotonic clock.
    """

    pid: int
    exit_code: int | None
    signal: str
    known: bool
    seen_at: float

    def describe(self) -> str:
        """Such as "killed by SIGKILL", or "exited with code 3"."""
        if not self.known:
            return "ended, nobody knows how"
        if self.signal:
            return f"killed by {self.signal}"
        return f"exited with code {self.exit_code}"


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What to start.

    Attributes:
        argv: the program and its arguments; nothing secret.
        boot: what the process is told over an inherited descriptor.
        output: the file that its output is appended to; made if it does not exist.
        env: of the process, never shown; this one's by default.
        cwd: of the process; this one's by default.
    """

    argv: tuple[str, ...]
    boot: bytes = field(repr=False)
    output: Path
    env: dict[str, str] | None = field(default=None, repr=False)
    cwd: Path | None = None


class Process(Protocol):
    """A process that a launcher started."""

    @property
    def pid(self) -> int:
        """Its number; another process may have it once this one has ended."""
        ...

    @property
    def exited(self) -> asyncio.Future[ExitRecord]:
        """Done when it has ended and is reaped; shield it, or use `wait`."""
        ...

    async def wait(self) -> ExitRecord:
        """Waits for the end; cancelling the wait changes nothing for the process."""
        ...

    def terminate(self) -> bool:
        """SIGTERM to its group; False if it has ended."""
        ...

    def kill(self) -> bool:
        """SIGKILL to its group; False if it has ended."""
        ...

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines that it wrote, oldest first."""
        ...


class Launcher(Protocol):
    """A way to start processes."""

    async def launch(self, spec: LaunchSpec) -> Process:
        """Starts a process.

        Raises:
            LaunchError: it could not be started; says which command, and why.
        """
        ...


class ChildProcess:
    """A child of this process, in a group of its own. It belongs to the running loop.

    Args:
        popen: the child; from now on it is watched and reaped here.
        output: the file that it writes to.
        use_pidfd: False watches with a thread even where there are pidfds.

    Raises:
        OSError: it cannot be watched, for want of descriptors; it was killed and reaped.
        RuntimeError: the same, for want of a running loop or of threads.
    """

    def __init__(
        self, popen: subprocess.Popen[bytes], output: Path, *, use_pidfd: bool = True
    ) -> None:
        self._popen = popen
        self._output = output
        self._reaped = False
        self._pidfd: int | None = None
        self.pid = popen.pid
        try:
            self._loop = asyncio.get_running_loop()
            self.exited: asyncio.Future[ExitRecord] = self._loop.create_future()
            self._watch(use_pidfd)
        except BaseException:
            self._close_pidfd()
            _signal_group(self.pid, signal.SIGKILL)
            popen.wait()
            raise

    def __repr__(self) -> str:
        return f"<ChildProcess {self.pid}{' ended' if self._reaped else ''}>"

    def __del__(self) -> None:
        self._close_pidfd()  # of a child that was still running when its loop was closed

    async def wait(self) -> ExitRecord:
        """Waits for the end; cancelling the wait changes nothing for the process."""
        return await asyncio.shield(self.exited)

    def terminate(self) -> bool:
        """SIGTERM to its group; False if it has ended."""
        return self._signal(signal.SIGTERM)

    def kill(self) -> bool:
        """SIGKILL to its group; False if it has ended."""
        return self._signal(signal.SIGKILL)

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines that it wrote, oldest first; none if the file is gone."""
        try:
            with self._output.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - TAIL_BYTES))
                data = file.read(TAIL_BYTES)
        except OSError:
            return ()
        return last_lines(data, lines, cut=size > TAIL_BYTES)

    def _signal(self, number: signal.Signals) -> bool:
        self._look()  # rule 1: it may have ended in this very turn of the loop
        if self._reaped:
            return False
        _signal_group(self.pid, number)
        return True

    def _watch(self, use_pidfd: bool) -> None:
        """Rule 3."""
        self._pidfd = _open_pidfd(self.pid) if use_pidfd else None
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._look)
        else:
            name = f"wait-{self.pid}"
            threading.Thread(target=self._wait_in_thread, name=name, daemon=True).start()

    def _wait_in_thread(self) -> None:
        """Rule 3, without pidfds: waits in a thread and leaves the reaping to the loop."""
        with suppress(ChildProcessError):  # rule 4, which is `_look`'s to find
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        """Looks whether the child has ended, and if so, does all that its end asks for."""
        if self._reaped:
            return
        seen_at = time.monotonic()
        try:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                return
            _signal_group(self.pid, signal.SIGKILL)  # rule 2
            result = os.waitid(os.P_PID, self.pid, os.WEXITED)
        except ChildProcessError:
            result = None  # rule 4
        self._reaped = True
        # Popen must not wait for a number that may be somebody else's by now.
        self._popen.returncode = 0 if result is None else result.si_status
        if self._loop.is_closed():  # which forgot the pidfd, and whoever waited
            self._close_pidfd()
            return
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
        self._close_pidfd()
        if not self.exited.done():  # by a waiter that did not shield it
            self.exited.set_result(_record(self.pid, result, seen_at))

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _open_pidfd(pid: int) -> int | None:
    """None where the platform, its kernel or the sandbox around it has no pidfds."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return None
        raise


def _signal_group(pid: int, number: signal.Signals) -> None:
    """Signals the group of a child that has not been reaped."""
    # It has only corpses left, which some systems say with one error and some with the other.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _record(pid: int, result: os.waitid_result | None, seen_at: float) -> ExitRecord:
    if result is None:
        return ExitRecord(pid, None, "", known=False, seen_at=seen_at)
    if result.si_code == os.CLD_EXITED:
        return ExitRecord(pid, result.si_status, "", known=True, seen_at=seen_at)
    return ExitRecord(pid, None, _signal_name(result.si_status), known=True, seen_at=seen_at)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
