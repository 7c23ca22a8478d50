"""The one door through which other threads change a machine.

    door = machine.thread_door()            # on the machine's loop
    door.add1("Open", args).result(5)       # on any other thread

A machine belongs to one loop and has no lock. The door passes each call to that loop, in the
order in which one thread made them, and gives a `concurrent.futures.Future` for the answer:

1. A call never runs inside a transition, so its answer is `EXECUTED` or `CANCELED`.
2. What the call raises, such as `StateUnknownError`, the future raises.
3. A future that is cancelled before its turn takes its call back.
4. Once the loop is closed every call fails with `MachineDisposedError`. A call that a loop was
   closed upon is never answered: give `result` a timeout, or close when the threads have ended.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import Context
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from amnode.errors import MachineDisposedError, MachineError
from amnode.machine.queue import Result

if TYPE_CHECKING:
    from amnode.machine.machine import Machine

P = ParamSpec("P")
T = TypeVar("T")


class ThreadDoor:
    """Made by `Machine.thread_door`; may be used by any number of threads at once.

    Attributes:
        loop: of the machine.
    """

    def __init__(self, machine: Machine, loop: asyncio.AbstractEventLoop) -> None:
        self._machine = machine
        self.loop = loop
        self._thread = threading.get_ident()

    def add(self, states: Sequence[str], args: object = None) -> Future[Result]:
        """Asks for states to become active; see `Machine.add`."""
        return self.call(self._machine.add, states, args)

    def add1(self, state: str, args: object = None) -> Future[Result]:
        """Asks for one state to become active; see `Machine.add`."""
        return self.call(self._machine.add1, state, args)

    def remove(self, states: Sequence[str], args: object = None) -> Future[Result]:
        """Asks for states to become inactive; see `Machine.add`."""
        return self.call(self._machine.remove, states, args)

    def remove1(self, state: str, args: object = None) -> Future[Result]:
        """Asks for one state to become inactive; see `Machine.add`."""
        return self.call(self._machine.remove1, state, args)

    def set(self, states: Sequence[str], args: object = None) -> Future[Result]:
        """Asks for exactly these states to be active; see `Machine.add`."""
        return self.call(self._machine.set, states, args)

    def toggle(self, states: Sequence[str], args: object = None) -> Future[Result]:
        """Removes the states if all are active when its turn comes, else adds them."""
        return self.call(self._machine.toggle, states, args)

    def add_err(self, error: BaseException | None) -> Future[Result]:
        """Records an error; see `Machine.add_err`."""
        return self.call(self._machine.add_err, error)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs any plain function on the machine's loop, such as one that reads several states.

        Raises:
            MachineDisposedError: (from the future) the loop is closed.
        """
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                answer = function(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                future.set_result(answer)

        try:
            # An empty context: what a thread asks for has no cause in this machine.
            self.loop.call_soon_threadsafe(run, context=Context())
        except RuntimeError:
            future.set_exception(
                MachineDisposedError(f"The loop of machine {self._machine.id} is closed.")
            )
        return future

    def wait(self, future: Future[T], timeout: float | None = None) -> T:
        """Waits for an answer, and says so where that could never come.

        Args:
            future: what one of the other methods returned.
            timeout: seconds; None, the default, waits without end.

        Raises:
            MachineError: this is the machine's own thread, which would wait for itself.
            TimeoutError: the time is up; the call may still run.
        """
        if threading.get_ident() == self._thread and not future.done():
            raise MachineError(
                f"The thread of machine {self._machine.id} cannot wait for itself; await it."
            )
        return future.result(timeout)
