"""What `AM_NODE_LOG_SUPERVISOR` and its like turn on: a line for each transition."""

from __future__ import annotations

import logging

from amnode.machine.transition import Transition


class TransitionLog:
    """A tracer that logs every transition of its machine."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def transition_end(self, transition: Transition) -> None:
        """Logs what was asked, and what came of it."""
        machine = transition.machine
        names = machine.state_names
        called = " ".join(names[i] for i in transition.called)
        outcome = "" if transition.accepted else " CANCELED"
        self._logger.info(
            "[%s] %s %s%s -> %s", machine.id, transition.type.name, called, outcome, machine
        )
