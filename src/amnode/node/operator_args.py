"""What operators ask a supervisor for and are told, and the file by which they find it.

Each request is a state of the local server, with one struct here; what it is answered with is
another. Names and meanings of fields stay: the command line prints them as JSON.
"""

from __future__ import annotations

import msgspec

from amnode.errors import PoolError
from amnode.node.args import Wire
from amnode.node.policy.crashes import CrashRecord
from amnode.node.policy.view import PoolView
from amnode.node.progress import Progress
from amnode.rpc.tls_files import TlsFiles

#: The file of a supervisor's directory that says where operators find it.
DOOR = "operators.json"


class Door(Wire, frozen=True, kw_only=True):
    """Where one supervisor is, and the secret by which its operators prove themselves.

    Attributes:
        name, kind: of the supervisor.
        pid, pid_start: of its process; both together name one process for ever.
        public_addr: where clients connect.
        local_addr: where operators do.
        secret: theirs, as hexadecimal digits.
        tls: what a connection to an address that begins with `tls:` shows and trusts.
    """

    name: str
    kind: str
    pid: int
    pid_start: float
    public_addr: str
    local_addr: str
    secret: str
    tls: TlsFiles | None = None

    def __repr__(self) -> str:
        return f"Door({self.name}, {self.local_addr})"


def encode_door(door: Door) -> bytes:
    """The file."""
    return msgspec.json.format(msgspec.json.encode(door)) + b"\n"


def decode_door(data: bytes, path: str) -> Door:
    """What the file says.

    Raises:
        PoolError: it is no such file; names it.
    """
    try:
        return msgspec.json.decode(data, type=Door)
    except msgspec.MsgspecError as error:
        raise PoolError(f"{path} does not say where a supervisor is: {error}.") from None


class ListWorkersArgs(Wire, frozen=True, kw_only=True):
    """`ListWorkers`: the pool with the workers in a state; "" is all. See `WorkerState`."""

    state: str = ""


class WorkerRow(Wire, frozen=True, kw_only=True):
    """One worker in a listing.

    Attributes:
        id: its machine id.
        pid: of its process; 0 before there is one.
        condition: starting, idle, handed over, leased, draining or dying.
        client: the name of who holds it, or "".
        epoch: of the lease that it is in, or 0.
        jobs_done: when it last said so, at the begin or end of a lease.
        age: seconds since its process was asked for.
        leased_for: seconds since the lease that it is in began, as it said; 0 if in none.
        memory: resident bytes of its process; 0 where there is none.
        ready: it is able to work.
        note: what keeps it from being leased, or "".
        local_addr: where its supervisor connects to it, or "".
        job: which one it runs, or "".
        progress: how far that says it is: `done`, `total`, `note`; null if it does not.
    """

    id: str
    pid: int
    condition: str
    client: str
    epoch: int
    jobs_done: int
    age: float
    leased_for: float
    memory: int
    ready: bool = False
    note: str = ""
    local_addr: str = ""
    job: str = ""
    progress: Progress | None = None


class WaiterRow(Wire, frozen=True, kw_only=True):
    """A request that waits for a worker.

    Attributes:
        client: the name of who asks.
        request_id: the client's number of it.
        place: its rank in the queue, from 1.
        waited: seconds that it has waited here.
        time_left: seconds until it is given up.
        held: workers that the client has.
        guest: a peer supervisor passed it on.
    """

    client: str
    request_id: str
    place: int
    waited: float
    time_left: float
    held: int
    guest: bool


class PoolListing(Wire, frozen=True, kw_only=True):
    """A supervisor and its pool at one moment.

    Attributes:
        name, kind: of the supervisor.
        pid: of its process.
        uptime: seconds since it was started.
        public_addr: where clients connect.
        local_addr: where operators and peers do.
        pool: the pool in numbers; see `PoolView`.
        workers: those in the state that was asked for, oldest first.
        waiters: who waits for a worker, in their order.
        outputs: ids of workers that are no more, whose output is kept; the oldest first.
    """

    name: str
    kind: str
    pid: int
    uptime: float
    public_addr: str
    local_addr: str
    pool: PoolView
    workers: tuple[WorkerRow, ...]
    waiters: tuple[WaiterRow, ...]
    outputs: tuple[str, ...] = ()


class ListCrashesArgs(Wire, frozen=True, kw_only=True):
    """`ListCrashes`: the last crashes, of all workers or of one."""

    worker_id: str = ""


class CrashListing(Wire, frozen=True, kw_only=True):
    """What is remembered of crashes, oldest first."""

    crashes: tuple[CrashRecord, ...]


class ReadOutputArgs(Wire, frozen=True, kw_only=True):
    """`ReadOutput`: what workers write, as a stream of `OutputPart`.

    Attributes:
        worker_id: whose; "" is everybody's.
        lines: how many of those that are there already, of each.
        follow: whether to go on as more is written; the end of the worker ends it.
    """

    worker_id: str = ""
    lines: int = 100
    follow: bool = False


class OutputPart(Wire, frozen=True, kw_only=True):
    """Some lines of one worker, made safe to show."""

    worker_id: str
    lines: tuple[str, ...]
