"""R5, the network: what is between a client, its supervisor and its worker is cut, frozen and
slowed, at random moments.

Each connection of the client goes through a proxy of its own. A fault that is shorter than the
grace costs nothing; a longer one ends the lease, says so, and the pool is whole again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from amnode import Client, ClientOptions, LeasedWorker, LeaseLost, Outcome, WorkerError
from amnode.node.outside import Outside
from amnode.rpc.transport.by_address import STREAMS
from tests.chaos.found import Found
from tests.pairs.proxy import Proxy
from tests.promises.pools import PATIENCE, WatchedSupervisor, short
from tests.promises.workers import BusyStates, Cleaned, Plain

#: Seconds that a connection may be away, and that a short fault takes at most.
GRACE, SHORT_FAULT = 1.0, 0.3


class Net:
    """A transport whose connections all go through proxies, one for each address."""

    def __init__(self) -> None:
        self._proxies: dict[str, tuple[Proxy, str]] = {}

    async def listen(self, *args: Any, **options: Any) -> Any:
        return await STREAMS.listen(*args, **options)

    async def connect(self, address: str, *args: Any, **options: Any) -> Any:
        if address not in self._proxies:
            proxy = Proxy(address)
            self._proxies[address] = proxy, await proxy.start()
        return await STREAMS.connect(self._proxies[address][1], *args, **options)

    def to(self, address: str) -> Proxy:
        """What stands before an address."""
        return self._proxies[address][0]

    async def close(self) -> None:
        for proxy, _ in self._proxies.values():
            await proxy.close()


@asynccontextmanager
async def between(
    kind: type[Plain] = Plain,
) -> AsyncGenerator[tuple[WatchedSupervisor, Client, Net]]:
    """A pool over TCP, a client, and the net between them."""
    net, opts = Net(), short(1, most=2, grace=GRACE)
    async with WatchedSupervisor(kind, public_addr="tcp:127.0.0.1:0", opts=opts) as pool:
        await pool.all_idle(1)
        client = Client(
            "me",
            kind,
            addrs=[pool.address],
            token=pool.token,
            opts=ClientOptions(request_wait=PATIENCE, delivery_timeout=0.5),
            outside=Outside(transport=net),
        )
        try:
            async with client:
                yield pool, client, net
        finally:
            await net.close()


async def _right(worker: LeasedWorker, chance: random.Random, found: Found) -> None:
    n = chance.randrange(1000)
    found.check(await worker.call(Plain.square, n) == n * n, "a wrong answer")


async def _short(hit: Callable[[Proxy], Awaitable[None]], *args: Any) -> None:
    """A fault that is over within the grace: every call is answered, and ran once."""
    chance, found = args
    async with between() as (pool, client, net), client.lease() as worker:
        proxy, calls = net.to(worker.rpc.address), chance.randint(1, 20)
        fault = asyncio.ensure_future(hit(proxy))
        for _ in range(calls):
            await _right(worker, chance, found)
        await fault
        await _right(worker, chance, found)
        ran = await worker.call(Plain.count_of_runs)
        found.check(ran == calls + 1, f"{calls + 1} calls ran {ran} times")
        found.check((await pool.row(worker.id)).condition == "leased", "the lease is over")


async def _cut(chance: random.Random, found: Found) -> None:
    """Cut at a random byte of what is said, up to five times."""

    async def hit(proxy: Proxy) -> None:
        for _ in range(chance.randint(1, 5)):
            proxy.cut_after(chance.randint(1, 400))
            await asyncio.sleep(chance.uniform(0.0, SHORT_FAULT / 10))
        proxy.cut()

    await _short(hit, chance, found)


async def _freeze(chance: random.Random, found: Found) -> None:
    """Nothing passes for a moment, not even an end."""

    async def hit(proxy: Proxy) -> None:
        proxy.freeze()
        await asyncio.sleep(chance.uniform(0.0, SHORT_FAULT))
        proxy.thaw()

    await _short(hit, chance, found)


async def _refuse(chance: random.Random, found: Found) -> None:
    """Cut, and nobody listens for a moment."""

    async def hit(proxy: Proxy) -> None:
        proxy.refusing = True
        proxy.cut()
        await asyncio.sleep(chance.uniform(0.0, SHORT_FAULT))
        proxy.refusing = False

    await _short(hit, chance, found)


async def _trickle(chance: random.Random, found: Found) -> None:
    """One byte at a time, each a few turns late."""

    async def hit(proxy: Proxy) -> None:
        proxy.turns = chance.randrange(3)
        proxy.split = lambda data: [data[i : i + 1] for i in range(len(data))]

    await _short(hit, chance, found)


async def _gone(chance: random.Random, found: Found) -> None:
    """Cut for longer than the grace, while a job runs: the lease is over, and says so."""
    kind = chance.choice((Plain, Cleaned))
    async with between(kind) as (pool, client, net):
        worker = await client.req_worker()
        call = asyncio.ensure_future(worker.call(kind.last))
        await worker.machine.when1(BusyStates.Begun)
        proxy = net.to(worker.rpc.address)
        proxy.refusing = True
        proxy.cut()
        await pool.until(lambda view: view.counts.leased == 0)
        proxy.refusing = False
        if kind is Plain:  # which is replaced: nobody listens there any more
            await proxy.close()
        (error,) = await asyncio.gather(call, return_exceptions=True)
        ended = isinstance(error, WorkerError | LeaseLost)
        found.check(ended, f"the call ended with {error!r}")
        if isinstance(error, WorkerError | LeaseLost):
            found.check(error.outcome is not Outcome.NOT_RUN, "it ran, and its error says no")
        await pool.all_idle(1)
        async with client.lease() as another:
            await _right(another, chance, found)


async def _super(chance: random.Random, found: Found) -> None:
    """The supervisor is cut off: leases go on, and requests are made again."""
    async with between() as (pool, client, net), client.lease() as worker:
        proxy = net.to(pool.address)
        pool.set_pool(1, 2, 0, 2)
        asked = asyncio.ensure_future(client.req_worker())
        for _ in range(chance.randint(1, 3)):
            await asyncio.sleep(chance.uniform(0.0, SHORT_FAULT / 10))
            proxy.cut()
            await _right(worker, chance, found)
        other = await asked
        await _right(other, chance, found)
        await other.release()


FAULTS: dict[str, Callable[[random.Random, Found], Awaitable[None]]] = {
    "cut": _cut,
    "frozen": _freeze,
    "nobody listens": _refuse,
    "a byte at a time": _trickle,
    "cut past the grace": _gone,
    "supervisor cut": _super,
}


async def faults(count: int, chance: random.Random, found: Found) -> None:
    """R5: each fault of the network in turn, in random order."""
    names = list(FAULTS)
    for number in range(count):
        if number % len(names) == 0:
            chance.shuffle(names)
        name = names[number % len(names)]
        try:
            async with asyncio.timeout(3 * PATIENCE):
                with found.timed(name):
                    await FAULTS[name](chance, found)
        except (AssertionError, TimeoutError, WorkerError, LeaseLost) as error:
            found.check(False, f"{name}: {type(error).__name__} {error}")
        found.counts[name] += 1
