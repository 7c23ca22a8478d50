"""A machine in another process, beside a bare echo of as many bytes over the same transport.

The case is `await client.source.add1("On")`. The baseline is a Protocol that sends frames back,
one future a call, on the same loop and in the same two processes: what nobody can avoid. Other
libraries do the same trip with bytes of the same size. All of one table take turns.

    python benchmarks/rpc.py                 # all tables; a minute or two
    python benchmarks/rpc.py calls large     # some of: calls flight push crowd large
    python benchmarks/rpc.py --long          # ten times as many rounds
    python benchmarks/rpc.py --quick         # next to none: whether it runs

docs/benchmarks.md shows the figures, and how they can mislead.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from amnode.rpc.client import RpcClient
from amnode.rpc.network_machine import NetworkMachine
from benchmarks.echo import EchoClient, connected, raw_connected, raw_echo
from benchmarks.harness import (
    Contender,
    Figure,
    Standing,
    figures,
    standing,
    standings,
    take_turns,
)
from benchmarks.peers import PEERS, installed
from benchmarks.processes import (
    Process,
    cores,
    pin,
    raise_descriptors,
    run,
    settle,
    started,
)
from benchmarks.rpc_board import ASKED, BOARD, LARGE, MIB, SECRET, Data, options

HERE = Path(__file__).parent
TRANSPORTS = ("unix", "tcp")
#: Messages that are in flight at once.
FLIGHT = 100


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        rounds: turns of each.
        count: calls in one turn.
        crowd: clients of one source.
        large: bytes of the large echo.
        places: how many of `places` are taken.
    """

    rounds: int = 20
    count: int = 100
    crowd: int = 1000
    large: int = LARGE
    places: int = 2


QUICK = Size(rounds=2, count=5, crowd=20, large=MIB, places=1)


@dataclass(frozen=True)
class Place:
    """Where the two processes run: on these cores, or wherever the system puts them."""

    name: str
    here: int | None = None
    there: int | None = None


def places() -> list[Place]:
    """One core, and two; only where a process can be pinned."""
    usable = cores()
    if not usable:
        print("This system pins no process to a core; it is free to move them.")
        return [Place("any core")]
    made = [Place("one core", usable[0], usable[0])]
    if len(usable) > 1:
        made.append(Place("two cores", usable[0], usable[1]))
    return made


# -- the two ends ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Ends:
    """What is connected to a serving process: the replica, and the bare echo."""

    process: Process
    source: NetworkMachine
    echo: EchoClient
    raw: str


@contextlib.asynccontextmanager
async def served(
    transport: str, directory: str, core: int | None = None, large: int = LARGE
) -> AsyncGenerator[Process]:
    """The serving process."""
    limit = str(frame_limit(large))
    script = HERE / "rpc_served.py"
    async with started(script, transport, directory, limit, core=core) as process:
        yield process


def frame_limit(large: int) -> int:
    """What a connection has to allow so that this many bytes cross in one frame."""
    return large + MIB


@contextlib.asynccontextmanager
async def joined(
    transport: str, place: Place, large: int = LARGE
) -> AsyncGenerator[Ends | None]:
    """Both ends, in their places; None if the transport does not exist."""
    here = cores()
    if place.here is not None:
        pin(place.here)
    try:
        with tempfile.TemporaryDirectory(prefix="am-") as directory:
            async with served(transport, directory, place.there, large) as process:
                if not process.ready["mux"]:
                    print(f"{transport} is left out: {process.ready['why']}")
                    yield None
                    return
                client = RpcClient(
                    process.ready["mux"],
                    id="rc-bench",
                    secret=SECRET,
                    schema=BOARD,
                    options=options(frame_limit(large)),
                )
                async with connected(process.ready["echo"]) as echo:
                    await client.start()
                    try:
                        yield Ends(process, client.source, echo, process.ready["raw"])
                    finally:
                        await client.stop()
    finally:
        if place.here is not None:
            pin(*here)


def mutation(source: NetworkMachine) -> Callable[[], Awaitable[object]]:
    """Turns a state of the source on and off, one call each."""
    add1, remove1, is1 = source.add1, source.remove1, source.is1
    return lambda: remove1("On") if is1("On") else add1("On")


# -- 1: one call after the other -------------------------------------------------------------

#: By transport; over a socket of one host there is less that all have to bear.
CALL_GOALS = {("unix", "one core"): 2.0, ("tcp", "one core"): 1.5}
CALL_GOAL = 1.5


async def calls(size: Size) -> None:
    versions = installed()
    for place in places()[: size.places]:
        for transport in TRANSPORTS:
            async with joined(transport, place) as ends:
                if ends is None:
                    continue
                await _calls(size, ends, transport, place, versions)


