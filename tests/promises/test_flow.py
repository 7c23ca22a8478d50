"""The main job, from one end to the other: a supervisor comes up, a client leases a worker,
calls it and sees its states live, gives it back, and the next client gets the same warm
worker. When the supervisor stops, nothing is left.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from amnode import (
    LeaseError,
    LeaseLost,
    LeaseTimeoutError,
    PoolError,
    Worker,
    WorkerState,
)
from tests.promises.pools import PATIENCE, WatchedSupervisor, client_of, gone, pool, short
from tests.promises.workers import (
    BusyStates,
    Cleaned,
    DeafHook,
    FailingHook,
    HookExits,
    Patient,
    Plain,
)

S = BusyStates


async def test_a_client_leases_a_worker_and_calls_it() -> None:
    async with pool() as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            assert await worker.call(Plain.square, 7) == 49
            row = await supervisor.row(worker.id)
            assert await worker.call(Plain.pid) == row.pid
            assert (row.condition, row.client, row.epoch) == ("leased", "me", worker.epoch)
            assert await worker.call(Plain.epoch) == (worker.id, worker.epoch)
            assert client.machine.is1("WorkerReady")
            assert client.machine.is1("Ready")
        assert client.machine.not1("WorkerReady")
        await supervisor.all_idle(1)


async def test_the_states_of_a_worker_are_seen_live(tmp_path: Path) -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        assert worker.machine.is_(("Leased", "Idle", "Ready", "ClientConnected"))
        seen: list[str] = []
        one_at_a_time = (S.Idle, S.WorkRequested, S.Working, S.WorkReady)

        class Watch:
            def transition_end(self, _transition: object) -> None:
                seen.extend(s for s in one_at_a_time if worker.machine.is1(s))

        worker.machine.trace(Watch())
        fifo = tmp_path / "gate"
        os.mkfifo(fifo)
        held = os.open(fifo, os.O_RDWR)
        call = asyncio.create_task(worker.call(Plain.gate, str(fifo)))
        await worker.machine.when((S.Working, S.Begun))
        assert worker.machine.not1(S.Idle)
        os.write(held, b"go")
        assert await call == "go"
        os.close(held)
        await worker.machine.when1(S.Idle)
        assert worker.machine.not1(S.Begun)
        assert seen.index(S.Working) < len(seen) - 1
        assert seen[-1] == S.Idle


async def test_the_next_client_gets_the_same_warm_worker() -> None:
    async with pool() as supervisor, client_of(supervisor, "first") as first:
        async with first.lease() as worker:
            assert await worker.call(Plain.keep, "a secret") == ["a secret"]
            one = worker.id, worker.epoch, await worker.call(Plain.pid)
        async with client_of(supervisor, "second") as second, second.lease() as worker:
            two = worker.id, worker.epoch, await worker.call(Plain.pid)
    assert one[0] == two[0]
    assert one[1] < two[1]
    assert one[2] == two[2]


async def test_a_hook_clears_what_the_last_client_left() -> None:
    async with pool(kind=Cleaned) as supervisor:
        for name in ("first", "second"):
            async with client_of(supervisor, name) as client, client.lease() as worker:
                kept = await worker.call(Plain.keep, name)
                epoch = worker.epoch
        assert kept == ["released epoch 1", "second"]
        assert epoch == 3


@pytest.mark.parametrize("kind", [FailingHook, HookExits, DeafHook])
async def test_a_hook_that_does_not_end_well_costs_its_worker_not_the_pool(
    kind: type[Worker],
) -> None:
    async with pool(kind=kind) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            assert await worker.call(Plain.square, 7) == 49
            gone_for_good = (await supervisor.row(worker.id)).pid
        async with client.lease(timeout=PATIENCE) as another:
            assert another.id != worker.id
            assert await another.call(Plain.square, 7) == 49
        await gone(gone_for_good)
        await supervisor.all_idle(1)


async def test_two_releases_at_the_same_time_both_wait_for_the_hook(tmp_path: Path) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    async with (
        pool(kind=Patient) as supervisor,
        client_of(supervisor, delivery_timeout=1000.0) as client,
    ):
        worker = await client.req_worker()
        await worker.call(Patient.hold_hook, str(fifo))
        releases = [asyncio.create_task(worker.release()) for _ in range(3)]
        await worker.machine.when1(S.Tidying)
        releases[0].cancel()  # which is no matter of the others
        late = asyncio.create_task(worker.release())
        await asyncio.sleep(0)
        assert not any(release.done() for release in (*releases[1:], late))
        os.write(held, b"go on")
        await asyncio.gather(*releases[1:], late)
        assert releases[0].cancelled()
        await worker.release()
        async with client.lease() as same:
            assert same.id == worker.id
            assert await same.call(Plain.keep, "next") == ["hook ran", "next"]
    os.close(held)


async def test_a_client_that_stops_releases_its_workers_side_by_side() -> None:
    """Stuck ones do not keep another from its release, whichever comes first."""
    async with pool(3) as supervisor:
        client = client_of(supervisor, delivery_timeout=1000.0)
        client.start()
        workers = [await client.req_worker() for _ in range(3)]
        stuck = [(await supervisor.row(workers[n].id)).pid for n in (0, 2)]
        for pid in stuck:
            os.kill(pid, signal.SIGSTOP)
        stop = asyncio.create_task(client.dispose())
        await supervisor.until(lambda view: view.counts.idle == 1)
        assert (await supervisor.row(workers[1].id)).condition == "idle"
        assert not stop.done()
        for pid in stuck:
            os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(PATIENCE):
            await stop
        await supervisor.all_idle(3)


async def test_a_stop_leaves_nothing() -> None:
    supervisor = WatchedSupervisor(Plain, opts=short(2))
    await supervisor.start()
    await supervisor.when_ready()
    await supervisor.all_idle(2)
    pids = [row.pid for row in await supervisor.workers()]
    directory = Path(supervisor.address.removeprefix("unix:")).parent
    assert directory.stat().st_mode & 0o777 == 0o700
    await supervisor.dispose()
    for pid in pids:
        await gone(pid)
    assert not directory.exists()
    assert supervisor.view().stopped


async def test_a_stopped_supervisor_is_not_started_again() -> None:
    supervisor = WatchedSupervisor(Plain, opts=short(1))
    await supervisor.start()
    await supervisor.dispose()
    with pytest.raises(PoolError, match="make a new one"):
        await supervisor.start()


async def test_workers_are_listed_by_what_they_do() -> None:
    async with pool(2) as supervisor, client_of(supervisor) as client, client.lease() as worker:
        busy = await supervisor.workers(WorkerState.BUSY)
        idle = await supervisor.workers(WorkerState.IDLE)
        assert [row.id for row in busy] == [worker.id]
        assert len(idle) == 1
        assert len(await supervisor.workers(WorkerState.READY)) == 2
        assert len(await supervisor.workers(WorkerState.RPC)) == 2
        assert await supervisor.workers(WorkerState.INITING) == []
        assert all(row.memory > 0 for row in busy + idle)


async def test_a_released_worker_is_called_no_more() -> None:
    async with pool() as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            pass
        with pytest.raises(LeaseLost, match="released") as caught:
            await worker.call(Plain.square, 7)
        assert caught.value.outcome == "not run"


async def test_what_a_client_holds_ends_with_it() -> None:
    async with pool(2) as supervisor:
        client = client_of(supervisor)
        client.start()
        workers = [await client.req_worker(), await client.req_worker()]
        assert len({worker.id for worker in workers}) == 2
        await client.dispose()
        await supervisor.all_idle(2)
        with pytest.raises(LeaseError, match="not started"):
            await client.req_worker()


async def test_a_request_made_before_there_is_a_supervisor_waits_for_it(tmp_path: Path) -> None:
    supervisor = WatchedSupervisor(
        Plain, opts=short(1), public_addr=f"unix:{tmp_path / 'public'}"
    )
    from amnode import Client

    address = f"unix:{tmp_path / 'public'}"
    async with Client("me", Plain, addrs=[address], token=supervisor.token) as client:
        with pytest.raises(LeaseTimeoutError, match="No supervisor"):
            await client.req_worker(timeout=0.05)
        asked = asyncio.create_task(client.req_worker(timeout=5))
        await client.machine.when1("ErrSupervisor")
        async with supervisor:
            worker = await asked
            assert await worker.call(Plain.square, 3) == 9
