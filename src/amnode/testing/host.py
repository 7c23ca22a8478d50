"""SimHost: the processes of a simulation, and the launcher that starts workers as such.

Rules:

1. A number is given to the next process as soon as its old one is reaped, the lowest first.
2. A process that has ended keeps its number until its parent has seen the end; one whose
   parent is gone is reaped at once.
3. A signal goes to the process that the handle was made for, and to no other; once that is
   reaped nothing is sent (promise S11).
4. What a program does after it was killed has no effect: its place is gone.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from random import Random
from typing import Any, Final, NoReturn

import msgspec

from amnode.errors import LaunchError, StateDirectoryError
from amnode.launch.process import ExitRecord, LaunchSpec
from amnode.node.args import WorkerBoot
from amnode.node.job_note import Page
from amnode.node.outside import Outside
from amnode.node.policy.adopt_records import WorkerRecord, decode_record, encode_record
from amnode.testing.loop import Place, ProcessEnded, SimLoop
from amnode.testing.network import SimNetwork

#: The first number of a process.
_FIRST_PID: Final = 100
#: Lines of output that are kept.
_LINES: Final = 20
#: Bytes that each process has.
_MEMORY: Final = 50_000_000
#: Seconds from the end of a process to its parent's hearing of it.
_SEEN_AFTER: Final = 0.001


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How the start of one worker goes.

    Attributes:
        refused: the system starts no process.
        fails: it ends with this code before it has done anything.
        silent: it never calls back.
        delay: seconds that its imports take.
        wrong_secret: it calls back with another secret than it was given.
    """

    refused: bool = False
    fails: int | None = None
    silent: bool = False
    delay: float = 0.1
    wrong_secret: bool = False


#: Makes the body of a worker's process.
Program = Callable[["SimProcess", WorkerBoot], Coroutine[Any, Any, int]]


class SimProcess:
    """One process.

    Attributes:
        started: tells it from others that had its number.
        name: of its place.
        place: where its code runs.
        record: how it ended, once it has.
        output: its last lines.
        on_term: what SIGTERM does in it; None ends it.
    """

    def __init__(
        self, host: SimHost, pid: int, name: str, parent: SimProcess | None, started: float
    ) -> None:
        self.started = started
        self.name = name
        self.place = Place(name)
        self.parent = parent
        self.record: ExitRecord | None = None
        self.output: deque[str] = deque(maxlen=_LINES)
        self.on_term: Callable[[], object] | None = None
        self.reaped = False
        self._host = host
        self._pid = pid
        self._waiting: list[asyncio.Future[ExitRecord]] = []

    def __repr__(self) -> str:
        return f"<SimProcess {self.name} {self._pid}>"

    # -- for its parent; see `Process` -----------------------------------------------------

    @property
    def pid(self) -> int:
        """See `Process.pid`."""
        return self._pid

    @property
    def exited(self) -> asyncio.Future[ExitRecord]:
        """See `Process.exited`."""
        future: asyncio.Future[ExitRecord] = self._host.loop.create_future()
        if self.reaped and self.record is not None:
            future.set_result(self.record)
        else:
            self._waiting.append(future)
        return future

    async def wait(self) -> ExitRecord:
        """See `Process.wait`."""
        return await self.exited

    def terminate(self) -> bool:
        """See `Process.terminate`."""
        return self._host.signal(self, "SIGTERM")

    def kill(self) -> bool:
        """See `Process.kill`."""
        return self._host.signal(self, "SIGKILL")

    async def end(self, term_timeout: float) -> ExitRecord:
        """See `Process.end`."""
        try:
            self.terminate()
            await asyncio.wait([exited := self.exited], timeout=term_timeout)
            if exited.done():
                return exited.result()
        finally:
            self.kill()
        return await self.wait()

    def is_stopped(self) -> bool:
        """See `Process.is_stopped`; one that has no turn may as well be blocked."""
        return False

    async def dump_stack(self, timeout: float = 1.0) -> tuple[str, ...]:
        """See `Process.dump_stack`; there are none."""
        return ()

    def let_go(self) -> None:
        """See `AdoptedProcess.let_go`: it is nobody's here any more."""
        self.orphaned()

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """See `Process.tail`."""
        return tuple(self.output)[-lines:]

    # -- for itself ------------------------------------------------------------------------

    def write(self, text: str) -> None:
        """Writes to its output."""
        if not self.place.gone:
            self.output += text.splitlines()

    def exit(self, code: int) -> NoReturn:
        """Ends it from within."""
        self._host.ended(self, exit_code=code)
        raise ProcessEnded

    def adopted_by(self, parent: SimProcess) -> None:
        """Another process is told of its end from now on, and reaps it."""
        self.parent = parent
        self._waiting.clear()

    def orphaned(self) -> None:
        """Its parent is gone, and with it who waited there."""
        self.parent = None
        self._waiting.clear()

    def seen(self) -> None:
        """Runs in the parent: reaps it, and tells who waits."""
        assert self.record is not None, "A process that lives is reaped (S11)."
        self._host.reaped(self)
        for future in self._waiting:
            if not future.done():
                future.set_result(self.record)


