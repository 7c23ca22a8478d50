"""Processes that are coroutines of the loop that launched them, for tests and simulations.

1. What such a process does, it does in tasks; all of them are its own, and so are those that
   its tasks make. It has ended when none is left.
2. It can be killed at any await. Each of its tasks is cancelled, again in each turn of the
   loop, until it has ended; who goes on in spite of that is told to the loop's handler of
   errors.
3. What is no task (a socket, a timer) a kill must cut, too: `InProcess.on_kill` says how.
4. Its number is none that the system gives, so nothing that is sent to it reaches a stranger.
   There is one environment, one directory and one standard output in a loop: those of a spec
   are left aside, and its output is what it writes by `InProcess.write`.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import Context, ContextVar
from typing import Any, TypeAlias

import msgspec

from amnode.errors import LaunchError
from amnode.launch.entry import Boot
from amnode.launch.output import last_lines, shown
from amnode.launch.process import ExitRecord, LaunchSpec

#: The first number of a process; no system has that many.
FIRST_PID = 2**22 + 1

#: Turns of the loop in which a task that is killed may go on.
_TURNS = 100

#: What a process does: it takes its payload, and returns its exit code, or None for 0.
Body: TypeAlias = "Callable[[bytes, InProcess], Coroutine[Any, Any, int | None]]"

_current: ContextVar[InProcess | None] = ContextVar("amnode_in_process", default=None)


def current() -> InProcess | None:
    """The process that the caller is part of; None outside of any."""
    return _current.get()


class InProcessLauncher:
    """Starts processes that are coroutines.

    Args:
        bodies: what to run where a boot record names a function to run.

    Attributes:
        fallback: "", as there is no other way.
    """

    fallback = ""

    def __init__(self, bodies: Mapping[str, Body]) -> None:
        self._bodies = dict(bodies)
        self._last_pid = FIRST_PID - 1
        self._closed = False

    async def launch(self, spec: LaunchSpec) -> InProcess:
        """Starts a process; see `Launcher`. It never waits.

        Raises:
            LaunchError: the launcher is closed, the boot record is none, or names what it does
                not know.
        """
        if self._closed:
            raise LaunchError("No process can be started: its launcher was closed before.")
        try:
            boot = msgspec.msgpack.decode(spec.boot, type=Boot)
        except msgspec.MsgspecError as error:
            raise LaunchError(f"The boot record is none: {error}.") from None
        body = self._bodies.get(boot.run)
        if body is None:
            known = ", ".join(self._bodies) or "nothing"
            raise LaunchError(
                f"No coroutine stands for `{shown(boot.run)}`: this launcher has {known}."
            )
        self._last_pid += 1
        return InProcess(self._last_pid, body, boot.payload, spec.output_limit)

    async def close(self) -> None:
        """Starts no more; see `Launcher`."""
        self._closed = True


class InProcess:
    """A process that is a coroutine; see `Process`.

    Args:
        pid: its number.
        body: what it does.
        payload: the first argument of that; this object is the second.
        output_limit: bytes of output past which it is cut to the last of them; 0 for never.
    """

    def __init__(self, pid: int, body: Body, payload: bytes, output_limit: int) -> None:
        self._pid = pid
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[ExitRecord] = self._loop.create_future()
        self._output = bytearray()
        self._output_limit = output_limit
        self._record: ExitRecord | None = None
        self._exit_code: int | None = None
        self._signal = ""
        self._terminate: Callable[[], object] | None = None
        self._cuts: list[Callable[[], object]] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._factory = _Factory.of(self._loop)
        context = Context()
        context.run(_current.set, self)
        main = self._loop.create_task(self._main(body, payload), context=context)
        main.set_name(f"process-{pid}")
        main.add_done_callback(self._main_ended)

    def __repr__(self) -> str:
        return f"<InProcess {self.pid}{' ended' if self._record else ''}>"

    # -- for whoever launched it -------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Its number, which is no process's of the system."""
        return self._pid

    @property
    def exited(self) -> asyncio.Future[ExitRecord]:
        """Done when it has ended; see `Process.exited`."""
        return asyncio.shield(self._exited)

    async def wait(self) -> ExitRecord:
        """Waits for the end; cancelling the wait changes nothing for the process."""
        return await asyncio.shield(self._exited)

    def terminate(self) -> bool:
        """Does what the process does at SIGTERM; without that, it ends by it."""
        if self._record is not None:
            return False
        if self._terminate is not None:
            self._loop.call_soon(self._terminate)
            return True
        return self._end_by("SIGTERM")

    def kill(self) -> bool:
        """Ends it wherever it is; False if it has ended."""
        return self._record is None and self._end_by("SIGKILL")

    def is_stopped(self) -> bool:
        """False: a coroutine that stands still has its loop stand still."""
        return False

    async def dump_stack(self, timeout: float = 1.0) -> tuple[str, ...]:
        """Where its tasks are; it takes no time."""
        lines = [line for task in self._living() for line in _stack(task)]
        self.write("".join(f"{line}\n" for line in lines))
        return tuple(map(shown, lines))

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines that it wrote, oldest first, safe to show."""
        return last_lines(bytes(self._output), lines)

    # -- for what it does ---------------------------------------------------------------------

    def write(self, text: str) -> None:
        """Writes to its output."""
        self._output += text.encode("utf-8", "backslashreplace")
        if self._output_limit and len(self._output) > self._output_limit:
            del self._output[: -max(1, self._output_limit // 4)]

    def exit(self, code: int) -> None:
        """Ends it wherever it is, with an exit code, as `os._exit` ends a real one."""
        if self._record is None and not self._is_ending:
            self._exit_code = code
            self._cut_all()

    def on_terminate(self, callback: Callable[[], object]) -> None:
        """Says what it does at SIGTERM, in place of ending by it."""
        self._terminate = callback

    def on_kill(self, callback: Callable[[], object]) -> None:
        """Says what a kill has to cut; the last one first, and before any task is cancelled."""
        self._cuts.append(callback)

    # -- its life ------------------------------------------------------------------------------

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task was made by one of its own (rule 1)."""
        self._tasks = [*self._living(), task]
        if self._is_ending:
            task.cancel("its process has ended")

    async def _main(self, body: Body, payload: bytes) -> int:
        try:
            return int(await body(payload, self) or 0)
        except SystemExit as error:
            if error.code is None or isinstance(error.code, int):
                return error.code or 0
            self.write(f"{error.code}\n")
        except asyncio.CancelledError:
            if self._is_ending:
                raise
            self.write(traceback.format_exc())
        except Exception:
            self.write(traceback.format_exc())
        return 1

    def _main_ended(self, main: asyncio.Task[int]) -> None:
        if not self._is_ending:
            # Cancelled before its first step, it is by nobody who may.
            self._exit_code = 1 if main.cancelled() else main.result()
        elif not main.cancelled():
            main.result()  # what it came to is of no account any more
        self._end_tasks(_TURNS)

    @property
    def _is_ending(self) -> bool:
        return bool(self._signal) or self._exit_code is not None

    def _end_by(self, name: str) -> bool:
        self._signal = name
        self._cut_all()
        return True

    def _cut_all(self) -> None:
        for cut in reversed(self._cuts):
            try:
                cut()
            except Exception as error:
                self._report(f"what cuts process {self.pid} at a kill raised", error)
        self._cuts.clear()
        self._end_tasks(_TURNS)

    def _end_tasks(self, turns: int) -> None:
        """Rule 2; tells its end when no task is left."""
        living = self._living()
        if self._record is not None:
            return
        if living and turns:
            for task in living:
                task.cancel("its process has ended")
            self._loop.call_soon(self._end_tasks, turns - 1)
            return
        for task in living:
            self._report(f"{task.get_name()} goes on although process {self.pid} was ended")
        self._tell()

    def _tell(self) -> None:
        code = None if self._signal else self._exit_code
        seen_at = self._loop.time()
        self._record = ExitRecord(self.pid, code, self._signal, known=True, seen_at=seen_at)
        self._factory.release()
        self._exited.set_result(self._record)

    def _living(self) -> list[asyncio.Task[Any]]:
        return [task for task in self._tasks if not task.done()]

    def _report(self, message: str, error: Exception | None = None) -> None:
        context: dict[str, Any] = {"message": message}
        if error is not None:
            context["exception"] = error
        self._loop.call_exception_handler(context)


