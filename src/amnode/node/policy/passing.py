"""Passing on: requests that this pool cannot serve now go to peer supervisors that can.

    waits --passed on--> asked --granted--> granted --its deadline--> forgotten
      ^                    |                   |
      +--declined, or------+--returned, with---+
         the peer is lost      time left

A grant of a peer goes to the client as one of our own would, and the client goes to the peer's
worker directly. What the client says of it goes the same way back.

1. A request is at one place: it waits here, or one peer was asked. While nobody serves it, it
   keeps its rank and its deadline.
2. What came from a peer is served or declined, and not passed on: nothing goes in circles.
3. A peer is asked for no more than it last said it can serve. One that declined a request is
   not asked for the same one within `peer_pause`.
4. A request is passed on only if no worker of this pool is to come for it.
5. What is remembered of a request ends at its deadline. The client is told once how it ended.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TypeAlias

import msgspec

from amnode.node.policy import events
from amnode.node.policy.deadlines import Deadlines
from amnode.node.policy.pool import Pool
from amnode.node.policy.waitlist import Waiter

Key: TypeAlias = tuple[str, str]


class _Phase(Enum):
    ASKED = auto()
    GRANTED = auto()


class _Passed(msgspec.Struct):
    """A request that a peer was asked to serve, and what came of it."""

    waiter: Waiter
    peer: str
    phase: _Phase = _Phase.ASKED
    worker_id: str = ""
    epoch: int = 0


class Passing:
    """The requests of one pool that were passed on.

    Args:
        pool: whose requests they are.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._spare: dict[str, int] = {}
        self._passed: dict[Key, _Passed] = {}
        self._deadlines: Deadlines[Key] = Deadlines()
        self._declined: Deadlines[tuple[Key, str]] = Deadlines()
        self._known_to: dict[str, dict[str, None]] = {}  # client -> peers that had a request
        self.on_event = {
            events.PeerSaid: self._on_said,
            events.PeerLost: self._on_lost,
            events.PeerGranted: self._on_granted,
            events.PeerDenied: self._on_denied,
        }

    def __contains__(self, key: Key) -> bool:
        """Whether a peer was asked and has not answered."""
        passed = self._passed.get(key)
        return passed is not None and passed.phase is _Phase.ASKED

    def next_deadline(self) -> float | None:
        """When `expire` has to be asked next, or None."""
        dues = self._deadlines.next(), self._declined.next()
        return min((at for at in dues if at is not None), default=None)

    def expire(self, now: float) -> list[Key]:
        """Ends what is due; returns the requests that end without a worker (invariant 5)."""
        while self._declined.pop(now) is not None:
            pass  # it may be asked again
        expired: list[Key] = []
        while (key := self._deadlines.pop(now)) is not None:
            passed = self._passed.pop(key)
            if passed.phase is _Phase.ASKED:
                self._pool.act(events.TakeBack(passed.peer, *key))
                expired.append(key)
        return expired

    def step(self) -> None:
        """Passes on what has no worker to come, the oldest first (invariants 2 to 4)."""
        waitlist = self._pool.waitlist
        if not (waitlist.guests or any(self._spare.values())):
            return
        unserved = self._pool.unserved
        stay: list[Waiter] = []
        while unserved and (waiter := waitlist.take()) is not None:
            if waiter.guest:
                reason = "There is no worker to spare for a peer any more."
                self._pool.act(events.SendDenied(*waiter.key, reason))
            elif (peer := self._peer_for(waiter.key)) is not None:
                self._pass_on(waiter, peer)
            else:
                stay.append(waiter)
                continue
            unserved -= 1
        for waiter in stay:
            waitlist.put_back(waiter)

    def cancel(self, key: Key) -> None:
        """The client took a request back."""
        if key in self:
            self._take_back(key)

    def client_gone(self, client_id: str) -> None:
        """A client is gone: no peer has to serve it, and none keeps a grant for it."""
        for key in [key for key in self._passed if key[0] == client_id]:
            self._drop(key)
        for peer in self._known_to.pop(client_id, {}):
            self._pool.act(events.TellGone(peer, client_id))

    def returned(self, event: events.Returned) -> bool:
        """A client returns a grant; whether it was one of a peer."""
        key = event.client_id, event.request_id
        passed = self._passed.get(key)
        if passed is None or (passed.worker_id, passed.epoch) != (event.worker_id, event.epoch):
            return False
        self._drop(key)
        self._pool.act(events.GiveBack(passed.peer, *key, event.worker_id, event.epoch))
        if event.again and not self._pool.stopping:
            self._wait_again(passed)
        return True

    def clear(self) -> list[Key]:
        """No request that is pending is served: takes all of them back."""
        pending = [key for key in self._passed if key in self]
        for key in pending:
            self._take_back(key)
        return pending

    def check(self) -> None:
        """Raise AssertionError unless the invariants hold."""
        for key, passed in self._passed.items():
            if passed.phase is _Phase.ASKED:
                assert key not in self._pool.waitlist, f"{key} waits and was passed on (1)."
                assert key not in self._pool.asked, f"{key} is served and was passed on (1)."
            assert not passed.waiter.guest, f"{key} was passed on twice (2)."
            assert self._deadlines.get(key) is not None, f"{key} has no end (5)."

    # -- what peers say --------------------------------------------------------------------

    def _on_said(self, event: events.PeerSaid) -> None:
        self._spare[event.peer] = event.spare

    def _on_lost(self, event: events.PeerLost) -> None:
        self._spare.pop(event.peer, None)
        for peers in self._known_to.values():
            peers.pop(event.peer, None)
        for key, passed in [*self._passed.items()]:
            if passed.peer == event.peer and passed.phase is _Phase.ASKED:
                self._drop(key)
                self._pool.waitlist.put_back(passed.waiter)

    def _on_granted(self, event: events.PeerGranted) -> None:
        key, grant = (event.client_id, event.grant.request_id), event.grant
        passed = self._passed.get(key)
        if passed is None or passed.peer != event.peer or passed.phase is not _Phase.ASKED:
            back = events.GiveBack(event.peer, *key, grant.worker_id, grant.epoch)
            self._pool.act(back)
            return
        passed.phase = _Phase.GRANTED
        passed.worker_id, passed.epoch = grant.worker_id, grant.epoch
        self._pool.act(events.SendPassed(event.client_id, grant))

    def _on_denied(self, event: events.PeerDenied) -> None:
        key = event.client_id, event.request_id
        passed = self._passed.get(key)
        if passed is not None and passed.peer == event.peer and key in self:
            self._drop(key)
            self._wait_again(passed)

    # -- one request -----------------------------------------------------------------------

    def _peer_for(self, key: Key) -> str | None:
        """The peer with the most to spare of those that have not declined it (invariant 3)."""
        able = [
            (spare, peer)
            for peer, spare in self._spare.items()
            if spare > 0 and self._declined.get((key, peer)) is None
        ]
        return max(able)[1] if able else None

    def _pass_on(self, waiter: Waiter, peer: str) -> None:
        self._spare[peer] -= 1
        self._known_to.setdefault(waiter.client_id, {})[peer] = None
        self._passed[waiter.key] = _Passed(waiter, peer)
        self._deadlines.set(waiter.key, waiter.deadline)
        time_left = waiter.deadline - self._pool.now
        self._pool.act(events.PassOn(peer, waiter, time_left))

    def _wait_again(self, passed: _Passed) -> None:
        again_at = self._pool.now + self._pool.options.peer_pause
        self._declined.set((passed.waiter.key, passed.peer), again_at)
        self._pool.waitlist.put_back(passed.waiter)

    def _take_back(self, key: Key) -> None:
        self._pool.act(events.TakeBack(self._passed[key].peer, *key))
        self._drop(key)

    def _drop(self, key: Key) -> None:
        del self._passed[key]
        self._deadlines.clear(key)
