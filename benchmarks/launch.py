"""What it takes to start a process by fork, and to notice its end, on the machine at hand.

Goals: a fork about 2 ms, an end that is noticed within 10 ms at the 99th percentile.

    python benchmarks/launch.py [samples]
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

from harness import Figure, figures

from amnode.launch.command import ENTRY, CommandLauncher
from amnode.launch.forkserver import ForkServerLauncher
from amnode.launch.process import Launcher, LaunchSpec

HERE = str(Path(__file__).parent)

#: What a worker has imported before it is forked.
MODULES = ("amnode.node.worker", "asyncio", "uvloop")


def first_instruction(payload: bytes) -> None:
    """Says when it began, on the clock that all processes of a machine share."""
    now = time.monotonic()
    line = os.open(payload, os.O_WRONLY)
    os.write(line, f"{now}\n".encode())
    os.close(line)


def idle(payload: bytes) -> None:
    """Stays until it is ended."""
    while True:
        signal.pause()


def spec(directory: Path, run: str, payload: bytes = b"") -> LaunchSpec:
    record = {"run": f"launch:{run}", "path": [HERE], "payload": payload}
    return LaunchSpec(ENTRY, msgspec.msgpack.encode(record), directory / "output")


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


async def starts(launcher: Launcher, directory: Path, samples: int) -> list[float]:
    """Seconds from a request to the first line of the function that a process runs."""
    fifo = directory / "fifo"
    found: list[float] = []
    line = os.open(fifo, os.O_RDWR)
    for _ in range(samples):
        asked = time.monotonic()
        process = await launcher.launch(spec(directory, "first_instruction", bytes(fifo)))
        await process.wait()
        found.append(float(os.read(line, 100)) - asked)
    os.close(line)
    return found


async def together(launcher: Launcher, directory: Path, count: int) -> float:
    """Seconds until as many processes are there that were asked for at once."""
    asked = time.monotonic()
    made = await asyncio.gather(
        *(launcher.launch(spec(directory, "idle")) for _ in range(count))
    )
    taken = time.monotonic() - asked
    for process in made:
        process.kill()
        await process.wait()
    return taken


async def kills(launcher: Launcher, directory: Path, samples: int) -> list[float]:
    """Seconds from a SIGKILL from outside to the record in the hands of who waits."""
    found: list[float] = []
    for _ in range(samples):
        process = await launcher.launch(spec(directory, "idle"))
        wait = asyncio.create_task(process.wait())
        await asyncio.sleep(0.002)  # it has come to rest
        killed = time.monotonic()
        os.kill(process.pid, signal.SIGKILL)
        await wait
        found.append(time.monotonic() - killed)
    return found


def memory(pid: int) -> tuple[float, float]:
    """Its proportional share, and what is its own alone, in MiB."""
    values = {"Pss": 0.0, "Private_Dirty": 0.0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name = line.partition(":")[0]
        if name in values:
            values[name] = int(line.split()[1]) / 1024
    return values["Pss"], values["Private_Dirty"]


async def main(samples: int = 200) -> None:
    """Prints the figures of both ways."""
    gc.disable()
    with tempfile.TemporaryDirectory(prefix="am-") as name:
        directory = Path(name)
        os.mkfifo(directory / "fifo")
        forks = ForkServerLauncher(
            output=directory / "server",
            modules=[*MODULES, "launch"],
            path=[HERE, *sys.path],
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(forks.close)
            await starts(forks, directory, 5)
            times = await starts(forks, directory, samples)
            eight = [await together(forks, directory, 8) for _ in range(10)]
            ends = await kills(forks, directory, samples)
            made = [await forks.launch(spec(directory, "idle")) for _ in range(10)]
            shares = [memory(process.pid) for process in made]
            for process in made:
                process.kill()
                await process.wait()
        commands = await starts(CommandLauncher(), directory, max(5, samples // 20))
    rows = [
        Figure("request to first line, median", percentile(times, 0.5) * 1e3, "ms"),
        Figure("request to first line, 99th", percentile(times, 0.99) * 1e3, "ms", 30),
        Figure("the same by command, median", percentile(commands, 0.5) * 1e3, "ms"),
        Figure("eight at once are there, median", percentile(eight, 0.5) * 1e3, "ms"),
        Figure("SIGKILL to record, median", percentile(ends, 0.5) * 1e3, "ms", 1),
        Figure("SIGKILL to record, 99th", percentile(ends, 0.99) * 1e3, "ms", 10),
        Figure(
            "share of memory of one of ten, idle",
            percentile([s[0] for s in shares], 0.5),
            "MiB",
        ),
        Figure("of it its own alone", percentile([s[1] for s in shares], 0.5), "MiB"),
    ]
    figures("processes by fork", rows)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
