"""The program `amnode`, run as a person or a script would."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]

#: More than any command here takes.
PATIENCE = 20.0


class Ended(msgspec.Struct, frozen=True):
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """What it printed, by lines."""
        return self.out.splitlines()

    @property
    def error(self) -> dict[str, Any]:
        """What it wrote as an error under `--json`."""
        return json.loads(self.err)


def environment(**changes: str) -> dict[str, str]:
    """That of the test, without what would lead the program elsewhere."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AMNODE_", "XDG_"))}
    kept = {
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "COLUMNS": "80",
    }
    return {**clean, **kept, **changes}


async def start(*words: object, env: dict[str, str] | None = None, **options: Any) -> Any:
    """Starts the program; the test ends it."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "amnode", *map(str, words)),
        stdin=options.pop("stdin", asyncio.subprocess.DEVNULL),
        stdout=options.pop("stdout", asyncio.subprocess.PIPE),
        stderr=options.pop("stderr", asyncio.subprocess.PIPE),
        env=environment(**(env or {})),
        **options,
    )


async def amnode(*words: object, env: dict[str, str] | None = None, **options: Any) -> Ended:
    """Runs the program to its end."""
    process = await start(*words, env=env, **options)
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())


#: A worker class, and settings that run it; `Project` writes them.
MODULE = '''
import asyncio, os, sys
from collections.abc import AsyncIterator
import msgspec
from amnode import Worker, job

class Point(msgspec.Struct):
    x: int
    y: int = 0

class TooFar(Exception):
    pass

class Squares(Worker):
    exceptions = (TooFar,)

    @job
    async def square(self, n: int) -> int:
        """The square of a number."""
        return n * n

    @job
    async def greet(self, name: str, *, times: int = 1) -> str:
        return " ".join([f"hello {name}"] * times)

    @job
    async def swap(self, point: Point) -> Point:
        return Point(point.y, point.x)

    @job
    async def say(self, text: str) -> None:
        print(text, flush=True)

    @job
    async def upto(self, n: int) -> AsyncIterator[int]:
        for k in range(n):
            job.progress(k + 1, n, "counting")
            yield k
            if k == 2 and n == 99:
                raise TooFar("that is too far")

    @job
    async def parts(self, text: str) -> AsyncIterator[bytes]:
        for part in text.split():
            yield part.encode()

    @job(thread=True)
    def slow(self) -> int:
        job.progress(1, 2, "half")
        return 1

    @job
    async def die(self) -> None:
        print("about to die", flush=True)
        job.progress(9, 10, "nearly dead")
        os._exit(7)

    @job
    async def fail(self) -> None:
        raise ValueError("this job fails")

    @job
    async def forever(self, path: str) -> None:
        job.progress(1, 4, "waiting")
        print("begun", file=open(path, "w"), flush=True)
        await asyncio.Event().wait()
'''
SETTINGS = """
worker = "squares:Squares"
{more}
[size]
min = 1
max = {max}
warm = {warm}
[options]
grace = 0.1
stop_grace = 0.1
restart_settle = 0.0
"""


class Up:
    """A running `amnode up`."""

    def __init__(self, process: asyncio.subprocess.Process, project: Project) -> None:
        self.process = process
        self.project = project
        self.log: list[str] = []

    async def says(self, text: str) -> str:
        """Waits for a line of its log that has this text."""
        assert self.process.stderr is not None
        try:
            async with asyncio.timeout(PATIENCE):
                async for line in self.process.stderr:
                    self.log.append(line.decode())
                    if text in self.log[-1]:
                        return self.log[-1]
        except TimeoutError:
            pass
        raise AssertionError(f"It never said {text!r}: {self.log}")

    async def ended(self) -> int:
        """Waits for its end; the exit code."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            self.log += (await self.process.stderr.read()).decode().splitlines(keepends=True)
            return await self.process.wait()


class Project:
    """A directory with a worker class and its settings, as a user has it.

    Args:
        directory: empty.
        more: lines of the settings.
    """

    def __init__(self, directory: Path, more: str = "", *, max: int = 3, warm: int = 1) -> None:
        self.directory = directory / "project"
        self.directory.mkdir()
        self.env = {"AMNODE_RUN_DIR": str(directory / "run")}
        (self.directory / "squares.py").write_text(MODULE)
        self.settings = self.directory / "amnode.toml"
        self.settings.write_text(SETTINGS.format(more=more, max=max, warm=warm))

    async def run(self, *words: object, **options: Any) -> Ended:
        """Runs the program in it."""
        env = {**self.env, **options.pop("env", {})}
        return await amnode(*words, env=env, cwd=self.directory, **options)

    async def start(self, *words: object, **options: Any) -> asyncio.subprocess.Process:
        """Starts the program in it; the test ends it."""
        env = {**self.env, **options.pop("env", {})}
        return await start(*words, env=env, cwd=self.directory, **options)

    @asynccontextmanager
    async def up(self, *words: object, **options: Any) -> AsyncGenerator[Up, None]:
        """A supervisor that is ready; stopped at the end, if the test has not done so."""
        process = await self.start("up", *words, **options)
        running = Up(process, self)
        try:
            await running.says("The pool is ready")
            yield running
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                await running.ended()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
