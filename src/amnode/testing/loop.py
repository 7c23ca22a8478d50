"""SimLoop: an event loop whose time is a number, shared by the processes of a simulation.

    post / call_soon / call_at  ->  the queue of a place  ->  one turn of one place

A *place* is a simulated process as the loop sees it: what is asked for while it runs belongs to
it.
Rules:

1. Time stands still while anything can run, then jumps to the next timer.
2. In one place, what was asked for first runs first, as asyncio promises. Which place has the
   next turn, and which of two timers of the same moment comes first, the seed says.
3. A stopped place has no turn; what is meant for it waits. A place that is gone never has one,
   and none of its code runs again, not even to tidy up, until `bury`.
4. Only `post` crosses from one place to another, with an empty context.
5. No thread, no descriptor, no clock of the system is touched.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import BaseEventLoop
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from contextvars import Context
from random import Random
from typing import Any, Final, NoReturn, TypeVar

from amnode.errors import SimulationError

T = TypeVar("T")

#: Turns in one simulated second after which it is taken never to end.
_MOST_TURNS: Final = 20_000
#: Tasks of a place before those that ended are first forgotten.
_TASKS: Final = 32


class ProcessEnded(BaseException):
    """Leaves the code of a process that has ended itself; nothing of it runs afterwards."""


class Place:
    """A simulated process, as the loop sees it.

    Attributes:
        name: shown in traces.
        stopped: whether it has no turns at present.
        gone: whether it will never have one again.
        pauses: how often it was stopped.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopped = False
        self.gone = False
        self.pauses = 0
        self.ready: deque[_Handle | _Timer] = deque()
        #: Whether it is among those that can have a turn.
        self.listed = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._prune_at = _TASKS

    def __repr__(self) -> str:
        state = " gone" if self.gone else " stopped" if self.stopped else ""
        return f"<Place {self.name}{state}>"

    def keep(self, task: asyncio.Task[Any]) -> None:
        """A task was made here; it lives as long as the place, or until it is done."""
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = self.tasks()
            self._prune_at = max(_TASKS, 2 * len(self._tasks))

    def tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that are not done, in the order in which they were made."""
        return [task for task in self._tasks if not task.done()]

    def forget_tasks(self) -> list[asyncio.Task[Any]]:
        """Gives up the tasks that are not done."""
        left, self._tasks = self.tasks(), []
        return left


class _Handle(asyncio.Handle):
    __slots__ = ()

    def run(self) -> None:
        self._run()


class _Timer(asyncio.TimerHandle):
    __slots__ = ()

    def run(self) -> None:
        self._run()


class SimLoop(BaseEventLoop):
    """An event loop in simulated time.

    Args:
        seed: says what asyncio leaves open (rule 2).

    Attributes:
        outer: the place of whoever runs the simulation.
        current: the place whose turn it is.
        turns: how many there have been.
        uncaught: errors that no code could catch, such as those of callbacks.
        after_turn: called with the place after each turn.
        on_exit: called with a place whose code raised SystemExit, and the code of that.
    """

    def __init__(self, seed: str) -> None:
        super().__init__()
        self.outer = Place("world")
        self.current = self.outer
        self.turns = 0
        self.uncaught: list[str] = []
        self.after_turn: Callable[[Place], None] | None = None
        self.on_exit: Callable[[Place, int], None] | None = None
        self._rng = Random(seed)
        self._now = 0.0
        self._serial = 0
        self._turns_now = 0
        self._timers: list[tuple[float, float, int, Place, bool, _Timer]] = []
        self._listed: list[Place] = []
        self._gone: list[Place] = []
        self.set_exception_handler(_note_uncaught)

    # -- what asyncio asks for -------------------------------------------------------------

    def time(self) -> float:
        """Simulated seconds since the start."""
        return self._now

    def call_soon(  # pyright: ignore[reportIncompatibleMethodOverride] - of any arguments
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """See asyncio; it runs in the current place."""
        handle = _Handle(callback, args, self, context)
        self._enqueue(self.current, handle)
        return handle

    call_soon_threadsafe = call_soon  # pyright: ignore[reportAssignmentType] - rule 5

    def call_later(  # pyright: ignore[reportIncompatibleMethodOverride] - of any arguments
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See asyncio; it runs in the current place."""
        return self._schedule(self.current, self._now + delay, callback, args, context)

    def call_at(  # pyright: ignore[reportIncompatibleMethodOverride] - of any arguments
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """See asyncio; it runs in the current place."""
        return self._schedule(self.current, when, callback, args, context)

    def create_task(  # pyright: ignore[reportIncompatibleMethodOverride] - of any version
        self, coro: Coroutine[Any, Any, T], **more: Any
    ) -> asyncio.Task[T]:
        """See asyncio; it runs in the current place."""
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, **more)
        self.current.keep(task)
        return task

    def run_in_executor(self, *_: Any) -> NoReturn:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Rule 5.

        Raises:
            SimulationError: always.
        """
        raise SimulationError("A simulation has no threads; run_in_executor cannot work in it.")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped when its time comes."""

    def _run_once(self) -> None:
        """One turn; asyncio's own `run_forever` calls this."""
        while not self._listed:
            self._advance()
        self._wake_due()
        listed = self._listed
        index = int(self._rng.random() * len(listed)) if len(listed) > 1 else 0
        place = listed[index]
        listed[index] = listed[-1]
        listed.pop()
        place.listed = False
        self._turn(place)

    # -- places ----------------------------------------------------------------------------

    def post(
        self, place: Place, delay: float, callback: Callable[..., object], *args: Any
    ) -> asyncio.TimerHandle:
        """Has something called in a place, some seconds from now (rule 4)."""
        return self._schedule(place, self._now + delay, callback, args, Context(), own=False)

    @contextmanager
    def within(self, place: Place) -> Generator[None]:
        """What is made in the body belongs to another place."""
        before, self.current = self.current, place
        try:
            yield
        finally:
            self.current = before

    def stop_place(self, place: Place) -> None:
        """Takes its turns away."""
        if not place.stopped:
            place.stopped = True
            place.pauses += 1

    def continue_place(self, place: Place) -> None:
        """Gives them back, and all that has waited."""
        place.stopped = False
        self._list(place)

    def end_place(self, place: Place) -> None:
        """It is gone (rule 3)."""
        if not place.gone:
            place.gone = True
            place.ready.clear()
            self._gone.append(place)

    def timers_of(self, place: Place) -> list[str]:
        """What a place has asked to be called for, and not yet been."""
        return [
            repr(handle)
            for *_, owner, own, handle in sorted(self._timers, key=lambda entry: entry[:3])
            if own and owner is place and not handle.cancelled()
        ]

    def bury(self) -> None:
        """Ends what is left of places that are gone; what their code does now has no effect."""
        for place in self._gone:
            with self.within(place):
                while left := place.forget_tasks():
                    for task in left:
                        _close(task)
        self._gone.clear()

    # -- inside ----------------------------------------------------------------------------

    def _schedule(
        self,
        place: Place,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
        *,
        own: bool = True,
    ) -> _Timer:
        timer = _Timer(when, callback, args, self, context)
        if not place.gone:
            self._serial += 1
            entry = (max(when, self._now), self._rng.random(), self._serial, place, own, timer)
            heapq.heappush(self._timers, entry)
        return timer

    def _enqueue(self, place: Place, handle: _Handle | _Timer) -> None:
        if not place.gone:
            place.ready.append(handle)
            self._list(place)

    def _list(self, place: Place) -> None:
        if place.ready and not (place.listed or place.stopped or place.gone):
            place.listed = True
            self._listed.append(place)

    def _advance(self) -> None:
        """Rule 1."""
        timers = self._timers
        while timers and (timers[0][5].cancelled() or timers[0][3].gone):
            heapq.heappop(timers)
        if not timers:
            raise SimulationError(f"Nothing will ever happen any more; {self.who_waits()}")
        if timers[0][0] > self._now:
            if int(timers[0][0]) > int(self._now):
                self._turns_now = 0
            self._now = timers[0][0]
        self._wake_due()

    def _wake_due(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self._now:
            _, _, _, place, _, timer = heapq.heappop(timers)
            if not timer.cancelled():
                self._enqueue(place, timer)

    def _turn(self, place: Place) -> None:
        if place.stopped or place.gone:
            return
        self.turns += 1
        self._turns_now += 1
        if self._turns_now > _MOST_TURNS:
            raise SimulationError(
                f"{_MOST_TURNS} turns in the second from {int(self._now)} s on; the next is of "
                f"{place.name}."
            )
        ready = place.ready
        self.current = place
        try:
            for _ in range(len(ready)):
                if place.gone or place.stopped:
                    break
                handle = ready.popleft()
                if not handle.cancelled():
                    handle.run()
        except SystemExit as error:
            if self.on_exit is None:
                raise
            self.on_exit(place, error.code if isinstance(error.code, int) else 1)
        finally:
            self.current = self.outer
        self._list(place)
        if self.after_turn is not None:
            self.after_turn(place)

    def who_waits(self) -> str:
        """The tasks of the one who runs the simulation, and where they wait."""
        places = [f"{task.get_name()} at {_where(task)}" for task in self.outer.tasks()]
        return "who waits: " + ("; ".join(places) or "nobody") + "."


def _where(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    if not frames:
        return "its start"
    code = frames[-1].f_code
    return f"{code.co_qualname if hasattr(code, 'co_qualname') else code.co_name}"


def _close(task: asyncio.Task[Any]) -> None:
    """Ends a task of a place that is gone, without a word."""
    setattr(task, "_log_destroy_pending", False)  # noqa: B010 - asyncio has no other way
    with suppress(BaseException):  # a dead process has nobody to tell
        task.get_coro().close()


def _note_uncaught(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, SimLoop)
    error, message = context.get("exception"), context["message"]
    # Who is told of an error that nobody fetched depends on when garbage is collected, and a
    # process that was killed fetches nothing.
    if not isinstance(error, ProcessEnded) and not message.endswith("never retrieved"):
        loop.uncaught.append(f"{message}: {error!r}")
