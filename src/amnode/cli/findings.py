"""Findings: what a machine offers to amnode, judged from what was read of it.

Each function takes readings and says what they mean: what is there, what its lack costs, and
what to do about it. Reading them is the business of `probes`.

1. `MISSING` is for that without which no pool runs; `WORSE` for what works with less, or will
   not under load; `NOTE` for what concerns only some.
2. A finding that is not `OK` says what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

#: What a supervisor holds open beside its workers (measured: 14, and some for a moment), and
#: for each of them (2, and one for its client).
_DESCRIPTORS, _DESCRIPTORS_A_WORKER = 24, 3

#: Workers that a limit should leave room for; a pool has 10 at most unless told otherwise.
_WORKERS = 100

#: Processes and threads: a worker is at least one, with a thread for blocking jobs two.
_PROCESSES_A_WORKER = 2

#: Bytes of memory for a worker that has imported nothing of its own, with room to work.
_WORKER_MEMORY = 64 * 1024 * 1024

#: What containers have in /dev/shm unless told otherwise; browsers and tensors want more.
_SMALL_SHM = 64 * 1024 * 1024

#: Free bytes below which the outputs of a few workers could fill a file system.
_LITTLE_DISK = 100 * 1024 * 1024

#: Bytes of the path of a Unix socket, and of what a supervisor adds to the temporary directory.
_SOCKET_PATH, _ADDED_PATH = 107, 56

#: The coarsest clock that leaves deadlines of a millisecond a meaning.
_COARSE = 0.001

_OLDEST_PYTHON = (3, 11)


class Verdict(StrEnum):
    """What a finding means (rule 1)."""

    OK = "ok"
    NOTE = "note"
    WORSE = "worse"
    MISSING = "missing"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        name: what was looked at.
        verdict: what it means for amnode.
        found: what is there.
        cost: what its lack, or its size, costs; "" where it costs nothing.
        remedy: what to do; "" where nothing is to be done.
    """

    name: str
    verdict: Verdict
    found: str
    cost: str = ""
    remedy: str = ""


def worst(findings: Sequence[Finding]) -> Verdict:
    """The gravest verdict of several; OK of none."""
    order = [*Verdict]
    return max((f.verdict for f in findings), key=order.index, default=Verdict.OK)


