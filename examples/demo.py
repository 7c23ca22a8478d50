"""A pool at work on real input, and a worker killed half-way.

Workers index Python's own standard library. Each keeps its part of the index to itself, as a
browser keeps its tabs: it is a *stateful* worker, and its client leases it for as long as that
state is needed. When half of the files are done, a busy worker gets SIGKILL. The client learns
why its call failed, leases a replacement that was warm already, sends the dead worker's files
again, and ends with the same index as ever.

    python examples/demo.py [--limit N] [--plain]
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import logging
import os
import signal
import sys
import sysconfig
import time
import warnings
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from amnode import (
    AmnodeError,
    Client,
    LeasedWorker,
    PoolSize,
    State,
    Supervisor,
    SupervisorOptions,
    Worker,
    WorkerError,
    WorkerStates,
    job,
)

if TYPE_CHECKING:
    from demo_screen import Screen

LEASED = 3  # workers that the client takes
POOL = PoolSize(min=LEASED, warm=1, max=LEASED + 2)  # and one more is always warm
DEADLINE = 30.0  # seconds for one file
PATIENCE = 110.0  # seconds for everything
CHECK_EVERY = 10  # one file of so many is counted again at the end, in this process

#: The states of a worker that its line shows, of some 30.
SHOWN = ("Idle", "WorkRequested", "Working", "WorkReady", "Leased", "Releasing", "HasIndex")

UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


# -- the worker, in processes of its own -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Findings:
    """What an index, or one file of it, comes to."""

    files: int = 0
    functions: int = 0
    classes: int = 0
    longest: tuple[int, str] = (0, "")
    unparsable: tuple[str, ...] = ()

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            self.files + other.files,
            self.functions + other.functions,
            self.classes + other.classes,
            max(self.longest, other.longest),
            self.unparsable + other.unparsable,
        )


class IndexerStates(WorkerStates):
    """What every worker does, and one thing that only these do."""

    HasIndex = State(require=("Leased",))
    "It holds a part of the index; that ends with the lease."


class Indexer(Worker):
    """Keeps an index of the files that it was sent, for as long as it is leased."""

    schema = IndexerStates

    def __init__(self) -> None:
        super().__init__()
        self._index: dict[str, Findings] = {}

    @job
    async def index(self, name: str, source: bytes) -> Findings:
        """Parses one file and adds it to the index."""
        self._index[name] = found = parse(name, source)
        self.machine.add1(IndexerStates.HasIndex)
        return found

    @job
    async def summary(self) -> Findings:
        """What the whole index comes to."""
        return sum(self._index.values(), Findings())

    async def on_release(self) -> None:
        """The next client starts with an empty index."""
        self._index.clear()


def parse(name: str, source: bytes) -> Findings:
    """What one file comes to."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file, which is not ours
            nodes = [*ast.walk(ast.parse(source))]
    except UNPARSABLE:
        return Findings(files=1, unparsable=(name,))
    functions = [node for node in nodes if isinstance(node, FUNCTIONS)]
    lengths = [
        ((f.end_lineno or f.lineno) - f.lineno + 1, f"{f.name} in {name}") for f in functions
    ]
    classes = sum(isinstance(node, ast.ClassDef) for node in nodes)
    return Findings(1, len(functions), classes, max(lengths, default=(0, "")))


# -- the client ------------------------------------------------------------------------------


@dataclass(slots=True)
class Lane:
    """One leased worker, what it has indexed, and what became of it."""

    worker: LeasedWorker
    pid: int
    files: list[str] = field(default_factory=list[str])
    current: str = ""
    fate: str = ""

    def row(self) -> tuple[str, int]:
        """Its line. The worker's states are followed live: to read them asks nobody."""
        states = [state for state in self.worker.machine.active_states() if state in SHOWN]
        said = self.fate or " ".join(states)
        done = len(self.files)
        return f"{done:5} files  {self.worker.id}  {said}", done


@dataclass(slots=True)
class Kill:
    """When what happened, in seconds of the monotonic clock, and what had to be done again."""

    pid: int = 0
    sent: float = 0.0
    noticed: float = 0.0
    failed: float = 0.0
    replaced: float = 0.0
    redone: float = 0.0
    lost: tuple[str, ...] = ()


