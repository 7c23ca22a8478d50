"""The other processes of a benchmark: started on a core, told what to do by lines of JSON.

    async with started(SCRIPT, "unix:/run/x", core=0) as process:
        print(process.ready)                   # what it said when it was ready
        seconds = await process.ask("push")    # runs `commands["push"]()` there

Such a process ends when its input is closed, and so with the one that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from inspect import isawaitable
from pathlib import Path
from typing import Any

#: Bytes of a line, at most.
LIMIT = 1 << 20


class Process:
    """One process that `obey`s.

    Attributes:
        ready: what it said when it was ready.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()
        self.ready: Any = None

    async def ask(self, command: str, **args: object) -> Any:
        """Has a command run there; what it returns."""
        async with self._turn:
            assert self._process.stdin is not None
            line = json.dumps({"command": command, **args}).encode() + b"\n"
            self._process.stdin.write(line)
            return await self.answer()

    async def answer(self) -> Any:
        """Waits for the next line."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("The other process has ended; its own output says why.")
        return json.loads(line)


@contextlib.asynccontextmanager
async def started(script: Path, *args: str, core: int | None = None) -> AsyncGenerator[Process]:
    """Starts a script of this directory; ends it on the way out.

    Args:
        script: what to run.
        args: its arguments.
        core: the only one that it may use; None for all.
    """
    pipe = asyncio.subprocess.PIPE
    place = () if core is None else ("--core", str(core))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), *args, *place, stdin=pipe, stdout=pipe, limit=LIMIT
    )
    assert process.stdin is not None
    try:
        made = Process(process)
        made.ready = await made.answer()
        yield made
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def obey(ready: object, commands: Mapping[str, Callable[..., object]]) -> None:
    """Says what `ready` is, then runs commands until the input is closed."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    settle()
    print(json.dumps(ready), flush=True)
    while line := await lines.readline():
        asked = json.loads(line)
        answer = commands[asked.pop("command")](**asked)
        if isawaitable(answer):
            answer = await answer
        print(json.dumps(answer), flush=True)


def stay(ready: object) -> None:
    """The same for a process without a loop and without commands: its threads serve."""
    settle()
    print(json.dumps(ready), flush=True)
    sys.stdin.read()


def settle() -> None:
    """What was made so far is nothing that the collector has to look at again."""
    gc.collect()
    gc.freeze()


def cores() -> list[int]:
    """Those that this process may use; none where a system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pin(*allowed: int) -> None:
    """Moves all threads of this process to these cores; those to come inherit it."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), allowed)


def take_core(args: list[str]) -> list[str]:
    """Pins this process as `started` wants it; the other arguments."""
    if "--core" not in args:
        return args
    at = args.index("--core")
    pin(int(args[at + 1]))
    return args[:at] + args[at + 2 :]


def raise_descriptors() -> int:
    """Allows as many open files as the system lets this process have; that number."""
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def resident() -> int:
    """Bytes of memory that this process has, after a collection."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run(program: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it exists, as workers do."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(program)
    else:
        uvloop.run(program)
