"""Pipes: a state here follows a state there.

    pipe(client.machine, "Connected", node.machine, "SuperConnected")

From then on SuperConnected is added when Connected is activated, and removed when it is
deactivated. A pipe is an observer of its source, so it costs the target nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from amnode.machine.api import MachineApi
from amnode.machine.transition import Transition


class Pipe:
    """States of one machine that follow states of another; made by `pipe`.

    Args:
        source: the machine that is followed.
        target: the machine that follows.
        states: name at the source to name at the target.
    """

    def __init__(
        self, source: MachineApi, target: MachineApi, states: Mapping[str, str]
    ) -> None:
        self.source = source
        self.target = target
        self._states = {source.index(there): (there, here) for there, here in states.items()}

    def open(self) -> None:
        """Brings the target up to date and keeps it so."""
        self.source.trace(self)
        self._follow(self._states)

    def close(self) -> None:
        """Stops following; the target's states stay as they are."""
        self.source.untrace(self)

    def transition_end(self, transition: Transition) -> None:
        """Passes on what changed; called by the source."""
        self._follow(i for i in transition.changed if i in self._states)

    def _follow(self, changed: Iterable[int]) -> None:
        for index in changed:
            there, here = self._states[index]
            if self.source.is1(there):
                self.target.add1(here)
            else:
                self.target.remove1(here)


def pipe(source: MachineApi, target: MachineApi, states: Mapping[str, str]) -> Pipe:
    """Has states of `target` follow states of `source` until the pipe is closed.

    Args:
        source: the machine that is followed; here or a replica.
        target: the machine that follows.
        states: name at the source to name at the target.

    Raises:
        StateUnknownError: a state that its machine does not have.
    """
    made = Pipe(source, target, states)
    made.open()
    return made
