"""SimClient: a client of a simulation, who runs errands until it is told to rest.

An errand asks for a worker, makes some calls, and releases it, or gives up at any moment of
that. What it is told is compared with what happened.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

from amnode.errors import (
    AmnodeError,
    JobError,
    JobFailed,
    LeaseError,
    LeaseLost,
    RefusedError,
    RpcError,
    WorkerError,
)
from amnode.node.client import Client
from amnode.node.failures import failure_of
from amnode.node.jobs import Job
from amnode.node.leased import LeasedWorker
from amnode.testing.actor import SimActor
from amnode.testing.safety import require
from amnode.testing.sim_worker import SimWorker

if TYPE_CHECKING:
    from amnode.testing.deployment import Deployment
    from amnode.testing.host import SimProcess

#: Errands that a client runs at a time.
_AT_ONCE = 3
#: What jobs do, and how often each is called.
_JOBS: tuple[tuple[Job[..., int], float], ...] = (
    (SimWorker.work, 0.8),
    (SimWorker.fail, 0.1),
    (SimWorker.linger, 0.08),
    (SimWorker.leave, 0.02),
)
#: A wait that ended this much after its deadline ended too late; nothing else takes time.
_LATE = 0.001


class SimClient(SimActor):
    """One client, and those that take its place when its process is killed."""

    def __init__(self, deployment: Deployment, number: int, name: str) -> None:
        super().__init__(deployment, f"{name}-{number}")
        self.name = name
        self.number = number
        self.client: Client | None = None
        #: How many errands are under way.
        self.busy = 0
        #: The workers that it holds, with the last transition of each that it saw.
        self.held: dict[LeasedWorker, int] = {}
        self._rng = Random(f"{deployment.seed}/client {number}")

    def _begin_anew(self) -> None:
        self.client = None
        self.busy = 0
        self.held = {}

    async def _run(self, process: SimProcess) -> int:
        deployment, rng, stop = self._deployment, self._rng, self.told_to_stop()
        addresses = deployment.addresses
        rng.shuffle(addresses)
        client = self.client = Client(
            self.name,
            SimWorker,
            addrs=addresses,
            token=deployment.token,
            opts=deployment.scenario.client,
            outside=deployment.host.outside(process),
        )
        client.start()
        stopped = asyncio.create_task(stop.wait())
        async with asyncio.TaskGroup() as errands:
            while not deployment.resting:
                pause = min(rng.expovariate(1.0), 3.0) * deployment.scenario.pause
                await asyncio.wait([stopped], timeout=pause)
                if self.busy < _AT_ONCE and not deployment.resting:
                    self.busy += 1
                    errands.create_task(self._errand(client, process))
        await stopped
        await client.dispose()
        deployment.check_nothing_left(process)
        return 0

    # -- errands ---------------------------------------------------------------------------

    async def _errand(self, client: Client, process: SimProcess) -> None:
        try:
            worker = await self._acquire(client, process)
            if worker is not None:
                self.held[worker] = -1
                try:
                    await self._use(worker)
                finally:
                    del self.held[worker]
                    await self._release(worker)
        finally:
            self.busy -= 1

    def _patience(self) -> float | None:
        """When a wait is given up: at any moment, or never."""
        rng = self._rng
        if rng.random() >= self._deployment.scenario.haste:
            return None
        return rng.random() * rng.choice((0.01, 0.1, 1.0))

    async def _acquire(self, client: Client, process: SimProcess) -> LeasedWorker | None:
        deployment = self._deployment
        wait = self._rng.choice((0.2, 1.0, None))
        most = deployment.scenario.client.request_wait if wait is None else wait
        begun, pauses = deployment.loop.time(), process.place.pauses
        what = "acquires that failed"
        try:
            async with asyncio.timeout(self._patience()):
                worker = await client.req_worker(timeout=wait)
            what = "acquires"
            return worker
        except LeaseError as error:
            what = f"acquires that ended in {type(error).__name__}"
        except TimeoutError:
            what = "acquires that were cancelled"
        except RpcError as error:
            what = f"acquires that ended in {type(error).__name__}"
        finally:
            deployment.count(what)
            took = deployment.loop.time() - begun
            with deployment.judging():
                late = took > most + _LATE and process.place.pauses == pauses
                require(not late, "L2", f"{self.name} waited {took:.3f} s of {most} s.")
        return None

    async def _use(self, worker: LeasedWorker) -> None:
        rng = self._rng
        for _ in range(rng.randrange(4)):
            if not await self._call(worker):
                return
        if rng.random() < 0.1:  # it holds on to it for no reason
            await asyncio.sleep(rng.random() * 4.0)

    async def _call(self, worker: LeasedWorker) -> bool:
        """Makes one call; False if the lease is over."""
        deployment, rng = self._deployment, self._rng
        (job,) = rng.choices([j for j, _ in _JOBS], [often for _, often in _JOBS])
        number = deployment.calls.call(self.name, worker.id, worker.epoch)
        seconds = rng.random() * 2 * deployment.scenario.hold
        deadline = rng.choice((None, None, None, seconds + 0.001, 0.5))
        calls = worker.options(deadline=deadline)
        try:
            async with asyncio.timeout(self._patience()):
                value: Any = await calls.call(job, number, seconds)
        except AmnodeError as error:
            return self._call_failed(number, error)
        except ValueError as error:  # what the job raised, as itself
            return self._call_failed(number, _failure(error))
        except TimeoutError:  # it was given up here
            deployment.count("calls that were cancelled")
            return True
        deployment.count("calls")
        with deployment.judging():
            deployment.calls.answered(number, value)
            deployment.check_seen(worker, number)
        return True

    def _call_failed(self, number: int, error: AmnodeError) -> bool:
        deployment = self._deployment
        deployment.count(f"calls that ended in {type(error).__name__}")
        deployment.note(self.name, f"call {number}: {type(error).__name__}: {error}")
        with deployment.judging():
            if isinstance(error, WorkerError):
                deployment.calls.failed(number, error.outcome, error.cause)
            elif isinstance(error, LeaseLost):
                deployment.calls.failed(number, error.outcome, None)
            elif isinstance(error, RefusedError):
                deployment.calls.never_ran(number)
            elif not isinstance(error, JobError):
                require(False, "S20", f"call {number} ended in {error!r}.")
        return isinstance(error, JobError)

    async def _release(self, worker: LeasedWorker) -> None:
        try:
            async with asyncio.timeout(self._patience()):
                await worker.release()
        except TimeoutError:  # it goes on by itself
            self._deployment.count("releases that were cancelled")

    # -- watching --------------------------------------------------------------------------

    def _look(self) -> None:
        """S15: each replica is what its source was after some transition, and none earlier."""
        for worker, last in self.held.items():
            self.held[worker] = self._deployment.check_replica(worker, last)


def _failure(error: ValueError) -> JobFailed:
    failure = failure_of(error)
    assert failure is not None, "No job of a simulation raised it."
    return failure
