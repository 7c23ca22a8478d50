"""Supervisor: forks workers, keeps some warm, watches them, and leases each to one client.

What should happen is decided by `policy.core`, a pure function of events and time. This file
turns what happens into events and actions into deeds, and shows the core's data as states.

    a state that is an event  ->  core.handle(event, now)  ->  actions  ->  deeds  ->  publish()

Rules:

1. The core is told of everything in the order in which it happened, one event at a time; what
   an action causes waits until the action is done.
2. The states that show the pool (PoolReady, WorkersAvailable, ...) are set in `_publish`, from
   the core's data, and nowhere else.
3. Each worker has one `WorkerLink`, which is closed when the core forgets the worker.
4. One timer, at the core's next deadline.

Past 800 lines, because every handler of the supervisor's machine stands here, in one sequence.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec

from amnode.errors import (
    HeartbeatError,
    OptionError,
    PoolError,
    RpcError,
    WorkerKillError,
    WorkerMissingError,
)
from amnode.launch.command import ENTRY
from amnode.launch.process import Launcher, Process, started_at
from amnode.machine.machine import Machine
from amnode.machine.schema import Schema, States
from amnode.machine.transition import Event
from amnode.node import operating
from amnode.node.add_errors import add_err_pool, add_err_worker
from amnode.node.adopt import Home
from amnode.node.args import (
    Denied,
    Grant,
    NodeRpcArgs,
    ProvideWorkerArgs,
    SendPayloadArgs,
    ServeClientArgs,
    Wire,
    WorkerCrashed,
    WorkerIssuesArgs,
)
from amnode.node.class_name import name_of
from amnode.node.launching import LaunchBy, absolute_path, checked_launcher, launcher_of
from amnode.node.listing import ListArgs, WorkerState
from amnode.node.looking import Looking
from amnode.node.names import LOG_SUPERVISOR, client_name, is_peer
from amnode.node.operator_args import Door, WorkerRow
from amnode.node.outside import REAL, Outside
from amnode.node.peers import LOCAL, PeerAction, Peers
from amnode.node.policy import crash, events
from amnode.node.policy.adopt_records import WorkerRecord
from amnode.node.policy.core import PoolCore
from amnode.node.policy.crashes import CrashRecord
from amnode.node.policy.door import addresses_of
from amnode.node.policy.options import PoolSize, SupervisorOptions, checked, checked_token
from amnode.node.policy.view import PoolView
from amnode.node.reporting import Reporting
from amnode.node.states import SupervisorStates
from amnode.node.transition_log import TransitionLog
from amnode.node.worker import Worker, kind_and_schema
from amnode.node.worker_link import WorkerLink
from amnode.rpc.exposure import Exposure
from amnode.rpc.mux import Mux
from amnode.rpc.options import ONE_CONNECTION
from amnode.rpc.protocol.subscription import schema_hash
from amnode.rpc.server import RpcServer
from amnode.rpc.tls_files import TlsFiles
from amnode.rpc.transport.with_files import absolute, transport_of

logger = logging.getLogger("amnode.node")

S = SupervisorStates

#: What clients may change on a supervisor.
_PUBLIC = Exposure(
    mutable={S.ProvideWorker: ProvideWorkerArgs, S.WorkerIssues: WorkerIssuesArgs}
)


@dataclass(frozen=True, slots=True)
class _WorkerArgs:
    """The event states of one worker: which, and what there is to say."""

    worker_id: str
    boot: NodeRpcArgs | None = None
    secret: bytes = b""
    link: WorkerLink | None = None
    hung: bool = False


def _reached_by(outside: Outside, tls: TlsFiles | None, allow_plaintext: bool) -> Outside:
    transport = transport_of(outside.transport, tls, allow_plaintext=allow_plaintext)
    return msgspec.structs.replace(outside, transport=transport)


def _check_command(kind: str | type[Worker], bin: Sequence[str]) -> None:
    if isinstance(kind, str) and not bin:
        raise OptionError(f"Pass the command of kind {kind!r}, or its Worker class instead.")


def _check_known_again(state_dir: str, name: str, token: bytes, peers: Sequence[str]) -> None:
    if state_dir and not (name and token):
        raise OptionError(
            "With state_dir, pass name and token too: by them a supervisor is known when "
            "it is started again."
        )
    if peers and not token:
        raise OptionError("With peers, pass the token that all of them have.")


class Supervisor:
    """Runs the workers of one kind, and leases them to clients.

    Args:
        kind: the `Worker` class that its processes run; or, as text, what the workers of the
            program `bin` are.
        bin: the command of a program that ends in `run_worker`; of this interpreter, by
            default.
        schema: of the workers, where `kind` is text.
        name: of the supervisor; made from the kind and the process id by default.
        token: what clients must prove to have; 32 fresh random bytes by default.
        public_addr: where clients connect; a Unix socket in a private directory by default.
        opts: see `SupervisorOptions`; its `size` is the pool's.
        launcher: how processes come to be. "auto" is by fork, from a server that has imported
            the class and what it has in `preload`, in milliseconds; by command where the
            system cannot, or the imports start threads. "command" is always by command. A
            launcher of your own is yours to close.
        local_addr: where operators and peers connect; likewise.
        operator_token: what operators must prove to have; fresh at each start by default, and
            in any case in the file `operators.json` of the supervisor's directory.
        peers: local addresses of other supervisors of the same kind and token. A request that
            finds no worker here, and no room for one, is served by a peer that has one.
        state_dir: a directory that outlives the supervisor. One that is started again with it,
            under the same name and token, adopts the workers that live, without interrupting a
            lease. It is made, for its owner alone, if it does not exist.
        tls: what is shown and trusted where an address begins with `tls:`, by its workers too.
        advertise_host: the host that clients are told, in place of that of `public_addr`; one
            that listens on every interface needs it.
        allow_plaintext: whether `tcp:` may be used off loopback, where others can read along
            and take leases over.
        outside: what it touches beside its loop and its processes; the system, by default.
        on_decided: told of each event that the core was told, with what it said; for tests.

    Attributes:
        machine: the supervisor's states.
        token: for the clients; whoever has it can run code here.
        operator_token: for operators, on the local server; whoever has it can stop the pool.
        public_mux: the listener for clients; `local_rpc` the one for operators.
        log_enabled: extra logging; set by the environment variable `AM_NODE_LOG_SUPERVISOR`.

    Raises:
        OptionError: an argument that cannot work, such as a class that no other process can
            import.
    """

    #: Made at the start.
    _launcher: Launcher | None = None

    def __init__(
        self,
        kind: str | type[Worker],
        bin: Sequence[str] = (),
        schema: Schema | type[States] | None = None,
        *,
        name: str = "",
        token: bytes = b"",
        public_addr: str = "",
        opts: SupervisorOptions | None = None,
        launcher: Launcher | LaunchBy = "auto",
        state_dir: str = "",
        local_addr: str = "",
        operator_token: bytes = b"",
        peers: Sequence[str] = (),
        tls: TlsFiles | None = None,
        advertise_host: str = "",
        allow_plaintext: bool = False,
        outside: Outside = REAL,
        on_decided: Callable[[events.Event, Sequence[events.Action]], None] | None = None,
    ) -> None:
        self.opts = checked(opts, SupervisorOptions)
        self.worker_kind, self._schema = kind_and_schema(kind, schema)
        self.worker_bin = tuple(bin) or ENTRY
        self.name = name or f"{self.worker_kind.lower()}-{os.getpid()}"
        _check_command(kind, bin)
        _check_known_again(state_dir, name, token, peers)
        self._at = addresses_of(
            public_addr, local_addr, peers, absolute(tls), advertise_host, allow_plaintext
        )
        self._outside = outside = _reached_by(outside, self._at.tls, allow_plaintext)
        self._on_decided = on_decided
        self.token = checked_token(token) if token else outside.entropy(32)
        self.machine = Machine(S, id=f"ns-{self.name}")
        self.machine.bind(self)
        self.operator_token = checked_token(operator_token or outside.entropy(32))
        self._operating = operating.Operating(self.machine, self._feed, self.view)
        self._reporting = Reporting(self.machine, self, self._link_of, outside.wall)
        self.log_enabled = bool(os.environ.get(LOG_SUPERVISOR))
        if self.log_enabled:
            self.machine.trace(TransitionLog(logger))
        self.public_mux: Mux | None = None
        self.local_rpc: Mux | None = None
        self._target = ("", "") if isinstance(kind, str) else name_of(kind)
        self._preload = () if isinstance(kind, str) else kind.preload
        self._launch_by = checked_launcher(launcher)
        self._core = self._make_core()
        self._peers = self._make_peers()
        self._state_dir = state_dir
        self._home: Home | None = None
        self._stopping = self._busy = False
        self._links: dict[str, WorkerLink] = {}
        self._looking = Looking(self.machine, self._links.get, self.opts.story)
        self._found: list[WorkerRecord] = []
        self._disowned: dict[str, Process] = {}
        self._inbox: deque[events.Event] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._ended: asyncio.Future[None] | None = None

    def _make_core(self) -> PoolCore:
        prefix = f"nw-{self.worker_kind.lower()}-{self._outside.entropy(3).hex()}"
        return PoolCore(
            self.opts,
            kind=self.worker_kind,
            schema_hash=schema_hash(self._schema).hex(),
            name_worker=lambda number: f"{prefix}-{number}",
            draw=self._outside.draw,
        )

    def _make_peers(self) -> Peers:
        return Peers(
            self.machine,
            self._at.peers,
            token=self.token,
            kind=self.worker_kind,
            schema_hash=schema_hash(self._schema).hex(),
            opts=self.opts,
            feed=self._feed,
            send=self._send,
            outside=self._outside,
        )

    # -- from outside ----------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where clients connect.

        Raises:
            OptionError: the supervisor is not started.
        """
        if self.public_mux is None:
            raise OptionError(f"Supervisor {self.name} is not started; it has no address yet.")
        return self._at.door.told(self.public_mux.address)

    @property
    def core(self) -> PoolCore:
        """The pool's data and decisions; to be looked at, never to be told."""
        return self._core

    def public_addr(self) -> str:
        """Where clients connect; before the start, where they will."""
        return self.address if self.public_mux is not None else self._at.public

    @property
    def local_addr(self) -> str:
        """Where operators and peer supervisors connect; before the start, where they will."""
        return self.local_rpc.address if self.local_rpc is not None else self._at.local

    @property
    def directory(self) -> str:
        """Its directory: sockets, output, `operators.json`; "" before the start."""
        return str(self._home.path) if self._home is not None else ""

    @property
    def public_rpcs(self) -> Mapping[str, RpcServer]:
        """The connections of clients, by client id."""
        return self.public_mux.servers if self.public_mux is not None else {}

    async def start(self) -> None:
        """Opens the addresses and begins to start workers; `when_ready` waits for them.

        Raises:
            RpcError: an address cannot be listened on.
            StateDirectoryError: the state directory cannot be used; says why.
            PoolError: it was started before, or is stopped meanwhile.
        """
        if self.machine.is1(S.Start):
            return
        if self._ended is not None:
            raise PoolError(f"Supervisor {self.name} was started before; make a new one.")
        self._ended = asyncio.get_running_loop().create_future()
        started = False
        try:
            self._home = Home(
                self._state_dir,
                self._outside.entropy(8).hex(),
                self._outside.files,
                outputs_kept=self.opts.outputs_kept,
            )
            self._reporting.start(self._home)
            self._found = self._home.found()
            self._launcher = self._make_launcher(self._home.path)
            public, local = self._open_muxes(self._home.path)
            await local.start()
            await public.start()
            self._home.show(self._door())
            address = NodeRpcArgs(public_addr=self.address)
            started = not self._stopping and bool(self.machine.add1(S.Start, address))
        finally:
            if not started:
                await self._close()
        if not started:
            raise PoolError(f"Supervisor {self.name} was stopped while it started.")

    async def when_ready(self) -> None:
        """Waits until at least the minimum of workers is ready.

        Raises:
            PoolError: the pool stopped trying, because its workers fail to start; says of what.
        """
        when1 = self.machine.when1
        waits = when1(S.PoolReady), when1(S.ErrPool), self.machine.when_not1(S.Start)
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not waits[0].done():
                raise PoolError(self.view().broken or f"Supervisor {self.name} is not running.")
            waits[0].result()
        finally:
            for wait in waits:
                wait.cancel()

    async def stop(self) -> None:
        """Stops: no new leases, running ones get their grace, then every process is ended.

        Nothing is left when this returns. If it is cancelled, the processes are killed at once,
        and it ends when they have, or when it is cancelled again.
        """
        if self._ended is None:
            return
        self._stopping = True
        self.machine.remove1(S.Start)
        try:
            await asyncio.shield(self._ended)
        except asyncio.CancelledError:
            self._feed(events.StopRequested(grace=0.0))
            for link in self._links.values():
                link.kill()
            self._leave_home()  # the loop may not live to see the processes end
            # They do so in a moment; what closes after them is no task that nobody waits for.
            with suppress(TimeoutError):
                async with asyncio.timeout(self.opts.op_timeout):
                    await asyncio.shield(self._ended)
            raise

    async def dispose(self) -> None:
        """Stops the supervisor and ends its machine."""
        await self.stop()
        await self.machine.dispose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.dispose()

    def set_pool(self, min: int, max: int, warm: int, max_per_client: int = 0) -> None:
        """Gives the pool another size, at once; see `PoolSize`.

        It grows, or those that are idle for longest retire. A leased worker is never one too
        many: one over `max` goes when its lease ends.

        Raises:
            OptionError: a number that cannot work.
            PoolError: the supervisor is not running.
        """
        self._operating.set_pool(PoolSize(min, max, warm, max_per_client))

    async def restart_workers(self) -> None:
        """Replaces every worker that there is now, `renew_at_once` at a time.

        New ones start first, so at least `min` stay ready; a leased worker goes when its lease
        ends. While it lasts the state `RollingRestart` is active, and `view().to_restart` says
        how many are left. Cancelling the wait does not end it.

        Raises:
            PoolError: `min` is `max`, the supervisor is not running, or it stops meanwhile.
        """
        await self._operating.restart_workers()

    async def drain(self) -> None:
        """Grants no more leases until `resume`; returns when the last one has ended.

        Requests wait meanwhile, to their deadlines. Cancelling the wait does not end the drain.

        Raises:
            PoolError: the supervisor is not running, stops meanwhile, or is told to resume.
        """
        await self._operating.drain()

    def resume(self) -> None:
        """Grants leases again after `drain`."""
        self._operating.resume()

    def check_pool(self) -> bool:
        """Looks over the pool now, and says whether at least the minimum is ready."""
        self._feed(events.Tick())
        return self.view().pool_ready

    def view(self) -> PoolView:
        """The pool in numbers, with one line on why it is not growing, if it is not."""
        return self._core.view(self._now())

    @property
    def crashes(self) -> list[CrashRecord]:
        """The last crashes of workers, oldest first; `crashes_kept` of them."""
        return self._reporting.crashes

    def kill_worker(self, worker_id: str) -> bool:
        """Ends a worker's process at once, leased or not; False if there is none.

        Its client is told so, as of any death; another one takes its place.
        """
        return bool(self.machine.add1(S.KillWorker, _WorkerArgs(worker_id)))

    async def worker(self, worker_id: str) -> WorkerRow:
        """One worker, by its machine id.

        Raises:
            WorkerMissingError: there is none of that id, or no more.
        """
        for row in await self.workers():
            if row.id == worker_id:
                return row
        raise WorkerMissingError(
            f"There is no worker {worker_id!r} here (any more).", worker_id=worker_id
        )

    async def workers(self, state: WorkerState | None = None) -> list[WorkerRow]:
        """Lists workers.

        Args:
            state: *initing* has no connection yet, *rpc* has one, *idle* is unleased and has no
                recent error, *busy* is leased, *ready* is Ready. All by default.
        """
        reply: asyncio.Future[list[WorkerRow]] = asyncio.get_running_loop().create_future()
        if not self.machine.add1(S.ListWorkers, ListArgs(state, reply)):
            return []
        async with asyncio.timeout(self.opts.op_timeout):
            return await reply

    # -- Start -----------------------------------------------------------------------------

    def StartEnter(self, event: Event) -> bool:
        """Needs its addresses open."""
        return self.public_mux is not None and self.local_rpc is not None

    def StartState(self, event: Event) -> None:
        """Both servers accept already; the core begins."""
        self.machine.add1(S.LocalRpcReady)
        self.machine.add1(S.PublicRpcReady)
        self._beat()
        self._peers.start()
        self._adopt()
        self._feed(events.Tick())

    def StartEnd(self, event: Event) -> None:
        """Drains the pool; when the last process is gone, everything is closed."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        self._feed(events.StopRequested())

    def _open_muxes(self, directory: Path) -> tuple[Mux, Mux]:
        self.public_mux = Mux(
            self.machine,
            self._at.public or f"unix:{directory / 'public'}",
            name=f"{self.name}-public",
            exposure=_PUBLIC,
            secret_of=lambda _client, _role: self.token,
            on_connected=self._client_came,
            on_disconnected=self._client_left,
            replace=True,
            transport=self._outside.transport,
            entropy=self._outside.entropy,
            options=ONE_CONNECTION,
        )
        self.local_rpc = Mux(
            self.machine,
            self._at.local or f"unix:{directory / 'local'}",
            name=f"{self.name}-local",
            exposure=LOCAL,
            secret_of=lambda client, _: self.token if is_peer(client) else self.operator_token,
            on_connected=self._peers.came,
            on_disconnected=self._peers.left,
            transport=self._outside.transport,
            entropy=self._outside.entropy,
            options=ONE_CONNECTION,
        )
        self._peers.local = self.local_rpc
        return self.public_mux, self.local_rpc

    async def _close(self) -> None:
        """The pool has ended: closes what is left."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            for link in [*self._links.values()]:  # those that SetWorker refused to forget
                await link.close()
            for mux in (self.public_mux, self.local_rpc):
                if mux is not None:
                    await mux.stop()
            if self._launcher is not None and isinstance(self._launch_by, str):
                await self._launcher.close()
        finally:
            self._leave_home()
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

    def _make_launcher(self, directory: Path) -> Launcher:
        if not isinstance(self._launch_by, str):
            return self._launch_by
        # A program of the user's own is no Worker class that a fork server could import.
        by = self._launch_by if self.worker_bin == ENTRY else "command"
        return launcher_of(
            by,
            self._target,
            self._preload,
            directory=directory,
            start_timeout=self.opts.start_timeout,
        )

    def _door(self) -> Door:
        pid = os.getpid()
        return Door(
            name=self.name,
            kind=self.worker_kind,
            pid=pid,
            pid_start=started_at(pid),
            public_addr=self.public_addr(),
            local_addr=self.local_addr,
            secret=self.operator_token.hex(),
            tls=self._at.tls,
        )

    def _leave_home(self) -> None:
        if self._home is not None:
            self._home.close()

    def _adopt(self) -> None:
        """Follows the workers of the supervisor before this one."""
        found, self._found = self._found, []
        for record in found:
            self._links[record.worker_id] = self._link(record.worker_id, record)
        if found:
            self._feed(events.Found(tuple((r.worker_id, r.address) for r in found)))
        for record in found:
            self._links[record.worker_id].adopt()

    # -- the core --------------------------------------------------------------------------

    def _feed(self, event: events.Event) -> None:
        """Tells the core, and does what it says (rule 1)."""
        self._inbox.append(event)
        if self._busy:
            return
        self._busy = True
        core = self._core
        try:
            while self._inbox:
                event, before = self._inbox.popleft(), core.decided
                actions = core.handle(event, self._now())
                if self._on_decided is not None:
                    self._on_decided(event, actions)
                for action in actions:
                    self._do(action)
                if core.decided != before:
                    self._publish()
        finally:
            self._busy = False
        self._arm()

    def _do(self, action: events.Action) -> None:
        """Does one thing; a fault in it must not keep the core from its next event."""
        try:
            self._DEEDS[type(action)](self, action)
        except Exception as error:
            logger.exception("%s could not be done.", action)
            self.machine.add_err(error)

    def _arm(self) -> None:
        """Rule 4."""
        at = self._core.next_deadline()
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_at = None
        self._feed(events.Tick())

    def _publish(self) -> None:
        """Shows the core's data as states (rule 2, promise S19)."""
        shown, machine = self._core.shown(), self.machine
        is1 = machine.is1
        if not is1(S.Start):
            return
        self._peers.tell(shown.spare)
        if not shown.broken and is1(S.ErrPool):  # first: it keeps PoolNormalized out
            machine.remove((S.ErrPool, S.Exception))
        states = {
            S.PoolStarting: shown.pool_starting,
            S.PoolReady: shown.pool_ready,
            S.NormalizingPool: shown.normalizing,
            S.PoolNormalized: not shown.normalizing,
            S.WorkersAvailable: shown.workers_available,
            S.Drained: shown.drained,
        }
        wrong = [(name, on) for name, on in states.items() if is1(name) is not on]
        if wrong:
            off = [name for name, on in wrong if not on]
            if off:
                machine.remove(off)
            for name, on in states.items():
                if on and not is1(name):
                    machine.add1(name)
        # Not while there is something that it waits for and the core has not heard of.
        if not shown.to_restart and not self._inbox and is1(S.RollingRestart):
            machine.remove1(S.RollingRestart)
        if shown.broken and not is1(S.ErrPool):
            logger.error("Pool %s starts no workers for now: %s", self.name, shown.broken)
            add_err_pool(machine, f"The pool is held back: {shown.broken}")

    def NormalizingPoolState(self, event: Event) -> None:
        """Missing workers are being started, or say why not; the core sees to it."""
        if logger.isEnabledFor(logging.DEBUG):
            why = self.view().why_not_growing
            logger.debug("Pool %s misses workers: %s.", self.name, why)

    def PoolReadyEnter(self, event: Event) -> bool:
        """At least the minimum is ready."""
        return self._core.shown().pool_ready

    def PoolReadyExit(self, event: Event) -> bool:
        """Not while the pool is ready, unless the supervisor stops."""
        stopping = self.machine.index(S.Start) in event.mutation.called
        return stopping or not self._core.shown().pool_ready

    # -- deeds: the processes ----------------------------------------------------------------

    def _do_spawn(self, action: events.Spawn) -> None:
        self.machine.add1(S.ForkWorker, _WorkerArgs(action.worker_id))

    def ForkWorkerEnter(self, event: Event) -> bool:
        """Asked for by the core, which keeps to the maximum."""
        return isinstance(event.args, _WorkerArgs)

    def ForkWorkerState(self, event: Event) -> None:
        """Opens the bootstrap of a new worker."""
        args: _WorkerArgs = event.args
        self.machine.remove1(S.ForkWorker)
        link = self._link(args.worker_id)
        self.machine.add1(S.SetWorker, _WorkerArgs(args.worker_id, link=link))
        self._start_step(args.worker_id, self._bootstrap(link))

    def _link(self, worker_id: str, record: WorkerRecord | None = None) -> WorkerLink:
        assert self._home is not None
        return WorkerLink(
            worker_id,
            worker_id.removeprefix("nw-"),
            home=self._home,
            kind=self.worker_kind,
            supervisor_id=self.machine.id,
            schema=self._schema,
            opts=self.opts,
            tell=self._heard,
            record=record,
            door=self._at.door,
            outside=self._outside,
        )

    def _start_step(self, worker_id: str, step: Coroutine[Any, Any, None]) -> None:
        """A task towards a process; the core is told even if it is cancelled."""

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled():
                self._feed(events.SpawnFailed(worker_id, "its start was cancelled"))

        self.machine.spawn(None, step).add_done_callback(ended)

    async def _bootstrap(self, link: WorkerLink) -> None:
        try:
            secret = await link.open_bootstrap(
                lambda call: self._called_back(link.worker_id, call)
            )
        except RpcError as error:
            self._feed(events.SpawnFailed(link.worker_id, str(error)))
            return
        args = _WorkerArgs(link.worker_id, secret=secret)
        if not self.machine.add1(S.ForkingWorker, args):
            self._feed(events.SpawnFailed(link.worker_id, "the supervisor is stopping"))

    def ForkingWorkerEnter(self, event: Event) -> bool:
        """Needs a bootstrap with an address."""
        args = event.args
        link = self._links.get(args.worker_id) if isinstance(args, _WorkerArgs) else None
        return link is not None and link.bootstrap is not None

    def ForkingWorkerState(self, event: Event) -> None:
        """Starts the process."""
        args: _WorkerArgs = event.args
        self.machine.remove1(S.ForkingWorker)
        link = self._links[args.worker_id]
        assert self._launcher is not None
        launch = link.launch(
            self._launcher,
            self.worker_bin,
            path=absolute_path(),
            target=self._target,
            secret=args.secret,
        )
        self._start_step(args.worker_id, launch)

    def SetWorkerEnter(self, event: Event) -> bool:
        """Names a worker."""
        return isinstance(event.args, _WorkerArgs)

    def SetWorkerState(self, event: Event) -> None:
        """Keeps the link of a worker, or without one, closes and forgets it (rule 3)."""
        args: _WorkerArgs = event.args
        self.machine.remove1(S.SetWorker)
        if args.link is not None:
            self._links[args.worker_id] = args.link
            return
        link = self._links.pop(args.worker_id, None)
        if link is not None:
            self.machine.spawn(None, link.close())

    def _called_back(self, worker_id: str, call: NodeRpcArgs) -> None:
        self.machine.add1(S.WorkerConnected, _WorkerArgs(worker_id, boot=call))

    def WorkerConnectedEnter(self, event: Event) -> bool:
        """Says where the worker listens."""
        args = event.args
        return (
            isinstance(args, _WorkerArgs)
            and args.boot is not None
            and bool(args.boot.local_addr)
        )

    def WorkerConnectedState(self, event: Event) -> None:
        """The worker called its bootstrap."""
        args: _WorkerArgs = event.args
        self.machine.remove1(S.WorkerConnected)
        link = self._links.get(args.worker_id)
        if link is not None and args.boot is not None:
            link.called_back(args.boot.local_addr, args.boot.public_addr)
            self._feed(events.CalledBack(args.worker_id, args.boot.local_addr))

    def _ask(
        self, worker_id: str, ask: Callable[[WorkerLink], Coroutine[Any, Any, None]]
    ) -> None:
        """Has the link of a worker do something, if there still is one."""
        link = self._links.get(worker_id)
        if link is not None:
            self.machine.spawn(None, ask(link))

    def _do_connect(self, action: events.Connect) -> None:
        self._ask(action.worker_id, lambda link: link.connect(action.address))

    def WorkerForkedEnter(self, event: Event) -> bool:
        """Names a worker that is connected."""
        args = event.args
        return isinstance(args, _WorkerArgs) and args.worker_id in self._links

    def WorkerForkedState(self, event: Event) -> None:
        """The supervisor is connected to the worker."""
        self.machine.remove1(S.WorkerForked)

    def WorkerReadyState(self, event: Event) -> None:
        """A worker became ready."""
        self.machine.remove1(S.WorkerReady)

    def WorkerGoneState(self, event: Event) -> None:
        """A worker disconnected."""
        self.machine.remove1(S.WorkerGone)

    def _heard(self, event: events.Event) -> None:
        """An event of a worker: shown as a state where there is one, and told to the core."""
        match event:
            case events.Started(fallback=reason) if reason and not self.view().fallback:
                logger.warning("Workers are started by command, because %s.", reason)
            case events.Connected(worker_id):
                self.machine.add1(S.WorkerForked, _WorkerArgs(worker_id))
            case events.ReadyChanged(worker_id, True):
                self.machine.add1(S.WorkerReady, _WorkerArgs(worker_id))
            case events.Exited(worker_id):
                self._reporting.losing(worker_id)
            case events.ConnectionLost(worker_id):
                self._reporting.losing(worker_id)
                self.machine.add1(S.WorkerGone, _WorkerArgs(worker_id))
            case _:  # the core alone hears of the others
                pass
        self._feed(event)

    def _do_probe(self, action: events.Probe) -> None:
        if action.fresh:
            self._ask(action.worker_id, lambda link: link.greet(action.check))
        elif (link := self._links.get(action.worker_id)) is not None:
            link.probe(action.check)

    def _do_retire(self, action: events.Retire) -> None:
        logger.debug("Worker %s is to retire: %s.", action.worker_id, action.reason)
        self._ask(action.worker_id, lambda link: link.retire(action.expected_tick))

    def _do_terminate(self, action: events.Terminate) -> None:
        link = self._links.get(action.worker_id)
        if link is not None and link.process is not None:
            logger.debug("SIGTERM to worker %s: %s.", action.worker_id, action.reason)
            link.process.terminate()

    def _do_kill(self, action: events.Kill) -> None:
        logger.debug("SIGKILL to worker %s: %s.", action.worker_id, action.reason)
        if action.attempt > 1:
            lasting = f"Worker {action.worker_id} did not end at SIGKILL; it is tried again."
            error = WorkerKillError(lasting, worker_id=action.worker_id)
            add_err_worker(self.machine, error)
        self.machine.add1(S.KillWorker, _WorkerArgs(action.worker_id, hung=action.hung))

    def KillWorkerState(self, event: Event) -> None:
        """A worker should go."""
        self.machine.remove1(S.KillWorker)
        self.machine.add1(S.KillingWorker, event.args)

    def KillingWorkerEnter(self, event: Event) -> bool:
        """Names a worker."""
        return isinstance(event.args, _WorkerArgs)

    def KillingWorkerState(self, event: Event) -> None:
        """Kills its process group; its exit is told when it is seen."""
        args: _WorkerArgs = event.args
        self.machine.remove1(S.KillingWorker)
        link = self._links.get(args.worker_id)
        if link is not None and args.hung:
            self.machine.spawn(None, link.kill_hung())
        elif link is not None:
            link.kill()

    def _do_forget(self, action: events.Forget) -> None:
        self.machine.add1(S.WorkerKilled, _WorkerArgs(action.worker_id))
        report = None if action.expected else action.report
        self._reporting.ended(action.worker_id, report)
        if report is None:
            return
        logger.warning("%s", "\n".join((report.message, *report.stack)))
        add_err_worker(self.machine, crash.error(action.worker_id, report))

    def _do_disown(self, action: events.Disown) -> None:
        """Lets a worker go; if it was started here, its end is still seen."""
        logger.warning("Worker %s is let go: %s.", action.worker_id, action.reason)
        link = self._links.pop(action.worker_id, None)
        if link is None:
            return
        self.machine.spawn(None, link.close(lives=True))
        process = link.process
        if process is not None and not link.is_adopted:
            self._disowned[action.worker_id] = process
            process.exited.add_done_callback(
                lambda _: self._disowned.pop(action.worker_id, None)
            )

    def WorkerKilledEnter(self, event: Event) -> bool:
        """Names a worker."""
        return isinstance(event.args, _WorkerArgs)

    def WorkerKilledState(self, event: Event) -> None:
        """It is dead and forgotten."""
        args: _WorkerArgs = event.args
        self.machine.remove1(S.WorkerKilled)
        self.machine.add1(S.SetWorker, _WorkerArgs(args.worker_id))

    def ErrWorkerState(self, event: Event) -> None:
        """Recorded; the core has counted it."""
        self.machine.remove((S.ErrWorker, S.Exception))

    # -- deeds: the leases -------------------------------------------------------------------

    def _do_serve(self, action: events.Serve) -> None:
        link = self._links.get(action.worker_id)
        if link is None:
            return
        terms = self.opts.terms
        args = ServeClientArgs(
            client_id=action.waiter.worker_rpc_id,
            secret=self._outside.entropy(32),
            expected_tick=action.expected_tick,
            delivery_timeout=terms.delivery_timeout,
            grace=terms.grace,
            maximum=terms.maximum,
        )
        link.serve(args, action.epoch)

    def _do_withdraw(self, action: events.Withdraw) -> None:
        self._ask(action.worker_id, lambda link: link.withdraw(action.epoch))

    def _do_grant(self, action: events.SendGrant) -> None:
        link = self._links[action.worker_id]
        grant = Grant(
            request_id=action.request_id,
            worker_id=action.worker_id,
            epoch=action.epoch,
            address=link.public_addr,
            secret=link.lease_secret,
        )
        self._send(action.client_id, grant)

    def _do_deny(self, action: events.SendDenied) -> None:
        denied = Denied(
            request_id=action.request_id, reason=action.reason, timed_out=action.timed_out
        )
        self._send(action.client_id, denied)

    def _do_crash(self, action: events.SendCrash) -> None:
        crashed = WorkerCrashed(
            worker_id=action.worker_id, epoch=action.epoch, report=action.report
        )
        self._send(action.client_id, crashed)

    def _send(self, client_id: str, data: Wire) -> None:
        if self._peers.answer(client_id, data):
            return
        args = SendPayloadArgs(name=type(data).__name__, data=data, to=client_id)
        self.machine.add1(S.ClientSendPayload, args)

    def ClientSendPayloadState(self, event: Event) -> None:
        """Sends a payload to one client, if it is still there."""
        args: SendPayloadArgs = event.args
        self.machine.remove1(S.ClientSendPayload)
        server = self.public_rpcs.get(args.to)
        if server is not None and server.is_open:
            server.send_payload(args.name, args.data)

    def _do_report_leak(self, action: events.ReportLeak) -> None:
        logger.warning(
            "Client %s has had worker %s for more than %g s (epoch %d). If it has forgotten to "
            "release it, `Client(..., trace_leases=True)` tells where it took it.",
            *(action.name, action.worker_id, action.after, action.epoch),
        )

    def _do_send_passed(self, action: events.SendPassed) -> None:
        self._send(action.client_id, action.grant)

    def _do_peer(self, action: PeerAction) -> None:
        self._peers.do(action)

    def _do_stopped(self, _action: events.Stopped) -> None:
        self.machine.spawn(None, self._close())

    # -- clients -----------------------------------------------------------------------------

    def _client_came(self, server: RpcServer) -> None:
        self.machine.add1(S.ClientConnected, NodeRpcArgs(super_rpc_id=server.client_id))

    def ClientConnectedState(self, event: Event) -> None:
        """A client came."""
        self.machine.remove1(S.ClientConnected)

    def _client_left(self, server: RpcServer, _reason: str) -> None:
        self.machine.add1(S.ClientDisconnected, NodeRpcArgs(super_rpc_id=server.client_id))

    def ClientDisconnectedEnter(self, event: Event) -> bool:
        """Names a client."""
        return isinstance(event.args, NodeRpcArgs) and bool(event.args.super_rpc_id)

    def ClientDisconnectedState(self, event: Event) -> None:
        """A client left: its requests end, its leases do not."""
        args: NodeRpcArgs = event.args
        self.machine.remove1(S.ClientDisconnected)
        self._feed(events.ClientGone(self._peers.gone(event, args.super_rpc_id)))

    def ProvideWorkerEnter(self, event: Event) -> bool:
        """Comes from a client, and says for what."""
        return bool(event.args.request_id) and self._peers.may_ask(event)

    def ProvideWorkerState(self, event: Event) -> None:
        """A client asks for a worker, or takes that back."""
        self.machine.remove1(S.ProvideWorker)
        args: ProvideWorkerArgs = event.args
        client_id = self._peers.asker(event)
        guest = self._peers.is_guest(client_id)
        if args.cancel:
            self._feed(events.Cancelled(client_id, args.request_id))
            return
        self._feed(
            events.Requested(
                client_id=client_id,
                name=client_name(args.super_rpc_id if guest else client_id),
                request_id=args.request_id,
                time_left=args.time_left,
                kind=args.kind,
                schema_hash=args.schema_hash,
                worker_rpc_id=args.worker_rpc_id,
                guest=guest,
            )
        )

    def WorkerIssuesEnter(self, event: Event) -> bool:
        """Comes from a client."""
        return self._peers.may_ask(event)

    def WorkerIssuesState(self, event: Event) -> None:
        """A client returns a grant."""
        self.machine.remove1(S.WorkerIssues)
        args: WorkerIssuesArgs = event.args
        client_id = self._peers.asker(event)
        logger.debug("%s returns worker %s: %s.", client_id, args.worker_id, args.reason)
        self._feed(
            events.Returned(
                client_id=client_id,
                request_id=args.request_id,
                worker_id=args.worker_id,
                epoch=args.epoch,
                again=args.again,
            )
        )

    def SendPayloadEnter(self, event: Event) -> bool:
        """Never: a payload is for a client or for a peer, and says so."""
        return False

    # -- looking after ------------------------------------------------------------------------

    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        self._heartbeat = loop.call_later(self.opts.heartbeat, self._beat)
        self.machine.add1(S.Heartbeat)

    def HeartbeatState(self, event: Event) -> None:
        """Has the core look over the pool; where there is extra logging, over itself too."""
        self.machine.remove1(S.Heartbeat)
        self._feed(events.Tick())
        if self.log_enabled:
            try:
                self._core.check()
            except AssertionError as error:
                add_err_pool(self.machine, HeartbeatError(str(error)))

    def HealthcheckState(self, event: Event) -> None:
        """Answered by being run."""
        self.machine.remove1(S.Healthcheck)

    def _link_of(self, worker_id: str) -> WorkerLink | None:
        return self._links.get(worker_id)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    _DEEDS: ClassVar[dict[type[Any], Callable[[Supervisor, Any], None]]] = {
        events.Spawn: _do_spawn,
        events.Connect: _do_connect,
        events.Probe: _do_probe,
        events.Serve: _do_serve,
        events.Withdraw: _do_withdraw,
        events.Retire: _do_retire,
        events.Terminate: _do_terminate,
        events.Kill: _do_kill,
        events.SendGrant: _do_grant,
        events.SendDenied: _do_deny,
        events.SendCrash: _do_crash,
        events.Forget: _do_forget,
        events.Disown: _do_disown,
        events.ReportLeak: _do_report_leak,
        events.SendPassed: _do_send_passed,
        events.PassOn: _do_peer,
        events.TakeBack: _do_peer,
        events.GiveBack: _do_peer,
        events.TellGone: _do_peer,
        events.Stopped: _do_stopped,
    }
