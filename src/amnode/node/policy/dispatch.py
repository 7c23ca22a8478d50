"""Which leased worker gets the next call, how many to lease, and which leases go back.

A `Pool` leases a worker for many calls, since a lease costs more than a small one. `Dispatch`
has what it holds; the driver tells it what happened, and does what it says.

1. A call goes to the worker with the fewest calls; of equals, to the one that rested last, so
   that those that are not needed rest on, until their leases go back.
2. No worker has more calls than the depth that is asked for: one, or more where calls are so
   short that the way to the worker would cost more than the work. Behind one that is not known
   to be short, or turns out to be long, nothing is sent: another worker may be free first.
3. A lease goes back only while nothing runs in it.
4. It goes back when it was idle for `keep`; when others wait, one after the other; when it is
   older than `hold`, one after the other, since a worker is renewed between leases; and when
   there are more than the pool may have.
5. One that is going back gets no more calls.
"""

from __future__ import annotations

import msgspec

from amnode.node.policy.options import DispatchOptions


class Slot(msgspec.Struct):
    """A worker that is leased.

    Attributes:
        key: the pool's own number of it.
        since: when it was leased.
        rested: when its last call ended.
        load: calls that it has; those of a job that is being cancelled too.
        shut: it gets no more before one of its calls has ended (rule 2).
        going: it goes back when its calls have ended (rule 5).
    """

    key: int
    since: float
    rested: float
    load: int = 0
    shut: bool = False
    going: bool = False

    @property
    def takes(self) -> bool:
        """Whether it may get another call."""
        return not (self.shut or self.going)


class Dispatch:
    """The workers that a pool has leased for calls.

    Args:
        options: see `DispatchOptions`.
    """

    def __init__(self, options: DispatchOptions) -> None:
        self._options = options
        self._slots: dict[int, Slot] = {}
        #: Of each load the slots that take calls, the one that rested last at the end.
        self._by_load: list[dict[int, None]] = [{} for _ in range(options.ahead + 1)]
        self._going: dict[int, None] = {}
        self._ahead = 0

    def __len__(self) -> int:
        """How many there are, those that go back too."""
        return len(self._slots)

    @property
    def open(self) -> int:
        """How many take calls."""
        return len(self._slots) - len(self._going)

    @property
    def ahead(self) -> int:
        """How many calls wait in a worker behind another one."""
        return self._ahead

    def load(self, key: int) -> int:
        """How many calls it has; none if it is gone."""
        slot = self._slots.get(key)
        return 0 if slot is None else slot.load

    # -- what happened ---------------------------------------------------------------------

    def came(self, key: int, now: float) -> None:
        """A worker was leased."""
        self._slots[key] = Slot(key=key, since=now, rested=now)
        self._by_load[0][key] = None

    def gone(self, key: int) -> None:
        """Its lease is over, or its worker is."""
        slot = self._slots.pop(key, None)
        if slot is None:
            return
        self._ahead -= max(0, slot.load - 1)
        self._going.pop(key, None)
        if slot.takes:
            del self._by_load[slot.load][key]

    def sent(self, key: int, *, alone: bool) -> None:
        """It has one call more; `alone` if nothing is to be sent behind it."""
        self._change(key, 1, shut=alone)

    def late(self, key: int) -> None:
        """Its call lasts longer than was thought."""
        self._change(key, 0, shut=True)

    def ended(self, key: int, now: float) -> bool:
        """It has one call less; returns whether its lease is to go back now (rule 3)."""
        slot = self._slots.get(key)
        if slot is None:
            return False
        slot.rested = now
        self._change(key, -1, shut=False)
        return slot.going and not slot.load

    def _change(self, key: int, step: int, *, shut: bool) -> None:
        slot = self._slots[key]
        if slot.takes:
            del self._by_load[slot.load][key]
        before, slot.load = slot.load, slot.load + step
        self._ahead += max(0, slot.load - 1) - max(0, before - 1)
        slot.shut = shut
        if slot.takes:
            self._by_load[slot.load][key] = None

    # -- what to do ------------------------------------------------------------------------

    def place(self, depth: int) -> int | None:
        """Who gets the next call; None where each has `depth` of them (rules 1 and 2)."""
        for bucket in self._by_load[: min(depth, self._options.ahead)]:
            if bucket:
                return next(reversed(bucket))
        return None

    def to_ask(self, waiting: int, asked: int, limit: int) -> int:
        """How many more workers to ask for.

        Args:
            waiting: calls that nobody has, or that wait behind another one.
            asked: requests that are under way.
            limit: how many workers the pool may have.
        """
        idle = len(self._by_load[0])
        return max(0, min(waiting - idle - asked, limit - len(self._slots) - asked))

    def to_return(self, now: float, *, others: bool, limit: int) -> list[int]:
        """Which leases are to go back now (rules 3 to 5).

        Args:
            now: the time, in seconds.
            others: whether somebody else waits for a worker.
            limit: how many workers the pool may have; 0 while it grants none.
        """
        for key in [*self._by_load[0]]:  # the one that rested longest is first
            if now - self._slots[key].rested < self._options.keep:
                break
            self._go(key)
        for _ in range(self.open - limit):
            self._go(self._least())
        if self._slots and not self._going:
            oldest = next(iter(self._slots.values()))  # they are in the order of their leases
            if others:
                self._go(self._least())
            elif now - oldest.since >= self._options.hold:
                self._go(oldest.key)
        return [key for key in self._going if not self._slots[key].load]

    def next_look(self, now: float) -> float | None:
        """When `to_return` is to be asked again, if nothing happens until then."""
        if not self._slots:
            return None
        rested = [self._slots[key].rested for key in self._by_load[0]][:1]
        since = min(slot.since for slot in self._slots.values())
        due = min([at + self._options.keep for at in rested] + [since + self._options.hold])
        # One that is due and cannot go yet, as another is going, must not be asked for at once.
        return max(due, now + self._options.keep / 4)

    def _least(self) -> int:
        """The open one with the fewest calls, of those the one that rested longest."""
        for bucket in self._by_load:
            if bucket:
                return next(iter(bucket))
        return next(key for key, slot in self._slots.items() if not slot.going)

    def _go(self, key: int) -> None:
        slot = self._slots[key]
        if slot.takes:
            del self._by_load[slot.load][key]
        slot.going = True
        self._going[key] = None

    def check(self) -> None:
        """Raise AssertionError unless each slot is where its data says."""
        for key, slot in self._slots.items():
            assert slot.key == key, "A slot is under the key of another."
            assert slot.going == (key in self._going), "Going, and not among those (rule 5)."
            placed = [n for n, bucket in enumerate(self._by_load) if key in bucket]
            assert placed == ([slot.load] if slot.takes else []), "In another bucket (rule 1)."
        held = [key for bucket in (self._going, *self._by_load) for key in bucket]
        assert all(key in self._slots for key in held), "A bucket has what is gone."
        ahead = sum(max(0, slot.load - 1) for slot in self._slots.values())
        assert ahead == self._ahead, "Miscounted those that wait."
