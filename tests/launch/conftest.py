"""Real processes, on each kind of loop and with each way to watch them.

No test waits for a while: a process tells by a FIFO that it has come so far, and the FIFO ends
when every process that holds it has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from amnode.launch.command import CommandLauncher
from amnode.launch.process import ChildProcess, LaunchSpec


def _factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    found: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop
    }
    with contextlib.suppress(ImportError):  # no uvloop for this platform
        import uvloop

        found["uvloop"] = uvloop.new_event_loop
    return found


FACTORIES = _factories()
# The first loop of a kind opens what stays with the process, such as the signal pipe of libuv;
# a test that was blamed for it would have left nothing.
for _new_loop in FACTORIES.values():
    _new_loop().close()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name == "test_process.py":
        return FACTORIES
    if item.path.name == "test_forkserver.py":  # `violent_ends.py` has the standard loop
        name = list(FACTORIES)[-1]
        return {name: FACTORIES[name]}
    return {"asyncio": asyncio.new_event_loop}  # what is started cannot notice the loop


@pytest.fixture(params=list(FACTORIES))
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes loops that a test runs and closes by itself."""
    return FACTORIES[request.param]


@pytest.fixture(
    params=[
        pytest.param(True, id="pidfd", marks=pytest.mark.needs("pidfd")),
        pytest.param(False, id="thread"),
    ]
)
def use_pidfd(request: pytest.FixtureRequest) -> bool:
    return request.param


class Fifo:
    """A named pipe over which processes tell the test something."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = asyncio.StreamReader()
        self._transport: asyncio.BaseTransport | None = None

    async def open(self) -> None:
        os.mkfifo(self.path)
        reading = os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK), "rb", 0)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader), reading
        )

    async def line(self) -> str:
        """The next line that was written."""
        return (await self._reader.readline()).decode().strip()

    async def ended(self) -> None:
        """Whoever held it has gone."""
        assert await self._reader.read() == b""

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass
class Children:
    """Starts processes, and ends what a test leaves running when it fails."""

    launcher: CommandLauncher
    directory: Path
    fifo: Fifo
    started: list[ChildProcess]

    def spec(
        self,
        *argv: str,
        boot: bytes = b"",
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        output: Path | None = None,
    ) -> LaunchSpec:
        output = self.directory / "output" if output is None else output
        return LaunchSpec(argv=argv, boot=boot, output=output, env=env, cwd=cwd)

    async def launch(self, spec: LaunchSpec) -> ChildProcess:
        process = await self.launcher.launch(spec)
        self.started.append(process)
        return process

    async def sh(self, script: str) -> ChildProcess:
        return await self.launch(self.spec("/bin/sh", "-c", script))

    async def python(self, code: str, boot: bytes = b"") -> ChildProcess:
        """Runs code that has `os`, `signal`, `sys`, and `say(text)`, which `fifo` hears."""
        return await self.launch(
            self.spec(
                sys.executable, "-I", "-S", "-c", program(code), str(self.fifo.path), boot=boot
            )
        )

    async def waiting(self, code: str = "") -> ChildProcess:
        """Runs code and then waits to be ended; it has come so far when this returns."""
        process = await self.python(f"{textwrap.dedent(code)}\nsay('here')\nsignal.pause()")
        assert await self.fifo.line() == "here"
        return process


def program(code: str) -> str:
    return f"""\
import os, signal, sys
line = os.open(sys.argv[1], os.O_WRONLY)
os.set_inheritable(line, True)
def say(text):
    os.write(line, f"{{text}}\\n".encode())
{textwrap.dedent(code)}"""


@pytest.fixture
def launcher(use_pidfd: bool) -> CommandLauncher:
    return CommandLauncher(use_pidfd=use_pidfd)


@pytest.fixture
async def fifo(tmp_path: Path) -> AsyncIterator[Fifo]:
    found = Fifo(tmp_path / "fifo")
    await found.open()
    yield found
    found.close()


@pytest.fixture
async def children(
    launcher: CommandLauncher, tmp_path: Path, fifo: Fifo
) -> AsyncIterator[Children]:
    found = Children(launcher, tmp_path, fifo, [])
    yield found
    for process in found.started:
        if process.kill():
            await process.wait()


class Start(Protocol):
    """Starts a program whose output goes to `tmp_path / "output"`."""

    async def __call__(
        self,
        *argv: str,
        boot: bytes = b"",
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> ChildProcess: ...


@pytest.fixture
async def start(launcher: CommandLauncher, tmp_path: Path) -> AsyncIterator[Start]:
    started: list[ChildProcess] = []

    async def start_one(
        *argv: str,
        boot: bytes = b"",
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> ChildProcess:
        spec = LaunchSpec(argv, boot, tmp_path / "output", env, cwd)
        started.append(await launcher.launch(spec))
        return started[-1]

    yield start_one
    for process in started:
        if process.kill():
            await process.wait()


@dataclass(frozen=True)
class Signal:
    """A signal that was sent to a group, and the state of its leader then."""

    group: int
    number: int
    state: str


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[Signal]:
    """The signals that are sent to groups, as they are sent."""
    sent: list[Signal] = []
    send = os.killpg

    def killpg(group: int, number: int) -> None:
        try:
            leader = psutil.Process(group)
            state = leader.status() if leader.ppid() == os.getpid() else "a stranger"
        except psutil.NoSuchProcess:
            state = "nobody"
        sent.append(Signal(group, signal.Signals(number), state))
        send(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    return sent


def no_children() -> bool:
    """Whether this process has no child, not even a dead one, but pytest's own."""
    own = resource_tracker._resource_tracker._pid  # type: ignore[attr-defined]  # no other way
    return not [child for child in psutil.Process().children() if child.pid != own]
