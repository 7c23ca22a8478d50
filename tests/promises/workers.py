"""The worker classes of the promises: jobs that wait, fail, die, hang and keep a journal.

They are imported by the processes of the workers, so they stand at the top level of a module.
Nothing here sleeps to be in step with a test: a job says that it has begun by a state
(`Begun`), and goes on when the test writes to its gate.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import amnode
from amnode import Event, State, Worker, WorkerOptions, WorkerStates, job
from amnode.node.args import SendPayloadArgs, Wire
from amnode.rpc.exposure import Exposure


def _proc(name: str) -> bytes:
    return Path(f"/proc/self/{name}").read_bytes()


def _append(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(line)


class BusyStates(WorkerStates):
    """A worker that says when the body of a job has begun."""

    Begun = State(require=("Leased",))
    "The body of a job runs; ended by hand, so that a test can see that it was there."
    Tidying = State(require=("Leased",))
    "A job or a hook waits while it cleans up."


class Point(msgspec.Struct):
    """An argument with a shape."""

    x: int
    y: int = 0


class OddError(Exception):
    """An exception that only this module has."""


class OddExit(BaseException):
    """One that `except Exception` lets pass."""


class MuteError(Exception):
    """One that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


#: What a job can raise, beside an ordinary exception.
ODD: dict[str, Callable[[], BaseException]] = {
    "GeneratorExit": GeneratorExit,
    "OddExit": lambda: OddExit("out of here"),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("both", [KeyboardInterrupt()]),
    "MuteError": MuteError,
    "a lone surrogate": lambda: OddError("half of a pair: \udc80"),
    "5 MB": lambda: OddError("x" * 5_000_000),
}


async def written_to(path: str) -> str:
    """What is written to the FIFO `path`, when it is."""
    loop = asyncio.get_running_loop()
    fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    written = loop.create_future()
    loop.add_reader(fifo, lambda: written.done() or written.set_result(None))
    try:
        await written
        return os.read(fifo, 100).decode()
    finally:
        loop.remove_reader(fifo)
        os.close(fifo)


