"""Looking: how an operator looks into a supervisor, and finds the way to one of its workers.

Both are states of the local server. A peer supervisor, which comes in there too, may use
neither.
"""

from __future__ import annotations

from collections.abc import Callable

from amnode.errors import AmnodeError, RefusedError, WorkerMissingError
from amnode.machine.machine import Machine
from amnode.machine.transition import Event
from amnode.node import operating
from amnode.node.args import ReachWorkerArgs
from amnode.node.states import SupervisorStates
from amnode.node.telling import Teller
from amnode.node.worker_link import WorkerLink
from amnode.rpc.origin import Deferred, Origin

S = SupervisorStates


class Looking:
    """The states by which operators look into one supervisor.

    Args:
        machine: the supervisor's.
        link_of: the link of a worker by its id, or None.
        story: transitions that are kept for them; None for none.
    """

    def __init__(
        self,
        machine: Machine,
        link_of: Callable[[str], WorkerLink | None],
        story: int | None,
    ) -> None:
        self._machine = machine
        self._link_of = link_of
        self._teller = Teller(machine, lambda: operating.EXPOSURE, story)
        machine.bind(self)

    def InspectEnter(self, event: Event) -> bool:
        """Comes from an operator, who reads the answer."""
        from_outside = isinstance(event.mutation.origin, Origin)
        return from_outside and operating.may_operate(event)

    def InspectState(self, event: Event) -> None:
        """Tells what there is to tell."""
        self._machine.remove1(S.Inspect)
        _asked(event).stream(self._teller.tell(follow=event.args.follow))

    def ReachWorkerEnter(self, event: Event) -> bool:
        """Comes from an operator, and names a worker."""
        if not isinstance(event.mutation.origin, Origin):
            return False
        args: ReachWorkerArgs = event.args
        if self._link_of(args.worker_id) is None:
            missing = f"There is no worker {args.worker_id!r} here (any more)."
            return operating.refuse(
                event, WorkerMissingError(missing, worker_id=args.worker_id)
            )
        return operating.may_operate(event)

    def ReachWorkerState(self, event: Event) -> None:
        """Has the worker let the operator in, and says where."""
        self._machine.remove1(S.ReachWorker)
        link = self._link_of(event.args.worker_id)
        assert link is not None  # the guard has just found it
        reach = self._reach(link, event.args.operator_id, _asked(event))
        self._machine.spawn(S.Start, reach)

    async def _reach(self, link: WorkerLink, operator_id: str, answer: Deferred) -> None:
        try:
            answer.answer(await link.let_in(operator_id))
        except AmnodeError as error:
            answer.fail(RefusedError(f"Worker {link.worker_id} lets no operator in: {error}"))


def _asked(event: Event) -> Deferred:
    origin = event.mutation.origin
    assert isinstance(origin, Origin)  # the guards have made sure of that
    return origin.defer()
