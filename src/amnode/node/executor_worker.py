"""ExecutorWorker: the worker of a `PoolExecutor`, which runs what it is sent.

Unlike every other worker it unpickles what comes: its program sends callables, and that is what
it is for. Calls do not come over the connection of its lease but through a queue that all
workers of the executor share (`executor_wire`), which the main thread reads by itself.

    attach: connects to the program, is given the queues, and makes itself what the program is
            (`__main__`, `sys.path`, working directory, authkey, standard streams)
    begin:  runs the initializer; from then on the main thread takes calls
    STOP, or so many calls as it may do:  the main thread runs what is to be run at exit

Rules:

1. A call is over when its answer is in the queue of results. Whatever it raises, its answer is
   sent: what cannot be pickled is answered by saying so.
2. What it printed is written before its answer is sent.
3. When the program is gone so is the worker, a moment later: `orphan_ttl` at most if a call
   runs.
4. What a call forks goes on with that call alone: it takes no other calls, and answers none.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import multiprocessing.process
import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from queue import SimpleQueue
from types import ModuleType
from typing import Any, ClassVar, TypeVar

from amnode.node import executor_wire as wire
from amnode.node.driver_thread import take_streams
from amnode.node.executor_pickle import Pickler
from amnode.node.jobs import job
from amnode.node.policy.options import WorkerOptions
from amnode.node.worker import Worker

T = TypeVar("T")

logger = logging.getLogger("amnode.node")

_CLOSED = suppress(Exception)

#: Exit code of a worker that was ended for the call that it ran.
EXIT_KILLED = 72

#: What a worker is given at the door, one letter each.
QUEUES = "crs"
PROGRAM, TRACKER, STDOUT, STDERR = "p", "t", "1", "2"

#: Seconds that it may take to run what is to be run at exit.
_EXIT_TIMEOUT = 60.0

_Task = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class ExecutorWorker(Worker):
    """Runs callables in its main thread, one at a time."""

    kind: ClassVar[str] = "executor"
    preload: ClassVar[tuple[str, ...]] = (
        "amnode.node.executor",  # which the program's script imports, too
        "multiprocessing.resource_sharer",
        *(["cloudpickle"] if find_spec("cloudpickle") else []),
    )

    def __init__(self) -> None:
        super().__init__(opts=WorkerOptions(release_timeout=_EXIT_TIMEOUT))
        self._loop = asyncio.get_running_loop()
        self._tasks: SimpleQueue[_Task] = SimpleQueue()
        self._lane: Lane | None = None
        self._main_over = asyncio.Event()

    # -- the driver's side -------------------------------------------------------------------

    @job
    async def attach(
        self, door: str, secret: bytes, slot: int, slots: int, pid: int, surroundings: bytes
    ) -> list[str]:
        """Connects to the program and becomes like it.

        Args:
            door: the path of the program's socket.
            secret: what opens it, once.
            slot: of this worker.
            slots: that there are.
            pid: of the program.
            surroundings: what `multiprocessing.spawn.prepare` takes, pickled.

        Returns:
            The names of its `__main__`.
        """
        given = wire.take_all(door, secret)
        self._lane = Lane(given, slot, slots)
        if PROGRAM in given:
            self._loop.add_reader(given[PROGRAM], self._program_gone, given[PROGRAM])
        return await self._in_main(lambda: _become(given, pid, surroundings))

    @job
    async def begin(self, initializer: bytes, tasks: int) -> None:
        """Runs the initializer, then takes calls.

        Args:
            initializer: a callable and its arguments, pickled; empty for none.
            tasks: calls that it may do; 0 for any number.
        """
        assert self._lane is not None
        self._lane.left = tasks or -1
        if initializer:
            await self._in_main(lambda: _initialize(initializer))
        self._tasks.put((self._lane.serve, self._loop.create_future()))

    @job
    async def end_call(self, number: int) -> bool:
        """Ends this process if it runs that call now; False if it does not."""
        lane = self._lane
        if lane is None or lane.running != number:
            return False
        os._exit(EXIT_KILLED)  # at once: in a moment it may be another call

    @job
    async def interrupt(self) -> None:
        """Interrupts the call that it runs, as Ctrl-C would; without one, nothing happens."""
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    async def on_release(self) -> None:
        """Waits until the main thread has run what is to be run at exit."""
        if self._lane is not None and self._lane.is_serving:
            await self._main_over.wait()

    async def _in_main(self, function: Callable[[], T]) -> T:
        """Has the main thread run a function."""
        done: asyncio.Future[T] = self._loop.create_future()
        self._tasks.put((function, done))
        return await done

    def _program_gone(self, descriptor: int) -> None:
        """Rule 3."""
        self._loop.remove_reader(descriptor)
        busy = self._lane is not None and self._lane.running
        patience = self._orphan_ttl if busy else 0.0
        self._loop.call_later(patience, self._end_unsupervised, "its program has ended")
        if self._lane is not None:
            self._lane.left = 1

    # -- the main thread's side --------------------------------------------------------------

    def in_main_thread(self) -> None:
        """Does what the driver asks for, then serves, then ends."""
        while self._lane is None or not self._lane.is_serving:
            function, done = self._tasks.get()
            try:
                result = function()
            except BaseException as error:
                self._loop.call_soon_threadsafe(_settle, done, None, error)
            else:
                self._loop.call_soon_threadsafe(_settle, done, result, None)
        _run_at_exit()
        self._loop.call_soon_threadsafe(self._main_over.set)


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(result)
    elif isinstance(error, StopIteration | SystemExit | KeyboardInterrupt):
        done.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
    else:
        done.set_exception(error)


class Lane:
    """The calls of one worker, taken by its main thread.

    Args:
        given: the descriptors that the program gave.
        slot: of this worker.
        slots: that there are.

    Attributes:
        running: the number of the call that runs, or 0.
        left: calls that it may do yet; negative for any number.
        is_serving: it has begun to take calls.
    """

    def __init__(self, given: dict[str, int], slot: int, slots: int) -> None:
        calls, results, page = (given[name] for name in QUEUES)
        self._reader = wire.Reader(wire.queue_of(calls))
        self._results = wire.queue_of(results)
        self._slots = wire.Slots(slots, page)
        self._slot = slot
        self._pickler = Pickler()
        self._owner = os.getpid()
        self.running = 0
        self.left = -1
        self.is_serving = False

    def serve(self) -> None:
        """Takes calls until it is told to stop, or has done as many as it may."""
        self.is_serving = True
        while self.left:
            try:
                if not self._serve_one():
                    return
            except BaseException as error:
                # A handler of signals raised where no call ran, as that of SIGINT does; but
                # one may have been taken just then, and has to be answered (rule 1).
                self.running = self.running or self._reader.begun
                if self.running and self.running != wire.NO_CALL:
                    self._answer(*_failure(self._pickler, error), 0.0)
                elif self.running or isinstance(error, SystemExit):
                    return
        self._send(0, wire.WORN, None, 0.0)

    def _serve_one(self) -> bool:
        reader = self._reader
        self.running = 0
        if not reader.read():
            return False
        self._slots[self._slot] = self.running = reader.number
        if reader.kind == wire.STOP:
            return False
        began = time.perf_counter()
        kind, packed = self._outcome()
        if os.getpid() != self._owner:  # rule 4
            os._exit(0)
        _flush()
        self._answer(kind, packed, time.perf_counter() - began)
        return True

    def _answer(self, kind: int, packed: wire.Packed, seconds: float) -> None:
        number = self.running
        try:
            self._send(number, kind, packed, seconds)
        except OSError as error:  # such as no descriptor for a large one
            self._send(number, *_failure(self._pickler, error), seconds)
        self.running = 0
        self.left -= self.left > 0

    def _outcome(self) -> tuple[int, wire.Packed]:
        """Runs the call, and packs what came of it (rule 1)."""
        fn: Any = None
        try:
            fn, args, kwargs = self._reader.load()
            value = fn(*args, **kwargs)
        except BaseException as error:
            return _failure(self._pickler, error)
        try:
            return wire.RESULT, self._pickler.dump(value)
        except BaseException as error:
            name = getattr(fn, "__qualname__", type(fn).__name__)
            error.add_note(f"The result of {name}, a {type(value).__name__}, cannot be sent.")
            return _failure(self._pickler, error)

    def _send(self, number: int, kind: int, packed: wire.Packed | None, seconds: float) -> None:
        sent = False
        while not sent:
            try:
                wire.send(
                    self._results, number, kind, packed, extra=self._slot, seconds=seconds
                )
                sent = True
            except OSError:
                raise
            except BaseException as error:  # a handler of signals raised: it is sent again
                logger.debug("%r while a result was sent.", error)


def _failure(pickler: Pickler, error: BaseException) -> tuple[int, wire.Packed]:
    """An exception as it crosses: its name, its text, its traceback, and itself if it can."""
    kind = type(error).__name__
    try:
        said = str(error)
        inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
        trace = "".join(traceback.format_exception(type(error), error, inner))
    except Exception as broken:  # an exception that cannot even be shown
        said = trace = f"(its text could not be made: {type(broken).__name__})"
    data = b""
    with suppress(Exception):
        data = pickler.whole(error)
        wire.load(data)  # one that can be pickled may still not be made again
        return wire.ERROR, pickler.dump((kind, said, trace, data))
    return wire.ERROR, pickler.dump((kind, said, trace, b""))


def _flush() -> None:
    """Rule 2."""
    with _CLOSED:  # a call may have closed or replaced it
        sys.stdout.flush()
    with _CLOSED:
        sys.stderr.flush()


def _become(given: dict[str, int], pid: int, surroundings: bytes) -> list[str]:
    """Makes this process what multiprocessing would have made of it; in the main thread."""
    streams = {int(name): given[name] for name in (STDOUT, STDERR) if name in given}
    take_streams(streams)
    if TRACKER in given:
        # As `multiprocessing.spawn.spawn_main` does: what is shared belongs to the program.
        tracker: Any = getattr(multiprocessing.resource_tracker, "_resource_tracker", None)
        tracker._fd = given[TRACKER]
    before = sys.modules["__main__"]
    if PROGRAM in given:
        inside: Any = multiprocessing.process
        inside._parent_process = inside._ParentProcess("MainProcess", pid, given[PROGRAM])
    process: Any = multiprocessing.process.current_process()
    process._inheriting = True  # a script without `if __name__ == "__main__":` is told so
    try:
        multiprocessing.spawn.prepare(wire.load(surroundings))
    finally:
        del process._inheriting
    if sys.modules["__main__"] is before:  # the program has no script, such as a notebook
        sys.modules["__main__"] = ModuleType("__main__")
        _KEPT.append(before)
        return []
    return list(vars(sys.modules["__main__"]))


#: The modules that were `__main__` before: code of theirs is still running.
_KEPT: list[ModuleType] = []


def _initialize(data: bytes) -> None:
    fn, args = wire.load(data)
    try:
        fn(*args)
    except BaseException:
        standard = logging.getLogger("concurrent.futures")
        if standard.hasHandlers():  # the error says it in any case
            standard.critical("Exception in initializer:", exc_info=True)
        raise
    finally:
        _flush()


def _run_at_exit() -> None:
    """What the interpreter would do at its end, in this order."""
    inside: Any = threading
    at_exit: Any = atexit
    for function in (inside._shutdown, at_exit._run_exitfuncs):
        try:
            function()
        except BaseException as error:  # it has been shown already
            logger.debug("At exit: %r", error)
    _flush()


def run_chunk(fn: Callable[..., T], chunk: list[tuple[Any, ...]]) -> list[T]:
    """Calls a function with each of some arguments; one call of the executor."""
    return [fn(*args) for args in chunk]
