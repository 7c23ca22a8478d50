"""What `AM_NODE_LOG_SUPERVISOR` and its like turn on: a line for each transition."""

from __future__ import annotations

import logging

from amnode.machine.transition import Transition
from amnode.node.node_args import log_args


class TransitionLog:
    """A tracer that logs every transition of its machine."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def transition_end(self, transition: Transition) -> None:
        """Logs what was asked, and what came of it."""
        machine = transition.machine
        names = machine.state_names
        said = [f"{name}={value}" for name, value in log_args(transition.mutation.args).items()]
        called = " ".join([*(names[i] for i in transition.called), *said])
        outcome = "" if transition.accepted else " CANCELED"
        self._logger.info(
            "[%s] %s %s%s -> %s", machine.id, transition.type.name, called, outcome, machine
        )
