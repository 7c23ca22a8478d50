"""A pool around a program that is slow to start, and talks in lines.

Such as a chess engine, an algebra system, a licensed solver. Each worker keeps one running, so
that who leases it has no start to wait for. The stand-in below takes a second to come up, and
crashes when it is told to; any program that answers a line with a line does as well:

    python examples/external_program.py
    python examples/external_program.py bc -q
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from contextlib import suppress

import psutil

from amnode import Pool, State, Worker, WorkerError, WorkerStates, job

COMMAND = "EXAMPLE_COMMAND"  # the variable that tells the workers which program it is
ANSWER = 5.0  # seconds that an answer may take


class EngineStates(WorkerStates):
    """What every worker does, and one thing that only these do."""

    Up = State()
    "The program runs. A worker whose program has ended starts it again."


class EngineEnded(Exception):
    """The program ended while it was asked."""


class Engine(Worker):
    """Keeps one program running, and asks it."""

    schema = EngineStates
    exceptions = (EngineEnded,)  # what arrives at the caller as itself

    async def on_start(self) -> None:
        """The slow part: no client has to wait for it."""
        await self._start()

    async def _start(self) -> None:
        self._program = await asyncio.create_subprocess_exec(
            *os.environ[COMMAND].split("\n"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        await self._say("1+1")  # it is up when it answers
        self.machine.add1(EngineStates.Up)

    async def _say(self, line: str) -> str:
        told, said = self._program.stdin, self._program.stdout
        assert told is not None and said is not None
        told.write(f"{line}\n".encode())
        async with asyncio.timeout(ANSWER):
            answer = await said.readline()
        if not answer:
            raise EngineEnded(f"exit code {await self._program.wait()} after {line!r}")
        return answer.decode().strip()

    @job
    async def ask(self, line: str) -> str:
        """Sends a line; returns the answer."""
        if self.machine.not1(EngineStates.Up):
            await self._start()
        try:
            return await self._say(line)
        except (EngineEnded, ConnectionError, TimeoutError):
            self.machine.remove1(EngineStates.Up)
            raise

    @job
    async def pid_of_program(self) -> int:
        """Which process it is."""
        return self._program.pid

    async def on_release(self) -> None:
        """The program keeps nothing of a client; one that did would be told to forget it."""

    async def on_stop(self) -> None:
        """Ends it in good order. Of a worker that is killed, it is ended by the system."""
        if self._program.returncode is None and self._program.stdin is not None:
            self._program.stdin.close()
            await self._program.wait()


async def main(own: bool) -> None:
    """Asks, has the program crash, and kills a worker with its program."""
    begun = time.monotonic()
    async with Pool(Engine, min=2, max=2, warm=0) as pool:
        await pool.when_ready()
        print(f"Two programs are up after {time.monotonic() - begun:.1f} s.")
        async with pool.lease() as engine:
            begun = time.monotonic()
            print("20+22 =", await engine.call(Engine.ask, "20+22"))
            print("Nobody waited for a start:", time.monotonic() - begun < 1.0)
            if own:
                try:
                    await engine.call(Engine.ask, "crash")
                except EngineEnded as error:
                    print("The program ended:", error)
                print("6*7 =", await engine.call(Engine.ask, "6*7"), "by the next one")

            program = await engine.call(Engine.pid_of_program)
            os.kill((await pool.supervisor.worker(engine.id)).pid, signal.SIGKILL)
            try:
                await engine.call(Engine.ask, "1+1")
            except WorkerError as error:
                print("The worker was ended by", error.signal)
            with suppress(psutil.NoSuchProcess):
                await asyncio.to_thread(psutil.Process(program).wait, ANSWER)
            print("Its program has ended with it.")
        async with pool.lease() as engine:
            print("2*3 =", await engine.call(Engine.ask, "2*3"), "by another one")


def stand_in() -> None:
    """The slow program."""
    time.sleep(1.0)
    for line in sys.stdin:
        if line.strip() == "crash":
            os.abort()
        print(eval(line, {}), flush=True)  # noqa: S307 - what it is told is ours


if __name__ == "__main__":
    if sys.argv[1:] == ["--stand-in"]:
        stand_in()
    else:
        own = not sys.argv[1:]
        command = [sys.executable, __file__, "--stand-in"] if own else sys.argv[1:]
        os.environ[COMMAND] = "\n".join(command)
        logging.getLogger("amnode").addHandler(logging.NullHandler())  # the example says it
        asyncio.run(main(own))
