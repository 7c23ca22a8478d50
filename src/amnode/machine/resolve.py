"""Relations: from the active states and a mutation to the states that should be active.

Nobody defines transitions. A mutation *asks* for states, and the relations decide in six
steps (`Relations.resolve`), which are a pure function of the mutation and of the active states
in their order. This file is the only one that reads `require`, `add`, `remove` and `after`.

Two invariants hold before and after every transition, and the steps rely on them:

1. No active state removes another active one.
2. What an active state requires is active.

Because of them an outcome depends on few of the active states: `Relations.influence` says on
which, for a mutation. Take `add A`: only what A may bring (`add`), what that may end (`remove`,
and whatever requires what ends), what it needs (`require`) and what may keep it out (the
states that remove it) can matter. The order of the other active states never matters for
*which* states are targets: they cannot remove each other (1), and being active they add none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from amnode.machine.queue import MutationType
from amnode.machine.schema import Schema


class Resolution(msgspec.Struct, frozen=True):
    """What the relations say to one mutation.

    Attributes:
        accepted: whether it may go on to negotiation.
        targets: the states that should be active, in target order.
        front: those of them that go before the other active states, in order.
        back: those that go after the other active states.
    """

    accepted: bool
    targets: tuple[int, ...]
    front: tuple[int, ...]
    back: tuple[int, ...]


class Relations:
    """The relations of a schema by index and bit mask, and the steps that read them."""

    def __init__(self, schema: Schema) -> None:
        self.size = len(schema)
        self.everything = (1 << self.size) - 1
        rows = [schema[name] for name in schema.names]
        self._require = [_indexes(schema, row.require) for row in rows]
        self._add = [_indexes(schema, row.add) for row in rows]
        self._after = [_indexes(schema, row.after) for row in rows]
        self._require_mask = [bits(row) for row in self._require]
        #: What any state requires.
        self._required_mask = bits(i for row in self._require for i in row)
        self._remove_mask = [bits(_indexes(schema, row.remove)) for row in rows]
        self._removers_mask = [0] * self.size
        for i, removed in enumerate(self._remove_mask):
            for j in each(removed):
                self._removers_mask[j] |= 1 << i
        self.multi_mask = bits(i for i, row in enumerate(rows) if row.multi)
        self.auto_mask = bits(i for i, row in enumerate(rows) if row.auto)
        self._rank = self._topology()
        #: The two states of each `after`, as a mask.
        self._after_pairs = [1 << i | 1 << j for i, row in enumerate(self._after) for j in row]
        #: States that take part in an `after`, on either side.
        self.after_mask = bits(i for pair in self._after_pairs for i in each(pair))
        #: States that `require` puts in a fixed place, behind all others, in this order.
        placed = (i for i, rank in enumerate(self._rank) if rank)
        self.ranked = dict.fromkeys(sorted(placed, key=self._rank.__getitem__))
        self.ranked_mask = bits(self.ranked)
        #: What decides which automatic states are tried.
        self.auto_influence = self.auto_mask | bits(
            i for i, removed in enumerate(self._remove_mask) if removed & self.auto_mask
        )

    # -- the six steps -------------------------------------------------------------------

    def resolve(
        self,
        type_: MutationType,
        called: Sequence[int],
        active: Sequence[int],
        *,
        auto: bool = False,
        besides: int = 0,
    ) -> Resolution:
        """Steps 1 to 6, and the acceptance of step 7.

        It is enough to look at the active states that `influence` names. The others, given as
        `besides`, stay as they are, and so they meet what is required of them.

        Args:
            type_: ADD, REMOVE or SET.
            called: the states asked for, without duplicates.
            active: the active states, in machine order.
            auto: an automatic mutation, accepted if any called state is a target.
            besides: mask of the active states that are not in `active`.
        """
        active_mask, called_mask = bits(active), bits(called)
        expands = self.everything & ~active_mask
        if type_ is not MutationType.REMOVE:
            expands |= called_mask & self.multi_mask
        # Step 1: the list to start from.
        others = [i for i in active if not called_mask >> i & 1]
        if type_ is MutationType.ADD:
            listed = [*called, *others]
        else:
            listed = others if type_ is MutationType.REMOVE else list(called)
        start = bits(listed)
        # Steps 2 to 5.
        self._expand(listed, expands)
        appended = bits(listed) & ~start
        self._drop_unmet(listed, besides)
        self._drop_blocked(listed)
        appended &= bits(listed)
        self._expand_front(listed, expands)
        self._drop_unmet(listed, besides)
        # Step 6, and what the order of the machine has to know.
        reached = bits(listed)
        kept = bits(others) if type_ is MutationType.ADD else start & ~called_mask
        return Resolution(
            accepted=_accepted(type_, called, reached, auto=auto),
            targets=tuple(self.arrange(listed)),
            front=tuple(i for i in listed if not (kept | appended) >> i & 1),
            back=tuple(i for i in listed if appended >> i & 1),
        )

    def _expand(self, listed: list[int], expands: int) -> None:
        """Step 2: what comes with a state is appended, and walked too."""
        present = bits(listed)
        for state in listed:  # grows while it is walked
            if expands >> state & 1:
                for other in self._add[state]:
                    if not present >> other & 1:
                        present |= 1 << other
                        listed.append(other)

    def _drop_unmet(self, listed: list[int], besides: int) -> None:
        """Step 3: states whose `require` is not met go, until none goes."""
        while True:
            present = bits(listed) | besides
            met = [
                i for i in listed if self._require_mask[i] & present == self._require_mask[i]
            ]
            if len(met) == len(listed):
                return
            listed[:] = met

    def _drop_blocked(self, listed: list[int]) -> None:
        """Step 4, from the last to the first: what another state here removes is blocked."""
        present, blocked = bits(listed), 0
        for state in reversed(listed):
            if self._removers_mask[state] & present & ~blocked:
                blocked |= 1 << state
        if blocked:
            listed[:] = [i for i in listed if not blocked >> i & 1]

    def _expand_front(self, listed: list[int], expands: int) -> None:
        """Step 5, from the last to the first: what comes now goes to the front.

        A state that removes, or is removed by, one of the list is not added.
        """
        present = bits(listed)
        walk = listed[::-1]
        for state in walk:  # grows while it is walked
            if not expands >> state & 1:
                continue
            for other in self._add[state]:
                conflicts = self._remove_mask[other] | self._removers_mask[other]
                if present >> other & 1 or conflicts & present:
                    continue
                present |= 1 << other
                listed.insert(0, other)
                walk.append(other)

    def arrange(self, states: Sequence[int]) -> list[int]:
        """Step 6: stably by the topology of `require`, then by `after`."""
        waiting = sorted(states, key=self._rank.__getitem__)
        if not bits(waiting) & self.after_mask:
            return waiting
        arranged: list[int] = []
        while waiting:
            left = bits(waiting)
            free = (i for i in waiting if not bits(self._after[i]) & left)
            chosen = next(free, waiting[0])  # in a cycle, the first
            waiting.remove(chosen)
            arranged.append(chosen)
        return arranged

    # -- what else is asked of relations -----------------------------------------------

    def influence(self, type_: MutationType, called: Sequence[int]) -> int:
        """The states whose activity can change what `resolve` says, as a mask."""
        if type_ is MutationType.SET:
            return self.everything
        if type_ is MutationType.REMOVE:
            return self._with_requirers(bits(called))
        coming = self._with_added(called)
        ending = self._with_requirers(self._removed_by(coming))
        needed = bits(i for state in each(coming) for i in self._require[state])
        keepers = 0
        for state in each(coming):
            keepers |= self._removers_mask[state]
        return coming | ending | needed | keepers

    def autos(self, active_mask: int) -> tuple[int, ...]:
        """The automatic states to try: inactive, and removed by no active state."""
        removed = self._removed_by(active_mask)
        return tuple(each(self.auto_mask & ~active_mask & ~removed))

    def interferes(self, states_mask: int) -> bool:
        """Whether an `after` relates two of these states, and so may order them anew."""
        return any(pair & states_mask == pair for pair in self._after_pairs)

    def requirers(self, states_mask: int, active_mask: int) -> int:
        """The active states that cannot stay without `states_mask` (invariant 2)."""
        return self._with_requirers(states_mask) & active_mask & ~states_mask

    def check(self, active: Iterable[int]) -> None:
        """Raises AssertionError if the active states break one of the two invariants."""
        mask = bits(active)
        for state in each(mask):
            removed = self._remove_mask[state] & mask & ~(1 << state)
            assert not removed, f"invariant 1: {state} removes {list(each(removed))}"
            unmet = self._require_mask[state] & ~mask
            assert not unmet, f"invariant 2: {state} requires {list(each(unmet))}"

    def _with_added(self, called: Sequence[int]) -> int:
        found, walk = bits(called), list(called)
        for state in walk:  # grows while it is walked
            new = [i for i in self._add[state] if not found >> i & 1]
            found |= bits(new)
            walk.extend(new)
        return found

    def _removed_by(self, states_mask: int) -> int:
        removed = 0
        for state in each(states_mask):
            removed |= self._remove_mask[state]
        return removed

    def _with_requirers(self, states_mask: int) -> int:
        if not states_mask & self._required_mask:
            return states_mask
        while True:
            grown = states_mask | bits(
                i for i, needed in enumerate(self._require_mask) if needed & states_mask
            )
            if grown == states_mask:
                return grown
            states_mask = grown

    def _topology(self) -> list[int]:
        """The rank of each state: 0 without a part in `require`, then a depth-first walk."""
        rank = [0] * self.size
        seen = 0
        count = 0
        for root in range(self.size):
            # An explicit stack of (state, what it still has to visit): required come first.
            stack = [(root, iter(self._require[root]))] if self._require[root] else []
            while stack:
                state, needed = stack[-1]
                seen |= 1 << state
                below = next((i for i in needed if not seen >> i & 1), None)
                if below is not None:
                    stack.append((below, iter(self._require[below])))
                    continue
                stack.pop()
                if not rank[state]:
                    count += 1
                    rank[state] = count
        return rank


def bits(states: Iterable[int]) -> int:
    """A mask with the bit of each state set."""
    mask = 0
    for state in states:
        mask |= 1 << state
    return mask


def each(mask: int) -> Iterator[int]:
    """The states of a mask, in schema order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def relations_of(schema: Schema) -> Relations:
    """The relations of a schema, which all its machines share."""
    return schema.compile(Relations, lambda: Relations(schema))


def _accepted(type_: MutationType, called: Sequence[int], reached: int, *, auto: bool) -> bool:
    if type_ is MutationType.REMOVE:
        return True
    if auto:
        return bool(bits(called) & reached)
    return bits(called) & ~reached == 0


def _indexes(schema: Schema, names: Iterable[str]) -> tuple[int, ...]:
    return tuple(schema.index(name) for name in names)
