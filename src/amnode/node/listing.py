"""Listing a pool: what its supervisor says of each worker, and of who waits for one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum

from amnode.errors import OptionError
from amnode.node.operator_args import WaiterRow, WorkerRow
from amnode.node.policy.core import PoolCore
from amnode.node.policy.roster import Condition, Member
from amnode.node.progress import Progress


class WorkerState(StrEnum):
    """Which workers to list: see `Supervisor.workers`."""

    INITING = "initing"
    RPC = "rpc"
    IDLE = "idle"
    BUSY = "busy"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class ListArgs:
    """`ListWorkers` by the program itself: which, and where the reply goes."""

    state: WorkerState | None
    reply: asyncio.Future[list[WorkerRow]]


def state_named(text: str) -> WorkerState | None:
    """The state of that name; None for "", which is all.

    Raises:
        OptionError: there is none.
    """
    try:
        return WorkerState(text) if text else None
    except ValueError:
        names = ", ".join(WorkerState)
        raise OptionError(f"There is no worker state {text!r}; it is one of {names}.") from None


def row_of(member: Member, pid: int, at: tuple[str, Progress | None], now: float) -> WorkerRow:
    """What is known of a worker now.

    Args:
        member: in the roster.
        pid: of its process; 0 if there is none.
        at: the job that it runs, and how far that is.
        now: the time.
    """
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
        ready=member.ready,
        note=_note(member),
        local_addr=member.address,
        job=at[0],
        progress=at[1],
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


def waiters(core: PoolCore, now: float) -> tuple[WaiterRow, ...]:
    """Who waits for a worker, in their order."""
    queue = sorted(core.waitlist, key=lambda waiter: waiter.place)
    return tuple(
        WaiterRow(
            client=waiter.name,
            request_id=waiter.request_id,
            place=place,
            waited=max(0.0, now - waiter.since),
            time_left=max(0.0, waiter.deadline - now),
            held=core.roster.held_by(waiter.name),
            guest=waiter.guest,
        )
        for place, waiter in enumerate(queue, 1)
    )


def _note(member: Member) -> str:
    """What keeps it from being leased, beside that it is; the first that holds."""
    if member.doom is not None:
        return f"is being ended: {member.doom.why}"
    if member.retiring:
        return f"goes: {member.retiring}"
    if member.condition is Condition.STARTING:
        return f"has to {member.step.value}"
    if member.health.misses:
        return f"has missed {member.health.misses} checks"
    if not member.linked:
        return "is not connected"
    if member.blemished:
        return "had an error a moment ago"
    return member.unfit or member.worn


def _memory(pid: int) -> int:
    """Resident bytes of a process; 0 where it is gone."""
    import psutil  # only a listing needs it

    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0
