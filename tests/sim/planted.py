"""Bugs as patches: what a simulation has to find.

Each is a few lines that could have been written that way. A patch replaces one function; the
promise is the first that it should break, or one of several.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from amnode.errors import Outcome
from amnode.machine import clock
from amnode.node import bootstrap, client, leased, supervisor, worker, worker_link
from amnode.node.policy import (
    crash,
    ending,
    events,
    health,
    lease,
    pool,
    restart,
    roster,
    sizing,
    waitlist,
    watching,
)
from amnode.node.policy.core import PoolCore
from amnode.testing import Kind


@dataclass(frozen=True)
class Bug:
    """A function that is replaced, and what by: `made(original)`.

    `owner` is what has it under `attribute`: a class or a module.
    `kinds` are the faults under which it shows. A `rare` one shows where several things meet.
    `seed` is where to begin to look: where it was found last.
    """

    name: str
    owner: Any
    attribute: str
    made: Callable[[Any], Any]
    promises: tuple[str, ...]
    kinds: tuple[Kind, ...] = tuple(Kind)
    rare: bool = False
    seed: int = 0

    def plant(self, patch: pytest.MonkeyPatch) -> None:
        original = getattr(self.owner, self.attribute)
        patch.setattr(self.owner, self.attribute, self.made(original))


def _nothing(_original: Any) -> Any:
    return lambda *_args, **_kwargs: None


def _always(value: Any) -> Callable[[Any], Any]:
    return lambda _original: lambda *_args, **_kwargs: value


def _no_deadline_of_offers(original: Any) -> Any:
    def _next(self: Any) -> Any:
        return None if self.stage is lease.Stage.OFFERED else original(self)

    return _next


def _newest_first(_original: Any) -> Any:
    def take(self: Any) -> Any:
        for place in sorted(self._by_place, reverse=True):
            waiter = self._by_place[place]
            if self._lines[waiter.name].eligible:
                self._delete(waiter)
                return waiter
        return None

    return take


def _free_when_cut(original: Any) -> Any:
    def _on_connection_lost(self: Any, event: Any) -> None:
        original(self, event)
        member = self._pool.alive(event.worker_id)
        if member is not None and member.held is not None:
            self._leasing._let_go(member, member.held)

    return _on_connection_lost


def _forgets_failures(_original: Any) -> Any:
    def failed(self: Any, worker_id: str, now: float, why: str, draw: float) -> None:
        if self._trial == worker_id:
            self._trial = ""

    return failed


def _past_maximum(_original: Any) -> Any:
    def missing(size: Any, live: int, total: int, wanted: int) -> int:
        return max(0, wanted - live)

    return missing


def _same_epoch(original: Any) -> Any:
    return lambda waiter, tick: original(waiter, tick - 1)


def _one_more(original: Any) -> Any:
    return lambda size, ready: original(size, ready - 1)


def _open_session(original: Any) -> Any:
    async def _release(self: Any, deferred: Any) -> None:
        public, self.public_rpc = self.public_rpc, None
        try:
            await original(self, deferred)
        finally:
            self.public_rpc = public

    return _release


def _error_pool_last(original: Any) -> Any:
    """As it was once: PoolNormalized was added while ErrPool, which removes it, was active."""

    def _publish(self: Any) -> None:
        machine, removed = self.machine, []
        if not self.view().broken and machine.is1("ErrPool"):
            remove = machine.remove

            def put_off(states: Any, *args: Any) -> Any:
                if "ErrPool" in states:
                    removed.append(states)
                    return None
                return remove(states, *args)

            machine.remove = put_off
            try:
                original(self)
            finally:
                del machine.remove
            for states in removed:
                machine.remove(states)
            return
        original(self)

    return _publish


def _never_ran(original: Any) -> Any:
    async def _lost(self: Any, outcome: Any) -> Any:
        return await original(self, Outcome.NOT_RUN)

    return _lost


def _half_a_difference(original: Any) -> Any:
    def advance_all(self: Any, pairs: Any) -> Any:
        return original(self, pairs[:-2] if len(pairs) > 2 else pairs)

    return advance_all


def _no_cause(original: Any) -> Any:
    def report(*args: Any, **kwargs: Any) -> Any:
        return msgspec.structs.replace(original(*args, **kwargs), cause="bad luck")

    return report


def _stopped_at_once(original: Any) -> Any:
    def _on_stop(self: Any, event: Any) -> None:
        original(self, event)
        self._pool.stopped = True
        self._pool.act(events.Stopped())

    return _on_stop


def _granted_unasked(original: Any) -> Any:
    def answered(self: Any, accepted: bool | None) -> Any:
        return original(self, True if accepted is None else accepted)

    return answered


def _leased_can_retire(original: Any) -> Any:
    def most_idle(self: Any) -> Any:
        leased_ones = [
            m for m in self if m.condition is roster.Condition.LEASED and m.info is not None
        ]
        return leased_ones[0] if leased_ones else original(self)

    return most_idle


def _patient(original: Any) -> Any:
    async def req_worker(self: Any, *, timeout: float | None = None) -> Any:
        wait = self.opts.request_wait if timeout is None else timeout
        return await original(self, timeout=wait + 0.5)

    return req_worker


def _leaky(_original: Any) -> Any:
    async def close(self: Any) -> None:
        self._closed = True
        await self.close_bootstrap()

    return close


def _half_stopped(_original: Any) -> Any:
    async def stop(self: Any) -> None:
        self.machine.remove1("Start")
        await self.machine.dispose()

    return stop


W, L = worker.Worker, lease.WorkerLease

BUGS = [
    Bug(
        "a hand-over is never reclaimed",
        L,
        "_next",
        _no_deadline_of_offers,
        ("L",),
        (Kind.SUPERVISOR_KILL, Kind.CLIENT_KILL),
        rare=True,
    ),
    Bug(
        "the grace of a client never ends",
        L,
        "connection_lost",
        _nothing,
        ("L3", "L1"),
        (Kind.CLIENT_KILL,),
        seed=7,
    ),
    Bug(
        "the newest waiter goes first",
        waitlist.Waitlist,
        "take",
        _newest_first,
        ("S10",),
        seed=2,
    ),
    Bug(
        "a cut worker is taken to be free",
        watching.Watching,
        "_on_connection_lost",
        _free_when_cut,
        ("S8",),
    ),
    Bug(
        "failed starts are forgotten",
        restart.Restart,
        "failed",
        _forgets_failures,
        ("S13",),
        seed=2,
    ),
    Bug("quota is not looked at", pool.Pool, "room", _always(99), ("S7", "S9"), seed=3),
    Bug("more workers than the maximum", sizing, "missing", _past_maximum, ("S7",), seed=7),
    Bug("an epoch is not raised", lease.Held, "ask", _same_epoch, ("S", "L")),
    Bug("ready needs one more", sizing, "is_ready", _one_more, ("L1",), seed=1),
    Bug("a worker says nothing", W, "_tell", _nothing, ("L1",)),
    Bug("a request is never given up", client.Client, "_give_up", _nothing, ("L2",), seed=3),
    Bug("a released session stays open", W, "_release", _open_session, ("S1",)),
    Bug(
        "ErrPool ends last",
        supervisor.Supervisor,
        "_publish",
        _error_pool_last,
        ("S19",),
        seed=2,
    ),
    Bug("a lost call never ran", leased.LeasedWorker, "_lost", _never_ran, ("S5",)),
    Bug(
        "half of a difference is applied",
        clock.Clock,
        "advance_all",
        _half_a_difference,
        ("S15", "S16", "L", "S"),
    ),
    Bug("a death has no cause", crash, "report", _no_cause, ("S20",)),
    Bug(
        "a stop does not wait",
        PoolCore,
        "_on_stop",
        _stopped_at_once,
        ("S7", "L6"),
    ),
    Bug(
        "silence is a yes",
        lease.Held,
        "answered",
        _granted_unasked,
        ("S8", "S3", "L1"),
        (Kind.RESET,),
        rare=True,
    ),
    Bug(
        "a leased worker is surplus",
        roster.Roster,
        "most_idle",
        _leased_can_retire,
        ("S", "L"),
        rare=True,
    ),
    Bug("a hang is overlooked", health.Health, "missed", _always(None), ("L1",), (Kind.STOP,)),
    Bug(
        "nothing follows SIGTERM",
        ending.Ending,
        "_due_signal",
        _nothing,
        ("L", "S"),
        (Kind.STOP,),
    ),
    Bug("an orphan stays", W, "_orphaned", _nothing, ("L6",), (Kind.SUPERVISOR_KILL,)),
    Bug("surplus stays", sizing, "surplus_at", _always(None), ("L1",), seed=1),
    Bug("a deadline is late", client.Client, "req_worker", _patient, ("L2",), seed=2),
    Bug(
        "a link stays connected",
        worker_link.WorkerLink,
        "close",
        _leaky,
        ("L", "S"),
        rare=True,
    ),
    Bug("a bootstrap stays open", bootstrap.Bootstrap, "stop", _half_stopped, ("L4",)),
    Bug("an exit goes unseen", worker_link.WorkerLink, "_exited", _nothing, ("L", "S")),
]
