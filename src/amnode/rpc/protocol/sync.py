"""How a replica follows its source: snapshot, difference, checksum, resync.

The source's side (`Leader`) remembers what it sent last on one connection and sends what came
after it. The replica's side (`Follower`) adds it up. Rules:

1. A difference takes the replica from one time of the source to a later one, never to a mix:
   it covers all subscribed states that moved in between, with the ticks that they had when the
   last transition *ended*. It can be taken at any moment, also amid a transition.
2. The checksum is Σ tickᵢ·mᵢ + queue tick + machine tick, modulo 2³², over the subscribed
   states; mᵢ = ((i + 1) · 2654435761 mod 2³²) | 1, for the index i in the source's schema. mᵢ
   is odd, so that no single tick can be off unnoticed. Both sides keep it up to date by steps.
3. A replica moves only if the checksum fits. If not, it asks once for everything, and lets what
   arrives until then pass; what is to be seen after an update (answers, payloads) waits for it.
   A snapshot with a wrong checksum is a `ProtocolError`.
4. An index that is not subscribed, or an increment of 0, is a `ProtocolError`.
5. A *shallow* clock counts the changes between active and inactive that were sent, so it has
   the parity of the source's, and never falls; all else is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from amnode.errors import ProtocolError
from amnode.machine.clock import is_active_tick
from amnode.rpc.protocol.wire import ClockData, Difference

_MASK = 0xFFFF_FFFF


def mix(index: int) -> int:
    """The odd factor of one state in the checksum (rule 2)."""
    return (index + 1) * 2654435761 & _MASK | 1


def mixes(size: int) -> tuple[int, ...]:
    """The factors of all states of a schema; worth sharing between connections."""
    return tuple(map(mix, range(size)))


class Leader:
    """The source's side of one connection.

    Args:
        factors: of the source's states, from `mixes`.
        selected: indexes of the subscribed states, ascending; None for all.
        shallow: whether the clocks are shallow (rule 5).
    """

    __slots__ = (
        "_checksum",
        "_factors",
        "_queue_tick",
        "_sent",
        "_shallow",
        "moved",
        "selected",
    )

    def __init__(
        self,
        factors: Sequence[int],
        selected: Sequence[int] | None,
        shallow: bool = False,
    ) -> None:
        self._factors = factors
        self._shallow = shallow
        self.selected = None if selected is None else dict.fromkeys(selected)
        self._sent: list[int] = [0] * len(factors)
        #: The subscribed states that moved since the last update, with their ticks.
        self.moved: dict[int, int] = {}
        self._queue_tick = 0
        self._checksum = 0

    @property
    def pending(self) -> bool:
        """Whether a subscribed state moved since the last update."""
        return bool(self.moved)

    def confine(self) -> None:
        """The source's schema has grown: the peer goes on with the states that it knows."""
        if self.selected is None:
            self.selected = dict.fromkeys(range(len(self._sent)))

    def mark(self, changed: Iterable[int], ticks: Sequence[int] | Mapping[int, int]) -> bool:
        """Notes states that moved in a transition which ended.

        Args:
            changed: their indexes.
            ticks: by index.

        Returns:
            Whether any of them is subscribed.
        """
        moved, selected = self.moved, self.selected
        for index in changed:
            if selected is None or index in selected:
                moved[index] = ticks[index]
        return bool(moved)

    def snapshot(self, ticks: Sequence[int], queue_tick: int, machine_tick: int) -> ClockData:
        """Everything, as it is now; later differences start from here."""
        indexes = range(len(ticks)) if self.selected is None else self.selected
        total = queue_tick + machine_tick
        sent = self._sent
        for index in indexes:
            sent[index] += self._step(ticks[index], sent[index])
            total += sent[index] * self._factors[index]
        self.moved.clear()
        self._queue_tick = queue_tick
        self._checksum = total & _MASK
        return ClockData(machine_tick, queue_tick, [sent[i] for i in indexes], self._checksum)

    def difference(self, queue_tick: int) -> Difference | None:
        """What moved since the last update, or None; later ones start from here."""
        queue_step = queue_tick - self._queue_tick
        if not self.moved and not queue_step:
            return None
        if len(self.moved) == 1 and not self._shallow:
            return self._difference_of_one(queue_tick, queue_step)
        pairs: list[int] = []
        total = self._checksum + queue_step
        sent, moved, factors, shallow = self._sent, self.moved, self._factors, self._shallow
        for index in sorted(moved):
            step = moved[index] - sent[index]
            if shallow:
                step = self._step(moved[index], sent[index])
            if step:
                pairs += (index, step)
                sent[index] += step
                total += step * factors[index]
        moved.clear()
        self._queue_tick = queue_tick
        self._checksum = total & _MASK
        return Difference(pairs, queue_step, self._checksum)

    def _difference_of_one(self, queue_tick: int, queue_step: int) -> Difference:
        """The same for one state, as most are."""
        index, tick = self.moved.popitem()
        step = tick - self._sent[index]
        self._sent[index] = tick
        self._queue_tick = queue_tick
        total = self._checksum + queue_step + step * self._factors[index]
        self._checksum = checksum = total & _MASK
        return Difference([index, step] if step else [], queue_step, checksum)

    def _step(self, tick: int, sent: int) -> int:
        """What is to be sent for a tick, after what was."""
        if self._shallow:
            return int(is_active_tick(tick) != is_active_tick(sent))
        return tick - sent


