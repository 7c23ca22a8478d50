"""A call of a job, beside a bare echo of the same bytes over the same transport.

The case is `await worker.call(Squares.square, n)`: a checked, typed call of a leased worker,
with its states followed by the client. The baseline sends the frame of such a call to a process
that sends it back: a Protocol over a Unix socket, one future a call, uvloop at both ends where
it exists. Both take turns in one run, so that they see the same machine.

    python benchmarks/call.py
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from benchmarks.harness import Case, Run, measure, table

HEADER = 4  # bytes of a frame's length
REPEATS = 100  # enough calls for a 99th percentile


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


def recorded(call: Callable[[int], Awaitable[object]], times: list[float]) -> Run:
    """Makes calls one after the other, and notes the seconds of each."""

    async def run(count: int) -> None:
        for n in range(count):
            started = time.perf_counter()
            await call(n)
            times.append(time.perf_counter() - started)

    return run


async def main() -> None:
    """Prints the ratio of the means, then the percentiles of both and theirs."""
    options = SupervisorOptions(size=PoolSize(min=1, warm=0, max=1))
    async with (
        Supervisor(Squares, opts=options) as supervisor,
        Client("b", Squares, addrs=[supervisor.address], token=supervisor.token) as client,
        client.lease() as worker,
        open_echo() as echo,
    ):
        frame = frame_of_a_call(worker)
        calls: list[float] = []
        echoes: list[float] = []
        case = Case(
            "worker.call(Squares.square, n)",
            recorded(lambda n: worker.call(Squares.square, n), calls),
            f"an echo of {len(frame)} bytes, as many as a call sends",
            recorded(lambda _: echo.call(frame), echoes),
        )
        print(table("a call", [await measure(case, repeats=REPEATS)]))
    for name, part in (("p50", 49), ("p99", 98)):
        one, other = quantiles(calls, n=100)[part], quantiles(echoes, n=100)[part]
        print(
            f"  {name}: {one * 1e6:.0f} µs, echo {other * 1e6:.0f} µs, ratio {one / other:.1f}"
        )


def run(program: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it exists, as the workers do."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(program)
    else:
        uvloop.run(program)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--echo"]:
        run(serve_echo(sys.argv[2]))
    else:
        run(main())
