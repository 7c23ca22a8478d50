"""Many clients in one process, for benchmarks/rpc.py: followers of a machine, or bare ones.

python benchmarks/rpc_crowd.py a 500
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from amnode.rpc.client import RpcClient
from amnode.rpc.network_machine import RemoteTransition
from benchmarks.echo import Frames, connect
from benchmarks.processes import obey, raise_descriptors, resident, run
from benchmarks.rpc_board import ASKED, BOARD, SECRET

#: Connections that are made at the same time.
TOGETHER = 25


class Crowd:
    """Clients, and when the last of them saw what all are to see.

    Args:
        name: part of their ids.
        count: how many there are.
    """

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count
        self.clients: list[RpcClient] = []
        self.bare: list[Frames] = []
        self._seen = 0
        self._times: asyncio.Queue[float] = asyncio.Queue()

    def transition_end(self, _update: RemoteTransition) -> None:
        """See `amnode.machine.tracing`."""
        self.saw()

    def saw(self) -> None:
        """One of them has seen it."""
        self._seen += 1
        if self._seen == self.count:
            self._seen = 0
            self._times.put_nowait(time.monotonic())

    async def last(self) -> float:
        """When the last of them saw the next thing that all are to see."""
        return await self._times.get()

    async def follow(self, address: str, first: int, last: int) -> None:
        """Connects some of the followers."""
        await _in_groups(first, last, lambda n: self._follow(address, n))

    async def _follow(self, address: str, number: int) -> None:
        client = RpcClient(
            address, id=f"rc-{self.name}-{number}", secret=SECRET, schema=BOARD, role="observer"
        )
        await client.start()
        client.source.trace(self)
        self.clients.append(client)

    async def connect(self, address: str, first: int, last: int) -> None:
        """Connects some of the bare ones."""
        await _in_groups(first, last, lambda _: self._connect(address))

    async def _connect(self, address: str) -> None:
        made = await connect(address, lambda: Watching(self))
        assert isinstance(made, Watching)
        await made.greet()  # the system connects before the server accepts
        self.bare.append(made)

    async def close(self) -> None:
        """Ends all connections."""
        for client in self.clients:
            await client.stop()
        for bare in self.bare:
            if bare.transport is not None:
                bare.transport.close()


class Watching(Frames):
    """A bare client that only looks."""

    def __init__(self, crowd: Crowd) -> None:
        super().__init__()
        self._crowd = crowd
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def greet(self) -> None:
        """Has the server answer once."""
        assert self.transport is not None
        self.transport.write(ASKED)
        await self._greeted

    def received(self, frame: bytes) -> None:
        if self._greeted.done():
            self._crowd.saw()
        else:
            self._greeted.set_result(None)


async def _in_groups(first: int, last: int, make: Callable[[int], Awaitable[None]]) -> None:
    for start in range(first, last, TOGETHER):
        await asyncio.gather(*map(make, range(start, min(start + TOGETHER, last))))


async def main(name: str, count: str) -> None:
    raise_descriptors()
    crowd = Crowd(name, int(count))
    await obey(
        name,
        {
            "follow": crowd.follow,
            "connect": crowd.connect,
            "last": crowd.last,
            "resident": resident,
            "close": crowd.close,
        },
    )


if __name__ == "__main__":
    run(main(*sys.argv[1:]))
