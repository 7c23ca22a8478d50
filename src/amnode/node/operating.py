"""What operators ask of a running supervisor: another size, a drain, a rolling restart.

Each is a state, so that it can be asked for in the program or through the local server, and be
waited for in both ways. Clients cannot: the public server does not open these states.

1. `SetPool` is over when the size holds; `RollingRestart` when every worker that there was is
   replaced; `Draining` lasts until it is removed, and `Drained` says that no lease is left.
2. What the pool makes of it is decided by its core; here it is only told.
3. On the local server, peer supervisors are guests: they prove themselves by the clients'
   token, and may not operate. Operators have a secret of their own, which is in the file `DOOR`
   of the supervisor's directory, for its user alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from amnode.errors import AmnodeError, OptionError, PoolError, RefusedError
from amnode.machine.machine import Machine
from amnode.machine.transition import Event
from amnode.node.args import InspectArgs, ReachWorkerArgs, SetPoolArgs
from amnode.node.names import is_peer
from amnode.node.operator_args import ListCrashesArgs, ListWorkersArgs, ReadOutputArgs
from amnode.node.policy import events, sizing
from amnode.node.policy.options import PoolSize
from amnode.node.policy.view import PoolView
from amnode.node.states import SupervisorStates
from amnode.rpc.exposure import Exposure
from amnode.rpc.origin import Origin

S = SupervisorStates

#: What operators may change, through the local server.
EXPOSURE = Exposure(
    mutable={
        S.SetPool: SetPoolArgs,
        S.RollingRestart: None,
        S.Draining: None,
        S.ListWorkers: ListWorkersArgs,
        S.Inspect: InspectArgs,
        S.ReachWorker: ReachWorkerArgs,
        S.ListCrashes: ListCrashesArgs,
        S.ReadOutput: ReadOutputArgs,
    },
    removable={S.Start: None, S.Draining: None},
    implied=SupervisorStates.schema().names,  # removing Start ends whatever needs it
)


class Operating:
    """The operators' states of one supervisor.

    Args:
        machine: the supervisor's.
        feed: tells the core of an event.
        view: what the pool looks like.
    """

    def __init__(
        self,
        machine: Machine,
        feed: Callable[[events.Event], None],
        view: Callable[[], PoolView],
    ) -> None:
        self._machine = machine
        self._feed = feed
        self._view = view
        machine.bind(self)

    # -- the program asks ------------------------------------------------------------------

    def set_pool(self, size: PoolSize) -> None:
        """Another size holds from now on.

        Raises:
            PoolError: the supervisor is not running.
        """
        args = SetPoolArgs(
            min=size.min, max=size.max, warm=size.warm, max_per_client=size.max_per_client
        )
        if not self._machine.add1(S.SetPool, args):
            raise PoolError("The size was not changed: the supervisor is not running.")

    async def restart_workers(self) -> None:
        """Replaces every worker; returns when each of them is gone.

        Raises:
            PoolError: it cannot be done, or the supervisor stops meanwhile.
        """
        if not self._machine.add1(S.RollingRestart):
            raise self._refusal() or PoolError("The supervisor is not running.")
        await self._unless_stopped(self._machine.when_not1(S.RollingRestart))

    async def drain(self) -> None:
        """Grants no more leases; returns when no lease is left.

        Raises:
            PoolError: the supervisor is not running, stops meanwhile, or is told to go on.
        """
        if not self._machine.add1(S.Draining):
            raise PoolError("The supervisor is not running.")
        drained = self._machine.when1(S.Drained)
        resumed = self._machine.when_not1(S.Draining)
        try:
            await asyncio.wait((drained, resumed), return_when=asyncio.FIRST_COMPLETED)
            if not drained.done():
                raise PoolError("The drain ended before the last lease did.")
            drained.result()
        finally:
            drained.cancel()
            resumed.cancel()

    def resume(self) -> None:
        """Grants leases again."""
        self._machine.remove1(S.Draining)

    async def _unless_stopped(self, wanted: asyncio.Future[None]) -> None:
        await wanted
        if not self._machine.is1(S.Start):
            raise PoolError("The supervisor stopped before every worker was replaced.")

    # -- the states ------------------------------------------------------------------------

    def SetPoolEnter(self, event: Event) -> bool:
        """Has numbers that can work."""
        try:
            good = isinstance(event.args, SetPoolArgs) and bool(_size_of(event.args))
            return good and may_operate(event)
        except OptionError as error:
            return refuse(event, error)

    def SetPoolState(self, event: Event) -> None:
        """The pool grows or shrinks at once."""
        self._machine.remove1(S.SetPool)
        self._feed(events.Resized(_size_of(event.args)))

    def RollingRestartEnter(self, event: Event) -> bool:
        """Needs room for a replacement."""
        refusal = self._refusal()
        if refusal is not None:
            return refuse(event, refusal)
        return may_operate(event)

    def RollingRestartState(self, event: Event) -> None:
        """The workers that there are now are to be replaced; ended when they are."""
        self._feed(events.RestartRequested())

    def _refusal(self) -> PoolError | None:
        size = self._view().size
        if sizing.can_renew(size):
            return None
        return PoolError(
            f"The workers cannot be restarted without a moment below min: min and max are both "
            f"{size.max}. Raise max, or lower min, with `set_pool`."
        )

    def DrainingEnter(self, event: Event) -> bool:
        """Rule 3."""
        return may_operate(event)

    def DrainingExit(self, event: Event) -> bool:
        """Rule 3."""
        return may_operate(event)

    def StartExit(self, event: Event) -> bool:
        """Rule 3."""
        return may_operate(event)

    def DrainingState(self, event: Event) -> None:
        """No new leases from now on."""
        self._feed(events.DrainRequested())

    def DrainingEnd(self, event: Event) -> None:
        """New leases again, unless it ends because the supervisor stops."""
        if self._machine.is1(S.Start):
            self._feed(events.DrainRequested(on=False))


def _size_of(args: SetPoolArgs) -> PoolSize:
    return PoolSize(args.min, args.max, args.warm, args.max_per_client)


def may_operate(event: Event) -> bool:
    """Rule 3: whether this may be asked for by who asks; if not, that is told why."""
    origin = event.mutation.origin
    if not isinstance(origin, Origin) or not is_peer(origin.client_id):
        return True
    return refuse(event, RefusedError("A peer supervisor may not operate this one."))


def refuse(event: Event, error: AmnodeError) -> bool:
    """Tells whoever asked from outside why not; always False."""
    if isinstance(event.mutation.origin, Origin):
        event.mutation.origin.refuse(error)
    return False