class Run:
    """Sends every file to some worker, and knows which worker has which."""

    def __init__(self, root: Path, names: list[str], screen: Screen) -> None:
        self.root = root
        self.names = names
        self.found: dict[str, Findings] = {}
        self.kill = Kill()
        self._screen = screen
        self._lanes: list[Lane] = []
        self._pending = deque(names)
        self._again: set[str] = set()
        self._half = asyncio.Event()

    async def lane(self, supervisor: Supervisor, client: Client) -> Findings:
        """Keeps one worker busy until no file is left; a dead worker is replaced."""
        while True:
            async with client.lease() as worker:
                if self.kill.failed and not self.kill.replaced:
                    self.kill.replaced = time.monotonic()
                    self._screen.say(f"Leased {worker.id} in its place, which was warm.")
                pids = {row.id: row.pid for row in await supervisor.workers()}
                lane = Lane(worker, pids[worker.id])
                self._lanes.append(lane)
                try:
                    await self._index(lane)
                    found = await worker.call(Indexer.summary)
                except WorkerError as error:
                    if lane.pid != self.kill.pid:
                        raise
                    self._lost(lane, error)
                else:
                    lane.fate = "done"
                    return found

    async def _index(self, lane: Lane) -> None:
        calls = lane.worker.options(deadline=DEADLINE)
        while self._pending:
            lane.current = name = self._pending.popleft()
            source = (self.root / name).read_bytes()
            self.found[name] = await calls.call(Indexer.index, name, source)
            lane.files.append(name)
            lane.current = ""
            if len(self.found) >= len(self.names) // 2:
                self._half.set()
            self._again.discard(name)
            if self.kill.lost and not self._again and not self.kill.redone:
                self.kill.redone = time.monotonic()

    def _lost(self, lane: Lane, error: WorkerError) -> None:
        """Its part of the index died with it: all of that is sent again, before the rest."""
        self.kill.failed = time.monotonic()
        self.kill.lost = (*lane.files, *([lane.current] if lane.current else []))
        self._pending.extendleft(reversed(self.kill.lost))
        self._again.update(self.kill.lost)
        for name in self.kill.lost:
            self.found.pop(name, None)
        lane.fate = f"ended by {error.signal}"
        self._screen.say(f"Its call failed, cause {error.cause.value!r}: {error}")

    async def kill_one(self, supervisor: Supervisor) -> None:
        """Half-way, ends the busy worker that has the most to lose."""
        await self._half.wait()
        busy = [lane for lane in self._lanes if lane.current]
        lane = max(busy, key=lambda lane: len(lane.files))
        self._screen.say(f"SIGKILL to {lane.worker.id} (pid {lane.pid}), in {lane.current}.")
        noticed = supervisor.machine.when1("WorkerKilled")
        self.kill.pid = lane.pid
        self.kill.sent = time.monotonic()
        os.kill(lane.pid, signal.SIGKILL)
        await noticed
        self.kill.noticed = time.monotonic()

    def draw(self) -> None:
        """Shows how far it is."""
        done, total = len(self.found), len(self.names)
        rows = [lane.row() for lane in self._lanes]
        self._screen.draw(total, [(f"{done:5} of {total} files", done), *rows])


async def index(run: Run, screen: Screen) -> Findings:
    """Starts a pool, has it index all files, and stops it; nothing is left running."""
    started = time.monotonic()
    async with Supervisor(Indexer, opts=SupervisorOptions(size=POOL)) as supervisor:
        await supervisor.when_ready()
        screen.say(f"The pool is ready after {time.monotonic() - started:.1f} s.")
        addrs, token = [supervisor.address], supervisor.token
        async with (
            Client("demo", Indexer, addrs=addrs, token=token) as client,
            asyncio.TaskGroup() as group,
        ):
            lanes = [group.create_task(run.lane(supervisor, client)) for _ in range(LEASED)]
            group.create_task(run.kill_one(supervisor))
            while not all(lane.done() for lane in lanes):
                run.draw()
                await asyncio.wait(lanes, timeout=0.1)
    run.draw()
    return sum((lane.result() for lane in lanes), Findings())


# -- what came of it -------------------------------------------------------------------------


def check(run: Run, found: Findings) -> int:
    """Counts some files again, with nothing but `ast` and in this process; returns how many.

    Raises:
        AssertionError: the pool's index is not what it should be.
    """
    assert found.files == len(run.names), f"{found.files} of {len(run.names)} files are there"
    assert set(run.found) == set(run.names), "some files were never answered"
    sample = run.names[::CHECK_EVERY]
    for name in sample:
        there = run.found[name]
        counted = parse(name, (run.root / name).read_bytes())
        assert counted == there, f"{name} has {counted}, but its worker said {there}"
    return len(sample)


def report(run: Run, found: Findings) -> str:
    """First what is the same in every run, then what the kill cost."""
    kill, (lines, longest) = run.kill, found.longest
    redoing = kill.redone - kill.failed
    unparsable = "".join(f"\n{'':10}{name}" for name in sorted(found.unparsable))
    return f"""
Findings
{found.files:8,}  files, all of them in the index
{found.functions:8,}  functions
{found.classes:8,}  classes
{lines:8,}  lines in the longest function, {longest}
{len(found.unparsable):8,}  files that cannot be parsed{unparsable}
{check(run, found):8,}  files counted again in this process: the same

What the kill cost
{(kill.noticed - kill.sent) * 1000:8.1f}  ms until the supervisor had noticed
{(kill.failed - kill.sent) * 1000:8.1f}  ms until the call had failed, with its cause
{(kill.replaced - kill.sent) * 1000:8.1f}  ms until a warm replacement was leased
{len(kill.lost):8,}  files indexed again, which took {redoing:.1f} s; none was lost"""


def main() -> int:
    """Runs the demo; the exit code is 0 if everything that it shows is true."""
    from demo_screen import open_screen  # here, since workers import this file too

    parser = argparse.ArgumentParser(description="A pool at work, and a worker killed.")
    parser.add_argument("--limit", type=int, help="take only so many of the files")
    parser.add_argument("--plain", action="store_true", help="print plain lines")
    args = parser.parse_args()
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path.relative_to(root) for path in root.rglob("*.py")]
    names = sorted(p.as_posix() for p in paths if "site-packages" not in p.parts)[: args.limit]
    if len(names) < 4 * LEASED:
        parser.error(f"{len(names)} files are too few for {LEASED} workers")
    logging.getLogger("amnode").addHandler(logging.NullHandler())  # the demo says it itself
    print(f"{len(names)} files of {root}, for {LEASED} workers and a warm one beside them.")
    try:
        with open_screen(plain=args.plain) as screen:
            run = Run(root, names, screen)
            found = asyncio.run(asyncio.wait_for(index(run, screen), PATIENCE))
        print(report(run, found))
    except KeyboardInterrupt:
        print("Interrupted. Nothing is left running.", file=sys.stderr)
        return 130
    except (AmnodeError, AssertionError, TimeoutError, ExceptionGroup) as error:
        print(f"The demo failed: {error!r}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
