"""An acquire that is cancelled costs no worker, at whichever await that happens, and neither
does one whose time runs out in the very turn in which its worker is granted. Afterwards all
workers are idle and a new lease is had at once.
"""

from __future__ import annotations

import asyncio

import pytest

from amnode import Client, LeaseError, LeaseTimeoutError
from amnode.node.args import Grant
from tests.promises.pools import client_of, pool
from tests.promises.stepping import EndOfSteps, Stepped, cancelled_at
from tests.promises.workers import Plain


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("connected", [False, True])
async def test_cancelled_at_each_of_its_awaits(late: bool, connected: bool) -> None:
    # A hand-over that only a timeout gives back would be seen: those are longer than the test.
    async with pool(1, delivery_timeout=1000.0, grace=1000.0) as supervisor:
        step, step_workers = 0, set()
        while True:
            step += 1
            async with client_of(supervisor) as client:
                if connected:
                    await client.machine.when1("SuperReady")
                try:
                    worker = await cancelled_at(client.req_worker, step, late=late)
                except EndOfSteps as end:
                    await end.args[0].release()
                    break
                assert worker is None, "The cancellation was lost."
                assert client.machine.not1("WorkerRequested")
                assert client.machine.not1("WorkerReady")
                async with client.lease() as fresh:
                    assert await fresh.call(Plain.square, step) == step * step
                    step_workers.add(fresh.id)
            await supervisor.all_idle(1)
        assert step > 2
        assert len(step_workers) == 1, "A worker was replaced: it was lost."


@pytest.mark.parametrize("late", [False, True])
async def test_a_release_that_is_cancelled_ends_the_lease(late: bool) -> None:
    async with pool(1, grace=1000.0) as supervisor, client_of(supervisor) as client:
        step = 0
        while True:
            step += 1
            worker = await client.req_worker()
            try:
                await cancelled_at(worker.release, step, late=late)
            except EndOfSteps:
                break
            await supervisor.all_idle(1)
        await supervisor.all_idle(1)
        assert step > 1


async def test_out_of_time_in_the_turn_of_the_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline fires while the grant is being taken in: nothing is lost."""
    granted = Client._granted
    scopes: list[asyncio.Timeout] = []
    timeout = asyncio.timeout

    def remember(delay: float | None) -> asyncio.Timeout:
        scopes.append(timeout(delay))
        return scopes[-1]

    async with pool(1, delivery_timeout=1000.0) as supervisor, client_of(supervisor) as client:
        await client.machine.when1("SuperReady")
        for after in (False, True):

            def at_the_grant(self: Client, grant: Grant, after: bool = after) -> None:
                if after:
                    granted(self, grant)
                scopes[0].reschedule(0.0)  # it is over, at the next turn of the loop
                if not after:
                    granted(self, grant)

            scopes.clear()
            with monkeypatch.context() as patched:
                patched.setattr(Client, "_granted", at_the_grant)
                patched.setattr(asyncio, "timeout", remember)
                with pytest.raises(LeaseTimeoutError):
                    await client.req_worker()
            async with client.lease() as fresh:
                assert await fresh.call(Plain.square, 7) == 49
            await supervisor.all_idle(1)


@pytest.mark.parametrize("by", ["timeout", "cancel"])
async def test_ended_at_any_moment(by: str) -> None:
    """Not only at the awaits of the acquire: at any point of what goes on behind them."""
    async with (
        pool(1, delivery_timeout=1000.0, grace=1000.0) as supervisor,
        client_of(supervisor) as client,
    ):
        await client.machine.when1("SuperReady")
        before = [row.id for row in await supervisor.workers()]
        had: list[bool] = []
        for n in range(100):
            try:
                if by == "timeout":
                    worker = await client.req_worker(timeout=n * 0.0001)
                else:
                    task = asyncio.create_task(client.req_worker())
                    asyncio.get_running_loop().call_later(n * 0.0001, task.cancel)
                    worker = await task
            except (LeaseTimeoutError, asyncio.CancelledError):
                had.append(False)
            else:
                had.append(True)
                await worker.release()
        async with client.lease(timeout=5) as fresh:
            assert await fresh.call(Plain.square, 7) == 49
        await supervisor.all_idle(1)
        assert [row.id for row in await supervisor.workers()] == before
        assert False in had


async def test_many_are_cancelled_while_they_wait() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        async with client.lease():
            asked = [asyncio.create_task(client.req_worker()) for _ in range(20)]
            await supervisor.until(lambda view: view.counts.waiting == 20)
            for task in asked[::2]:
                task.cancel()
            await supervisor.until(lambda view: view.counts.waiting == 10)
            last = asked[-1]
            for task in asked[1:-1:2]:
                task.cancel()
        worker = await last
        assert await worker.call(Plain.square, 7) == 49
        assert all(task.cancelled() for task in asked[:-1])


@pytest.mark.parametrize("late", [False, True])
async def test_the_client_is_disposed_at_each_of_its_awaits(late: bool) -> None:
    async with pool(1, delivery_timeout=1000.0, grace=1000.0) as supervisor:
        ids = set()
        for step in range(1, 100):
            client = client_of(supervisor)
            client.start()
            await client.machine.when1("SuperReady")
            disposals: list[asyncio.Task[None]] = []

            def dispose(
                _task: object,
                client: Client = client,
                begun: list[asyncio.Task[None]] = disposals,
            ) -> None:
                begun.append(asyncio.create_task(client.dispose()))

            try:
                worker = await Stepped(client.req_worker(), step, late=late, strike=dispose)
            except LeaseError:
                pass
            else:
                await worker.release()
            if not disposals:
                await client.dispose()
                break
            await disposals[0]
            await supervisor.all_idle(1)
            ids |= {row.id for row in await supervisor.workers()}
        assert step > 2
        assert len(ids) == 1
