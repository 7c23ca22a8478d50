"""Starting a process by fork: a server imports once, and each process is forked from it.

1. The server is started by command when it is needed first, and again when it is gone. What
   it forked lives on without it, and is still watched.
2. A process that the server cannot fork safely, since its imports started threads, and one
   that runs a program of its own, are started by command; `fallback` says why.
3. A start that fails, or that nobody waits for any more, leaves nothing. A process whose start
   was cancelled is killed as soon as it says that it is there.
4. The server is the parent of what it forks, and a subreaper. When one of its processes ends,
   however it ends, everything that descends from it is ended, in sessions of their own too.
5. Resource limits, the mask for new files and the priority are those of the server's start.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from amnode.errors import LaunchError
from amnode.launch.command import ENTRY, CommandLauncher, explain, record_descriptor, start
from amnode.launch.entry import Boot
from amnode.launch.fork_channel import (
    Channel,
    Fork,
    Loaded,
    Message,
    NotLoaded,
    Preload,
    Refused,
    SignalGroup,
    Started,
    Surroundings,
)
from amnode.launch.output import shown
from amnode.launch.output_file import OutputFile, open_output
from amnode.launch.process import (
    ChildProcess,
    ExitRecord,
    Launcher,
    LaunchSpec,
    Process,
    ServedProcess,
)
from amnode.launch.reaper import Ended

#: The program of the server.
_SERVER = (sys.executable, "-m", "amnode.launch.forking")

#: Seconds that the server's imports may take; by command each process would take them.
START_TIMEOUT = 60.0

#: Seconds that a fork may take, and the end of a server that has nothing left to do.
FORK_TIMEOUT = 10.0

#: Requests that are under way at most: more would not be done sooner, and fill the channel.
_AT_ONCE = 16

#: Messages of a server that are taken in one turn of the loop.
_PER_TURN = 64


def can_fork() -> bool:
    """Whether this system has what a fork server needs."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an old kernel, or a sandbox that forbids it
        return False
    return os.path.exists("/proc/self/task")  # noqa: PTH110 - a word, no path to work with


def choose(
    *,
    output: Path,
    modules: Sequence[str] = (),
    run: str = "",
    payload: bytes = b"",
    path: Sequence[str] = (),
    start_timeout: float = START_TIMEOUT,
) -> Launcher:
    """The best way to start processes: by fork where there is something to import before.

    Args:
        output: see `ForkServerLauncher`, as are the others.
        modules: what all processes import.
        run: a function that imports what has no name.
        payload: for the function.
        path: where to look for modules.
        start_timeout: seconds that the imports may take.
    """
    if can_fork() and (modules or run):
        return ForkServerLauncher(
            output=output,
            modules=modules,
            run=run,
            payload=payload,
            path=path,
            start_timeout=start_timeout,
        )
    return CommandLauncher()


