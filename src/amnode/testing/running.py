"""A pool of one Worker class for the length of a test.

    async with leased(Counter) as counter:
        assert await counter.call(Counter.add, 2) == 2

1. The workers are coroutines of the test's loop, with their real connections. So a class may be
   local to a test, its instance can be looked into, and a breakpoint in a job stops everything.
   With `processes=True` they are processes, as in production.
2. What was started has ended when the block has, whatever the test did in it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeVar

import msgspec

from amnode.errors import OptionError
from amnode.launch.command import ENTRY
from amnode.launch.inprocess import InProcess, InProcessLauncher
from amnode.node.args import WorkerBoot
from amnode.node.client import Client
from amnode.node.inprocess_worker import WORKER, live
from amnode.node.leased import LeasedWorker
from amnode.node.policy.options import ClientOptions, PoolSize, SupervisorOptions
from amnode.node.states import SupervisorStates
from amnode.node.supervisor import Supervisor
from amnode.node.worker import Worker, kind_of

W = TypeVar("W", bound=Worker)

#: Seconds that a test waits for a worker; less than what ends a test that hangs.
PATIENCE = 10.0


class _Workshop(InProcessLauncher, Generic[W]):
    """Makes the workers of one class, and knows them by their ids."""

    def __init__(self, make: type[W]) -> None:
        super().__init__({WORKER: self._live})
        self._make = make
        self.instances: dict[str, W] = {}

    async def _live(self, payload: bytes, process: InProcess) -> int:
        boot = msgspec.msgpack.decode(payload, type=WorkerBoot)
        worker = self.instances[f"nw-{boot.name}"] = self._make()
        return await live(worker, boot, process)


class Running(Generic[W]):
    """A pool under test; made by `running`.

    Attributes:
        supervisor: of the pool.
        client: of the test, connected to it.
    """

    def __init__(
        self, supervisor: Supervisor, client: Client, workshop: _Workshop[W] | None
    ) -> None:
        self.supervisor = supervisor
        self.client = client
        self._workshop = workshop

    def lease(
        self, *, timeout: float | None = None
    ) -> AbstractAsyncContextManager[LeasedWorker]:
        """A worker for the body of an `async with`; see `Client.lease`."""
        return self.client.lease(timeout=timeout)

    def instance(self, worker: LeasedWorker) -> W:
        """The object whose jobs a leased worker runs, to look into what it keeps.

        Raises:
            OptionError: it lives in a process of its own.
        """
        if self._workshop is None:
            raise OptionError(
                "The workers are processes, so their objects are not here. Leave out "
                "`processes=True`, or ask by a job."
            )
        return self._workshop.instances[worker.id]

    async def kill(self, worker: LeasedWorker) -> None:
        """Ends a worker as SIGKILL ends a process; returns when the supervisor has noticed.

        Raises:
            WorkerMissingError: it has ended before.
        """
        there = await self.supervisor.worker(worker.id)
        noticed = self.supervisor.machine.when_next_active(SupervisorStates.WorkerKilled)
        self.supervisor.kill_worker(there.id)
        await noticed


@asynccontextmanager
async def running(
    worker: type[W],
    *,
    size: int = 1,
    processes: bool = False,
    opts: SupervisorOptions | None = None,
) -> AsyncGenerator[Running[W], None]:
    """A pool whose workers are ready, for the body of an `async with`.

    Args:
        worker: the class.
        size: how many there are.
        processes: makes them processes. The class has to be importable then.
        opts: of the supervisor, in place of `size` and of times that suit a test.

    Raises:
        PoolError: the workers do not start; says why.
    """
    opts = opts or SupervisorOptions(size=PoolSize(size, size, 0), stop_grace=0.1)
    workshop = None if processes else _Workshop(worker)
    if workshop is None:
        supervisor = Supervisor(worker, opts=opts)
    else:  # by the name of the kind: a class that is local to a test cannot be imported
        supervisor = Supervisor(
            kind_of(worker), ENTRY, worker.schema, opts=opts, launcher=workshop
        )
    async with supervisor:
        await supervisor.when_ready()
        client = Client(
            "test",
            supervisor.worker_kind,
            worker.schema,
            addrs=[supervisor.address],
            token=supervisor.token,
            opts=ClientOptions(request_wait=PATIENCE),
        )
        async with client:
            yield Running(supervisor, client, workshop)


@asynccontextmanager
async def leased(
    worker: type[Worker], *, processes: bool = False
) -> AsyncGenerator[LeasedWorker, None]:
    """One worker, ready and leased, for the body of an `async with`.

    Args:
        worker: the class.
        processes: makes it a process. The class has to be importable then.

    Raises:
        PoolError: it does not start; says why.
    """
    async with running(worker, processes=processes) as pool, pool.lease() as one:
        yield one
