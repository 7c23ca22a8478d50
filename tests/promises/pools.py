"""Pools for tests: small, with short times, and with a wait on the core's own data."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from amnode import Client, ClientOptions, PoolSize, Supervisor, SupervisorOptions, Worker
from amnode.launch.process import Launcher
from amnode.node.operator_args import WorkerRow
from amnode.node.policy.view import PoolView
from tests.promises.workers import Plain

#: More than anything here takes; what is waited for past it never comes.
PATIENCE = 10.0

#: Times that are waited out in a test are short; those that only bound something are not.
SHORT: dict[str, Any] = {
    "grace": 0.1,
    "stop_grace": 0.1,
    "term_timeout": 0.5,
    "restart_settle": 0.0,
}


class WatchedSupervisor(Supervisor):
    """A supervisor that can be waited for by what its view shows."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._watchers: list[tuple[Callable[[PoolView], bool], asyncio.Future[None]]] = []

    def _publish(self) -> None:
        super()._publish()
        self._core.check()
        view = self.view()
        for condition, future in self._watchers:
            if not future.done() and condition(view):
                future.set_result(None)

    async def until(self, condition: Callable[[PoolView], bool]) -> None:
        """Waits until the view is as wanted."""
        if condition(self.view()):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append((condition, future))
        try:
            async with asyncio.timeout(PATIENCE):
                await future
        except TimeoutError:
            raise AssertionError(f"The pool never got there: {self.view()}") from None
        finally:
            self._watchers.remove((condition, future))

    async def all_idle(self, count: int) -> None:
        """Waits until the pool is whole: so many workers, all of them idle."""
        await self.until(lambda v: v.counts.idle == v.counts.total == v.counts.ready == count)

    async def row(self, worker_id: str) -> WorkerRow:
        """The worker of that id."""
        return next(row for row in await self.workers() if row.id == worker_id)


def server_of(supervisor: Supervisor) -> list[int]:
    """The process that forks its workers, if there is one."""
    pid = getattr(supervisor._launcher, "server_pid", None)
    return [pid] if pid is not None else []


def short(size: int = 1, *, most: int = 0, warm: int = 0, **changes: Any) -> SupervisorOptions:
    """Options of a pool with short times."""
    max_per_client = changes.pop("max_per_client", 0)
    sizes = PoolSize(size, most or size + warm, warm, max_per_client)
    return SupervisorOptions(size=sizes, **(SHORT | changes))


@asynccontextmanager
async def pool(
    size: int = 1,
    kind: type[Worker] = Plain,
    *,
    token: bytes = b"",
    launcher: Launcher | str = "auto",
    **changes: Any,
) -> AsyncIterator[WatchedSupervisor]:
    """A pool whose workers are all idle."""
    opts = short(size, **changes)
    supervisor = WatchedSupervisor(kind, token=token, opts=opts, launcher=launcher)
    async with supervisor:
        await supervisor.when_ready()
        await supervisor.all_idle(size + opts.size.warm)
        yield supervisor


def client_of(
    supervisor: Supervisor, name: str = "me", kind: type[Worker] = Plain, **changes: Any
) -> Client:
    """A client of a supervisor."""
    opts = ClientOptions(**({"request_wait": PATIENCE} | changes))
    return Client(name, kind, addrs=[supervisor.address], token=supervisor.token, opts=opts)


async def gone(pid: int) -> None:
    """Waits until a process has ended, whoever its parent is."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    loop.add_reader(pidfd, lambda: ended.done() or ended.set_result(None))
    try:
        async with asyncio.timeout(PATIENCE):
            await ended
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


def is_alive(pid: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Program:
    """A program of `programs.py` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid

    async def said(self) -> dict[str, Any]:
        """The next thing that it says."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self.process.stdout.readline()
        if not line:
            raise AssertionError(f"The program ended: {await self.errors()}")
        return json.loads(line)

    async def errors(self) -> str:
        """What it wrote as errors, when it has ended."""
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    async def ended(self) -> int:
        """Waits for its end; the exit code, or minus the signal."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def program(name: str, /, **told: Any) -> AsyncIterator[Program]:
    """Starts a program, and ends it if the test does not."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.promises.programs", name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(told).encode() + b"\n")
        process.stdin.close()
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
