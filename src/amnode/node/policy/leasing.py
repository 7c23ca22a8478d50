"""Requests and leases: who waits, who is served, and what each side says of it.

    waits --a worker is asked--> asked --yes--> granted --taken, by the worker's word--> leased
      ^                            | no, or no answer                                      |
      +----------------------------+               its end, by the worker's word <---------+

1. Every request ends once: in a grant, a denial, or by its client.
2. A lease ends by the worker's own word, or its exit (promise S8).
"""

from __future__ import annotations

from amnode.node.args import WorkerInfo
from amnode.node.names import client_name, supervisor_connection
from amnode.node.policy import events
from amnode.node.policy.deadlines import Due
from amnode.node.policy.ending import Ending
from amnode.node.policy.lease import Answer, Held, Phase, Told
from amnode.node.policy.passing import Passing
from amnode.node.policy.pool import Pool
from amnode.node.policy.roster import Condition, Member
from amnode.node.policy.starting import Starting
from amnode.node.policy.view import look
from amnode.node.policy.waitlist import Waiter


class Leasing:
    """The requests and leases of one pool."""

    def __init__(
        self, pool: Pool, ending: Ending, starting: Starting, passing: Passing
    ) -> None:
        self._pool = pool
        self._passing = passing
        self._ending = ending
        self._starting = starting
        self.on_event = {
            events.Requested: self._on_requested,
            events.Cancelled: self._on_cancelled,
            events.Returned: self._on_returned,
            events.ClientGone: self._on_client_gone,
            events.ServeAnswered: self._on_serve_answered,
            events.WithdrawAnswered: self._on_withdraw_answered,
        }
        self.on_due = {Due.REQUEST: self._due_request, Due.LEAK: self._due_leak}

    # -- requests --------------------------------------------------------------------------

    def _on_requested(self, event: events.Requested) -> None:
        key = (event.client_id, event.request_id)
        if key in self._pool.asked or key in self._pool.waitlist or key in self._passing:
            return
        wrong = self._pool.mismatch(event.kind, event.schema_hash)
        if wrong:
            self.deny(*key, f"There is no such worker here: {wrong}.")
        elif self._pool.stopping:
            self.deny(*key, "The pool is stopping.")
        elif not event.time_left > 0:
            self.deny(*key, "The request came with no time left.", timed_out=True)
        elif event.guest and not self._pool.takes_guest(event.name):
            self.deny(*key, "There is no worker to spare for a peer.")
        else:
            self._pool.waitlist.add(
                event.client_id,
                event.name,
                event.request_id,
                event.worker_rpc_id,
                self._pool.now + event.time_left,
                guest=event.guest,
                since=self._pool.now,
            )

    def _on_cancelled(self, event: events.Cancelled) -> None:
        self._pool.waitlist.remove(event.client_id, event.request_id)
        self._passing.cancel((event.client_id, event.request_id))
        self.unwant((event.client_id, event.request_id))

    def _on_client_gone(self, event: events.ClientGone) -> None:
        self._pool.waitlist.remove_client(event.client_id)
        self._passing.client_gone(event.client_id)
        for member, held in self._pool.roster.of_client(event.client_id):
            if held.waiter is not None and held.phase is Phase.ASKED:
                self.unwant(held.waiter.key)
            held.wanted = False
            if held.phase is Phase.GRANTED:
                self._withdraw(member)

    def _on_returned(self, event: events.Returned) -> None:
        if self._passing.returned(event):
            return
        member = self._pool.roster.get(event.worker_id)
        held = member.held if member is not None else None
        if member is None or held is None or not held.is_about(event.epoch):
            return
        if held.client_id != event.client_id or held.phase not in (Phase.GRANTED, Phase.TAKEN):
            return
        held.wanted = False
        waiter, held.waiter = held.waiter, None
        again = event.again and not self._pool.stopping
        if again and waiter is not None and waiter.key not in self._pool.asked:
            self._pool.waitlist.put_back(waiter)
        if held.phase is Phase.GRANTED:
            self._withdraw(member)

    def unwant(self, key: tuple[str, str]) -> None:
        """Nobody waits any more for a request that a worker was asked to serve."""
        member = self._pool.asked.pop(key, None)
        if member is not None and member.held is not None:
            member.held.wanted = False
            self._pool.clear(member, Due.REQUEST)

    def put_back(self, held: Held) -> None:
        """The request that a worker was asked to serve waits again, in its old place."""
        waiter = held.waiter
        if waiter is None or held.phase is not Phase.ASKED:
            return
        member = self._pool.asked.pop(waiter.key, None)
        held.waiter = None
        if member is not None and held.wanted:
            self._pool.clear(member, Due.REQUEST)
            self._pool.waitlist.put_back(waiter)

    def deny(
        self, client_id: str, request_id: str, reason: str, *, timed_out: bool = False
    ) -> None:
        """Tell the client that it gets none, and why."""
        self._pool.act(events.SendDenied(client_id, request_id, reason, timed_out))

    def deny_all(self, reason: str) -> None:
        """No request that is pending gets a worker."""
        for waiter in self._pool.waitlist.clear():
            self.deny(*waiter.key, reason)
        for key in [*self._pool.asked]:
            self.deny(*key, reason)
            self.unwant(key)
        for key in self._passing.clear():
            self.deny(*key, reason)

    def too_late(self) -> str:
        """Why a request ends at its deadline."""
        why = look(self._pool, self._pool.now).why_not_growing
        return "No worker came free in time" + (f": {why}." if why else ".")

    # -- leases ----------------------------------------------------------------------------

    def serve(self, member: Member, waiter: Waiter) -> None:
        """Ask a worker to serve who has waited for longest."""
        held = Held.ask(waiter, member.tick)
        self._hold(member, Condition.HANDED_OVER, held)
        self._pool.asked[waiter.key] = member
        self._pool.due.set((Due.REQUEST, member.worker_id), waiter.deadline)
        self._pool.act(events.Serve(member.worker_id, waiter, member.tick, held.epoch))

    def _on_serve_answered(self, event: events.ServeAnswered) -> None:
        member = self._pool.roster.get(event.worker_id)
        held = member.held if member is not None else None
        if member is None or held is None or not held.is_about(event.epoch):
            return
        waiter = held.waiter
        if not event.accepted:
            self.put_back(held)
        answer = held.answered(event.accepted)
        if answer in (Answer.GRANT, Answer.WITHDRAW):
            member.tick = max(member.tick, held.epoch)
        if answer is Answer.GRANT and waiter is not None:
            self._pool.asked.pop(waiter.key, None)
            self._pool.clear(member, Due.REQUEST)
            grant = events.SendGrant(*waiter.key, member.worker_id, held.epoch)
            self._pool.act(grant)
        elif answer is Answer.WITHDRAW:
            self._withdraw(member)
        elif answer is Answer.PUT_BACK:
            self._let_go(member, held)
            if member.doom is None:
                self._ending.rest(member)

    def _withdraw(self, member: Member) -> None:
        if member.held is not None and member.linked and member.doom is None:
            self._pool.act(events.Withdraw(member.worker_id, member.held.epoch))

    def _on_withdraw_answered(self, event: events.WithdrawAnswered) -> None:
        member = self._pool.roster.get(event.worker_id)
        held = member.held if member is not None else None
        if member is None or held is None or not held.is_about(event.epoch):
            return
        if event.accepted is False and held.phase is Phase.GRANTED:
            held.phase = Phase.TAKEN
            self._taken(member, held)

    def _taken(self, member: Member, held: Held) -> None:
        """The client has the worker."""
        held.waiter = None
        after = self._pool.options.leak_after
        if member.condition is not Condition.LEASED and after is not None:
            self._pool.set(Due.LEAK, member.worker_id, after)
        self._pool.roster.move(member, Condition.LEASED, held, self._pool.now)

    def _due_leak(self, member: Member) -> None:
        """Told once a lease: who has had a worker for longer than anybody should."""
        held, after = member.held, self._pool.options.leak_after
        assert held is not None and after is not None, "A deadline of no lease."
        told = events.ReportLeak(member.worker_id, held.name, held.epoch, after)
        self._pool.act(told)

    def cut(self, member: Member) -> None:
        """The connection to the worker is lost: no answer will come on it."""
        if member.held is not None:
            self.put_back(member.held)
            member.held.answered(None)
            member.held.cut = True

    def merge(self, member: Member, info: WorkerInfo) -> None:
        """What the worker says of its lease is how it is (promise S8)."""
        member.leased_since = self._pool.now - info.since if info.client_id else None
        held = member.held
        told = held.told(info) if held is not None else Told.OTHER
        if told is Told.CROSSED:
            return
        if told is Told.SAME and held is not None:
            if held.phase is Phase.TAKEN:
                self._taken(member, held)
            elif held.to_withdraw:
                self._withdraw(member)
            return
        if held is not None:
            self.put_back(held)
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
        name = old.name if old is not None and same else client_name(info.client_id)
        held = Held.heard(info, name, supervisor_connection(info.client_id))
        starting = member.condition is Condition.STARTING
        member.retiring, member.asked = "", False
        self._hold(member, Condition.HANDED_OVER, held)
        self._pool.allow(held.name)
        if held.phase is Phase.TAKEN:
            self._taken(member, held)
        if starting:
            self._starting.has_started(member)
        if held.to_withdraw:
            self._withdraw(member)

    def _hold(self, member: Member, condition: Condition, held: Held) -> None:
        old = member.held
        self._pool.roster.move(member, condition, held, self._pool.now)
        if old is not None:
            self._pool.waitlist.refresh(old.name)
        self._pool.waitlist.refresh(held.name)

    def _let_go(self, member: Member, held: Held) -> None:
        """The worker serves nobody, by its own word."""
        condition = Condition.IDLE if member.doom is None else Condition.DYING
        self._pool.roster.move(member, condition, None, self._pool.now)
        self._pool.clear(member, Due.REQUEST, Due.LEAK)
        self._pool.waitlist.refresh(held.name)

    def _due_request(self, member: Member) -> None:
        held = member.held
        assert held is not None and held.waiter is not None, "A deadline of no request."
        self.deny(*held.waiter.key, self.too_late(), timed_out=True)
        self.unwant(held.waiter.key)
