"""What is asked of a machine, what it answers, and what waits its turn.

Rules of the queue:

1. Its tick starts at 1 and counts the mutations that were taken off it after being appended;
   those put in front (automatic states, errors) do not count.
2. A mutation equal to a pending one is not queued twice: same type, same set of states, no
   arguments in either, no Multi state.
3. It is bounded. Past the bound a mutation is refused, except for an Exception that is neither
   active nor pending: an error must find its way in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import asyncio

    from amnode.machine.plan import Call
    from amnode.machine.transition import Event


class MutationType(IntEnum):
    """What a mutation asks for. A toggle is decided when called: what runs is its result."""

    ADD = 0
    REMOVE = 1
    SET = 2
    TOGGLE = 3


class Result:
    """The answer to a mutation. False only if it was canceled; awaitable.

    Awaiting `EXECUTED` or `CANCELED` returns it at once. A queued mutation is answered by a
    `Queued`, which is true and can be awaited for one of the two.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __bool__(self) -> bool:
        return self is not CANCELED

    def __repr__(self) -> str:
        return self._name

    def __await__(self) -> Generator[Any, None, Result]:
        return self
        yield  # makes this a generator; never reached


EXECUTED = Result("EXECUTED")
CANCELED = Result("CANCELED")


class Queued(Result):
    """A mutation that waits its turn.

    Attributes:
        tick: the queue tick that the machine will have once this mutation is taken off.
    """

    __slots__ = ("_make_future", "_outcome", "_waiters", "tick")

    def __init__(self, tick: int, make_future: Callable[[], asyncio.Future[Result]]) -> None:
        super().__init__(f"Queued({tick})")
        self.tick = tick
        self._make_future = make_future
        self._outcome: Result | None = None
        self._waiters: list[asyncio.Future[Result]] = []

    @property
    def outcome(self) -> Result | None:
        """`EXECUTED` or `CANCELED`; None until the mutation has run."""
        return self._outcome

    def settle(self, outcome: Result) -> None:
        """Called by the machine when the mutation has run, or never will."""
        self._outcome = outcome
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(outcome)
        self._waiters.clear()

    def __await__(self) -> Generator[Any, None, Result]:
        if self._outcome is not None:
            return self._outcome
        waiter = self._make_future()
        self._waiters.append(waiter)
        try:
            return (yield from waiter)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)


class Mutation:
    """One request to change states.

    Attributes:
        call: what is called, compiled: its type, its states and the plans for it.
        args: whatever came with it; handlers read it as `event.args`.
        origin: who asked from outside, where somebody did; opaque to the kernel.
        cause: the event whose handler made this mutation, or None.
        prepended: put in front of the queue; does not count in its tick.
        quiet: no automatic states are tried after it.
        result: set when it is queued.
        is_check: whether somebody only asks what would be.
    """

    is_check: ClassVar[bool] = False

    __slots__ = ("args", "call", "cause", "origin", "prepended", "quiet", "result")

    def __init__(
        self,
        call: Call,
        args: object = None,
        origin: object = None,
        cause: Event | None = None,
    ) -> None:
        self.call = call
        self.args = args
        self.origin = origin
        self.cause = cause
        self.prepended = False
        self.quiet = call.auto or call.quiet
        self.result: Queued | None = None

    @property
    def type(self) -> MutationType:
        """What is asked for."""
        return self.call.type

    @property
    def called(self) -> tuple[int, ...]:
        """The states asked for, by index, in the order given."""
        return self.call.called

    def __repr__(self) -> str:
        return f"<Mutation {self.type.name.lower()} {self.called}>"


class Check(Mutation):
    """A request that is negotiated, and changes nothing."""

    is_check: ClassVar[bool] = True

    __slots__ = ()


class MutationQueue:
    """The mutations that wait, in order, with the queue's own tick.

    Attributes:
        limit: how many may wait (rule 3).
        tick: see rule 1.
        pending: those that wait; for reading only. Most machines never queue, so an empty
            queue holds nothing.
    """

    __slots__ = ("_appended", "_mergeable", "limit", "pending", "tick")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.tick = 1
        self.pending: deque[Mutation] | tuple[()] = ()
        self._appended = 0
        self._mergeable: dict[tuple[MutationType, int], int] | None = None

    def __len__(self) -> int:
        return len(self.pending)

    def __iter__(self) -> Iterator[Mutation]:
        return iter(self.pending)

    @property
    def full(self) -> bool:
        """Whether another mutation would be refused (rule 3)."""
        return len(self.pending) >= self.limit

    def has_equal(self, call: Call) -> bool:
        """Whether a mutation like this one, without arguments, is pending (rule 2)."""
        waiting = self._mergeable
        return bool(waiting and waiting.get((call.type, call.called_mask)))

    def is_called(self, type_: MutationType, state: int) -> bool:
        """Whether a pending mutation of this type calls `state`."""
        return any(m.type is type_ and state in m.called for m in self.pending)

    def append(self, mutation: Mutation) -> int:
        """Puts a mutation last; returns the queue tick at which it will run."""
        self._opened().append(mutation)
        self._appended += 1
        self._count(mutation, 1)
        return self.tick + self._appended

    def prepend(self, mutation: Mutation) -> None:
        """Puts a mutation first; it will not count in the tick (rule 1)."""
        mutation.prepended = True
        self._opened().appendleft(mutation)
        self._count(mutation, 1)

    def take(self) -> Mutation:
        """Takes the first one off, and counts it (rule 1)."""
        mutation = self._opened().popleft()
        self._count(mutation, -1)
        if not mutation.prepended:
            self._appended -= 1
            self.tick += 1
        return mutation

    def drain(self) -> list[Mutation]:
        """Takes all of them off without running them; the tick stays."""
        left = list(self.pending)
        self.pending = ()
        self._mergeable = None
        self._appended = 0
        return left

    def _opened(self) -> deque[Mutation]:
        pending = self.pending
        if isinstance(pending, tuple):
            pending = self.pending = deque[Mutation]()
        return pending

    def _count(self, mutation: Mutation, by: int) -> None:
        call = mutation.call
        if mutation.args is not None or call.calls_multi:
            return
        waiting = self._mergeable
        if waiting is None:
            waiting = self._mergeable = {}
        key = (call.type, call.called_mask)
        count = waiting.get(key, 0) + by
        if count:
            waiting[key] = count
        else:
            waiting.pop(key, None)
