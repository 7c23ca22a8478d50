"""Who does not hold the token gets nothing, and is told so: neither a supervisor nor a
worker lets him in. A lease secret opens its worker once, for its client alone. Secrets are
in no command line and in no environment.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from amnode import (
    AuthError,
    Client,
    LeaseLost,
    OptionError,
    RefusedError,
    RpcError,
    Supervisor,
)
from amnode.node.args import ReleasingArgs, RetireArgs, ServeClientArgs, WorkArgs
from amnode.node.client import Client as ClientActor
from amnode.node.leased import LeasedWorker
from amnode.node.values import to_wire
from amnode.rpc.client import RpcClient
from tests.promises.pools import client_of, pool
from tests.promises.workers import BusyStates, Plain


async def test_a_wrong_token_is_refused_and_the_error_says_so() -> None:
    async with pool() as supervisor:
        wrong = secrets.token_bytes(32)
        async with Client("me", Plain, addrs=[supervisor.address], token=wrong) as client:
            with pytest.raises(AuthError, match="secret") as caught:
                await client.req_worker()
            assert supervisor.token.hex() not in str(caught.value)
            assert isinstance(client.machine.err, AuthError)
        await supervisor.all_idle(1)


def test_a_client_without_a_token_is_refused_at_once() -> None:
    with pytest.raises(OptionError, match="token"):
        Client("me", Plain, addrs=["unix:/nowhere"])


@pytest.mark.parametrize("token", ["text", 123, bytearray(b"x"), None])
def test_a_token_that_is_no_bytes_is_refused_at_once(token: Any) -> None:
    with pytest.raises(OptionError, match=r"token .*bytes"):
        Client("me", Plain, addrs=["unix:/nowhere"], token=token)
    if token is not None:
        with pytest.raises(OptionError, match=r"token .*bytes"):
            Supervisor(Plain, token=token)


async def test_the_token_opens_no_worker() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        rpc = RpcClient(worker.rpc.address, id="rc-nc-worker-thief", secret=supervisor.token)
        with pytest.raises(AuthError):
            await rpc.start()
        assert await worker.call(Plain.square, 7) == 49


async def test_a_lease_secret_opens_once_and_for_its_client_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grants = []
    connect = ClientActor._connect

    async def before(self: ClientActor, grant: object) -> LeasedWorker | None:
        grants.append(grant)
        thief = RpcClient(grant.address, id="rc-nc-worker-thief", secret=grant.secret)
        with pytest.raises(AuthError):
            await thief.start()
        return await connect(self, grant)

    monkeypatch.setattr(ClientActor, "_connect", before)
    async with pool() as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            for id in ("rc-nc-worker-thief", worker.rpc.id):
                again = RpcClient(worker.rpc.address, id=id, secret=grants[0].secret)
                with pytest.raises((AuthError, RefusedError)):
                    await again.start()
            assert await worker.call(Plain.square, 7) == 49
        late = RpcClient(grants[0].address, id=worker.rpc.id, secret=grants[0].secret)
        with pytest.raises(AuthError):
            await late.start()


async def test_a_client_may_not_do_what_is_the_supervisors() -> None:
    async with pool() as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            machine = worker.machine
            serve = ServeClientArgs(
                client_id="rc-x",
                secret=b"x" * 32,
                expected_tick=worker.epoch,
                delivery_timeout=1.0,
                grace=1.0,
            )
            before = machine.time()
            for refused in (
                machine.add1(BusyStates.ServeClient, serve),
                machine.add1(BusyStates.Leased),
                machine.remove1(BusyStates.Leased),
                machine.remove1(BusyStates.Start, RetireArgs(expected_tick=0, forced="mine")),
                machine.add1(BusyStates.Working),
                machine.set1(BusyStates.Idle),
            ):
                with pytest.raises(RefusedError):
                    await refused
            assert machine.time() == before
            assert await worker.call(Plain.square, 7) == 49
        assert client.rpc_super is not None
        for name in ("Start", "PoolReady", "ForkWorker"):
            with pytest.raises(RefusedError):
                await client.rpc_super.source.remove1(name)


async def test_work_in_another_epoch_is_refused() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        stale = WorkArgs(job="square", args=to_wire(Plain.square.encode((7,), {})), epoch=99)
        with pytest.raises(LeaseLost, match="epoch 99"):
            await worker.machine.add1(BusyStates.WorkRequested, stale)
        with pytest.raises(RpcError, match="no lease of epoch 99"):
            await worker.machine.add1(BusyStates.Releasing, ReleasingArgs(epoch=99))
        assert await worker.call(Plain.count_of_runs) == 0


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.needs("proc")
async def test_secrets_are_in_no_command_line_and_no_environment() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        argv, environ = await worker.call(Plain.seen_from_inside)
        row = await supervisor.row(worker.id)
        outside = command_line(row.pid)
        seen = repr((argv, environ, outside)).encode() + outside
        link = supervisor._links[worker.id]
        canaries = [supervisor.token, link._record.secret]
        for secret in canaries:
            assert secret not in seen
            assert secret.hex().encode() not in seen
            assert repr(secret).encode() not in seen
        assert "AM_NODE_BOOT_FD" not in {k for k in environ if k != "/proc"}
        sockets = Path(supervisor.address.removeprefix("unix:")).parent
        for file in sockets.iterdir():
            if file.is_file():
                assert all(secret not in file.read_bytes() for secret in canaries)
