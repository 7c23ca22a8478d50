"""Worker classes for the command line: with states that operators may change, and a story."""

from __future__ import annotations

import msgspec

from amnode import State, Worker, WorkerOptions, WorkerStates, job
from amnode.rpc.exposure import Exposure


class SignalArgs(msgspec.Struct):
    """What comes with `Lit`."""

    colour: str
    seconds: float = 1.0


class SignalStates(WorkerStates):
    """A signal."""

    Powered = State()
    "It has power."
    Lit = State(require=("Powered",))
    "It shows a colour."
    Broken = State(remove=("Lit",))
    "Nobody outside may change this."


class Signal(Worker):
    """A signal, whose power and colour are open to clients, and so to operators."""

    schema = SignalStates

    def __init__(self) -> None:
        super().__init__(opts=WorkerOptions(orphan_ttl=0.3, story=50))

    def exposure(self) -> Exposure:
        """Power and colour, too."""
        public = super().exposure()
        S = SignalStates
        return msgspec.structs.replace(
            public,
            mutable={**public.mutable, S.Powered: None, S.Lit: SignalArgs},
            removable={**public.removable, S.Powered: None, S.Lit: None},
        )

    @job
    async def burn_out(self) -> None:
        """It breaks, of itself."""
        self.machine.add1(SignalStates.Broken)

    @job
    async def fail(self) -> None:
        """An error of the worker, not of the job alone."""
        self.machine.add_err(RuntimeError("the lamp is loose"))

    async def on_release(self) -> None:
        """Serves the next one as it is."""
