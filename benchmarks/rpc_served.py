"""The serving process of benchmarks/rpc.py: a machine with its mux, and the bare echoes.

python benchmarks/rpc_served.py unix /run/x 4194304
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from amnode import OptionError
from amnode.machine.machine import Machine
from amnode.rpc.mux import Mux
from benchmarks.echo import EchoServer, listen, raw_serve
from benchmarks.processes import obey, raise_descriptors, resident, run, take_core
from benchmarks.rpc_board import ANSWERED, BOARD, EXPOSURE, PUSHED, SECRET, Handlers, options

#: Seconds before a push, and after it: nothing else is being done while it travels.
PAUSE = 0.001


class Served:
    """The source, whoever follows it, and the bare connections."""

    def __init__(self) -> None:
        self.source = Machine(BOARD, id="board")
        self.source.bind(Handlers())
        self.bare: dict[EchoServer, None] = {}

    async def push(self) -> float:
        """Moves the source; when that was."""
        await asyncio.sleep(PAUSE)
        started = time.monotonic()
        self.source.toggle1("Pushed")
        await asyncio.sleep(PAUSE)
        return started

    async def push_frame(self) -> float:
        """Sends a frame to each bare connection; when that was."""
        await asyncio.sleep(PAUSE)
        started = time.monotonic()
        for connection in self.bare:
            connection.send(PUSHED)
        await asyncio.sleep(PAUSE)
        return started


def address(transport: str, directory: str, name: str) -> str:
    """Where something of this name listens."""
    return f"unix:{directory}/{name}" if transport == "unix" else "tcp:127.0.0.1:0"


async def main(transport: str, directory: str, frame_limit: str) -> None:
    raise_descriptors()
    served = Served()
    mux = Mux(
        served.source,
        address(transport, directory, "board"),
        name="board",
        secret_of=lambda _client, _role: SECRET,
        exposure=EXPOSURE,
        options=options(int(frame_limit)),
    )
    ready = {"mux": "", "why": ""}
    try:
        await mux.start()
        ready["mux"] = mux.address
    except OptionError as error:
        ready["why"] = str(error)
    echo, ready["echo"] = await listen(
        address(transport, directory, "echo"), lambda: EchoServer(ANSWERED, served.bare)
    )
    ready["raw"] = raw_serve(address(transport, directory, "raw"))
    async with echo:
        await obey(
            ready,
            {
                "push": served.push,
                "push_frame": served.push_frame,
                "resident": resident,
            },
        )
        for connection in [*served.bare]:
            if connection.transport is not None:
                connection.transport.abort()
    await mux.stop()


if __name__ == "__main__":
    run(main(*take_core(sys.argv[1:])))
