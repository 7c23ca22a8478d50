"""An operator's connection to one supervisor, for the time of one command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from amnode.cli import places
from amnode.cli.places import Place
from amnode.cli.shared import Where
from amnode.errors import AuthError, PoolError, RpcTimeoutError
from amnode.machine.queue import CANCELED
from amnode.node.names import operator_id
from amnode.node.operator_args import ListWorkersArgs, PoolListing
from amnode.node.states import SupervisorStates
from amnode.rpc.client import RpcClient
from amnode.rpc.network_machine import NetworkMachine
from amnode.rpc.options import ONE_CONNECTION
from amnode.rpc.transport.by_address import STREAMS
from amnode.rpc.transport.with_files import transport_of

S = SupervisorStates
T = TypeVar("T")


class Operator:
    """What a command asks of a supervisor.

    Args:
        place: where it is.
        rpc: the connection.
        timeout: seconds that each answer may take.

    Attributes:
        lost: done when the connection is over, with nothing.
    """

    def __init__(self, place: Place, rpc: RpcClient, timeout: float) -> None:
        self.place = place
        self.timeout = timeout
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rpc = rpc

    @property
    def source(self) -> NetworkMachine:
        """The supervisor's machine: its states can be read, waited for and changed."""
        return self._rpc.source

    async def listing(self, state: str = "") -> PoolListing:
        """The pool, with the workers in a state; "" is all."""
        return await self.ask(S.ListWorkers, ListWorkersArgs(state=state), PoolListing)

    async def ask(self, state: str, args: object, result_type: type[T]) -> T:
        """Asks for a state, and for what its answer carries.

        Raises:
            RpcTimeoutError: there was no answer in time.
        """
        call = self.source.request([state], args, result_type=result_type)
        return await self.within(call)

    async def change(self, change: Awaitable[Any], refusal: str) -> None:
        """Waits for the outcome of a change.

        Args:
            change: what adding or removing a state returned.
            refusal: what to say if it was canceled and nobody says why.

        Raises:
            AmnodeError: it was refused, or not answered in time.
        """
        if await self.within(change) is CANCELED:
            raise PoolError(refusal)

    async def within(self, answer: Awaitable[T]) -> T:
        """What is awaited, within the time that an answer may take."""
        try:
            async with asyncio.timeout(self.timeout):
                return await answer
        except TimeoutError as error:
            raise RpcTimeoutError(
                f"Supervisor {self.place.shown} did not answer in {self.timeout:g} s."
            ) from error


@asynccontextmanager
async def operator(where: Where, *, every: bool = False) -> AsyncGenerator[Operator, None]:
    """Connects as an operator to the supervisor that the options say.

    Args:
        where: the options.
        every: whether each mutation is followed on its own, so that a state which is over at
            once is seen.

    Raises:
        ConnectionLost: nobody is there.
        AuthError: the secret is another one.
        OptionError: the options do not say which supervisor.
    """
    place = places.find(where.at, where.operator_file)

    def lost(_error: Exception) -> None:
        if not reached.lost.done():
            reached.lost.set_result(None)

    rpc = RpcClient(
        place.address,
        id=operator_id(os.urandom(6).hex()),
        secret=place.secret,
        every=every,
        on_lost=lost,
        options=ONE_CONNECTION,
        transport=transport_of(STREAMS, place.tls(where.authority)),
    )
    reached = Operator(place, rpc, where.timeout)
    try:
        try:
            await reached.within(rpc.start())
        except AuthError:
            raise AuthError(
                f"Supervisor {place.shown} does not take this operators' secret. It has a new "
                "one at each start: read it from its directory (--at DIRECTORY)."
            ) from None
        yield reached
    finally:
        await rpc.stop()
