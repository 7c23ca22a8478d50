"""How processes are ended and reaped where no event loop runs: in a fork server, in a worker.

1. A process that descends from a living one can escape only by forking, so each that is found
   is stopped at once; when no new one is found all are killed.
2. A number is trusted only while something keeps it: a child of this process that is not
   reaped, or a descriptor of the process, opened before its parent was asked for.
3. What is left of the group of a child is killed before the child is reaped, while its corpse
   still keeps the number of the group.
4. A fork server is a subreaper and its workers are too, so the orphans of a living worker are
   that worker's. A child of the fork server that it did not make, and did not have when it
   began, was an orphan of a worker that is dead: it is ended.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from contextlib import suppress

import msgspec

#: From <linux/prctl.h>.
_PR_SET_CHILD_SUBREAPER = 36

#: What the system says when this process, or all of them, may open no more.
_NO_DESCRIPTOR = frozenset((errno.EMFILE, errno.ENFILE))

#: Rounds of looking for descendants, each of which found new ones; more are a fork bomb.
_ROUNDS = 100


class Ended(msgspec.Struct, tag="ended", array_like=True):
    """A child of a fork server has ended.

    Attributes:
        number: of the request that made it.
        by_signal: whether a signal ended it.
        status: the signal, or the exit code.
    """

    number: int
    by_signal: bool
    status: int


def become_subreaper() -> bool:
    """Makes orphans below this process its children; False where the system cannot."""
    if sys.platform != "linux":
        return False
    import ctypes  # a tenth of what a worker's first imports take; other systems need none

    one, none = ctypes.c_ulong(1), ctypes.c_ulong(0)
    return ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, one, none, none, none) == 0


# -- the descendants of one process ------------------------------------------------------------


def end_descendants(root: int) -> None:
    """Kills everything that descends from a process that lives, but not the process itself.

    Does nothing where there is no /proc or no pidfd. Where descriptors run out, those that
    could be held are ended, and another call ends the next ones.

    Args:
        root: the process: this one, or one whose number is kept while this runs (rule 2).

    Raises:
        OSError: no descriptor is left to hold even one of them.
    """
    if not hasattr(os, "pidfd_open"):
        return
    held: dict[int, int] = {}
    try:
        for _ in range(_ROUNDS):
            if not _stop_new(root, held):
                break
        for descriptor in held.values():
            send(descriptor, signal.SIGKILL)
    finally:
        for descriptor in held.values():
            os.close(descriptor)


def _stop_new(root: int, held: dict[int, int]) -> bool:
    """Stops the descendants that are not held yet, and holds them; whether to look again."""
    before = len(held)
    parents = [root]
    while parents:
        parent = parents.pop()
        try:
            for child in children_of(parent):
                if child in held or _hold(child, parent, root, held):
                    parents.append(child)
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR or not held:
                raise
            return False  # what is held is ended first
    return len(held) > before


def _hold(child: int, parent: int, root: int, held: dict[int, int]) -> bool:
    try:
        descriptor = os.pidfd_open(child)
    except ProcessLookupError:
        return False
    try:
        # The child still is the parent's, and neither number has changed hands (rule 2).
        kin = parent_of(child) == parent and not has_ended(descriptor)
        if kin and (parent == root or not has_ended(held[parent])):
            send(descriptor, signal.SIGSTOP)
            held[child] = descriptor
    finally:
        if child not in held:
            os.close(descriptor)
    return child in held


def send(descriptor: int, number: int, flags: int = 0) -> bool:
    """Signals the process behind a pidfd; False if it has ended, or is another user's."""
    try:
        signal.pidfd_send_signal(descriptor, number, None, flags)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def has_ended(descriptor: int) -> bool:
    """Whether the process behind a pidfd has ended, reaped or not."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def children_of(pid: int) -> list[int]:
    """The children of a process, dead ones included; none if it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        for thread in threads:
            with suppress(ProcessLookupError, FileNotFoundError):  # a thread that has ended
                found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found or _looked_for(pid)


def _looked_for(pid: int) -> list[int]:
    """The same where the kernel was built without lists of children."""
    if os.path.exists("/proc/thread-self/children"):
        return []
    numbers = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return [number for number in numbers if parent_of(number) == pid]


def parent_of(pid: int) -> int:
    """The parent of a process; 0 if it is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def state_of(pid: int) -> str:
    """One letter for what a process is doing, as in `ps`; "" if it is gone."""
    fields = _stat(pid)
    return fields[0].decode() if fields else ""


def start_of(pid: int) -> int:
    """When a process started, in ticks since the system did; 0 if it is gone, or has ended."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in (b"Z", b"X") else 0


def _stat(pid: int) -> list[bytes]:
    """What is behind the name in /proc/PID/stat; the name may hold anything."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return []


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


# -- the children of a fork server -------------------------------------------------------------


class Reaper:
    """Reaps the children of this process, and ends those that belonged to a dead one."""

    def __init__(self) -> None:
        self._children: dict[int, int] = {}
        #: Children that this process does not end: what its imports started (rule 4), and
        #: what another user owns.
        self._spared = {*children_of(os.getpid())}

    @property
    def has_children(self) -> bool:
        """Whether any child is left but those that are spared."""
        return any(pid not in self._spared for pid in children_of(os.getpid()))

    def add(self, pid: int, number: int) -> None:
        """A child was made for a request."""
        self._children[pid] = number

    def signal(self, number: int, signum: int) -> None:
        """Signals the group of the child of a request, unless it was reaped (rule 3)."""
        for pid, of_request in self._children.items():
            if of_request == number:
                _kill_group(pid, signum)

    def reap(self) -> list[Ended]:
        """Reaps every child that has ended; then ends the orphans of dead ones."""
        ended: list[Ended] = []
        while found := _corpse():
            number = self._children.pop(found.si_pid, None)
            if number is not None:
                # Before its end is told; and all there is where this may be no subreaper.
                _kill_group(found.si_pid, signal.SIGKILL)
                by_signal = found.si_code != os.CLD_EXITED
                ended.append(Ended(number, by_signal, found.si_status))
            os.waitid(os.P_PID, found.si_pid, os.WEXITED)
        self._end_orphans()
        return ended

    def spare_none(self) -> None:
        """Ends what the imports of this process started, too: nobody needs it any more."""
        self._spared.clear()
        self._end_orphans()

    def _end_orphans(self) -> None:
        for pid in children_of(os.getpid()):
            if pid in self._children or pid in self._spared:
                continue
            try:
                os.kill(pid, signal.SIGKILL)  # not reaped, so its number is its own
            except PermissionError:
                self._spared.add(pid)


def _corpse() -> os.waitid_result | None:
    with suppress(ChildProcessError):  # there are no children at all
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None


def _kill_group(pid: int, signum: int) -> None:
    # The group is not there yet where the child has not come so far as to lead one.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)
