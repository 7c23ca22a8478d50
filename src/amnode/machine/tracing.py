"""Observers of a machine: free when absent, dropped and reported when they raise.

A tracer has any of these methods; what it lacks is not called:

    transition_start(transition)    before a transition runs; its plan is known
    transition_end(transition)      afterwards: `accepted`, `changed` and `error` are final
    disposed(machine)               the machine is no more
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amnode.machine.api import MachineApi

logger = logging.getLogger("amnode.machine")


class Tracers:
    """The observers of one machine, in the order in which they came."""

    __slots__ = ("_machine", "all")

    def __init__(self, machine: MachineApi) -> None:
        self._machine = machine
        #: A tuple, so that observers may come and go while they are told something.
        self.all: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.all)

    def add(self, tracer: object) -> None:
        """Adds an observer; adding it twice changes nothing."""
        if not any(known is tracer for known in self.all):
            self.all = (*self.all, tracer)

    def remove(self, tracer: object) -> None:
        """Removes an observer, if it is there."""
        self.all = tuple(known for known in self.all if known is not tracer)

    def tell(self, hook: str, subject: object) -> None:
        """Calls one hook of every observer; one that raises is dropped and reported."""
        for tracer in self.all:
            method = getattr(tracer, hook, None)
            if method is None:
                continue
            try:
                method(subject)
            except Exception:
                self.remove(tracer)
                logger.exception(
                    "Tracer %r of machine %s raised in %s and was dropped.",
                    tracer,
                    self._machine.id,
                    hook,
                )
