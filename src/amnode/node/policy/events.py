"""What the driver tells the pool's core, and what the core asks of it: plain data.

Nothing here decides. A worker is named by its machine id, a client by the id of its supervisor
connection. `Action`s are to be done in order; none of them has a result, what comes of it is an
event, or several.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from amnode.node.args import CrashReport, Grant, WorkerInfo
from amnode.node.policy.crash import ExitFacts, Hang
from amnode.node.policy.options import PoolSize
from amnode.node.policy.waitlist import Waiter

# -- events: processes ---------------------------------------------------------------------


class Started(msgspec.Struct, frozen=True):
    """The process of a `Spawn` runs. `fallback`: why it was started in a slower way, or ""."""

    worker_id: str
    pid: int
    fallback: str = ""


class SpawnFailed(msgspec.Struct, frozen=True):
    """There is no process for a `Spawn`."""

    worker_id: str
    reason: str


class Exited(msgspec.Struct, frozen=True):
    """The process is no more, reaped.

    `output`: its last lines, oldest first. `hang`: what it did before it was killed as hung.
    """

    worker_id: str
    facts: ExitFacts
    output: tuple[str, ...] = ()
    hang: Hang | None = None


class Found(msgspec.Struct, frozen=True):
    """Workers that a supervisor before this one started: ids and addresses. The first event."""

    workers: tuple[tuple[str, str], ...]


# -- events: the connection to a worker ----------------------------------------------------


class CalledBack(msgspec.Struct, frozen=True):
    """The worker told its bootstrap where it listens for the supervisor."""

    worker_id: str
    address: str


class Connected(msgspec.Struct, frozen=True):
    """The handshake with the worker is done."""

    worker_id: str


class ConnectFailed(msgspec.Struct, frozen=True):
    """Nothing came of a `Connect`."""

    worker_id: str
    reason: str


class Stale(msgspec.Struct, frozen=True):
    """The worker refuses this supervisor: it belongs to another one."""

    worker_id: str
    reason: str


class ConnectionLost(msgspec.Struct, frozen=True):
    """The connection to the worker is gone; what it still had to say was told before."""

    worker_id: str
    reason: str = ""


class InfoReceived(msgspec.Struct, frozen=True):
    """The worker's own word."""

    worker_id: str
    info: WorkerInfo


class ReadyChanged(msgspec.Struct, frozen=True):
    """The worker's Ready, as its replica shows it; told after Connected, too."""

    worker_id: str
    ready: bool


class ErrorSeen(msgspec.Struct, frozen=True):
    """Something went wrong with the worker that did not end it."""

    worker_id: str
    reason: str


class CheckAnswered(msgspec.Struct, frozen=True):
    """The worker gave a sign of life."""

    worker_id: str
    check: int


class CheckMissed(msgspec.Struct, frozen=True):
    """A check cannot be answered. (One that is not answered in time, the core knows of.)"""

    worker_id: str
    check: int


# -- events: answers of a worker -----------------------------------------------------------


class ServeAnswered(msgspec.Struct, frozen=True):
    """The answer to `Serve`; `accepted` is None when its connection was lost before it."""

    worker_id: str
    epoch: int
    accepted: bool | None
    reason: str = ""


class WithdrawAnswered(msgspec.Struct, frozen=True):
    """The answer to `Withdraw`; False: the lease was taken, or is another by now."""

    worker_id: str
    epoch: int
    accepted: bool | None


class RetireAnswered(msgspec.Struct, frozen=True):
    """The answer to `Retire`; `accepted` is None when there was none."""

    worker_id: str
    accepted: bool | None
    reason: str = ""


# -- events: clients -----------------------------------------------------------------------


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """A client asks for a worker. `name`: of the client, by which the quota counts.

    `guest`: a peer supervisor passes it on: it is served soon or declined, never passed on.
    """

    client_id: str
    name: str
    request_id: str
    time_left: float
    kind: str
    schema_hash: str
    worker_rpc_id: str
    guest: bool = False


class Cancelled(msgspec.Struct, frozen=True):
    """A client takes a request back."""

    client_id: str
    request_id: str


class Returned(msgspec.Struct, frozen=True, kw_only=True):
    """A client returns a grant. `again`: its request stands, with the time that is left."""

    client_id: str
    request_id: str
    worker_id: str
    epoch: int
    again: bool = False


class ClientGone(msgspec.Struct, frozen=True):
    """The supervisor connection of a client has ended, or is replaced by a new one."""

    client_id: str


# -- events: peer supervisors -------------------------------------------------------------


class PeerSaid(msgspec.Struct, frozen=True):
    """A peer could serve so many requests more."""

    peer: str
    spare: int


class PeerLost(msgspec.Struct, frozen=True):
    """The connection to a peer is gone."""

    peer: str


class PeerGranted(msgspec.Struct, frozen=True):
    """A peer grants a worker of its own for a request that was passed to it."""

    peer: str
    client_id: str
    grant: Grant


class PeerDenied(msgspec.Struct, frozen=True):
    """A peer does not serve a request that was passed to it."""

    peer: str
    client_id: str
    request_id: str


# -- events: the supervisor itself ---------------------------------------------------------


class Tick(msgspec.Struct, frozen=True):
    """It is the time that `next_deadline` named; also the first event of all."""


