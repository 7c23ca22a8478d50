"""Safety: the predicates S that have to hold after every event of a deployment.

What is known of each side is told as it happens; a predicate that does not hold raises
`PromiseBroken` with its number. The sides are compared with each other here, which no part of
a real deployment could do: the worker's own lease with what its supervisor believes, the jobs
that ran with the calls that were made.

- `WorkerSafety`: S1 to S4, of one worker and its leases.
- `CallSafety`: S2, S5, S6, S20, of calls and the jobs that they ran.
- `PoolSafety`: S3, S7 to S10, S12, S13, S19, of one supervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from amnode.errors import Cause, Outcome, PromiseBroken
from amnode.node.policy import events as ev
from amnode.node.policy.core import PoolCore
from amnode.node.policy.lease import End, Stage
from amnode.node.policy.roster import Condition

_EPSILON = 1e-6  # two sums of the same times may differ in their last bits


def require(holds: object, promise: str, text: str) -> None:
    """Raise PromiseBroken unless it holds."""
    if not holds:
        raise PromiseBroken(f"{promise}: {text}", promise=promise)


class WorkerFacts(msgspec.Struct, frozen=True):
    """What a worker is, as it is itself.

    Attributes:
        worker_id: its machine id.
        alive: whether its process lives.
        tick: of its Leased.
        leased: whether Leased is active.
        stage: of its lease.
        epoch: of its lease.
        client_id: whom it serves, or "".
        end: why the last lease ended, or this one is ending.
        sessions: the open connections of clients: which, and of whom.
        running: whether Start is active; one that is ended by force closes its session last.
        told_to_end: whether anybody has sent it a signal.
    """

    worker_id: str
    alive: bool
    tick: int
    leased: bool
    stage: Stage
    epoch: int
    client_id: str
    end: End | None
    sessions: tuple[tuple[str, str], ...]
    running: bool
    told_to_end: bool


class WorkerSafety:
    """One worker and its leases."""

    def __init__(self) -> None:
        self.holders: dict[int, str] = {}
        self._sessions: dict[int, str] = {}
        self._tick = 0

    def seen(self, facts: WorkerFacts) -> None:
        """The worker has had a turn."""
        who = facts.worker_id
        require(facts.tick >= self._tick, "S3", f"the tick of {who} fell to {facts.tick}.")
        self._tick = facts.tick
        if facts.leased:
            require(
                facts.tick == facts.epoch,
                "S3",
                f"{who} is in epoch {facts.epoch}, its Leased at {facts.tick}.",
            )
            known = self.holders.setdefault(facts.epoch, facts.client_id)
            same = known == facts.client_id
            require(same, "S1", f"{who} gave {facts.epoch} to {known} and {facts.client_id}.")
        self._see_sessions(facts)
        if facts.end is End.STOPPED:
            require(facts.told_to_end, "S12", f"{who} ended while it served, and nobody asked.")

    def _see_sessions(self, facts: WorkerFacts) -> None:
        who = facts.worker_id
        require(len(facts.sessions) <= 1, "S1", f"{who} has {facts.sessions}.")
        for session, client_id in facts.sessions if facts.running else ():
            # A client that comes back has its connection a moment before its lease knows of it.
            open_here = facts.stage in (Stage.HELD, Stage.CUT, Stage.RELEASING)
            require(open_here, "S1", f"{who} has a client and is {facts.stage}.")
            require(client_id == facts.client_id, "S1", f"{who} serves {client_id}.")
            first = self._sessions.setdefault(facts.epoch, session)
            require(first == session, "S4", f"{who} opened {facts.epoch} twice.")


class _Ticket(msgspec.Struct):
    """One call."""

    client: str
    worker_id: str
    epoch: int
    runs: int = 0
    answered: bool = False


class CallSafety:
    """Calls, and the jobs that they ran."""

    def __init__(self) -> None:
        self.made = 0
        self._tickets: dict[int, _Ticket] = {}
        self._running: dict[str, tuple[int, int]] = {}
        self._last: dict[tuple[str, int], int] = {}

    def call(self, client: str, worker_id: str, epoch: int) -> int:
        """A client makes a call; returns its number."""
        self.made += 1
        self._tickets[self.made] = _Ticket(client, worker_id, epoch)
        return self.made

    def started(self, number: int, facts: WorkerFacts) -> None:
        """A job starts."""
        ticket = self._tickets.get(number)
        if ticket is None:
            raise PromiseBroken(f"S18: job {number} was never asked for.", promise="S18")
        ticket.runs += 1
        who = facts.worker_id
        require(ticket.runs == 1, "S5", f"call {number} ran {ticket.runs} times.")
        here = ticket.worker_id == who and ticket.epoch == facts.epoch
        require(here, "S2", f"call {number} of {ticket.epoch} runs in {facts.epoch} on {who}.")
        holder = f"nc-worker-{ticket.client}." in facts.client_id
        require(holder, "S2", f"a call of {ticket.client} runs for {facts.client_id!r}.")
        require(who not in self._running, "S2", f"{who} runs two jobs.")
        key = (who, facts.epoch)
        require(self._last.get(key, 0) < number, "S6", f"call {number} overtook another.")
        self._last[key] = number
        self._running[who] = (number, facts.epoch)

    def ended(self, worker_id: str) -> None:
        """A job has ended, or its worker."""
        self._running.pop(worker_id, None)

    def answered(self, number: int, value: int) -> None:
        """A call has its result."""
        ticket = self._tickets[number]
        require(value == number, "S5", f"call {number} got the answer of {value}.")
        require(ticket.runs == 1, "S5", f"call {number} is answered, and ran {ticket.runs}.")
        require(not ticket.answered, "S5", f"call {number} is answered twice.")
        ticket.answered = True

    def failed(self, number: int, outcome: str, cause: str | None) -> None:
        """A call ended without its result: with the end of its lease, or of its worker."""
        runs = self._tickets[number].runs
        require(outcome in tuple(Outcome), "S20", f"call {number} has outcome {outcome!r}.")
        require(
            cause is None or cause in tuple(Cause),
            "S20",
            f"call {number} failed because of {cause!r}.",
        )
        if outcome == Outcome.NOT_RUN:
            require(runs == 0, "S5", f"call {number} ran, and its error says it did not.")
        if outcome == Outcome.RUN:
            require(runs == 1, "S5", f"call {number} did not run, and its error says it did.")

    def never_ran(self, number: int) -> None:
        """A call was refused before it could run."""
        require(self._tickets[number].runs == 0, "S5", f"call {number} was refused, and ran.")


class PoolSafety:
    """One supervisor.

    Args:
        name: of the supervisor.
        core: its core.
        facts_of: what a worker is in truth, by its id; None if it never came to life.
    """

    def __init__(
        self, name: str, core: PoolCore, facts_of: Callable[[str], WorkerFacts | None]
    ) -> None:
        self._name = name
        self._core = core
        self._facts_of = facts_of
        self._granted: dict[tuple[str, int], str] = {}
        self._serving: dict[str, int] = {}
        self._starts: list[float] = []
        self._failed_at = self._settled_at = -1e9

    def decided(self, event: ev.Event, actions: Sequence[ev.Action], now: float) -> None:
        """The core was told of an event and has said what to do."""
        self._note_settled(now)
        try:
            self._core.check()
        except AssertionError as error:
            raise PromiseBroken(f"{self._name}, check(): {error}", promise="S7") from None
        self._check_left()
        if isinstance(event, ev.RetireAnswered) and event.accepted:
            self._check_retired(event.worker_id)
        for action in actions:
            check = self._CHECKS.get(type(action))
            if check is not None:
                check(self, action, now)

    def _check_left(self) -> None:
        """S8: who is not handed over or leased any more has said so itself, or is dead."""
        serving: dict[str, int] = {}
        for member in self._core.roster:
            if member.held is not None:
                serving[member.worker_id] = member.held.epoch
        for worker_id, epoch in self._serving.items():
            if worker_id in serving:
                continue
            facts = self._facts_of(worker_id)
            serves = facts is not None and facts.alive and facts.leased
            require(
                not (serves and facts is not None and facts.epoch == epoch),
                "S8",
                f"{self._name} takes {worker_id} to be free in epoch {epoch}.",
            )
        self._serving = serving

    def _check_retired(self, worker_id: str) -> None:
        facts = self._facts_of(worker_id)
        if facts is not None and facts.alive and not facts.told_to_end:
            require(not facts.client_id, "S12", f"{worker_id} retires while it serves.")

    def _check_grant(self, action: ev.SendGrant, now: float) -> None:
        key = (action.worker_id, action.epoch)
        require(key not in self._granted, "S3", f"{key} is granted twice.")
        self._granted[key] = action.client_id
        facts = self._facts_of(action.worker_id)
        said_yes = facts is not None and facts.tick >= action.epoch
        require(said_yes, "S8", f"{key} is granted without the worker's yes.")

    def _check_serve(self, action: ev.Serve, now: float) -> None:
        most = self._core.size.max_per_client
        for waiter in self._core.waitlist:
            if waiter.place < action.waiter.place:
                held = self._core.roster.held_by(waiter.name)
                require(held >= most, "S10", f"{waiter.key} was overtaken.")

    def _check_signal(self, action: ev.Terminate | ev.Kill, now: float) -> None:
        worker_id = action.worker_id
        member = self._core.roster.get(worker_id)
        if member is None or member.doom is None:
            raise PromiseBroken(f"S11: {worker_id} is signalled for nothing.", promise="S11")
        cause, doom = member.doom.cause, member.doom
        stopping = self._core.view(now).stopping
        forced = cause in (Cause.HANG, Cause.START_TIMEOUT, Cause.REFUSED, Cause.LOST)
        facts = self._facts_of(worker_id)
        if facts is not None and facts.alive and facts.client_id and not facts.told_to_end:
            by_right = cause is Cause.HANG or stopping or member.start_failed
            require(by_right, "S12", f"{worker_id} is signalled while it serves: {doom.why}.")
        if member.ready_at is not None and member.condition is not Condition.DYING:
            ok = forced or doom.expected
            require(ok, "S11", f"{worker_id} is signalled for nothing: {doom.why}.")

    def _check_forget(self, action: ev.Forget, now: float) -> None:
        facts = self._facts_of(action.worker_id)
        gone = facts is None or not facts.alive
        require(gone, "S7", f"{action.worker_id} is forgotten alive.")
        report = action.report
        named = report is None or report.cause in tuple(Cause)
        require(named, "S20", f"{action.worker_id} died without a cause.")
        if action.failed_start:
            self._failed_at = now

    def _check_stopped(self, _action: ev.Stopped, now: float) -> None:
        require(not len(self._core.roster), "S7", f"{self._name} stopped with workers.")

    def _note_settled(self, now: float) -> None:
        settle = self._core.options.restart_settle
        for member in self._core.roster:
            at = member.ready_at
            since_failure = member.started_at > self._failed_at
            if at is not None and since_failure and now - at >= settle - _EPSILON:
                self._settled_at = now

    def _check_start(self, _action: ev.Spawn, now: float) -> None:
        """S13, as told from outside."""
        options = self._core.options
        since = now - self._failed_at
        if self._settled_at >= self._failed_at or since >= options.restart_period - _EPSILON:
            return
        self._starts.append(now)
        first = now - options.restart_period + _EPSILON
        self._starts = [at for at in self._starts if at > first]
        few = len(self._starts) <= options.restart_intensity
        require(few, "S13", f"{self._name} started {len(self._starts)} in a period.")

    _CHECKS: dict[type[Any], Callable[[PoolSafety, Any, float], None]] = {  # noqa: RUF012
        ev.SendGrant: _check_grant,
        ev.Serve: _check_serve,
        ev.Terminate: _check_signal,
        ev.Kill: _check_signal,
        ev.Forget: _check_forget,
        ev.Stopped: _check_stopped,
        ev.Spawn: _check_start,
    }
