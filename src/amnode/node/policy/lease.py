"""One lease, as its three sides see it. Epochs are compared here and nowhere else.

    the worker's own, which alone decides         what the supervisor knows of it

    FREE <-----------------------------+          idle
     | serve, at the expected tick     |           | ServeClient sent: expects tick t,
     v                                 |           v   so the epoch will be t + 1
    OFFERED --withdraw, delivery       |          ASKED --no--> idle
     |        timeout-----------+      |           |  +--no answer--> LOST --next word-->
     | the secret was used      |      |           | yes              idle, or withdraw
     v                          |      |           v
    HELD --release, maximum-----+      |          GRANTED --not wanted--> withdraw
     | connection lost  ^       |      |           | the worker says so, or
     v          resumed |       |      |           v refuses to withdraw
    CUT ----------------+       |      |          TAKEN
     +----grace, release,       |      |           |
          maximum---------------+      |           |
                                v      |           v only on the worker's own word,
                            RELEASING--+          idle            or its end

    the client's: pending --grant--> connecting --handshake--> held
                     ^                   | failed, with time left: returned, asked again
                     +-------------------+ no longer wanted: returned

The epoch is the tick of the worker's `Leased` while it is active: the tick that was expected,
plus one. It means something only beside the worker's id.

1. A worker serves only if its `Leased` is at the expected tick and inactive (promises S1, S3).
2. A secret opens one session; it is given out for no other client and not after use (S4).
3. Work and its results count only in the epoch that holds (S2).
4. The supervisor's record of a lease ends only by the worker's own word, or its end (S8).
5. A hand-over that is not taken is ended by the worker's clock; a withdrawal is refused once
   the secret was used.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING

import msgspec

from amnode.node.args import WorkerInfo
from amnode.node.policy.options import LeaseTerms

if TYPE_CHECKING:  # the worker, which has a side here too, needs no waiting list
    from amnode.node.policy.waitlist import Waiter

# -- the supervisor's side -----------------------------------------------------------------


class Phase(StrEnum):
    """How far a hand-over is, as the supervisor knows it."""

    ASKED = "asked"
    LOST = "lost"
    GRANTED = "granted"
    TAKEN = "taken"


class Answer(Enum):
    """What follows an answer to ServeClient."""

    GRANT = auto()  # tell the client
    WITHDRAW = auto()  # nobody wants it any more
    PUT_BACK = auto()  # the worker is free, the request waits again
    UNKNOWN = auto()  # the request waits again, the worker's next word tells
    NOTHING = auto()  # that was answered before


class Told(Enum):
    """What a WorkerInfo says about the lease that the supervisor knows."""

    CROSSED = auto()  # it was sent before the worker had our question
    SAME = auto()
    ENDED = auto()
    OTHER = auto()  # the worker serves somebody else


class Held(msgspec.Struct, eq=False):
    """A worker's lease as the supervisor knows it.

    Attributes:
        client_id: who holds it, by its supervisor connection; "" where that is unknown.
        name: the client's name, by which the quota counts.
        worker_rpc_id: by which the worker knows the client.
        epoch: the lease's.
        phase: how far it is.
        waiter: the request, while it may still have to wait again.
        wanted: False when the client took the request back or is gone.
        cut: the connection on which the worker was asked is gone.
    """

    client_id: str
    name: str
    worker_rpc_id: str
    epoch: int
    phase: Phase = Phase.ASKED
    waiter: Waiter | None = None
    wanted: bool = True
    cut: bool = False

    @classmethod
    def ask(cls, waiter: Waiter, tick: int) -> Held:
        """The record of a ServeClient that expects `Leased` at `tick`."""
        return cls(waiter.client_id, waiter.name, waiter.worker_rpc_id, tick + 1, waiter=waiter)

    @classmethod
    def heard(cls, info: WorkerInfo, name: str, client_id: str = "") -> Held:
        """The record of a lease that the worker has and the supervisor did not grant."""
        phase = Phase.TAKEN if info.taken else Phase.LOST
        return cls(client_id, name, info.client_id, info.leased_tick, phase, wanted=False)

    def is_about(self, epoch: int) -> bool:
        """Whether something that names this epoch is about this lease."""
        return epoch == self.epoch

    def answered(self, accepted: bool | None) -> Answer:
        """The worker's answer to ServeClient; None: there will be none."""
        # A lease that was only heard of is not what the worker was asked for.
        if not self.client_id or self.phase not in (Phase.ASKED, Phase.LOST):
            return Answer.NOTHING
        if accepted is False:
            return Answer.PUT_BACK
        if accepted is None:
            known = self.phase is Phase.LOST
            self.phase = Phase.LOST
            return Answer.NOTHING if known else Answer.UNKNOWN
        wanted = self.wanted and self.phase is Phase.ASKED
        self.phase = Phase.GRANTED
        self.wanted = wanted
        return Answer.GRANT if wanted else Answer.WITHDRAW

    def told(self, info: WorkerInfo) -> Told:
        """What the worker's own word makes of the lease (invariant 4)."""
        if info.client_id:
            if info.leased_tick < self.epoch:
                return Told.CROSSED
            if info.leased_tick > self.epoch or info.client_id != self.worker_rpc_id:
                return Told.OTHER
            if info.taken:
                self.phase = Phase.TAKEN
            return Told.SAME
        if info.leased_tick < self.epoch:
            # On a new connection it cannot have crossed: the question never arrived.
            return Told.ENDED if self.phase is Phase.LOST and self.cut else Told.CROSSED
        return Told.ENDED

    @property
    def is_asked(self) -> bool:
        """Whether the worker has still to answer."""
        return self.phase is Phase.ASKED

    @property
    def to_withdraw(self) -> bool:
        """Whether the worker should be told that nobody is coming."""
        if self.phase is Phase.LOST:
            return True
        return self.phase is Phase.GRANTED and not self.wanted