def nested(depth: int) -> list[Any]:
    """A list in a list in a list, so many times."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


class Plain(Worker):
    """Has no `on_release`: after an unclean end it is replaced."""

    schema = BusyStates

    def __init__(self, release_timeout: float = 0.5) -> None:
        super().__init__(opts=WorkerOptions(orphan_ttl=0.3, release_timeout=release_timeout))
        self.kept: list[str] = []
        self.ran = 0

    # -- plain work --------------------------------------------------------------------------

    @job
    async def square(self, n: int) -> int:
        self.ran += 1
        return n * n

    @job
    async def add(self, a: int, b: int = 1) -> int:
        self.ran += 1
        return a + b

    @job
    async def norm(self, point: Point) -> int:
        self.ran += 1
        return abs(point.x) + abs(point.y)

    @job
    async def length(self, data: bytes) -> int:
        self.ran += 1
        return len(data)

    @job
    async def zeros(self, size: int) -> bytes:
        return bytes(size)

    @job
    async def count_of_runs(self) -> int:
        return self.ran

    @job
    async def hoard(self, size: int) -> None:
        """Keeps so many bytes, all of them touched."""
        self.hoarded = b"x" * size

    @job
    async def pid(self) -> int:
        return os.getpid()

    @job
    async def keep(self, text: str) -> list[str]:
        self.kept.append(text)
        return self.kept

    @job
    async def say(self, text: str) -> None:
        print(text, flush=True)

    @job
    async def epoch(self) -> tuple[str, int]:
        return self.machine.id, self.lease.epoch

    @job
    async def seen_from_inside(self) -> tuple[list[str], dict[str, str]]:
        """The command line of this process, and its environment as the system shows it."""
        line, shown = _proc("cmdline"), _proc("environ")
        return [repr(line)], dict(os.environ) | {"/proc": repr(shown)}

    # -- work that lasts -------------------------------------------------------------------

    @job
    async def last(self) -> None:
        """Never ends by itself; `Begun` ends when it has been cancelled."""
        self.machine.add1(BusyStates.Begun)
        try:
            await asyncio.Event().wait()
        finally:
            self.kept.append("cancelled")
            self.machine.remove1(BusyStates.Begun)

    @job
    async def gate(self, path: str) -> str:
        """Ends when something is written to the FIFO `path`, and returns it."""
        self.machine.add1(BusyStates.Begun)
        try:
            return await written_to(path)
        finally:
            self.machine.remove1(BusyStates.Begun)

    @job
    async def tidy_up(self, path: str) -> None:
        """Never ends by itself; cleans up until the FIFO `path` is written to."""
        self.machine.add1(BusyStates.Begun)
        try:
            await asyncio.Event().wait()
        finally:
            self.machine.remove1(BusyStates.Begun)
            self.machine.add1(BusyStates.Tidying)
            await written_to(path)
            self.kept.append("tidied up")
            self.machine.remove1(BusyStates.Tidying)

    @job
    async def ignore_one_cancel(self) -> str:
        """Is cancelled once and ends in its own time."""
        self.machine.add1(BusyStates.Begun)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.kept.append("ignored")
        self.machine.remove1(BusyStates.Begun)
        return "done all the same"

    @job
    async def ignore_cancels(self, count: int) -> None:
        """Goes on until it has been cancelled more often than that."""
        for _ in range(count):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.Event().wait()

    @job
    async def stubborn(self) -> None:
        """Never stops."""
        self.machine.add1(BusyStates.Begun)
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    @job
    async def stubborn_in_silence(self) -> None:
        """Never stops, and has nowhere to write to."""
        sys.stdout.close()
        sys.stderr.close()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    @job
    async def block(self, seconds: float) -> None:
        """Holds the loop."""
        time.sleep(seconds)  # noqa: ASYNC251 - that is what it is for

    @job
    async def hold_the_interpreter(self) -> None:
        """Blocks in C code that lets no other thread run and looks for no signal."""
        collections.deque(itertools.repeat(0), maxlen=0)

    @job
    async def daemon(self) -> int:
        """A process in a session of its own, whose parent is gone."""
        script = "setsid sleep 1000 >/dev/null 2>&1 & echo $!"
        return int(subprocess.check_output(["sh", "-c", script]))  # noqa: ASYNC221 - a moment

    @job
    async def relatives(self) -> tuple[int, list[str]]:
        """Its parent, and the modules that it has."""
        return os.getppid(), sorted(sys.modules)

    @job
    async def grandchild(self) -> int:
        """A process of the worker's own, in its group; lives until it is ended."""
        process = await asyncio.create_subprocess_exec("sleep", "1000")
        return process.pid

    # -- work that fails -------------------------------------------------------------------

    @job
    async def fail(self, text: str) -> None:
        raise OddError(text)

    @job
    async def fail_oddly(self, how: str) -> None:
        raise ODD[how]()

    @job
    async def fail_as_amnode_does(self, name: str) -> None:
        raise getattr(amnode, name)("made by the job")

    @job
    async def echo(self, value: Any) -> Any:
        self.ran += 1
        return value

    @job
    async def nested(self, depth: int) -> Any:
        return nested(depth)

    @job
    async def unencodable(self) -> Any:
        return object()

    @job
    async def die(self, how: str) -> None:
        """Ends its process in one of many ways."""
        print(f"about to die: {how}", flush=True)
        if how == "exit":
            os._exit(3)
        elif how == "sys.exit":
            sys.exit(4)
        elif how == "interrupt":
            raise KeyboardInterrupt
        os.kill(os.getpid(), getattr(signal, how))

    # -- a journal -------------------------------------------------------------------------

    @job
    async def stamp(self, journal: str, client: str) -> int:
        """Writes who was served, when, and in which epoch; in one write each."""
        start = time.monotonic_ns()
        await asyncio.sleep(0)
        line = f"{self.machine.id} {self.lease.epoch} {client} {start} {time.monotonic_ns()}\n"
        _append(journal, line)
        return self.lease.epoch


