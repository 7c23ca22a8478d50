"""A call of a job, beside a bare echo of the same bytes over the same transport.

The case is `await worker.call(Squares.square, n)`: a checked, typed call of a leased worker,
with its states followed by the client. The baseline sends the frame of such a call to a process
that sends it back: a Protocol over a Unix socket, one future a call, uvloop at both ends where
it exists. Both take turns in one run, so that they see the same machine.

    python benchmarks/call.py [calls]
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from pathlib import Path
from statistics import quantiles
from typing import Any, cast

from amnode import (
    Client,
    LeasedWorker,
    PoolSize,
    Supervisor,
    SupervisorOptions,
    Worker,
    WorkerStates,
    job,
)
from amnode.node.args import WorkArgs
from amnode.rpc.protocol.wire import Mutate, to_frame, to_raw

ROUND = 250  # calls before the other one's turn
HEADER = 4  # bytes of a frame's length


class Squares(Worker):
    """Next to no work, so that what is measured is the call."""

    @job
    async def square(self, n: int) -> int:
        return n * n


# -- the baseline --------------------------------------------------------------------------


class Frames(asyncio.Protocol):
    """Cuts what arrives into frames, and does nothing else."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are writable, but no subclasses of asyncio.Transport
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= HEADER:
            end = HEADER + int.from_bytes(self._data[:HEADER], "little")
            if len(self._data) < end:
                return
            frame = bytes(self._data[:end])
            del self._data[:end]
            self.received(frame)

    def received(self, frame: bytes) -> None:
        raise NotImplementedError


class EchoServer(Frames):
    def received(self, frame: bytes) -> None:
        assert self.transport is not None
        self.transport.write(frame)


class EchoClient(Frames):
    def __init__(self) -> None:
        super().__init__()
        self._answer: asyncio.Future[bytes] | None = None

    def call(self, frame: bytes) -> asyncio.Future[bytes]:
        assert self.transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(frame)
        return self._answer

    def received(self, frame: bytes) -> None:
        assert self._answer is not None
        self._answer.set_result(frame)


async def serve_echo(path: str) -> None:
    """The other process of the baseline: echoes until its input is closed."""
    server = await asyncio.get_running_loop().create_unix_server(EchoServer, path)
    async with server:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextlib.asynccontextmanager
async def open_echo() -> AsyncGenerator[EchoClient]:
    with tempfile.TemporaryDirectory(prefix="am-") as directory:
        path = str(Path(directory) / "echo")
        pipe = asyncio.subprocess.PIPE
        server = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--echo", path, stdin=pipe, stdout=pipe
        )
        assert server.stdin is not None and server.stdout is not None
        try:
            await server.stdout.readline()
            loop = asyncio.get_running_loop()
            transport, client = await loop.create_unix_connection(EchoClient, path)
            yield client
            transport.close()
        finally:
            server.stdin.close()
            await server.wait()


def frame_of_a_call(worker: LeasedWorker) -> bytes:
    """What the call of a job sends."""
    work = WorkArgs(job=Squares.square.name, args=Squares.square.encode((7,), {}), epoch=1)
    index = worker.machine.index(WorkerStates.WorkRequested)
    return to_frame(Mutate(seq=1000, type=0, states=[index], args=to_raw(work)))


# -- measuring -----------------------------------------------------------------------------


async def seconds_each(call: Callable[[int], Awaitable[object]], count: int) -> list[float]:
    """Seconds of each of `count` calls, one after the other."""
    found: list[float] = []
    for n in range(count):
        started = time.perf_counter()
        await call(n)
        found.append(time.perf_counter() - started)
    return found


async def measure(calls: int) -> None:
    """Prints the median and the 99th percentile of both, and the ratios."""
    options = SupervisorOptions(size=PoolSize(min=1, warm=0, max=1))
    async with (
        Supervisor(Squares, opts=options) as supervisor,
        Client("b", Squares, addrs=[supervisor.address], token=supervisor.token) as client,
        client.lease() as worker,
        open_echo() as echo,
    ):
        frame = frame_of_a_call(worker)
        cases: dict[str, tuple[Callable[[int], Awaitable[object]], list[float]]] = {
            "bare echo": (lambda _: echo.call(frame), []),
            "worker.call": (lambda n: worker.call(Squares.square, n), []),
        }
        for call, _ in cases.values():
            await seconds_each(call, ROUND)  # warm
        while any(len(times) < calls for _, times in cases.values()):
            for call, times in cases.values():
                times += await seconds_each(call, ROUND)
    baseline, case = (percentiles(times) for _, times in cases.values())
    print(f"a call of a job, {calls} calls one after the other, frames of {len(frame)} bytes")
    for name, (p50, p99) in zip(cases, (baseline, case), strict=True):
        print(f"  {name:<12} p50 {p50 * 1e6:7.1f} us   p99 {p99 * 1e6:7.1f} us")
    ratios = [after / before for after, before in zip(case, baseline, strict=True)]
    print(f"  {'ratio':<12} p50 {ratios[0]:7.2f}      p99 {ratios[1]:7.2f}")


def percentiles(times: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    cuts = quantiles(times, n=100)
    return cuts[49], cuts[98]


def run(main: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it exists, as the workers do."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--echo"]:
        run(serve_echo(sys.argv[2]))
    else:
        run(measure(int(sys.argv[1]) if sys.argv[1:] else 5000))
