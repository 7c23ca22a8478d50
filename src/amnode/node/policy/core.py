"""The pool's decisions: an event and the time in, actions out.

    Event -> handle(now) -> [Action] -> the driver does them -> Events

`PoolCore` composes the other files of this package; each rule stands in one of them, and here
stands only what an event means for several of them. It waits for nothing, starts nothing and
reads no clock: the driver feeds it, in the order in which things happened, keeps one timer at
`next_deadline`, and does what it is told.

1. Time never falls; an event that seems earlier happened now.
2. Every request ends once: in a grant, a denial, or by its client.
3. A worker is ended by force only if it failed to start, does not answer its checks, has agreed
   to end, or the grace of a stop is over (promises S11, S12).
4. Whatever follows an event is decided at once, in `_settle`: nothing is left for later but
   what has a deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from amnode.errors import Cause
from amnode.node.args import CrashReport, WorkerInfo
from amnode.node.policy import crash, events, sizing
from amnode.node.policy.deadlines import NOT_ITS_FAULT, WHILE_ALIVE, Deadlines, Due
from amnode.node.policy.events import Action, Event
from amnode.node.policy.health import Verdict
from amnode.node.policy.lease import Answer, Held, Phase, Told
from amnode.node.policy.options import SupervisorOptions
from amnode.node.policy.restart import Restart
from amnode.node.policy.roster import SERVING, Condition, Doom, Member, Roster, Step
from amnode.node.policy.view import Pool, PoolView, look
from amnode.node.policy.waitlist import Waiter, Waitlist

_POOL = ""  # the deadlines that belong to no worker


class PoolCore:
    """The pool of one supervisor.

    Args:
        options: what it goes by.
        kind: what its workers are; a request for another is denied.
        schema_hash: of its workers' schema; likewise.
        name_worker: the machine id of the n-th worker, never the same one twice.
        draw: a random number from 0 to 1, for the jitter of the back-off.
    """

    def __init__(
        self,
        options: SupervisorOptions,
        *,
        kind: str,
        schema_hash: str,
        name_worker: Callable[[int], str],
        draw: Callable[[], float],
    ) -> None:
        self.options = options
        self.kind = kind
        self.schema_hash = schema_hash
        self.roster = Roster()
        self.waitlist = Waitlist(self._room)
        self.restart = Restart(options)
        self._name_worker = name_worker
        self._draw = draw
        self._due: Deadlines[tuple[Due, str]] = Deadlines()
        self._asked: dict[tuple[str, str], Member] = {}
        self._actions: list[Action] = []
        self._now = 0.0
        self._promised: float | None = None
        self._number = 0
        self._failing = 0
        self._was_ready = False
        self._stopping = False
        self._stopped = False
        self._spawn_error = ""

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take in what happened at `now` (monotonic, s); returns what to do, in order."""
        self._now = now = max(now, self._now)
        self._discount_lag(now)
        self._ON_EVENT[type(event)](self, event)
        while (due := self._due.pop(now)) is not None:
            self._on_due(*due)
        for waiter in self.waitlist.expire(now):
            self._deny(waiter.client_id, waiter.request_id, self._too_late(), timed_out=True)
        self._settle()
        self._promised = self.next_deadline()
        actions, self._actions = self._actions, []
        return actions

    def next_deadline(self) -> float | None:
        """When the driver is to send `Tick` next, or None."""
        found = [
            at for at in (self._due.next(), self.waitlist.next_deadline()) if at is not None
        ]
        return min(found, default=None)

    def view(self, now: float) -> PoolView:
        """What the pool looks like; costs the same whatever its size."""
        return look(
            Pool(
                roster=self.roster,
                waitlist=self.waitlist,
                restart=self.restart,
                size=self.options.size,
                target=self._target(),
                was_ready=self._was_ready,
                stopping=self._stopping,
                stopped=self._stopped,
                pause_until=self._due.get((Due.PAUSE, _POOL)),
                spawn_error=self._spawn_error,
            ),
            max(now, self._now),
        )

    def check(self) -> None:
        """Raise AssertionError unless S7, S9, S19 and the indexes hold; scans the pool."""
        size = self.options.size
        self.roster.check(size.max, size.max_per_client)
        self.waitlist.check()
        self.view(self._now).check()
        for key, member in self._asked.items():
            held = member.held
            assert held is not None and held.waiter is not None, f"{key} is with nobody (S10)."
            assert held.waiter.key == key and held.phase is Phase.ASKED, f"{key} is lost (S10)."
            assert key not in self.waitlist, f"{key} waits and is served."
        idle_beside_waiter = self.waitlist.eligible and self.roster.available
        assert not idle_beside_waiter, "A worker is idle and a request waits (L2)."

    # -- processes -------------------------------------------------------------------------

    def _on_started(self, event: events.Started) -> None:
        member = self.roster.get(event.worker_id)
        if member is None:
            return
        member.has_process = True
        if member.doom is not None:
            self._signal(member, force=True)
        else:
            self._begin_step(member, Step.CALLING_BACK)

    def _on_spawn_failed(self, event: events.SpawnFailed) -> None:
        member = self.roster.get(event.worker_id)
        if member is None:
            return
        self._spawn_error = event.reason
        self._forget(member, None, failed=not self._stopping, why=event.reason)
        self._set(Due.PAUSE, _POOL, self.options.pool_pause)

    def _on_exited(self, event: events.Exited) -> None:
        member = self.roster.get(event.worker_id)
        if member is None:
            return
        doom = member.doom or Doom("")
        report = crash.report(
            member.worker_id,
            event.facts,
            state=doom.state or member.condition.value,
            output=event.output,
            decided=doom.cause,
            why=doom.why,
        )
        held = member.held
        if held is not None:
            self._put_back(held)
            taken = held.phase is Phase.TAKEN or (held.phase is Phase.GRANTED and held.wanted)
            if taken and held.client_id:
                told = events.SendCrash(held.client_id, member.worker_id, held.epoch, report)
                self._actions.append(told)
        agreed = member.condition is Condition.DRAINING and event.facts.exit_code == 0
        expected = doom.expected or self._stopping or agreed
        at = member.ready_at
        settled = at is not None and self._now - at > self.options.restart_settle
        failed = not expected and (member.start_failed or not settled)
        self._forget(member, report, failed=failed, why=report.message)

    def _forget(
        self, member: Member, report: CrashReport | None, *, failed: bool, why: str
    ) -> None:
        expected = self._stopping or (member.doom is not None and member.doom.expected)
        held = member.held
        self.roster.remove(member)
        if held is not None:
            self.waitlist.refresh(held.name)
        self._failing -= member.start_failed
        self._clear(member, *WHILE_ALIVE, Due.SIGNAL, Due.REQUEST)
        self._actions.append(events.Forget(member.worker_id, report, expected, failed))
        if failed:
            self.restart.failed(member.worker_id, self._now, why, self._draw())

    # -- starting --------------------------------------------------------------------------

    def _spawn(self) -> None:
        self._number += 1
        member = Member.start(self._name_worker(self._number), self._now, self.options)
        self.roster.add(member, self._now)
        self.restart.started(member.worker_id, self._now)
        self._actions.append(events.Spawn(member.worker_id, self._number))

    def _begin_step(self, member: Member, step: Step) -> None:
        member.step = step
        self._set(Due.STEP, member.worker_id, self.options.conn_timeout)

    def _on_called_back(self, event: events.CalledBack) -> None:
        member = self.roster.get(event.worker_id)
        if member is None or member.doom or member.step is not Step.CALLING_BACK:
            return
        member.address = event.address
        self._begin_step(member, Step.CONNECTING)
        self._connect(member)

    def _start_failed(self, member: Member, cause: Cause, why: str) -> None:
        self._failing += 1  # until its exit, when the failure counts: nothing is started for it
        member.start_failed = True
        self._end(member, Doom(why, cause), force=True)

    def _promote(self, member: Member) -> None:
        """A worker that is connected, ready, and told about itself has started."""
        if member.condition is Condition.STARTING and member.ready and member.info is not None:
            self.roster.move(member, Condition.IDLE, None, self._now)
            self._has_started(member)

    def _has_started(self, member: Member) -> None:
        member.ready_at = self._now
        self.restart.ready(member.worker_id)
        self._set(Due.SETTLED, member.worker_id, self.options.restart_settle)
        self._clear(member, Due.STEP)
        self._set(Due.CHECK, member.worker_id, self.options.worker_check_interval)

    # -- the connection to a worker --------------------------------------------------------

    def _connect(self, member: Member) -> None:
        member.connecting = True
        self._actions.append(events.Connect(member.worker_id, member.address))

    def _on_connected(self, event: events.Connected) -> None:
        member = self._alive(event.worker_id)
        if member is None:
            return
        member.linked = True
        member.connecting = False
        if member.condition is Condition.STARTING:
            self._begin_step(member, Step.GETTING_READY)
        else:
            self._set(Due.LINK, member.worker_id, self.options.conn_timeout)
            self._set(Due.UNREADY, member.worker_id, self.options.conn_timeout)
        self._update(member)

    def _on_connect_failed(self, event: events.ConnectFailed) -> None:
        member = self._alive(event.worker_id)
        if member is None or member.linked or not member.connecting:
            return
        member.connecting = False
        if member.condition is Condition.STARTING:
            self._start_failed(member, Cause.REFUSED, f"no connection to it: {event.reason}")
        else:
            self._miss(member, 0, Due.LINK)

    def _on_connection_lost(self, event: events.ConnectionLost) -> None:
        member = self._alive(event.worker_id)
        if member is None or not member.linked:
            return
        member.linked = member.ready = member.asked = False
        member.info = None
        member.health.suspend()
        self._clear(member, Due.CHECK, Due.UNREADY)
        if member.condition is Condition.STARTING:
            why = f"its connection was lost: {event.reason or 'closed'}"
            self._start_failed(member, Cause.LOST, why)
            return
        if member.held is not None:
            self._put_back(member.held)
            member.held.answered(None)
            member.held.cut = True
        self._set(Due.LINK, member.worker_id, self.options.healthcheck_pause)
        self._update(member)

    def _on_info(self, event: events.InfoReceived) -> None:
        member = self._alive(event.worker_id)
        info = event.info
        if member is None or not member.linked or info.leased_tick < member.tick:
            return
        if member.condition is Condition.STARTING and not self._is_ours(member, info):
            return
        first = member.info is None
        member.info = info
        member.tick = info.leased_tick
        self._clear(member, Due.LINK)
        if first and member.condition is not Condition.STARTING:
            member.health.answered()
            self._set(Due.CHECK, member.worker_id, self.options.worker_check_interval)
        self._merge(member, info)
        self._promote(member)
        self._update(member)

    def _is_ours(self, member: Member, info: WorkerInfo) -> bool:
        wrong = self._mismatch(info.kind, info.schema_hash)
        if wrong:
            self._start_failed(member, Cause.REFUSED, f"it is no worker of this pool: {wrong}")
        return not wrong

    def _on_ready(self, event: events.ReadyChanged) -> None:
        member = self._alive(event.worker_id)
        if member is None or not member.linked:
            return
        member.ready = event.ready
        if event.ready:
            self._clear(member, Due.UNREADY)
        else:
            self._set(Due.UNREADY, member.worker_id, self.options.conn_timeout)
        self._promote(member)
        self._update(member)

    # -- checks and errors -----------------------------------------------------------------

    def _on_check_answered(self, event: events.CheckAnswered) -> None:
        member = self._alive(event.worker_id)
        if member is None or not member.linked:
            return
        member.health.answered()
        self._set(Due.CHECK, member.worker_id, self.options.worker_check_interval)
        self._update(member)

    def _on_check_missed(self, event: events.CheckMissed) -> None:
        member = self._alive(event.worker_id)
        if member is not None and event.check and member.linked:
            self._miss(member, event.check, Due.CHECK)

    def _miss(self, member: Member, check: int, then: Due) -> None:
        verdict = member.health.missed(check)
        if verdict is Verdict.HANG:
            why = f"it missed {member.health.misses} checks in a row"
            self._end(member, Doom(why, Cause.HANG), force=True)
        elif verdict is Verdict.AGAIN:
            self._set(then, member.worker_id, self.options.healthcheck_pause)
            self._update(member)

    def _on_error(self, event: events.ErrorSeen) -> None:
        member = self._alive(event.worker_id)
        if member is None:
            return
        member.errors.add(self._now, event.reason)
        member.blemished = member.errors.clean_at > self._now
        self._due.set((Due.CLEAN, member.worker_id), member.errors.clean_at)
        if member.errors.is_unfit(self._now):
            options = self.options
            member.unfit = (
                f"{options.worker_err_kill} errors within {options.worker_err_ttl:g} s, "
                f"the last one: {event.reason}"
            )
        self._update(member)

    def _discount_lag(self, now: float) -> None:
        """A supervisor that was held up itself gives the time back to those it waits for."""
        if self._promised is None or now - self._promised <= self.options.lag_tolerance:
            return
        lag = now - self._promised
        for member in self.roster:
            for due in NOT_ITS_FAULT:
                at = self._due.get((due, member.worker_id))
                if at is not None:
                    self._due.set((due, member.worker_id), at + lag)

    # -- ending a worker -------------------------------------------------------------------

    def _retire(self, member: Member, why: str) -> None:
        """Ask it to end; it says no while it serves (promise S12)."""
        self.roster.move(member, Condition.DRAINING, None, self._now)
        member.retiring = why
        member.asked = True
        self._actions.append(events.Retire(member.worker_id, member.tick, why))

    def _on_retire_answered(self, event: events.RetireAnswered) -> None:
        member = self._alive(event.worker_id)
        if member is None or not member.asked:
            return
        member.asked = False
        if event.accepted:
            doom = Doom(member.retiring, expected=True)
            self._end(member, doom, force=False, asked=True)
            return
        if event.accepted is False and member.condition is Condition.DRAINING:
            self.roster.move(member, Condition.IDLE, None, self._now)
        self._rest(member)

    def _rest(self, member: Member) -> None:
        member.resting = True
        self._set(Due.RESTED, member.worker_id, self.options.healthcheck_pause)
        self._update(member)

    def _end(self, member: Member, doom: Doom, *, force: bool, asked: bool = False) -> None:
        """End a worker (invariant 3). `asked`: it is about to end by itself, give it time."""
        member.doom = msgspec.structs.replace(doom, state=member.condition.value)
        self._clear(member, *WHILE_ALIVE)
        if member.condition in SERVING:  # it stays so until its exit (promise S8)
            self.roster.refresh(member, self._now)
        else:
            self.roster.move(member, Condition.DYING, None, self._now)
        if asked:
            self._set(Due.SIGNAL, member.worker_id, self.options.term_timeout)
        elif member.has_process:
            self._signal(member, force=force)

    def _signal(self, member: Member, *, force: bool) -> None:
        assert member.doom is not None, "A signal needs a reason (S12)."
        if force:
            member.signals = max(member.signals, 1)
        member.signals += 1
        why = member.doom.why
        self._actions.append(
            events.Terminate(member.worker_id, why)
            if member.signals == 1
            else events.Kill(member.worker_id, why, member.signals - 1)
        )
        self._set(Due.SIGNAL, member.worker_id, self.options.term_timeout)

    def _on_stop(self, event: events.StopRequested) -> None:
        grace = self.options.stop_grace if event.grace is None else max(0.0, event.grace)
        drain_at = self._now + grace
        earlier = self._due.get((Due.DRAIN, _POOL))
        if not self._stopping or (earlier is not None and drain_at < earlier):
            self._due.set((Due.DRAIN, _POOL), drain_at)
        if self._stopping:
            return
        self._stopping = True
        for waiter in self.waitlist.clear():
            self._deny(waiter.client_id, waiter.request_id, "The pool is stopping.")
        for key in list(self._asked):
            self._deny(*key, "The pool is stopping.")
            self._unwant(key)
        for member in self.roster:
            if member.condition is Condition.STARTING:
                self._end(member, Doom("the pool is stopping", expected=True), force=False)
            elif member.doom is None:
                self._update(member)

    def _on_tick(self, event: events.Tick) -> None:
        """What is due follows by itself."""

    def _drained(self) -> None:
        for member in self.roster:
            if member.doom is None:
                why = "the pool is stopping and its grace is over"
                self._end(member, Doom(why, expected=True), force=False)

    # -- requests --------------------------------------------------------------------------

    def _on_requested(self, event: events.Requested) -> None:
        key = (event.client_id, event.request_id)
        if key in self._asked or key in self.waitlist:
            return
        wrong = self._mismatch(event.kind, event.schema_hash)
        if wrong:
            self._deny(*key, f"There is no such worker here: {wrong}.")
        elif self._stopping:
            self._deny(*key, "The pool is stopping.")
        elif not event.time_left > 0:
            self._deny(*key, "The request came with no time left.", timed_out=True)
        else:
            deadline = self._now + event.time_left
            self.waitlist.add(
                event.client_id, event.name, event.request_id, event.worker_rpc_id, deadline
            )

    def _mismatch(self, kind: str, schema_hash: str) -> str:
        if kind != self.kind:
            return f"this pool's kind is {self.kind!r}, the other is {kind!r}"
        if schema_hash != self.schema_hash:
            return (
                f"this pool's schema of kind {kind!r} has the hash {self.schema_hash!r}, "
                f"the other {schema_hash!r}"
            )
        return ""

    def _on_cancelled(self, event: events.Cancelled) -> None:
        self.waitlist.remove(event.client_id, event.request_id)
        self._unwant((event.client_id, event.request_id))

    def _on_client_gone(self, event: events.ClientGone) -> None:
        self.waitlist.remove_client(event.client_id)
        for member, held in self.roster.of_client(event.client_id):
            if held.waiter is not None and held.phase is Phase.ASKED:
                self._unwant(held.waiter.key)
            held.wanted = False
            if held.phase is Phase.GRANTED:
                self._withdraw(member)

    def _on_returned(self, event: events.Returned) -> None:
        member = self.roster.get(event.worker_id)
        held = member.held if member is not None else None
        if member is None or held is None or not held.is_about(event.epoch):
            return
        if held.client_id != event.client_id or held.phase not in (Phase.GRANTED, Phase.TAKEN):
            return
        held.wanted = False
        waiter, held.waiter = held.waiter, None
        again = event.again and not self._stopping
        if again and waiter is not None and waiter.key not in self._asked:
            self.waitlist.put_back(waiter)
        if held.phase is Phase.GRANTED:
            self._withdraw(member)

    def _unwant(self, key: tuple[str, str]) -> None:
        """Nobody waits any more for a request that a worker was asked to serve."""
        member = self._asked.pop(key, None)
        if member is not None and member.held is not None:
            member.held.wanted = False
            self._clear(member, Due.REQUEST)

    def _put_back(self, held: Held) -> None:
        """The request that a worker was asked to serve waits again, in its old place."""
        waiter = held.waiter
        if waiter is None or held.phase is not Phase.ASKED:
            return
        member = self._asked.pop(waiter.key, None)
        held.waiter = None
        if member is not None and held.wanted:
            self._clear(member, Due.REQUEST)
            self.waitlist.put_back(waiter)

    def _deny(
        self, client_id: str, request_id: str, reason: str, *, timed_out: bool = False
    ) -> None:
        self._actions.append(events.SendDenied(client_id, request_id, reason, timed_out))

    def _too_late(self) -> str:
        why = self.view(self._now).why_not_growing
        return "No worker came free in time" + (f": {why}." if why else ".")

    # -- leases ----------------------------------------------------------------------------

    def _room(self, name: str) -> int:
        return self.options.size.max_per_client - self.roster.held_by(name)

    def _serve(self, member: Member, waiter: Waiter) -> None:
        held = Held.ask(waiter, member.tick)
        self._hold(member, Condition.HANDED_OVER, held)
        self._asked[waiter.key] = member
        self._due.set((Due.REQUEST, member.worker_id), waiter.deadline)
        self._actions.append(events.Serve(member.worker_id, waiter, member.tick, held.epoch))

    def _on_serve_answered(self, event: events.ServeAnswered) -> None:
        member = self.roster.get(event.worker_id)
        held = member.held if member is not None else None
        if member is None or held is None or not held.is_about(event.epoch):
            return
        waiter = held.waiter
        if not event.accepted:
            self._put_back(held)
        answer = held.answered(event.accepted)
        if answer in (Answer.GRANT, Answer.WITHDRAW):
            member.tick = max(member.tick, held.epoch)
        if answer is Answer.GRANT and waiter is not None:
            self._asked.pop(waiter.key, None)
            self._clear(member, Due.REQUEST)
            grant = events.SendGrant(*waiter.key, member.worker_id, held.epoch)
            self._actions.append(grant)
        elif answer is Answer.WITHDRAW:
            self._withdraw(member)
        elif answer is Answer.PUT_BACK:
            self._let_go(member, held)
            if member.doom is None:
                self._rest(member)

    def _withdraw(self, member: Member) -> None:
        if member.held is not None and member.linked and member.doom is None:
            self._actions.append(events.Withdraw(member.worker_id, member.held.epoch))

    def _on_withdraw_answered(self, event: events.WithdrawAnswered) -> None:
        member = self.roster.get(event.worker_id)
        held = member.held if member is not None else None
        if member is None or held is None or not held.is_about(event.epoch):
            return
        if event.accepted is False and held.phase is Phase.GRANTED:
            held.phase = Phase.TAKEN
            held.waiter = None
            self.roster.move(member, Condition.LEASED, held, self._now)

    def _merge(self, member: Member, info: WorkerInfo) -> None:
        """What the worker says of its lease is how it is (promise S8)."""
        held = member.held
        told = held.told(info) if held is not None else Told.OTHER
        if told is Told.CROSSED:
            return
        if told is Told.SAME and held is not None:
            if held.phase is Phase.TAKEN:
                held.waiter = None
                self.roster.move(member, Condition.LEASED, held, self._now)
            elif held.to_withdraw:
                self._withdraw(member)
            return
        if held is not None:
            self._put_back(held)
        if info.client_id:
            self._hear(member, info)
        elif held is not None:
            if not info.clean:
                member.unfit = "its last lease ended uncleanly"
            self._let_go(member, held)

    def _hear(self, member: Member, info: WorkerInfo) -> None:
        """The worker serves somebody to whom it was not granted: nobody is coming."""
        old = member.held
        same = old is not None and old.worker_rpc_id == info.client_id
        name = old.name if old is not None and same else info.client_id
        held = Held.heard(info, name)
        starting = member.condition is Condition.STARTING
        taken = held.phase is Phase.TAKEN
        member.retiring, member.asked = "", False
        self._hold(member, Condition.LEASED if taken else Condition.HANDED_OVER, held)
        if starting:
            self._has_started(member)
        if held.to_withdraw:
            self._withdraw(member)

    def _hold(self, member: Member, condition: Condition, held: Held) -> None:
        old = member.held
        self.roster.move(member, condition, held, self._now)
        if old is not None:
            self.waitlist.refresh(old.name)
        self.waitlist.refresh(held.name)

    def _let_go(self, member: Member, held: Held) -> None:
        """The worker serves nobody, by its own word."""
        ending = member.doom is not None
        self.roster.move(member, Condition.DYING if ending else Condition.IDLE, None, self._now)
        self._clear(member, Due.REQUEST)
        self.waitlist.refresh(held.name)

    # -- what follows ----------------------------------------------------------------------

    def _update(self, member: Member) -> None:
        """Something about a worker has changed: index it, and see whether it may go."""
        self.roster.refresh(member, self._now)
        if member.doom or member.resting or member.asked or member.info is None:
            return
        if member.condition is Condition.DRAINING:
            self._retire(member, member.retiring)
        elif member.condition is Condition.IDLE and (member.unfit or self._stopping):
            self._retire(member, member.unfit or "the pool is stopping")

    def _settle(self) -> None:
        """Serve who waits, then see to the size of the pool (invariant 4)."""
        if not self._was_ready and self._is_ready():
            self._was_ready = True
        if self._stopping:
            if not len(self.roster) and not self._stopped:
                self._stopped = True
                self._due = Deadlines()
                self._actions.append(events.Stopped())
            return
        while self.roster.available and self.waitlist.eligible:
            member, waiter = self.roster.offered(), self.waitlist.take()
            assert member is not None and waiter is not None, "An index is outdated (L2)."
            self._serve(member, waiter)
        self._shrink()
        self._fill()

    def _shrink(self) -> None:
        while True:
            spare = self.roster.most_idle()
            since = spare.idle_since if spare is not None else None
            at = sizing.surplus_at(self.roster.live, self._target(), since, self.options.linger)
            if spare is None or at is None:
                self._due.clear((Due.LINGER, _POOL))
                return
            if at > self._now:
                self._due.set((Due.LINGER, _POOL), at)
                return
            self._retire(spare, "it is one too many")

    def _fill(self) -> None:
        roster, target = self.roster, self._target()
        if self.restart.is_open and roster.live - roster.count(Condition.STARTING) >= target:
            self.restart.whole()
        live = roster.live + self._failing
        missing = sizing.missing(self.options.size, live, len(roster), target)
        if self._due.get((Due.PAUSE, _POOL)) is not None:
            missing = 0
        while missing and self.restart.may_start(self._now):
            self._spawn()
            missing -= 1
        at = self.restart.next_start(self._now) if missing else None
        if at is None:
            self._due.clear((Due.RETRY, _POOL))
        else:
            self._due.set((Due.RETRY, _POOL), at)

    def _target(self) -> int:
        return sizing.target(self.options.size, self.roster.in_use, self.waitlist.eligible)

    def _is_ready(self) -> bool:
        return not self._stopping and sizing.is_ready(self.options.size, self.roster.ready)

    # -- deadlines -------------------------------------------------------------------------

    def _set(self, due: Due, worker_id: str, wait: float) -> None:
        self._due.set((due, worker_id), self._now + wait)

    def _clear(self, member: Member, *dues: Due) -> None:
        for due in dues:
            self._due.clear((due, member.worker_id))

    def _alive(self, worker_id: str) -> Member | None:
        """The member, unless it is unknown or being ended."""
        member = self.roster.get(worker_id)
        return member if member is not None and member.doom is None else None

    def _on_due(self, due: Due, worker_id: str) -> None:
        if due is Due.DRAIN:
            self._drained()
        member = self.roster.get(worker_id)
        if member is not None:  # what belongs to the pool is seen to in `_settle`
            self._ON_DUE[due](self, member)

    def _due_step(self, member: Member) -> None:
        why = f"it did not {member.step} within {self.options.conn_timeout:g} s"
        self._start_failed(member, Cause.START_TIMEOUT, why)

    def _due_link(self, member: Member) -> None:
        if not member.linked and not member.connecting:
            self._connect(member)
            self._set(Due.LINK, member.worker_id, self.options.conn_timeout)
        else:
            member.connecting = False
            self._miss(member, 0, Due.LINK)

    def _due_check(self, member: Member) -> None:
        if member.health.outstanding:
            self._miss(member, member.health.outstanding, Due.CHECK)
            return
        check, attempt, fresh = member.health.ask()
        self._actions.append(events.Probe(member.worker_id, check, attempt, fresh))
        self._set(Due.CHECK, member.worker_id, self.options.conn_timeout)

    def _due_settled(self, member: Member) -> None:
        self.restart.settled(member.started_at)

    def _due_clean(self, member: Member) -> None:
        member.blemished = False
        self._update(member)

    def _due_rested(self, member: Member) -> None:
        member.resting = False
        self._update(member)

    def _due_unready(self, member: Member) -> None:
        member.unfit = f"it has not been ready for {self.options.conn_timeout:g} s"
        self._update(member)

    def _due_signal(self, member: Member) -> None:
        self._signal(member, force=False)

    def _due_request(self, member: Member) -> None:
        held = member.held
        assert held is not None and held.waiter is not None, "A deadline of no request."
        self._deny(*held.waiter.key, self._too_late(), timed_out=True)
        self._unwant(held.waiter.key)

    # -- what is for whom ------------------------------------------------------------------

    _ON_EVENT: ClassVar[dict[type[Any], Callable[[PoolCore, Any], None]]] = {
        events.Started: _on_started,
        events.SpawnFailed: _on_spawn_failed,
        events.Exited: _on_exited,
        events.CalledBack: _on_called_back,
        events.Connected: _on_connected,
        events.ConnectFailed: _on_connect_failed,
        events.ConnectionLost: _on_connection_lost,
        events.InfoReceived: _on_info,
        events.ReadyChanged: _on_ready,
        events.ErrorSeen: _on_error,
        events.CheckAnswered: _on_check_answered,
        events.CheckMissed: _on_check_missed,
        events.ServeAnswered: _on_serve_answered,
        events.WithdrawAnswered: _on_withdraw_answered,
        events.RetireAnswered: _on_retire_answered,
        events.Requested: _on_requested,
        events.Cancelled: _on_cancelled,
        events.Returned: _on_returned,
        events.ClientGone: _on_client_gone,
        events.Tick: _on_tick,
        events.StopRequested: _on_stop,
    }

    _ON_DUE: ClassVar[dict[Due, Callable[[PoolCore, Member], None]]] = {
        Due.STEP: _due_step,
        Due.LINK: _due_link,
        Due.CHECK: _due_check,
        Due.SETTLED: _due_settled,
        Due.CLEAN: _due_clean,
        Due.RESTED: _due_rested,
        Due.UNREADY: _due_unready,
        Due.SIGNAL: _due_signal,
        Due.REQUEST: _due_request,
    }
