"""Snapshot: all that a machine remembers of its time, to go on elsewhere or later.

    saved = machine.export()
    data = msgspec.json.encode(saved)
    ...
    again = Machine(Door, id="door")
    again.restore(msgspec.json.decode(data, type=Snapshot))

What goes on is the time: ticks, machine order, queue tick. Handlers, tasks, waits, arguments
and errors do not; they belong to the process. Each restore bumps the machine tick, so that
those who knew the machine before can tell that it is another life of it.

Invariants of a snapshot that fits a schema:

1. Its names are the first names of the schema, in order: a schema may have grown since.
2. There is a tick for each name, none negative, and the active states are the odd ones.
3. The queue tick is at least 1, the machine tick at least 0.
"""

from __future__ import annotations

import msgspec

from amnode.errors import MachineError
from amnode.machine.clock import is_active_tick
from amnode.machine.schema import Schema


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The time of a machine.

    Attributes:
        id: of the machine.
        names: of its states, in the order of machine time.
        time: their ticks.
        active: the active states, in machine order.
        queue_tick: of its queue.
        machine_tick: how often it was restored.
    """

    id: str
    names: tuple[str, ...]
    time: tuple[int, ...]
    active: tuple[str, ...]
    queue_tick: int
    machine_tick: int = 0

    def check(self, schema: Schema) -> None:
        """Raises if a machine of this schema cannot go on from here.

        Raises:
            MachineError: one of the invariants of this file does not hold; it says which.
        """
        fits = schema.names[: len(self.names)]
        if self.names != fits:
            wrong = next(
                (
                    k
                    for k, pair in enumerate(zip(self.names, fits, strict=False))
                    if pair[0] != pair[1]
                ),
                len(fits),
            )
            raise self._unfit(f"its state {self.names[wrong]} is not the schema's no. {wrong}")
        if len(self.time) != len(self.names) or min(self.time, default=0) < 0:
            raise self._unfit(f"it has {len(self.names)} states, and the time {self.time}")
        odd = [n for n, t in zip(self.names, self.time, strict=True) if is_active_tick(t)]
        if sorted(odd) != sorted(self.active):
            raise self._unfit(f"its ticks say that {odd} are active, not {[*self.active]}")
        if self.queue_tick < 1 or self.machine_tick < 0:
            raise self._unfit(f"its ticks are {self.queue_tick} and {self.machine_tick}")

    def _unfit(self, why: str) -> MachineError:
        return MachineError(f"The snapshot of machine {self.id} does not fit: {why}.")
