"""Breakpoints: call back when a transition has activated or deactivated certain states.

    machine.add_breakpoint(lambda transition: breakpoint(), added=("ErrNetwork",))

A breakpoint is a tracer, so a machine without one pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from amnode.errors import OptionError
from amnode.machine.resolve import bits

if TYPE_CHECKING:
    from amnode.machine.transition import Transition


class Breakpoint:
    """Made by `Machine.add_breakpoint`.

    Args:
        callback: takes the transition.
        added: mask of the states that must have been activated.
        removed: mask of those that must have been deactivated.
    """

    def __init__(
        self, callback: Callable[[Transition], object], added: int, removed: int
    ) -> None:
        if not added | removed:
            raise OptionError("A breakpoint needs a state, added or removed.")
        self._callback = callback
        self._added = added
        self._removed = removed

    def transition_finals(self, transition: Transition) -> None:
        """Compares what has changed; called by the machine."""
        machine = transition.machine
        names = machine.state_names
        ended = bits(i for i in transition.changed if machine.not1(names[i]))
        begun = bits(transition.changed) & ~ended
        if begun & self._added == self._added and ended & self._removed == self._removed:
            self._callback(transition)
