"""AdoptedProcess: the process of a worker that another supervisor started.

It is nobody's child here: its end is seen, and never how it ended. A process is named by its
number and the time at which it started; another with the same number is not it.

1. Before each signal it is made sure that the number is still that process's (promise S11).
   Whether it is the worker that it was, the worker has proved by then.
2. Its end shows first as the end of its connection. From then on it is looked for until it is
   gone, more and more seldom.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import psutil

from amnode.launch.output import last_lines
from amnode.launch.output_file import TAIL_BYTES
from amnode.launch.process import ExitRecord

#: Seconds until it is looked for again: at first, and at most.
_FIRST_LOOK, _LAST_LOOK = 0.005, 0.5


def started_at(pid: int) -> float:
    """When a process started, as its system counts; 0 if there is none, or it has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return 0.0
        return process.create_time()
    except psutil.Error:
        return 0.0


class AdoptedProcess:
    """A process that was started by somebody else; see `amnode.launch.process.Process`.

    Args:
        pid: its number.
        start: when it started, as `started_at` said then.
        output: the file that it writes to.
    """

    def __init__(self, pid: int, start: float, output: Path) -> None:
        self._pid = pid
        self._start = start
        self._output = output
        self._loop = asyncio.get_running_loop()
        self._exited: asyncio.Future[ExitRecord] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        """Its number; another process may have it once this one has ended."""
        return self._pid

    @property
    def exited(self) -> asyncio.Future[ExitRecord]:
        """Done when its end was seen."""
        return asyncio.shield(self._exited)

    async def wait(self) -> ExitRecord:
        """Waits for the end; cancelling the wait changes nothing for the process."""
        return await asyncio.shield(self._exited)

    def look(self) -> bool:
        """Whether it has ended."""
        if not self._exited.done() and started_at(self._pid) != self._start:
            self._exited.set_result(ExitRecord(self._pid, None, "", False, self._loop.time()))
            self.close()
        return self._exited.done()

    def watch(self, pause: float = _FIRST_LOOK) -> None:
        """Its connection has ended: look for it until it is gone (rule 2)."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.look():
            again = min(2 * pause, _LAST_LOOK)
            self._timer = self._loop.call_later(pause, self.watch, again)

    def terminate(self) -> bool:
        """SIGTERM; False if it has ended, and nothing was sent."""
        return not self.look() and self._send(kill=False)

    def kill(self) -> bool:
        """SIGKILL to it and to what it has started; False if it has ended."""
        return not self.look() and self._send(kill=True)

    async def end(self, term_timeout: float) -> ExitRecord:
        """SIGTERM, then SIGKILL if it has not ended within `term_timeout` seconds."""
        try:
            self.terminate()
            self.watch()
            with suppress(TimeoutError):
                async with asyncio.timeout(term_timeout):
                    return await self.wait()
        finally:
            self.kill()
        return await self.wait()

    def tail(self, lines: int = 20) -> tuple[str, ...]:
        """The last lines that it wrote, oldest first, safe to show; none if they are gone."""
        try:
            data = self._output.read_bytes()
        except OSError:
            return ()
        return last_lines(data[-TAIL_BYTES:], lines, cut=len(data) > TAIL_BYTES)

    def close(self) -> None:
        """Looks for it no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, *, kill: bool) -> bool:
        self.watch()
        try:
            process = psutil.Process(self._pid)
            if process.create_time() != self._start:
                return False
            if not kill:
                process.terminate()
                return True
            for one in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        except psutil.Error:
            return False
        return True
