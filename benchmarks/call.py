"""A call of a job, beside a bare echo of the same bytes over the same transport.

The case is `await worker.call(Squares.square, n)`: a checked, typed call of a leased worker,
with its states followed by the client. The baseline sends the frame of such a call to a process
that sends it back: a Protocol over a Unix socket, one future a call, uvloop at both ends where
it exists. Both take turns in one run, so that they see the same machine.

    python benchmarks/call.py
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from statistics import quantiles

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

from benchmarks.echo import EchoClient, connected
from benchmarks.harness import Case, Run, measure, table
from benchmarks.processes import run, started

ECHO = Path(__file__).with_name("echo.py")
REPEATS = 100  # enough calls for a 99th percentile


class Squares(Worker):
    """Next to no work, so that what is measured is the call."""

    @job
    async def square(self, n: int) -> int:
        return n * n


# -- the baseline --------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def open_echo() -> AsyncGenerator[EchoClient]:
    with tempfile.TemporaryDirectory(prefix="am-") as directory:
        async with (
            started(ECHO, f"unix:{directory}/echo") as server,
            connected(server.ready) as client,
        ):
            yield client


def frame_of_a_call(worker: LeasedWorker) -> bytes:
    """What the call of a job sends."""
    work = WorkArgs(job=Squares.square.name, args=Squares.square.encode((7,), {}), epoch=1)
    index = worker.machine.index(WorkerStates.WorkRequested)
    return to_frame(Mutate(seq=1000, type=0, states=[index], args=to_raw(work)))


# -- measuring -----------------------------------------------------------------------------


def recorded(call: Callable[[int], Awaitable[object]], times: list[float]) -> Run:
    """Makes calls one after the other, and notes the seconds of each."""

    async def run_calls(count: int) -> None:
        for n in range(count):
            before = time.perf_counter()
            await call(n)
            times.append(time.perf_counter() - before)

    return run_calls


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


if __name__ == "__main__":
    run(main())