async def _calls(
    size: Size, ends: Ends, transport: str, place: Place, versions: dict[str, str]
) -> None:
    goal = CALL_GOALS.get((transport, place.name), CALL_GOAL)
    contenders = [
        Contender("a bare echo", lambda: ends.echo.call(ASKED)),
        Contender("await source.add1, remove1", mutation(ends.source), goal),
    ]
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="am-"))
        for name, version in versions.items():
            peer = PEERS[name]
            address = "tcp:127.0.0.1:0"
            if transport == "unix":
                address = f"unix:{directory}/{peer.package}"
            script = HERE / "peers.py"
            process = await stack.enter_async_context(
                started(script, name, address, core=place.there)
            )
            call = await stack.enter_async_context(peer.connect(process.ready))
            contenders.append(
                Contender(f"{name} {version}, {peer.style}", partial(call, ASKED))
            )
        rows = await take_turns(contenders, rounds=size.rounds, count=size.count)
    standings(f"one call after the other, {transport}, {place.name}", rows)


# -- 2: many in flight -----------------------------------------------------------------------


async def flight(size: Size) -> None:
    for place in places()[: size.places]:
        for transport in TRANSPORTS:
            async with joined(transport, place) as ends:
                if ends is not None:
                    await _flight(size, ends, f"{transport}, {place.name}")


