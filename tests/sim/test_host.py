"""Simulated processes: their numbers, their ends, and the signals that they get."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from amnode.testing import SimHost, SimLoop, SimNetwork, SimProcess, Weather


def run(story: Callable[[SimHost], Coroutine[Any, Any, None]]) -> list[SimProcess]:
    loop, ended = SimLoop("1"), list[SimProcess]()
    network = SimNetwork(loop, Random(1), Weather(), lambda *_: None)
    try:
        loop.run_until_complete(story(SimHost(loop, network, "1", ended.append)))
        loop.bury()
        assert not loop.uncaught
    finally:
        loop.close()
    return ended


async def forever(_process: SimProcess) -> int:
    await asyncio.Event().wait()
    return 0


async def seven(_process: SimProcess) -> int:
    await asyncio.sleep(1.0)
    return 7


async def failing(_process: SimProcess) -> int:
    raise ValueError("as it was told to")


def test_a_process_ends_with_its_code_and_its_number_is_given_again() -> None:
    async def story(host: SimHost) -> None:
        parent = host.start("parent", forever)
        child = host.start("child", seven, parent=parent)
        await asyncio.sleep(0.5)
        assert child.record is None
        await asyncio.sleep(0.5005)
        assert child.record is not None and child.record.exit_code == 7
        assert not child.reaped
        assert host.start("other", forever, parent=parent).pid != child.pid
        await asyncio.sleep(0.1)
        assert child.reaped
        assert not child.kill()
        assert host.start("next", forever, parent=parent).pid == child.pid

    run(story)


def test_a_signal_ends_it_unless_it_has_a_handler_or_is_stopped() -> None:
    async def story(host: SimHost) -> None:
        parent = host.start("parent", forever)
        child = host.start("child", forever, parent=parent)
        heard: list[str] = []
        child.on_term = lambda: heard.append("SIGTERM")
        await asyncio.sleep(0.1)
        host.loop.stop_place(child.place)
        assert child.terminate()
        await asyncio.sleep(0.1)
        assert not heard
        host.loop.continue_place(child.place)
        await asyncio.sleep(0.1)
        assert heard == ["SIGTERM"]
        host.loop.stop_place(child.place)
        assert child.kill()
        await asyncio.sleep(0.1)
        assert child.record is not None and child.record.signal == "SIGKILL"

    run(story)


def test_who_waits_for_an_end_is_told_even_afterwards() -> None:
    async def story(host: SimHost) -> None:
        process = host.start("process", seven)
        assert (await process.wait()).exit_code == 7
        assert (await process.exited).exit_code == 7
        stubborn = host.start("stubborn", forever)
        stubborn.on_term = lambda: None
        assert (await stubborn.end(2.0)).signal == "SIGKILL"
        mild = host.start("mild", forever)
        assert (await mild.end(2.0)).signal == "SIGTERM"

    assert [process.name for process in run(story)] == ["process", "stubborn", "mild"]


def test_what_a_program_raises_is_in_its_output_and_its_code_is_one() -> None:
    async def story(host: SimHost) -> None:
        process = host.start("process", failing)
        assert (await process.wait()).exit_code == 1
        assert process.tail(1) == ("ValueError: as it was told to",)

    run(story)


def test_children_of_one_that_is_gone_live_on_and_are_reaped() -> None:
    async def story(host: SimHost) -> None:
        parent = host.start("parent", forever)
        child = host.start("child", seven, parent=parent)
        await asyncio.sleep(0.1)
        host.ended(parent, signal="SIGKILL")
        assert child.record is None
        await asyncio.sleep(2.0)
        assert child.reaped
        assert not host.processes

    run(story)
