"""A worker that is killed costs its own call and nothing else. It is noticed by the end of
its process, whatever it was doing (idle, handed over, busy). The client's pending call fails
with a `WorkerError` that says why, with the last lines that the process wrote; the pool is
whole again; the calls of other clients go on.
"""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from amnode import Cause, JobCancelled, Outcome, SupervisorStates, WorkerError
from amnode.node.args import Grant, ProvideWorkerArgs, WorkerCrashed
from amnode.node.client import Client
from amnode.node.leased import LeasedWorker
from amnode.rpc.client import RpcClient
from amnode.rpc.protocol.subscription import schema_hash
from tests.promises.pools import PATIENCE, WatchedSupervisor, client_of, gone, pool
from tests.promises.workers import BusyStates, FaultyHandler, Plain


async def kill(supervisor: WatchedSupervisor, worker_id: str) -> int:
    pid = (await supervisor.row(worker_id)).pid
    os.kill(pid, signal.SIGKILL)
    return pid


async def test_an_idle_worker_is_killed_and_replaced() -> None:
    async with pool(2) as supervisor:
        before = await supervisor.workers()
        missing = supervisor.machine.when1("NormalizingPool")
        os.kill(before[0].pid, signal.SIGKILL)
        await missing
        await supervisor.all_idle(2)
        after = {row.id for row in await supervisor.workers()}
        assert before[0].id not in after
        assert before[1].id in after
        error = supervisor.machine.err
        assert isinstance(error, WorkerError)
        assert (error.cause, error.signal, error.worker_id) == (
            Cause.SIGNAL,
            "SIGKILL",
            before[0].id,
        )


async def test_a_dead_worker_is_never_handed_out() -> None:
    async with pool(2) as supervisor, client_of(supervisor) as client:
        dead = (await supervisor.workers())[0]
        asked = [asyncio.create_task(client.req_worker()) for _ in range(2)]
        os.kill(dead.pid, signal.SIGKILL)
        for worker in await asyncio.gather(*asked):
            assert await worker.call(Plain.square, 3) == 9 and worker.id != dead.id


async def test_a_busy_worker_is_killed_and_its_call_says_why() -> None:
    async with pool(2) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            await worker.call(Plain.say, "one\ntwo")
            call = asyncio.create_task(worker.call(Plain.last))
            queued = asyncio.create_task(worker.call(Plain.square, 7))
            await worker.machine.when1(BusyStates.Begun)
            pid = await kill(supervisor, worker.id)
            with pytest.raises(WorkerError) as caught:
                await call
            error = caught.value
            assert error.cause is Cause.SIGNAL
            assert error.signal == "SIGKILL"
            assert error.exit_code is None
            assert error.outcome is Outcome.UNKNOWN
            assert error.worker_id == worker.id
            assert error.output == ("one", "two")
            assert "SIGKILL" in str(error) and str(pid) in str(error)
            with pytest.raises(WorkerError) as caught:
                await queued
            assert caught.value.outcome is Outcome.NOT_RUN
            assert caught.value.signal == "SIGKILL"
            with pytest.raises(WorkerError) as caught:
                await worker.call(Plain.square, 7)
            assert caught.value.outcome is Outcome.NOT_RUN
        async with client.lease() as another:
            assert await another.call(Plain.square, 7) == 49
        await supervisor.all_idle(2)


async def test_the_states_of_a_client_do_not_outlive_its_worker() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        states = client.machine
        worker = await client.req_worker()
        assert states.is_(("WorkerReady", "Ready"))
        ended = states.when_not(("WorkerReady", "Ready"))
        failed = states.when1("ErrWorker")
        await kill(supervisor, worker.id)
        async with asyncio.timeout(PATIENCE):
            await ended  # nobody has released it
            await failed
        another = await client.req_worker()
        assert states.is_(("WorkerReady", "Ready"))
        assert states.not_(("ErrWorker", "Exception"))
        assert states.err is None or not states.is_err
        await worker.release()  # late, and of no account for the other
        assert states.is_(("WorkerReady", "Ready"))
        assert await another.call(Plain.square, 7) == 49
        await another.release()
        assert states.not_(("WorkerReady", "Ready"))


async def test_what_a_handler_raised_is_in_the_last_lines() -> None:
    async with (
        pool(kind=FaultyHandler) as supervisor,
        client_of(supervisor, kind=FaultyHandler) as client,
        client.lease() as worker,
    ):
        await worker.call(FaultyHandler.poke)
        with pytest.raises(WorkerError) as caught:
            await worker.call(Plain.die, "SIGKILL")
        said = "\n".join(caught.value.output)
        assert "OddError: the handler is broken" in said
        assert "PokedState" in said


@pytest.mark.parametrize(
    ("how", "cause", "code", "by"),
    [
        ("SIGSEGV", Cause.SIGNAL, None, "SIGSEGV"),
        ("SIGABRT", Cause.SIGNAL, None, "SIGABRT"),
        ("exit", Cause.EXIT_CODE, 3, ""),
        ("sys.exit", Cause.EXIT_CODE, 4, ""),
    ],
)
async def test_a_job_that_ends_its_process(
    how: str, cause: Cause, code: int | None, by: str
) -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            with pytest.raises(WorkerError) as caught:
                await worker.call(Plain.die, how)
        error = caught.value
        assert (error.cause, error.exit_code, error.signal) == (cause, code, by)
        assert error.outcome is Outcome.UNKNOWN
        assert error.output[0] == f"about to die: {how}"
        async with client.lease() as another:
            assert await another.call(Plain.square, 7) == 49
            assert another.id != worker.id


