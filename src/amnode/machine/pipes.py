"""Pipes: a state here follows a state there.

    pipe(client.machine, node.machine, {"Connected": "SuperConnected"})

From then on SuperConnected is added when Connected is activated (or, if it is Multi, called
again), and removed when it is deactivated. Either machine may be local or a replica, also of
each other: a mutation of a replica is sent to its source, and what is known of a replica is
what its source did, maybe several transitions at once. A pipe is an observer of its source, so
it costs the target nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from amnode.machine.api import MachineApi


class Pipe:
    """States of one machine that follow states of another; made by `pipe`.

    Args:
        source: the machine that is followed.
        target: the machine that follows.
        states: name at the source to name at the target.
        invert: the target's states are active while the source's are not.
        with_args: the arguments of the mutation at the source go along; a replica has none.
    """

    def __init__(
        self,
        source: MachineApi,
        target: MachineApi,
        states: Mapping[str, str],
        *,
        invert: bool = False,
        with_args: bool = False,
    ) -> None:
        self.source = source
        self.target = target
        self._states = {source.index(there): (there, here) for there, here in states.items()}
        for here in states.values():
            target.schema.index(here)  # an unknown one is told here, not when something happens
        self._invert = invert
        self._with_args = with_args

    def open(self) -> None:
        """Brings the target up to date and keeps it so."""
        self.source.trace(self)
        self._follow(self._states, None)

    def close(self) -> None:
        """Stops following; the target's states stay as they are."""
        self.source.untrace(self)

    def transition_end(self, transition: Any) -> None:
        """Passes on what changed; called by the source, with its kind of transition."""
        mutation = getattr(transition, "mutation", None) if self._with_args else None
        args = None if mutation is None else mutation.args
        self._follow((i for i in transition.changed if i in self._states), args)

    def _follow(self, changed: Iterable[int], args: object) -> None:
        if getattr(self.target, "disposed", False):
            self.close()
            return
        for index in changed:
            there, here = self._states[index]
            if self.source.is1(there) is not self._invert:
                self.target.add1(here, args)
            else:
                self.target.remove1(here, args)


def pipe(
    source: MachineApi,
    target: MachineApi,
    states: Mapping[str, str],
    *,
    invert: bool = False,
    with_args: bool = False,
) -> Pipe:
    """Has states of `target` follow states of `source` until the pipe is closed.

    Args:
        source: the machine that is followed; here or a replica.
        target: the machine that follows; here or a replica.
        states: name at the source to name at the target.
        invert: the target's states are active while the source's are not.
        with_args: the arguments of the mutation at the source go along; a replica has none.

    Raises:
        StateUnknownError: a state that its machine does not have; nothing was opened.
    """
    made = Pipe(source, target, states, invert=invert, with_args=with_args)
    made.open()
    return made
