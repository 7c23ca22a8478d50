"""Ticks, and what they say: odd is active. The only place that knows it.

Each state has a tick that starts at 0 and never falls: +1 when the state is activated, +1 when
it is deactivated, +2 when an active Multi state is called again. The ticks in schema order are
the *machine time*; one tick is the identity of one activation.

Two more views of the same facts are kept beside the ticks, because they are what the rest of
the kernel asks for:

1. `mask` has bit *i* set exactly when state *i* is active.
2. `order` has the active states as keys, the *last* state of the machine order first. New
   states mostly go to the front of the machine order, which is then an append.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def is_active_tick(tick: int) -> bool:
    """Whether a state at this tick is active."""
    return tick & 1 == 1


class Clock:
    """The time of one machine. Nothing but the ticks, and the two views of them.

    Args:
        size: the number of states.
    """

    __slots__ = ("mask", "order", "ticks")

    def __init__(self, size: int) -> None:
        self.ticks: list[int] = [0] * size
        self.mask = 0
        self.order: dict[int, None] = {}

    def active(self) -> Iterator[int]:
        """The active states, in machine order."""
        return reversed(self.order)

    def arrange(self, order: Sequence[int]) -> None:
        """Takes over a whole new machine order of the states that are active."""
        self.order = dict.fromkeys(reversed(order))

    def deactivate(self, states: Iterable[int]) -> None:
        """Ends states that are active (+1), leaving the order of the others."""
        for state in states:
            self.ticks[state] += 1
            self.mask ^= 1 << state
            del self.order[state]

    def advance(self, state: int, ticks: int) -> None:
        """Moves one state by any number of ticks, as a replica does when it hears of them."""
        self.ticks[state] += ticks
        if is_active_tick(self.ticks[state]):
            self.mask |= 1 << state
            self.order[state] = None
        else:
            self.mask &= ~(1 << state)
            self.order.pop(state, None)

    def check(self) -> None:
        """Raises AssertionError if one of the two invariants does not hold."""
        mask = sum(1 << i for i, tick in enumerate(self.ticks) if is_active_tick(tick))
        assert mask == self.mask, f"invariant 1: ticks say {mask:b}, the mask {self.mask:b}"
        ordered = sum(1 << i for i in self.order)
        assert ordered == mask, f"invariant 2: ticks say {mask:b}, the order {ordered:b}"
