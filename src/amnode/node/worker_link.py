"""WorkerLink: a supervisor's end of one worker: its process, its bootstrap, its connection.

It does what the core asks and tells the core what came of it, always, as events. It decides
nothing. Each of its methods ends with its event whatever happens, and `close` ends everything
that the link ever opened.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from amnode.errors import (
    AmnodeError,
    LaunchError,
    RefusedError,
    RpcError,
    StateDirectoryError,
    WorkerConnError,
)
from amnode.launch.process import (
    AdoptedProcess,
    ExitRecord,
    Launcher,
    LaunchSpec,
    Process,
)
from amnode.machine.schema import Schema
from amnode.machine.transition import Transition
from amnode.node.adopt import Home
from amnode.node.args import (
    NodeRpcArgs,
    ReleasingArgs,
    RetireArgs,
    ServeClientArgs,
    ServeOperatorArgs,
    WorkerBoot,
    WorkerInfo,
    WorkerReached,
)
from amnode.node.bootstrap import Bootstrap
from amnode.node.job_note import SIZE as NOTE_SIZE
from amnode.node.job_note import read_note
from amnode.node.outside import REAL, Outside
from amnode.node.policy import events
from amnode.node.policy.adopt_records import WorkerRecord
from amnode.node.policy.door import DEFAULT_DOOR, ClientDoor
from amnode.node.policy.options import SupervisorOptions
from amnode.node.policy.owner import is_stale
from amnode.node.progress import Progress
from amnode.node.states import WorkerStates
from amnode.rpc.client import RpcClient
from amnode.rpc.options import ONE_CONNECTION
from amnode.rpc.remote import RemoteResult

logger = logging.getLogger("amnode.node")

W = WorkerStates

#: What of a worker its supervisor follows; never the work status, which changes at each call.
_FOLLOWED = (W.Exception, W.ErrClient, W.ErrSupervisor, W.Start, W.Ready, W.Leased, W.Releasing)

#: Errors of a worker that count against it. A job that fails is its client's business.
_COUNTED = (W.ErrClient, W.ErrSupervisor)

#: The last lines of a worker's output that a report has.
_OUTPUT_LINES = 40

#: What of a worker's moves is remembered for the report of its death.
_MOVES = 20

#: Seconds that a worker has at most to write its stacks.
_STACK_TIMEOUT = 1.0

#: Why a worker could not be asked.
_UNCONNECTED = "there is no connection"


class WorkerLink:
    """One worker, as its supervisor holds it.

    Args:
        worker_id: the machine id that the worker will have.
        name: of the worker.
        home: where its sockets, its output and its record are.
        supervisor_id: the machine id of the supervisor.
        kind: of the worker.
        schema: likewise.
        opts: the supervisor's.
        tell: takes events for the core.
        record: of a worker that is there already.
        door: how the worker lets its clients in.
        outside: what it touches.

    Attributes:
        process: once it runs.
        rpc: once it is connected.
        lease_secret: of the last client that it was asked to serve.
    """

    def __init__(
        self,
        worker_id: str,
        name: str,
        *,
        home: Home,
        kind: str,
        supervisor_id: str,
        schema: Schema,
        opts: SupervisorOptions,
        tell: Callable[[events.Event], None],
        record: WorkerRecord | None = None,
        door: ClientDoor = DEFAULT_DOOR,
        outside: Outside = REAL,
    ) -> None:
        self.worker_id = worker_id
        self.name = name
        self.process: Process | None = None
        self.bootstrap: Bootstrap | None = None
        self.rpc: RpcClient | None = None
        self.public_addr = ""
        self.lease_secret = b""
        self._home = home
        self._directory = home.path
        self._supervisor_id = supervisor_id
        self._schema = schema
        self._opts = opts
        self._tell = tell
        self._door = door
        self._outside = outside
        self._record = record or WorkerRecord(
            worker_id=worker_id, kind=kind, secret=outside.entropy(32)
        )
        if record is not None:
            self.public_addr = record.public_addr
        self._ready = False
        self._error_ticks: dict[str, int] = {}
        self._moves: deque[tuple[float, str]] = deque(maxlen=_MOVES)
        self._adopted: AdoptedProcess | None = None
        self._hang: events.Hang | None = None
        #: What it wrote before its stacks were asked for, which are written to the same file.
        self._before_stacks: tuple[str, ...] = ()
        self._closed = False
        #: What the worker said before `connect` knew that it is connected; None afterwards.
        self._early: list[events.InfoReceived] | None = None

    # -- starting ------------------------------------------------------------------------

    async def open_bootstrap(self, on_call: Callable[[NodeRpcArgs], None]) -> bytes:
        """Opens the place where the worker calls back; returns the secret that opens it.

        Raises:
            RpcError: it cannot be opened.
        """
        secret = self._outside.entropy(32)
        self.bootstrap = Bootstrap(
            self.name,
            f"unix:{self._directory / self.name}.b",
            secret,
            on_call,
            outside=self._outside,
        )
        await self.bootstrap.start()
        return secret

    async def launch(
        self,
        launcher: Launcher,
        command: tuple[str, ...],
        *,
        path: list[str],
        target: tuple[str, str],
        secret: bytes,
    ) -> None:
        """Starts the process and follows it. Tells Started and Exited, or SpawnFailed.

        Args:
            launcher: how it starts.
            command: the program and its arguments.
            path: entries that its `sys.path` must have.
            target: the class that it runs, and the script of that; see `class_name`.
            secret: opens the bootstrap.
        """
        assert self.bootstrap is not None
        payload = WorkerBoot(
            target=target[0],
            script=target[1],
            name=self.name,
            kind=self._record.kind,
            boot_addr=self.bootstrap.address,
            secret=secret,
            local_secret=self._record.secret,
            directory=str(self._directory),
            adopt_wait=self._opts.adopt_wait if self._home.is_kept else 0.0,
            keep=self._home.is_kept,
            door=self._door,
        )
        start = {
            "run": "amnode.node.worker:main",
            "path": path,
            "payload": msgspec.msgpack.encode(payload),
        }
        spec = LaunchSpec(
            argv=command,
            boot=msgspec.msgpack.encode(start),
            output=self._directory / f"{self.name}.log",
        )
        try:
            self._home.note(self._record)  # before there is a process
            self.process = await launcher.launch(spec)
        except (LaunchError, StateDirectoryError) as error:
            self._tell(events.SpawnFailed(self.worker_id, str(error)))
            return
        self._follow(self.process)
        if self._home.is_kept:
            pid = self.process.pid
            self._note(pid=pid, pid_start=self._outside.processes.started_at(pid))
        self._tell(events.Started(self.worker_id, self.process.pid, launcher.fallback))

    def adopt(self) -> None:
        """Follows the process that its record names. Tells Exited, at once if it is gone."""
        record, output = self._record, self._directory / f"{self.name}.log"
        adopt = self._outside.processes.adopt
        self.process = self._adopted = adopt(record.pid, record.pid_start, output)
        self._follow(self.process)

    def called_back(self, address: str, public_addr: str) -> None:
        """The worker said where it listens."""
        self.public_addr = public_addr
        if self._home.is_kept:
            self._note(address=address, public_addr=public_addr)

    def _note(self, **known: Any) -> None:
        """Keeps what is known now; without it, the next supervisor cannot find the worker."""
        self._record = msgspec.structs.replace(self._record, **known)
        try:
            self._home.note(self._record)
        except StateDirectoryError as error:
            logger.warning("Worker %s could not be adopted later: %s", self.worker_id, error)

    def _follow(self, process: Process) -> None:
        # No task: one that a dying program cancels (Ctrl-C, twice) would never tell.
        process.exited.add_done_callback(self._exited)

    def _exited(self, exited: asyncio.Future[ExitRecord]) -> None:
        if self.process is not None and not exited.cancelled():
            hung = self._hang is not None and bool(self._hang.stack)
            output = self._before_stacks if hung else self.process.tail(_OUTPUT_LINES)
            self._tell(events.Exited(self.worker_id, exited.result(), output, self._hang))

    async def close_bootstrap(self) -> None:
        """The worker has called, or never will."""
        if self.bootstrap is not None:
            await self.bootstrap.stop()

    async def connect(self, address: str) -> None:
        """Connects to the worker. Tells Connected and then Ready, or ConnectFailed."""
        rpc = self._client(address, self._home.claim.connection_id(self._supervisor_id))
        self._early = []
        try:
            async with asyncio.timeout(self._opts.conn_timeout):
                await rpc.start()
            if rpc.source.lost is not None:  # in the turn in which it was made
                raise rpc.source.lost
        except (AmnodeError, OSError, TimeoutError) as error:
            await rpc.stop()
            if isinstance(error, RefusedError) and is_stale(str(error)):
                self._tell(events.Stale(self.worker_id, str(error)))
                return
            failed = WorkerConnError(f"No connection to worker {self.worker_id}: {error}")
            self._tell(events.ConnectFailed(self.worker_id, str(failed)))
            return
        except BaseException:
            await rpc.stop()
            raise
        if self._closed:
            await rpc.stop()
            return
        old, self.rpc = self.rpc, rpc
        self._ready = False
        rpc.source.trace(self)
        self._tell(events.Connected(self.worker_id))
        early, self._early = self._early, None
        for info in early or ():
            self._tell(info)
        self._look()
        await self.close_bootstrap()
        if old is not None:
            await old.stop()

    def _client(self, address: str, id: str) -> RpcClient:
        return RpcClient(
            address,
            id=id,
            secret=self._record.secret,
            schema=self._schema,
            states=_FOLLOWED,
            on_payload=self._payload,
            on_lost=self._lost,
            transport=self._outside.transport,
            entropy=self._outside.entropy,
            options=ONE_CONNECTION,
        )

    # -- what the worker says --------------------------------------------------------------

    def transition_end(self, transition: Transition) -> None:
        """The replica of the worker moved; called by it."""
        if transition.changed:
            self._remember(transition)
            self._look()

    def _remember(self, transition: Transition) -> None:
        machine = transition.machine
        for index in transition.changed:
            name = machine.schema.names[index]
            verb = "began" if machine.is1(name) else "ended"
            self._moves.append((asyncio.get_running_loop().time(), f"{name} {verb}"))

    def note(self) -> tuple[str, Progress | None]:
        """The job that it runs, or ran when it died, and how far that was."""
        path = f"{self._directory}/{self.name}.j"
        return read_note(self._outside.files.read_page(path, NOTE_SIZE))

    def moves(self) -> tuple[str, ...]:
        """What its supervisor saw of it last, oldest first, and how long ago."""
        now = asyncio.get_running_loop().time()
        return tuple(f"{now - at:.3f} s before: {what}" for at, what in self._moves)

    def _look(self) -> None:
        if self.rpc is None:
            return
        ready = self.rpc.source.is1(W.Ready)
        if ready != self._ready:
            self._ready = ready
            self._tell(events.ReadyChanged(self.worker_id, ready))
        for state in _COUNTED:
            tick = self.rpc.source.tick(state)
            if tick > self._error_ticks.get(state, 0) and self.rpc.source.is1(state):
                self._error_ticks[state] = tick
                self._tell(events.ErrorSeen(self.worker_id, f"{state} is active"))

    def _payload(self, name: str, data: msgspec.Raw) -> None:
        if name == "WorkerInfo":
            info = msgspec.msgpack.decode(data, type=WorkerInfo)
            event = events.InfoReceived(self.worker_id, info)
            if self._early is None:
                self._tell(event)
            else:
                self._early.append(event)

    def _lost(self, error: Exception) -> None:
        if not self._closed:
            self._tell(events.ConnectionLost(self.worker_id, str(error)))

    # -- what the worker is asked ------------------------------------------------------------

    def serve(self, args: ServeClientArgs, epoch: int) -> None:
        """Asks it to serve a client. Tells ServeAnswered.

        The client waits meanwhile, so no task does.
        """
        self.lease_secret = args.secret

        def answered(accepted: bool | None, reason: str) -> None:
            self._tell(events.ServeAnswered(self.worker_id, epoch, accepted, reason))

        if self.rpc is None:
            answered(None, _UNCONNECTED)
            return
        try:
            asked = self.rpc.source.add1(W.ServeClient, args)
        except AmnodeError as error:
            answered(None, str(error))
            return
        asked.then(lambda result: answered(*_answer(result)))

    async def withdraw(self, epoch: int) -> None:
        """Takes a hand-over back. Tells WithdrawAnswered."""
        args = ReleasingArgs(epoch=epoch, reason="withdrawn", withdraw=True)
        accepted, _ = await self._ask(lambda rpc: rpc.source.add1(W.Releasing, args))
        self._tell(events.WithdrawAnswered(self.worker_id, epoch, accepted))

    async def retire(self, expected_tick: int) -> None:
        """Asks it to end unless it serves. Tells RetireAnswered."""
        args = RetireArgs(expected_tick=expected_tick)
        accepted, reason = await self._ask(lambda rpc: rpc.source.remove1(W.Start, args))
        self._tell(events.RetireAnswered(self.worker_id, accepted, reason))

    async def let_in(self, operator_id: str) -> WorkerReached:
        """Has it let an operator in; returns where, and with what secret.

        Raises:
            AmnodeError: it does not, or there is no connection to it.
        """
        if self.rpc is None:
            raise WorkerConnError(f"Worker {self.worker_id} is not connected (yet).")
        secret = self._outside.entropy(32)
        args = ServeOperatorArgs(
            operator_id=operator_id,
            secret=secret,
            delivery_timeout=self._opts.delivery_timeout,
        )
        asked = self.rpc.source.request([W.ServeOperator], args, result_type=str)
        try:
            async with asyncio.timeout(self._opts.conn_timeout):
                address = await asked
        except TimeoutError:
            raise WorkerConnError(f"Worker {self.worker_id} does not answer.") from None
        return WorkerReached(worker_id=self.worker_id, address=address, secret=secret)

    def probe(self, check: int) -> None:
        """Asks for a sign of life. Tells CheckAnswered, or CheckMissed.

        It is done for each worker all the time, so there is no task that waits.
        """
        if self.rpc is None:
            self._checked(check, answered=False)
            return
        try:
            asked = self.rpc.source.add1(W.Healthcheck)
        except AmnodeError:
            self._checked(check, answered=False)
            return
        asked.then(lambda result: self._checked(check, answered=bool(result)))

    async def greet(self, check: int) -> None:
        """Asks for a sign of life on a new connection. Tells the same."""
        answered = await self._greet()
        if answered:
            await self._drop_connection()
        self._checked(check, answered=answered)

    def _checked(self, check: int, *, answered: bool) -> None:
        told = events.CheckAnswered if answered else events.CheckMissed
        self._tell(told(self.worker_id, check))

    async def _greet(self) -> bool:
        """A hello on a new connection: any answer, even a refusal, is a sign of life."""
        if self.rpc is None:
            return False
        claim = self._home.claim.connection_id(self._supervisor_id, probe=True)
        rpc = self._client(self.rpc.address, claim)
        try:
            async with asyncio.timeout(self._opts.check_timeout):
                await rpc.start()
        except RefusedError:
            return True
        except (RpcError, OSError, TimeoutError):
            return False
        finally:
            await rpc.stop()
        return True

    async def _drop_connection(self) -> None:
        """The worker lives and this connection does not answer: the core makes another."""
        rpc, self.rpc = self.rpc, None
        if rpc is not None:
            await rpc.stop()
            self._tell(events.ConnectionLost(self.worker_id, "it did not answer"))

    async def _ask(
        self, mutate: Callable[[RpcClient], RemoteResult]
    ) -> tuple[bool | None, str]:
        """A mutation of the worker: whether it was done, None if nobody knows, and why not."""
        if self.rpc is None:
            return None, _UNCONNECTED
        try:
            asked = mutate(self.rpc)
            await asked
        except AmnodeError as error:
            return _said(error), str(error)
        return _answer(asked)

    # -- the end -----------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL to its process and all that is its own; its exit is told when it is seen."""
        if self.process is not None:
            self.process.kill()

    async def kill_hung(self) -> None:
        """The same, but first it is seen what it does instead of answering."""
        process = self.process
        if process is None:
            return
        try:
            if process.is_stopped():
                self._hang = events.Hang(stopped=True)
                return
            self._before_stacks = process.tail(_OUTPUT_LINES)
            # Before the core asks for the next signal.
            patience = min(_STACK_TIMEOUT, self._opts.term_timeout / 2)
            self._hang = events.Hang(stack=await process.dump_stack(patience))
        finally:
            process.kill()

    @property
    def pid(self) -> int:
        """Of its process; 0 if there is none."""
        return self.process.pid if self.process is not None else 0

    @property
    def is_adopted(self) -> bool:
        """Whether another supervisor started its process."""
        return self._adopted is not None

    async def close(self, *, lives: bool = False) -> None:
        """Ends everything but the process, which the core has seen end, and removes its files.

        What it wrote last is in the report by then; and who finds the directory abandoned takes
        an output file in it for a worker that lives.

        Args:
            lives: it belongs to another supervisor, and needs its files.
        """
        self._closed = True
        self._home.forget(self.worker_id)
        if self._adopted is not None:
            self._adopted.let_go()
        if not lives:
            self._home.keep_output(self.name)
            for end in ("l", "p", "o", "j"):
                self._outside.files.remove_file(f"{self._directory}/{self.name}.{end}")
        await self.close_bootstrap()
        if self.rpc is not None:
            await self.rpc.stop()


def _answer(asked: RemoteResult) -> tuple[bool | None, str]:
    """What a worker made of what it was asked: see `_said`; and why not."""
    if asked.error is not None:
        return _said(asked.error), str(asked.error)
    return bool(asked), ""


def _said(error: Exception) -> bool | None:
    """False if it is the worker's own no, and nothing else is one; None if nobody knows."""
    return False if isinstance(error, RefusedError) else None