class SimHost:
    """All processes.

    Args:
        loop: in whose time they run.
        network: whose connections end with them.
        seed: of the entropy of each.
        on_end: told of the end of each process, before anybody else.

    Attributes:
        processes: those that are not reaped, by number.
    """

    def __init__(
        self,
        loop: SimLoop,
        network: SimNetwork,
        seed: str,
        on_end: Callable[[SimProcess], None],
    ) -> None:
        self.loop = loop
        self.network = network
        self.processes: dict[int, SimProcess] = {}
        self.signals: list[tuple[str, int, str]] = []
        self._seed = seed
        self._on_end = on_end
        self._made = 0
        self._started = 0.0
        self._kept: dict[str, Kept] = {}

    def start(
        self,
        name: str,
        body: Callable[[SimProcess], Coroutine[Any, Any, int]],
        *,
        parent: SimProcess | None = None,
        delay: float = 0.0,
    ) -> SimProcess:
        """Starts a process, whose code begins to run `delay` seconds from now."""
        pid = _FIRST_PID
        while pid in self.processes:  # rule 1
            pid += 1
        self._started += 1.0
        process = SimProcess(self, pid, name, parent, self._started)
        self.processes[pid] = process
        self.loop.post(process.place, delay, self._begin, process, body)
        return process

    def outside(self, process: SimProcess) -> Outside:
        """What a driver in that process touches."""
        return Outside(
            transport=self.network.transport(process.place),
            entropy=Random(f"{self._seed}/{process.name}").randbytes,
            files=SimFiles(self._make_name, partial(self._open_state, process)),
            memory=lambda: _MEMORY,
            wall=self.loop.time,
            processes=SimProcesses(self, process),
        )

    def _make_name(self) -> int:
        self._made += 1
        return self._made

    def _open_state(self, process: SimProcess, path: str) -> SimState:
        kept = self._kept.setdefault(path, Kept())
        return SimState(path, kept, process)

    def signal(self, process: SimProcess, name: str) -> bool:
        """Sends a signal (rule 3); whether there was a process to get it."""
        if process.reaped:
            return False
        assert self.processes[process.pid] is process, "A signal to a stranger (S11)."
        self.signals.append((process.name, process.pid, name))
        if process.record is not None:
            return True
        if name == "SIGTERM" and process.on_term is not None:
            self.loop.post(process.place, 0.0, process.on_term)
        else:
            self.loop.post(self.loop.outer, 0.0, self._die, process, name)
        return True

    def ended(
        self, process: SimProcess, *, exit_code: int | None = None, signal: str = ""
    ) -> None:
        """A process has ended, from without or within."""
        if process.record is not None:
            return
        now = self.loop.time()
        process.record = ExitRecord(process.pid, exit_code, signal, known=True, seen_at=now)
        self.loop.end_place(process.place)
        self._on_end(process)
        self.network.end_of(process.place)
        for child in [*self.processes.values()]:
            if child.parent is process:
                child.orphaned()
                if child.record is not None:
                    self.reaped(child)
        parent = self.loop.outer if process.parent is None else process.parent.place
        if process.parent is None:
            self.reaped(process)
        self.loop.post(parent, _SEEN_AFTER, process.seen)

    def reaped(self, process: SimProcess) -> None:
        """Its number is free."""
        if not process.reaped:
            process.reaped = True
            del self.processes[process.pid]

    def _die(self, process: SimProcess, signal: str) -> None:
        self.ended(process, signal=signal)

    def _begin(
        self, process: SimProcess, body: Callable[[SimProcess], Coroutine[Any, Any, int]]
    ) -> None:
        self.loop.create_task(self._live(process, body), name=process.name)

    async def _live(
        self, process: SimProcess, body: Callable[[SimProcess], Coroutine[Any, Any, int]]
    ) -> None:
        try:
            code = await body(process)
        except asyncio.CancelledError:
            raise
        except Exception:
            process.write(traceback.format_exc())
            code = 1
        self.ended(process, exit_code=code)


class Kept:
    """What is in one state directory."""

    def __init__(self) -> None:
        self.generation = 0
        self.records: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.owner: SimProcess | None = None


class SimState:
    """A state directory, as the process that opened it has it; see `State`.

    Raises:
        StateDirectoryError: another process that lives has it (promise S14).
    """

    def __init__(self, path: str, kept: Kept, process: SimProcess) -> None:
        owner = kept.owner
        if owner is not None and owner.record is None:
            raise StateDirectoryError(f"{path} is in use by another supervisor.")
        kept.owner = process
        kept.generation += 1
        self.path = path
        self.generation = kept.generation
        self._kept = kept
        self._process = process

    @property
    def _is_mine(self) -> bool:
        """Whether what is written counts (rule 4)."""
        return self._kept.owner is self._process and not self._process.place.gone

    def records(self) -> list[WorkerRecord]:
        """See `State`."""
        kept = self._kept.records
        return [decode_record(kept[name], name) for name in sorted(kept)]

    def write(self, record: WorkerRecord) -> None:
        """See `State`."""
        if self._is_mine:
            self._kept.records[record.worker_id] = encode_record(record)

    def forget(self, worker_id: str) -> None:
        """See `State`."""
        if self._is_mine:
            self._kept.records.pop(worker_id, None)

    def keep(self, name: str, data: bytes) -> None:
        """See `State`."""
        if self._is_mine:
            self._kept.files[name] = data

    def drop(self, name: str) -> None:
        """See `State`."""
        if self._is_mine:
            self._kept.files.pop(name, None)

    def kept(self, matches: Callable[[str], bool], most: int) -> list[tuple[str, bytes]]:
        """See `State`."""
        files = self._kept.files
        return [(name, files[name]) for name in sorted(files) if matches(name)]

    def oldest_first(self, suffix: str) -> list[str]:
        """See `State`; what workers write is not kept here."""
        return []

    def close(self) -> None:
        """See `State`."""
        if self._is_mine:
            self._kept.owner = None


