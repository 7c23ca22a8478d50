"""A lease secret opens its own lease and no later one of the same client (promise S4)."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from amnode.errors import RpcError
from amnode.node.args import NodeRpcArgs, ReleasingArgs, ServeClientArgs, WorkerBoot
from amnode.node.bootstrap import Bootstrap
from amnode.node.outside import Outside
from amnode.node.policy.lease import Stage
from amnode.node.policy.options import WorkerOptions
from amnode.node.policy.owner import Claim
from amnode.node.states import WorkerStates as S
from amnode.rpc.client import RpcClient
from amnode.testing import SimLoop, SimNetwork, Weather
from amnode.testing.host import SimFiles
from amnode.testing.network import Cable
from amnode.testing.sim_worker import SimWorker

BOOT = WorkerBoot(
    target="",
    script="",
    name="w",
    kind="sim",
    boot_addr="unix:/boot",
    secret=b"opens the bootstrap",
    local_secret=b"of the supervisor",
    directory="/d",
)


class Nobody:
    """Is told of jobs, and there are none."""

    def job_started(self, worker: SimWorker, number: int) -> None: ...

    def job_ended(self, worker: SimWorker) -> None: ...


class Scene:
    """A worker, and its supervisor's connection, in a simulated network."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.network = SimNetwork(loop, Random(1), Weather(split=0.0), self._arrived)
        self.hold_proofs = False
        self.outside = Outside(
            transport=self.network.transport(loop.outer),
            entropy=Random(2).randbytes,
            files=SimFiles(),
        )

    def _arrived(self, cable: Cable, _receiver: str, _data: bytes) -> None:
        """What comes after the first word of a client of the worker is held."""
        if self.hold_proofs and cable.address == "unix:/d/w.p":
            self.network.hold(cable, 2.0)

    def client(self, address: str, id: str, secret: bytes) -> RpcClient:
        outside = self.outside
        return RpcClient(
            address, id=id, secret=secret, transport=outside.transport, entropy=outside.entropy
        )

    async def worker(self) -> tuple[SimWorker, asyncio.Task[int]]:
        called = self.loop.create_future()

        def on_call(call: NodeRpcArgs) -> None:
            called.set_result(call)

        bootstrap = Bootstrap("w", BOOT.boot_addr, BOOT.secret, on_call, outside=self.outside)
        await bootstrap.start()
        worker = SimWorker(
            opts=WorkerOptions(), outside=self.outside, watch=Nobody(), draw=Random(3).random
        )
        running = asyncio.create_task(worker.run(BOOT))
        await called
        await bootstrap.stop()
        return worker, running


async def serve(supervisor: RpcClient, secret: bytes, tick: int) -> None:
    args = ServeClientArgs(
        client_id="rc-c", secret=secret, expected_tick=tick, delivery_timeout=60.0, grace=1.0
    )
    assert await supervisor.source.add1(S.ServeClient, args)


async def story(stage: Scene) -> None:
    worker, running = await stage.worker()
    supervisor = stage.client(
        "unix:/d/w.l", Claim(1, "0a").connection_id("ns-s"), BOOT.local_secret
    )
    await supervisor.start()
    await serve(supervisor, b"the first", 0)
    stage.hold_proofs = True
    late = stage.client("unix:/d/w.p", "rc-c", b"the first")
    opening = asyncio.create_task(late.start())
    await asyncio.sleep(1.0)  # simulated: its hello is there, its proof is held
    stage.hold_proofs = False
    assert await supervisor.source.add1(S.Releasing, ReleasingArgs(epoch=1, withdraw=True))
    await worker.machine.when_not1(S.Leased)
    await serve(supervisor, b"the second", 2)

    with pytest.raises(RpcError):
        await opening
    assert worker.lease.stage is Stage.OFFERED
    right = stage.client("unix:/d/w.p", "rc-c", b"the second")
    await right.start()
    assert worker.lease.stage is Stage.HELD

    for client in (right, supervisor):
        await client.stop()
    worker.stop()
    assert await running == 0


def test_the_secret_of_a_lease_that_is_over_opens_no_other() -> None:
    loop = SimLoop("1")
    try:
        loop.run_until_complete(story(Scene(loop)))
        assert not loop.uncaught
    finally:
        loop.close()