def human(size: int) -> str:
    """Bytes in the unit that a person would use."""
    value, units = float(size), ["TiB", "GiB", "MiB", "KiB", "B"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop()
    unit = units[-1]
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def _finding(
    name: str, found: str, cost: str = "", remedy: str = "", *, lack: Verdict = Verdict.WORSE
) -> Finding:
    """OK, unless it costs something."""
    verdict = lack if cost else Verdict.OK
    return Finding(name=name, verdict=verdict, found=found, cost=cost, remedy=remedy)


# -- the program ---------------------------------------------------------------------------


def python(implementation: str, version: tuple[int, int, int]) -> Finding:
    """The interpreter."""
    found = f"{implementation} {'.'.join(map(str, version))}"
    name = "python"
    if version[:2] < _OLDEST_PYTHON:
        return _finding(
            name,
            found,
            "amnode is written for Python 3.11 and newer",
            "install one, and make the virtual environment anew with it",
            lack=Verdict.MISSING,
        )
    if implementation != "CPython":
        return _finding(name, found, "it has never been tried", "use CPython where it matters")
    return _finding(name, found)


def platform(system: str, release: str) -> Finding:
    """The operating system."""
    name, found = "system", f"{system} {release}"
    if system == "Linux":
        return _finding(name, found)
    if system == "Darwin":
        return _finding(
            name,
            found,
            "workers start by command, in a fifth of a second rather than in milliseconds; "
            "what a dead worker had started in sessions of its own is left running",
            "run pools on Linux where that matters",
        )
    return _finding(
        name,
        found,
        "workers need Unix sockets, process groups and signals",
        "use Linux, or WSL 2 on Windows",
        lack=Verdict.MISSING,
    )


def libraries(versions: dict[str, str | None]) -> Finding:
    """The libraries that nothing works without; None for one that is not there."""
    name = "libraries"
    found = ", ".join(f"{n} {v or 'missing'}" for n, v in versions.items())
    missing = [n for n, version in versions.items() if version is None]
    if missing:
        return _finding(
            name,
            found,
            f"amnode does not start without {' and '.join(missing)}",
            f"pip install {' '.join(missing)}",
            lack=Verdict.MISSING,
        )
    return _finding(name, found)


def loop(uvloop: str | None) -> Finding:
    """The event loop."""
    if uvloop is not None:
        return _finding("uvloop", uvloop)
    return _finding(
        "uvloop",
        "not installed",
        "the standard loop is used: a call takes about one and a half times as long",
        "pip install uvloop",
    )


def extras(versions: dict[str, str | None]) -> Finding:
    """Libraries that some parts of amnode ask for."""
    found = ", ".join(f"{n} {v}" for n, v in versions.items() if v is not None) or "none"
    lacking = [n for n, version in versions.items() if version is None]
    wanted = {"cloudpickle": "executor", "rich": "cli", "cyclopts": "cli"}
    groups = [*dict.fromkeys(wanted[n] for n in lacking if n in wanted)]
    if not groups:
        return _finding("extras", found)
    what = {
        "executor": "PoolExecutor cannot be used",
        "cli": "there are no tables, bars and live views",
    }
    return _finding(
        "extras",
        found,
        "; ".join(what[group] for group in groups),
        f"pip install 'amnode[{','.join(groups)}]'",
        lack=Verdict.NOTE,
    )


def stacks(usable: bool) -> Finding:
    """Whether the stacks of a worker that hangs can be had."""
    if usable:
        return _finding("faulthandler", "usable")
    return _finding(
        "faulthandler",
        "not usable",
        "a worker that hangs or crashes is replaced without saying where it was",
        "use a Python that was built with faulthandler",
    )


# -- the kernel ----------------------------------------------------------------------------


def pidfd(usable: bool) -> Finding:
    """Descriptors of processes (Linux 5.3)."""
    if usable:
        return _finding("pidfd", "usable")
    return _finding(
        "pidfd",
        "not usable",
        "workers start by command and not by fork; a thread watches each of them; what a dead "
        "one had started in sessions of its own is left running; an adopted worker is looked "
        "for five times a second",
        "Linux 5.3 or newer; in a sandbox, allow pidfd_open and pidfd_send_signal",
    )


def exit_info(usable: bool) -> Finding:
    """Whether the kernel tells how somebody else's child ended (Linux 6.15)."""
    if usable:
        return _finding("PIDFD_GET_INFO", "usable")
    return _finding(
        "PIDFD_GET_INFO",
        "not usable",
        "how a worker ended that was adopted from another supervisor, or whose fork server "
        "died, is not known: its report says `lost`",
        "Linux 6.15 or newer",
        lack=Verdict.NOTE,
    )


def subreaper(usable: bool) -> Finding:
    """Whether what a dead worker started can be found."""
    if usable:
        return _finding("subreaper", "usable")
    return _finding(
        "subreaper",
        "not usable",
        "daemons that a dead worker had started (browsers, encoders) are left running",
        "Linux, with prctl allowed; else have jobs end what they start",
    )


def fork_server(refusal: str) -> Finding:
    """Whether workers can be forked; a text is why not."""
    if not refusal:
        return _finding("fork server", "usable")
    return _finding(
        "fork server",
        refusal,
        "workers start by command: a fifth of a second and all imports for each, and no "
        "memory is shared between them",
        "see what pidfd says",
    )


def process_list(usable: bool) -> Finding:
    """/proc."""
    if usable:
        return _finding("/proc", "mounted")
    return _finding(
        "/proc",
        "not there",
        "no memory is told of workers, `max_rss` has no effect, and what a dead one had "
        "started is found by its process group alone",
        "mount it: mount -t proc proc /proc",
    )


def clock(resolution: float, monotonic: bool) -> Finding:
    """The clock of the event loop, by which deadlines are kept."""
    found = f"resolution {resolution * 1e9:.0f} ns" + ("" if monotonic else ", can be set")
    if not monotonic:
        cost = "deadlines and health checks jump when somebody sets it"
    elif resolution > _COARSE:
        cost = "deadlines are no finer than that"
    else:
        cost = ""
    return _finding("clock", found, cost, "use a system with a monotonic clock" if cost else "")


# -- limits --------------------------------------------------------------------------------


def descriptors(soft: int, hard: int) -> Finding:
    """RLIMIT_NOFILE; -1 for none."""
    name = "open files"
    if soft < 0:
        return _finding(name, "unlimited")
    room = max(0, (soft - _DESCRIPTORS) // _DESCRIPTORS_A_WORKER)
    found = f"{soft} (at most {'unlimited' if hard < 0 else hard}): about {room} workers"
    if room >= _WORKERS:
        return _finding(name, found)
    more = _DESCRIPTORS + _DESCRIPTORS_A_WORKER * _WORKERS
    own = f"ulimit -n {more}, or" if hard < 0 or hard >= more else "as root"
    return _finding(
        name,
        found,
        f"a supervisor with more than {room} workers fails to start them",
        f"{own} LimitNOFILE={more} in the unit, --ulimit nofile={more} of the container",
        lack=Verdict.WORSE if room else Verdict.MISSING,
    )


def processes(soft: int, running: int) -> Finding:
    """RLIMIT_NPROC of a user who has so many threads; -1 for no limit."""
    name = "processes"
    if soft < 0:
        return _finding(name, "unlimited")
    room = max(0, (soft - running) // _PROCESSES_A_WORKER)
    found = f"{soft} for this user, who has {running}: about {room} workers"
    if room >= _WORKERS:
        return _finding(name, found)
    return _finding(
        name,
        found,
        f"no more than {room} workers can be started",
        "ulimit -u, or TasksMax= and LimitNPROC= in the unit, or the container's pids limit",
        lack=Verdict.WORSE if room else Verdict.MISSING,
    )


def tasks(limit: int | None, running: int) -> Finding:
    """The limit of processes and threads in this control group; None for none."""
    name = "cgroup pids"
    if limit is None:
        return _finding(name, "no limit")
    room = max(0, (limit - running) // _PROCESSES_A_WORKER)
    found = f"{limit}, of which {running} are used: about {room} workers"
    if room >= _WORKERS:
        return _finding(name, found)
    return _finding(
        name,
        found,
        f"no more than {room} workers can be started",
        "TasksMax= in the unit, or --pids-limit of the container",
        lack=Verdict.WORSE if room else Verdict.MISSING,
    )


def memory(limit: int | None, total: int) -> Finding:
    """The memory that this control group may use; None for all that there is."""
    name = "memory"
    if limit is None or (total and limit >= total):
        return _finding(name, f"{human(total)}, no limit of a control group")
    found = f"{human(limit)} by the control group, of {human(total)}"
    room = limit // _WORKER_MEMORY
    less = f": a pool of more than {room} workers hardly fits" if room < _WORKERS else ""
    return _finding(
        name,
        found,
        f"past it the kernel kills a process of the group, often a worker, by SIGKILL{less}",
        "set `max_rss`, so that a worker which grows is replaced between leases before that",
        lack=Verdict.NOTE if room >= 4 else Verdict.WORSE,
    )


def processors(count: int, quota: float | None) -> Finding:
    """What this process may run on; the quota in processors, None for none."""
    found = f"{count}" + (f", {quota:g} of them by the control group" if quota else "")
    if quota is not None and quota < 1:
        return _finding(
            "processors",
            found,
            "the group is stopped for parts of each tenth of a second: deadlines and health "
            "checks are late by as much",
            "give it a whole processor, or raise `check_timeout`",
        )
    return _finding("processors", found)


# -- places --------------------------------------------------------------------------------


def temporary(path: str, refusal: str, free: int, *, linux: bool) -> Finding:
    """The directory for sockets and outputs; a refusal is why nothing can be made there."""
    name = "temporary files"
    found = f"{path}, {human(free)} free"
    if refusal:
        return _finding(
            name,
            f"{path}: {refusal}",
            "a supervisor has nowhere to put its sockets and the output of its workers",
            "set TMPDIR to a directory that this user can write to, on a local file system",
            lack=Verdict.MISSING,
        )
    if len(path.encode()) + _ADDED_PATH > _SOCKET_PATH and not linux:
        return _finding(
            name,
            found,
            f"the paths of sockets below it are longer than the {_SOCKET_PATH} bytes that fit",
            "set TMPDIR to a shorter path",
            lack=Verdict.MISSING,
        )
    if free < _LITTLE_DISK:
        return _finding(
            name,
            found,
            "the output of a worker is up to 8 MiB: a few talkative ones fill it",
            "free some, or set TMPDIR to a larger one",
        )
    return _finding(name, found)


def shared_memory(size: int | None, *, writable: bool) -> Finding:
    """/dev/shm, None where there is none. amnode itself does not use it; what jobs use does."""
    name = "/dev/shm"
    whose = (
        "Chromium, PyTorch and multiprocessing put data there, and crash or raise without it"
    )
    if size is None or not writable:
        return _finding(
            name,
            "not there" if size is None else "not writable",
            f"amnode does not need it; {whose}",
            "mount a tmpfs there, if jobs use them",
            lack=Verdict.NOTE,
        )
    if size <= _SMALL_SHM:
        return _finding(
            name,
            human(size),
            f"amnode does not need it; {whose} when it is full",
            "--shm-size=1g for a container, if jobs use them",
            lack=Verdict.NOTE,
        )
    return _finding(name, human(size))


def addresses(refusals: dict[str, str]) -> Finding:
    """Whether sockets of each kind can be listened on: "" or why not."""
    name = "sockets"
    found = ", ".join(f"{kind} {why or 'usable'}" for kind, why in refusals.items())
    if refusals.get("unix"):
        return _finding(
            name,
            found,
            "supervisor, workers and clients talk over Unix sockets",
            "allow AF_UNIX in the sandbox (RestrictAddressFamilies= in a unit)",
            lack=Verdict.MISSING,
        )
    closed = [kind for kind, why in refusals.items() if why]
    if closed:
        return _finding(
            name,
            found,
            f"addresses of {' and '.join(closed)} cannot be used",
            "Unix sockets, the default, need neither",
            lack=Verdict.NOTE,
        )
    return _finding(name, found)


# -- a pool --------------------------------------------------------------------------------


def pool(failure: str, *, ready: float = 0.0, call: float = 0.0, ways: str = "") -> Finding:
    """Whether a pool of one worker did a call; how long it took, in seconds."""
    if failure:
        return _finding(
            "a pool of one",
            failure,
            "this is what any pool would meet here",
            "what is missing above comes first",
            lack=Verdict.MISSING,
        )
    how = f"ready after {ready:.2f} s, {ways}; a call took {call * 1e3:.2f} ms at the median"
    return _finding("a pool of one", how)
