"""Programs that tests start and end by force: `python -m tests.promises.programs NAME`.

Each reads what it is to know from its input, one JSON line, says on its output what it has come
to, one JSON line a step, and then waits for ever.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from amnode import Client, Supervisor
from tests.promises import workers
from tests.promises.pools import short


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def client(address: str, token: str, job: str = "", kind: str = "Plain") -> None:
    """Leases a worker, perhaps with a job running, and holds it."""
    cls = getattr(workers, kind)
    async with Client("victim", cls, addrs=[address], token=bytes.fromhex(token)) as me:
        worker = await me.req_worker()
        await worker.call(workers.Plain.keep, "left by the victim")
        if job:
            running = asyncio.create_task(worker.call(getattr(workers.Plain, job)))
            await worker.machine.when1("Begun")
            say(leased=worker.id, epoch=worker.epoch)
            await running
        say(leased=worker.id, epoch=worker.epoch)
        await asyncio.Event().wait()


async def waiting_client(address: str, token: str) -> None:
    """Asks for a worker that it will not get soon."""
    async with Client(
        "waiting", workers.Plain, addrs=[address], token=bytes.fromhex(token)
    ) as me:
        asked = asyncio.create_task(me.req_worker())
        await me.machine.when1("WorkerRequested")
        say(asked=True)
        await asked


async def supervisor(
    size: int,
    lease: bool = False,
    token: str = "",
    name: str = "",
    state_dir: str = "",
    adopt_wait: float = 60.0,
    local_addr: str = "",
) -> None:
    """Runs a pool, perhaps with a client of its own and a job in it."""
    made = Supervisor(
        workers.Plain,
        name=name,
        token=bytes.fromhex(token),
        opts=short(size, adopt_wait=adopt_wait),
        state_dir=state_dir,
        local_addr=local_addr,
    )
    async with made:
        await made.when_ready()
        await made.machine.when1("PoolNormalized")
        rows = [row.pid for row in await made.workers()]
        if not lease:
            say(address=made.address, token=made.token.hex(), pids=rows)
            await asyncio.Event().wait()
        async with (
            Client("inside", workers.Plain, addrs=[made.address], token=made.token) as me,
            me.lease() as worker,
        ):
            running = asyncio.create_task(worker.call(workers.Plain.last))
            await worker.machine.when1("Begun")
            say(address=made.address, token=made.token.hex(), pids=rows)
            await running


def main() -> None:
    told = json.loads(sys.stdin.readline())
    asyncio.run(globals()[sys.argv[1]](**told))


if __name__ == "__main__":
    main()
