"""Probes: what this machine offers, read from it.

Each probe reads one thing and has `findings` judge it. It asks the system rather than a version
number, changes nothing, and leaves nothing: what it opens it closes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from amnode.cli import findings
from amnode.cli.findings import Finding
from amnode.launch.forkserver import can_fork
from amnode.launch.process import exit_of

#: From <linux/prctl.h>.
_PR_GET_CHILD_SUBREAPER = 37

#: Where the kernel shows control groups.
_GROUPS = Path("/sys/fs/cgroup")

#: A limit above this is how version 1 of control groups says that there is none.
_NO_LIMIT = 1 << 60


def probe() -> Iterator[Finding]:
    """Looks at everything, one after the other; takes a tenth of a second or two."""
    for look in PROBES:
        yield look()


# -- the program ---------------------------------------------------------------------------


def versions(*names: str) -> dict[str, str | None]:
    """The version of each package; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _python() -> Finding:
    major, minor, micro = sys.version_info[:3]
    return findings.python(platform.python_implementation(), (major, minor, micro))


def _platform() -> Finding:
    return findings.platform(platform.system(), platform.release())


def _libraries() -> Finding:
    return findings.libraries(versions("msgspec", "psutil"))


def _loop() -> Finding:
    return findings.loop(versions("uvloop")["uvloop"])


def _extras() -> Finding:
    return findings.extras(versions("rich", "cyclopts", "cloudpickle", "numpy"))


def _stacks() -> Finding:
    import faulthandler

    return findings.stacks(hasattr(faulthandler, "register"))


# -- the kernel ----------------------------------------------------------------------------


def _pidfd() -> Finding:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return findings.pidfd(usable=False)
    return findings.pidfd(usable=True)


def _exit_info() -> Finding:
    """Asks for the end of a child that is reaped already, as the kernel alone remembers it."""
    usable = False
    command = [sys.executable, "-S", "-E", "-c", "raise SystemExit(7)"]
    with (
        subprocess.Popen(command) as child,
        suppress(AttributeError, OSError),  # there are no pidfds, or they know less
    ):
        pidfd = os.pidfd_open(child.pid)
        try:
            child.wait()
            usable = exit_of(pidfd) == (False, 7)
        finally:
            os.close(pidfd)
    return findings.exit_info(usable)


def _subreaper() -> Finding:
    if sys.platform != "linux":
        return findings.subreaper(usable=False)
    value, none = ctypes.c_int(), ctypes.c_ulong(0)
    asked = ctypes.CDLL(None).prctl(
        _PR_GET_CHILD_SUBREAPER, ctypes.byref(value), none, none, none
    )
    return findings.subreaper(usable=asked == 0)


def _fork_server() -> Finding:
    return findings.fork_server("" if can_fork() else "not possible here")


def _process_list() -> Finding:
    return findings.process_list(Path("/proc/self/statm").exists())


def _clock() -> Finding:
    info = time.get_clock_info("monotonic")
    return findings.clock(info.resolution, info.monotonic and not info.adjustable)


# -- limits --------------------------------------------------------------------------------


def _descriptors() -> Finding:
    return findings.descriptors(*map(_of_limit, resource.getrlimit(resource.RLIMIT_NOFILE)))


def _processes() -> Finding:
    soft = _of_limit(resource.getrlimit(resource.RLIMIT_NPROC)[0])
    if os.geteuid() == 0:
        soft = -1  # the kernel does not hold root to it
    return findings.processes(soft, 0 if soft < 0 else _threads_of(os.getuid()))


def _threads_of(user: int) -> int:
    """How many threads a user has; the limit counts them, not processes."""
    import psutil  # late: that it is missing is a finding of its own

    count = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real == user:
                count += process.num_threads()
    return count


def _of_limit(value: int) -> int:
    return -1 if value == resource.RLIM_INFINITY else value


def _tasks() -> Finding:
    return findings.tasks(
        _least(_groups("pids"), "pids.max"), _number(_groups("pids"), "pids.current") or 0
    )


def _memory() -> Finding:
    import psutil  # as above

    limit = _least(_groups("memory"), "memory.max", "memory.limit_in_bytes")
    return findings.memory(limit, psutil.virtual_memory().total)


def _processors() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return findings.processors(usable or os.cpu_count() or 1, _quota(_groups("cpu")))


def _groups(controller: str) -> list[Path]:
    """The directories of the control groups that this process is in, the innermost first."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _GROUPS / controller if controllers else _GROUPS
        group = root / path.lstrip("/")
        found = [d for d in (group, *group.parents) if d.is_relative_to(root) and d.is_dir()]
        if controllers or not any(line.split(":")[1] for line in lines if controller in line):
            return found
    return []


def _least(groups: Sequence[Path], *files: str) -> int | None:
    """The lowest limit that any of the groups sets in one of these files."""
    found = [
        limit
        for group in groups
        for file in files
        if (limit := _number([group], file)) is not None and limit < _NO_LIMIT
    ]
    return min(found, default=None)


def _number(groups: Sequence[Path], file: str) -> int | None:
    """What the innermost group that has this file says in it; None for "max"."""
    for group in groups:
        with suppress(OSError, ValueError):  # not this group, or no limit
            return int((group / file).read_text(encoding="ascii"))
    return None


def _quota(groups: Sequence[Path]) -> float | None:
    """The least number of processors that any of the groups allows."""
    found: list[float] = []
    for group in groups:
        with suppress(OSError, ValueError):
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
            found.append(int(quota) / int(period))
        quota = _number([group], "cpu.cfs_quota_us")
        period = _number([group], "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            found.append(quota / period)
    return min(found, default=None)


# -- places --------------------------------------------------------------------------------


def _temporary() -> Finding:
    linux = sys.platform == "linux"
    try:
        path = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"amnode")
        free = shutil.disk_usage(path).free
    except OSError as error:
        path = os.environ.get("TMPDIR", "/tmp")
        return findings.temporary(path, _reason(error), 0, linux=linux)
    return findings.temporary(path, "", free, linux=linux)


def _shared_memory() -> Finding:
    directory = Path("/dev/shm")
    size = shutil.disk_usage(directory).total if directory.is_dir() else None
    return findings.shared_memory(size, writable=os.access(directory, os.W_OK))


def _addresses() -> Finding:
    return findings.addresses(
        {
            "unix": _pair(),  # whether a file can be made for one is another finding
            "tcp on 127.0.0.1": _bind(socket.AF_INET, ("127.0.0.1", 0)),
            "tcp on ::1": _bind(socket.AF_INET6, ("::1", 0)),
        }
    )


def _pair() -> str:
    """Why there are no Unix sockets, or ""."""
    try:
        for end in socket.socketpair(socket.AF_UNIX):
            end.close()
    except OSError as error:
        return _reason(error)
    return ""


def _bind(family: int, address: object) -> str:
    """Why an address cannot be listened on, or ""."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.bind(address)  # pyright: ignore[reportArgumentType] - one of each family
            listener.listen(1)
    except OSError as error:
        return _reason(error)
    return ""


def _reason(error: OSError) -> str:
    if error.errno is None:
        return str(error)
    return f"{os.strerror(error.errno)} ({errno.errorcode.get(error.errno, error.errno)})"


PROBES: Sequence[Callable[[], Finding]] = (
    _python,
    _platform,
    _libraries,
    _loop,
    _extras,
    _stacks,
    _pidfd,
    _exit_info,
    _subreaper,
    _fork_server,
    _process_list,
    _clock,
    _descriptors,
    _processes,
    _tasks,
    _memory,
    _processors,
    _temporary,
    _shared_memory,
    _addresses,
)
