"""Which calls of an executor wait, which are with its workers, and how many may be.

    add --> waiting --take--> sent --ended--> gone
               ^----put_back----'

Rules:

1. Calls are taken in the order in which they came.
2. As many are sent as there are workers, and `ahead` more, so that none of them waits for the
   next one. What is sent cannot be cancelled, so that is one, and more only while calls are so
   short that all of it is done within `AHEAD` seconds.
3. A call that was sent is with a worker that has its number, or still in the queue. One that is
   neither is on its way into a slot, or was lost with a worker that died in that very moment.
4. Workers are asked for as calls need them, never more than `most`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

Call = TypeVar("Call")

#: Seconds of work that may be sent ahead for each worker (rule 2).
AHEAD = 0.002

#: Calls that may be sent ahead for each worker, however short they are.
_MOST_AHEAD = 32

#: The part that the newest call has in the mean time of one.
_NEWEST = 0.1


class CallBook(Generic[Call]):
    """The calls of one executor.

    Args:
        most: workers that there may be.

    Attributes:
        attached: the slots of the workers that take calls.
        used: workers that there are, or that were asked for.
        sent: the calls that were sent, by number, oldest first.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.attached: dict[int, None] = {}
        self.used = 0
        self.sent: dict[int, Call] = {}
        self._waiting: deque[tuple[int, Call]] = deque()
        self._last = 0
        self._mean = 1.0
        self._limit = 0

    @property
    def outstanding(self) -> int:
        """Calls that have not ended."""
        return len(self._waiting) + len(self.sent)

    @property
    def may_send(self) -> bool:
        """Whether a call waits, and the workers could do with it (rule 2)."""
        return bool(self._waiting) and len(self.sent) < self._limit

    def add(self, call: Call) -> None:
        """A call came."""
        self._last += 1
        self._waiting.append((self._last, call))

    def take(self) -> tuple[int, Call] | None:
        """The next call that is to be sent, which counts as sent from now on."""
        if not self.may_send:
            return None
        number, call = self._waiting.popleft()
        self.sent[number] = call
        return number, call

    def put_back(self, number: int) -> None:
        """A call could not be sent yet."""
        self._waiting.appendleft((number, self.sent.pop(number)))

    def ended(self, number: int, seconds: float | None = None) -> Call | None:
        """A call has ended, one way or another; None if it had before.

        Args:
            number: of the call.
            seconds: that it took; None where that says nothing about others.
        """
        call = self.sent.pop(number, None)
        if seconds is not None and call is not None:
            self._mean += (seconds - self._mean) * _NEWEST
            self._recount()
        return call

    def clear(self, *, sent: bool) -> list[Call]:
        """Takes away the calls that wait, and those that were sent, too, if so asked."""
        left = [*self.sent.values()] if sent else []
        if sent:
            self.sent.clear()
        left += [call for _, call in self._waiting]
        self._waiting.clear()
        return left

    # -- workers ---------------------------------------------------------------------------

    def wants_worker(self) -> bool:
        """Whether to ask for one more worker; it counts as used from now on (rule 4)."""
        if self.used >= self.most or self.outstanding <= self.used:
            return False
        self.used += 1
        return True

    def attach(self, slot: int) -> None:
        """A worker takes calls from now on."""
        self.attached[slot] = None
        self._recount()

    def detach(self, slot: int) -> None:
        """A worker takes no more calls."""
        self.attached.pop(slot, None)
        self._recount()

    def missing(self, queued: Iterable[int], held: Iterable[int]) -> list[int]:
        """The calls of which nobody knows where they are (rule 3), oldest first.

        Args:
            queued: the numbers that are in the queue.
            held: the numbers that stand in the slots of living workers.
        """
        known = {*queued, *held}
        return [number for number in self.sent if number not in known]

    def _recount(self) -> None:
        workers = len(self.attached)
        each = int(AHEAD / max(self._mean, AHEAD / _MOST_AHEAD))
        self._limit = workers + max(1, workers * each) if workers else 0