async def test_an_interrupt_out_of_a_job_ends_the_process_with_its_traceback() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            with pytest.raises(WorkerError) as caught:
                await worker.call(Plain.die, "interrupt")
        assert any("KeyboardInterrupt" in line for line in caught.value.output)
        async with client.lease() as another:
            assert await another.call(Plain.square, 7) == 49


async def test_a_sigterm_from_outside_ends_a_worker_and_is_made_up_for() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            call = asyncio.create_task(worker.call(Plain.last))
            await worker.machine.when1(BusyStates.Begun)
            pid = (await supervisor.row(worker.id)).pid
            os.kill(pid, signal.SIGTERM)
            with pytest.raises(JobCancelled, match="the worker is stopping"):
                await call
            with pytest.raises(WorkerError, match="SIGTERM") as caught:
                await worker.call(Plain.square, 7)
            assert (caught.value.cause, caught.value.exit_code) == (Cause.EXIT_CODE, 0)
        await gone(pid)
        async with client.lease() as another:
            assert await another.call(Plain.square, 7) == 49
        await supervisor.all_idle(1)


class RawClient:
    """A client that asks, and does nothing about what it gets."""

    def __init__(self, supervisor: WatchedSupervisor, name: str = "raw") -> None:
        loop = asyncio.get_running_loop()
        self.granted: asyncio.Future[Grant] = loop.create_future()
        self.crashed: asyncio.Future[WorkerCrashed] = loop.create_future()
        self.name = name
        self.rpc = RpcClient(
            supervisor.address,
            id=f"rc-nc-super-{name}.0",
            secret=supervisor.token,
            states=("Start",),
            on_payload=self._payload,
        )

    def _payload(self, name: str, data: msgspec.Raw) -> None:
        if name == "Grant":
            self.granted.set_result(msgspec.msgpack.decode(data, type=Grant))
        elif name == "WorkerCrashed":
            self.crashed.set_result(msgspec.msgpack.decode(data, type=WorkerCrashed))

    async def ask(self) -> Grant:
        await self.rpc.start()
        request = ProvideWorkerArgs(
            request_id="r1",
            kind="Plain",
            schema_hash=schema_hash(Plain.schema.schema()).hex(),
            worker_rpc_id=f"rc-nc-worker-{self.name}.0",
            time_left=5.0,
        )
        assert await self.rpc.source.add1(SupervisorStates.ProvideWorker, request)
        return await self.granted


async def test_a_worker_that_was_handed_over_is_killed() -> None:
    async with pool(1) as supervisor:
        raw = RawClient(supervisor)
        grant = await raw.ask()
        assert (await supervisor.row(grant.worker_id)).condition == "handed over"
        pid = await kill(supervisor, grant.worker_id)
        crashed = await raw.crashed
        await raw.rpc.stop()
        assert (crashed.worker_id, crashed.epoch) == (grant.worker_id, grant.epoch)
        assert (crashed.report.cause, crashed.report.signal) == ("signal", "SIGKILL")
        assert (crashed.report.pid, crashed.report.state) == (pid, "handed over")
        await supervisor.all_idle(1)


async def test_a_hand_over_that_nobody_takes_comes_back() -> None:
    async with pool(1, delivery_timeout=0.1) as supervisor:
        raw = RawClient(supervisor)
        grant = await raw.ask()
        await supervisor.all_idle(1)
        await raw.rpc.stop()
        assert [row.id for row in await supervisor.workers()] == [grant.worker_id]


async def test_a_client_whose_granted_worker_dies_gets_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with pool(2) as supervisor, client_of(supervisor) as client:
        killed: list[str] = []
        connect = Client._connect

        async def kill_first(self: Client, grant: Grant) -> LeasedWorker | None:
            if not killed:
                killed.append(grant.worker_id)
                await gone(await kill(supervisor, grant.worker_id))
            return await connect(self, grant)

        monkeypatch.setattr(Client, "_connect", kill_first)
        async with client.lease() as worker:
            assert worker.id not in killed
            assert await worker.call(Plain.square, 7) == 49
        await supervisor.all_idle(2)


async def test_the_calls_of_others_go_on(tmp_path: Path) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    async with pool(2) as supervisor:
        async with (
            client_of(supervisor, "one") as one,
            client_of(supervisor, "two") as two,
            one.lease() as victim,
            two.lease() as other,
        ):
            waiting = asyncio.create_task(other.call(Plain.gate, str(fifo)))
            lost = asyncio.create_task(victim.call(Plain.last))
            await other.machine.when1(BusyStates.Begun)
            await victim.machine.when1(BusyStates.Begun)
            await kill(supervisor, victim.id)
            with pytest.raises(WorkerError):
                await lost
            os.write(held, b"unharmed")
            assert await waiting == "unharmed"
        os.close(held)
        await supervisor.all_idle(2)


async def test_every_worker_is_killed_at_once_and_the_pool_is_whole_again() -> None:
    async with pool(3, restart_intensity=10) as supervisor, client_of(supervisor) as client:
        missing = supervisor.machine.when1("NormalizingPool")
        for row in await supervisor.workers():
            os.kill(row.pid, signal.SIGKILL)
        await missing
        await supervisor.all_idle(3)
        async with client.lease() as worker:
            assert await worker.call(Plain.square, 7) == 49
