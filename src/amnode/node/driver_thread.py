"""Runs the driver of a worker in a thread, and leaves the main thread to the worker's class.

Some callables run in the main thread or not at all: they set handlers of signals, hold a SQLite
connection, or drive a toolkit of windows. A class that defines `in_main_thread` has that called
there, once; all else of the worker, its machine and its connections, lives in the other thread.

Rules:

1. The process ends when the driver has ended, whatever the main thread does.
2. Signals are handled in the main thread, as Python does it. SIGTERM stops the worker, unless
   the class handles it otherwise.
3. What the driver has to say goes to the file that the process was started with, even if the
   standard streams lead somewhere else by now: `Log`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NoReturn

from amnode.launch.entry import show_stacks
from amnode.node.args import WorkerBoot
from amnode.node.outside import OwnProcess, end_process
from amnode.node.worker import Worker

#: The first descriptor that a program would hardly mean by its number.
_HIGH = 64


class Log(OwnProcess):
    """The process, with its output file in place of the standard error (rule 3)."""

    def __init__(self) -> None:
        try:
            descriptor = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        except OSError:  # few descriptors are allowed
            descriptor = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
        self._file = os.fdopen(descriptor, "w", buffering=1, errors="backslashreplace")
        handler = logging.StreamHandler(self._file)
        for name in ("amnode", "asyncio"):
            logger = logging.getLogger(name)
            logger.addHandler(handler)
            logger.propagate = False
        show_stacks(self._file)

    def write(self, text: str) -> None:
        """Writes to the file."""
        with suppress(OSError, ValueError):
            self._file.write(text)

    def exit(self, code: int) -> NoReturn:
        """Ends the process with all that it started."""
        faulthandler.disable()
        end_process(code)


def run_beside(cls: Callable[[], Worker], boot: WorkerBoot) -> NoReturn:
    """Runs a worker; called in the main thread, and never returns to it.

    Args:
        cls: makes the worker.
        boot: what its supervisor says.
    """
    log = Log()
    made: SimpleQueue[tuple[Worker, asyncio.AbstractEventLoop]] = SimpleQueue()
    driver = threading.Thread(
        target=_drive, args=(cls, boot, log, made), name="amnode-driver", daemon=True
    )
    driver.start()
    worker, loop = made.get()
    signal.signal(signal.SIGTERM, _stop_at(worker, loop))
    try:
        worker.in_main_thread()
    except BaseException:
        log.write(traceback.format_exc())
        log.exit(1)
    while True:  # rule 1; a signal that raises must not end it otherwise
        with suppress(BaseException):
            driver.join()


def _stop_at(worker: Worker, loop: asyncio.AbstractEventLoop) -> Callable[[int, Any], None]:
    def stop(_number: int, _frame: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: it is ending
            loop.call_soon_threadsafe(worker.stop, "SIGTERM")

    return stop


def _drive(
    cls: Callable[[], Worker],
    boot: WorkerBoot,
    log: Log,
    made: SimpleQueue[tuple[Worker, asyncio.AbstractEventLoop]],
) -> None:
    async def serve() -> int:
        worker = cls()
        made.put((worker, asyncio.get_running_loop()))
        return await worker.run(boot, log)

    code = 1
    try:
        # Not uvloop: what a callable forks would share its descriptors in ways that hurt.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            code = runner.run(serve())
    except BaseException:
        log.write(traceback.format_exc())
    finally:
        log.exit(code)


def take_streams(streams: dict[int, int]) -> None:
    """Has the standard streams lead to other descriptors, which are closed.

    Args:
        streams: the descriptors, by the number of the stream.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    for number, descriptor in streams.items():
        os.dup2(descriptor, number)
        os.close(descriptor)