class ForkServerLauncher:
    """Starts processes in milliseconds, by forking one that has imported everything.

    Args:
        output: the file for what the server itself writes.
        modules: what it imports, in this order.
        run: `module:attribute` of a function that it calls afterwards; "" for none.
        payload: the one argument of the function; nothing secret, as every process has it.
        path: where to look for modules, in this order and before anywhere else.
        start_timeout: seconds that the imports may take; 60 by default.
        fork_timeout: seconds that a fork may take; 10 by default. A server that needs longer
            is replaced.
    """

    def __init__(
        self,
        *,
        output: Path,
        modules: Sequence[str] = (),
        run: str = "",
        payload: bytes = b"",
        path: Sequence[str] = (),
        start_timeout: float = START_TIMEOUT,
        fork_timeout: float = FORK_TIMEOUT,
    ) -> None:
        self._output = output
        self._preload = Preload(-1, -1, list(modules), run, payload)
        self._path = list(path)
        self._start_timeout = start_timeout
        self._fork_timeout = fork_timeout
        self._command = CommandLauncher()
        self._server: _Server | None = None
        self._starting: asyncio.Task[_Server] | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._closed = False
        self._fallback = ""

    @property
    def fallback(self) -> str:
        """Why processes are started by command instead; "" while they are forked."""
        return self._fallback

    @property
    def server_pid(self) -> int | None:
        """The number of the server; None while there is none."""
        return self._server.process.pid if self._server is not None else None

    async def launch(self, spec: LaunchSpec) -> Process:
        """Starts a process; see `Launcher`.

        Raises:
            LaunchError: it could not be started, or the server could not import what it is
                told to; then the message has the last lines of the traceback.
        """
        async with self._slots:
            for _ in range(2):  # a server that dies under a request is replaced once
                if self._closed:
                    raise LaunchError(
                        explain(spec, ValueError("its launcher was closed before"))
                    )
                if self._fallback or spec.argv != ENTRY:
                    break
                server = await self._ready()
                if server is None:
                    continue
                with suppress(_ServerLost):
                    return await self._fork(server, spec)
            else:
                raise LaunchError(
                    explain(spec, ValueError("its fork server ended, and so did the next one"))
                )
        return await self._command.launch(spec)

    async def close(self) -> None:
        """Starts no more; see `Launcher`. Waits for the server if nothing of it lives."""
        self._closed = True
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
        server, self._server = self._server, None
        if server is not None:
            await server.close(self._fork_timeout)

    async def _ready(self) -> _Server | None:
        """The server; None if its imports started threads (rule 2)."""
        if self._server is not None and self._server.is_lost:
            self._server = None
        if self._server is not None:
            return self._server
        if self._starting is None:
            # All who wait share one start. It belongs to the launcher, which may be closed.
            self._starting = asyncio.create_task(self._start(), name="start-fork-server")
            self._starting.add_done_callback(_retrieve)
        starting = self._starting
        try:
            return await asyncio.shield(starting)
        except _ThreadsError as error:
            self._fallback = str(error)
            return None
        except asyncio.CancelledError:
            if starting.cancelled():  # and not who waits
                raise LaunchError("The fork server was closed before it had begun.") from None
            raise

    async def _start(self) -> _Server:
        try:
            server = _Server(self._output, self._path, self._preload)
            try:
                await server.loaded(self._start_timeout)
            except BaseException:
                await server.kill()
                raise
            self._server = server
            return server
        finally:
            self._starting = None

    async def _fork(self, server: _Server, spec: LaunchSpec) -> ServedProcess:
        with ExitStack() as undo, ExitStack() as opened:
            try:
                output = open_output(spec.output, undo)
                opened.callback(os.close, output)
                file = OutputFile.opened(spec.output, output, spec.output_limit)
                surroundings = record_descriptor(msgspec.msgpack.encode(_surroundings(spec)))
                opened.callback(os.close, surroundings)
                boot = record_descriptor(spec.boot)
                opened.callback(os.close, boot)
                started = server.ask(file, [surroundings, boot, output])
                opened.close()
                process = await self._started(server, started)
            except TimeoutError:
                await server.kill()
                raise LaunchError(
                    f"The fork server did not answer within {self._fork_timeout} s; it is "
                    "replaced. Is the machine overloaded?"
                ) from None
            except (OSError, ValueError) as error:
                raise LaunchError(explain(spec, error)) from error
            undo.pop_all()
        return process

    async def _started(
        self, server: _Server, started: asyncio.Future[ServedProcess]
    ) -> ServedProcess:
        try:
            async with asyncio.timeout(self._fork_timeout):
                return await started
        except BaseException:
            # It may have come in the same turn in which this was cancelled (rule 3).
            if started.done() and not started.cancelled() and started.exception() is None:
                server.drop(started.result())
            raise


def _retrieve(starting: asyncio.Task[_Server]) -> None:
    """Whoever waited for the start knows its error, or has gone."""
    if not starting.cancelled():
        starting.exception()


class _ServerLost(Exception):
    """The server is gone; nothing is left of what it was asked for."""


