"""A call of a job, beside a bare echo of the same bytes over the same transport.

The case is `await worker.call(Squares.square, n)`: a checked, typed call of a leased worker,
with its states followed by the client. The baseline sends the frame of such a call to a process
that sends it back: a Protocol over a Unix socket, one future a call, uvloop at both ends where
it exists. All processes share one core, so that where the system places them does not count,
and take turns in one run; a ratio is of two turns one after the other.

Beside it, how many calls a second there are with 1, 16 and 100 in flight.

    python benchmarks/call.py [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path

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
from benchmarks.harness import Contender, Figure, figures, standings, take_turns
from benchmarks.processes import cores, pin, run, started

ECHO = Path(__file__).with_name("echo.py")


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
    packed = Squares.square.encode((7,), {})
    work = WorkArgs(job=Squares.square.name, args=memoryview(packed.data), epoch=1)
    index = worker.machine.index(WorkerStates.WorkRequested)
    return to_frame(Mutate(seq=1000, type=0, states=[index], args=to_raw(work)))


# -- measuring -----------------------------------------------------------------------------


async def rate(worker: LeasedWorker, flight: int, seconds: float) -> float:
    """Calls a second, with so many in flight."""
    until = time.perf_counter() + seconds
    numbers = itertools.count()

    async def call_on() -> None:
        while time.perf_counter() < until:
            await worker.call(Squares.square, next(numbers))

    started_at = time.perf_counter()
    await asyncio.gather(*(call_on() for _ in range(flight)))
    return next(numbers) / (time.perf_counter() - started_at)


async def main(rounds: int) -> None:
    """Prints the percentiles and the ratio of a call, then the rates."""
    if allowed := cores():
        pin(allowed[-1])  # what is started from here on is there too
    options = SupervisorOptions(size=PoolSize(min=1, warm=0, max=1))
    async with (
        Supervisor(Squares, opts=options) as supervisor,
        Client("b", Squares, addrs=[supervisor.address], token=supervisor.token) as client,
        client.lease() as worker,
        open_echo() as echo,
    ):
        frame = frame_of_a_call(worker)
        numbers = itertools.count()
        rows = await take_turns(
            [
                Contender(f"an echo of its {len(frame)} bytes", lambda: echo.call(frame)),
                Contender(
                    "worker.call(Squares.square, n)",
                    lambda: worker.call(Squares.square, next(numbers)),
                    goal=2.5,
                ),
            ],
            rounds=rounds,
            count=200,
        )
        standings("one call after the other, one core", rows)
        rates = [
            Figure(f"{flight} in flight", await rate(worker, flight, 1.0), "calls a second")
            for flight in (1, 16, 100)
        ]
        figures("calls of one worker, one core", rates)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="turns of each; 40 by default")
    run(main(parser.parse_args().rounds))
