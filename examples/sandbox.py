"""A pool of Python sandboxes: each session keeps its variables, and may do its worst.

A session leases one sandbox, and its snippets run there one after the other, as in a notebook.
One that loops for ever, eats all memory or crashes its interpreter costs its own session, and
nobody else. This is no wall: what runs here has the rights of this user. For code that you do
not trust, run the whole pool in a container.

    python examples/sandbox.py
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import resource
import traceback
from dataclasses import dataclass

from amnode import Cause, LeasedWorker, Pool, Worker, WorkerError, job

MEMORY = 1 << 30  # bytes that a sandbox may have
PATIENCE = 1.0  # seconds for one snippet


@dataclass(frozen=True)
class Ran:
    """What came of a snippet: what it printed, and the error that ended it, or ""."""

    output: str
    error: str


class Sandbox(Worker):
    """Runs snippets of Python, for one session at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._variables: dict[str, object] = {}

    async def on_start(self) -> None:
        """Once in each process, before it is ready."""
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    @job(thread=True)  # so that the worker answers while a snippet runs
    def execute(self, snippet: str) -> Ran:
        """Runs statements. Their errors are what this is about, so they are a result."""
        said, error = io.StringIO(), ""
        try:
            with contextlib.redirect_stdout(said):
                exec(compile(snippet, "<snippet>", "exec"), self._variables)  # noqa: S102
        except Exception as caught:
            error = traceback.format_exception_only(caught)[-1].strip()
        return Ran(said.getvalue(), error)

    async def on_release(self) -> None:
        """The next session starts with nothing."""
        self._variables.clear()


async def session(pool: Pool, name: str, *snippets: str) -> None:
    """Runs snippets in a sandbox of its own, and says what came of each."""
    async with pool.lease() as sandbox:
        for snippet in snippets:
            print(f"{name:>5} > {snippet}")
            try:
                ran = await run(sandbox, snippet)
            except WorkerError as error:
                print(f"{name:>5} ! the sandbox is gone: {said_of(error)}")
                return
            for line in (*ran.output.splitlines(), *([ran.error] if ran.error else ())):
                print(f"{name:>5} | {line}")


async def run(sandbox: LeasedWorker, snippet: str) -> Ran:
    """One snippet. Python cannot end a thread, so one that takes too long costs its process."""
    return await sandbox.options(hard_deadline=PATIENCE).call(Sandbox.execute, snippet)


def said_of(error: WorkerError) -> str:
    """Its cause, in the words of a session."""
    if error.cause is Cause.HARD_DEADLINE:
        return f"a snippet took longer than {PATIENCE:g} s"
    return error.signal or f"it ended with exit code {error.exit_code}"


async def main() -> None:
    """Two sessions side by side, then three that do their worst."""
    async with Pool(Sandbox, min=2, warm=1, max=4) as pool:
        await asyncio.gather(
            session(pool, "ann", "x = 6", "print(x * 7)", "print(y)"),
            session(pool, "bob", "y = 'mine'", "print(y, len(y))", "1 / 0"),
        )
        await session(pool, "cy", "x = 1", "while True: x += 1")
        await session(pool, "dee", "import os; os.abort()")
        await session(pool, "eve", "hoard = bytearray(1 << 40)", "print('still here')")
        await session(pool, "ann", "print('x' in globals())")
        await pool.supervisor.machine.when1("PoolNormalized")
        print(f"{len(await pool.workers())} sandboxes are ready.")


if __name__ == "__main__":
    logging.getLogger("amnode").addHandler(logging.NullHandler())  # the sessions say it
    asyncio.run(main())
