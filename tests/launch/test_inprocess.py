"""A process that is a coroutine lives and dies as a real one does, for all that is seen."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from amnode.errors import LaunchError
from amnode.launch.inprocess import FIRST_PID, InProcess, InProcessLauncher, current
from amnode.launch.process import Launcher, LaunchSpec, Process


def spec(run: str = "body", payload: bytes = b"", limit: int = 0) -> LaunchSpec:
    boot = msgspec.msgpack.encode({"run": run, "path": [], "payload": payload})
    return LaunchSpec((), boot, Path("/nowhere"), output_limit=limit)


async def launch(body: Any, payload: bytes = b"", limit: int = 0) -> InProcess:
    return await InProcessLauncher({"body": body}).launch(spec(payload=payload, limit=limit))


async def for_ever(payload: bytes, process: InProcess) -> int:
    await asyncio.Event().wait()
    return 0


@pytest.fixture(autouse=True)
async def factory_is_restored() -> AsyncIterator[None]:
    before = asyncio.get_running_loop().get_task_factory()
    yield
    assert asyncio.get_running_loop().get_task_factory() is before


# -- how it ends -----------------------------------------------------------------------------


async def returns(payload: bytes, process: InProcess) -> int | None:
    return int(payload) if payload else None


async def raises(payload: bytes, process: InProcess) -> None:
    raise ValueError("no such luck")


async def exits(payload: bytes, process: InProcess) -> None:
    sys.exit(int(payload) if payload.isdigit() else payload.decode() or None)


async def cancels_itself(payload: bytes, process: InProcess) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("body", "payload", "code", "last"),
    [
        (returns, b"", 0, ()),
        (returns, b"7", 7, ()),
        (raises, b"", 1, ("ValueError: no such luck",)),
        (exits, b"", 0, ()),
        (exits, b"3", 3, ()),
        (exits, b"words", 1, ("words",)),
        (cancels_itself, b"", 1, ("asyncio.exceptions.CancelledError",)),
    ],
)
async def test_the_record_says_how_it_ended(
    body: Any, payload: bytes, code: int, last: tuple[str, ...]
) -> None:
    process = await launch(body, payload)
    assert not process.exited.done()
    record = await process.wait()
    assert (record.pid, record.exit_code, record.signal) == (process.pid, code, "")
    assert record.known and record.seen_at <= asyncio.get_running_loop().time()
    assert process.tail(1) == last
    assert (process.kill(), process.terminate()) == (False, False)
    assert process.exited.result() is record and "ended" in repr(process)


async def test_its_number_is_no_process_s() -> None:
    launcher = InProcessLauncher({"body": returns})
    found = [await launcher.launch(spec()) for _ in range(3)]
    assert [process.pid for process in found] == [FIRST_PID + n for n in range(3)]
    assert FIRST_PID > 2**22  # the most that Linux has
    for process in found:
        await process.wait()


async def test_a_cancelled_wait_changes_nothing() -> None:
    process = await launch(for_ever)
    wait = asyncio.create_task(process.wait())
    await asyncio.sleep(0)
    wait.cancel()
    await asyncio.wait([wait])
    assert not process.exited.done()
    process.kill()
    assert (await process.wait()).signal == "SIGKILL"


# -- killed ----------------------------------------------------------------------------------


async def stubborn(payload: bytes, process: InProcess) -> None:
    """Goes on a few times after it was cancelled."""
    for _ in range(5):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            process.write("not yet\n")


async def busy(payload: bytes, process: InProcess) -> None:
    """A step of its own in each turn, in two tasks."""

    async def step() -> None:
        try:
            for number in range(20):
                process.write(f"{number}\n")
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)

    await asyncio.gather(step(), asyncio.create_task(step()))


@pytest.mark.parametrize("turns", range(0, 40, 3))
@pytest.mark.parametrize("body", [busy, stubborn, for_ever])
async def test_it_can_be_killed_at_any_await(body: Any, turns: int) -> None:
    before = asyncio.all_tasks()
    process = await launch(body)
    for _ in range(turns):
        await asyncio.sleep(0)
    if process.kill():
        assert (await process.wait()).signal == "SIGKILL"
    else:
        assert (await process.wait()).exit_code == 0
    assert asyncio.all_tasks() == before


async def test_a_kill_ends_every_task_that_it_made() -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def body(payload: bytes, process: InProcess) -> None:
        async def child() -> None:
            tasks.append(asyncio.create_task(asyncio.sleep(600)))
            await asyncio.Event().wait()

        tasks.append(asyncio.create_task(child()))
        await asyncio.Event().wait()

    process = await launch(body)
    for _ in range(3):  # it begins, then its child, then the child of that
        await asyncio.sleep(0)
    assert len(tasks) == 2
    other = asyncio.create_task(asyncio.sleep(0))
    process.kill()
    await process.wait()
    assert all(task.cancelled() for task in tasks)
    await other
    assert not other.cancelled()


async def test_what_its_main_coroutine_leaves_ends_with_it() -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def body(payload: bytes, process: InProcess) -> int:
        tasks.append(asyncio.create_task(for_ever(b"", process)))
        return 4

    process = await launch(body)
    assert (await process.wait()).exit_code == 4
    assert tasks[0].cancelled()


async def test_a_task_that_it_makes_while_it_is_killed_ends_too() -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def body(payload: bytes, process: InProcess) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            tasks.append(asyncio.create_task(asyncio.sleep(600)))

    process = await launch(body)
    await asyncio.sleep(0)
    process.kill()
    await process.wait()
    assert tasks[0].cancelled()


async def test_a_kill_cuts_what_is_no_task(leak_guard: list[str]) -> None:
    cut: list[str] = []

    async def body(payload: bytes, process: InProcess) -> None:
        process.on_kill(lambda: cut.append("first"))
        process.on_kill(lambda: 1 // 0)
        process.on_kill(lambda: cut.append("last"))
        try:
            await asyncio.Event().wait()
        finally:
            cut.append("cancelled")

    process = await launch(body)
    await asyncio.sleep(0)
    process.kill()
    assert cut == ["last", "first"]
    await process.wait()
    assert cut == ["last", "first", "cancelled"]
    told = leak_guard.pop()
    assert "what cuts process" in told and "ZeroDivisionError" in told


async def test_one_that_does_not_end_is_told_and_has_ended(leak_guard: list[str]) -> None:
    release = asyncio.Event()

    async def body(payload: bytes, process: InProcess) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    process = await launch(body)
    await asyncio.sleep(0)
    process.kill()
    assert (await process.wait()).signal == "SIGKILL"
    assert f"process-{process.pid} goes on although" in leak_guard.pop()
    release.set()


async def test_one_that_is_killed_before_its_first_step_has_not_begun() -> None:
    began: list[bytes] = []

    async def body(payload: bytes, process: InProcess) -> None:
        began.append(payload)

    process = await launch(body)
    assert process.kill() is True
    assert (await process.wait()).signal == "SIGKILL"
    assert not began


# -- terminated ------------------------------------------------------------------------------


async def test_it_ends_by_sigterm_unless_it_says_what_to_do() -> None:
    process = await launch(for_ever)
    assert process.terminate() is True
    assert (await process.wait()).signal == "SIGTERM"


async def test_what_it_does_at_sigterm_is_its_own() -> None:
    async def body(payload: bytes, process: InProcess) -> int:
        stop = asyncio.Event()
        process.on_terminate(stop.set)
        await stop.wait()
        return 9

    process = await launch(body)
    await asyncio.sleep(0)
    assert process.terminate() is True
    assert (await process.wait()).exit_code == 9


# -- what it says ----------------------------------------------------------------------------


async def test_its_output_is_what_it_writes() -> None:
    async def body(payload: bytes, process: InProcess) -> None:
        process.write("one\n\x1b[2Jtwo\n\udcff")

    process = await launch(body)
    await process.wait()
    assert process.tail() == ("one", "\\x1b[2Jtwo", "\\udcff")


async def test_its_output_is_limited() -> None:
    async def body(payload: bytes, process: InProcess) -> None:
        for number in range(1000):
            process.write(f"line {number}\n")

    process = await launch(body, limit=400)
    await process.wait()
    assert process.tail(1) == ("line 999",)
    assert sum(len(line) + 1 for line in process.tail(1000)) <= 400


async def test_its_stacks_are_those_of_its_tasks() -> None:
    process = await launch(for_ever)
    await asyncio.sleep(0)
    stacks = await process.dump_stack()
    assert any("for_ever" in line for line in stacks)
    assert process.tail(len(stacks)) == stacks
    assert process.is_stopped() is False
    process.kill()
    await process.wait()
    assert await process.dump_stack() == ()


async def test_a_process_knows_which_it_is() -> None:
    found: list[InProcess | None] = []

    async def body(payload: bytes, process: InProcess) -> None:
        async def child() -> None:
            found.append(current())

        found.append(current())
        await asyncio.create_task(child())

    process = await launch(body)
    await process.wait()
    assert found == [process, process]
    assert current() is None


# -- what is not started, and the loop's own factory -----------------------------------------


@pytest.mark.parametrize(
    ("boot", "said"),
    [
        (spec("other\n").boot, r"No coroutine stands for `other\n`: this launcher has body"),
        (b"\xc1", "The boot record is none"),
    ],
)
async def test_what_it_does_not_know_is_not_started(boot: bytes, said: str) -> None:
    launcher = InProcessLauncher({"body": returns})
    with pytest.raises(LaunchError) as raised:
        await launcher.launch(LaunchSpec((), boot, Path("/nowhere")))
    assert said in str(raised.value)


async def test_one_that_is_closed_starts_nothing_and_what_lives_goes_on() -> None:
    launcher: Launcher = InProcessLauncher({"body": for_ever})
    process: Process = await launcher.launch(spec())
    await launcher.close()
    with pytest.raises(LaunchError, match="closed before"):
        await launcher.launch(spec())
    assert not process.exited.done()
    process.kill()
    await process.wait()


async def test_a_factory_that_the_loop_had_makes_the_tasks() -> None:
    made: list[str] = []
    loop = asyncio.get_running_loop()

    def factory(
        loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any
    ) -> asyncio.Task[Any]:
        made.append(getattr(coro, "__name__", ""))
        return asyncio.Task(coro, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    try:
        two = [await launch(returns), await launch(returns)]
        for process in two:
            await process.wait()
        assert loop.get_task_factory() is factory
        assert made.count("_main") == 2
    finally:
        loop.set_task_factory(None)


# -- how it ends itself ----------------------------------------------------------------------


async def test_one_that_exits_is_cut_off_wherever_it_is() -> None:
    cut: list[str] = []

    async def body(payload: bytes, process: InProcess) -> int:
        process.on_kill(lambda: cut.append("cut"))
        asyncio.get_running_loop().call_soon(process.exit, 7)
        try:
            await asyncio.Event().wait()
        finally:
            process.exit(8)  # it has ended already
        return 0

    process = await launch(body)
    record = await process.wait()
    assert (record.exit_code, record.signal, cut, process.tail()) == (7, "", ["cut"], ())
    process.exit(9)
    assert process.exited.result().exit_code == 7


async def test_what_it_returns_when_it_has_exited_is_of_no_account() -> None:
    async def body(payload: bytes, process: InProcess) -> int:
        process.exit(7)
        return 3

    assert (await (await launch(body)).wait()).exit_code == 7
