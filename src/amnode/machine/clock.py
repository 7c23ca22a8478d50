"""Ticks, and what they say: odd is active. The only place that knows it.

Each state has a tick that starts at 0 and never falls: +1 when the state is activated, +1 when
it is deactivated, +2 when an active Multi state is called again. The ticks in schema order are
the *machine time*; one tick is the identity of one activation.

Two more views of the same facts are kept beside the ticks, because they are what the rest of
the kernel asks for:

1. `mask` has bit *i* set exactly when state *i* is active.
2. The *machine order* has exactly the active states. Those of `ranked` have a fixed place, at
   its end, so nothing is kept of them. `order` has the others as keys, the *last* one first: a
   state mostly goes to the front of the machine order, which is then an append. Only while an
   `after` relation interferes is the whole order kept, in `arranged`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain


def is_active_tick(tick: int) -> bool:
    """Whether a state at this tick is active."""
    return tick & 1 == 1


class Clock:
    """The time of one machine. Nothing but the ticks, and the two views of them.

    Args:
        size: the number of states.
        ranked: those with a fixed place in the machine order, in that order.
    """

    __slots__ = ("arranged", "mask", "order", "ranked", "ticks")

    def __init__(self, size: int, ranked: Sequence[int] = ()) -> None:
        self.ticks: list[int] = [0] * size
        self.mask = 0
        self.order: dict[int, None] = {}
        self.ranked = ranked
        self.arranged: tuple[int, ...] | None = None

    def active(self) -> Iterator[int]:
        """The active states, in machine order."""
        if self.arranged is not None:
            return iter(self.arranged)
        return chain(reversed(self.order), (i for i in self.ranked if self.mask >> i & 1))

    def put_last(self, states: Sequence[int]) -> None:
        """Puts states behind all others that have no fixed place."""
        last = dict.fromkeys(reversed(states))
        self.order = last | {i: None for i in self.order if i not in last}

    def arrange(self, order: Sequence[int]) -> None:
        """Takes over a whole machine order, which `ranked` alone does not give."""
        self.arranged = tuple(order)
        self.order = dict.fromkeys(i for i in reversed(order) if i not in self.ranked)

    def deactivate(self, states: Sequence[int]) -> None:
        """Ends states that are active (+1), leaving the order of the others."""
        for state in states:
            self.ticks[state] += 1
            self.mask ^= 1 << state
            self.order.pop(state, None)
        if self.arranged is not None:
            self.arranged = tuple(i for i in self.arranged if i not in states)

    def advance(self, state: int, ticks: int) -> None:
        """Moves one state by any number of ticks, as a replica does when it hears of them."""
        self.ticks[state] += ticks
        if is_active_tick(self.ticks[state]):
            self.mask |= 1 << state
            if state not in self.ranked:
                self.order[state] = None
        else:
            self.mask &= ~(1 << state)
            self.order.pop(state, None)

    def check(self) -> None:
        """Raises AssertionError if one of the two invariants does not hold."""
        mask = sum(1 << i for i, tick in enumerate(self.ticks) if is_active_tick(tick))
        assert mask == self.mask, f"invariant 1: ticks say {mask:b}, the mask {self.mask:b}"
        ordered = [*self.active()]
        expected = [i for i, tick in enumerate(self.ticks) if is_active_tick(tick)]
        assert sorted(ordered) == expected, f"invariant 2: {expected} are active, not {ordered}"
        kept = [i for i in self.ranked if i in self.order]
        assert not kept, f"invariant 2: {kept} are ranked, and kept in the order"
