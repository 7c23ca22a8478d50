"""The schemas of the node's machines: supervisor, worker, client, bootstrap.

Names, kinds, relations and order are those of `node`, a package of the Go library asyncmachine,
whose design this is, but for this, where it contradicts itself:

1. Supervisor: ProvideWorker requires Start. A request that finds no idle worker waits;
   WorkersAvailable is information, not a condition.
2. Supervisor: WorkerReady and WorkerGone have no relation to PoolReady. PoolReady is always
   called, never implied.
3. Client: WorkerReady does not remove WorkerRequested, so that a client may hold one worker and
   ask for another.
4. ClientSendPayload and SuperSendPayload are multi everywhere: none is lost.
5. Supervisor: Ready is auto.
6. A redefined Ready still requires Start, everywhere.
7. Worker: Leased, Releasing, Inspect and ServeOperator are added; they come last.
8. Supervisor: SetPool, RollingRestart, Draining, Drained, Inspect, ReachWorker, ListCrashes and
   ReadOutput are added; they come last.

`_order_` is the order of the ticks in machine time, which crosses the wire: a schema only grows
at its end.
"""

from __future__ import annotations

from amnode.machine.mixins import Basic, StateSource
from amnode.machine.schema import State
from amnode.rpc.states import ConsumerStates


class SupervisorStates(Basic, StateSource):
    """What a supervisor and its pool do.

    One at a time: PoolStarting and PoolReady; NormalizingPool and PoolNormalized. The states of
    the pool (PoolStarting, PoolReady, NormalizingPool, PoolNormalized, WorkersAvailable) mirror
    the pool's own data and are set in one place.
    """

    ErrWorker = State(require=("Exception",), add=("NormalizingPool", "Heartbeat"))
    "Something went wrong with a worker."
    ErrPool = State(
        require=("Exception",), add=("NormalizingPool",), remove=("PoolNormalized",)
    )
    "The pool could not be made whole."
    Start = State(add=("PoolStarting",))
    "The supervisor is meant to run; removing it stops the pool."
    LocalRpcReady = State(require=("Start",))
    "The server for operators and peer supervisors accepts."
    PublicRpcReady = State(require=("Start",))
    "The server for clients accepts."
    Ready = State(auto=True, require=("Start", "LocalRpcReady", "PublicRpcReady", "PoolReady"))
    "New clients are welcome."
    Heartbeat = State(require=("Start",))
    "Workers and pool are being checked."
    PoolStarting = State(add=("NormalizingPool",), remove=("PoolReady",))
    "The first workers are being started."
    NormalizingPool = State(
        require=("Start",), remove=("PoolNormalized",), after=("ErrWorker",)
    )
    "Missing workers are being started."
    PoolNormalized = State(require=("Start",), add=("Heartbeat",), remove=("NormalizingPool",))
    "No worker is missing."
    PoolReady = State(require=("Start",), add=("Heartbeat",), remove=("PoolStarting",))
    "At least the minimum is ready."
    WorkersAvailable = State(require=("PoolReady",))
    "A worker is idle."
    ListWorkers = State(multi=True, require=("Start",))
    "The workers are listed for somebody."
    SetWorker = State(multi=True, require=("Start",))
    "A worker is registered, or forgotten."
    ForkWorker = State(multi=True, require=("Start",))
    "A bootstrap is being opened."
    ForkingWorker = State(multi=True, require=("Start",))
    "A process is being started."
    WorkerConnected = State(multi=True, require=("Start",))
    "A worker called its bootstrap."
    WorkerForked = State(multi=True, require=("Start",), add=("Heartbeat",))
    "The supervisor is connected to a worker."
    KillWorker = State(multi=True)
    "A worker should go."
    KillingWorker = State(multi=True)
    "A worker is being killed."
    WorkerKilled = State(multi=True, add=("NormalizingPool", "Heartbeat"))
    "A worker is dead and forgotten."
    WorkerReady = State(multi=True, require=("Start",))
    "A worker became ready."
    WorkerGone = State(multi=True, require=("Start",))
    "A worker disconnected."
    ClientConnected = State(multi=True)
    "A client came."
    ClientDisconnected = State(multi=True)
    "A client left."
    ProvideWorker = State(multi=True, require=("Start",))
    "A client asks for a worker."
    WorkerIssues = State(multi=True)
    "A client returns a worker, or complains about it."
    ClientSendPayload = State(multi=True)
    "A payload goes to a client."
    SuperConnected = State(multi=True)
    "A peer supervisor came."
    SuperDisconnected = State(multi=True)
    "A peer supervisor left."
    SuperSendPayload = State(multi=True)
    "A payload goes to a peer supervisor."
    SendPayload = State(add=("ErrSendPayload", "Exception"))
    "An error: a payload says whether it goes to a client or to a supervisor."
    SetPool = State(multi=True, require=("Start",))
    "The pool is given another size."
    RollingRestart = State(multi=True, require=("Start",))
    "Every worker is being replaced, a few at a time."
    Draining = State(require=("Start",))
    "No new leases are granted; those that there are go on."
    Drained = State(require=("Draining",))
    "That, and no lease is left."
    Inspect = State(multi=True, require=("Start",))
    "An operator asks what the supervisor did."
    ReachWorker = State(multi=True, require=("Start",))
    "An operator asks where a worker is found."
    ListCrashes = State(multi=True, require=("Start",))
    "The last crashes are listed for an operator."
    ReadOutput = State(multi=True, require=("Start",))
    "What workers write is read by an operator."

    _order_ = (
        "Exception",
        "ErrWorker",
        "ErrPool",
        "LocalRpcReady",
        "PublicRpcReady",
        "Ready",
        "Heartbeat",
        "PoolStarting",
        "NormalizingPool",
        "PoolNormalized",
        "PoolReady",
        "WorkersAvailable",
        "ListWorkers",
        "SetWorker",
        "ForkWorker",
        "ForkingWorker",
        "WorkerConnected",
        "WorkerForked",
        "KillWorker",
        "KillingWorker",
        "WorkerKilled",
        "WorkerReady",
        "WorkerGone",
        "ClientConnected",
        "ClientDisconnected",
        "ProvideWorker",
        "WorkerIssues",
        "ClientSendPayload",
        "SuperConnected",
        "SuperDisconnected",
        "SuperSendPayload",
        "ErrNetwork",
        "ErrHandlerTimeout",
        "Start",
        "Healthcheck",
        "ErrOnClient",
        "ErrProviding",
        "ErrSendPayload",
        "SendPayload",
        "SetPool",
        "RollingRestart",
        "Draining",
        "Drained",
        "Inspect",
        "ReachWorker",
        "ListCrashes",
        "ReadOutput",
    )