class SimProcesses:
    """What one process sees of others; see `Processes`."""

    def __init__(self, host: SimHost, process: SimProcess) -> None:
        self._host = host
        self._process = process

    def started_at(self, pid: int) -> float:
        """See `Processes`."""
        process = self._host.processes.get(pid)
        return process.started if process is not None and process.record is None else 0.0

    def adopt(self, pid: int, start: float, output: object) -> Any:
        """See `Processes`."""
        process = self._host.processes.get(pid)
        if process is None or process.started != start or process.record is not None:
            return Gone(self._host, pid)
        process.adopted_by(self._process)
        return process


class Gone:
    """A process that had ended before it was looked for."""

    def __init__(self, host: SimHost, pid: int) -> None:
        self.pid = pid
        self.exited: asyncio.Future[ExitRecord] = host.loop.create_future()
        record = ExitRecord(pid, None, "", known=False, seen_at=host.loop.time())
        self.exited.set_result(record)

    def terminate(self) -> bool:
        """See `Process`; there is nobody."""
        return False

    def kill(self) -> bool:
        """See `Process`; there is nobody."""
        return False

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """See `Process`; nobody kept it."""
        return ()

    def is_stopped(self) -> bool:
        """See `Process`."""
        return False

    async def dump_stack(self, timeout: float = 1.0) -> tuple[str, ...]:
        """See `Process`."""
        return ()

    def let_go(self) -> None:
        """See `AdoptedProcess`."""


class SimFiles:
    """The directories of a simulation: names, and no files.

    Args:
        make_name: a number that no directory has.
        open_state: opens one that outlives its supervisor.
    """

    def __init__(
        self,
        make_name: Callable[[], int] = lambda: 1,
        open_state: Callable[[str], SimState] | None = None,
    ) -> None:
        self._make_name = make_name
        self._open_state = open_state

    def open_state(self, path: str) -> SimState:
        """See `Files`."""
        assert self._open_state is not None, "There is nowhere to keep it."
        return self._open_state(path)

    def create(self) -> tuple[str, int]:
        """See `Files`."""
        number = self._make_name()
        return f"/sim/{number}", number

    def remove(self, path: str, lock: int) -> None:
        """See `Files`; there is nothing to remove."""

    def remove_file(self, path: str) -> None:
        """See `Files`; there is nothing to remove."""

    def write(self, path: str, data: bytes) -> None:
        """See `Files`; nobody reads it."""

    def page(self, path: str, size: int) -> Page:
        """See `Files`; nobody else sees it."""
        return bytearray(size)

    def read_page(self, path: str, size: int) -> bytes:
        """See `Files`."""
        return b""

    def rename(self, path: str, new: str) -> None:
        """See `Files`; nobody reads it."""

    def remove_abandoned(self, path: str, own: str) -> bool:
        """See `Files`."""
        return True


class SimLauncher:
    """The `Launcher` of one supervisor of a simulation.

    Args:
        host: where the processes are.
        parent: the supervisor's process.
        program: what a worker's process runs.
        draw: says how each start goes.
    """

    def __init__(
        self,
        host: SimHost,
        parent: SimProcess,
        program: Program,
        draw: Callable[[str], Launch],
    ) -> None:
        self._host = host
        self._parent = parent
        self._program = program
        self._draw = draw

    @property
    def fallback(self) -> str:
        """See `Launcher.fallback`."""
        return ""

    async def close(self) -> None:
        """See `Launcher.close`; it holds nothing."""

    async def launch(self, spec: LaunchSpec) -> SimProcess:
        """See `Launcher.launch`.

        Raises:
            LaunchError: the system refuses.
        """
        start = msgspec.msgpack.decode(spec.boot)
        boot = msgspec.msgpack.decode(start["payload"], type=WorkerBoot)
        how = self._draw(boot.name)
        if how.refused:
            raise LaunchError("Cannot start `worker`: Resource temporarily unavailable.")
        if how.wrong_secret:
            boot = msgspec.structs.replace(boot, secret=boot.secret[::-1])

        async def body(process: SimProcess) -> int:
            if how.fails is not None:
                process.write("ImportError: no module named 'sim'\n")
                return how.fails
            if how.silent:
                await asyncio.Event().wait()
            return await self._program(process, boot)

        return self._host.start(boot.name, body, parent=self._parent, delay=how.delay)
