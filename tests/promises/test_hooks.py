"""The hooks of a worker class run when they say, each shown as a state, and each that goes
wrong costs its worker at most: a client gets another one.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from amnode import (
    Client,
    LeaseLost,
    OptionError,
    RefusedError,
    RpcClient,
    Worker,
    WorkerStates,
)
from tests.promises.job_workers import (
    DeafStop,
    Diary,
    FailsToStart,
    HangingLease,
    Jobs,
    NeverStarts,
    PickyLease,
    SlowStart,
)
from tests.promises.pools import WatchedSupervisor, client_of, gone, pool, short

S = WorkerStates


@pytest.fixture
def diary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that all workers of a test know."""
    path = tmp_path / "diary"
    monkeypatch.setenv("AMNODE_TEST_DIARY", str(path))
    return path


def entries(path: Path) -> list[list[Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def said(path: Path) -> str:
    return path.read_text()


async def exists(path: Path) -> None:
    """Waits until somebody has made that file."""
    while not os.path.exists(path):  # noqa: ASYNC240, PTH110, ASYNC110 - there is no event for it
        await asyncio.sleep(0.01)


async def test_they_run_in_their_order_and_show_as_states(diary: Path) -> None:
    async with pool(kind=Diary) as supervisor:
        pid = (await supervisor.workers())[0].pid
        for _ in range(2):
            async with (
                client_of(supervisor, kind=Diary) as client,
                client.lease() as worker,
            ):
                await worker.call(Diary.work)
    await gone(pid)
    served = [
        ["lease", ["LeaseSettingUp", "Ready"], True],
        ["work", ["Ready", "Working"], True],
        ["release", ["Ready", "Releasing"], True],
    ]
    found = [[what, sorted(shown), held] for what, shown, held in entries(diary)]
    assert found == [
        ["start", ["SettingUp"], False],
        *served,
        *served,
        ["stop", ["TearingDown"], False],
    ]


async def test_a_slow_start_is_neither_a_hang_nor_a_failed_connection() -> None:
    # The loop is blocked longer than a connection may take, and than a hang would need.
    async with pool(
        kind=SlowStart,
        conn_timeout=0.3,
        check_timeout=0.1,
        healthcheck_pause=0.05,
        worker_check_interval=0.05,
        restart_settle=1000.0,
        restart_intensity=1,
    ) as supervisor:
        assert supervisor.machine.not1("ErrPool")
        async with client_of(supervisor, kind=SlowStart) as client, client.lease() as worker:
            assert await worker.call(SlowStart.noted) == []


async def test_a_start_that_never_ends_is_bounded_by_its_timeout() -> None:
    supervisor = WatchedSupervisor(
        NeverStarts,
        opts=short(
            start_timeout=4.0, restart_intensity=1, back_off_base=1000.0, back_off_cap=1000.0
        ),
    )
    async with supervisor:
        await supervisor.machine.when1("ErrPool")
        assert "did not become ready within 4 s" in str(supervisor.machine.err)


async def test_a_start_that_fails_is_a_failed_start_and_says_why() -> None:
    supervisor = WatchedSupervisor(
        FailsToStart,
        opts=short(restart_intensity=1, back_off_base=1000.0, back_off_cap=1000.0),
    )
    async with supervisor:
        await supervisor.machine.when1("ErrPool")
        assert "on_start failed: ValueError('no licence')" in str(supervisor.machine.err)


@pytest.mark.parametrize("kind", [PickyLease, HangingLease])
async def test_a_lease_that_cannot_be_set_up_is_given_on_another_worker(
    kind: type[PickyLease], diary: Path
) -> None:
    async with pool(2, kind=kind) as supervisor, client_of(supervisor, kind=kind) as client:
        async with client.lease() as worker:
            pid = await worker.call(Jobs.pid)
            bad = int(said(diary))
            assert pid != bad
        await gone(bad)
        await supervisor.all_idle(2)


async def test_a_request_that_is_cancelled_while_its_lease_is_set_up(
    diary: Path,
) -> None:
    async with (
        pool(1, kind=HangingLease) as supervisor,
        client_of(supervisor, kind=HangingLease) as client,
    ):
        asked = asyncio.create_task(client.req_worker())
        await exists(diary)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        async with client.lease() as worker:
            assert await worker.call(Jobs.noted) == []


class Impatient(Client):
    """Calls at once, whatever its worker is doing."""

    async def _open(self, rpc: RpcClient) -> Exception | None:
        await rpc.start()
        return None


async def test_a_call_before_the_lease_is_set_up_is_refused(diary: Path) -> None:
    async with (
        pool(kind=HangingLease) as supervisor,
        Impatient(
            "me", HangingLease, addrs=[supervisor.address], token=supervisor.token
        ) as client,
    ):
        worker = await client.req_worker()
        assert worker.machine.is1(S.LeaseSettingUp)
        with pytest.raises(RefusedError, match="being set up"):
            await worker.call(Jobs.pid)
        with pytest.raises(RefusedError, match="being set up"):
            await worker.machine.add1(S.WorkRequested)
        await worker.machine.when1(S.Releasing)  # as it does not end
        with pytest.raises(LeaseLost):
            await worker.call(Jobs.pid)
        await worker.release()


async def test_a_stop_hook_that_never_ends_holds_nothing_up() -> None:
    # Nobody sends it a signal before that.
    async with pool(kind=DeafStop, term_timeout=30.0) as supervisor:
        pid = (await supervisor.workers())[0].pid
    await gone(pid)


@pytest.mark.parametrize("name", ["on_start", "on_lease", "on_release", "on_stop"])
def test_a_hook_that_is_not_async_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=rf"{name} must be an `async def` method"):
        type("Wrong", (Worker,), {name: lambda _self: None})