class Follower:
    """The replica's side of one connection.

    Args:
        size: the number of states in the source's schema.
        selected: indexes of the subscribed states, ascending; None for all.

    Attributes:
        ticks: of all states; 0 for those that are not subscribed.
        queue_tick: of the source.
        machine_tick: of the source.
        resyncing: whether a checksum was wrong and everything has been asked for (rule 3).
    """

    __slots__ = (
        "_checksum",
        "_factors",
        "_selected",
        "machine_tick",
        "queue_tick",
        "resyncing",
        "ticks",
    )

    def __init__(self, size: int, selected: Sequence[int] | None) -> None:
        self._factors = mixes(size)
        self._selected = dict.fromkeys(range(size) if selected is None else selected)
        self._checksum = 0
        self.ticks: list[int] = [0] * size
        self.queue_tick = 0
        self.machine_tick = 0
        self.resyncing = False

    def load(self, clock: ClockData) -> list[int]:
        """Takes over a snapshot; returns the states that moved as flat pairs, falls included.

        Raises:
            ProtocolError: it is not one of the subscribed states, or its checksum is wrong.
        """
        if len(clock.ticks) != len(self._selected):
            raise ProtocolError(
                f"A clock of {len(clock.ticks)} ticks for {len(self._selected)} states."
            )
        total = clock.queue_tick + clock.machine_tick
        for index, tick in zip(self._selected, clock.ticks, strict=True):
            total += tick * self._factors[index]
        if total & _MASK != clock.checksum:
            raise ProtocolError(
                f"A snapshot with checksum {clock.checksum}; {total & _MASK} fits."
            )
        pairs: list[int] = []
        for index, tick in zip(self._selected, clock.ticks, strict=True):
            if tick != self.ticks[index]:
                pairs += (index, tick - self.ticks[index])
                self.ticks[index] = tick
        self._checksum = clock.checksum
        self.queue_tick = clock.queue_tick
        self.machine_tick = clock.machine_tick
        self.resyncing = False
        return pairs

    def apply(self, difference: Difference) -> bool:
        """Moves by a difference; False (and no move) if its checksum is wrong (rule 3).

        Raises:
            ProtocolError: the difference could fit no source (rule 4).
        """
        pairs = difference.pairs
        if len(pairs) == 2:
            return self._apply_one(pairs[0], pairs[1], difference)
        if len(pairs) & 1:
            raise ProtocolError("A difference with an index that has no increment.")
        total = self._checksum + difference.queue
        selected, factors, ticks = self._selected, self._factors, self.ticks
        flat = iter(pairs)
        for index in flat:
            step = next(flat)
            if step < 1 or index not in selected:
                raise ProtocolError(f"A difference moves state {index} by {step}.")
            total += step * factors[index]
            ticks[index] += step
        if total & _MASK != difference.checksum:
            flat = iter(pairs)
            for index, step in zip(flat, flat, strict=True):
                ticks[index] -= step
            self.resyncing = True
            return False
        self._checksum = difference.checksum
        self.queue_tick += difference.queue
        return True

    def _apply_one(self, index: int, step: int, difference: Difference) -> bool:
        """The same for one state, as most are."""
        if index not in self._selected or step < 1:
            raise ProtocolError(f"A difference moves state {index} by {step}.")
        total = self._checksum + difference.queue + step * self._factors[index] & _MASK
        if total != difference.checksum:
            self.resyncing = True
            return False
        self.ticks[index] += step
        self._checksum = total
        self.queue_tick += difference.queue
        return True
