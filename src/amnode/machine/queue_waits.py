"""Waits on the queue of a machine: for one mutation to have run, or for all of them.

They observe their machine only while somebody waits, so that nobody else pays for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from amnode.errors import MachineDisposedError
from amnode.machine.queue import CANCELED, EXECUTED, Queued, Result
from amnode.machine.waits import Pending, StateContext

if TYPE_CHECKING:
    from amnode.machine.machine import Machine
    from amnode.machine.transition import Transition

#: Instead of a tick: a wait for the queue to be empty.
_EMPTY = -1


class QueueWait(Pending["Result | None"]):
    """Done when a mutation has run, with its outcome, or (None) when the queue has ended."""

    def __init__(self, waits: QueueWaits, tick: int, result: Queued | None = None) -> None:
        super().__init__(waits)
        self.place = (tick, 0)
        self.result_of = result
        self.tick = tick
        self._machine = waits.machine

    def describe(self) -> str:
        """The tick that is waited for, and the one that the queue is at."""
        machine = self._machine
        if self.tick == _EMPTY:
            return f"{machine.id}: the end of the queue"
        return f"{machine.id}: queue tick {self.tick} (is at {machine.queue_tick})"


class QueueWaits:
    """All waits on the queue of one machine; a tracer while there are any.

    Attributes:
        machine: whose queue it is.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._shelves: dict[int, dict[QueueWait, None]] = {}
        self._served = machine.queue_tick

    def until(self, result: Result | int, context: StateContext | None) -> QueueWait:
        """A wait for a mutation; see `Machine.when_queue`."""
        if isinstance(result, Queued):
            wait = QueueWait(self, result.tick, result)
            return self._begin(wait, context, over=result.outcome is not None)
        if isinstance(result, Result):
            done = QueueWait(self, self.machine.queue_tick)
            done.place = None
            done.set_result(result)
            return done
        wait = QueueWait(self, result)
        return self._begin(wait, context, over=result <= self.machine.queue_tick)

    def until_end(self, context: StateContext | None, *, over: bool) -> QueueWait:
        """A wait for the end of the queue."""
        return self._begin(QueueWait(self, _EMPTY), context, over=over)

    def _begin(self, wait: QueueWait, context: StateContext | None, *, over: bool) -> QueueWait:
        if over:
            wait.place = None
            wait.set_result(wait.result_of.outcome if wait.result_of else None)
        elif context is not None and not context.valid:
            wait.place = None
            wait.fail(context.expired_error())
        elif self.machine.disposed:
            wait.place = None
            wait.fail(self._gone())
        else:
            if not self._shelves:
                self._served = self.machine.queue_tick
                self.machine.trace(self)
            self._shelves.setdefault(wait.tick, {})[wait] = None
            if context is not None:
                context.hold(wait)
        return wait

    def discard(self, wait: Pending[Any]) -> None:
        """Takes a wait out; with the last one the observing ends."""
        assert wait.place is not None
        shelf = self._shelves[wait.place[0]]
        shelf.pop(cast("QueueWait", wait))
        if not shelf:
            del self._shelves[wait.place[0]]
        wait.place = None
        if not self._shelves:
            self.machine.untrace(self)

    def __len__(self) -> int:
        return sum(len(shelf) for shelf in self._shelves.values())

    def _resolve(self, tick: int, outcome: Result | None) -> None:
        for wait in [*self._shelves.get(tick, ())]:
            wait.drop()
            wait.set_result(outcome)

    # -- as a tracer -----------------------------------------------------------------------

    def transition_end(self, transition: Transition) -> None:
        """A mutation has run."""
        if transition.mutation.prepended:
            return
        now = self.machine.queue_tick
        for tick in range(self._served + 1, now):  # the machine was restored meanwhile
            self._resolve(tick, None)
        self._served = now
        self._resolve(now, EXECUTED if transition.accepted else CANCELED)

    def queue_end(self, machine: Machine) -> None:
        """Nothing waits any more."""
        self._resolve(_EMPTY, None)

    def disposed(self, machine: Machine) -> None:
        """What was queued is canceled; nothing else will come."""
        for shelf in [*self._shelves.values()]:
            for wait in [*shelf]:
                result = wait.result_of
                if result is not None and result.outcome is not None:
                    wait.drop()
                    wait.set_result(result.outcome)
                else:
                    wait.fail(self._gone())

    def _gone(self) -> MachineDisposedError:
        return MachineDisposedError(f"Machine {self.machine.id} was disposed.")
