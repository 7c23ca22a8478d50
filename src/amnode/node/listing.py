"""Listing workers: what a supervisor says of each, and which of them it is asked for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from amnode.node.policy.roster import Condition, Member


class WorkerState(StrEnum):
    """Which workers to list: see `Supervisor.workers`."""

    INITING = "initing"
    RPC = "rpc"
    IDLE = "idle"
    BUSY = "busy"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class WorkerRow:
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


@dataclass(frozen=True, slots=True)
class ListArgs:
    """`ListWorkers`: which, and where the reply goes."""

    state: WorkerState | None
    reply: asyncio.Future[list[WorkerRow]]


def row_of(member: Member, pid: int, now: float) -> WorkerRow:
    """What is known now of a worker whose process has this pid; 0 if there is none."""
    held = member.held
    return WorkerRow(
        id=member.worker_id,
        pid=pid,
        condition=member.condition.value,
        client=held.name if held is not None else "",
        epoch=held.epoch if held is not None else 0,
        jobs_done=member.info.jobs_done if member.info is not None else 0,
        age=now - member.started_at,
        leased_for=now - member.leased_since if member.leased_since is not None else 0.0,
        memory=_memory(pid),
    )


def matches(member: Member, state: WorkerState | None) -> bool:
    """Whether a worker is in a state; see `Supervisor.workers`. None is all."""
    healthy = not member.blemished
    match state:
        case WorkerState.INITING:
            return not member.linked
        case WorkerState.RPC:
            return member.linked
        case WorkerState.IDLE:
            return healthy and member.condition is Condition.IDLE
        case WorkerState.BUSY:
            return healthy and member.condition in (Condition.HANDED_OVER, Condition.LEASED)
        case WorkerState.READY:
            return healthy and member.ready
        case None:
            return True


def _memory(pid: int) -> int:
    """Resident bytes of a process; 0 where it is gone."""
    import psutil  # only a listing needs it

    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0