class Preloading(Plain):
    """Wants something to be there before it is forked."""

    kind = "Plain"
    preload = ("colorsys",)


class Cleaned(Plain):
    """Clears what its client left, so it is used again whatever happened."""

    schema = BusyStates
    kind = "Plain"

    async def on_release(self) -> None:
        self.kept = [f"released epoch {self.lease.epoch}"]


class FailingHook(Plain):
    """Its hook raises."""

    kind = "Plain"

    async def on_release(self) -> None:
        raise OddError("the hook is broken")


class HookExits(Plain):
    """Its hook raises what `except Exception` lets pass."""

    kind = "Plain"

    async def on_release(self) -> None:
        raise OddExit("the hook is out of here")


class DeafHook(Plain):
    """Its hook never ends, whoever cancels it."""

    kind = "Plain"

    async def on_release(self) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue


class Patient(Plain):
    """Gives jobs and its hook all the time that they want to end."""

    kind = "Plain"

    def __init__(self) -> None:
        super().__init__(release_timeout=1000.0)
        self.gate_of_hook = ""

    @job
    async def hold_hook(self, path: str) -> None:
        """The next hook ends when the FIFO `path` is written to."""
        self.gate_of_hook = path

    async def on_release(self) -> None:
        if self.gate_of_hook:
            self.machine.add1(BusyStates.Tidying)
            await written_to(self.gate_of_hook)
            self.gate_of_hook = ""
            self.kept.append("hook ran")
            self.machine.remove1(BusyStates.Tidying)


class FaultyStates(BusyStates):
    """A worker with a state of its author."""

    Poked = State()


class FaultyHandler(Plain):
    """The handler of its own state raises."""

    schema = FaultyStates
    kind = "Plain"

    def PokedState(self, event: Event) -> None:
        raise OddError("the handler is broken")

    @job
    async def poke(self) -> None:
        self.machine.add1(FaultyStates.Poked)


class NoSuchThing(Plain):
    """Cannot be made."""

    def __init__(self) -> None:
        print("looking for the licence", flush=True)
        raise OddError("there is no licence")


class Gated(Plain):
    """Is made when somebody writes to the FIFO that the environment names."""

    def __init__(self) -> None:
        super().__init__()
        with Path(os.environ["AMNODE_TEST_GATE"]).open("rb") as gate:
            gate.read(1)


class OtherStates(WorkerStates):
    """Another schema."""

    Elsewhere = State()


class Other(Worker):
    """Another kind."""

    schema = OtherStates


class Told(Wire, frozen=True):
    """A payload."""

    text: str


class TickerStates(WorkerStates):
    """A worker with states of its author."""

    Paused = State()
    "Open to the client."
    Closed = State()
    "Not open to it."


class Ticker(Worker):
    """Works by plain states."""

    schema = TickerStates

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.asked_plainly = False

    def exposure(self) -> Exposure:
        base = super().exposure()
        own = {TickerStates.Paused: None}
        return Exposure(
            mutable={**base.mutable, **own},
            removable={**base.removable, **own},
            implied=base.implied,
        )

    @job
    async def ticks(self) -> int:
        return self.count

    def WorkRequestedState(self, event: Event) -> None:
        if event.args is None or not event.args.job:
            self.asked_plainly = True
            self.machine.add1(TickerStates.Working)

    def WorkingState(self, event: Event) -> None:
        if self.asked_plainly:
            self.asked_plainly = False
            self.count += 1
            told = SendPayloadArgs(name="Told", data=Told(text="ticked"))
            self.machine.add1(TickerStates.ClientSendPayload, told)
            self.machine.add1(TickerStates.WorkReady)
