"""What a test left behind: processes, threads, descriptors, tasks, temporary files.

`Before` is taken ahead of a test, and `Before.leaks()` says afterwards what is there that was
not, one line a thing. What may still be on its way out (a process that was signalled, a thread
that is ending) is waited for, on the thing itself and for at most `PATIENCE` seconds; what does
not go is named, and then ended, so that it is not blamed on the next test as well.

1. A process is found as a descendant, or, when its parent is gone, by the cookie that this
   session put into its own environment and every child inherited.
2. A descriptor is known by number and target, so one that was closed and opened anew counts.
3. While the loop is open its own descriptors are no leak. It has no sockets of its own but
   those of `InLoop`'s docstring, and anything else is looked at when it is closed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from stat import S_ISSOCK

import psutil

PATIENCE = 2.0
COOKIE = "AM_NODE_TEST_COOKIE"
#: Unique to this process; a session inside a session keeps the outer one's in front.
_MINE = secrets.token_hex(8)
_HAS_PROC = Path("/proc/self/fd").is_dir()
_FDS = "/proc/self/fd" if _HAS_PROC else "/dev/fd"


def set_cookie() -> None:
    """Marks this process, and with it every child that inherits its environment."""
    os.environ[COOKIE] = f"{os.environ.get(COOKIE, '')}/{_MINE}"


class Before:
    """What there was before a test."""

    def __init__(self) -> None:
        self._pids = frozenset(psutil.pids())
        self._threads = frozenset(threading.enumerate())
        self._fds = _descriptors()

    def leaks(self) -> list[str]:
        """What is there now that was not; empty where all is as it was."""
        deadline = time.monotonic() + PATIENCE
        left = _left_processes(self._pids, deadline) + self._left_threads(deadline)
        if new_descriptors(self._fds):
            gc.collect()  # what nobody holds any more is closed, and warns of it
            left += new_descriptors(self._fds)
        return left

    def _left_threads(self, deadline: float) -> list[str]:
        left: list[str] = []
        for thread in set(threading.enumerate()) - self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                left.append(f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}")
        return sorted(left)


# -- tasks, and what the loop would close for us -------------------------------------------


class InLoop:
    """What a loop had before a test. Asked while it does not run: uvloop opens a pair of
    sockets for signals with each run, and closes it at its end.
    """

    #: Callbacks that a clean end may have left to run: of a cancelled task, of a closed
    #: transport, and of what those call in turn.
    TURNS = 5

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fds = _descriptors()
        self._tasks = asyncio.all_tasks(loop)

    def leaks(self) -> list[str]:
        """The tasks that did not end and what the loop still has open, one line each."""
        self._loop.run_until_complete(_turns(self.TURNS))
        left = self._left()
        if left:
            gc.collect()
            self._loop.run_until_complete(_turns(1))
            left = self._left()
        return left

    def _left(self) -> list[str]:
        tasks = asyncio.all_tasks(self._loop) - self._tasks
        return sorted(f"task {t.get_name()} of {t.get_coro()!r}" for t in tasks) + [
            f"descriptor {text}" for text in new_descriptors(self._fds) if "socket:" in text
        ]


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- temporary files -----------------------------------------------------------------------


def left_files(directory: Path) -> list[str]:
    """What is left in the temporary directory of a test, one line each."""
    if not directory.is_dir():
        return [f"the temporary directory {directory} itself was removed"]
    return sorted(f"temporary file {path}" for path in directory.rglob("*"))


# -- descriptors ---------------------------------------------------------------------------


def _descriptors() -> dict[int, str]:
    """Number and target of each; text rather than Path, as this runs some times a test."""
    found: dict[int, str] = {}
    for name in os.listdir(_FDS):  # noqa: PTH208 - see above
        with suppress(OSError):  # the descriptor of the listing itself
            found[int(name)] = _target(name)
    return found


def _target(name: str) -> str:
    if _HAS_PROC:
        return os.readlink(f"{_FDS}/{name}")  # noqa: PTH115 - see above
    stat = os.fstat(int(name))
    return f"{'socket:' if S_ISSOCK(stat.st_mode) else ''}inode {stat.st_dev}:{stat.st_ino}"


def new_descriptors(before: dict[int, str]) -> list[str]:
    """Descriptors that `before` does not have, with what is on their other side."""
    return [
        f"descriptor {fd} {target}{_ends(fd, target)}"
        for fd, target in sorted(_descriptors().items())
        if before.get(fd) != target
    ]


def _ends(fd: int, target: str) -> str:
    if not target.startswith("socket:"):
        return ""
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            local = sock.getsockname() or "unnamed"
            try:
                return f" {local!r} to {sock.getpeername()!r}"
            except OSError:
                return f" {local!r}, no peer"
    except OSError:
        return " (closed meanwhile)"


# -- processes -----------------------------------------------------------------------------


def _left_processes(before: frozenset[int], deadline: float) -> list[str]:
    left: list[str] = []
    seen = set(before)
    while ours := _ours(set(psutil.pids()) - seen):  # one may start another until it is ended
        for process in ours:
            seen.add(process.pid)
            if not _wait_gone(process, deadline):
                left.append(_describe_process(process))
                _end(process)
    return left


def _ours(pids: Iterable[int]) -> list[psutil.Process]:
    """Those that are our descendants, or orphans that carry our cookie."""
    found: list[psutil.Process] = []
    for pid in sorted(pids):
        with suppress(psutil.Error):  # gone meanwhile, or another user's
            process = psutil.Process(pid)
            kin = os.getpid() in (parent.pid for parent in process.parents())
            if kin or _MINE in process.environ().get(COOKIE, ""):
                found.append(process)
    return found


def _describe_process(process: psutil.Process) -> str:
    try:
        status, parent, name = process.status(), process.ppid(), process.name()
    except psutil.NoSuchProcess:
        return f"process {process.pid}"
    with suppress(psutil.Error):  # a corpse has no command line
        name = " ".join(process.cmdline()) or name
    kin = "child" if parent == os.getpid() else "orphan or grandchild"
    return f"process {process.pid} ({status}, {kin}): {name}"


def _wait_gone(process: psutil.Process, deadline: float) -> bool:
    """Whether the process went, or is an orphan's corpse, which is init's to bury."""
    if hasattr(os, "pidfd_open"):
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return True
        try:
            select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        finally:
            os.close(fd)
    else:
        psutil.wait_procs([process], timeout=max(0.0, deadline - time.monotonic()))
    try:
        status, parent = process.status(), process.ppid()
    except psutil.NoSuchProcess:
        return True
    return status == psutil.STATUS_ZOMBIE and parent != os.getpid()


def _end(process: psutil.Process) -> None:
    try:
        process.kill()
        if process.ppid() == os.getpid() and sys.platform != "win32":
            os.waitpid(process.pid, 0)
    except (psutil.NoSuchProcess, ChildProcessError):
        return
