"""Faults as data: what goes wrong in one simulated deployment, when, and to whom.

    seed  ->  scenario(rng)  ->  Scenario(sizes, weather, habits, faults)

A fault names no worker, since which workers there will be is not known in advance: `pick` is a
number that chooses among those there are then, and `state` says what it should be to its pool.
Each seed draws which kinds occur in it at all, and how often (a *swarm*): faults that mask each
other meet in some seeds and not in others.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from amnode.node.policy.options import (
    ClientOptions,
    PoolSize,
    SupervisorOptions,
    WorkerOptions,
)

if TYPE_CHECKING:  # what is random is passed in
    from random import Random


class Kind(StrEnum):
    """What goes wrong."""

    KILL = "kill"  # SIGKILL
    SEGFAULT = "segfault"  # SIGSEGV
    EXIT = "exit"  # it ends itself, with code 3
    TERM = "term"  # SIGTERM from outside
    STOP = "stop"  # no turn ever again: SIGSTOP, or a loop that is blocked
    PAUSE = "pause"  # no turn for some seconds, then all at once
    CRASH_AT_IMPORT = "crash at import"
    NEVER_CALLS = "never calls back"
    CALLS_LATE = "calls back late"
    WRONG_SECRET = "wrong secret"
    NO_FORK = "no fork"
    RESET = "reset"
    BLACK_HOLE = "black hole"
    HOLD = "hold"
    SLOW = "slow"
    PARTITION = "partition"
    GARBAGE = "garbage"
    REPLAY = "replay"
    CLIENT_KILL = "client kill"
    CLIENT_PAUSE = "client pause"
    SUPERVISOR_KILL = "supervisor kill"
    SUPERVISOR_PAUSE = "supervisor pause"


#: For how long things go wrong in a deployment, at most.
MOST_SECONDS = 150.0

#: Those that hit a worker that runs, in one of `STATES`.
ON_WORKERS = (
    Kind.KILL,
    Kind.SEGFAULT,
    Kind.EXIT,
    Kind.TERM,
    Kind.STOP,
    Kind.PAUSE,
    Kind.RESET,
    Kind.BLACK_HOLE,
    Kind.HOLD,
    Kind.SLOW,
)
#: Those that hit starts to come.
ON_STARTS = (
    Kind.CRASH_AT_IMPORT,
    Kind.NEVER_CALLS,
    Kind.CALLS_LATE,
    Kind.WRONG_SECRET,
    Kind.NO_FORK,
)
#: What a worker is to its pool when something hits it.
STATES = ("starting", "idle", "handed over", "leased", "draining")

#: Those of `STATES` that last for a moment only.
MOMENTS = ("starting", "handed over", "draining")
#: Faults of others that wait for such a moment.
ON_OTHERS = (
    Kind.PARTITION,
    Kind.CLIENT_KILL,
    Kind.CLIENT_PAUSE,
    Kind.SUPERVISOR_KILL,
    Kind.SUPERVISOR_PAUSE,
)

#: How often each kind comes, beside the others.
_WEIGHTS = {
    Kind.KILL: 3.0,
    Kind.STOP: 0.7,
    Kind.PAUSE: 2.0,
    Kind.RESET: 3.0,
    Kind.SUPERVISOR_KILL: 0.4,
    Kind.SUPERVISOR_PAUSE: 0.7,
}


class Fault(msgspec.Struct, frozen=True):
    """One fault.

    Attributes:
        at: simulated seconds from the start.
        kind: what goes wrong.
        pick: chooses among those that it can hit.
        state: what a worker that it hits should be to its pool.
        seconds: how long it lasts, where it ends by itself.
    """

    at: float
    kind: Kind
    pick: int
    state: str
    seconds: float


class Ask(StrEnum):
    """What operators ask of a pool."""

    RESIZE = "resize"
    DRAIN = "drain"
    RESUME = "resume"
    RESTART = "rolling restart"


class Order(msgspec.Struct, frozen=True):
    """What an operator asks for.

    Attributes:
        at: simulated seconds from the start.
        ask: for what.
        pick: chooses the pool.
        size: that it is to have, of a `RESIZE`.
    """

    at: float
    ask: Ask
    pick: int
    size: PoolSize


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment and what happens to it.

    Attributes:
        seconds: for how long things go wrong.
        supervisors: how many pools there are.
        clients: how many clients; those that share a name share a quota.
        names: how many names they have.
        latency: seconds that bytes take, on average.
        split: the share of writes that arrive in pieces.
        pause: seconds between two errands of a client, on average.
        hold: seconds that a job takes, on average.
        haste: the share of waits that are given up early.
        pool: the options of the supervisors.
        worker: the options of the workers.
        client: the options of the clients.
        abrupt: whether the supervisors are stopped at once then, in the middle of all.
        faults: what goes wrong, in order.
        peers: whether the supervisors help each other out.
        keeps: whether they have state directories, by which the next ones adopt workers.
        orders: what operators ask for, in order.
    """

    seconds: float
    supervisors: int
    clients: int
    names: int
    latency: float
    split: float
    pause: float
    hold: float
    haste: float
    pool: SupervisorOptions
    worker: WorkerOptions
    client: ClientOptions
    abrupt: bool
    faults: tuple[Fault, ...]
    peers: bool = False
    keeps: bool = False
    orders: tuple[Order, ...] = ()

    @property
    def patience(self) -> float:
        """Seconds in which all is well again once nothing goes wrong any more."""
        pool, worker = self.pool, self.worker
        start = pool.start_timeout + pool.conn_timeout
        hang = 3 * (
            pool.worker_check_interval + 2 * pool.check_timeout + pool.healthcheck_pause
        )
        lease = pool.delivery_timeout + pool.grace + 3 * worker.release_timeout
        failed = pool.restart_period + pool.back_off_cap + pool.restart_settle
        others = pool.worker_err_recent + pool.linger + 2 * pool.term_timeout + 5.0
        others += pool.adopt_wait if self.keeps else 0.0
        return start + hang + lease + failed + others + self.client.request_wait


