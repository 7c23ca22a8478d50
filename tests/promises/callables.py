"""What the tests of `PoolExecutor` have its workers call."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

told: list[Any] = []


def square(n: int) -> int:
    return n * n


def give(value: Any) -> Any:
    return value


def pid() -> int:
    return os.getpid()


def add(a: int, b: int = 0, *, c: int = 0) -> int:
    return a + b + c


def fail(error: BaseException) -> NoReturn:
    raise error


def fail_deep(text: str) -> NoReturn:
    try:
        raise KeyError("the first")
    except KeyError:
        raise ValueError(text) from None


def die(how: int) -> NoReturn:
    if how > 0:
        os._exit(how)
    os.kill(os.getpid(), -how)
    raise AssertionError("it lives")


def segfault() -> None:
    ctypes.string_at(0)


def signalled(path: str) -> None:
    """Says that it runs, then runs for ever."""
    Path(path).write_text(str(os.getpid()))
    threading.Event().wait()


def until(path: str, then: Any = None) -> Any:
    """Runs until a file is there."""
    while not Path(path).exists():
        time.sleep(0.005)
    return then


def hold_interpreter(path: str) -> None:
    """Runs for ever in C, where no other thread of the process can do anything."""
    Path(path).write_text(str(os.getpid()))
    pow(10**6, 10**9)


def thread_and_signals() -> tuple[bool, int]:
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, before)
    return threading.current_thread() is threading.main_thread(), threading.get_native_id()


def keep(value: Any) -> None:
    told.append(value)


def kept() -> list[Any]:
    return [*told]


def fail_to_begin() -> None:
    raise ValueError("no database")


def say(text: str, error: str) -> None:
    print(text, end="")
    print(error, end="", file=sys.stderr)


def grandchild(path: str) -> int:
    """Starts a process in a session of its own, and runs for ever."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(path).write_text(str(child.pid))
    threading.Event().wait()
    return 0


def surroundings() -> dict[str, Any]:
    parent = multiprocessing.parent_process()
    return {
        "cwd": str(Path.cwd()),
        "path": [*sys.path],
        "authkey": bytes(multiprocessing.current_process().authkey),
        "env": os.environ.get("EXECUTOR_TEST", ""),
        "parent": parent.pid if parent is not None else None,
    }


def put(value: Any) -> None:
    queue = told[0]
    queue.put(value)


def forked() -> int:
    """A call that forks; the child comes back from it as well."""
    if child := os.fork():
        os.waitpid(child, 0)
    return os.getpid()


def nested(n: int) -> list[int]:
    from amnode import PoolExecutor

    with PoolExecutor(1) as executor:
        return list(executor.map(square, range(n)))


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("I stay here")


def not_here() -> Any:
    raise LookupError("it cannot be made again")


class Unloadable:
    """Can be pickled, and not be loaded."""

    def __reduce__(self) -> Any:
        return not_here, ()


def unpicklable() -> Any:
    return threading.Lock()


class PickyError(Exception):
    """Cannot be made again from its pickle, as many cannot."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def fail_pickily() -> NoReturn:
    raise PickyError(1, 2)


class LockedError(Exception):
    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


def fail_locked() -> NoReturn:
    raise LockedError


def sleep_and(seconds: float, value: Any) -> Any:
    time.sleep(seconds)
    return value
