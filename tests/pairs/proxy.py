"""A proxy in the test's own process, which passes bytes on and does harm to them when told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

#: What one read of it takes at most.
_READ = 65_536


class Proxy:
    """Stands between clients and a server, over TCP or a Unix socket.

    Args:
        target: the address of the server.

    Attributes:
        target: where new connections are passed on to; a test may change it.
        passed: bytes that were passed on, both ways together.
        accepted: connections that were made to it.
        split: how what was read is cut into writes; by default it is passed on whole.
        turns: turns of the loop by which each write is delayed.
        refusing: whether new connections are closed at once.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.passed = 0
        self.accepted = 0
        self.split: Callable[[bytes], list[bytes]] = lambda data: [data]
        self.turns = 0
        self.refusing = False
        self._cut_at: int | None = None
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._writers: dict[asyncio.StreamWriter, None] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def start(self) -> str:
        """Listens; returns its address."""
        scheme, _, where = self.target.partition(":")
        if scheme == "unix":
            self._server = await asyncio.start_unix_server(self._came, f"{where}-proxy")
            return f"{self.target}-proxy"
        host = where.rpartition(":")[0].strip("[]")
        self._server = await asyncio.start_server(self._came, host, 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"{scheme}:{where.rpartition(':')[0]}:{port}"

    def cut(self) -> None:
        """Cuts all connections that there are."""
        self._cut_at = None
        for writer in self._writers:
            writer.transport.abort()

    def cut_after(self, size: int) -> None:
        """Cuts all connections once so many more bytes were passed on, exactly."""
        self._cut_at = self.passed + size

    def freeze(self) -> None:
        """Passes nothing on from now, and says nothing of it: a black hole."""
        self._open.clear()

    def thaw(self) -> None:
        """Passes on again."""
        self._open.set()

    async def close(self) -> None:
        """Ends everything."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._server is not None:
            await self._server.wait_closed()

    def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refusing:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers[writer] = None
        onward: asyncio.StreamWriter | None = None
        try:
            back, onward = await self._reach()
            self._writers[onward] = None
            ways = [(reader, onward), (back, writer)]
            tasks = [asyncio.create_task(self._pass(*way)) for way in ways]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        except OSError:
            return  # there is no server; the client sees its connection end
        finally:
            for end in (writer, onward):
                if end is not None:
                    self._writers.pop(end, None)
                    end.transport.abort()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        scheme, _, where = self.target.partition(":")
        if scheme == "unix":
            return await asyncio.open_unix_connection(where)
        host, _, port = where.rpartition(":")
        return await asyncio.open_connection(host.strip("[]"), int(port))

    async def _pass(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(_READ):
                for piece in self.split(data):
                    for _ in range(self.turns):
                        await asyncio.sleep(0)
                    await self._open.wait()
                    if not await self._write(to, piece):
                        return

    async def _write(self, to: asyncio.StreamWriter, piece: bytes) -> bool:
        """Passes a piece on; False if the connections were cut by it."""
        left = None if self._cut_at is None else self._cut_at - self.passed
        if left is not None and len(piece) >= left:
            to.write(piece[:left])
            self.passed += left
            await to.drain()
            self.cut()
            return False
        to.write(piece)
        self.passed += len(piece)
        await to.drain()
        return True
