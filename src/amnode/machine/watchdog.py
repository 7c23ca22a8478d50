"""Who holds the loop: one thread that samples the running handlers of watched machines.

    Machine(Door, id="door", handler_timeout=0.1)

A handler is a plain function on the machine's loop. If it does not return, nothing else runs
there, so only another thread can tell. This one looks at the stack of the loop's thread a few
times in each timeout. A frame of `transition.py` with an `event` in it says which handler runs;
the same event in sample after sample is one handler that has not returned. Machines and
transitions do nothing for it, and the machine's own thread reads no clock.

A task that a state owns holds the loop as well, between two of its awaits. When one is seen,
the loop is sent a beat; while that has not come through, the task has not let go.

Who is found is reported twice: at once in the log, since it may never return, and on the loop,
as `ErrHandlerTimeout` (Exception alone where the schema lacks it), once it has.

There is one thread for all machines. It ends with the last one that is watched.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import traceback
import weakref
from types import FrameType
from typing import TYPE_CHECKING, cast

from amnode.errors import HandlerTimeoutError, MachineError, OptionError
from amnode.machine import fast_path
from amnode.machine import transition as transitions
from amnode.machine.transition import Event

if TYPE_CHECKING:
    from amnode.machine.machine import Machine

logger = logging.getLogger("amnode.machine")

#: How often a handler is looked at before its time is up.
SAMPLES = 4

_FILES = (transitions.__file__, fast_path.__file__)


class _Watch:
    """One watched machine, and what was last seen of it."""

    __slots__ = (
        "_beaten",
        "holder",
        "loop",
        "machine",
        "reported",
        "samples",
        "thread",
        "timeout",
    )

    def __init__(
        self, machine: Machine, timeout: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.machine = weakref.ref(machine)
        self.timeout = timeout
        self.loop = loop
        self.thread = threading.get_ident()
        self.holder: Event | asyncio.Task[object] | None = None
        self.samples = 0
        self.reported = False
        self._beaten = False

    def look(self, interval: float) -> FrameType | None:
        """Samples once; the stack if the time of who holds the loop is up, once for each."""
        machine = self.machine()
        frame = sys._current_frames().get(self.thread)  # pyright: ignore[reportPrivateUsage]
        holder = _event_in(frame, machine) or self._running_task(machine)
        if holder is None or holder is not self.holder or self._beaten:
            self.holder, self.samples, self.reported = holder, 0, False
            self._beaten = False
            if isinstance(holder, asyncio.Task):
                self._send_beat()
            return None
        self.samples += 1
        if self.reported or self.samples * interval < self.timeout:
            return None
        self.reported = True
        return frame

    def _running_task(self, machine: Machine | None) -> asyncio.Task[object] | None:
        """The task that the loop runs now, if a state of the machine owns it."""
        task = asyncio.current_task(self.loop)
        if task is None or machine is None or machine.owner_of(task) is None:
            return None
        return task

    def _send_beat(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody holds it
            self.loop.call_soon_threadsafe(self._beat)

    def _beat(self) -> None:
        self._beaten = True

    def who(self, machine: Machine) -> str:
        """Who holds the loop, in words."""
        if isinstance(self.holder, Event):
            return f"Handler {self.holder.name} of machine {machine.id}"
        owner = machine.owner_of(self.holder) if self.holder is not None else None
        return f"A task of {owner} of machine {machine.id}"


class Watchdog:
    """The thread, while there is something to watch; `WATCHDOG` is the only one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watches: dict[int, _Watch] = {}
        self._thread: threading.Thread | None = None

    def watch(self, machine: Machine, timeout: float) -> None:
        """Watches the handlers of a machine until it is disposed, or is no more.

        Args:
            machine: made on its own running loop.
            timeout: seconds that one handler may take.

        Raises:
            OptionError: the timeout is not above 0.
            MachineError: no loop runs here.
        """
        if timeout <= 0:
            raise OptionError(f"handler_timeout is {timeout}; it must be above 0 seconds.")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise MachineError(
                f"Machine {machine.id} has a handler_timeout, which needs a running loop."
            ) from None
        watch = _Watch(machine, timeout, loop)
        machine.on_dispose(self.forget)
        with self._changed:
            self._watches[id(watch)] = watch
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="amnode-watchdog", daemon=True
                )
                self._thread.start()

    def forget(self, machine: Machine) -> None:
        """Watches a machine no more; waits for the thread's end with the last one."""
        with self._changed:
            for key, watch in [*self._watches.items()]:
                if watch.machine() in (machine, None):
                    del self._watches[key]
            self._changed.notify()
            thread = None if self._watches else self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                for key, watch in [*self._watches.items()]:
                    if watch.machine() is None:
                        del self._watches[key]
                if not self._watches:
                    self._thread = None
                    return
                interval = min(w.timeout for w in self._watches.values()) / SAMPLES
                if self._changed.wait(interval):
                    continue  # woken early: this was no full interval
                watches = [*self._watches.values()]
            for watch in watches:
                frame = watch.look(interval)
                if frame is not None:
                    _report(watch, frame)


def _event_in(frame: FrameType | None, machine: Machine | None) -> Event | None:
    """The event of the innermost handler of a machine that this stack is in."""
    while frame is not None and machine is not None:
        if frame.f_code.co_filename in _FILES:
            event = frame.f_locals.get("event")
            if isinstance(event, Event):
                found = cast("Event", event)
                if found.machine is machine:
                    return found
        frame = frame.f_back
    return None


def _report(watch: _Watch, frame: FrameType) -> None:
    machine = watch.machine()
    if machine is None:
        return
    stack = "".join(traceback.format_stack(frame))
    error = HandlerTimeoutError(
        f"{watch.who(machine)} holds the loop for more than {watch.timeout} s. "
        f"Move what blocks into a task or a thread. It is here:\n{stack}"
    )
    # First the loop: whoever reads the log may let the handler go on, and look at the machine.
    with contextlib.suppress(RuntimeError):  # the loop is closed: the log is all there is
        watch.loop.call_soon_threadsafe(_record, machine, error)
    logger.error("%s", error)


def _record(machine: Machine, error: HandlerTimeoutError) -> None:
    if machine.has("ErrHandlerTimeout"):
        machine.add_err_state("ErrHandlerTimeout", error)
    else:
        machine.add_err(error)


WATCHDOG = Watchdog()
