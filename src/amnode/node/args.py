"""What travels with the states of the node machines: one struct a state that may be called
from outside, and the payloads that supervisor and worker send.

What a struct lacks cannot cross the wire. Times are seconds; a deadline crosses as the time
that is left, never as a clock reading. Epochs are ticks of `Leased`, and mean something only
beside the worker's machine id.
"""

from __future__ import annotations

from typing import Any

import msgspec

from amnode.node.policy.door import DEFAULT_DOOR, ClientDoor
from amnode.node.progress import Progress


class Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything here."""


class NodeRpcArgs(Wire, frozen=True, kw_only=True):
    """Ids and addresses, as actors tell each other."""

    id: str = ""
    public_addr: str = ""
    local_addr: str = ""
    boot_addr: str = ""
    nodes_list: tuple[str, ...] = ()
    worker_rpc_id: str = ""
    super_rpc_id: str = ""


# -- client to supervisor ----------------------------------------------------------------


class ProvideWorkerArgs(Wire, frozen=True, kw_only=True):
    """`ProvideWorker`: a client asks for a worker, or (`cancel`) takes its request back.

    `super_rpc_id`: the client, where a peer supervisor passes its request on; so in the next.
    """

    request_id: str
    kind: str = ""
    schema_hash: str = ""
    worker_rpc_id: str = ""
    super_rpc_id: str = ""
    time_left: float = 0.0
    cancel: bool = False


class WorkerIssuesArgs(Wire, frozen=True, kw_only=True):
    """`WorkerIssues`: a grant is returned. `again`: the request stands, ask anew."""

    request_id: str
    worker_id: str
    epoch: int
    again: bool = False
    reason: str = ""
    super_rpc_id: str = ""


# -- operator to supervisor --------------------------------------------------------------


class SetPoolArgs(Wire, frozen=True, kw_only=True):
    """`SetPool`: the size of the pool from now on; see `PoolSize`."""

    min: int
    max: int
    warm: int
    max_per_client: int = 0


class InspectArgs(Wire, frozen=True, kw_only=True):
    """`Inspect`, of a supervisor or a worker: what its machine did, as a stream.

    `follow`: it goes on with what happens from now on.
    """

    follow: bool = False


class ReachWorkerArgs(Wire, frozen=True, kw_only=True):
    """`ReachWorker`: where an operator, by the id of its next connection, finds a worker."""

    worker_id: str
    operator_id: str


class WorkerReached(Wire, frozen=True, kw_only=True):
    """The answer: the secret opens that address for that operator, once."""

    worker_id: str
    address: str
    secret: bytes

    def __repr__(self) -> str:
        return f"WorkerReached({self.worker_id}, {self.address})"


# -- supervisor to client (payloads) -----------------------------------------------------


class Grant(Wire, frozen=True, kw_only=True):
    """A worker is yours: where it is and the secret that opens it, once."""

    request_id: str
    worker_id: str
    epoch: int
    address: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Grant({self.request_id}, {self.worker_id}, epoch={self.epoch})"


class Denied(Wire, frozen=True, kw_only=True):
    """A request ended without a worker: refused, or its time ran out."""

    request_id: str
    reason: str
    timed_out: bool = False


class WorkerCrashed(Wire, frozen=True, kw_only=True):
    """The worker of this lease is dead; the report says of what."""

    worker_id: str
    epoch: int
    report: CrashReport


class CrashReport(Wire, frozen=True, kw_only=True):
    """What is known of a death. `cause` is one of `amnode.errors.Cause`.

    `stack`: where the threads of one that hung were. `stopped`: it stood still.
    """

    cause: str
    message: str
    pid: int = 0
    exit_code: int | None = None
    signal: str = ""
    output: tuple[str, ...] = ()
    state: str = ""
    stack: tuple[str, ...] = ()
    stopped: bool = False


# -- supervisor to supervisor (payloads) -------------------------------------------------


class PeerNews(Wire, frozen=True, kw_only=True):
    """What a supervisor can do for its peers: so many requests more could be served here."""

    kind: str
    schema_hash: str
    spare: int


class PeerAnswer(Wire, frozen=True, kw_only=True):
    """What there is to say to a client whose request was passed on: one of the three."""

    super_rpc_id: str
    grant: Grant | None = None
    denied: Denied | None = None
    crashed: WorkerCrashed | None = None


# -- supervisor to worker ----------------------------------------------------------------


class ServeClientArgs(Wire, frozen=True, kw_only=True):
    """`ServeClient`: let this client in; refused if `Leased` is not at `expected_tick`."""

    client_id: str
    secret: bytes
    expected_tick: int
    delivery_timeout: float
    grace: float
    maximum: float | None = None

    def __repr__(self) -> str:
        return f"ServeClientArgs({self.client_id}, tick={self.expected_tick})"


class ServeOperatorArgs(Wire, frozen=True, kw_only=True):
    """`ServeOperator`: let this operator in, once, within a time; answered with the address."""

    operator_id: str
    secret: bytes
    delivery_timeout: float

    def __repr__(self) -> str:
        return f"ServeOperatorArgs({self.operator_id})"


class RetireArgs(Wire, frozen=True, kw_only=True):
    """Removal of `Start`: refused while leased, unless forced with a reason."""

    expected_tick: int
    forced: str = ""


# -- client or supervisor to worker ------------------------------------------------------


class ReleasingArgs(Wire, frozen=True, kw_only=True):
    """`Releasing`: end the lease of this epoch. `withdraw`: only if it was never taken."""

    epoch: int
    reason: str = ""
    withdraw: bool = False


# -- worker to supervisor (payload) ------------------------------------------------------


class WorkerInfo(Wire, frozen=True, kw_only=True):
    """What a worker says of itself: at each change of `Leased`, and to a new supervisor.

    `client_id` is "" while it is not leased. `taken`: the secret of the lease (of the last
    one, when it has ended) was used. `clean`: the last lease ended by release. `rss`: resident
    bytes of its process at the end of its last lease, 0 where the system does not tell.
    """

    worker_id: str
    kind: str
    schema_hash: str
    leased_tick: int
    client_id: str = ""
    taken: bool = False
    clean: bool = True
    since: float = 0.0
    jobs_done: int = 0
    age: float = 0.0
    rss: int = 0


# -- client to worker --------------------------------------------------------------------


class WorkArgs(Wire, frozen=True, kw_only=True, array_like=True):
    """`WorkRequested`: a job and its arguments, encoded; decoded once, by the job itself.

    They cross as bytes, so that what is in them is the job's alone: no frame is refused for it.
    `news`: the number by which the caller knows the progress of this call; 0 is no interest.
    `buffers` comes last (`node/values.py`).
    """

    job: str = ""
    args: memoryview = memoryview(b"\xc0")
    epoch: int = 0
    deadline: float | None = None
    hard_deadline: float | None = None
    news: int = 0
    buffers: tuple[memoryview, ...] = ()


# -- worker to client (payload) ------------------------------------------------------------

#: The payload that has `ProgressNews`; it is for the client itself.
PROGRESS = "JobProgress"


class ProgressNews(Wire, frozen=True, kw_only=True, array_like=True):
    """How far the call of that number is."""

    news: int
    progress: Progress


# -- supervisor to the process of a worker -------------------------------------------------


class WorkerBoot(Wire, frozen=True, kw_only=True):
    """What a worker's process is told over its inherited descriptor, and nowhere else.

    `target` names the Worker class as `module:qualname`; `script` is the file to run for it
    where the module is a program's `__main__`. `secret` opens the bootstrap, once;
    `local_secret` opens the worker's own local server, for its supervisor. `adopt_wait`: it
    waits at least so long for a supervisor to come again. `keep`: the directory outlives it.
    `door`: where and how its client comes in.
    """

    target: str
    script: str
    name: str
    kind: str
    boot_addr: str
    secret: bytes
    local_secret: bytes
    directory: str
    adopt_wait: float = 0.0
    keep: bool = False
    door: ClientDoor = DEFAULT_DOOR

    def __repr__(self) -> str:
        return f"WorkerBoot({self.target}, {self.name})"


# -- inside one process: what handlers hand to each other ----------------------------------


class SendPayloadArgs(Wire, frozen=True, kw_only=True):
    """`ClientSendPayload`, `SuperSendPayload`: named data for one peer.

    Attributes:
        name: what it is; `ServerPayload` of the peer carries it.
        data: anything that msgspec encodes.
        to: of several peers, which one.
    """

    name: str
    data: Any
    to: str = ""


class StartArgs(Wire, frozen=True, kw_only=True):
    """`Start` of a worker: what its process was told."""

    boot: WorkerBoot
