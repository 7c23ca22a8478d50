"""A `Pool` is a supervisor, its workers and a client in one object. A call goes to any worker;
leases and calls share them. One death fails what ran there, and nothing else: a call that had
not started is made again without being asked. Cancelled calls are cancelled at their workers. A
stop waits for what was asked, or cancels it; nothing is left.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from amnode import (
    Cause,
    Client,
    ClientOptions,
    ConnectionLost,
    DispatchOptions,
    JobFailed,
    JobTimeoutError,
    LeaseTimeoutError,
    OptionError,
    Outcome,
    Pool,
    PoolError,
    PoolSize,
    Progress,
    SupervisorOptions,
    Worker,
    WorkerError,
    job,
)
from tests.promises.pools import PATIENCE, SHORT
from tests.promises.workers import BusyStates, NoSuchThing, Plain


class Dying(Worker):
    """Dies, as often as it is told to."""

    kind = "Plain"

    @job(idempotent=True)
    async def die_once(self, mark: str) -> int:
        with open(mark, "a") as file:  # noqa: ASYNC230, PTH123 - a moment
            file.write("ran\n")
        with open(mark) as file:  # noqa: ASYNC230, PTH123 - a moment
            ran = len(file.readlines())
        if ran == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return ran

    @job(idempotent=True)
    async def die_always(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @job
    async def only_once(self) -> None: ...

    @job
    async def count_to(self, n: int) -> int:
        for done in range(1, n + 1):
            job.progress(done, n)
            await asyncio.sleep(0.02)
        return n


def _pool(
    size: int = 1,
    kind: type[Worker] = Plain,
    *,
    dispatch: DispatchOptions | None = None,
    wait: float = PATIENCE,
    **changes: Any,
) -> Pool:
    opts = SupervisorOptions(**(SHORT | changes))
    return Pool(
        kind,
        size=PoolSize(size, size, 0),
        opts=opts,
        client_opts=ClientOptions(request_wait=wait),
        dispatch=dispatch,
    )


@asynccontextmanager
async def _whole(size: int = 1, **changes: Any) -> AsyncIterator[Pool]:
    """A pool whose workers are all ready."""
    async with _pool(size, **changes) as pool:
        await pool.supervisor.machine.when1("PoolNormalized")
        yield pool


def _fifo(directory: Path, name: str) -> str:
    path = str(directory / name)
    os.mkfifo(path)
    return path


def _write(path: str, text: str) -> None:
    with Path(path).open("w") as fifo:
        fifo.write(text)


async def _runs(pool: Pool, count: int) -> list[int]:
    """The processes that are in a job, once there are so many."""
    async with asyncio.timeout(PATIENCE):
        while True:
            workers = [*pool._feed._workers.values()]
            if sum(w.machine.is1(BusyStates.Begun) for w in workers) == count:
                break
            waits = [w.machine.when1(BusyStates.Begun) for w in workers]
            waits = [w for w in waits if not w.done()]
            if waits:
                await asyncio.wait(waits, timeout=0.05, return_when="FIRST_COMPLETED")
            else:
                await asyncio.sleep(0)
    busy = {w.id for w in workers if w.machine.is1(BusyStates.Begun)}
    return [row.pid for row in await pool.workers() if row.id in busy]


async def test_a_call_needs_nothing_but_the_pool() -> None:
    async with Pool(Plain, min=1, max=1, warm=0) as pool:
        assert await pool.call(Plain.square, 7) == 49
        assert await pool.call(Plain.add, 1, b=2) == 3
        with pytest.raises(JobFailed, match="OddError: so it ends"):
            await pool.call(Plain.fail, "so it ends")
        assert await pool.call(Plain.square, 8) == 64


async def test_calls_at_once_run_side_by_side(tmp_path: Path) -> None:
    async with _whole(2) as pool:
        gates = [_fifo(tmp_path, "a"), _fifo(tmp_path, "b")]
        calls = [pool.submit(Plain.gate, gate) for gate in gates]
        assert len(set(await _runs(pool, 2))) == 2
        for gate in gates:
            _write(gate, gate)
        assert [await call for call in calls] == gates


async def test_a_lease_is_kept_for_the_next_call_and_goes_back_after_a_moment() -> None:
    async with _whole(1, dispatch=DispatchOptions(keep=0.05)) as pool:
        first = await pool.call(Plain.epoch)
        assert await pool.call(Plain.epoch) == first
        await pool.supervisor.machine.when1("WorkersAvailable")
        assert (await pool.call(Plain.epoch))[1] > first[1]


async def test_a_lease_that_is_in_use_goes_back_between_two_calls() -> None:
    """Workers are renewed between leases, so none may last for ever."""
    async with _whole(1, dispatch=DispatchOptions(hold=0.05)) as pool:
        first = await pool.call(Plain.epoch)
        async with asyncio.timeout(PATIENCE):
            while await pool.call(Plain.epoch) == first:
                pass


async def test_a_lease_of_ones_own_is_had_while_calls_go_on() -> None:
    async with _whole(2) as pool:
        goes_on = True

        async def call_on() -> int:
            count = 0
            while goes_on:
                count += await pool.call(Plain.square, 1)
            return count

        calling = [asyncio.create_task(call_on()) for _ in range(4)]
        async with pool.lease(timeout=PATIENCE) as mine:
            assert await mine.call(Plain.keep, "a") == ["a"]
            assert await mine.call(Plain.keep, "b") == ["a", "b"]
        goes_on = False
        assert min(await asyncio.gather(*calling)) > 0


async def test_another_client_is_served_while_calls_go_on() -> None:
    async with _whole(1) as pool:
        goes_on = True

        async def call_on() -> None:
            while goes_on:
                await pool.call(Plain.square, 1)

        calling = asyncio.create_task(call_on())
        supervisor = pool.supervisor
        token = supervisor.token
        async with (
            Client("b", Plain, addrs=[supervisor.address], token=token) as client,
            client.lease(timeout=PATIENCE) as worker,
        ):
            assert await worker.call(Plain.square, 3) == 9
        goes_on = False
        await calling


async def test_a_worker_that_dies_fails_its_call_alone(tmp_path: Path) -> None:
    async with _whole(2) as pool:
        gate = _fifo(tmp_path, "gate")
        kept = pool.submit(Plain.gate, gate)
        (other,) = await _runs(pool, 1)
        lost = pool.submit(Plain.last)
        (pid,) = set(await _runs(pool, 2)) - {other}
        waits = [pool.submit(Plain.square, n) for n in range(20)]
        os.kill(pid, signal.SIGKILL)

        with pytest.raises(WorkerError, match="SIGKILL") as caught:
            await lost
        assert (caught.value.cause, caught.value.outcome) == (Cause.SIGNAL, Outcome.UNKNOWN)
        assert [await call for call in waits] == [n * n for n in range(20)]
        _write(gate, "ended")
        assert await kept == "ended"


async def test_calls_that_had_not_started_run_elsewhere() -> None:
    """They were sent ahead to the worker that died."""
    async with _whole(1) as pool:
        await asyncio.gather(*(pool.call(Plain.square, n) for n in range(50)))  # is known small
        lost = pool.submit(Plain.last)
        waits = [pool.submit(Plain.square, n) for n in range(20)]
        (pid,) = await _runs(pool, 1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerError):
            await lost
        assert [await call for call in waits] == [n * n for n in range(20)]


async def test_a_call_that_may_run_twice_is_made_again(tmp_path: Path) -> None:
    marks = [str(tmp_path / name) for name in ("a", "b", "c")]
    async with _whole(2, kind=Dying) as pool:
        assert await pool.options(retry=1).call(Dying.die_once, marks[0]) == 2
        with pytest.raises(WorkerError):
            await pool.options(retry=1).call(Dying.die_always)
        again = pool.options(retry=1)
        assert sorted(await again.map(Dying.die_once, marks[1:])) == [2, 2]
        with pytest.raises(OptionError, match="idempotent"):
            await pool.options(retry=1).call(Dying.only_once)
        with pytest.raises(OptionError, match="idempotent"):
            pool.options(retry=1).map(Dying.only_once)


async def test_progress_reaches_the_handle_and_the_callback() -> None:
    told: list[Progress] = []
    async with _whole(1, kind=Dying) as pool:
        call = pool.options(on_progress=told.append).submit(Dying.count_to, 5)
        seen = [report.done async for report in call]
        assert await call == 5
        assert seen[-1] == told[-1].done == 5 and seen == sorted(seen)


async def test_an_idle_worker_that_dies_costs_no_call() -> None:
    async with _whole(1) as pool:
        pid = await pool.call(Plain.pid)
        (worker,) = pool._feed._workers.values()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ConnectionLost):
            await worker.machine.when1("Working")
        assert await pool.call(Plain.pid) != pid


@pytest.mark.parametrize("how", ["task", "handle"])
async def test_a_cancelled_call_is_cancelled_at_its_worker(how: str) -> None:
    async with _whole(1) as pool:
        call = pool.submit(Plain.last)
        if how == "task":
            waiting = asyncio.ensure_future(call)
            await _runs(pool, 1)
            waiting.cancel()
        else:
            await _runs(pool, 1)
            assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled() and call.done()
        assert await pool.call(Plain.keep, "next") == ["cancelled", "next"]


async def test_a_call_that_is_cancelled_before_its_turn_never_starts() -> None:
    async with _whole(1) as pool:
        first = pool.submit(Plain.last)
        second = pool.submit(Plain.keep, "never")
        await _runs(pool, 1)
        assert second.cancel()
        assert first.cancel()
        assert await pool.call(Plain.keep, "next") == ["cancelled", "next"]


async def test_while_a_job_will_not_stop_others_run_elsewhere() -> None:
    async with _whole(2) as pool:
        stubborn = pool.submit(Plain.stubborn)
        (pid,) = await _runs(pool, 1)
        stubborn.cancel()
        pids = await asyncio.gather(*(pool.call(Plain.pid) for _ in range(9)))
        assert pid not in pids


async def test_a_deadline_is_of_the_call() -> None:
    async with _whole(1) as pool:
        with pytest.raises(JobTimeoutError):
            await pool.options(deadline=0.05).call(Plain.last)
        assert await pool.options(deadline=PATIENCE).call(Plain.square, 3) == 9
        with pytest.raises(JobTimeoutError):
            await pool.options(deadline=0.05).map(Plain.ignore_cancels, [0])
        with pytest.raises(OptionError, match="one call"):
            pool.options(deadline=1.0).map(Plain.square, range(9), chunk=3)
        with pytest.raises(OptionError, match="deadline"):
            pool.options(deadline=-1.0)


async def test_a_stop_waits_for_what_was_asked(tmp_path: Path) -> None:
    gate = _fifo(tmp_path, "gate")
    async with _whole(1) as pool:
        calls = [pool.submit(Plain.gate, gate), pool.submit(Plain.square, 7)]
        await _runs(pool, 1)
        stopping = asyncio.create_task(pool.stop())
        await asyncio.sleep(0)
        with pytest.raises(PoolError, match="was stopped"):
            pool.submit(Plain.square, 8)
        _write(gate, "ended")
        await stopping
        assert [await call for call in calls] == ["ended", 49]
    await pool.stop()  # again changes nothing


@pytest.mark.parametrize("how", ["cancel", "error", "cancelled"])
async def test_a_stop_can_cancel_what_was_asked(how: str) -> None:
    calls: list[Any] = []

    async def body() -> None:
        async with _whole(1) as pool:
            calls.extend([pool.submit(Plain.last), pool.submit(Plain.square, 7)])
            await _runs(pool, 1)
            if how == "cancel":
                await pool.stop(cancel=True)
            elif how == "error":
                raise ZeroDivisionError
            else:
                stopping = asyncio.create_task(pool.stop())
                await asyncio.sleep(0)
                stopping.cancel()
                await asyncio.wait([stopping])

    if how == "error":
        with pytest.raises(ZeroDivisionError):
            await body()
    else:
        await body()
    for call in calls:
        with pytest.raises(PoolError, match="was stopped"):
            await call


async def test_workers_that_never_start_fail_the_calls_and_say_why() -> None:
    async with _pool(1, NoSuchThing, restart_intensity=2) as pool:
        with pytest.raises(PoolError, match="there is no licence"):
            await pool.call(Plain.square, 1)
        with pytest.raises(PoolError, match="there is no licence"):
            await pool.map(Plain.square, range(10))
        with pytest.raises(PoolError):
            await pool.when_ready()


async def test_whoever_holds_every_worker_and_calls_the_pool_is_told() -> None:
    async with _whole(1, wait=0.2) as pool:
        async with pool.lease():
            with pytest.raises(LeaseTimeoutError):
                await pool.call(Plain.square, 1)
        assert await pool.call(Plain.square, 2) == 4


async def test_the_pool_can_be_given_another_size() -> None:
    async with _whole(2) as pool:
        await asyncio.gather(*(pool.call(Plain.pid) for _ in range(9)))
        pool.set_pool(1, 1, 0)
        async with asyncio.timeout(PATIENCE):
            while len(await pool.workers()) != 1:  # noqa: ASYNC110 - the pool says no more
                await asyncio.sleep(0)
        assert pool.view().size.max == 1
        assert await pool.call(Plain.square, 3) == 9


async def test_a_drained_pool_keeps_its_calls_until_it_is_resumed() -> None:
    async with _whole(1) as pool:
        assert await pool.call(Plain.square, 2) == 4
        async with asyncio.timeout(PATIENCE):
            await pool.supervisor.drain()
        call = pool.submit(Plain.square, 3)
        await asyncio.sleep(0)
        assert not call.done()
        pool.supervisor.resume()
        assert await call == 9


async def test_what_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(PoolError, match="not started"):
        await Pool(Plain).call(Plain.square, 1)
    with pytest.raises(OptionError, match="max"):
        Pool(Plain, max=0)
    async with _whole(1) as pool:
        with pytest.raises(OptionError, match="is no job"):
            await pool.call("square", 1)  # pyright: ignore[reportArgumentType, reportCallIssue]
        with pytest.raises(PoolError, match="started before"):
            await pool.start()
        pid, pool._pid = pool._pid, 1
        with pytest.raises(PoolError, match="was forked"):
            pool.submit(Plain.square, 1)
        pool._pid = pid