def _stack(task: asyncio.Task[Any]) -> list[str]:
    """Where a task is, outermost first, as `faulthandler` writes it."""
    lines = [f"Task {task.get_name()} (most recent call last):"]
    waiting: Any = task.get_coro()
    while (frame := getattr(waiting, "cr_frame", None)) is not None:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
        waiting = waiting.cr_await
    return lines


class _Factory:
    """Makes the tasks of a loop while processes live in it, and tells each whose it is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._users = 0
        self._make: Any = loop.get_task_factory() or _plain_task

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> _Factory:
        """The one of a loop, for one process more."""
        found: Any = loop.get_task_factory()
        if not isinstance(found, _Factory):
            found = cls(loop)
            loop.set_task_factory(found)
        found._users += 1
        return found

    def release(self) -> None:
        """A process has ended; after the last one the loop has its own factory again."""
        self._users -= 1
        ours: Any = self._loop.get_task_factory()
        if not self._users and ours is self:
            make = None if self._make is _plain_task else self._make
            with suppress(RuntimeError):  # the loop is closed
                self._loop.set_task_factory(make)

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any
    ) -> asyncio.Task[Any]:
        """Makes a task, as a loop asks for it."""
        task: asyncio.Task[Any] = self._make(loop, coro, **kwargs)
        context: Context | None = kwargs.get("context")
        owner = _current.get() if context is None else context.get(_current)
        if owner is not None:
            owner.adopt(task)
        return task


def _plain_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any
) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **kwargs)
