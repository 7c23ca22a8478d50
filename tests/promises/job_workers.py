"""Worker classes of the promises about jobs: threads, hooks, progress, buffers, exceptions."""

from __future__ import annotations

import array
import asyncio
import collections
import itertools
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from amnode import (
    Event,
    SendPayloadArgs,
    State,
    Worker,
    WorkerOptions,
    WorkerStates,
    job,
)
from tests.promises.workers import written_to


class JobStates(WorkerStates):
    """A worker that says when the body of a job has begun."""

    Begun = State(require=("Leased",))
    "The body of a job runs."


class TooBig(Exception):
    """One of the worker's own, with arguments and attributes of its own."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"{size} is over {limit}")
        self.size = size
        self.limit = limit
        self.where = object()  # which no message can carry


@dataclass
class Spoilt(Exception):
    """Another one, made as people make them."""

    parts: list[int]


class StrayError(Exception):
    """One that the worker class does not list."""


@dataclass
class Picture:
    """Something with an array in it."""

    name: str
    pixels: npt.NDArray[np.uint8]


@dataclass
class Inner:
    """Nested in an argument."""

    n: int


@dataclass
class Outer:
    """An argument with something in it."""

    inner: Inner
    data: bytes = b""


def raised(kind: str) -> BaseException:
    """What the job `fail` raises."""
    made: dict[str, Any] = {
        "ValueError": lambda: ValueError("no luck", 7),
        "KeyError": lambda: KeyError("x"),
        "OSError": lambda: FileNotFoundError(2, "No such file", "/nowhere"),
        "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        "ImportError": lambda: ImportError("no such", name="nothing"),
        "TooBig": lambda: TooBig(7, 5),
        "Spoilt": lambda: Spoilt([1, 2]),
        "StrayError": lambda: StrayError("who"),
        "StopAsyncIteration": lambda: StopAsyncIteration("over"),
        "unencodable": lambda: ValueError(object()),
        "ExceptionGroup": lambda: ExceptionGroup("both", [ValueError("a")]),
        "TimeoutError": lambda: TimeoutError("mine"),
    }
    return made[kind]()


def counted(path: str) -> int:
    """How often this was called for a file, by whichever process."""
    with Path(path).open("a") as file:
        file.write(".")
    return len(Path(path).read_text())


def is_first(path: str) -> bool:
    """Whether this process is the first that asks; the file then has its number."""
    try:
        with Path(path).open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


class Jobs(Worker):
    """Jobs of all kinds."""

    schema = JobStates
    exceptions = (TooBig, Spoilt)

    def __init__(self) -> None:
        super().__init__(opts=WorkerOptions(orphan_ttl=0.3, release_timeout=0.5))
        self.notes: list[str] = []

    # -- on the thread -----------------------------------------------------------------------

    @job(thread=True)
    def threads(self) -> tuple[bool, int]:
        """Whether this is the main thread, and which one it is."""
        return threading.current_thread() is threading.main_thread(), threading.get_ident()

    @job(thread=True)
    def read(self, path: str) -> str:
        """Blocks until the FIFO `path` is written to."""
        self.begin()
        return Path(path).read_text()

    @job(thread=True)
    def until_cancelled(self) -> None:
        """Asks whether it was told to stop, again and again."""
        self.begin()
        while not job.cancelled():
            time.sleep(0.001)
        self.notes.append("asked")

    @job(thread=True)
    def until_progress_raises(self) -> None:
        """Counts for ever."""
        self.begin()
        try:
            for n in itertools.count():
                job.progress(n)
                time.sleep(0.001)
        finally:
            self.notes.append("raised")

    @job(thread=True)
    def deaf(self) -> None:
        """Never stops, and asks nobody."""
        self.begin()
        while True:
            time.sleep(0.01)

    @job(thread=True)
    def fail_in_thread(self, kind: str) -> None:
        raise raised(kind)

    @job(thread=True)
    def exit_in_thread(self) -> None:
        raise SystemExit(5)

    def begin(self) -> None:
        """Shows `Begun`, from any thread."""
        loop = self.loop
        loop.call_soon_threadsafe(self.machine.add1, JobStates.Begun)

    async def on_start(self) -> None:
        self.loop = asyncio.get_running_loop()

    # -- on the loop -----------------------------------------------------------------------

    @job
    async def fail(self, kind: str) -> None:
        raise raised(kind)

    @job
    async def noted(self) -> list[str]:
        notes, self.notes = self.notes, []
        return notes

    @job
    async def last(self) -> None:
        self.machine.add1(JobStates.Begun)
        try:
            await asyncio.Event().wait()
        finally:
            self.machine.remove1(JobStates.Begun)

    @job
    async def pid(self) -> int:
        return os.getpid()

    @job
    async def block(self, how: str) -> None:
        """Holds the loop, or the whole interpreter."""
        if how == "await":
            await asyncio.Event().wait()
        elif how == "loop":
            while True:
                time.sleep(0.01)  # noqa: ASYNC251 - that is what it is for
        collections.deque(itertools.repeat(0), maxlen=0)

    # -- again, elsewhere ------------------------------------------------------------------

    @job(idempotent=True)
    async def die_first(self, path: str, times: int) -> tuple[int, int]:
        """Ends its process the first times that it is called; says where it ran at last."""
        tries = counted(path)
        if tries <= times:
            os._exit(9)
        return tries, os.getpid()

    @job(idempotent=True)
    async def always_dies(self) -> None:
        os._exit(9)

    @job(idempotent=True)
    async def harmless(self, kind: str) -> None:
        raise raised(kind)

    # -- progress --------------------------------------------------------------------------

    @job
    async def count(self, total: int, gate: str) -> int:
        """Counts to `total`; then waits for the FIFO."""
        for n in range(total + 1):
            job.progress(n, total, f"at {n}")
        if gate:
            await written_to(gate)
        return total

    @job(thread=True)
    def count_in_thread(self, total: int, gate: str) -> int:
        for n in range(total + 1):
            job.progress(n, total)
        if gate:
            fifo = os.open(gate, os.O_RDONLY)
            os.read(fifo, 100)
            os.close(fifo)
        return total

    @job
    async def leave_a_task(self) -> None:
        """Leaves a task behind that reports later."""
        self.left = asyncio.create_task(self.report_later(asyncio.Event()))

    async def report_later(self, gate: asyncio.Event) -> str:
        self.gate = gate
        await gate.wait()
        try:
            job.progress(1)
        except Exception as error:
            return str(error)
        return ""

    @job
    async def what_it_got(self) -> str:
        self.gate.set()
        return await self.left

    # -- values ----------------------------------------------------------------------------

    @job
    async def twice(self, data: bytes) -> bytes:
        return data

    @job
    async def reversed(self, data: bytearray) -> bytearray:
        data.reverse()
        return data

    @job
    async def viewed(self, data: memoryview) -> memoryview:
        return data[:10]

    @job
    async def doubled(self, numbers: array.array) -> array.array:
        return array.array(numbers.typecode, [n * 2 for n in numbers])

    @job
    async def scaled(self, matrix: npt.NDArray[np.float64], by: float = 2.0) -> np.ndarray:
        return matrix * by

    @job
    async def any_array(self, matrix: np.ndarray) -> tuple[str, list[int], np.ndarray]:
        return str(matrix.dtype), list(matrix.shape), matrix

    @job
    async def darker(self, picture: Picture) -> Picture:
        return Picture(picture.name, picture.pixels // 2)

    @job
    async def objects(self) -> np.ndarray:
        return np.array([object()])

    @job
    async def nested(self, outer: Outer) -> int:
        self.notes.append("ran")
        return outer.inner.n

    @job
    async def anything(self, value: Any) -> Any:
        return value


# -- hooks ---------------------------------------------------------------------------------


class Diary(Worker):
    """Its hooks write down when they run, each with the states that show it."""

    path = ""

    def __init__(self) -> None:
        super().__init__(opts=WorkerOptions(orphan_ttl=0.3, release_timeout=0.5))

    def write(self, what: str) -> None:
        shown = [s for s in self.machine.active_states() if s in SHOWN]
        with Path(os.environ["AMNODE_TEST_DIARY"]).open("a") as file:
            file.write(json.dumps([what, shown, self.lease.client_id != ""]) + "\n")

    async def on_start(self) -> None:
        await asyncio.sleep(0)
        self.write("start")

    async def on_lease(self) -> None:
        await asyncio.sleep(0)
        self.write("lease")

    async def on_release(self) -> None:
        self.write("release")

    async def on_stop(self) -> None:
        self.write("stop")

    @job
    async def work(self) -> None:
        self.write("work")


SHOWN = ("SettingUp", "LeaseSettingUp", "Releasing", "TearingDown", "Ready", "Working")


class SlowStart(Jobs):
    """Blocks its loop while it is set up, longer than a connection may take."""

    async def on_start(self) -> None:
        await super().on_start()
        time.sleep(1.0)  # noqa: ASYNC251 - as a model that is loaded does


class NeverStarts(Jobs):
    async def on_start(self) -> None:
        await asyncio.Event().wait()


class FailsToStart(Jobs):
    async def on_start(self) -> None:
        raise ValueError("no licence")


class PickyLease(Jobs):
    """The first lease of the first process fails, or hangs; by a file that all of them see."""

    how = "raise"

    async def on_lease(self) -> None:
        if is_first(os.environ["AMNODE_TEST_DIARY"]):
            if self.how == "raise":
                raise ValueError("not this one")
            await asyncio.Event().wait()


class HangingLease(PickyLease):
    how = "hang"


class DeafStop(Jobs):
    """Its `on_stop` never ends."""

    async def on_stop(self) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue


# -- the plain state interface beside it ---------------------------------------------------


class Order(msgspec.Struct):
    """Arguments of the author's own."""

    dish: str
    count: int = 1


class Meal(msgspec.Struct):
    """What the author sends back."""

    dishes: list[str]


class Kitchen(Worker):
    """Jobs, and handlers of the author's own for work that is asked for by a state."""

    work_args = Order

    @job
    async def square(self, n: int) -> int:
        return n * n

    def WorkRequestedState(self, event: Event) -> None:
        order = event.args
        if isinstance(order, Order):
            self.machine.add1(WorkerStates.Working)
            meal = Meal([order.dish] * order.count)
            data = SendPayloadArgs(name="Meal", data=meal)
            self.machine.add1(WorkerStates.ClientSendPayload, data)
            self.machine.add1(WorkerStates.WorkReady)