class WorkerStates(Basic, StateSource):
    """What a worker does. One at a time: Idle, WorkRequested, Working, WorkReady."""

    ErrWork = State(require=("Exception",))
    "The work failed."
    ErrWorkTimeout = State(require=("Exception",))
    "The work ran out of time."
    ErrClient = State(require=("Exception",))
    "The server for the client failed."
    ErrSupervisor = State(require=("Exception",))
    "The server for the supervisor failed."
    LocalRpcReady = State(require=("Start",))
    "The server for the supervisor accepts."
    PublicRpcReady = State(require=("Start",))
    "The server for the client accepts."
    RpcReady = State(auto=True, require=("LocalRpcReady", "PublicRpcReady"))
    "Both accept; the bootstrap is being called."
    Ready = State(require=("Start", "LocalRpcReady"))
    "Able to work."
    SuperConnected = State(require=("Start",))
    "The supervisor is connected."
    ClientConnected = State(require=("Start",))
    "A client is connected."
    ServeClient = State(require=("PublicRpcReady",))
    "Asked by the supervisor to let a client in."
    ClientSendPayload = State(multi=True, require=("PublicRpcReady",))
    "A payload goes to the client."
    SuperSendPayload = State(multi=True, require=("LocalRpcReady",))
    "A payload goes to the supervisor."
    Idle = State(
        auto=True, require=("Ready",), remove=("WorkRequested", "Working", "WorkReady")
    )
    "Nothing to do."
    WorkRequested = State(require=("Ready",), remove=("Working", "WorkReady", "Idle"))
    "The client asked for work."
    Working = State(require=("Ready",), remove=("WorkRequested", "WorkReady", "Idle"))
    "The work is being done."
    WorkReady = State(require=("Ready",), remove=("WorkRequested", "Working", "Idle"))
    "The work is done."
    SendPayload = State(add=("ErrSendPayload", "Exception"))
    "An error: a payload says whether it goes to the client or to the supervisor."
    Leased = State(require=("Start",))
    "A client has this worker. Its tick while active is the lease's epoch."
    Releasing = State(require=("Leased",))
    "The lease is ending: the job is cancelled, `on_release` runs, the session is closed."
    Inspect = State(multi=True, require=("Start",))
    "An operator asks what the worker did."
    ServeOperator = State(multi=True, require=("LocalRpcReady",))
    "Asked by the supervisor to let an operator in."
    SettingUp = State(require=("Start",))
    "The worker is not ready yet: `on_start` runs."
    LeaseSettingUp = State(require=("Leased",))
    "A lease has begun: `on_lease` runs, and its client waits."
    TearingDown = State()
    "The worker is about to end: `on_stop` runs."
    Progressing = State(multi=True, require=("Ready",))
    "The job says how far it is; its tick moves with each report."

    _order_ = (
        "Exception",
        "ErrWork",
        "ErrWorkTimeout",
        "ErrClient",
        "ErrSupervisor",
        "Ready",
        "LocalRpcReady",
        "PublicRpcReady",
        "RpcReady",
        "SuperConnected",
        "ServeClient",
        "ClientConnected",
        "ClientSendPayload",
        "SuperSendPayload",
        "Idle",
        "WorkRequested",
        "Working",
        "WorkReady",
        "ErrNetwork",
        "ErrHandlerTimeout",
        "Start",
        "Healthcheck",
        "Heartbeat",
        "ErrOnClient",
        "ErrProviding",
        "ErrSendPayload",
        "SendPayload",
        "Leased",
        "Releasing",
        "Inspect",
        "ServeOperator",
        "SettingUp",
        "LeaseSettingUp",
        "TearingDown",
        "Progressing",
    )


