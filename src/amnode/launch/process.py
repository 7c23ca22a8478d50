"""One process: how it is watched, how it is ended, and what is known of its end.

The only file that sends signals and reaps where there is a loop (`reaper.py` does where there
is none). Rules:

1. A signal goes to a child that has not been reaped, so that its number is no stranger's, or to
   a process whose pidfd is held, which has no other. Each time the system is asked first.
   Afterwards nothing is sent, whoever asks.
2. A child leads a process group of its own. When it has ended, what is left of the group is
   killed *before* the child is reaped, while its corpse still keeps the number of the group.
   What made a session of its own has left the group; `kill` finds it below the living process.
3. The end is noticed through the child's pidfd, or where there is none, by one waiting thread,
   which reaps nothing.
4. If somebody else reaped the child (code that waits for any process, SIGCHLD that is ignored)
   its end is told as unknown; then nothing is sent, not even to its group.
5. The child of a fork server is reaped by that, which tells how it ended. Where nobody tells
   any more, the kernel is asked, which is the parent's heir; what it cannot say is unknown.
6. Everything but the waiting thread runs on the thread of the loop that launched the process.
7. A process that somebody else started is known by its number and the time at which it started:
   first its pidfd is opened, then the time is looked at, so what is held is that process.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from amnode.errors import LaunchError
from amnode.launch.entry import DUMP_SIGNAL
from amnode.launch.output_file import OutputFile
from amnode.launch.reaper import (
    Ended,
    end_descendants,
    has_ended,
    send,
    start_of,
    state_of,
)

#: Bytes of output past which a process's file is cut, by default.
OUTPUT_LIMIT = 8 * 1024 * 1024

#: Seconds between two looks at the length of an output file.
_CUT_INTERVAL = 2.0

#: Seconds between two looks whether a process has written its stacks.
_DUMP_INTERVAL = 0.005

#: Lines of stacks that are kept: a hundred threads would not be read by anybody.
_DUMP_LINES = 400

#: Seconds that a fork server, or whoever reaps instead of one that is dead, has to do so; and
#: between two questions to the kernel whether it has been done.
_REAP_TIMEOUT = 2.0
_REAP_INTERVAL = 0.01

#: Seconds between two looks at a process that cannot be watched.
_LOOK_INTERVAL = 0.2

#: From <linux/pidfd.h>: signals a group through the descriptor of its leader (Linux 6.9), and
#: asks how a process ended that was reaped (Linux 6.15).
_GROUP = 4
_INFO_SIZE = 64
_GET_INFO = 3 << 30 | _INFO_SIZE << 16 | 0xFF << 8 | 11
_INFO_EXIT = 8
_EXIT_OFFSET = 60


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
        output_limit: bytes past which the output is cut to its last part; 0 for never.
    """

    argv: tuple[str, ...]
    boot: bytes = field(repr=False)
    output: Path
    env: Mapping[str, str] | None = field(default=None, repr=False)
    cwd: Path | None = None
    output_limit: int = OUTPUT_LIMIT


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
        """SIGKILL to it, its group and what descends from it.

        False if it has ended, and nothing was sent.
        """
        ...

    def is_stopped(self) -> bool:
        """Whether it stands still, by SIGSTOP or a debugger; False where nobody can say."""
        ...

    async def dump_stack(self, timeout: float = 1.0) -> tuple[str, ...]:
        """Has it write the stacks of its threads to its output, even while it is blocked.

        Args:
            timeout: seconds that it has.

        Returns:
            The lines, safe to show; none if it has ended, is stopped, or knows no such signal.
        """
        ...

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines that it wrote, oldest first, safe to show; none if they are gone."""
        ...


class Launcher(Protocol):
    """A way to start processes."""

    @property
    def fallback(self) -> str:
        """Why it starts processes in a slower way than its own; "" while it does not."""
        ...

    async def launch(self, spec: LaunchSpec) -> Process:
        """Starts a process. If this is cancelled or raises, nothing of it is left.

        Raises:
            LaunchError: it could not be started; says which command, and why.
        """
        ...

    async def close(self) -> None:
        """Starts no more. Processes that live go on, and their ends are still told.

        Calling it again changes nothing.
        """
        ...


class _Watched(ABC):
    """What is the same of all processes, whoever reaps them."""

    _pidfd: int | None = None  # of one without a loop, too

    def __init__(self, pid: int, output: OutputFile) -> None:
        self._pid = pid
        self._output = output
        self._record: ExitRecord | None = None
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[ExitRecord] = self._loop.create_future()
        self._cut_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pid}{' ended' if self._record else ''}>"

    def __del__(self) -> None:
        self._close_pidfd()  # of a process that outlived its loop

    @property
    def pid(self) -> int:
        """Its number; another process may have it once this one has ended."""
        return self._pid

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
        """SIGKILL to all that is its own; see `Process.kill`."""
        if self._look():
            return False
        self._end_below()
        return self._send(signal.SIGKILL)

    def is_stopped(self) -> bool:
        """Whether it stands still; see `Process.is_stopped`."""
        state = state_of(self.pid)
        # Asked last: one that has not ended had its number when its state was read.
        return state in ("T", "t") and not self._look()

    async def dump_stack(self, timeout: float = 1.0) -> tuple[str, ...]:
        """The stacks of its threads; see `Process.dump_stack`."""
        before = self._output.end()
        if not _catches(self.pid, DUMP_SIGNAL) or self._look() or self._pidfd is None:
            return ()
        send(self._pidfd, DUMP_SIGNAL)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                quiet = 0
                # Twice: between taking the signal and handling it there is nothing to be seen.
                while quiet < 2 and not self._look():
                    await asyncio.sleep(_DUMP_INTERVAL)
                    quiet = 0 if _handles(self.pid, DUMP_SIGNAL) else quiet + 1
        return self._output.since(before, _DUMP_LINES)

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines that it wrote, oldest first, safe to show; none if they are gone."""
        return self._output.tail(lines)

    @abstractmethod
    def _look(self) -> bool:
        """Whether it has ended."""

    @abstractmethod
    def _send(self, number: signal.Signals) -> bool:
        """Signals its group; whether anybody was there to get it."""

    def _end_below(self) -> None:
        """Ends what descends from it (rule 2); it forks no more meanwhile."""
        if self._pidfd is not None and send(self._pidfd, signal.SIGSTOP):
            end_descendants(self.pid)

    def _watch_output(self) -> None:
        self._output.cut()
        if self._output.limit:
            self._cut_timer = self._loop.call_later(_CUT_INTERVAL, self._watch_output)

    def _tell(self, record: ExitRecord) -> None:
        """Its end, once; from now on nothing of it is open."""
        self._record = record
        self._stop_watching()
        if not self._loop.is_closed():
            self._exited.set_result(record)

    def _stop_watching(self) -> None:
        """Nothing of it is open from now on, and no timer runs."""
        if self._cut_timer is not None:
            self._cut_timer.cancel()
        if self._pidfd is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._pidfd)
        self._close_pidfd()

    def _close_pidfd(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class ChildProcess(_Watched):
    """A child of this process that leads a group of its own.

    Args:
        popen: the child; from now on it is watched and reaped here, and by nobody else. It is
            ended if this constructor raises.
        output: what it writes to.
        use_pidfd: False watches with a thread even where there are pidfds.
        ends_below: `kill` ends what descends from it; False where that is to live on.

    Raises:
        LaunchError: it cannot be watched.
        OSError: it cannot be watched, for want of descriptors or threads.
        RuntimeError: there is no running loop.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        output: OutputFile,
        *,
        use_pidfd: bool = True,
        ends_below: bool = True,
    ) -> None:
        self._popen = popen
        self._ends_below = ends_below
        try:
            super().__init__(popen.pid, output)
            self._follow(use_pidfd)
            self._watch_output()
        except BaseException:
            self._abandon()
            raise

    # -- watching (rule 3) ---------------------------------------------------------------

    def _follow(self, use_pidfd: bool) -> None:
        if not hasattr(os, "waitid"):
            raise LaunchError(
                f"Cannot watch a process: {sys.platform} has waitid() only in newer Pythons. "
                "Use Python 3.13."
            )
        self._pidfd = open_pidfd(self.pid) if use_pidfd else None
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

    def _end_below(self) -> None:
        if self._ends_below:
            super()._end_below()

    def _send(self, number: signal.Signals) -> bool:
        """Signals the group of a child that is not reaped; whether anybody was there to get it.

        Those of another user cannot be signalled (a program that changes its user); the others
        of the group are.
        """
        return _signal_group(self.pid, number)

    def _reap(self) -> None:
        with suppress(ChildProcessError):  # another thread was faster; what it was is known
            self._waitid(0)

    def _finish(self, found: os.waitid_result | None, seen_at: float) -> None:
        """Closes what watched it, and tells its end."""
        record = _record_of(self.pid, found, seen_at)
        code = -found.si_status if found is not None and record.signal else record.exit_code
        # Popen must not wait for a number that may be somebody else's by now.
        self._popen.returncode = code or 0
        self._tell(record)

    def _abandon(self) -> None:
        """Ends a child that cannot be watched, unless it is no child any more (rule 4)."""
        with suppress(ChildProcessError):
            if hasattr(os, "waitid"):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()
        self._close_pidfd()


class ServedProcess(_Watched):
    """A child of somebody else that leads a group of its own (rule 5).

    Args:
        pid: its number.
        pidfd: a descriptor of it; from now on this object's.
        output: what it writes to.
        ask: has its parent, a fork server, signal its group; None where no parent tells
            anything.
    """

    def __init__(
        self, pid: int, pidfd: int, output: OutputFile, ask: Callable[[int], None] | None
    ) -> None:
        super().__init__(pid, output)
        self._pidfd = pidfd
        self._ask = ask
        self._seen_at: float | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._loop.add_reader(pidfd, self._see)
        self._watch_output()

    @property
    def has_ended(self) -> bool:
        """Whether it has, even if nobody knows yet how."""
        return self._look()

    def told(self, ended: Ended) -> None:
        """Its parent has reaped it, and says how it ended."""
        if self._record is None:
            self._finish((ended.by_signal, ended.status))

    def parent_lost(self) -> None:
        """Its parent is gone, and will tell nothing any more."""
        self._ask = None
        if self._seen_at is not None and self._record is None:
            self._cancel_patience()
            self._ask_kernel(self._seen_at + _REAP_TIMEOUT)

    def let_go(self) -> None:
        """Watches it no more, as it is somebody else's; its end is never told."""
        self._cancel_patience()
        self._stop_watching()

    def _look(self) -> bool:
        return self._pidfd is None or has_ended(self._pidfd)

    def _send(self, number: signal.Signals) -> bool:
        pidfd = self._pidfd
        if pidfd is None:
            return False
        try:
            return send(pidfd, number, _GROUP)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        # An older kernel: the group is for its parent to signal, who knows that it is there.
        if self._ask is None:
            return not has_ended(pidfd) and _signal_group(self.pid, number)
        self._ask(number)
        send(pidfd, number)  # it may have gone by now, by what it was sent
        return True

    def _see(self) -> None:
        """It has ended, and is to be reaped."""
        assert self._pidfd is not None
        self._loop.remove_reader(self._pidfd)
        self._seen_at = time.monotonic()
        if self._ask is None:
            with suppress(OSError):  # an older kernel, which only knows the leader
                send(self._pidfd, signal.SIGKILL, _GROUP)
            self._ask_kernel(self._seen_at + _REAP_TIMEOUT)
        else:
            self._patience = self._loop.call_later(_REAP_TIMEOUT, self._finish, None)

    def _ask_kernel(self, until: float) -> None:
        """Asks again until whoever inherited it has reaped it."""
        assert self._pidfd is not None
        try:
            found = exit_of(self._pidfd)
        except OSError:  # this kernel will never say
            found, until = None, 0.0
        if found is None and time.monotonic() < until:
            self._patience = self._loop.call_later(_REAP_INTERVAL, self._ask_kernel, until)
        else:
            self._finish(found)

    def _finish(self, found: tuple[bool, int] | None) -> None:
        self._cancel_patience()
        seen_at = self._seen_at if self._seen_at is not None else time.monotonic()
        self._tell(_record(self.pid, found, seen_at))

    def _cancel_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()


class PolledProcess(_Watched):
    """A child of somebody else where there are no pidfds: it is looked for, again and again.

    Args:
        pid: its number.
        start: when it started, as `started_at` said.
        output: what it writes to.
    """

    def __init__(self, pid: int, start: float, output: OutputFile) -> None:
        super().__init__(pid, output)
        self._start = start
        self._timer: asyncio.TimerHandle | None = None
        if not self._look():
            self._watch_output()
            self._poll()

    def let_go(self) -> None:
        """Looks for it no more, as it is somebody else's; its end is never told."""
        if self._timer is not None:
            self._timer.cancel()
        self._stop_watching()

    def _poll(self) -> None:
        if not self._look():
            self._timer = self._loop.call_later(_LOOK_INTERVAL, self._poll)

    def _look(self) -> bool:
        if self._record is None and (not self._start or started_at(self.pid) != self._start):
            if self._timer is not None:
                self._timer.cancel()
            self._tell(_record(self.pid, None, time.monotonic()))
        return self._record is not None

    def _send(self, number: signal.Signals) -> bool:
        return _signal_group(self.pid, number)


#: A process that another program, or nobody any more, is the parent of.
AdoptedProcess: TypeAlias = ServedProcess | PolledProcess


def started_at(pid: int) -> float:
    """When a process started, as its system counts; 0 if there is none, or it has ended."""
    if sys.platform == "linux":
        return float(start_of(pid))
    import psutil  # other systems tell it in ways of their own

    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return 0.0


def adopt(pid: int, start: float, output: Path, *, use_pidfd: bool = True) -> AdoptedProcess:
    """Follows a process that somebody else started (rule 7).

    How it ended is known where the kernel can say it.

    Args:
        pid: its number.
        start: when it started, as `started_at` said then. If that is no longer so, the process
            has ended, and what is returned says so at once.
        output: the file that it writes to.
        use_pidfd: False looks for it from time to time even where there are pidfds.
    """
    file = OutputFile.found(output, OUTPUT_LIMIT)
    pidfd = open_pidfd(pid) if use_pidfd and start and pid > 0 else None
    if pidfd is None:
        return PolledProcess(pid, start, file)
    if started_at(pid) != start:
        os.close(pidfd)
        return PolledProcess(pid, 0.0, file)
    return ServedProcess(pid, pidfd, file, None)


def open_pidfd(pid: int) -> int | None:
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


def _signal_group(pid: int, number: signal.Signals) -> bool:
    """Signals a group by its number; the caller has just made sure that its leader is there."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _record_of(pid: int, found: os.waitid_result | None, seen_at: float) -> ExitRecord:
    if found is None:
        return _record(pid, None, seen_at)
    return _record(pid, (found.si_code != os.CLD_EXITED, found.si_status), seen_at)


def _record(pid: int, found: tuple[bool, int] | None, seen_at: float) -> ExitRecord:
    """The record of an end: whether by a signal, and the signal or the exit code."""
    if found is None:
        return ExitRecord(pid, None, "", known=False, seen_at=seen_at)
    by_signal, status = found
    if by_signal:
        return ExitRecord(pid, None, _signal_name(status), known=True, seen_at=seen_at)
    return ExitRecord(pid, status, "", known=True, seen_at=seen_at)


def exit_of(pidfd: int) -> tuple[bool, int] | None:
    """How a process ended that others reaped; None if it was not yet.

    Raises:
        OSError: the kernel is too old to say.
    """
    import fcntl  # other systems than Unix have none, and neither pidfds

    info = bytearray(_INFO_SIZE)
    struct.pack_into("Q", info, 0, _INFO_EXIT)
    fcntl.ioctl(pidfd, _GET_INFO, info)
    (mask,) = struct.unpack_from("Q", info)
    if not mask & _INFO_EXIT:
        return None
    (status,) = struct.unpack_from("i", info, _EXIT_OFFSET)
    code = os.waitstatus_to_exitcode(status)
    return code < 0, abs(code)


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, which otherwise would end it."""
    return bool(_masks(f"/proc/{pid}/status", "SigCgt") >> (number - 1) & 1)


def _handles(pid: int, number: int) -> bool:
    """Whether a signal waits for a process, or is being handled by one of its threads."""
    found = 0
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found |= _masks(str(thread / "status"), "SigPnd", "ShdPnd", "SigBlk")
    return bool(found >> (number - 1) & 1)


def _masks(path: str, *names: str) -> int:
    """The masks of signals of these names, in one; 0 if the process is gone."""
    found = 0
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            name, _, mask = line.partition(":")
            if name in names:
                found |= int(mask, 16)
    return found


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal but the first and the last
        return f"signal {number}"
