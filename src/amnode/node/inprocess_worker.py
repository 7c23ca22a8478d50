"""Workers that are coroutines of their supervisor's loop, for tests and simulations.

Supervisor, workers and clients then run in one process, with their real connections. A worker
can be killed at any await, and be debugged; what blocks one blocks all.
"""

from __future__ import annotations

import asyncio

import msgspec

from amnode.launch.inprocess import InProcess, InProcessLauncher
from amnode.node.args import WorkerBoot
from amnode.node.class_name import load
from amnode.node.loop_host import LoopHost
from amnode.node.worker import Worker

#: What the boot record of a worker says is to be run.
WORKER = "amnode.node.worker:main"


def in_process_launcher() -> InProcessLauncher:
    """What to pass to a `Supervisor` as `launcher`."""
    return InProcessLauncher({WORKER: _live})


async def live(worker: Worker, boot: WorkerBoot, process: InProcess) -> int:
    """The whole life of a worker, to its exit code.

    Args:
        worker: a new one.
        boot: what its supervisor said.
        process: the one that it lives in.
    """
    process.on_terminate(lambda: worker.stop("SIGTERM"))
    process.on_kill(lambda: _kill(worker, process))
    return await worker.run(boot, LoopHost(process))


async def _live(payload: bytes, process: InProcess) -> int:
    boot = msgspec.msgpack.decode(payload, type=WorkerBoot)
    worker: Worker = load(boot.target, boot.script)()
    return await live(worker, boot, process)


def _kill(worker: Worker, process: InProcess) -> None:
    worker.cut()
    # Those that a connection caused have a context of their own, which names no process.
    for task in asyncio.all_tasks():
        if worker.machine.owner_of(task) is not None:
            process.adopt(task)
