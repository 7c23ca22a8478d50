"""What forked processes are told to run: each takes a payload, and most say what they see."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

#: Set by `prepare`, in the server; what is forked finds it.
PREPARED: list[bytes] = []

#: Where it was imported: of a forked process that is its parent.
IMPORTED_IN = os.getpid()


def prepare(payload: bytes) -> None:
    """Runs in the server, before any fork."""
    PREPARED.append(payload)


def start_thread(payload: bytes) -> None:
    """Spoils the server: what was forked beside a thread could stand still for ever."""
    threading.Thread(target=time.sleep, args=(600,), name="sleeper", daemon=True).start()


def crash(payload: bytes) -> None:
    """Ends the server before it is one."""
    os.kill(os.getpid(), signal.SIGKILL)


def leave_a_child(payload: bytes) -> None:
    """A program that an import starts is none that a worker left."""
    if os.fork() == 0:
        os.setsid()
        line = _line(payload)
        signal.signal(signal.SIGUSR1, lambda *_: os.write(line, b"alive\n"))
        os.write(line, f"helper {os.getpid()}\n".encode())
        while True:
            signal.pause()


def handle_usr1(payload: bytes) -> None:
    """A handler that an import installs is there in what is forked."""
    line = _line(payload)

    def handle(*_: object) -> None:
        os.write(line, f"handled by {os.getpid()}\n".encode())

    signal.signal(signal.SIGUSR1, handle)
    signal.signal(signal.SIGCHLD, lambda *_: None)


def tell(payload: bytes) -> None:
    """Prints what a forked process is."""
    handlers = {
        name: str(signal.getsignal(getattr(signal, name)))
        for name in ("SIGINT", "SIGTERM", "SIGCHLD", "SIGPIPE")
    }
    descriptors = {}
    for number in range(64):
        try:
            descriptors[number] = str(Path(f"/proc/self/fd/{number}").readlink())
        except OSError:
            continue
    found = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "imported in": IMPORTED_IN,
        "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
        "handlers": handlers,
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "wakeup": signal.set_wakeup_fd(-1),
        "descriptors": descriptors,
        "gc": [gc.isenabled(), gc.get_freeze_count() > 0],
        "random": random.random(),
        "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208 - numbers, not paths
        "prepared": [text.decode() for text in PREPARED],
        "env": dict(os.environ),
        "cwd": str(Path.cwd()),
        "path": sys.path[:1],
        "payload": payload.decode(),
        "umask": os.umask(0),
    }
    print(json.dumps(found))


def end_with(payload: bytes) -> int:
    """Returns the code that the payload is."""
    return int(payload)


def end_by(payload: bytes) -> None:
    """Is ended by the signal that the payload is."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), int(payload))
    signal.pause()


def fail(payload: bytes) -> None:
    """Raises."""
    raise ValueError("no such luck")


def _line(payload: bytes) -> int:
    # Not waiting for a reader: who reads may be dead.
    line = os.open(payload, os.O_WRONLY | os.O_NONBLOCK)
    os.set_inheritable(line, True)
    return line


def stay(payload: bytes) -> None:
    """Says that it is there on the FIFO that the payload names, and stays."""
    os.write(_line(payload), f"{os.getpid()}\n".encode())
    while True:
        signal.pause()


def block(payload: bytes) -> None:
    """Says so, and then holds the interpreter."""
    os.write(_line(payload), b"blocked\n")
    hold_the_interpreter()


def hold_the_interpreter() -> None:
    """A name that is looked for in the stack."""
    while True:
        sum(range(10_000_000))


def family(payload: bytes) -> None:
    """Has a child, a grandchild in its own session, and a daemon that was forked twice."""
    line = _line(payload)
    _fork_and_stay(line, "child", new_session=False)
    _fork_and_stay(line, "leader", new_session=True)
    daemonise(line)
    os.write(line, f"parent {os.getpid()}\n".encode())
    while True:
        signal.pause()


def _fork_and_stay(line: int, name: str, *, new_session: bool) -> None:
    if os.fork() == 0:
        if new_session:
            os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(line, f"{name} {os.getpid()}\n".encode())
        while True:
            signal.pause()


def group(payload: bytes) -> None:
    """Has a child in its group that says when it is terminated, and one that will not be."""
    _make_group(_line(payload))
    while True:
        signal.pause()


def group_of_one_that_stays(payload: bytes) -> None:
    """The same, but it will not be terminated itself."""
    line = _line(payload)
    _make_group(line)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(line, b"parent\n")
    while True:
        signal.pause()


def _make_group(line: int) -> None:
    for deaf in (False, True):
        if os.fork() == 0:

            def end(*_: object, deaf: bool = deaf) -> None:
                os.write(line, b"deaf\n" if deaf else b"terminated\n")
                if not deaf:
                    os._exit(0)

            signal.signal(signal.SIGTERM, end)
            os.write(line, b"member\n")
            while True:
                signal.pause()


def daemonise(line: int) -> None:
    """As a daemon does: its parent has gone, and it leads a session."""
    reading, writing = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(line, f"daemon {os.getpid()}\n".encode())
            os.write(writing, b"!")
            while True:
                signal.pause()
        sys.exit(0)
    os.close(writing)
    os.waitpid(middle, 0)
    os.read(reading, 1)


def daemonise_and_end(payload: bytes) -> None:
    """Leaves a daemon, and ends in good order."""
    daemonise(_line(payload))


def print_much(payload: bytes) -> None:
    """Prints that many lines, and stays."""
    count, _, fifo = payload.partition(b" ")
    for number in range(int(count)):
        print(f"line {number} {'x' * 90}")
    os.write(_line(fifo), b"printed\n")
    while True:
        signal.pause()


def segfault(payload: bytes) -> None:
    """As a broken extension does it."""
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def family_on_a_line(payload: bytes) -> None:
    """A family whose parent ends in good order when nobody holds the lifeline any more."""
    fifo, lifeline = payload.split(b" ")
    line = _line(fifo)
    _fork_and_stay(line, "child", new_session=False)
    _fork_and_stay(line, "leader", new_session=True)
    daemonise(line)
    os.write(line, b"parent\n")
    # To open it must not wait: who held it may be gone.
    reading = os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    while os.read(reading, 1):
        pass