async def _flight(size: Size, ends: Ends, where: str) -> None:
    echo, source = ends.echo, ends.source

    async def echoes() -> None:
        for each in [echo.call(ASKED) for _ in range(FLIGHT)]:
            await each

    async def mutations() -> None:
        add1, remove1 = source.add1, source.remove1
        sent = [(remove1 if n & 1 else add1)("On") for n in range(FLIGHT)]
        for each in sent:
            await each

    rows = await take_turns(
        [
            Contender("a bare echo", echoes, per=FLIGHT),
            Contender("source.add1, remove1", mutations, 2, per=FLIGHT),
        ],
        rounds=size.rounds,
        count=max(size.count // 10, 2),
    )
    standings(f"{FLIGHT} in flight, each, {where}", rows)
    bare, ours = (1 / row.p50 for row in rows)
    print(
        f"  a second: {ours:,.0f}, bare {bare:,.0f}; {1 / rows[1].ratio:.2f} of it,"
        f" quiet {1 / rows[1].quiet:.2f}, goal 0.5"
    )


# -- 3: a push -------------------------------------------------------------------------------


async def push(size: Size) -> None:
    for place in places()[: size.places]:
        for transport in TRANSPORTS:
            async with joined(transport, place) as ends:
                if ends is not None:
                    await _push(size, ends, f"{transport}, {place.name}")


async def _push(size: Size, ends: Ends, where: str) -> None:
    """Times are of the clock that both processes share."""
    ours: list[list[float]] = []
    bare: list[list[float]] = []
    await _pushes(ends, size.count)
    for _ in range(size.rounds // 4 or 1):
        bare.append([await _bare_push(ends) for _ in range(size.count)])
        ours.append(await _pushes(ends, size.count))
    names = ("a bare frame, one way", "a state of the source seen")
    rows = [
        standing(Contender(name, lambda: None, goal), turns, bare)
        for name, goal, turns in zip(names, (None, 1.5), (bare, ours), strict=True)
    ]
    standings(f"a push, {where}", rows)


async def _pushes(ends: Ends, count: int) -> list[float]:
    return [await _one_push(ends) for _ in range(count)]


async def _one_push(ends: Ends) -> float:
    source = ends.source
    wait = source.when_not1("Pushed") if source.is1("Pushed") else source.when1("Pushed")
    asked = asyncio.create_task(ends.process.ask("push"))
    await wait
    seen = time.monotonic()
    return seen - await asked


async def _bare_push(ends: Ends) -> float:
    frame = ends.echo.next_frame()
    asked = asyncio.create_task(ends.process.ask("push_frame"))
    await frame
    seen = time.monotonic()
    return seen - await asked


# -- 4: a crowd ------------------------------------------------------------------------------

#: Processes that share the clients.
CROWDS = 2
#: Clients of each that are there before memory is measured: what all share exists by then.
FIRST = 10


async def crowd(size: Size) -> None:
    files = raise_descriptors()
    count = min(size.crowd, (files - 100) // 2)
    if count < size.crowd:
        print(f"Only {files} open files are allowed here: {count} clients, not {size.crowd}.")
    for transport in TRANSPORTS:
        bare = await _crowd(transport, "connect", "push_frame", count // CROWDS, size)
        ours = await _crowd(transport, "follow", "push", count // CROWDS, size)
        if bare is None or ours is None:
            continue
        figures(
            f"{count} clients of one source, {transport}",
            [
                Figure("memory of one at the server", ours.server, "KiB", 16),
                Figure("... a bare connection", bare.server, "KiB"),
                Figure("memory of one at the client", ours.client, "KiB"),
                Figure("... a bare connection", bare.client, "KiB"),
                Figure("a change, until all have seen it", ours.seconds * 1e3, "ms, p50", 50),
                Figure("... a bare frame to each", bare.seconds * 1e3, "ms, p50"),
            ],
        )


@dataclass(frozen=True)
class Crowd:
    """What was measured: KiB of a client at both ends, seconds until all have seen it."""

    server: float
    client: float
    seconds: float


async def _crowd(
    transport: str, how: str, push_how: str, each: int, size: Size
) -> Crowd | None:
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="am-"))
        process = await stack.enter_async_context(served(transport, directory))
        address = process.ready["echo" if how == "connect" else "mux"]
        if not address:
            print(f"{transport} is left out: {process.ready['why']}")
            return None
        script = HERE / "rpc_crowd.py"
        crowds = [
            await stack.enter_async_context(started(script, f"{n}", f"{each}"))
            for n in range(CROWDS)
        ]
        first = min(FIRST, each // 2)
        await _all(crowds, how, address=address, first=0, last=first)
        before = await process.ask("resident"), sum(await _all(crowds, "resident"))
        await _all(crowds, how, address=address, first=first, last=each)
        after = await process.ask("resident"), sum(await _all(crowds, "resident"))
        added = (each - first) * CROWDS * 1024
        memory = [(b - a) / added for a, b in zip(before, after, strict=True)]
        times = [await _until_last(process, crowds, push_how) for _ in range(size.rounds)]
        await _all(crowds, "close")
        return Crowd(*memory, median(times))


async def _until_last(process: Process, crowds: Sequence[Process], how: str) -> float:
    seen = asyncio.create_task(_all(crowds, "last"))
    begun = await process.ask(how)
    return max(await seen) - begun


async def _all(crowds: Sequence[Process], command: str, **args: object) -> list[float]:
    return await asyncio.gather(*(each.ask(command, **args) for each in crowds))


# -- 5: large data ---------------------------------------------------------------------------


def same(data: bytes) -> bytes:
    """What the executor runs."""
    return data


async def large(size: Size) -> None:
    data = bytes(size.large)
    spawning = get_context("spawn")
    for transport in TRANSPORTS:
        async with joined(transport, Place("any core"), size.large) as ends:
            if ends is None:
                continue
            with (
                raw_connected(ends.raw) as raw,
                ProcessPoolExecutor(1, mp_context=spawning) as pool,
            ):
                await _large(size, data, transport, ends.source, raw, pool)


async def _large(
    size: Size,
    data: bytes,
    transport: str,
    source: NetworkMachine,
    raw: socket.socket,
    pool: ProcessPoolExecutor,
) -> None:
    contenders = [
        Contender("blocking sockets", lambda: raw_echo(raw, data)),
        Contender(
            "await source.request",
            lambda: source.request(["Echo"], Data(data), result_type=bytes),
            2,
        ),
        Contender("ProcessPoolExecutor", lambda: pool.submit(same, data).result()),
    ]
    rows: list[Standing] = await take_turns(
        contenders, rounds=max(size.rounds // 4, 2), count=2
    )
    standings(f"{size.large / MIB:g} MiB there and back, {transport}", rows)
    rates = (2 * size.large / MIB / row.p50 for row in rows)
    raw_rate, ours, executor = (f"{rate:,.0f}" for rate in rates)
    print(
        f"  MiB a second, both ways: {ours}, raw {raw_rate}, executor {executor}; "
        f"{1 / rows[1].ratio:.2f} of raw, goal 0.5"
    )


TABLES = {"calls": calls, "flight": flight, "push": push, "crowd": crowd, "large": large}


async def main(names: Sequence[str], size: Size) -> None:
    settle()
    for name in names or [*TABLES]:
        await TABLES[name](size)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=" ".join(TABLES))
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--long", action="store_true", help="ten times as many rounds")
    length.add_argument("--quick", action="store_true", help="whether it runs")
    asked = parser.parse_args()
    if unknown := [name for name in asked.tables if name not in TABLES]:
        parser.error(f"no such table: {', '.join(unknown)}; there are {', '.join(TABLES)}")
    long = replace(Size(), rounds=10 * Size().rounds)
    run(main(asked.tables, QUICK if asked.quick else long if asked.long else Size()))
