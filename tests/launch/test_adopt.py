"""A process that somebody else started is followed and ended, and no other in its place."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from amnode.launch import process as process_module
from amnode.launch.process import (
    AdoptedProcess,
    ChildProcess,
    PolledProcess,
    ServedProcess,
    adopt,
    started_at,
)
from tests.launch.conftest import Children, Fifo
from tests.leaks import new_descriptors

pytestmark = [pytest.mark.needs("pidfd"), pytest.mark.needs("proc")]

#: Starts a child in the group, and one in a session of its own; both hold the line.
FAMILY = """
if os.fork() == 0:
    signal.pause()
if os.fork() == 0:
    os.setsid()
    signal.pause()
"""


@pytest.fixture  # how its parent watches it is nothing that matters here
def use_pidfd() -> bool:
    return True


@pytest.fixture(params=["pidfd", "polled"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(process_module, "_LOOK_INTERVAL", 0.001)
    return request.param


def adopted(child: ChildProcess, by: str, output: Path) -> AdoptedProcess:
    start = started_at(child.pid)
    assert start > 0
    return adopt(child.pid, start, output, use_pidfd=by == "pidfd")


@pytest.mark.parametrize("name", ["terminate", "kill"])
async def test_it_is_ended(children: Children, tmp_path: Path, by: str, name: str) -> None:
    child = await children.waiting()
    process = adopted(child, by, tmp_path / "output")
    assert isinstance(process, ServedProcess if by == "pidfd" else PolledProcess)
    assert not process.exited.done() and process.pid == child.pid
    assert getattr(process, name)()
    record = await process.wait()
    assert process.exited.result() is record and record.pid == child.pid
    by_signal = {"terminate": "SIGTERM", "kill": "SIGKILL"}[name]
    assert (await child.wait()).signal == by_signal
    assert record.known is False if by == "polled" else record.signal in (by_signal, "")
    assert (process.terminate(), process.kill(), process.is_stopped()) == (False,) * 3


async def test_the_kernel_says_how_it_ended(children: Children, tmp_path: Path) -> None:
    child = await children.waiting("signal.signal(signal.SIGTERM, lambda *_: os._exit(7))")
    process = adopted(child, "pidfd", tmp_path / "output")
    assert process.terminate()
    record = await process.wait()
    pidfd = os.pidfd_open(os.getpid())
    try:
        process_module.exit_of(pidfd)
    except OSError:
        assert not record.known
    else:
        assert (record.known, record.exit_code) == (True, 7)
    finally:
        os.close(pidfd)


async def test_an_old_kernel_says_so_at_once(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_GET_INFO", 0)
    monkeypatch.setattr(process_module, "_REAP_TIMEOUT", 1000.0)
    child = await children.waiting()
    process = adopted(child, "pidfd", tmp_path / "output")
    os.kill(child.pid, signal.SIGKILL)
    assert not (await process.wait()).known


async def test_one_that_has_its_number_is_a_stranger(
    children: Children, tmp_path: Path, by: str
) -> None:
    child = await children.waiting()
    for start in (started_at(child.pid) + 1, 0.0):
        process = adopt(child.pid, start, tmp_path / "output", use_pidfd=by == "pidfd")
        record = await process.wait()
        assert (record.known, record.describe()) == (False, "ended, nobody knows how")
        assert (process.terminate(), process.kill()) == (False, False)
    assert not child.exited.done()


async def test_one_that_is_gone(children: Children, tmp_path: Path, by: str) -> None:
    child = await children.waiting()
    start = started_at(child.pid)
    child.kill()
    await child.wait()
    assert started_at(child.pid) == 0.0
    for pid in (child.pid, 0):
        process = adopt(pid, start, tmp_path / "output", use_pidfd=by == "pidfd")
        assert not (await process.wait()).known
        assert process.tail() == () and await process.dump_stack() == ()


async def test_a_corpse_has_ended(children: Children) -> None:
    child = await children.waiting()
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it is dead
    assert started_at(child.pid) == 0.0
    await child.wait()


@pytest.mark.parametrize("kernel", ["new", "old"])
async def test_a_kill_ends_all_that_it_has_started(
    children: Children, fifo: Fifo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    if kernel == "old":
        monkeypatch.setattr(process_module, "_GROUP", 1 << 30)
    child = await children.waiting(FAMILY)
    process = adopted(child, "pidfd", tmp_path / "output")
    assert process.kill()
    await process.wait()
    await fifo.ended()


async def test_without_pidfds_a_kill_ends_its_group(
    children: Children, fifo: Fifo, tmp_path: Path
) -> None:
    child = await children.waiting("if os.fork() == 0:\n    signal.pause()")
    process = adopted(child, "polled", tmp_path / "output")
    assert process.kill()
    await process.wait()
    await fifo.ended()


async def test_when_somebody_else_kills_it_its_group_ends_too(
    children: Children, fifo: Fifo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent, which would end the group before it reaps, is gone as a rule."""
    monkeypatch.setattr(ChildProcess, "_send", lambda *_: False)
    child = await children.waiting("if os.fork() == 0:\n    signal.pause()")
    process = adopted(child, "pidfd", tmp_path / "output")
    os.kill(child.pid, signal.SIGKILL)
    await process.wait()
    await fifo.ended()


async def test_one_that_is_let_go_is_left_alone(
    children: Children, tmp_path: Path, by: str
) -> None:
    child = await children.waiting()
    before = {int(fd): os.readlink(f"/proc/self/fd/{fd}") for fd in _open()}  # noqa: PTH115
    process = adopted(child, by, tmp_path / "output")
    process.let_go()
    process.let_go()
    assert not new_descriptors(before)
    os.kill(child.pid, signal.SIGKILL)
    await child.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not process.exited.done()


def _open() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if Path(f"/proc/self/fd/{fd}").exists()]  # noqa: PTH208


async def test_what_it_wrote_and_that_it_stands_still(
    children: Children, tmp_path: Path, by: str
) -> None:
    child = await children.waiting("print('before', flush=True)")
    process = adopted(child, by, tmp_path / "output")
    assert process.tail() == ("before",) and not process.is_stopped()
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)  # noqa: ASYNC222 - it is stopped
    assert process.is_stopped()
    assert process.kill()
    assert (await child.wait()).signal == "SIGKILL"
    await process.wait()


async def test_its_output_is_cut_as_before(
    children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "OUTPUT_LIMIT", 10_000)
    output = tmp_path / "output"
    child = await children.waiting("print('x' * 99 + '\\n' * 3000, flush=True)\n" * 9)
    process = adopted(child, "pidfd", output)
    assert output.stat().st_blocks * 512 <= 10_000
    process.kill()
    await process.wait()