# -- the worker's side ---------------------------------------------------------------------


class Stage(StrEnum):
    """Where the worker's lease is."""

    FREE = "free"
    OFFERED = "offered"
    HELD = "held"
    CUT = "cut"
    RELEASING = "releasing"


class End(StrEnum):
    """Why a lease ended."""

    RELEASED = "released by its client"
    WITHDRAWN = "withdrawn before it was taken"
    NOT_TAKEN = "not taken in time"
    CLIENT_GONE = "its client was gone past the grace"
    MAXIMUM = "held past its maximum"
    STOPPED = "the worker is stopping"
    NOT_SET_UP = "on_lease did not end well"


_CLEAN = (End.RELEASED, End.WITHDRAWN, End.NOT_TAKEN)


class WorkerLease:
    """The worker's own lease, and the guard of its door.

    What may be is asked first and changes nothing (`refusal_to_...`: a reason or ""); what is
    then done is told. Its driver adds `Leased` in the drain in which it told `serve`,
    `Releasing` when an end begins (`begin_end`, `due`, `stop`), and calls `ended` when `Leased`
    is over.

    Attributes:
        epoch: of the current lease, or of the last one.
        client_id: who is served, or "".
        taken: the secret of the current or last lease was used.
        since: when the current lease began.
        end: why the current lease is ending, or the last one ended.
    """

    def __init__(self) -> None:
        self.stage = Stage.FREE
        self.epoch = 0
        self.client_id = ""
        self.taken = False
        self.since = 0.0
        self.end: End | None = None
        self._secret = b""
        self._terms = LeaseTerms()
        self._cut_at = 0.0

    def refusal_to_serve(
        self, client_id: str, secret: bytes, expected_tick: int, actual_tick: int
    ) -> str:
        """Why this client is not let in (invariant 1)."""
        if self.stage is not Stage.FREE:
            return f"it serves {self.client_id} in epoch {self.epoch}"
        if expected_tick != actual_tick:
            return f"its Leased is at tick {actual_tick}, not at {expected_tick}"
        if not client_id or not secret:
            return "a client id and a secret are needed"
        return ""

    def serve(
        self,
        client_id: str,
        secret: bytes,
        *,
        expected_tick: int,
        terms: LeaseTerms,
        now: float,
    ) -> None:
        """A client is to be let in; nothing was said against it."""
        assert self.stage is Stage.FREE, "A second client (S1)."
        self.stage = Stage.OFFERED
        self.epoch = expected_tick + 1
        self.client_id = client_id
        self.taken = False
        self.since = now
        self.end = None
        self._secret = secret
        self._terms = terms

    @property
    def is_beginning(self) -> bool:
        """Whether there is a lease that nobody has taken yet: `Leased` may come."""
        return self.stage is Stage.OFFERED

    def secret_for(self, client_id: str) -> bytes | None:
        """The secret that a hello of this client has to prove, or None (invariant 2)."""
        if self.stage is Stage.OFFERED and client_id == self.client_id:
            return self._secret
        return None

    def opened(self, client_id: str) -> bool:
        """The client proved the secret: whether its session may be; only the first may."""
        if self.secret_for(client_id) is None:
            return False
        self._secret = b""
        self.taken = True
        self.stage = Stage.HELD
        return True

    def connection_lost(self, now: float) -> None:
        """The session of the client is gone; its grace runs from now on."""
        if self.stage is Stage.HELD:
            self.stage = Stage.CUT
            self._cut_at = now

    def connection_back(self) -> None:
        """The client has resumed its session, which it could only in the same epoch."""
        if self.stage is Stage.CUT:
            self.stage = Stage.HELD

    def allows(self, epoch: int) -> bool:
        """Whether work may start that names this epoch (invariant 3)."""
        return self.stage is Stage.HELD and epoch == self.epoch

    def refusal_to_end(self, epoch: int, withdraw: bool) -> str:
        """Why the lease is not released, or withdrawn by the supervisor (invariant 5)."""
        if epoch != self.epoch or self.stage is Stage.FREE:
            return f"there is no lease of epoch {epoch}"
        if self.stage is Stage.RELEASING:
            return f"the lease of epoch {epoch} is ending already: {self.end}"
        if withdraw and self.taken:
            return f"the lease of epoch {epoch} was taken"
        return ""

    def refusal_to_retire(self, expected_tick: int, actual_tick: int) -> str:
        """Why the worker does not end unless it is forced to (promise S12)."""
        if self.stage is not Stage.FREE:
            return f"it serves {self.client_id} in epoch {self.epoch}"
        if expected_tick != actual_tick:
            return f"its Leased is at tick {actual_tick}, not at {expected_tick}"
        return ""

    def begin_end(self, end: End) -> bool:
        """The lease is to end; False when there is none, or it is ending already."""
        if self.stage in (Stage.FREE, Stage.RELEASING):
            return False
        self.stage = Stage.RELEASING
        self.end = end
        self._secret = b""
        return True

    def stop(self) -> bool:
        """The worker is ending, by force; whether a lease begins to end by it."""
        return self.begin_end(End.STOPPED)

    def due(self, now: float) -> End | None:
        """End the lease if its time has come; why, once."""
        found = self._next()
        if found is None or now < found[0]:
            return None
        self.begin_end(found[1])
        return found[1]

    def next_deadline(self) -> float | None:
        """When `due` has to be asked next, or None."""
        found = self._next()
        return found[0] if found else None

    def ended(self) -> None:
        """`Leased` is over; another client may be served."""
        self.stage = Stage.FREE
        self.client_id = ""
        self._secret = b""

    @property
    def clean(self) -> bool:
        """Whether the last lease left the worker as it was: released, or never taken."""
        return self.end is None or self.end in _CLEAN

    def _next(self) -> tuple[float, End] | None:
        terms = self._terms
        if self.stage is Stage.OFFERED:
            return self.since + terms.delivery_timeout, End.NOT_TAKEN
        if self.stage not in (Stage.HELD, Stage.CUT):
            return None
        ends: list[tuple[float, End]] = []
        if self.stage is Stage.CUT:
            ends.append((self._cut_at + terms.grace, End.CLIENT_GONE))
        if terms.maximum is not None:
            ends.append((self.since + terms.maximum, End.MAXIMUM))
        return min(ends, default=None)