class StopRequested(msgspec.Struct, frozen=True):
    """End all workers. `grace`: for leases, else `stop_grace`; a later one may shorten it."""

    grace: float | None = None


class Resized(msgspec.Struct, frozen=True):
    """Another size holds from now on."""

    size: PoolSize


class DrainRequested(msgspec.Struct, frozen=True):
    """No new leases are to be granted; `on` False: they are again."""

    on: bool = True


class RestartRequested(msgspec.Struct, frozen=True):
    """Every worker that there is now is to be replaced by a new one."""


Event: TypeAlias = (
    Started
    | SpawnFailed
    | Exited
    | Found
    | CalledBack
    | Connected
    | ConnectFailed
    | Stale
    | ConnectionLost
    | InfoReceived
    | ReadyChanged
    | ErrorSeen
    | CheckAnswered
    | CheckMissed
    | ServeAnswered
    | WithdrawAnswered
    | RetireAnswered
    | Requested
    | Cancelled
    | Returned
    | ClientGone
    | PeerSaid
    | PeerLost
    | PeerGranted
    | PeerDenied
    | Tick
    | StopRequested
    | Resized
    | DrainRequested
    | RestartRequested
)

# -- actions -------------------------------------------------------------------------------


class Spawn(msgspec.Struct, frozen=True):
    """Start a process for this worker. Ends in `Started` or `SpawnFailed`, always."""

    worker_id: str
    number: int


class Connect(msgspec.Struct, frozen=True):
    """Connect to the worker. Ends in `Connected` or `ConnectFailed`, unless it is ended."""

    worker_id: str
    address: str


class Probe(msgspec.Struct, frozen=True):
    """Ask for a sign of life; `fresh`: by a hello on a new connection."""

    worker_id: str
    check: int
    attempt: int
    fresh: bool


class Serve(msgspec.Struct, frozen=True):
    """Ask the worker to serve, with a new secret. Ends in `ServeAnswered`."""

    worker_id: str
    waiter: Waiter
    expected_tick: int
    epoch: int


class Withdraw(msgspec.Struct, frozen=True):
    """Take a hand-over back from the worker. Ends in `WithdrawAnswered`."""

    worker_id: str
    epoch: int


class Retire(msgspec.Struct, frozen=True):
    """Ask the worker to end, unless it serves. Ends in `RetireAnswered`."""

    worker_id: str
    expected_tick: int
    reason: str


class Terminate(msgspec.Struct, frozen=True):
    """SIGTERM to the worker's process group."""

    worker_id: str
    reason: str


class Kill(msgspec.Struct, frozen=True):
    """SIGKILL to the worker's process group; told again while it does not end.

    `hung`: first look what it does instead of answering, for the `hang` of its `Exited`.
    """

    worker_id: str
    reason: str
    attempt: int = 1
    hung: bool = False


class SendGrant(msgspec.Struct, frozen=True):
    """Tell the client: the worker is yours. The secret is that of the `Serve` of this epoch."""

    client_id: str
    request_id: str
    worker_id: str
    epoch: int


class SendDenied(msgspec.Struct, frozen=True):
    """Tell the client: no worker for this request."""

    client_id: str
    request_id: str
    reason: str
    timed_out: bool = False


class SendCrash(msgspec.Struct, frozen=True):
    """Tell the client, if it is connected, that the worker of its lease is dead, and why."""

    client_id: str
    worker_id: str
    epoch: int
    report: CrashReport


class PassOn(msgspec.Struct, frozen=True):
    """Ask a peer to serve this request; it has `time_left`. Ends in a `Peer...` event."""

    peer: str
    waiter: Waiter
    time_left: float


class TakeBack(msgspec.Struct, frozen=True):
    """Tell the peer that nobody wants this request served any more."""

    peer: str
    client_id: str
    request_id: str


class GiveBack(msgspec.Struct, frozen=True):
    """Return a grant to the peer whose worker it is."""

    peer: str
    client_id: str
    request_id: str
    worker_id: str
    epoch: int


class TellGone(msgspec.Struct, frozen=True):
    """Tell the peer that a client, of whom it had requests, is gone."""

    peer: str
    client_id: str


class SendPassed(msgspec.Struct, frozen=True):
    """Tell the client: this worker of a peer is yours."""

    client_id: str
    grant: Grant


class Forget(msgspec.Struct, frozen=True):
    """The worker has left the roster; `report` is what its death looked like.

    `failed_start`: it counts against the restart intensity.
    """

    worker_id: str
    report: CrashReport | None
    expected: bool
    failed_start: bool


class Disown(msgspec.Struct, frozen=True):
    """The worker has left the roster alive, since it is not ours: let it go, do not end it."""

    worker_id: str
    reason: str


class ReportLeak(msgspec.Struct, frozen=True):
    """Tell the log: a client of this name has had the worker for so long (s). Once a lease."""

    worker_id: str
    name: str
    epoch: int
    after: float


class Stopped(msgspec.Struct, frozen=True):
    """A requested stop is complete: there is no process left."""


Action: TypeAlias = (
    Spawn
    | Connect
    | Probe
    | Serve
    | Withdraw
    | Retire
    | Terminate
    | Kill
    | SendGrant
    | SendDenied
    | SendCrash
    | PassOn
    | TakeBack
    | GiveBack
    | TellGone
    | SendPassed
    | Forget
    | Disown
    | ReportLeak
    | Stopped
)