class _ThreadsError(Exception):
    """The server must not fork; the message says why."""


class _Server:
    """One fork server, as long as it lives, and what it forked.

    Raises:
        LaunchError: it could not be started.
    """

    def __init__(self, output: Path, path: list[str], preload: Preload) -> None:
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[None] = self._loop.create_future()
        self._pending: dict[int, tuple[asyncio.Future[ServedProcess], OutputFile]] = {}
        self._living: dict[int, ServedProcess] = {}
        self._dropped: list[ServedProcess] = []
        self._changed = asyncio.Event()
        self._last = 0
        self._closing = False
        self.is_lost = False
        self._channel, self.process = _start_server(output, path, preload)
        self._loop.add_reader(self._channel.fileno(), self._receive)
        self.process.exited.add_done_callback(self._exited)

    async def loaded(self, timeout: float) -> None:
        """Waits until it has imported everything.

        Raises:
            LaunchError: it could not.
            _ThreadsError: the imports started threads.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._loaded
        except TimeoutError:
            raise LaunchError(
                f"The fork server has not imported its modules within {timeout} s. Import less "
                "before the fork, or give it more time."
            ) from None
        except _ServerLost:
            record = await self.process.wait()
            lines = " | ".join(self.process.tail(5))
            raise LaunchError(
                f"The fork server {record.describe()} while it imported: {lines}"
            ) from None

    def ask(self, output: OutputFile, descriptors: list[int]) -> asyncio.Future[ServedProcess]:
        """Asks for a process; the future has it when it is there.

        Raises:
            _ServerLost: the server is gone.
        """
        self._last += 1
        try:
            self._channel.send(Fork(self._last), descriptors)
        except OSError as error:
            self.process.kill()  # if it has not ended, it does not listen
            self._lose()
            raise _ServerLost from error
        started: asyncio.Future[ServedProcess] = self._loop.create_future()
        self._pending[self._last] = started, output
        return started

    def drop(self, process: ServedProcess) -> None:
        """Ends a process that nobody waits for any more."""
        self._dropped.append(process)
        process.kill()
        process.exited.add_done_callback(lambda _: self._forget(process))

    async def close(self, timeout: float) -> None:
        """Lets it end; waits for that if nothing that it forked lives.

        Args:
            timeout: seconds that it has.
        """
        self._closing = True
        try:
            async with asyncio.timeout(timeout):
                while self._is_settling():
                    self._changed.clear()
                    await self._changed.wait()
                self._let_go()
                if not self._living:
                    await self.process.wait()
        except TimeoutError:
            await self.kill()
        except BaseException:
            self.process.kill()
            raise

    def _is_settling(self) -> bool:
        """Whether there are starts under way, or ends that it will tell in a moment."""
        ending = any(process.has_ended for process in self._living.values())
        return bool(self._pending or self._dropped or ending)

    async def kill(self) -> None:
        """Ends it at once, but nothing that it forked."""
        self.process.kill()
        await self.process.wait()
        self._lose()

    # -- what it says ----------------------------------------------------------------------

    def _receive(self) -> None:
        for _ in range(_PER_TURN):
            if not self._receive_one():
                return

    def _receive_one(self) -> bool:
        """Takes one message; False if there is none, or will be none."""
        if self._channel.fileno() < 0:
            return False
        try:
            found = self._channel.receive()
        except BlockingIOError:
            return False
        except (OSError, msgspec.MsgspecError):
            self.process.kill()  # what speaks nonsense is not listened to
            found = None
        if found is None:
            self._tear_down()
            return False
        self._take(*found)
        self._changed.set()
        return True

    def _take(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Loaded(threads):
                self._take_loaded(threads)
            case NotLoaded(lines):
                error = LaunchError(
                    f"The fork server cannot import its modules: {' | '.join(lines)}"
                )
                _fail(self._loaded, error)
            case Started(number, pid):
                self._take_started(number, pid, descriptors)
            case Refused(number, error, filename):
                started, _ = self._pending.pop(number)
                _fail(started, OSError(error, os.strerror(error), filename or None))
            case Ended(number):
                self._take_ended(message, number)
            case Fork() | SignalGroup():
                self.process.kill()  # no server says that

    def _take_loaded(self, threads: list[str]) -> None:
        if not threads:
            self._loaded.set_result(None)
            return
        names = ", ".join(sorted(threads))
        reason = f"the imports of the workers started threads ({names}), so no fork is safe"
        _fail(self._loaded, _ThreadsError(reason))

    def _take_started(self, number: int, pid: int, descriptors: list[int]) -> None:
        started, output = self._pending.pop(number)
        if not descriptors:  # this process may not have one more
            self._signal(number, signal.SIGKILL)
            _fail(started, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            return
        ask = partial(self._signal, number)
        process = ServedProcess(pid, descriptors[0], output, ask)
        self._living[number] = process
        if started.done():  # whoever waited has gone
            self.drop(process)
        else:
            started.set_result(process)

    def _take_ended(self, ended: Ended, number: int) -> None:
        process = self._living.pop(number, None)
        if process is not None:
            process.told(ended)
        elif number in self._pending:
            started, _ = self._pending.pop(number)
            _fail(started, ValueError("it ended before it began"))
        self._let_go()

    # -- the end ---------------------------------------------------------------------------

    def _signal(self, number: int, signum: int) -> None:
        with suppress(OSError):  # it is gone, or stuck: its child is signalled without it
            self._channel.send(SignalGroup(number, signum))

    def _forget(self, process: ServedProcess) -> None:
        self._dropped.remove(process)
        self._changed.set()

    def _exited(self, _exited: asyncio.Future[ExitRecord]) -> None:
        self.is_lost = True  # what it said before is still to be read

    def _let_go(self) -> None:
        """Nothing is left to be told: it may end."""
        if self._closing and not self._living and not self._pending:
            self._lose()

    def _lose(self) -> None:
        """Reads what is there, and no more: it may be that a process has just begun."""
        while self._receive_one():
            pass
        self._tear_down()

    def _tear_down(self) -> None:
        if self._channel.fileno() < 0:
            return
        self.is_lost = True
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        _fail(self._loaded, _ServerLost())
        for started, _ in self._pending.values():
            _fail(started, _ServerLost())
        self._pending.clear()
        for process in self._living.values():
            process.parent_lost()
        self._living.clear()
        self._changed.set()


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Ends a wait, unless it has ended."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # that nobody may wait for any more


def _start_server(
    output: Path, path: list[str], preload: Preload
) -> tuple[Channel, ChildProcess]:
    own, its = Channel.pair()
    try:
        launcher = os.pidfd_open(os.getpid())
        try:
            told = msgspec.structs.replace(preload, channel=its.fileno(), launcher=launcher)
            boot = Boot(run="", path=path, payload=msgspec.msgpack.encode(told))
            spec = LaunchSpec(_SERVER, msgspec.msgpack.encode(boot), output)
            inherited = its.fileno(), launcher
            return own, start(spec, pass_fds=inherited, ends_below=False)
        finally:
            os.close(launcher)
    except OSError as error:
        own.close()
        raise LaunchError(f"The fork server cannot be started: {error.strerror}.") from error
    except BaseException:
        own.close()
        raise
    finally:
        its.close()


def _surroundings(spec: LaunchSpec) -> Surroundings:
    """Where the process is to run: by default where this one is at this moment."""
    env: Mapping[str, str] = os.environ if spec.env is None else spec.env
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"illegal environment variable name or value: {shown(name)!r}")
    directory = spec.cwd
    if directory is None:
        with suppress(FileNotFoundError):  # it was removed: the process has that of the server
            directory = Path.cwd()
    return Surroundings(
        cwd=b"" if directory is None else os.fsencode(directory),
        env={os.fsencode(name): os.fsencode(value) for name, value in env.items()},
    )
