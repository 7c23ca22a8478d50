"""What is seen of a worker that has a connection, and what that makes of it: its own word, its
checks, its errors, the loss of the connection, and its exit.

1. What a worker said counts only on the connection on which it said it.
2. The checks of many workers are due at the same few moments of an interval, so that one turn
   sees to many; none waits longer than the interval.
"""

from __future__ import annotations

from amnode.errors import Cause
from amnode.node.policy import crash, events
from amnode.node.policy.adoption import Adoption
from amnode.node.policy.deadlines import Due
from amnode.node.policy.ending import Ending
from amnode.node.policy.health import Verdict
from amnode.node.policy.lease import Phase
from amnode.node.policy.leasing import Leasing
from amnode.node.policy.pool import Pool
from amnode.node.policy.renewal import Renewal
from amnode.node.policy.roster import SERVING, Condition, Doom, Member
from amnode.node.policy.starting import Starting

#: Workers that are checked together; more at once would hold up whatever else there is to do.
_TOGETHER = 64


class Watching:
    """The eye on the workers of one pool."""

    def __init__(
        self,
        pool: Pool,
        *,
        ending: Ending,
        starting: Starting,
        renewal: Renewal,
        leasing: Leasing,
        adoption: Adoption,
    ) -> None:
        self._pool = pool
        self._ending = ending
        self._starting = starting
        self._renewal = renewal
        self._leasing = leasing
        self._adoption = adoption
        self.on_event = {
            events.Exited: self._on_exited,
            events.Connected: self._on_connected,
            events.ConnectFailed: self._on_connect_failed,
            events.ConnectionLost: self._on_connection_lost,
            events.InfoReceived: self._on_info,
            events.ReadyChanged: self._on_ready,
            events.CheckAnswered: self._on_check_answered,
            events.CheckMissed: self._on_check_missed,
            events.ErrorSeen: self._on_error,
        }
        self.on_due = {
            Due.LINK: self._due_link,
            Due.CHECK: self._due_check,
            Due.CLEAN: self._due_clean,
            Due.UNREADY: self._due_unready,
        }

    # -- the connection --------------------------------------------------------------------

    def _on_connected(self, event: events.Connected) -> None:
        pool = self._pool
        member = pool.alive(event.worker_id)
        if member is None:
            return
        member.linked = True
        member.connecting = False
        if member.condition is Condition.STARTING:
            self._starting.connected(member)
        else:
            pool.set(Due.LINK, member.worker_id, pool.options.conn_timeout)
            pool.set(Due.UNREADY, member.worker_id, pool.options.conn_timeout)
        self._ending.update(member)

    def _on_connect_failed(self, event: events.ConnectFailed) -> None:
        member = self._pool.alive(event.worker_id)
        if member is None or member.linked or not member.connecting:
            return
        member.connecting = False
        if member.condition is Condition.STARTING:
            why = f"no connection to it: {event.reason}"
            self._starting.failed(member, Cause.REFUSED, why)
        else:
            self._miss(member, 0, Due.LINK)

    def _on_connection_lost(self, event: events.ConnectionLost) -> None:
        pool = self._pool
        member = pool.alive(event.worker_id)
        if member is None or not member.linked:
            return
        member.linked = member.ready = member.asked = False
        member.info = None  # invariant 1
        member.health.suspend()
        pool.clear(member, Due.CHECK, Due.UNREADY)
        if member.condition is Condition.STARTING:
            why = f"its connection was lost: {event.reason or 'closed'}"
            self._starting.failed(member, Cause.LOST, why)
            return
        self._leasing.cut(member)
        pool.set(Due.LINK, member.worker_id, pool.options.healthcheck_pause)
        self._ending.update(member)

    def _due_link(self, member: Member) -> None:
        if not member.linked and not member.connecting:
            member.connecting = True
            self._pool.act(events.Connect(member.worker_id, member.address))
            self._pool.set(Due.LINK, member.worker_id, self._pool.options.conn_timeout)
        else:
            member.connecting = False
            self._miss(member, 0, Due.LINK)

    # -- what it says of itself ------------------------------------------------------------

    def _on_info(self, event: events.InfoReceived) -> None:
        pool = self._pool
        member = pool.alive(event.worker_id)
        info = event.info
        if member is None or not member.linked or info.leased_tick < member.tick:
            return
        if member.condition is Condition.STARTING and not self._starting.is_ours(member, info):
            return
        if not self._adoption.heard(member, info):
            return
        first = member.info is None
        member.info = info
        member.tick = info.leased_tick
        pool.clear(member, Due.LINK)
        if first and member.condition is not Condition.STARTING:
            member.health.answered()
            self._check_again(member)
        self._leasing.merge(member, info)
        self._renewal.heard(member, info)
        self._starting.promote(member)
        self._ending.update(member)

    def _on_ready(self, event: events.ReadyChanged) -> None:
        member = self._pool.alive(event.worker_id)
        if member is None or not member.linked:
            return
        member.ready = event.ready
        if event.ready:
            self._pool.clear(member, Due.UNREADY)
        else:
            self._pool.set(Due.UNREADY, member.worker_id, self._pool.options.conn_timeout)
        self._starting.promote(member)
        self._ending.update(member)

    def _due_unready(self, member: Member) -> None:
        member.unfit = f"it has not been ready for {self._pool.options.conn_timeout:g} s"
        self._ending.update(member)

    # -- checks ----------------------------------------------------------------------------

    def _due_check(self, member: Member) -> None:
        if member.health.outstanding:
            self._miss(member, member.health.outstanding, Due.CHECK)
            return
        check, attempt, fresh = member.health.ask()
        self._pool.act(events.Probe(member.worker_id, check, attempt, fresh))
        self._pool.set(Due.CHECK, member.worker_id, self._pool.options.check_timeout)

    def is_routine(self, event: events.Event) -> bool:
        """Takes in an answer from which nothing follows; False for any other event."""
        if type(event) is not events.CheckAnswered:
            return False
        member = self._pool.alive(event.worker_id)
        if member is None or not member.linked or member.health.misses:
            return False
        member.health.answered()
        self._check_again(member)
        return True

    def _on_check_answered(self, event: events.CheckAnswered) -> None:
        member = self._pool.alive(event.worker_id)
        if member is None or not member.linked:
            return
        member.health.answered()
        self._check_again(member)
        self._ending.update(member)

    def _check_again(self, member: Member) -> None:
        """Invariant 2."""
        interval = self._pool.options.worker_check_interval
        slot = interval / (1 + len(self._pool.roster) // _TOGETHER)
        at = (self._pool.now + interval) // slot * slot
        self._pool.due.set((Due.CHECK, member.worker_id), at)

    def _on_check_missed(self, event: events.CheckMissed) -> None:
        member = self._pool.alive(event.worker_id)
        if member is not None and event.check and member.linked:
            self._miss(member, event.check, Due.CHECK)

    def _miss(self, member: Member, check: int, then: Due) -> None:
        verdict = member.health.missed(check)
        if verdict is Verdict.HANG and not member.proven:
            self._adoption.disown(member, "it has not answered since it was found")
        elif verdict is Verdict.HANG:
            why = f"it missed {member.health.misses} checks in a row"
            self._ending.end(member, Doom(why, Cause.HANG), force=True)
        elif verdict is Verdict.AGAIN:
            self._pool.set(then, member.worker_id, self._pool.options.healthcheck_pause)
            self._ending.update(member)

    # -- errors ----------------------------------------------------------------------------

    def _on_error(self, event: events.ErrorSeen) -> None:
        pool = self._pool
        member = pool.alive(event.worker_id)
        if member is None:
            return
        member.errors.add(pool.now, event.reason)
        member.blemished = member.errors.clean_at > pool.now
        pool.due.set((Due.CLEAN, member.worker_id), member.errors.clean_at)
        if member.errors.is_unfit(pool.now):
            options = pool.options
            member.unfit = (
                f"{options.worker_err_kill} errors within {options.worker_err_ttl:g} s, "
                f"the last one: {event.reason}"
            )
        self._ending.update(member)

    def _due_clean(self, member: Member) -> None:
        member.blemished = False
        self._ending.update(member)

    # -- the exit --------------------------------------------------------------------------

    def _on_exited(self, event: events.Exited) -> None:
        pool = self._pool
        member = pool.roster.get(event.worker_id)
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
            hang=event.hang,
        )
        held = member.held
        if held is not None:
            self._leasing.put_back(held)
            taken = held.phase is Phase.TAKEN or (held.phase is Phase.GRANTED and held.wanted)
            if taken and held.client_id:
                told = events.SendCrash(held.client_id, member.worker_id, held.epoch, report)
                pool.act(told)
        # Its end may be seen before its yes is heard.
        agreed = member.condition is Condition.DRAINING and event.facts.exit_code == 0
        expected = doom.expected or pool.stopping or agreed
        at = member.ready_at
        settled = at is not None and pool.now - at > pool.options.restart_settle
        # Whoever set the deadline, or holds the worker, chose that end for it.
        owed = member.condition in SERVING and crash.owed_to_its_job(event.facts, event.output)
        failed = not expected and not owed and (member.start_failed or not settled)
        self._ending.forget(
            member, report, why=report.message, expected=expected, failed=failed
        )