def scenario(
    rng: Random, kinds: Sequence[Kind] = tuple(Kind), most: float = MOST_SECONDS
) -> Scenario:
    """Draws a deployment and its faults.

    Args:
        rng: all that is left to chance comes from it.
        kinds: those that may occur.
        most: seconds for which things go wrong, at most; at least a fifth of that.
    """
    seconds = rng.uniform(0.2 * most, most)
    most = rng.randint(1, 6)
    size = PoolSize(
        min=rng.randint(0, min(2, most)),
        max=most,
        warm=rng.randint(0, 2),
        max_per_client=rng.choice((0, 0, 1, 2)),
    )
    drawn = Scenario(
        seconds=seconds,
        supervisors=rng.choice((1, 1, 2)),
        clients=rng.randint(1, 4),
        names=rng.randint(1, 3),
        latency=rng.choice((0.0002, 0.001, 0.005, 0.02)),
        split=rng.choice((0.0, 0.05, 0.3)),
        pause=rng.choice((0.7, 4.0, 15.0)),
        hold=rng.choice((0.01, 0.3, 2.0)),
        haste=rng.choice((0.0, 0.1, 0.4)),
        pool=_pool(rng, size),
        worker=WorkerOptions(
            conn_timeout=1.0,
            orphan_ttl=rng.choice((0.5, 3.0)),
            release_timeout=rng.choice((0.5, 1.5)),
        ),
        client=ClientOptions(
            request_wait=rng.choice((2.0, 8.0)), conn_timeout=1.0, delivery_timeout=1.0
        ),
        abrupt=rng.random() < 0.25,
        faults=_faults(rng, seconds, kinds),
    )
    return _operated(rng, drawn)


def _operated(rng: Random, drawn: Scenario) -> Scenario:
    """What else there may be; drawn last, so that the rest of a seed stays as it is without."""
    orders: tuple[Order, ...] = ()
    if rng.random() < 0.4:
        times = [rng.uniform(0.0, drawn.seconds) for _ in range(rng.randint(1, 8))]
        orders = tuple(_order(rng, at) for at in sorted(times))
    jobs = rng.choice((None, None, None, 1, 5))
    return msgspec.structs.replace(
        drawn,
        peers=drawn.supervisors > 1 and rng.random() < 0.5,
        keeps=rng.random() < 0.5,
        orders=orders,
        pool=msgspec.structs.replace(
            drawn.pool,
            max_jobs=jobs,
            renew_at_once=rng.choice((1, 2)),
            adopt_wait=rng.choice((2.0, 8.0)),
        ),
    )


def _order(rng: Random, at: float) -> Order:
    most = rng.randint(1, 6)
    size = PoolSize(
        min=rng.randint(0, min(2, most)),
        max=most,
        warm=rng.randint(0, 2),
        max_per_client=rng.choice((0, 0, 1, 2)),
    )
    return Order(at, rng.choice(list(Ask)), rng.randrange(1 << 30), size)


def _pool(rng: Random, size: PoolSize) -> SupervisorOptions:
    return SupervisorOptions(
        size=size,
        conn_timeout=1.0,
        start_timeout=3.0,
        check_timeout=1.0,
        delivery_timeout=rng.choice((0.3, 1.0)),
        op_timeout=1.0,
        heartbeat=20.0,
        worker_check_interval=rng.choice((1.0, 10.0)),
        healthcheck_pause=0.2,
        pool_pause=0.5,
        worker_err_recent=1.0,
        worker_err_ttl=20.0,
        linger=rng.choice((0.5, 5.0)),
        grace=rng.choice((0.0, 0.5, 2.0)),
        maximum=rng.choice((None, None, 3.0)),
        restart_intensity=rng.randint(1, 5),
        restart_period=4.0,
        restart_settle=rng.choice((0.0, 1.0)),
        back_off_base=0.2,
        back_off_cap=4.0,
        stop_grace=rng.choice((0.5, 3.0)),
        term_timeout=0.5,
    )


def _faults(rng: Random, seconds: float, kinds: Sequence[Kind]) -> tuple[Fault, ...]:
    allowed = [kind for kind in kinds if rng.random() < 0.5] or list(kinds)
    if not allowed:
        return ()
    weights = [_WEIGHTS.get(kind, 1.0) for kind in allowed]
    count = rng.randint(0, round(seconds * rng.choice((0.1, 0.5, 1.5))))
    times = sorted(rng.uniform(0.0, seconds) for _ in range(count))
    drawn = rng.choices(allowed, weights, k=count)
    return tuple(
        Fault(
            at=at,
            kind=kind,
            pick=rng.randrange(1 << 30),
            state=rng.choice(STATES),
            seconds=rng.choice((0.05, 0.5, 2.0, 6.0)) * (0.5 + rng.random()),
        )
        for at, kind in zip(times, drawn, strict=True)
    )
