"""One child process: how it is watched, how it is ended, and what is known of its end.

The only file that sends a signal, and the only one that reaps. Rules:

1. A signal goes to a child that has not been reaped, so that its number is no stranger's. Each
   time the system is asked first. Afterwards nothing is sent, whoever asks.
2. A child leads a process group of its own. When it has ended, what is left of the group is
   killed *before* the child is reaped, while its corpse still keeps the number of the group.
   (What made a session of its own has left the group, and is not reached.)
3. The end is noticed through the child's pidfd, or where there is none, by one waiting thread,
   which reaps nothing.
4. If somebody else reaped the child (code that waits for any process, SIGCHLD that is ignored)
   its end is told as unknown; then nothing is sent, not even to its group.
5. Everything but the waiting thread runs on the thread of the loop that launched the child.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from amnode.errors import LaunchError
from amnode.launch.output import last_lines

#: Bytes at the end of the output that `tail` looks at.
TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a process ended.

    Attributes:
        pid: of the process.
        exit_code: what it exited with; None if a signal ended it, or if it is unknown.
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
        env: of the process; this one's by default.
        cwd: of the process; this one's by default.
    """

    argv: tuple[str, ...]
    boot: bytes = field(repr=False)
    output: Path
    env: Mapping[str, str] | None = field(default=None, repr=False)
    cwd: Path | None = None


