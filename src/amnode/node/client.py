"""Client: asks a supervisor for workers and talks to each of them directly.

A client is connected to one supervisor at a time, the first of its list that answers. It asks
for a worker with a request of its own id, which it repeats whenever it has a supervisor again;
the grant has the worker's address and a secret that opens it once. From then on the supervisor
is not involved.

Rules:

1. Whatever is cancelled at any await costs no worker: a request is taken back, a grant that
   nobody wants is returned, a lease that was connected is released.
2. A request ends in a lease, a `LeaseTimeoutError` at its deadline, a refusal, or its cancel.
3. A call on a worker that is lost waits for the supervisor's word on why, so long as there is a
   supervisor to give it, and no longer than `delivery_timeout`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self, TypeVar

import msgspec

from amnode.errors import (
    AmnodeError,
    AuthError,
    ConnectionLost,
    LeaseError,
    LeaseTimeoutError,
    OptionError,
    RefusedError,
    RpcError,
    SchemaError,
)
from amnode.machine.machine import Machine
from amnode.machine.pipes import Pipe, pipe
from amnode.machine.queue import Result
from amnode.machine.schema import Schema, States
from amnode.machine.transition import Event
from amnode.node.args import (
    PROGRESS,
    CrashReport,
    Denied,
    Grant,
    ProvideWorkerArgs,
    ReleasingArgs,
    WorkerCrashed,
    WorkerIssuesArgs,
)
from amnode.node.failures import Known, known_of
from amnode.node.lease_watch import LeaseWatch
from amnode.node.leased import LeasedWorker
from amnode.node.names import (
    LOG_CLIENT,
    handshake_id,
    super_client_id,
    worker_client_id,
)
from amnode.node.outside import REAL, Outside
from amnode.node.policy.door import check_reachable
from amnode.node.policy.lease import ClientLeases
from amnode.node.policy.options import (
    ClientOptions,
    checked,
    checked_token,
    checked_wait,
)
from amnode.node.states import ClientStates, SupervisorStates, WorkerStates
from amnode.node.submitted import News
from amnode.node.transition_log import TransitionLog
from amnode.node.worker import Worker, kind_and_schema
from amnode.rpc.client import RpcClient
from amnode.rpc.network_machine import RemoteResult
from amnode.rpc.options import ONE_CONNECTION, RpcOptions
from amnode.rpc.protocol.subscription import schema_hash
from amnode.rpc.tls_files import TlsFiles
from amnode.rpc.transport.with_files import transport_of

logger = logging.getLogger("amnode.node")

S = ClientStates
T = TypeVar("T")

#: What of a supervisor a client follows.
_FOLLOWED = (
    SupervisorStates.Start,
    SupervisorStates.Ready,
    SupervisorStates.PoolReady,
    SupervisorStates.WorkersAvailable,
    SupervisorStates.ErrPool,
    SupervisorStates.ProvideWorker,
    SupervisorStates.WorkerIssues,
)

#: Which states of a connection show on the client, with `Super` or `Worker` before them.
_MIRRORED = ("Disconnected", "Connecting", "Connected", "Disconnecting")

#: Seconds between tries to find a supervisor: the first, and the most.
_BACK_OFF_BASE, _BACK_OFF_CAP = 0.05, 5.0
#: Items of a streamed job that have come and not been read, about: what a generator does for an
#: item that nobody reads it does for nothing, however small the item is.
_STREAM_ITEMS = 64
#: How a connection to a worker that was cut is made again. The worker's grace is the real
#: bound: once that has run out, the session is refused.
_TO_WORKER = RpcOptions(
    reconnect_timeout=60.0, reconnect_base=0.02, reconnect_cap=0.5, stream_items=_STREAM_ITEMS
)


class Client:
    """Asks supervisors for workers of one kind.

    Args:
        id: of the client; quotas count by it. The process adds a nonce of its own.
        kind: the kind of worker, or a `Worker` class, which stands for kind and schema.
        schema: of the worker, where `kind` is text.
        addrs: of supervisors, in the order to try; makes `async with` start the client.
        token: what the supervisors ask for.
        opts: see `ClientOptions`.
        trace_leases: remembers where in your code each lease was taken, for the report of one
            that is held past the option `leak_after`.
        tls: what is trusted, and shown if it is asked for, where an address begins with `tls:`.
        outside: what it touches beside its loop; the system, by default.

    Attributes:
        machine: the client's states.
        name: the id.
        super_addr: the supervisor that it is connected to, or "".
        rpc_super: that connection.
        rpc_worker: the newest connection to a worker.
        leave_super: closes the supervisor connection once a worker is connected and nothing
            else is asked for; the lease lives on.
        known: the exceptions that jobs of the worker class raise at their callers, by name.
        log_enabled: extra logging; set by the environment variable `AM_NODE_LOG_CLIENT`.

    Raises:
        OptionError: an argument that cannot work.
    """

    def __init__(
        self,
        id: str,
        kind: str | type[Worker],
        schema: Schema | type[States] | None = None,
        *,
        addrs: Sequence[str] = (),
        token: bytes = b"",
        opts: ClientOptions | None = None,
        trace_leases: bool = False,
        tls: TlsFiles | None = None,
        outside: Outside = REAL,
    ) -> None:
        if not isinstance(id, str) or not id.isprintable() or not 0 < len(id) <= 100:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"Client id {id!r} must be 1 to 100 printable characters.")
        self.opts = checked(opts, ClientOptions)
        self.name = id
        self.kind, self.schema = kind_and_schema(kind, schema)
        self.known: Known = known_of(kind) if isinstance(kind, type) else {}
        self._news = News()
        transport = transport_of(outside.transport, tls)
        self._outside = outside = msgspec.structs.replace(outside, transport=transport)
        self._instance = f"{id}.{outside.entropy(4).hex()}"
        self.machine = Machine(ClientStates, id=f"nc-{id}")
        self.machine.bind(self)
        self.super_addr = ""
        self.rpc_super: RpcClient | None = None
        self.rpc_worker: RpcClient | None = None
        self.leave_super = False
        self.log_enabled = bool(os.environ.get(LOG_CLIENT))
        if self.log_enabled:
            self.machine.trace(TransitionLog(logger))
        self._tls = tls
        self._addrs = _checked_addresses(addrs, tls)
        self._token = checked_token(token)
        self._leases = ClientLeases()
        self._watch = LeaseWatch(id, self.opts.leak_after, trace=trace_leases)
        self._requests: dict[str, asyncio.Future[Grant]] = {}
        self._grants: dict[str, Grant] = {}
        self._held: dict[tuple[str, int], LeasedWorker] = {}
        self._mirrors: list[Pipe] = []
        self._super_mirror: Pipe | None = None
        #: Done when the connection to the supervisor is over, whoever ended it.
        self._super_over: asyncio.Future[None] | None = None
        self._unsettled: dict[asyncio.Task[Any], None] = {}
        self._wanted = asyncio.Event()
        self._worker_rpc_id = handshake_id(worker_client_id(self._instance))

    # -- from outside ------------------------------------------------------------------------

    def start(self, addrs: Sequence[str] = ()) -> Result:
        """Starts the client: it connects to the first supervisor that answers.

        Args:
            addrs: of supervisors, in the order to try; those of the constructor by default.
        """
        self._addrs = _checked_addresses(addrs, self._tls) or self._addrs
        return self.machine.add1(S.Start)

    async def stop(self) -> None:
        """Releases what is held and closes every connection."""
        await asyncio.gather(*(worker.release() for worker in [*self._held.values()]))
        self.machine.remove1(S.Start)
        for future in [*self._requests.values()]:
            if not future.done():
                future.set_exception(LeaseError("The client was stopped."))
        while self._unsettled:
            await asyncio.wait([*self._unsettled])
        await self._close_super()

    async def dispose(self) -> None:
        """Stops the client and ends its machine."""
        await self.stop()
        await self.machine.dispose()

    async def __aenter__(self) -> Self:
        if not self._addrs:
            raise OptionError("Pass `addrs=` to the client, or call `start(addrs)`.")
        self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.dispose()

    @asynccontextmanager
    async def lease(
        self, *, timeout: float | None = None
    ) -> AsyncGenerator[LeasedWorker, None]:
        """A worker for the body of an `async with`, released at its end.

        Args:
            timeout: seconds to wait for one; the option `request_wait`, 30, by default.

        Raises:
            LeaseTimeoutError: none came free in time.
            RefusedError: the supervisor has no such kind, or another schema.
        """
        worker = await self.req_worker(timeout=timeout)
        try:
            yield worker
        finally:
            await worker.release()

    async def req_worker(self, *, timeout: float | None = None) -> LeasedWorker:
        """Asks for a worker and waits until it is connected; the caller releases it.

        Args and errors are those of `lease`.
        """
        if not self.machine.is1(S.Start):
            raise LeaseError(f"Client {self.name} is not started.")
        given = checked_wait("timeout", timeout, least=0.0)
        wait = self.opts.request_wait if given is None else given
        request_id = self._outside.entropy(8).hex()
        deadline = self._now() + wait
        place = self._watch.place()
        scope = asyncio.timeout(wait)
        try:
            async with scope:
                worker = await self._acquire(request_id, deadline)
                self._watch.begin(worker.id, worker.epoch, place)
                return worker
        except TimeoutError as error:
            if not scope.expired() or isinstance(error, AmnodeError):
                raise
            raise LeaseTimeoutError(self._why_none(wait)) from None

    def _why_none(self, wait: float) -> str:
        if self.rpc_super is None:
            return (
                f"No supervisor of {', '.join(self._addrs)} answered in {wait:g} s; the last "
                f"error: {self.machine.err or 'none was tried'}"
            )
        if self.rpc_super.source.is1(SupervisorStates.ErrPool):
            return (
                f"No worker of kind {self.kind} came in {wait:g} s: they fail to start, and "
                "the pool waits before it tries again. Its log has their last words."
            )
        return (
            f"No worker of kind {self.kind} came free in {wait:g} s. Wait longer, raise the "
            "pool's max, or the quota of a client."
        )

    # -- a request, from asking to holding ---------------------------------------------------

    async def _acquire(self, request_id: str, deadline: float) -> LeasedWorker:
        """Rule 1 is kept here: every way out gives back what was got so far."""
        self._leases.ask(request_id, deadline)
        self._wanted.set()
        try:
            while True:
                granted = self._loop().create_future()
                self._requests[request_id] = granted
                self._show()
                self._ask(request_id, deadline - self._now())
                grant = await granted
                worker = await self._connect(grant)
                if worker is not None:
                    return worker
        except BaseException:
            self._give_up(request_id)
            raise
        finally:
            self._requests.pop(request_id, None)
            self._show()

    def _give_up(self, request_id: str) -> None:
        """The caller is gone: takes the request back, or returns a grant that nobody took."""
        if self._leases.cancel(request_id):
            self._tell_super(
                SupervisorStates.ProvideWorker,
                ProvideWorkerArgs(request_id=request_id, cancel=True),
            )
            return
        grant = self._grants.pop(request_id, None)
        if grant is not None:
            self._return(grant, "the request was cancelled")

    async def _connect(self, grant: Grant) -> LeasedWorker | None:
        """Connects to a granted worker; None if that failed and the request stands again."""
        rpc = RpcClient(
            grant.address,
            id=self._worker_rpc_id,
            secret=grant.secret,
            schema=self.schema,
            consumer=self.machine,
            private={PROGRESS: self._news.heard},
            on_lost=partial(self._worker_lost, grant),
            transport=self._outside.transport,
            entropy=self._outside.entropy,
            comes_back=False,
            options=_TO_WORKER,
        )
        mirror = pipe(rpc.machine, self.machine, _mirrored("Worker"))
        opening = self._unsettle(self._open(rpc))
        try:
            error = await asyncio.shield(opening)
        except BaseException:  # cancelled: `_give_up` returns the grant
            mirror.close()
            self._unsettle(self._hand_back(opening, rpc, grant))
            raise
        if error is None and self.machine.is1(S.Start):
            self._leases.connected(grant.worker_id, grant.epoch)
            self._grants.pop(grant.request_id, None)
            return self._hold(rpc, grant, mirror)
        mirror.close()
        if error is None:
            await self._hand_back(opening, rpc, grant)
            raise LeaseError(f"Client {self.name} was stopped.")
        self._grants.pop(grant.request_id, None)
        self.machine.add_err_state(S.ErrWorker, error)
        left = self._leases.failed(grant.worker_id, grant.epoch, self._now())
        self._return(grant, f"no connection: {error}", again=left is not None)
        return None

    async def _open(self, rpc: RpcClient) -> Exception | None:
        """Connects to a worker; goes on to its end even if nobody waits any more (rule 1)."""
        try:
            async with asyncio.timeout(self.opts.conn_timeout):
                await rpc.start()
            source = rpc.source
            if source.is1(WorkerStates.LeaseSettingUp):  # the worker bounds it
                await source.when_not1(WorkerStates.LeaseSettingUp)
            if source.is1(WorkerStates.Releasing) or source.not1(WorkerStates.Leased):
                raise LeaseError("The worker could not be set up for this lease.")
        except (RpcError, LeaseError, SchemaError, OSError, TimeoutError) as error:
            return error
        return None

    async def _hand_back(
        self, opening: asyncio.Task[Exception | None], rpc: RpcClient, grant: Grant
    ) -> None:
        """Releases what was being connected when its request was cancelled.

        A connection that is only cut would cost the worker its grace, and itself.
        """
        if await opening is None:
            await self._end_lease(rpc, grant.worker_id, grant.epoch)
        else:
            await rpc.stop()

    async def _end_lease(self, rpc: RpcClient, worker_id: str, epoch: int) -> None:
        """Asks a worker to end a lease; one that does not answer ends it by its grace."""
        try:
            if rpc.source.lost is None:
                async with asyncio.timeout(self.opts.delivery_timeout):
                    await rpc.source.request(
                        (WorkerStates.Releasing,), ReleasingArgs(epoch=epoch)
                    )
        except (RpcError, LeaseError, TimeoutError) as error:
            logger.debug("Worker %s did not confirm its release: %s", worker_id, error)
        finally:
            await rpc.stop()

    def _unsettle(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that nobody cancels and that `stop` waits for; each has its own bound."""
        task = self.machine.spawn(None, work)
        self._unsettled[task] = None
        task.add_done_callback(lambda done: self._unsettled.pop(done, None))
        return task

    def _hold(self, rpc: RpcClient, grant: Grant, mirror: Pipe) -> LeasedWorker:
        for old in self._mirrors:  # the newest worker is the one that the states show
            old.close()
        self._mirrors = [mirror]
        worker = LeasedWorker(
            rpc,
            grant.worker_id,
            grant.epoch,
            self._release,
            self._why_lost,
            self._renew,
            news=self._news,
            known=self.known,
        )
        self._held[grant.worker_id, grant.epoch] = worker
        self.rpc_worker = rpc
        self.machine.remove((S.ErrWorker, S.Exception))
        self._show()
        self._leave_super_if_told()
        return worker

    async def _renew(self, worker: LeasedWorker) -> None:
        """Has a lease whose worker is lost go on with another one."""
        fresh = await self.req_worker()
        lost, rpc = (worker.id, worker.epoch), worker.rpc
        if worker.released:  # while this was asked for: nobody else will end it
            await fresh.release()
            return
        self._held.pop(lost, None)
        self._lease_over(*lost, rpc)
        self._unsettle(rpc.stop())
        worker.take_over(fresh)
        self._held[worker.id, worker.epoch] = worker

    def _release(self, worker: LeasedWorker) -> asyncio.Future[None]:
        """Ends a lease; what it returns is done when the worker has ended it too."""
        self._held.pop((worker.id, worker.epoch), None)
        self._lease_over(worker.id, worker.epoch, worker.rpc)
        if not worker.report.done():
            worker.report.set_result(None)
        if self.machine.disposed:  # which has closed every connection
            over: asyncio.Future[None] = self._loop().create_future()
            over.set_result(None)
            return over
        return self._unsettle(self._end_lease(worker.rpc, worker.id, worker.epoch))

    def _lease_over(self, worker_id: str, epoch: int, rpc: RpcClient | None) -> None:
        self._leases.ended(worker_id, epoch)
        self._watch.end(worker_id, epoch)
        if self.rpc_worker is rpc:
            self.rpc_worker = None
        self._show()

    def _return(self, grant: Grant, reason: str, *, again: bool = False) -> None:
        self._tell_super(
            SupervisorStates.WorkerIssues,
            WorkerIssuesArgs(
                request_id=grant.request_id,
                worker_id=grant.worker_id,
                epoch=grant.epoch,
                again=again,
                reason=reason,
            ),
        )

    # -- a worker that is lost ---------------------------------------------------------------

    def _worker_lost(self, grant: Grant, error: Exception) -> None:
        self.machine.add_err_state(S.ErrWorker, error)
        held = self._held.get((grant.worker_id, grant.epoch))
        if held is not None:
            self._lease_over(grant.worker_id, grant.epoch, held.rpc)

    async def _why_lost(self, worker: LeasedWorker) -> CrashReport | None:
        """Rule 3: waits for the supervisor's word, and no longer than it makes sense."""
        if self.rpc_super is not None and not worker.report.done():
            await asyncio.wait((worker.report,), timeout=self.opts.delivery_timeout)
        if worker.report.done():
            return worker.report.result()
        return None

    def _crashed(self, crashed: WorkerCrashed) -> None:
        worker = self._held.get((crashed.worker_id, crashed.epoch))
        if worker is not None and not worker.report.done():
            worker.report.set_result(crashed.report)

    # -- the supervisor ----------------------------------------------------------------------

    def StartEnter(self, event: Event) -> bool:
        """Needs at least one address."""
        return bool(self._addrs)

    def StartState(self, event: Event) -> None:
        """Looks for a supervisor, and for another whenever that one is gone."""
        self._wanted.set()
        self.machine.spawn(S.Start, self._keep_supervisor())

    def StartEnd(self, event: Event) -> None:
        """What was asked for is not to be had any more."""
        for future in self._requests.values():
            if not future.done():
                future.set_exception(LeaseError(f"Client {self.name} was stopped."))

    async def _keep_supervisor(self) -> None:
        failures = 0
        while True:
            await self._wanted.wait()
            lost = await self._connect_super()
            if lost is None:
                failures += 1
                pause = min(_BACK_OFF_CAP, _BACK_OFF_BASE * 2**failures)
                await asyncio.sleep(self._outside.draw() * pause)  # full jitter
                continue
            failures = 0
            await lost

    async def _connect_super(self) -> asyncio.Future[None] | None:
        """Connects to the first supervisor that answers; its end is what the future is for."""
        errors: list[Exception] = []
        for address in self._addrs:
            rpc = RpcClient(
                address,
                id=handshake_id(super_client_id(self._instance)),
                secret=self._token,
                schema=SupervisorStates.schema(),
                states=_FOLLOWED,
                consumer=self.machine,
                on_payload=self._super_payload,
                on_lost=self._super_lost,
                transport=self._outside.transport,
                entropy=self._outside.entropy,
                options=ONE_CONNECTION,
            )
            mirror = pipe(rpc.machine, self.machine, _mirrored("Super"))
            try:
                async with asyncio.timeout(self.opts.conn_timeout):
                    await rpc.start()
                if rpc.source.lost is not None:  # in the turn in which it was made
                    raise rpc.source.lost
            except (AmnodeError, OSError, TimeoutError) as error:
                mirror.close()
                self.machine.add_err_state(S.ErrSupervisor, error)
                errors.append(error)
            except BaseException:
                mirror.close()
                raise
            else:
                return self._super_came(rpc, address, mirror)
        if all(isinstance(error, AuthError | SchemaError) for error in errors):
            self._refused(errors[0])
        return None

    def _refused(self, error: Exception) -> None:
        """No supervisor will ever have this client: waiting for one makes no sense."""
        for request_id, future in self._requests.items():
            if self._leases.denied(request_id) and not future.done():
                future.set_exception(error)

    def _super_came(self, rpc: RpcClient, address: str, mirror: Pipe) -> asyncio.Future[None]:
        over = self._super_over = self._loop().create_future()
        self.rpc_super = rpc
        self.super_addr = address
        self._super_mirror = mirror
        self.machine.remove((S.ErrSupervisor, S.Exception))
        self._show()
        for request_id, left in self._leases.pending(self._now()):
            self._ask(request_id, left)
        return over

    def _super_lost(self, error: Exception) -> None:
        self.machine.add_err_state(S.ErrSupervisor, error)
        self._super_left()

    def _super_left(self) -> None:
        self.rpc_super = None
        self.super_addr = ""
        if self._super_mirror is not None:
            self._super_mirror.close()
            self._super_mirror = None
        if self._super_over is not None and not self._super_over.done():
            self._super_over.set_result(None)
        self._show()

    async def _close_super(self) -> None:
        rpc, self.rpc_super = self.rpc_super, None  # nothing more is said on it
        if rpc is not None:
            try:
                await rpc.stop()
            finally:
                self._super_left()

    def _leave_super_if_told(self) -> None:
        """Closes the supervisor connection, if that is wanted and nothing needs it."""
        if self.leave_super and self._leases.is_holding and self._leases.may_leave:
            self._wanted.clear()
            if self.rpc_super is not None:
                self.machine.spawn(S.Start, self._close_super())

    def _ask(self, request_id: str, left: float) -> None:
        args = ProvideWorkerArgs(
            request_id=request_id,
            kind=self.kind,
            schema_hash=schema_hash(self.schema).hex(),
            worker_rpc_id=self._worker_rpc_id,
            super_rpc_id=handshake_id(super_client_id(self._instance)),
            time_left=left,
        )
        if self.rpc_super is not None:
            asked = self.rpc_super.source.add1(SupervisorStates.ProvideWorker, args)
            asked.then(partial(self._asked, request_id))

    def _asked(self, request_id: str, asked: RemoteResult) -> None:
        """A request that the supervisor would not even take in ends here (rule 2)."""
        if asked or isinstance(asked.error, ConnectionLost):
            return  # or it is made again at the next supervisor
        reason = str(asked.error or "The supervisor takes no requests: it is stopping.")
        self._denied(Denied(request_id=request_id, reason=reason))

    def _tell_super(self, state: str, args: ProvideWorkerArgs | WorkerIssuesArgs) -> None:
        """Sends a mutation, if there is a supervisor; the next one is told by `_super_came`."""
        if self.rpc_super is not None:
            self.rpc_super.source.add1(state, args)

    def _super_payload(self, name: str, data: msgspec.Raw) -> None:
        match name:
            case "Grant":
                self._granted(msgspec.msgpack.decode(data, type=Grant))
            case "Denied":
                self._denied(msgspec.msgpack.decode(data, type=Denied))
            case "WorkerCrashed":
                self._crashed(msgspec.msgpack.decode(data, type=WorkerCrashed))
            case _:
                logger.debug("Payload %r of the supervisor is for others.", name)

    def _granted(self, grant: Grant) -> None:
        future = self._requests.get(grant.request_id)
        wanted = self._leases.granted(grant.request_id, grant.worker_id, grant.epoch)
        if not wanted or future is None or future.done():
            self._return(grant, "nobody waits for it any more")
            return
        self._grants[grant.request_id] = grant
        future.set_result(grant)

    def _denied(self, denied: Denied) -> None:
        future = self._requests.get(denied.request_id)
        if not self._leases.denied(denied.request_id) or future is None or future.done():
            return
        error = LeaseTimeoutError if denied.timed_out else RefusedError
        future.set_exception(error(denied.reason))

    # -- what the states show ----------------------------------------------------------------

    def _show(self) -> None:
        """Shows requests and leases as states; they are set nowhere else."""
        machine = self.machine
        if self._leases.is_asking and machine.is1(S.SuperReady):
            machine.add1(S.WorkerRequested)
        else:
            machine.remove1(S.WorkerRequested)
        if self._leases.is_holding:
            machine.add1(S.WorkerReady)
        else:
            machine.remove1(S.WorkerReady)

    def WorkerRequestedEnter(self, event: Event) -> bool:
        """Needs a supervisor to ask."""
        return self.rpc_super is not None

    def WorkerRequestedState(self, event: Event) -> None:
        """Added from outside, it asks for a worker; `rpc_worker` is its connection."""
        if not self._leases.is_asking:
            self.machine.spawn(S.Start, self.req_worker())

    def ServerPayloadEnter(self, event: Event) -> bool:
        """Has a name."""
        return bool(event.args.name)

    def ServerPayloadState(self, event: Event) -> None:
        """A payload of a supervisor or a worker, for the author's own handlers."""
        self.machine.remove1(S.ServerPayload)

    def HealthcheckState(self, event: Event) -> None:
        """Answered by being run."""
        self.machine.remove1(S.Healthcheck)

    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def _now(self) -> float:
        return self._loop().time()


def _mirrored(prefix: str) -> dict[str, str]:
    """Which states of a connection show on the client."""
    shown = {state: prefix + state for state in _MIRRORED}
    if prefix == "Super":
        shown["Ready"] = S.SuperReady
    return shown


def _checked_addresses(addrs: Sequence[str], tls: TlsFiles | None) -> tuple[str, ...]:
    """The addresses, each of a form that can be connected to."""
    if isinstance(addrs, str):
        raise OptionError(
            f"addrs is the text {addrs!r}; pass a list of addresses: [{addrs!r}]."
        )
    for address in addrs:
        check_reachable(address, tls)
    return tuple(addrs)
