"""What a machine does, through `logging`, in four levels of detail.

    machine.trace(MachineLog(LogLevel.OPERATIONS))

    CHANGES      what changed
    OPERATIONS   also what was asked for without changing anything, was queued, or canceled
    DECISIONS    also who refused
    EVERYTHING   also each handler

Changes and the end of a machine are logged as INFO, all else as DEBUG, by `amnode.machine` or
the logger given. Each record has the attributes `machine` (its id), `states` (the names that it
is about), and `what` (the name of the event), for formatters that write data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amnode.machine.machine import Machine
    from amnode.machine.queue import Mutation
    from amnode.machine.transition import Event, Transition


class LogLevel(IntEnum):
    """How much a `MachineLog` tells."""

    CHANGES = 1
    OPERATIONS = 2
    DECISIONS = 3
    EVERYTHING = 4


class MachineLog:
    """A tracer that logs; the same one may observe several machines.

    Args:
        level: how much; CHANGES by default.
        logger: where to; "amnode.machine" by default.
    """

    def __init__(
        self, level: LogLevel = LogLevel.CHANGES, logger: logging.Logger | None = None
    ) -> None:
        self.level = level
        self._logger = logger or logging.getLogger("amnode.machine")

    def mutation_queued(self, machine: Machine, mutation: Mutation) -> None:
        """A mutation waits."""
        if self.level >= LogLevel.OPERATIONS:
            names = [machine.state_names[i] for i in mutation.called]
            text = f"{mutation.type.name.lower()} {' '.join(names)} queued"
            self._log(machine, "queued", names, text)

    def handler_start(self, event: Event) -> None:
        """A handler runs."""
        if self.level >= LogLevel.EVERYTHING:
            self._log(event.machine, "handler", (), f"{event.name} runs")

    def handler_end(self, event: Event, answer: object) -> None:
        """A handler has run."""
        if self.level >= LogLevel.DECISIONS and answer is False:
            self._log(event.machine, "refused", (), f"{event.name} refused")
        elif self.level >= LogLevel.DECISIONS and isinstance(answer, BaseException):
            self._log(event.machine, "raised", (), f"{event.name} raised {answer!r}")

    def transition_end(self, transition: Transition) -> None:
        """A transition has ended."""
        machine = transition.machine
        if transition.changed:
            names = [machine.state_names[i] for i in transition.changed]
            signs = (f"{'+' if machine.is1(n) else '-'}{n} {machine.tick(n)}" for n in names)
            self._log(machine, "changed", names, " ".join(signs), logging.INFO)
        elif self.level >= LogLevel.OPERATIONS:
            called = [machine.state_names[i] for i in transition.called]
            outcome = "changed nothing" if transition.accepted else "canceled"
            text = f"{transition.type.name.lower()} {' '.join(called)} {outcome}"
            self._log(machine, "canceled" if not transition.accepted else "same", called, text)

    def disposed(self, machine: Machine) -> None:
        """A machine is no more."""
        self._log(machine, "disposed", (), "disposed", logging.INFO)

    def _log(
        self,
        machine: Machine,
        what: str,
        states: Iterable[str],
        text: str,
        level: int = logging.DEBUG,
    ) -> None:
        extra = {"machine": machine.id, "what": what, "states": tuple(states)}
        self._logger.log(level, "[%s] %s", machine.id, text, extra=extra)
