"""Ticks, and what they say: odd is active. The only place that knows it.

Each state has a tick that starts at 0 and never falls: +1 when the state is activated, +1 when
it is deactivated, +2 when an active Multi state is called again. The ticks in schema order are
the *machine time*; one tick is the identity of one activation.

Two more views of the same facts are kept beside the ticks, because they are what the rest of
the kernel asks for:

1. `mask` has bit *i* set exactly when state *i* is active.
2. `order` has exactly the active states as keys, the one that was moved to the front of the
   machine order *last*, so that moving one there is an append. The *machine order* is that,
   newest first, but for the states of `ranked`: they have a fixed place, at its end. Only while
   an `after` relation interferes is the whole order kept, in `arranged`.

`busy` says who has to be told when the clock moves, so that whoever moves it may do so without
looking around: it is 0, or has bits for what concerns him (`touches`). Who wants to be told of
one state calls `watch`, of all of them sets `WATCHED`; `FOLLOWED` is for those who only want to
know which states moved. Only the owner of the clock, who knows all who may want it, takes that
back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

#: Why a clock is busy: a transition runs; somebody has to be told whatever moves; somebody has
#: to be told which states moved, and no more. The bits above these three are the states of
#: which somebody has to be told.
RUNNING, WATCHED, FOLLOWED = 1, 2, 4


def is_active_tick(tick: int) -> bool:
    """Whether a state at this tick is active."""
    return tick & 1 == 1


def touches(states_mask: int) -> int:
    """The bits of `Clock.busy` that concern somebody who moves these states."""
    return states_mask << 3 | FOLLOWED | WATCHED | RUNNING


class Clock:
    """The time of one machine. Nothing but the ticks, and the two views of them.

    Args:
        size: the number of states.
        ranked: those with a fixed place in the machine order, in that order.
    """

    __slots__ = ("arranged", "busy", "mask", "order", "ranked", "ticks")

    def __init__(self, size: int, ranked: Collection[int] = ()) -> None:
        self.ticks: list[int] = [0] * size
        self.mask = 0
        self.busy = 0
        self.order: dict[int, None] = {}
        self.ranked = ranked
        self.arranged: tuple[int, ...] | None = None

    def active(self) -> Iterator[int]:
        """The active states, in machine order."""
        if self.arranged is not None:
            return iter(self.arranged)
        if not self.ranked:
            return reversed(self.order)
        return self._ordered()

    def _ordered(self) -> Iterator[int]:
        ranked, order = self.ranked, self.order
        yield from (i for i in reversed(order) if i not in ranked)
        yield from (i for i in ranked if i in order)

    def watch(self, state: int) -> None:
        """Notes that somebody has to be told when this state moves."""
        self.busy |= 8 << state

    def unwatch(self, state: int) -> None:
        """Notes that nobody has to be told any more."""
        self.busy &= ~(8 << state)

    def put_last(self, states: Sequence[int]) -> None:
        """Puts states behind all others that have no fixed place."""
        last = dict.fromkeys(reversed(states))
        self.order = last | {i: None for i in self.order if i not in last}

    def arrange(self, order: Sequence[int]) -> None:
        """Takes over a whole machine order, which `ranked` alone does not give.

        It holds until the next change, which has to be made by somebody who knows.
        """
        self.arranged = tuple(order)
        self.busy |= WATCHED
        self.order = dict.fromkeys(reversed(order))

    def deactivate(self, states: Sequence[int]) -> None:
        """Ends states that are active (+1), leaving the order of the others."""
        for state in states:
            self.ticks[state] += 1
            self.mask ^= 1 << state
            del self.order[state]
        if self.arranged is not None:
            self.arranged = tuple(i for i in self.arranged if i not in states)

    def advance(self, state: int, ticks: int) -> None:
        """Moves one state by any number of ticks, as a replica does when it hears of them."""
        self.ticks[state] += ticks
        if is_active_tick(self.ticks[state]):
            self.mask |= 1 << state
            self.order[state] = None
        else:
            self.mask &= ~(1 << state)
            self.order.pop(state, None)

    def advance_all(self, pairs: Sequence[int]) -> tuple[int, ...]:
        """Moves states by flat pairs of an index and its ticks; returns the indexes."""
        ticks, order, mask = self.ticks, self.order, self.mask
        flat = iter(pairs)
        for state in flat:
            ticks[state] = tick = ticks[state] + next(flat)
            if tick & 1:
                mask |= 1 << state
                order[state] = None
            elif mask >> state & 1:
                mask ^= 1 << state
                del order[state]
        self.mask = mask
        return tuple(pairs[::2])

    def check(self) -> None:
        """Raises AssertionError if one of the two invariants does not hold."""
        mask = sum(1 << i for i, tick in enumerate(self.ticks) if is_active_tick(tick))
        assert mask == self.mask, f"invariant 1: ticks say {mask:b}, the mask {self.mask:b}"
        expected = [i for i, tick in enumerate(self.ticks) if is_active_tick(tick)]
        for kept in ([*self.order], [*self.active()]):
            assert sorted(kept) == expected, f"invariant 2: {expected} are active, not {kept}"
