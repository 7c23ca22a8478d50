"""A worker that cannot start is not started for ever: after a few failures the pool holds
back, says why in one line with the worker's own last words, and a stop leaves nothing.
"""

from __future__ import annotations

import sys

import pytest

from amnode import LeaseTimeoutError, PoolError, Worker
from tests.promises.broken import Unimportable
from tests.promises.pools import WatchedSupervisor, client_of, short
from tests.promises.workers import NoSuchThing, Plain


@pytest.mark.parametrize(
    ("kind", "words"),
    [(NoSuchThing, "there is no licence"), (Unimportable, "this machine has no such library")],
)
async def test_it_gives_up_and_says_why(kind: type[Worker], words: str) -> None:
    opts = short(1, restart_intensity=3, back_off_base=1000.0, back_off_cap=1000.0)
    supervisor = WatchedSupervisor(kind, opts=opts)
    async with supervisor:
        with pytest.raises(PoolError, match=words):
            await supervisor.when_ready()
        assert supervisor.machine.is1("ErrPool")
        assert supervisor.machine.is1("NormalizingPool")
        assert words in supervisor.view().why_not_growing
        assert "no start for" in supervisor.view().why_not_growing
        starts = supervisor.machine.tick("ForkWorker") // 2
        assert starts == 3
        await supervisor.until(lambda view: view.counts.total == 0)
        supervisor.check_pool()
        assert supervisor.machine.tick("ForkWorker") // 2 == starts
        with pytest.raises(PoolError, match=words):
            await supervisor.when_ready()


async def test_a_program_that_is_not_there_is_named() -> None:
    supervisor = WatchedSupervisor(
        "Plain",
        ["/no/such/program"],
        Plain.schema,
        opts=short(1, restart_intensity=1, pool_pause=0.0),
    )
    async with supervisor:
        with pytest.raises(PoolError, match="/no/such/program"):
            await supervisor.when_ready()


PROGRAM = (
    "from amnode import run_worker; from tests.promises.workers import Plain; run_worker(Plain)"
)


async def test_a_program_that_ends_in_run_worker_serves() -> None:
    bin_ = [sys.executable, "-c", PROGRAM]
    async with WatchedSupervisor("Plain", bin_, Plain.schema, opts=short(1)) as supervisor:
        await supervisor.when_ready()
        async with client_of(supervisor) as client, client.lease() as worker:
            assert await worker.call(Plain.square, 7) == 49


async def test_a_program_of_another_kind_says_so() -> None:
    bin_ = [sys.executable, "-c", PROGRAM]
    opts = short(1, restart_intensity=1)
    async with WatchedSupervisor("Other", bin_, Plain.schema, opts=opts) as supervisor:
        with pytest.raises(PoolError, match=r"kind 'Plain', its supervisor wants 'Other'"):
            await supervisor.when_ready()


async def test_a_program_that_never_calls_back_is_ended() -> None:
    supervisor = WatchedSupervisor(
        "Plain",
        ["/bin/sh", "-c", "echo not a worker; exec sleep 1000"],
        Plain.schema,
        opts=short(1, restart_intensity=1, start_timeout=0.2),
    )
    async with supervisor:
        with pytest.raises(PoolError, match="call back"):
            await supervisor.when_ready()
        error = supervisor.machine.err
        assert error is not None


async def test_a_request_meanwhile_ends_at_its_deadline_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    opts = short(1, restart_intensity=1, back_off_base=1000.0, back_off_cap=1000.0)
    async with WatchedSupervisor(NoSuchThing, opts=opts) as supervisor:
        with pytest.raises(PoolError):
            await supervisor.when_ready()
        async with client_of(supervisor, kind=NoSuchThing) as client:
            with pytest.raises(LeaseTimeoutError, match="they fail to start"):
                await client.req_worker(timeout=0.1)
        (told,) = (r.getMessage() for r in caplog.records if "starts no workers" in r.message)
        assert "there is no licence" in told


async def test_when_the_cause_is_gone_the_pool_is_whole(tmp_path, monkeypatch) -> None:
    """The worker's program appears while the pool backs off."""
    from tests.promises.broken import NeedsFile

    wanted = tmp_path / "licence"
    monkeypatch.setenv("AM_TEST_LICENCE", str(wanted))
    opts = short(1, restart_intensity=1, back_off_base=0.05, back_off_cap=0.05)
    async with WatchedSupervisor(NeedsFile, opts=opts) as supervisor:
        with pytest.raises(PoolError, match="no licence at"):
            await supervisor.when_ready()
        wanted.touch()
        await supervisor.until(lambda view: view.pool_ready)
        assert supervisor.machine.not1("ErrPool")
        assert supervisor.view().broken == ""
        async with client_of(supervisor, kind=NeedsFile) as client, client.lease() as worker:
            assert await worker.call(Plain.square, 7) == 49
