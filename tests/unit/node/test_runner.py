"""A coroutine begins at once, in a task that is its own for as long as it matters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from amnode.node.runner import Runner

VAR: ContextVar[int] = ContextVar("var", default=0)


async def ready() -> Runner:
    """A runner whose task waits."""
    runner = Runner(asyncio.get_running_loop())
    runner.prepare()
    await asyncio.sleep(0)
    return runner


async def outside(what: Callable[[], Any]) -> Any:
    """Calls it as the loop does, in no task."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def run() -> None:
        try:
            done.set_result(what())
        except BaseException as error:
            done.set_exception(error)

    loop.call_soon(run)
    return await done


async def end(runner: Runner) -> None:
    runner.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_one_that_does_not_wait_is_over_at_once_and_leaves_the_task() -> None:
    runner = await ready()
    tasks: list[object] = []

    async def quick() -> None:
        tasks.append(asyncio.current_task())

    spare = runner.spare
    for _ in range(3):
        assert await outside(lambda: runner.begin(quick())) is None
    assert tasks == [spare] * 3
    assert runner.spare is spare
    await end(runner)


async def test_one_that_waits_has_its_task_for_itself() -> None:
    runner = await ready()
    seen: list[object] = []

    async def slow() -> None:
        seen.append(asyncio.current_task())
        VAR.set(7)
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
        seen.append((asyncio.current_task(), VAR.get()))

    spare = runner.spare
    task, context = await outside(lambda: runner.begin(slow()))
    assert task is spare and runner.spare is None
    assert context[VAR] == 7
    await task
    assert seen == [task, (task, 7)]
    await end(runner)


async def test_one_that_waits_can_be_cancelled() -> None:
    runner = await ready()

    async def forever() -> None:
        await asyncio.Event().wait()

    task, _ = await outside(lambda: runner.begin(forever()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_was_left_in_the_context_or_the_task_is_not_for_the_next() -> None:
    runner = await ready()

    async def sets() -> None:
        VAR.set(7)

    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    seen: list[int] = []

    async def looks() -> None:
        seen.append(VAR.get())

    for leaves in (sets, cancels_itself):
        assert await outside(lambda leaves=leaves: runner.begin(leaves())) is None
        assert runner.spare is None
        runner.prepare()
        await asyncio.sleep(0)
        assert await outside(lambda: runner.begin(looks())) is None
    assert seen == [0, 0]
    await end(runner)


async def test_without_a_task_that_waits_one_is_made() -> None:
    runner = Runner(asyncio.get_running_loop())
    seen: list[str] = []

    async def notes(what: str) -> None:
        seen.append(what)

    begun = runner.begin(notes("no task"))
    assert begun is not None and seen == []
    await begun[0]
    runner = await ready()
    begun = runner.begin(notes("in a task"))  # rule 2
    assert begun is not None and seen == ["no task"]
    await begun[0]
    assert seen == ["no task", "in a task"]
    await end(runner)


async def test_what_ends_the_program_is_raised_by_the_loop() -> None:
    runner = await ready()
    loop = asyncio.get_running_loop()
    raised: list[object] = []

    async def exits() -> None:
        raise SystemExit(3)

    called = loop.call_soon

    def call_soon(callback: Any, *args: Any, **options: Any) -> Any:
        if args and isinstance(args[0], SystemExit):
            raised.append(args[0].code)
            with pytest.raises(SystemExit):
                callback(*args)
            return None
        return called(callback, *args, **options)

    class Loop:
        """The loop, but for what ends it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

    runner._loop = Loop()  # type: ignore[assignment]
    runner._loop.call_soon = call_soon  # type: ignore[method-assign]
    assert await outside(lambda: runner.begin(exits())) is None
    assert raised == [3]
    assert runner.spare is None


async def test_closing_and_preparing_twice_changes_nothing() -> None:
    runner = await ready()
    spare = runner.spare
    runner.prepare()
    assert runner.spare is spare
    await end(runner)
    runner.close()
    assert runner.spare is None
