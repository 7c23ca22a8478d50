"""Violent ends of launchers, fork servers and workers that have daemons: nothing is left.

`python -m tests.launch.violent_ends --count 500` runs as many, each at a random moment, prints
the seed, and returns 1 if any process is left. `end_violently` is one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import msgspec

from amnode.launch.command import ENTRY
from amnode.launch.forkserver import ForkServerLauncher
from amnode.launch.process import LaunchSpec
from tests.launch.conftest import Fifo

COOKIE = "AM_NODE_VIOLENT_END"
HERE = str(Path(__file__).parent)
WORKERS = 2

#: Who is killed. Afterwards the program, if it lives, ends its workers and itself.
KINDS = ("launcher", "server", "workers", "launcher and server", "terminal", "nobody")

#: Seconds in which everything has to be gone.
PATIENCE = 20.0


# -- the program that dies --------------------------------------------------------------------


async def _program(directory: Path) -> None:
    """Starts workers, says who is there, and when it is told to, ends them."""
    lifeline = directory / "lifeline"
    os.mkfifo(lifeline)
    os.open(lifeline, os.O_RDWR | os.O_CLOEXEC)
    fifo = Fifo(directory / "fifo")
    await fifo.open()
    launcher = ForkServerLauncher(
        output=directory / "server", modules=["forked"], path=[HERE, *sys.path]
    )
    print("begun", flush=True)
    payload = f"{fifo.path} {lifeline}".encode()
    record = {"run": "forked:family_on_a_line", "path": [HERE], "payload": payload}
    spec = LaunchSpec(ENTRY, msgspec.msgpack.encode(record), directory / "output")
    workers = await asyncio.gather(*(launcher.launch(spec) for _ in range(WORKERS)))
    for _ in range(4 * WORKERS):
        await fifo.line()
    pids = {"server": [launcher.server_pid], "workers": [worker.pid for worker in workers]}
    print(json.dumps(pids), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for worker in workers:
        worker.kill()
        await worker.wait()
    await launcher.close()
    fifo.close()


# -- who kills --------------------------------------------------------------------------------


def end_violently(kind: str, delay: float | None = None) -> list[str]:
    """One violent end; returns what is left of it, which is nothing.

    Args:
        kind: who is killed, one of `KINDS`.
        delay: seconds after the program has begun; None for when all of it is there.
    """
    with tempfile.TemporaryDirectory(prefix="am-end-", dir="/tmp") as directory:
        cookie = f"{os.getpid()}-{time.monotonic_ns()}"
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.launch.violent_ends", "--program", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, COOKIE: cookie},
            start_new_session=True,
        )
        with program:
            assert program.stdout is not None and program.stdin is not None
            assert program.stdout.readline() == b"begun\n"
            if delay is None:
                pids = json.loads(program.stdout.readline())
            else:
                time.sleep(delay)  # a random moment is what is wanted
                pids = {}
            _kill(kind, program, pids)
            with suppress(BrokenPipeError):
                program.stdin.write(b"end\n")
                program.stdin.close()
            program.wait(PATIENCE)
        return left_of(cookie)


def _kill(kind: str, program: subprocess.Popen[bytes], pids: dict[str, list[int]]) -> None:
    if kind == "terminal":
        os.killpg(program.pid, signal.SIGHUP)
        return
    found = pids or _children(program.pid)
    for name in ("server", "workers"):
        if name in kind:
            for pid in found.get(name, []):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    if "launcher" in kind:
        program.kill()


def _children(pid: int) -> dict[str, list[int]]:
    """Who is there already: the program's child is its server, the server's are workers."""
    found: dict[str, list[int]] = {}
    for name in ("server", "workers"):
        with suppress(OSError):
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            found[name] = [int(word) for word in text.split()]
            pid = found[name][0] if found[name] else -1
    return found


def left_of(cookie: str) -> list[str]:
    """The processes that are still there when they had time to go; they are ended then."""
    deadline = time.monotonic() + PATIENCE
    wanted = f"{COOKIE}={cookie}".encode()
    while (found := _with(wanted)) and time.monotonic() < deadline:
        for pid in found:
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
                os.close(descriptor)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return [f"process {pid}: {command}" for pid, command in found.items()]


def _with(wanted: bytes) -> dict[int, str]:
    """The living processes that carry the cookie, with their commands."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(entry.name)] = command.decode(errors="backslashreplace")
    return found


def run_many(count: int, seed: int) -> int:
    """Runs many, and prints what was left; returns how many left something."""
    chance = random.Random(seed)
    ends: Counter[str] = Counter()
    failed = 0
    for number in range(count):
        kind = chance.choice(KINDS)
        delay = None if chance.random() < 0.5 else chance.uniform(0.0, 0.4)
        left = end_violently(kind, delay)
        ends[kind] += 1
        if left:
            failed += 1
            moment = "when all was there" if delay is None else f"after {delay:.3f} s"
            print(f"end {number}, {kind} {moment}: left {left}", flush=True)
    print(f"{count} violent ends, seed {seed}: {failed} left something; {dict(ends)}")
    return failed


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--program", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.program is not None:
        asyncio.run(_program(options.program))
        return 0
    return 1 if run_many(options.count, options.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
