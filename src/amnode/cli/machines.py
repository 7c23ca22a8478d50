"""Which machine a command is for, and the connection to it for the time of that command.

The supervisor's machine is at its local server. A worker is asked for there, and then reached
directly.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
from cyclopts import Parameter

from amnode.cli.logs import matched
from amnode.cli.operator import Operator, operator
from amnode.cli.shared import Where
from amnode.errors import ConnectionLost
from amnode.node.args import InspectArgs, ReachWorkerArgs, WorkerReached
from amnode.node.names import operator_id
from amnode.node.states import SupervisorStates
from amnode.node.telling import Inspection
from amnode.rpc.client import RpcClient
from amnode.rpc.network_machine import NetworkMachine
from amnode.rpc.options import ONE_CONNECTION
from amnode.rpc.streams import Incoming

S = SupervisorStates

#: What the supervisor itself is called where a machine is named.
SUPERVISOR = "supervisor"

#: The option by which commands that take states name a machine.
OfWorker = Annotated[
    str,
    Parameter(
        name=["--worker", "-w"],
        show_default=False,
        help="The worker: its id, or its number. By default the supervisor.",
    ),
]


class Machine(msgspec.Struct, frozen=True):
    """A machine that a command looks into or changes.

    Attributes:
        kind: "supervisor", or the kind of the worker.
        source: its replica.
        supervisor: the operator's connection, through which it was found.
    """

    kind: str
    source: NetworkMachine
    supervisor: Operator

    def told(self, *, follow: bool) -> Incoming[Inspection]:
        """What it tells of itself; see `Inspection`."""
        args = InspectArgs(follow=follow)
        return self.source.stream([S.Inspect], args, item_type=Inspection)


@asynccontextmanager
async def machine(where: Where, named: str, *, every: bool = False) -> AsyncGenerator[Machine]:
    """Connects to the machine of that name; see `OfWorker`, and `operator` for `every`.

    Raises:
        WorkerMissingError: the name is that of no worker, or of several.
        AmnodeError: it cannot be reached; says why.
    """
    async with operator(where, every=every) as supervisor:
        if named in ("", SUPERVISOR, supervisor.source.source_id):
            yield Machine(SUPERVISOR, supervisor.source, supervisor)
            return
        listing = await supervisor.listing()
        worker_id = matched(named, (row.id for row in listing.workers))
        me = operator_id(os.urandom(6).hex())
        args = ReachWorkerArgs(worker_id=worker_id, operator_id=me)
        way = await supervisor.ask(S.ReachWorker, args, WorkerReached)
        rpc = RpcClient(
            way.address, id=me, secret=way.secret, every=every, options=ONE_CONNECTION
        )
        try:
            await supervisor.within(_start(rpc, worker_id))
            yield Machine(listing.kind, rpc.source, supervisor)
        finally:
            await rpc.stop()


async def _start(rpc: RpcClient, worker_id: str) -> None:
    try:
        await rpc.start()
    except ConnectionLost as error:
        raise ConnectionLost(
            f"Worker {worker_id} cannot be reached: {error} It listens for operators on the "
            "host of its supervisor alone; run this there.",
            outcome=error.outcome,
        ) from None
