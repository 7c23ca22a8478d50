"""Operators: the server of one worker for those who look after the pool.

    operator -> supervisor's local server: ReachWorker
    supervisor -> worker: ServeOperator(who, secret)  ->  this opens, and says where
    operator <- supervisor: address, secret           ->  operator and worker talk directly

Rules:

1. There is no such server before the first operator is announced, so a worker that nobody looks
   into has none; afterwards it stays.
2. A secret is good for one connection of the operator that it was made for, begun within the
   delivery timeout.
3. An operator may do what the worker's class opens to clients, but for asking for work, which
   is for whoever has the lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from amnode.errors import AmnodeError
from amnode.machine.machine import Machine
from amnode.machine.transition import Event
from amnode.node.args import InspectArgs, ServeOperatorArgs
from amnode.node.outside import Outside
from amnode.node.states import WorkerStates
from amnode.rpc.exposure import Exposure
from amnode.rpc.mux import Mux
from amnode.rpc.options import ONE_CONNECTION
from amnode.rpc.origin import Deferred, Origin

if TYPE_CHECKING:
    from amnode.node.telling import Teller

S = WorkerStates


def exposure_of(public: Exposure) -> Exposure:
    """What an operator may do where clients may do that (rule 3)."""
    mutable = {name: s for name, s in public.mutable.items() if name != S.WorkRequested}
    mutable[S.Inspect] = InspectArgs
    return msgspec.structs.replace(public, mutable=mutable)


class Operators:
    """Lets operators look into one worker, and change what is open to them.

    Args:
        machine: the worker's.
        address: where to listen for them.
        name: of the worker.
        exposure: what the class opens to clients; asked when the first operator is announced.
        story: transitions that are kept for them from now on; None for none.
        outside: what it touches.
    """

    def __init__(
        self,
        machine: Machine,
        address: str,
        *,
        name: str,
        exposure: Callable[[], Exposure],
        story: int | None,
        outside: Outside,
    ) -> None:
        self._machine = machine
        self._address = address
        self._name = name
        self._exposure = exposure
        self._outside = outside
        self._mux: Mux | None = None
        self._secrets: dict[str, bytes] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._story = story
        self._made_teller: Teller | None = None
        if story:
            self._teller()
        machine.bind(self)

    # -- the states ------------------------------------------------------------------------

    def ServeOperatorEnter(self, event: Event) -> bool:
        """Comes from the supervisor, which waits for the address."""
        from_outside = isinstance(event.mutation.origin, Origin)
        return from_outside and isinstance(event.args, ServeOperatorArgs)

    def ServeOperatorState(self, event: Event) -> None:
        """Opens the server, if it is not open, for one more operator."""
        self._machine.remove1(S.ServeOperator)
        origin = event.mutation.origin
        assert isinstance(origin, Origin)  # the guard has made sure of that
        self._machine.spawn(S.Start, self._announce(event.args, origin.defer()))

    def InspectEnter(self, event: Event) -> bool:
        """Comes from an operator, who reads the answer."""
        return isinstance(event.mutation.origin, Origin)

    def InspectState(self, event: Event) -> None:
        """Tells what there is to tell."""
        self._machine.remove1(S.Inspect)
        origin = event.mutation.origin
        assert isinstance(origin, Origin)
        origin.defer().stream(self._teller().tell(follow=event.args.follow))

    # -- the server --------------------------------------------------------------------------

    async def _announce(self, args: ServeOperatorArgs, answer: Deferred) -> None:
        """An operator will come; it is said where to (rules 1 and 2)."""
        try:
            if self._mux is None:
                self._mux = self._make_mux()
            await self._mux.start()
        except AmnodeError as error:
            answer.fail(error)
            return
        self._forget(args.operator_id)
        self._secrets[args.operator_id] = args.secret
        self._timers[args.operator_id] = asyncio.get_running_loop().call_later(
            args.delivery_timeout, self._forget, args.operator_id
        )
        answer.answer(self._mux.address)

    def _make_mux(self) -> Mux:
        return Mux(
            self._machine,
            self._address,
            name=f"{self._name}-operators",
            exposure=exposure_of(self._exposure()),
            secret_of=lambda client, _role: self._secrets.get(client),
            on_connected=lambda server: self._forget(server.client_id),
            transport=self._outside.transport,
            entropy=self._outside.entropy,
            options=ONE_CONNECTION,
        )

    def _teller(self) -> Teller:
        if self._made_teller is None:
            from amnode.node.telling import Teller  # late: few workers are looked into

            self._made_teller = Teller(
                self._machine, lambda: exposure_of(self._exposure()), self._story
            )
        return self._made_teller

    def _forget(self, operator_id: str) -> None:
        """Its secret opens nothing any more."""
        self._secrets.pop(operator_id, None)
        timer = self._timers.pop(operator_id, None)
        if timer is not None:
            timer.cancel()

    async def close(self) -> None:
        """Lets all of them go."""
        self._forget_all()
        if self._mux is not None:
            await self._mux.stop()

    def abort(self) -> None:
        """The same at once; nobody is told anything."""
        self._forget_all()
        if self._mux is not None:
            self._mux.abort()

    def _forget_all(self) -> None:
        for operator_id in [*self._timers]:
            self._forget(operator_id)
