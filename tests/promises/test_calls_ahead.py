"""Calls may be made before the ones before are answered: they run one at a time, in the order
made, and of those that are lost with their worker it is known which cannot have run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from amnode import JobCancelled, LeasedWorker, LeaseLost, Outcome, WorkerError, WorkerStates
from amnode.node.jobs import Job
from amnode.node.leased import CREDIT, CallOptions
from amnode.node.pending_call import PendingCall
from tests.promises.ahead_workers import MarkedStates, Marks
from tests.promises.pools import PATIENCE, client_of, pool

S = WorkerStates
PLAIN = CallOptions()


@asynccontextmanager
async def leased() -> AsyncGenerator[LeasedWorker]:
    """A worker of a pool of one."""
    async with (
        pool(1, Marks) as supervisor,
        client_of(supervisor, kind=Marks) as client,
        client.lease() as worker,
    ):
        yield worker


def begin(worker: LeasedWorker, job: Job[..., Any], *args: object) -> PendingCall[Any]:
    return worker.begin(PLAIN, job, args, {})


def marks(path: Path) -> list[int]:
    """Which calls began."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


async def outcomes(calls: list[PendingCall[Any]]) -> list[Any]:
    """The result of each, or what is known of it."""
    async with asyncio.timeout(PATIENCE):
        ended = await asyncio.gather(*calls, return_exceptions=True)
    return [e.outcome if isinstance(e, WorkerError | LeaseLost) else e for e in ended]


@pytest.mark.parametrize("job", [Marks.mark, Marks.mark_again, Marks.mark_late])
async def test_they_run_in_the_order_made(tmp_path: Path, job: Job[..., Any]) -> None:
    path = tmp_path / "marks"
    async with leased() as worker:
        calls = [begin(worker, job, str(path), n) for n in range(5 * CREDIT)]
        assert len(worker._sent) == CREDIT
        assert await outcomes(calls) == [*range(5 * CREDIT)]
        assert marks(path) == [*range(5 * CREDIT)]
        assert not worker._sent


async def test_a_worker_with_calls_does_not_rest_between_them(tmp_path: Path) -> None:
    path = str(tmp_path / "marks")
    async with leased() as worker:
        await worker.machine.when1(S.Idle)
        idle, worked = worker.machine.tick(S.Idle), worker.machine.tick(S.Working)
        await outcomes([begin(worker, Marks.mark, path, n) for n in range(100)])
        assert worker.machine.tick(S.Idle) == idle + 1
        assert worker.machine.tick(S.Working) == worked + 200
        assert worker.machine.is1(S.WorkReady)
        async with asyncio.timeout(PATIENCE):
            await worker.machine.when1(S.Idle)


async def test_a_call_is_one_frame_each_way(tmp_path: Path) -> None:
    path = str(tmp_path / "marks")
    async with leased() as worker:
        await worker.call(Marks.mark, path, 0)
        link = worker.rpc._link
        assert link is not None and link.connection is not None
        reads = 0
        received: Callable[[bytes], bool] = link.received

        def counted(data: bytes) -> bool:
            nonlocal reads
            reads += 1
            return received(data)

        link.received = counted  # type: ignore[method-assign]
        for n in range(50):
            worked = worker.machine.tick(S.WorkReady)
            await worker.call(Marks.mark, path, n)
            assert worker.machine.tick(S.WorkReady) > worked  # it came with the answer
        # It may have rested meanwhile, where the machine is busy; an acknowledgement is due.
        assert reads <= 2 * 50


async def test_one_that_waits_and_is_cancelled_never_begins(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    async with leased() as worker:
        runs = begin(worker, Marks.wait)
        first = begin(worker, Marks.mark, str(path), 1)
        second = begin(worker, Marks.mark, str(path), 2)
        unsent = [begin(worker, Marks.mark, str(path), n) for n in range(3, 2 * CREDIT)]
        await worker.machine.when1(MarkedStates.Waiting)
        first.cancel()
        unsent[-1].cancel()
        assert not runs.done()
        runs.cancel()
        assert await second == 2
        await outcomes(unsent[:-1])
        assert marks(path) == [2, *range(3, 2 * CREDIT - 1)]
        assert runs.cancelled() and first.cancelled()


async def test_those_behind_the_one_that_killed_the_worker_say_that_they_have_not_run(
    tmp_path: Path,
) -> None:
    path = tmp_path / "marks"
    async with leased() as worker:
        calls = [begin(worker, Marks.mark, str(path), n) for n in range(10)]
        calls.append(begin(worker, Marks.die, str(path), 10))
        calls += [begin(worker, Marks.mark, str(path), n) for n in range(11, 2 * CREDIT)]
        ended = await outcomes(calls)
        assert ended[:10] == [*range(10)]
        assert ended[10] is Outcome.UNKNOWN
        assert set(ended[11:]) == {Outcome.NOT_RUN}
        assert marks(path) == [*range(11)]


async def test_none_says_that_it_has_not_run_if_it_has(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    async with leased() as worker:
        calls: list[PendingCall[Any]] = []
        for n in range(2 * CREDIT):
            kind = Marks.mark if n % 3 else Marks.mark_again
            calls.append(begin(worker, Marks.die_again if n == 13 else kind, str(path), n))
        ended = await outcomes(calls)
        began = marks(path)
        assert began == [*range(14)]
        for n, outcome in enumerate(ended):
            assert outcome == n or (outcome is Outcome.UNKNOWN and n <= CREDIT) or n > 13
            assert outcome is not Outcome.NOT_RUN or n not in began


async def test_the_end_of_a_lease_ends_those_that_wait(tmp_path: Path) -> None:
    path = tmp_path / "marks"
    async with leased() as worker:
        runs = begin(worker, Marks.wait)
        calls = [begin(worker, Marks.mark, str(path), n) for n in range(2 * CREDIT)]
        await worker.machine.when1(MarkedStates.Waiting)
    with pytest.raises(JobCancelled):
        await runs
    assert set(await outcomes(calls)) == {Outcome.NOT_RUN}
    assert not marks(path)
