"""Worker: a process that serves one client at a time, under a supervisor.

Its life: it opens two servers, tells its bootstrap where they are, and is found by its
supervisor through the local one. The supervisor asks it to serve a client (`ServeClient`); it
arbitrates that itself (`Leased`, with the epoch that fences everything), lets exactly that
client in at the public server, does its jobs one at a time, and tells the supervisor of each
change.

Rules:

1. What may be is decided by `policy.lease` and the guards here; the handlers only do it.
2. Only this file adds `Leased`, and only when the lease agreed in the same drain.
3. A job is over when its coroutine has ended, not when it was asked to. Until then the worker
   is neither idle nor free.
4. A lease ends in one order: the job, the hook, the session, `Leased`, and then the supervisor
   is told.
5. A hook that a class has shows as a state while it runs. All but `on_start`, which the
   supervisor bounds, have `release_timeout`; one that does not even end when it is cancelled
   costs its worker, as a job does.

Past 800 lines, because every guard and handler of the worker's machine stands here, in one
sequence; what a job is, and how one is run, stands in `jobs.py` and `work.py`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import signal
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec

from amnode.errors import (
    AmnodeError,
    JobArgumentsError,
    JobCancelled,
    JobError,
    JobTimeoutError,
    JobUnknownError,
    LeaseLost,
    OptionError,
    Outcome,
    RefusedError,
)
from amnode.launch.entry import prepare, take_boot
from amnode.machine.machine import ErrorArgs, Machine
from amnode.machine.queue import Result
from amnode.machine.schema import Schema, States
from amnode.machine.transition import Event
from amnode.node.args import (
    PROGRESS,
    NodeRpcArgs,
    ProgressNews,
    ReleasingArgs,
    RetireArgs,
    SendPayloadArgs,
    ServeClientArgs,
    ServeOperatorArgs,
    StartArgs,
    WorkArgs,
    WorkerBoot,
    WorkerInfo,
)
from amnode.node.chunks import CHUNK, chunk
from amnode.node.class_name import load
from amnode.node.dispatcher import Dispatcher
from amnode.node.failures import checked as checked_exceptions
from amnode.node.failures import known_of
from amnode.node.job_note import SIZE as NOTE_SIZE
from amnode.node.job_note import JobNote
from amnode.node.job_thread import JobThread
from amnode.node.jobs import Job, jobs_of
from amnode.node.names import EXIT_ORPHAN, EXIT_SET_UP, EXIT_STUCK, LOG_WORKER, handshake_id
from amnode.node.operators import Operators
from amnode.node.outside import REAL, Host, Outside, OwnProcess, end_process
from amnode.node.policy.door import DEFAULT_DOOR, ClientDoor
from amnode.node.policy.lease import End, WorkerLease
from amnode.node.policy.options import LeaseTerms, WorkerOptions, checked
from amnode.node.policy.owner import STALE, Claim, Owner
from amnode.node.progress import Progress
from amnode.node.states import BootstrapStates, WorkerStates
from amnode.node.timers import Timers
from amnode.node.transition_log import TransitionLog
from amnode.node.values import Packed
from amnode.node.work import Bounds, Driver, Work
from amnode.rpc.client import RpcClient
from amnode.rpc.exposure import Exposure
from amnode.rpc.mux import Mux
from amnode.rpc.options import ONE_CONNECTION, RpcOptions
from amnode.rpc.origin import Deferred, Origin
from amnode.rpc.protocol.subscription import schema_hash
from amnode.rpc.server import RpcServer
from amnode.rpc.transport.with_files import transport_of

logger = logging.getLogger("amnode.node")

#: A session lasts as long as its lease, which ends it (rule 4).
_PUBLIC = RpcOptions(session_ttl=24 * 3600)
#: What a class may define again, beside its handlers.
_HOOKS = ("on_start", "on_lease", "on_release", "on_stop")
_ATTRIBUTES = ("kind", "schema", "preload", "exposure", "exceptions", "work_args")
_TO_EXTEND = (*_ATTRIBUTES, "in_main_thread", *_HOOKS)

#: What a kind may be called.
_KIND = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,64}")

#: Why a call is refused that comes before `on_lease` has ended.
_SETTING_UP = "the lease is being set up"

S = WorkerStates
_READY = S.WorkReady


class Worker:
    """Base of worker classes: subclass it and declare jobs.

    One instance lives in one process and serves one client at a time, so whatever a job keeps
    on `self` is the client's own until its lease ends. `on_release` is where it is cleared; a
    worker whose class has none is replaced when a lease did not end by release.

    Args:
        kind: what the worker is, for clients that ask; by default the class attribute, or the
            name of the class.
        schema: the states, an extension of `WorkerStates`; by default the class attribute.
        names: an order of the states other than the schema's.
        opts: see `WorkerOptions`.
        outside: what it touches beside its loop; the system, by default.

    The module of the class is imported once, before workers are forked, and so is each that
    `preload` names: what takes long to import and starts no threads. What each worker needs of
    its own (connections, threads, locks, open files) is made in `__init__` or by the first job.

    What its jobs raise is raised at their caller as what it is where that is an exception of
    Python itself, or one that the class lists in `exceptions`.

    A class may define handlers for its own states, and extend those that are here if it calls
    the inherited one too. One whose clients also add `WorkRequested` by themselves, for such
    handlers, names the struct of its arguments in `work_args`.
    """

    kind: ClassVar[str] = ""
    schema: ClassVar[type[States]] = WorkerStates
    preload: ClassVar[tuple[str, ...]] = ()
    exceptions: ClassVar[tuple[type[Exception], ...]] = ()
    work_args: ClassVar[type[msgspec.Struct] | None] = None

    def __init__(
        self,
        kind: str = "",
        schema: Schema | type[States] | None = None,
        names: Sequence[str] = (),
        *,
        opts: WorkerOptions | None = None,
        outside: Outside = REAL,
    ) -> None:
        self.opts = checked(opts, WorkerOptions)
        self._outside = outside
        self._machine = Machine(_schema(schema or type(self).schema, names), id="nw-")
        self._machine.bind(self)
        self._name = ""
        self._lease = WorkerLease()
        self.local_rpc: Mux | None = None
        self.public_rpc: Mux | None = None
        self.boot_rpc: RpcClient | None = None
        self._operators: Operators | None = None
        self._boot_addr = ""
        self._kind = kind or kind_of(type(self))
        self._jobs = {CHUNK: chunk, **jobs_of(type(self))}
        self._calls = Dispatcher(self._machine, self._job_of, self._work_of)
        # What every call asks for.
        mask_of = self._machine.mask_of
        self._is_working = mask_of((S.Working,))
        self._is_progressing = mask_of((S.Progressing,))
        self._is_setting_up = mask_of((S.LeaseSettingUp,))
        #: Whether the last job left an error that the next call clears.
        self._failed = False
        self._timers = Timers()
        self._thread = JobThread(f"{self._kind}-jobs")
        self._driver = Driver(
            timers=self._timers,
            thread=self._thread,
            known=known_of(type(self)),
            why_ending=self._ending,
            end_in=lambda seconds, words: self._host.end_in(seconds, words),
            on_stuck=self._stuck,
            on_progress=self._work_progress,
            on_end=self._work_ended,
        )
        self._jobs_done = self._rss = 0
        self._born = 0.0
        self._lease_timer: asyncio.TimerHandle | None = None
        self._orphan_timer: asyncio.TimerHandle | None = None
        self._clean = True
        self._hook = ""
        self._is_set_up = not self._has("on_start")
        #: Runs `on_lease`.
        self._setting_up: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[int] | None = None
        self._host: Host = OwnProcess()
        self._exit_code = 0
        self._directory = ""
        self._note = JobNote(bytearray(NOTE_SIZE))
        self._door = DEFAULT_DOOR
        self._keep = False
        self._owner = Owner()
        self._orphan_ttl = self.opts.orphan_ttl

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuses a name that would silently replace something that a worker needs."""
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            if name in _TO_EXTEND or name.startswith("__") or name[0].isupper():
                continue
            if hasattr(Worker, name):
                raise OptionError(
                    f"{cls.__qualname__}.{name} would replace what every worker has under this "
                    "name; choose another."
                )
        for hook in _HOOKS:
            if not inspect.iscoroutinefunction(getattr(cls, hook)):
                raise OptionError(f"{cls.__qualname__}.{hook} must be an `async def` method.")
        checked_exceptions(cls.__qualname__, cls.exceptions)
        own = cls.work_args
        if own is not None and (
            not (isinstance(own, type) and issubclass(own, msgspec.Struct))  # pyright: ignore[reportUnnecessaryIsInstance]
            or own.__struct_config__.array_like
        ):
            raise OptionError(
                f"{cls.__qualname__}.work_args is {own!r}; it must be a msgspec.Struct that is "
                "not array_like."
            )

    @property
    def machine(self) -> Machine:
        """The worker's states."""
        return self._machine

    @property
    def name(self) -> str:
        """Of the worker; "" until it is started."""
        return self._name

    @property
    def accept_client(self) -> str:
        """The only client that may connect, by its id; "" while there is none."""
        return self._lease.client_id

    @property
    def boot_addr(self) -> str:
        """Where the worker calls to say where it listens; "" until it is started."""
        return self._boot_addr

    @property
    def local_addr(self) -> str:
        """Where its supervisor connects; "" until it listens."""
        return self.local_rpc.address if self.local_rpc is not None else ""

    @property
    def public_addr(self) -> str:
        """Where its client connects; "" until it listens."""
        if self.public_rpc is None:
            return ""
        return self._door.told(self.public_rpc.address)

    @property
    def lease(self) -> WorkerLease:
        """Who is served, since when, and in which epoch."""
        return self._lease

    async def on_start(self) -> None:
        """Called once, before the worker is ready: what takes long to make is made here.

        It may take, and even hold the loop, as long as the supervisor's `start_timeout` lets a
        worker start. One that raises ends its process, and counts as a failed start.
        """

    async def on_lease(self) -> None:
        """Called when a lease begins, before its first job; `lease.client_id` says whose.

        It may take as long as the option `release_timeout`. If it raises, the worker is
        replaced, and the client gets another one.
        """

    async def on_stop(self) -> None:
        """Called before the process ends, when it ends in good order.

        It may take as long as the option `release_timeout`, and as long as the supervisor lets
        a worker end (`term_timeout`, twice).
        """

    async def on_release(self) -> None:
        """Called when a lease that was used has ended: clear what the client left.

        A class that defines it says that its workers can serve the next client whatever the
        last one did. It may take as long as the option `release_timeout`.
        """

    def in_main_thread(self) -> None:
        """Called in the main thread of its process, where the class defines it.

        The worker itself then lives in another thread: its loop, its states and its async jobs.
        The two meet by `loop.call_soon_threadsafe` and queues.
        """

    # -- from outside ----------------------------------------------------------------------

    def start(self, boot: WorkerBoot) -> Result:
        """Starts the worker: opens its servers and calls its bootstrap back."""
        self._name = boot.name
        self.machine.id = f"nw-{boot.name}"
        self._directory = boot.directory
        self._boot_addr = boot.boot_addr
        self._keep = boot.keep
        self._orphan_ttl = max(self.opts.orphan_ttl, boot.adopt_wait)
        self._born = self._now()
        return self.machine.add1(S.Start, StartArgs(boot=boot))

    def stop(self, reason: str = "stopped") -> Result:
        """Stops the worker even while it is leased; the reason goes to its log."""
        tick = self.machine.tick(S.Leased)
        return self.machine.remove1(S.Start, RetireArgs(expected_tick=tick, forced=reason))

    async def run(self, boot: WorkerBoot, host: Host | None = None) -> int:
        """Starts the worker and serves until it is stopped; returns the exit code.

        Args:
            boot: what its supervisor says.
            host: the process that it lives in; this one's own by default.

        Raises:
            OptionError: the supervisor wants another kind than this program runs.
        """
        if boot.kind != self._kind:
            raise OptionError(
                f"This program runs workers of kind {self._kind!r}, its supervisor wants "
                f"{boot.kind!r}; give both the same one."
            )
        self._host = host or self._host
        self._ended = asyncio.get_running_loop().create_future()
        self.start(boot)
        try:
            return await self._ended
        finally:
            self._disarm()
            await self.machine.dispose()

    def cut(self) -> None:
        """Ends it as a kill ends its process: no handler runs, and nobody is told anything."""
        if self._ended is not None:
            self._ended.cancel()
        self._disarm()
        for mux in (self.public_rpc, self.local_rpc, self._operators):
            if mux is not None:
                mux.abort()

    def info(self) -> WorkerInfo:
        """What the worker says of itself to its supervisor."""
        now = self._now()
        lease = self.lease
        return WorkerInfo(
            worker_id=self.machine.id,
            kind=self._kind,
            schema_hash=schema_hash(self.machine.schema).hex(),
            leased_tick=self.machine.tick(S.Leased),
            client_id=lease.client_id,
            taken=lease.taken,
            clean=self._clean,
            since=now - lease.since if lease.client_id else 0.0,
            jobs_done=self._jobs_done,
            age=now - self._born,
            rss=self._rss,
        )

    # -- Start -------------------------------------------------------------------------------

    def StartEnter(self, event: Event) -> bool:
        """Needs to know its bootstrap."""
        return isinstance(event.args, StartArgs)

    def StartState(self, event: Event) -> None:
        """Opens both servers."""
        args: StartArgs = event.args
        self.machine.spawn(S.Start, self._open(args.boot))

    def StartExit(self, event: Event) -> bool:
        """Refuses to retire while leased, or by one who does not know the lease (S12)."""
        args = event.args
        if not isinstance(args, RetireArgs):
            return event.mutation.origin is None
        if args.forced:
            return True
        reason = self.lease.refusal_to_retire(args.expected_tick, self.machine.tick(S.Leased))
        return not _refused(event, reason)

    def StartEnd(self, event: Event) -> None:
        """Closes everything and ends the process."""
        args = event.args
        if isinstance(args, RetireArgs) and args.forced:
            self._last_words(args.forced)
        self.lease.stop()
        self.machine.spawn(None, self._close())

    async def _open(self, boot: WorkerBoot) -> None:
        machine = self.machine
        self._calls.prepare()
        base = f"{boot.directory}/{boot.name}"
        try:
            self._note = JobNote(self._outside.files.page(f"{base}.j", NOTE_SIZE))
        except OSError as error:  # a full disk: what it does cannot be seen, but it works
            machine.add_err(error)
        self._operators = Operators(
            machine,
            f"unix:{base}.o",
            name=self.name,
            exposure=self.exposure,
            story=self.opts.story,
            outside=self._outside,
        )
        self.local_rpc = Mux(
            machine,
            f"unix:{base}.l",
            name=f"{self.name}-local",
            exposure=msgspec.structs.replace(_LOCAL, implied=machine.schema.names),
            secret_of=lambda _client, _role: boot.local_secret,
            admit=self._admit_supervisor,
            on_connected=self._supervisor_came,
            on_disconnected=self._supervisor_left,
            replace=True,
            transport=self._outside.transport,
            entropy=self._outside.entropy,
            options=ONE_CONNECTION,
        )
        try:
            await self.local_rpc.start()
            machine.add1(S.LocalRpcReady, NodeRpcArgs(local_addr=self.local_rpc.address))
            self.public_rpc = self._public_mux(boot.door, f"unix:{base}.p")
            await self._open_public(self.public_rpc)
            machine.add1(S.PublicRpcReady, NodeRpcArgs(public_addr=self.public_addr))
            await self._call_back(boot)
        except AmnodeError as error:
            # Without its servers or its bootstrap nobody can ever find this worker.
            machine.add_err_state(S.ErrSupervisor, error)
            self._end_unsupervised(f"it cannot be supervised: {error}")

    def _public_mux(self, door: ClientDoor, otherwise: str) -> Mux:
        """The server for the client; of a network, with what TLS shows.

        Raises:
            OptionError: what TLS needs cannot be read.
        """
        self._door = door
        return Mux(
            self.machine,
            door.address or otherwise,
            name=f"{self.name}-public",
            exposure=self.exposure(),
            takers={S.WorkRequested: self._calls.take},
            secret_of=lambda client, _role: self.lease.secret_for(client),
            admit=self._admit,
            on_connected=self._client_came,
            on_cut=self._client_left,
            on_resumed=self._client_back,
            on_disconnected=self._client_left,
            transport=transport_of(
                self._outside.transport, door.tls, allow_plaintext=door.allow_plaintext
            ),
            entropy=self._outside.entropy,
            options=_PUBLIC,
        )

    async def _open_public(self, mux: Mux) -> None:
        try:
            await mux.start()
        except AmnodeError as error:
            self.machine.add_err_state(S.ErrClient, error)
            raise

    async def _call_back(self, boot: WorkerBoot) -> None:
        await self.machine.when1(S.RpcReady)
        assert self.local_rpc is not None and self.public_rpc is not None
        client = self.boot_rpc = RpcClient(
            boot.boot_addr,
            id=handshake_id(self.machine.id),
            secret=boot.secret,
            schema=BootstrapStates.schema(),
            transport=self._outside.transport,
            entropy=self._outside.entropy,
            options=ONE_CONNECTION,
        )
        await client.start()
        try:
            address = NodeRpcArgs(
                id=self.machine.id,
                local_addr=self.local_rpc.address,
                public_addr=self.public_addr,
            )
            if not await client.source.add1(BootstrapStates.WorkerAddr, address):
                raise RefusedError(f"The bootstrap at {boot.boot_addr} refused the call.")
        finally:
            self.boot_rpc = None
            await client.stop()
        self._wait_for_supervisor(self.opts.conn_timeout)

    async def _close(self) -> None:
        self._disarm_lease()
        if self._calls.work is not None:
            await self._end_work()
        if self._is_set_up and self._has("on_stop"):
            self.machine.add1(S.TearingDown)
            await self._run_hook("on_stop")
            self.machine.remove1(S.TearingDown)
        self._disarm()
        for mux in (self.public_rpc, self.local_rpc):
            if mux is not None:
                await mux.stop()
        if self._operators is not None:
            await self._operators.close()
        if self._exit_code == EXIT_ORPHAN and not self._keep:
            self._outside.files.remove_abandoned(self._directory, self.name)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(self._exit_code)

    def exposure(self) -> Exposure:
        """Which states a client may change; a class that opens more extends it, and says in
        `implied` which closed ones may follow them by relations.
        """
        return Exposure(
            mutable={
                S.WorkRequested: (WorkArgs, self.work_args) if self.work_args else WorkArgs,
                S.Releasing: ReleasingArgs,
            },
            implied=(S.Idle, S.Working, S.WorkReady),
        )

    def _has(self, hook: str) -> bool:
        return getattr(type(self), hook) is not getattr(Worker, hook)

    # -- readiness ---------------------------------------------------------------------------

    def LocalRpcReadyState(self, event: Event) -> None:
        """The supervisor can connect."""
        logger.debug("Worker %s listens for its supervisor at %s.", self.name, event.args)

    def PublicRpcReadyState(self, event: Event) -> None:
        """The client can connect."""
        logger.debug("Worker %s listens for its client at %s.", self.name, event.args)

    def RpcReadyState(self, event: Event) -> None:
        """Both servers accept: the worker is ready, unless it has to be set up first."""
        if not self._has("on_start"):
            self.machine.add1(S.Ready)

    def SettingUpState(self, event: Event) -> None:
        """Makes what the worker needs; its supervisor is connected, and waits."""
        self.machine.spawn(S.SettingUp, self._set_up())

    async def _set_up(self) -> None:
        try:
            await self.on_start()
        except (asyncio.CancelledError, SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            logger.exception("on_start of worker %s failed.", self.name)
            self._exit(EXIT_SET_UP, f"on_start failed: {error!r}")
            return
        self._is_set_up = True
        self.machine.add1(S.Ready)
        self.machine.remove1(S.SettingUp)

    def HealthcheckState(self, event: Event) -> None:
        """Answered by being run: the loop that dispatches jobs is alive."""
        self.machine.remove1(S.Healthcheck)

    def ExceptionState(self, event: Event) -> None:
        """Whatever went wrong in the worker is in its output, which a report shows."""
        args = event.args
        if isinstance(args, ErrorArgs) and not isinstance(args.error, JobError):
            where = f" in {args.handler.name}" if args.handler is not None else ""
            logger.error("Worker %s: an error%s.", self.name, where, exc_info=args.error)

    def ErrNetworkState(self, event: Event) -> None:
        """A connection that broke is over; nothing else is wrong with the worker."""
        self.machine.remove((S.ErrNetwork, "Exception"))

    # -- the supervisor ----------------------------------------------------------------------

    def _admit_supervisor(self, server: RpcServer) -> str | None:
        claim = Claim.of(server.client_id)
        refusal = self._owner.refusal(claim)
        if refusal or claim is None:
            return refusal
        self._owner.came(claim)
        return None

    def _supervisor_came(self, _server: RpcServer) -> None:
        assert self.local_rpc is not None
        for other in [*self.local_rpc.servers.values()]:
            if not self._owner.is_owner(Claim.of(other.client_id)):
                other.close(f"{STALE}: a newer supervisor has taken this worker over")
        if self.machine.is1(S.SuperConnected):
            self._tell()  # it goes on to be connected, to another one
        else:
            self.machine.add1(S.SuperConnected)

    def _supervisor_left(self, server: RpcServer, _reason: str) -> None:
        self._owner.left(Claim.of(server.client_id))
        if self.local_rpc is None or not self.local_rpc.servers:
            self.machine.remove1(S.SuperConnected)

    def SuperConnectedState(self, event: Event) -> None:
        """Tells a new supervisor everything that it has to know."""
        if self._orphan_timer is not None:
            self._orphan_timer.cancel()
            self._orphan_timer = None
        self._tell()
        if not self._is_set_up and self.machine.not1(S.SettingUp):
            # Not before its supervisor is connected, which would take a blocked loop for a
            # failure to answer.
            self.machine.add1(S.SettingUp)

    def SuperConnectedEnd(self, event: Event) -> None:
        """Goes on with its lease, then waits for a supervisor, then ends."""
        if self.machine.is1(S.Start):
            self._wait_for_supervisor(self._orphan_ttl)

    def _wait_for_supervisor(self, patience: float) -> None:
        if self._orphan_timer is not None or self.machine.is1(S.SuperConnected):
            return
        if self._is_over:
            return
        loop = asyncio.get_running_loop()
        self._orphan_timer = loop.call_later(patience, self._orphaned)

    def _orphaned(self) -> None:
        self._orphan_timer = None
        if self.machine.is1(S.Leased):
            return  # the end of the lease asks again
        self._end_unsupervised("no supervisor came for it")

    def _tell(self) -> None:
        self.machine.add1(
            S.SuperSendPayload, SendPayloadArgs(name="WorkerInfo", data=self.info())
        )

    def SuperSendPayloadState(self, event: Event) -> None:
        """Sends a payload to the supervisor, where there is one."""
        self.machine.remove1(S.SuperSendPayload)
        self._send(self.local_rpc, event.args)

    def ClientSendPayloadState(self, event: Event) -> None:
        """Sends a payload to the client, where there is one."""
        self.machine.remove1(S.ClientSendPayload)
        self._send(self.public_rpc, event.args)

    def _send(self, mux: Mux | None, args: SendPayloadArgs) -> None:
        for server in [*mux.servers.values()] if mux is not None else []:
            server.send_payload(args.name, args.data)

    def SendPayloadEnter(self, event: Event) -> bool:
        """Never: a payload is for the client or for the supervisor, and says so."""
        return False

    # -- the lease ---------------------------------------------------------------------------

    def ServeClientEnter(self, event: Event) -> bool:
        """Agrees to serve a client, by compare-and-set on the tick of `Leased`."""
        args = event.args
        if not isinstance(args, ServeClientArgs):
            return False
        reason = self.lease.refusal_to_serve(
            args.client_id, args.secret, args.expected_tick, self.machine.tick(S.Leased)
        )
        if not reason and self.machine.not1(S.Idle):
            reason = "the worker is not idle"
        return not _refused(event, reason)

    def ServeClientState(self, event: Event) -> None:
        """Rule 2: `Leased` comes in the same drain."""
        args: ServeClientArgs = event.args
        self.machine.remove1(S.ServeClient)
        self.lease.serve(
            args.client_id,
            args.secret,
            expected_tick=args.expected_tick,
            terms=LeaseTerms(
                delivery_timeout=args.delivery_timeout, grace=args.grace, maximum=args.maximum
            ),
            now=self._now(),
        )
        self.machine.add1(S.Leased, args)

    def LeasedEnter(self, event: Event) -> bool:
        """Rule 2: nobody else may add it."""
        return event.mutation.origin is None and self.lease.is_beginning

    def LeasedState(self, event: Event) -> None:
        """A lease began: its clock runs."""
        self._clean = True
        self._arm()
        self._tell()
        if self._has("on_lease"):
            self.machine.add1(S.LeaseSettingUp)

    def LeaseSettingUpState(self, event: Event) -> None:
        """Prepares for the client, which waits until this state has ended."""
        self._setting_up = self.machine.spawn(S.LeaseSettingUp, self._set_up_lease())

    async def _set_up_lease(self) -> None:
        if await self._run_hook("on_lease"):
            self.machine.remove1(S.LeaseSettingUp)
        elif self.lease.begin_end(End.NOT_SET_UP):
            args = ReleasingArgs(epoch=self.lease.epoch, reason=End.NOT_SET_UP.value)
            self.machine.add1(S.Releasing, args)

    def LeasedEnd(self, event: Event) -> None:
        """A lease is over: tells the supervisor, or looks for one."""
        self.lease.ended()
        if self.public_rpc is not None:
            # A proof of the old secret must not open the next lease.
            self.public_rpc.refuse_pending("The lease of this secret is over.")
        self._rss = self._outside.memory()
        self._arm()
        self._tell()
        if self.machine.is1(S.Start) and self.machine.not1(S.SuperConnected):
            self._wait_for_supervisor(self._orphan_ttl)

    def _admit(self, server: RpcServer) -> str | None:
        if self.lease.opened(server.client_id):
            self._arm()
            self._tell()
            return None
        return "the lease secret was used, or its lease is over"

    def _client_came(self, server: RpcServer) -> None:
        self.machine.add1(S.ClientConnected, NodeRpcArgs(id=server.client_id))

    def _client_back(self, server: RpcServer) -> None:
        self.lease.connection_back()
        self._arm()
        self._client_came(server)
        self._calls.look()

    def _client_left(self, _server: RpcServer, _reason: str) -> None:
        self.machine.remove1(S.ClientConnected)
        self.lease.connection_lost(self._now())
        self._arm()

    def _arm(self) -> None:
        """Keeps one timer for whatever the lease has to do next."""
        if self._lease_timer is not None:
            self._lease_timer.cancel()
            self._lease_timer = None
        at = self.lease.next_deadline()
        if at is not None and not self._is_over:
            loop = asyncio.get_running_loop()
            self._lease_timer = loop.call_at(at, self._lease_due)

    def _lease_due(self) -> None:
        self._lease_timer = None
        end = self.lease.due(self._now())
        if end is None:
            self._arm()
            return
        self.machine.add1(S.Releasing, ReleasingArgs(epoch=self.lease.epoch, reason=end.value))

    def ReleasingEnter(self, event: Event) -> bool:
        """Whoever ends a lease must know its epoch; a withdrawal, that it was not taken."""
        args = event.args
        if not isinstance(args, ReleasingArgs):
            return False
        if event.mutation.origin is None:
            return True
        return not _refused(event, self.lease.refusal_to_end(args.epoch, args.withdraw))

    def ReleasingState(self, event: Event) -> None:
        """Rule 4, begun; whoever asked is answered when it is done."""
        args: ReleasingArgs = event.args
        origin = event.mutation.origin
        logger.debug("Worker %s ends lease %d: %s.", self.name, args.epoch, args.reason)
        deferred = origin.defer() if isinstance(origin, Origin) else None
        if deferred is not None:
            self.lease.begin_end(End.WITHDRAWN if args.withdraw else End.RELEASED)
        self._arm()
        self.machine.spawn(S.Releasing, self._release(deferred))

    async def _release(self, deferred: Deferred | None) -> None:
        """Rule 4."""
        try:
            self._calls.refuse(self._lease_lost(self.lease.epoch))
            if self._calls.work is not None:
                await self._end_work()
            if self._setting_up is not None:
                self.machine.remove1(S.LeaseSettingUp)
                await asyncio.wait({self._setting_up})
                self._setting_up = None
            self._calls.rest()
            await self._clear()
            if deferred is not None:
                deferred.answer()
            if self.public_rpc is not None:
                reason = self.lease.end or End.RELEASED
                for server in [*self.public_rpc.servers.values()]:
                    server.close(reason.value)
        finally:
            self.machine.remove1(S.Leased)

    async def _clear(self) -> None:
        """Runs `on_release`, where the lease was used."""
        self._clean = self.lease.clean
        used = self.lease.taken and self.lease.end is not End.NOT_SET_UP
        if used and self._has("on_release"):
            self._clean = False
            self._clean = await self._run_hook("on_release")

    async def _run_hook(self, name: str) -> bool:
        """Runs a hook within its time (rule 5); whether it ended well."""
        limit = self.opts.release_timeout
        self._timers.set(name, 2 * limit, self._stuck)
        self._hook = name
        try:
            async with asyncio.timeout(limit):
                await getattr(self, name)()
        except (asyncio.CancelledError, SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            logger.exception("%s of worker %s failed; it will be replaced.", name, self.name)
            self.machine.add_err(error)
            return False
        finally:
            self._timers.clear(name)
            self._hook = ""
        return True

    async def _end_work(self) -> None:
        """Rule 3: waits until the job has ended; one that will not costs its worker."""
        work = self._calls.work
        if work is None:
            return
        work.cancel()
        if work.task is not None:
            await asyncio.wait({work.task})

    def _stuck(self) -> None:
        work = self._calls.work
        what = f"job {work.job.name}" if work is not None else self._hook
        self._exit(EXIT_STUCK, f"{what} did not stop when it was cancelled")

    # -- work --------------------------------------------------------------------------------

    def WorkRequestedEnter(self, event: Event) -> bool:
        """One at a time; a call of a job begins where `Dispatcher` begins it."""
        if self._calls.beginning:
            return True
        if self.machine.is1(S.LeaseSettingUp):
            return not _refused(event, _SETTING_UP)
        args = event.args
        if isinstance(args, WorkArgs) and args.job:
            return False  # a job's answer needs somebody to go to
        # The plain form, for the author's own handlers.
        return self.machine.any1(S.Idle, S.WorkReady) or not _refused(
            event, "the worker is busy"
        )

    def WorkRequestedWorkRequested(self, event: Event) -> bool:
        """A second call while one is asked for is refused, never lost."""
        if self.machine.index(S.WorkRequested) not in event.mutation.called:
            return True
        return not _refused(event, "a call is being started")

    def _job_of(self, args: WorkArgs) -> Job[..., Any]:
        """The job that a call wants, if its lease still holds."""
        if not self._lease.allows(args.epoch):
            raise self._lease_lost(args.epoch)
        if self._machine.has_active(self._is_setting_up):
            raise RefusedError(f"Refused: {_SETTING_UP}.")
        return self._job_named(args.job)

    def chunk_of(self, name: str, calls: int) -> tuple[Job[..., Any], Driver]:
        """See `chunks.Host`; the chunk itself counts as one."""
        found = self._job_named(name)
        self._jobs_done += calls - 1
        return found, self._driver

    def _job_named(self, name: str) -> Job[..., Any]:
        found = self._jobs.get(name)
        if found is None:
            known = ", ".join(own for own in self._jobs if own != CHUNK) or "none"
            raise JobUnknownError(f"Worker {self._kind} has no job {name!r}; it has {known}.")
        return found

    def _lease_lost(self, epoch: int) -> LeaseLost:
        why = self._ending() or f"epoch {self.lease.epoch} holds now"
        lost = f"The lease of epoch {epoch} ended: {why}. Ask for a new worker."
        return LeaseLost(lost, outcome=Outcome.NOT_RUN)

    def _work_of(self, job: Job[..., Any], args: WorkArgs, reply: Deferred) -> Work:
        """The call, with arguments that fit."""
        if job.streams and not reply.wants_stream:
            raise JobArgumentsError(
                f"Job {job.name} gives items, not a result; ask for it with `worker.stream`."
            )
        call = job.bind(self, job.decode(Packed(args.args, args.buffers[1::2])))
        self._note.begin(job.name)
        if self._failed:
            self._failed = False
            self.machine.remove((S.ErrWork, S.ErrWorkTimeout, "Exception"))
        return Work(
            job,
            call,
            reply,
            bounds=Bounds(args.deadline, args.hard_deadline, self.opts.release_timeout),
            driver=self._driver,
            news=args.news,
        )

    def _ending(self) -> str:
        """Why the lease is ending, or has ended; "" while it holds."""
        return self.lease.end.value if self.lease.end is not None else ""

    def _work_progress(self, news: int, progress: Progress) -> None:
        """Shows it as a state, and tells the caller if that wants to know."""
        self._note.progress(progress)
        if self.machine.is1(S.Working):
            self.machine.add1(S.Progressing, progress)
        if not news or self.public_rpc is None:
            return
        for server in [*self.public_rpc.servers.values()]:
            if server.is_connected:
                server.send_payload(PROGRESS, ProgressNews(news=news, progress=progress))

    def _work_ended(self, error: AmnodeError | None) -> None:
        self._jobs_done += 1
        self._note.end()
        machine = self._machine
        if machine.has_active(self._is_progressing):
            machine.remove1(S.Progressing)
        if machine.has_active(self._is_working):
            machine.add1(_READY)
        if error is not None and not isinstance(error, JobCancelled):
            self._failed = True
            timeout = isinstance(error, JobTimeoutError)
            machine.add_err_state(S.ErrWorkTimeout if timeout else S.ErrWork, error)
        self._calls.over()

    def WorkReadyState(self, event: Event) -> None:
        """The next call may follow at once; without one the worker rests."""
        self._calls.ready()

    def IdleState(self, event: Event) -> None:
        """A call that came while the author's own work was done has its turn."""
        self._calls.look()

    # -- the end -------------------------------------------------------------------------------

    def _disarm(self) -> None:
        self._calls.close()
        self._timers.close()
        self._thread.close()
        self._disarm_lease()

    def _disarm_lease(self) -> None:
        for timer in (self._lease_timer, self._orphan_timer):
            if timer is not None:
                timer.cancel()
        self._lease_timer = self._orphan_timer = None

    def _end_unsupervised(self, reason: str) -> None:
        """Nobody will ever ask for this worker: ends it, and leaves nothing of it behind."""
        self._exit_code = EXIT_ORPHAN
        self.stop(reason)

    @property
    def _is_over(self) -> bool:
        return self._ended is not None and self._ended.done()

    def _exit(self, code: int, reason: str) -> None:
        """Ends the process at once, whatever is going on in it."""
        try:
            self._last_words(reason)
        finally:
            self._host.exit(code)

    def _last_words(self, reason: str) -> None:
        """The last line of the output, which a report shows, says why."""
        self._host.write(f"Worker {self.name} ends: {reason.rstrip('.')}.\n")

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


#: What the supervisor may change through the local server; removing Start ends whatever needs
#: it, the states of the worker's author too.
_LOCAL = Exposure(
    mutable={
        S.ServeClient: ServeClientArgs,
        S.Releasing: ReleasingArgs,
        S.Healthcheck: None,
        S.ServeOperator: ServeOperatorArgs,
    },
    removable={S.Start: RetireArgs},
)


def kind_of(cls: type[Worker]) -> str:
    """What the workers of a class are called by clients that ask for one."""
    return cls.kind or cls.__name__


def kind_and_schema(kind: object, schema: Schema | type[States] | None) -> tuple[str, Schema]:
    """Both of them, whichever way they are given.

    Raises:
        OptionError: the kind is no Worker class and no name, or a name without its schema.
    """
    if isinstance(kind, type) and issubclass(kind, Worker):
        kind, schema = kind_of(kind), kind.schema
    if not isinstance(kind, str):
        raise OptionError(f"{kind!r} is no kind of worker; pass a Worker class, or its name.")
    if not _KIND.fullmatch(kind):
        raise OptionError(
            f"Kind {kind!r} cannot be used: it names files, so it must be 1 to 64 letters, "
            "digits, dots, dashes and underscores, and not begin with a dot."
        )
    if schema is None:
        raise OptionError(f"Pass the schema of kind {kind!r}, or the Worker class instead.")
    return kind, schema if isinstance(schema, Schema) else schema.schema()


def main(payload: bytes) -> int:
    """The whole life of a worker's process, from what its descriptor said to its exit code."""
    boot = msgspec.msgpack.decode(payload, type=WorkerBoot)
    return _run(load(boot.target, boot.script), boot)


def _run(cls: Callable[[], Worker], boot: WorkerBoot) -> int:
    if getattr(cls, "in_main_thread", Worker.in_main_thread) is not Worker.in_main_thread:
        from amnode.node.driver_thread import run_beside  # few workers have it

        run_beside(cls, boot)
    try:
        import uvloop
    except ImportError:
        code = asyncio.run(_serve(cls, boot))
    else:
        code = uvloop.run(_serve(cls, boot))
    end_process(code)


def run_worker(cls: Callable[[], Worker]) -> int:
    """The body of a program that a supervisor starts by command: runs one worker to its end.

    Args:
        cls: makes the worker, of the kind and schema that the supervisor expects.

    Raises:
        SystemExit: the program was not started by a supervisor.
    """
    boot = take_boot()
    prepare()
    return _run(cls, msgspec.msgpack.decode(boot.payload, type=WorkerBoot))


async def _serve(cls: Callable[[], Worker], boot: WorkerBoot) -> int:
    worker = cls()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop, "SIGTERM")
    if os.environ.get(LOG_WORKER):
        logging.basicConfig(level=logging.INFO)
        worker.machine.trace(TransitionLog(logger))
    return await worker.run(boot)


def _schema(schema: Schema | type[States], names: Sequence[str]) -> Schema:
    states = schema if isinstance(schema, Schema) else schema.schema()
    return Schema(states.to_states(), names) if names else states


def _refused(event: Event, reason: str) -> bool:
    """Tells whoever asked from outside why not; whether there is a reason."""
    if reason and isinstance(event.mutation.origin, Origin):
        event.mutation.origin.refuse(RefusedError(f"Refused: {reason}."))
    return bool(reason)
