"""The thread that looks after the workers of a `PoolExecutor`: a supervisor and its client.

    want_worker -> lease -> attach -> begin -> it takes calls -> it is worn, or dead, or the
                                                  executor is at its end -> its slot is free

Rules:

1. A worker is leased once, and serves until the executor ends or it is worn. It serves no
   other lease: its process ends with that.
2. No check of health ends a worker: a callable may hold the interpreter for as long as it
   likes. What ends one is its own death, `kill`, and the end of the executor or its program.
3. A death is no failed start, so it does not hold back the next one, unless the initializer was
   what died, three times in a row. An initializer that raises ends the executor.
4. Nothing of it shows on the program's streams: errors are in futures, and in the log.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing.context
import multiprocessing.resource_sharer
import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from amnode.errors import (
    AmnodeError,
    LeaseError,
    LeaseTimeoutError,
    WorkerError,
)
from amnode.launch.process import open_pidfd
from amnode.node import executor_wire as wire
from amnode.node.args import CrashReport
from amnode.node.client import Client
from amnode.node.executor_calls import Calls
from amnode.node.executor_errors import CallLostError, ExecutorBrokenError
from amnode.node.executor_worker import (
    PROGRAM,
    QUEUES,
    STDERR,
    STDOUT,
    TRACKER,
    ExecutorWorker,
)
from amnode.node.launching import LaunchBy
from amnode.node.leased import LeasedWorker
from amnode.node.policy import crash
from amnode.node.policy.options import ClientOptions, PoolSize, SupervisorOptions
from amnode.node.states import SupervisorStates, WorkerStates
from amnode.node.supervisor import Supervisor

if TYPE_CHECKING:
    import socket

T = TypeVar("T")

logger = logging.getLogger("amnode.node")

#: Seconds that one request for a worker waits; then it is asked again.
_REQUEST = 60.0

#: Seconds in which what is cheap is done: a question to a worker, its report.
_SOON = 5.0

#: Seconds in which a worker ends the call that it runs; then its process is killed.
_KILL_PATIENCE = 0.2

#: So long a time that nothing waits for its end.
_NEVER = 1e9

#: Deaths in an initializer, with no success between them, that end the executor (rule 3).
_DEATHS = 3

_SECRET = 32


class Settings:
    """How the workers of an executor are.

    Args:
        workers: that there may be.
        initializer: called in each worker, with its arguments; or None.
        tasks: calls that each may do; 0 for any number.
        launcher: how they start.
    """

    def __init__(
        self,
        workers: int,
        initializer: tuple[Callable[..., object], tuple[Any, ...]] | None,
        tasks: int,
        launcher: LaunchBy,
    ) -> None:
        self.workers = workers
        self.initializer = initializer
        self.tasks = tasks
        self.launcher: LaunchBy = launcher


class ControlThread:
    """See the head of this file; the methods are those of `executor_calls.Control`."""

    def __init__(self, settings: Settings, calls: Calls) -> None:
        self._settings = settings
        self._calls = calls
        self._loop: asyncio.SelectorEventLoop | None = None
        self._over = asyncio.Event()
        self._aborting = False
        self._broken = False
        self._wanted = 0
        self._free = list(range(settings.workers - 1, -1, -1))
        self._keeping: dict[asyncio.Task[None], int] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._held: dict[int, LeasedWorker] = {}
        self._worn: dict[int, asyncio.Future[None]] = {}
        self._serving: dict[int, None] = {}
        self._deaths = 0
        self._secrets: dict[bytes, None] = {}
        self._given: dict[str, int] = {}
        self._ready = False
        self._name = 0

    # -- from any thread ---------------------------------------------------------------------

    def start(self) -> None:
        """See `Control`."""
        self._surroundings()  # raises here what multiprocessing has to say
        # Not uvloop: a fork of the program must not touch what it shares with it.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name="amnode-control", daemon=True)
        self._thread.start()

    def want_worker(self) -> None:
        """See `Control`."""
        self.soon(self._want)

    def finish(self) -> None:
        """See `Control`."""
        self.soon(self._over.set)

    def worn(self, slot: int) -> None:
        """See `Control`."""
        self.soon(partial(self._is_worn, slot))

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """See `Control`."""
        self.soon(lambda: asyncio.get_running_loop().call_later(seconds, function))

    def soon(self, function: Callable[[], object]) -> None:
        """See `Control`."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(function)

    def join(self) -> None:
        """See `Control`; if the wait is interrupted, all workers are killed."""
        try:
            self._thread.join()
        except BaseException:
            self.soon(self._abort)
            raise

    def kill(self, slot: int, number: int) -> None:
        """Ends the worker in a slot, if it still runs that call; from any thread."""
        self.soon(lambda: self._spawn(self._kill(slot, number)))

    def interrupt(self) -> None:
        """Interrupts what the workers run, as Ctrl-C would; from any thread."""
        self.soon(self._interrupt)

    # -- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            logger.debug("The workers cannot be had.", exc_info=error)
            text = f"The executor has no workers: {type(error).__name__}: {error}"
            broken = ExecutorBrokenError(text)
            self._calls.post(partial(self._calls.fail_all, broken, for_good=True))
        finally:
            if PROGRAM in self._given:
                os.close(self._given[PROGRAM])
            self._calls.post(None)

    async def _main(self) -> None:
        settings = self._settings
        supervisor = self._supervisor = Supervisor(
            ExecutorWorker,
            name=f"executor-{os.getpid()}-{os.urandom(3).hex()}",
            opts=SupervisorOptions(
                size=PoolSize(min=0, max=settings.workers, warm=0),
                check_timeout=_NEVER,  # rule 2
                worker_check_interval=_NEVER,
                heartbeat=_NEVER,
                restart_settle=0.0,  # rule 3
                max_jobs=1,  # rule 1
                renew_jitter=0.0,
                conn_timeout=30.0,
                start_timeout=120.0,
                op_timeout=_SOON,
                stop_grace=0.0,
                term_timeout=1.0,
                linger=0.0,
                pool_pause=0.5,
            ),
            launcher=settings.launcher,
        )
        async with supervisor:
            self._client = Client(
                "executor",
                ExecutorWorker,
                addrs=[supervisor.address],
                token=supervisor.token,
                opts=ClientOptions(request_wait=_REQUEST, delivery_timeout=_SOON),
            )
            async with self._client:
                self._path = (
                    f"{supervisor.address.removeprefix('unix:').rpartition('/')[0]}/door"
                )
                door = wire.listen(self._path)
                asyncio.get_running_loop().add_reader(door, self._open_door, door)
                watch = self._spawn(self._watch())
                try:
                    await self._serve()
                finally:
                    watch.cancel()
                    asyncio.get_running_loop().remove_reader(door)
                    door.close()

    async def _serve(self) -> None:
        self._given = self._gifts()
        self._ready = True
        for _ in range(self._wanted):
            self._want()
        try:
            await self._over.wait()
        finally:
            await self._end()

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done))
        return task

    async def _watch(self) -> None:
        """Tells the calls while no worker can be started."""
        machine = self._supervisor.machine
        while True:
            await machine.when1(SupervisorStates.ErrPool)
            if not self._held:
                broken = self._supervisor.view().broken
                error = ExecutorBrokenError(f"No worker can be started: {broken}")
                self._calls.post(partial(self._calls.fail_all, error))
            await machine.when_not1(SupervisorStates.ErrPool)
            self._calls.post(self._calls.mended)

    # -- one worker --------------------------------------------------------------------------

    def _want(self) -> None:
        if not self._ready:
            self._wanted += 1
            return
        if self._over.is_set() or self._broken:
            return
        slot = self._free.pop()
        task = self._spawn(self._keep(slot))
        self._keeping[task] = slot
        task.add_done_callback(lambda done: self._keeping.pop(done))

    async def _keep(self, slot: int) -> None:
        """One worker, from asking for it to its end; then its slot is free."""
        error: CallLostError | None = None
        try:
            worker = self._held[slot] = await self._lease()
            try:
                error = await self._use(worker, slot)
            finally:
                self._held.pop(slot, None)
                self._worn.pop(slot, None)
                if error is None:
                    await worker.release()
                else:
                    self._spawn(worker.release())
        except (AmnodeError, OSError) as failed:
            error = error or CallLostError(f"A worker was lost before it began: {failed}")
        finally:
            self._calls.post(partial(self._calls.gone, slot, error))
            self._free.append(slot)
            self._calls.post(self._calls.freed)

    async def _lease(self) -> LeasedWorker:
        while True:
            with suppress(LeaseTimeoutError):
                return await self._client.req_worker()

    async def _use(self, worker: LeasedWorker, slot: int) -> CallLostError | None:
        """Makes a worker take calls, and waits for its end; returns what it died of."""
        worn = self._worn[slot] = asyncio.get_running_loop().create_future()
        try:
            main = await self._attach(worker, slot)
            await self._begin(worker)
        except (WorkerError, LeaseError) as error:
            self._deaths += 1
            if self._deaths >= _DEATHS:
                self._break(error)
            return _lost(error)
        except Exception as error:  # of the initializer, whatever it is, or in sending it
            self._break(error)
            return None
        self._deaths = 0
        self._serving[slot] = None
        self._calls.post(partial(self._calls.attach, slot, main))
        if self._over.is_set():
            self._stop_one()
        try:
            return await self._ended(worker, worn)
        finally:
            del self._serving[slot]

    async def _attach(self, worker: LeasedWorker, slot: int) -> list[str]:
        secret = os.urandom(_SECRET)
        self._secrets[secret] = None
        try:
            main = await worker.call(
                ExecutorWorker.attach,
                self._path,
                secret,
                slot,
                self._settings.workers,
                os.getpid(),
                self._surroundings(),
            )
        finally:
            self._secrets.pop(secret, None)
        self._calls.pickler.main = frozenset(main)
        return main

    async def _begin(self, worker: LeasedWorker) -> None:
        initializer = self._settings.initializer
        data = b""
        if initializer is not None:
            with _Spawning():
                data = self._calls.pickler.whole(initializer)
        await worker.call(ExecutorWorker.begin, data, self._settings.tasks)

    def _break(self, error: Exception) -> None:
        """The workers cannot be made what they are to be, and never will."""
        kind = "" if isinstance(error, AmnodeError) else f"{type(error).__name__}: "
        text = kind + str(error).partition("\n")[0]
        broken = ExecutorBrokenError(f"The workers of the executor cannot begin: {text}")
        broken.__cause__ = error
        self._broken = True
        self._calls.post(partial(self._calls.fail_all, broken, for_good=True))

    async def _ended(
        self, worker: LeasedWorker, worn: asyncio.Future[None]
    ) -> CallLostError | None:
        """Waits until a worker is dead, worn, or not needed any more."""
        over = self._spawn(self._over.wait())
        lost = self._spawn(_lease_over(worker))
        waits: list[asyncio.Future[Any]] = [worn, over, lost, worker.report]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if lost.done() and not worker.report.done():
                await asyncio.wait((worker.report,), timeout=_SOON)
        finally:
            for wait in (worn, over, lost):
                wait.cancel()
        if worker.report.done():
            return _died(worker, worker.report.result())
        if lost.done() and not lost.cancelled():
            self._supervisor.kill_worker(worker.id)
            return _died(worker, None)
        return None

    def _is_worn(self, slot: int) -> None:
        worn = self._worn.get(slot)
        if worn is not None and not worn.done():
            worn.set_result(None)

    # -- ending ------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Ends all workers, in order; one that is about to begin is let begin."""
        self._over.set()
        for _ in self._serving:
            self._stop_one()
        for task, slot in self._keeping.items():
            if slot not in self._held:
                task.cancel()
        if self._keeping:
            await asyncio.wait([*self._keeping])

    def _stop_one(self) -> None:
        """Has one of the workers that serve, no matter which, come to its end."""
        if not self._aborting:
            wire.send(self._calls.calls_out, wire.NO_CALL, wire.STOP)

    def _abort(self) -> None:
        """Ends all workers at once."""
        self._aborting = True
        for worker in self._held.values():
            self._supervisor.kill_worker(worker.id)
        self._over.set()

    def _interrupt(self) -> None:
        for worker in self._held.values():
            self._spawn(_quietly(worker.call(ExecutorWorker.interrupt)))

    async def _kill(self, slot: int, number: int) -> None:
        worker = self._held.get(slot)
        if worker is None:
            return
        try:
            async with asyncio.timeout(_KILL_PATIENCE):
                await worker.call(ExecutorWorker.end_call, number)
        except TimeoutError:
            # It holds the interpreter, so it still runs what it ran.
            if self._calls.slots[slot] == number:
                self._supervisor.kill_worker(worker.id)
        except AmnodeError as error:
            logger.debug("Worker %s is gone: %s", worker.id, error)

    # -- the door ----------------------------------------------------------------------------

    def _open_door(self, door: socket.socket) -> None:
        """A worker comes for its queues; its secret says which."""
        try:
            visitor, _ = door.accept()
        except OSError as error:
            logger.debug("A worker could not be let in: %s", error)
            return
        visitor.setblocking(False)
        asyncio.get_running_loop().add_reader(visitor, self._hear_visitor, visitor)

    def _hear_visitor(self, visitor: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(visitor)
        with visitor:
            try:
                secret = visitor.recv(_SECRET)
                if secret in self._secrets:
                    del self._secrets[secret]
                    wire.give(visitor, self._given)
            except OSError as error:
                logger.debug("A worker has gone: %s", error)

    def _gifts(self) -> dict[str, int]:
        """The descriptors that each worker is given."""
        calls = self._calls
        ends = (calls.calls_end.fileno(), calls.results_end.fileno(), calls.slots.descriptor)
        given = dict(zip(QUEUES, ends, strict=True))
        program = open_pidfd(os.getpid())
        if program is not None:
            given[PROGRAM] = program
        tracker = multiprocessing.resource_tracker.getfd()
        if tracker is not None:
            given[TRACKER] = tracker
        for name in (STDOUT, STDERR):
            with suppress(OSError):  # it may be closed
                os.fstat(int(name))
                given[name] = int(name)
        return given

    def _surroundings(self) -> bytes:
        """What `multiprocessing.spawn.prepare` makes a process like this one of."""
        self._name += 1
        data = multiprocessing.spawn.get_preparation_data(f"PoolExecutor-{self._name}")
        data["authkey"] = bytes(data["authkey"])
        path = data.get("init_main_from_path")
        if path is not None and not Path(path).is_file():
            del data["init_main_from_path"]  # typed in, or gone since
        return wire.dump(data)


class _Spawning:
    """While it lasts, what may only be given to a new process can be pickled for one."""

    def __enter__(self) -> None:
        multiprocessing.context.set_spawning_popen(self)  # pyright: ignore[reportArgumentType] - it does what is needed of one

    def __exit__(self, *_error: object) -> None:
        multiprocessing.context.set_spawning_popen(None)

    def duplicate_for_child(self, descriptor: int) -> int:
        """See `multiprocessing.popen_spawn_posix`."""
        return descriptor

    def DupFd(self, descriptor: int) -> Any:
        """Has the descriptor fetched from this process, by its authkey."""
        return multiprocessing.resource_sharer.DupFd(descriptor)


async def _lease_over(worker: LeasedWorker) -> None:
    """Waits until a lease is over, or the connection to its worker."""
    with suppress(AmnodeError):
        await worker.machine.when_not1(WorkerStates.Leased)


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    """What is asked of a worker that may be gone by now."""
    with suppress(AmnodeError):
        await work


def _died(worker: LeasedWorker, report: CrashReport | None) -> CallLostError:
    return _lost(crash.error(worker.id, report))


def _lost(error: Exception) -> CallLostError:
    """An error of a worker as that of a call."""
    if not isinstance(error, WorkerError):
        return CallLostError(str(error))
    return CallLostError(
        str(error),
        cause=error.cause,
        outcome=error.outcome,
        worker_id=error.worker_id,
        exit_code=error.exit_code,
        signal=error.signal,
        output=error.output,
    )