class Process(Protocol):
    """A process that a launcher started; not necessarily a child of this one.

    Its methods are called on the thread of the loop that launched it. None of them raises when
    the process has ended, or cannot be reached any more.
    """

    @property
    def pid(self) -> int:
        """Its number; another process may have it once this one has ended."""
        ...

    @property
    def exited(self) -> asyncio.Future[ExitRecord]:
        """A future that is done when the process has ended and is reaped.

        Until then each reading gives one of the reader's own: cancelling it harms nobody
        else. It never has an exception.
        """
        ...

    async def wait(self) -> ExitRecord:
        """Waits for the end; cancelling the wait changes nothing for the process."""
        ...

    def terminate(self) -> bool:
        """SIGTERM to its group; False if it has ended, and nothing was sent."""
        ...

    def kill(self) -> bool:
        """SIGKILL to its group; False if it has ended, and nothing was sent."""
        ...

    async def end(self, term_timeout: float) -> ExitRecord:
        """SIGTERM, then SIGKILL if it has not ended within `term_timeout` seconds.

        Returns when it has ended. If it is cancelled, the process is killed at once.
        """
        ...

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines that it wrote, oldest first, safe to show; none if they are gone."""
        ...


class Launcher(Protocol):
    """A way to start processes."""

    async def launch(self, spec: LaunchSpec) -> Process:
        """Starts a process. If this is cancelled or raises, nothing of it is left.

        Raises:
            LaunchError: it could not be started; says which command, and why.
        """
        ...


class ChildProcess:
    """A child of this process that leads a group of its own.

    Args:
        popen: the child; from now on it is watched and reaped here, and by nobody else. It is
            ended if this constructor raises.
        output: the file that it writes to.
        output_start: bytes that were in the file before; they are not the child's.
        use_pidfd: False watches with a thread even where there are pidfds.

    Raises:
        LaunchError: it cannot be watched.
        OSError: it cannot be watched, for want of descriptors or threads.
        RuntimeError: there is no running loop.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        output: Path,
        *,
        output_start: int = 0,
        use_pidfd: bool = True,
    ) -> None:
        self._popen = popen
        self._output = output
        self._output_start = output_start
        self._record: ExitRecord | None = None
        self._pidfd: int | None = None
        try:
            self._loop = asyncio.get_running_loop()
            self._exited: asyncio.Future[ExitRecord] = self._loop.create_future()
            self._follow(use_pidfd)
        except BaseException:
            self._abandon()
            raise

    def __repr__(self) -> str:
        return f"<ChildProcess {self.pid}{' ended' if self._record else ''}>"

    def __del__(self) -> None:
        self._close_pidfd()  # of a child that outlived its loop

    @property
    def pid(self) -> int:
        """Its number; another process may have it once this one has ended."""
        return self._popen.pid

    @property
    def exited(self) -> asyncio.Future[ExitRecord]:
        """Done when it has ended and is reaped; see `Process.exited`."""
        return asyncio.shield(self._exited)

    async def wait(self) -> ExitRecord:
        """Waits for the end; cancelling the wait changes nothing for the process."""
        return await asyncio.shield(self._exited)

    def terminate(self) -> bool:
        """SIGTERM to its group; False if it has ended, and nothing was sent."""
        return not self._look() and self._send(signal.SIGTERM)

    def kill(self) -> bool:
        """SIGKILL to its group; False if it has ended, and nothing was sent."""
        return not self._look() and self._send(signal.SIGKILL)

    async def end(self, term_timeout: float) -> ExitRecord:
        """SIGTERM, then SIGKILL after `term_timeout` seconds; see `Process.end`."""
        try:
            self.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(term_timeout):
                    return await self.wait()
        finally:
            self.kill()
        return await self.wait()

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines that it wrote, oldest first, safe to show; none if they are gone."""
        try:
            with open(self._output, "rb", opener=_open_unheld) as file:
                size = file.seek(0, os.SEEK_END)
                # A file that is smaller than it was has been emptied: all of it is new.
                first = self._output_start if self._output_start <= size else 0
                start = max(first, size - TAIL_BYTES)
                file.seek(start)
                data = file.read(TAIL_BYTES)
        except OSError:
            return ()
        return last_lines(data, lines, cut=start > first)

    # -- watching (rule 3) ---------------------------------------------------------------

    def _follow(self, use_pidfd: bool) -> None:
        if not hasattr(os, "waitid"):
            raise LaunchError(
                f"Cannot watch a process: {sys.platform} has waitid() only in newer Pythons. "
                "Use Python 3.13."
            )
        self._pidfd = _open_pidfd(self.pid) if use_pidfd else None
        if self._pidfd is not None:
            self._loop.add_reader(self._pidfd, self._look)
            return
        thread = threading.Thread(target=self._watch, name=f"wait-{self.pid}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, f"{error} to watch it") from error

    def _watch(self) -> None:
        """The waiting thread: it sees the end, and leaves the rest to the loop."""
        with suppress(ChildProcessError):  # reaped meanwhile, which `_look` knows or finds out
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> bool:
        """Whether it has ended. If so: ends its group, reaps it, and tells its end."""
        if self._record is not None:
            return True
        try:
            found = self._waitid(os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:  # rule 4
            self._finish(None, time.monotonic())
            return True
        if found is None:
            return False
        seen_at = time.monotonic()
        self._send(signal.SIGKILL)  # rule 2
        self._reap()
        self._finish(found, seen_at)
        return True

    def _waitid(self, options: int) -> os.waitid_result | None:
        if self._pidfd is not None:
            return os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | options)
        return os.waitid(os.P_PID, self.pid, os.WEXITED | options)

    # -- ending (rules 1 and 2) ----------------------------------------------------------

    def _send(self, number: signal.Signals) -> bool:
        """Signals the group of a child that is not reaped; whether anybody was there to get it.

        Those of another user cannot be signalled (a program that changes its user); the others
        of the group are.
        """
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _reap(self) -> None:
        with suppress(ChildProcessError):  # another thread was faster; what it was is known
            self._waitid(0)

    def _finish(self, found: os.waitid_result | None, seen_at: float) -> None:
        """Closes what watched it, and tells its end."""
        self._record = record = _record_of(self.pid, found, seen_at)
        code = -found.si_status if found is not None and record.signal else record.exit_code
        # Popen must not wait for a number that may be somebody else's by now.
        self._popen.returncode = code or 0
        gone = self._loop.is_closed()
        if self._pidfd is not None and not gone:
            self._loop.remove_reader(self._pidfd)
        self._close_pidfd()
        if not gone:
            self._exited.set_result(record)

    def _abandon(self) -> None:
        """Ends a child that cannot be watched, unless it is no child any more (rule 4)."""
        with suppress(ChildProcessError):
            if hasattr(os, "waitid"):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            self._send(signal.SIGKILL)
        self._popen.wait()
        self._close_pidfd()

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _open_pidfd(pid: int) -> int | None:
    """A descriptor of the process; None where the system has none or forbids it (rule 3), or
    where the process was reaped already, which the waiting thread then finds out (rule 4).
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM, errno.ESRCH):
            return None
        raise


def _open_unheld(path: str, flags: int) -> int:
    """Opens what a child may have put in the place of its output; a FIFO must not hold us."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _record_of(pid: int, found: os.waitid_result | None, seen_at: float) -> ExitRecord:
    if found is None:
        return ExitRecord(pid, None, "", known=False, seen_at=seen_at)
    if found.si_code == os.CLD_EXITED:
        return ExitRecord(pid, found.si_status, "", known=True, seen_at=seen_at)
    name = _signal_name(found.si_status)
    return ExitRecord(pid, None, name, known=True, seen_at=seen_at)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal but the first and the last
        return f"signal {number}"
