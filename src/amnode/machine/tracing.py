"""Observers of a machine: free when absent, dropped and reported when they raise.

A tracer has any of these methods; what it lacks is not called:

    machine_init(machine)           a machine was made that has the tracer from the start
    mutation_queued(machine, mutation)  a mutation waits its turn
    transition_start(transition)    before a transition runs; its plan is known
    handler_start(event)            before each handler
    handler_end(event, answer)      after it: what it returned, or the exception it raised
    transition_finals(transition)   states have changed; the final handlers run next
    transition_end(transition)      afterwards: `accepted`, `changed` and `error` are final
    queue_end(machine)              nothing waits any more, and no transition runs
    schema_changed(machine)         the machine has grown
    disposed(machine)               the machine is no more

A machine with a tracer makes a `Transition` for each mutation, which costs time even where no
handler is bound. Tracers that are inherited observe the child machines too. A `Follower` only
learns which states moved, and no `Transition` is made for it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from amnode.machine.clock import WATCHED, Clock

if TYPE_CHECKING:
    from amnode.machine.api import MachineApi
    from amnode.machine.machine import Machine

logger = logging.getLogger("amnode.machine")


class Follower(Protocol):
    """What `Machine.follow` takes: somebody who keeps a copy of a machine's time."""

    def moved(self, changed: Sequence[int], ticks: Sequence[int]) -> None:
        """A transition has ended, and changed something.

        Args:
            changed: the states that moved, by index; it may be told of them again.
            ticks: of all states, as they are now. It is the machine's own list: read it now.
        """
        ...

    def schema_changed(self, machine: Machine) -> None:
        """The machine has grown."""
        ...


class Tracers:
    """The observers of one machine, in the order in which they came."""

    __slots__ = ("_clock", "_machine", "all", "inherited")

    def __init__(self, machine: MachineApi, clock: Clock) -> None:
        self._machine = machine
        self._clock = clock
        #: A tuple, so that observers may come and go while they are told something.
        self.all: tuple[Any, ...] = ()
        #: Those of them that child machines get.
        self.inherited: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.all)

    @property
    def handlers(self) -> bool:
        """Whether somebody wants to be told of each handler."""
        return any(hasattr(t, "handler_start") or hasattr(t, "handler_end") for t in self.all)

    def add(self, tracer: object, *, inherit: bool = False) -> None:
        """Adds an observer; adding it twice changes nothing."""
        if not any(known is tracer for known in self.all):
            self.all = (*self.all, tracer)
            if inherit:
                self.inherited = (*self.inherited, tracer)
            self._clock.busy |= WATCHED

    def remove(self, tracer: object) -> None:
        """Removes an observer, if it is there."""
        self.all = tuple(known for known in self.all if known is not tracer)
        self.inherited = tuple(known for known in self.inherited if known is not tracer)

    def tell(self, hook: str, *subjects: object) -> None:
        """Calls one hook of every observer; one that raises is dropped and reported."""
        for tracer in self.all:
            method = getattr(tracer, hook, None)
            if method is None:
                continue
            try:
                method(*subjects)
            except Exception:
                self.remove(tracer)
                logger.exception(
                    "Tracer %r of machine %s raised in %s and was dropped.",
                    tracer,
                    self._machine.id,
                    hook,
                )