# -- the client's side ---------------------------------------------------------------------


class ClientLeases:
    """What a client asked for, and what it holds.

    A request is pending until it is granted, denied, cancelled or out of time. A grant is
    *wanted* only while its request is pending; any other is to be returned.
    """

    def __init__(self) -> None:
        self._pending: dict[str, float] = {}
        self._connecting: dict[tuple[str, int], tuple[str, float]] = {}
        self._held: dict[str, int] = {}

    def ask(self, request_id: str, deadline: float) -> None:
        """A request is being made."""
        self._pending[request_id] = deadline

    def pending(self, now: float) -> list[tuple[str, float]]:
        """The requests to be made again at a new supervisor connection, with the time left."""
        return [(rid, at - now) for rid, at in self._pending.items() if at > now]

    @property
    def is_asking(self) -> bool:
        """Whether a request is pending: what WorkerRequested shows."""
        return bool(self._pending)

    @property
    def is_holding(self) -> bool:
        """Whether a lease is connected: what WorkerReady shows."""
        return bool(self._held)

    @property
    def may_leave(self) -> bool:
        """Whether the supervisor connection is needed no more: nothing is pending."""
        return not self._pending and not self._connecting

    def cancel(self, request_id: str) -> bool:
        """The caller gave up; whether the supervisor has to be told."""
        if self._pending.pop(request_id, None) is not None:
            return True
        for key, (asked, _) in self._connecting.items():
            if asked == request_id:
                del self._connecting[key]
                break
        return False

    def denied(self, request_id: str) -> bool:
        """The supervisor said no; whether that was still awaited."""
        return self._pending.pop(request_id, None) is not None

    def granted(self, request_id: str, worker_id: str, epoch: int) -> bool:
        """A grant came; False when nobody wants it: return it."""
        deadline = self._pending.pop(request_id, None)
        if deadline is None:
            return False
        self._connecting[worker_id, epoch] = (request_id, deadline)
        return True

    def connected(self, worker_id: str, epoch: int) -> bool:
        """The handshake is done; False when the caller has given up: close and return it."""
        if self._connecting.pop((worker_id, epoch), None) is None:
            return False
        self._held[worker_id] = epoch
        return True

    def failed(self, worker_id: str, epoch: int, now: float) -> float | None:
        """No handshake came of a grant: return it.

        Returns:
            The time left, if the request is pending again and is to be asked anew.
        """
        request_id, deadline = self._connecting.pop((worker_id, epoch), ("", now))
        if deadline <= now:
            return None
        self._pending[request_id] = deadline
        return deadline - now

    def holds(self, worker_id: str, epoch: int) -> bool:
        """Whether a message of that worker and epoch is about a lease held now."""
        return self._held.get(worker_id) == epoch

    def ended(self, worker_id: str, epoch: int) -> bool:
        """A lease is released, lost or crashed; whether it was held."""
        if not self.holds(worker_id, epoch):
            return False
        del self._held[worker_id]
        return True
