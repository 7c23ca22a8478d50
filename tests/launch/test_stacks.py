"""A process that crashes, hangs or stands still shows where, and whether it stands still."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from amnode.launch import process as process_module
from amnode.launch.command import CommandLauncher
from amnode.launch.process import Process
from amnode.launch.reaper import state_of
from tests.launch.conftest import Children, Fifo
from tests.launch.test_forkserver import Forks

pytestmark = [pytest.mark.needs("pidfd"), pytest.mark.needs("proc")]


@pytest.fixture  # how a child is watched is nothing that it could notice
def use_pidfd() -> bool:
    return True


@pytest.fixture(params=["fork", "command"])
async def forks(
    request: pytest.FixtureRequest, tmp_path: Path, fifo: Fifo
) -> AsyncIterator[Forks]:
    found = Forks(tmp_path, fifo)
    forking: Any = found.launcher
    if request.param == "command":
        found.launcher = CommandLauncher()  # type: ignore[assignment]
    yield found
    await found.end()
    await forking.close()


async def stopped(process: Process) -> None:
    """Stops it, and returns when it stands still."""
    os.kill(process.pid, signal.SIGSTOP)
    while state_of(process.pid) != "T":  # noqa: ASYNC110 - nobody tells when it has stopped
        await asyncio.sleep(0)


async def test_a_blocked_one_shows_where(forks: Forks) -> None:
    process = await forks.staying("block")
    stacks = await process.dump_stack(10.0)
    assert any(line.endswith("in block") for line in stacks)
    assert stacks[-1].endswith("in _run_module_as_main"), "the whole of it"
    assert "most recent call first" in stacks[0]
    assert process.tail(len(stacks)) == stacks
    again = await process.dump_stack(10.0)
    assert any(line.endswith("in hold_the_interpreter") for line in again)
    assert len([line for line in again if line.endswith("in block")]) == 1
    assert not process.exited.done() and not process.is_stopped()


async def test_one_that_stands_still_says_so_and_shows_nothing(forks: Forks) -> None:
    process = await forks.staying()
    assert process.is_stopped() is False
    await stopped(process)
    assert process.is_stopped() is True
    assert await process.dump_stack(0.0) == ()
    assert process.kill()
    assert (await process.wait()).signal == "SIGKILL"
    assert process.is_stopped() is False
    assert await process.dump_stack() == ()


async def test_one_that_crashes_leaves_its_stack(forks: Forks) -> None:
    process = await forks.run("segfault")
    assert (await process.wait()).signal == "SIGSEGV"
    lines = process.tail(100)
    assert "Fatal Python error: Segmentation fault" in lines
    assert any(line.endswith("in segfault") for line in lines)


async def test_whoever_cancels_a_dump_leaves_the_process_as_it_was(forks: Forks) -> None:
    process = await forks.staying()
    await stopped(process)
    dump = asyncio.create_task(process.dump_stack(600.0))
    await asyncio.sleep(0)
    dump.cancel()
    await asyncio.wait([dump])
    assert dump.cancelled() and process.is_stopped()


async def test_a_program_that_knows_no_such_signal_is_not_ended_by_it(
    children: Children,
) -> None:
    process = await children.waiting()
    assert await process.dump_stack() == ()
    assert not process.exited.done()


async def test_one_that_ends_meanwhile_shows_what_it_wrote(forks: Forks) -> None:
    process = await forks.staying()
    await stopped(process)
    dump = asyncio.create_task(process.dump_stack(600.0))
    await asyncio.sleep(0)
    os.kill(process.pid, signal.SIGKILL)
    assert await dump == ()


# -- the limit of what it writes ---------------------------------------------------------------


async def test_what_a_process_prints_is_cut_while_it_runs(
    forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_CUT_INTERVAL", 0.01)
    process = await forks.run("print_much", f"3000 {forks.fifo.path}", output_limit=10_000)
    assert await forks.fifo.line() == "printed"
    output = forks.directory / "output"
    while output.stat().st_blocks * 512 > 10_000:  # noqa: ASYNC110 - a timer of its own does it
        await asyncio.sleep(0)
    assert process.tail(1) == (f"line 2999 {'x' * 90}",)
    assert process.kill()
    await process.wait()


def test_the_signal_is_none_that_programs_use() -> None:
    from amnode.launch.entry import DUMP_SIGNAL

    used = {signal.SIGUSR1, signal.SIGUSR2} if sys.platform == "linux" else {signal.SIGUSR1}
    assert DUMP_SIGNAL not in used