class ClientStates(Basic, ConsumerStates):
    """What a client does. The states of its connections mirror those of other machines."""

    Exception = State(multi=True)
    "An error has not been handled."
    ErrWorker = State(require=("Exception",))
    "The connection to a worker failed."
    ErrSupervisor = State(require=("Exception",))
    "The connection to the supervisor failed, or it sent nonsense."
    SuperDisconnected = State()
    "There is no connection to a supervisor."
    SuperConnecting = State()
    "One is being made."
    SuperConnected = State()
    "There is one."
    SuperDisconnecting = State()
    "It is being closed."
    SuperReady = State()
    "Its handshake is done."
    WorkerDisconnected = State()
    "There is no connection to the newest worker."
    WorkerConnecting = State()
    "One is being made."
    WorkerConnected = State()
    "There is one."
    WorkerDisconnecting = State()
    "It is being closed."
    WorkerReady = State()
    "At least one lease is connected."
    WorkerRequested = State(require=("SuperReady",))
    "At least one request for a worker is pending."
    Ready = State(auto=True, require=("Start", "WorkerReady"))
    "Work can be given."

    _order_ = (
        "Exception",
        "ErrWorker",
        "ErrSupervisor",
        "WorkerDisconnected",
        "WorkerConnecting",
        "WorkerConnected",
        "WorkerDisconnecting",
        "WorkerReady",
        "Ready",
        "SuperDisconnected",
        "SuperConnecting",
        "SuperConnected",
        "SuperDisconnecting",
        "SuperReady",
        "WorkerRequested",
        "ErrNetwork",
        "ErrHandlerTimeout",
        "Start",
        "Healthcheck",
        "Heartbeat",
        "ServerPayload",
    )


class BootstrapStates(Basic, StateSource):
    """What a bootstrap does: it waits for one worker to say where it listens."""

    WorkerAddr = State()
    "The awaited worker said where it listens."

    _order_ = (
        "Exception",
        "WorkerAddr",
        "ErrNetwork",
        "ErrHandlerTimeout",
        "Start",
        "Ready",
        "Healthcheck",
        "Heartbeat",
        "ErrOnClient",
        "ErrProviding",
        "ErrSendPayload",
        "SendPayload",
    )
