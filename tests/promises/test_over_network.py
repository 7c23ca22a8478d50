"""A pool over TCP and TLS: clients reach their supervisor and their workers by host and port,
what would be open to others is refused, and all else is as on one host.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from amnode import (
    AuthError,
    Cause,
    Client,
    ClientOptions,
    LeaseTimeoutError,
    OptionError,
    Supervisor,
    TlsFiles,
    WorkerError,
)
from amnode.rpc.address import parse_address
from tests.pairs.proxy import Proxy
from tests.promises.pools import PATIENCE, WatchedSupervisor, client_of, short
from tests.promises.workers import Plain

#: Who signs for both sides, and somebody else.
AUTHORITY, STRANGER = trustme.CA(), trustme.CA()


def files(folder: Path, *, of: trustme.CA = AUTHORITY, **more: Any) -> TlsFiles:
    """A certificate for localhost, and whom to trust."""
    folder.mkdir(exist_ok=True)
    leaf = of.issue_cert("localhost", "127.0.0.1")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    of.cert_pem.write_to_path(folder / "authority.pem")
    return TlsFiles(
        str(folder / "chain.pem"),
        str(folder / "key.pem"),
        str(folder / "authority.pem"),
        **more,
    )


@asynccontextmanager
async def at(address: str, **more: Any) -> AsyncGenerator[WatchedSupervisor]:
    opts = short(1, max_per_client=4)
    async with WatchedSupervisor(Plain, public_addr=address, opts=opts, **more) as pool:
        await pool.when_ready()
        await pool.all_idle(1)
        yield pool


def client_at(pool: Supervisor, tls: TlsFiles | None, **more: Any) -> Client:
    opts = ClientOptions(request_wait=more.pop("wait", PATIENCE))
    return Client("me", Plain, addrs=[pool.address], token=pool.token, tls=tls, opts=opts)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        pytest.param("[::1]", marks=pytest.mark.needs("IPv6 on loopback")),
    ],
)
async def test_a_lease_over_tcp(host: str) -> None:
    async with at(f"tcp:{host}:0") as pool, client_of(pool) as client:
        assert parse_address(pool.address).port
        async with client.lease() as worker:
            assert await worker.call(Plain.square, 21) == 441
            assert worker.rpc.address.startswith(f"tcp:{host}:")
            assert parse_address(worker.rpc.address).port != parse_address(pool.address).port


async def test_a_worker_that_is_killed_is_told_of_over_tcp_too() -> None:
    async with at("tcp:127.0.0.1:0") as pool, client_of(pool) as client:
        async with client.lease() as worker:
            call = asyncio.ensure_future(worker.call(Plain.last))
            await worker.machine.when1("Begun")
            os.kill((await pool.row(worker.id)).pid, signal.SIGKILL)
            with pytest.raises(WorkerError, match="SIGKILL") as caught:
                await call
        assert caught.value.cause is Cause.SIGNAL
        async with client.lease() as worker:
            assert await worker.call(Plain.square, 4) == 16


async def test_a_lease_over_tls(tmp_path: Path) -> None:
    tls = files(tmp_path)
    trusting = TlsFiles(authority=tls.authority)
    async with (
        at("tls:localhost:0", tls=tls) as pool,
        client_at(pool, trusting) as client,
        client.lease() as worker,
    ):
        assert await worker.call(Plain.square, 21) == 441
        assert worker.rpc.address.startswith("tls:localhost:")


async def test_files_may_be_named_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    tls = TlsFiles("chain.pem", "key.pem", "authority.pem")
    async with (
        at("tls:localhost:0", tls=tls) as pool,
        client_at(pool, tls) as client,
        client.lease() as worker,
    ):
        assert await worker.call(Plain.square, 1) == 1


async def test_a_client_that_does_not_trust_the_supervisor_gets_nothing(tmp_path: Path) -> None:
    other = files(tmp_path / "other", of=STRANGER)
    async with (
        at("tls:localhost:0", tls=files(tmp_path / "own")) as pool,
        client_at(pool, TlsFiles(authority=other.authority)) as client,
    ):
        with pytest.raises(AuthError, match="certificate"):
            await client.req_worker()


async def test_one_without_a_certificate_is_refused_where_it_is_asked_for_one(
    tmp_path: Path,
) -> None:
    tls = files(tmp_path / "own", mutual=True)
    shown = files(tmp_path / "client")
    async with at("tls:localhost:0", tls=tls) as pool:
        async with client_at(pool, shown) as client, client.lease() as worker:
            assert await worker.call(Plain.square, 21) == 441
        nameless = TlsFiles(authority=tls.authority)
        async with client_at(pool, nameless, wait=0.3) as client:
            with pytest.raises((AuthError, LeaseTimeoutError)):
                await client.req_worker()


async def test_the_token_is_needed_inside_tls(tmp_path: Path) -> None:
    tls = files(tmp_path)
    async with at("tls:localhost:0", tls=tls) as pool:
        client = Client("me", Plain, addrs=[pool.address], token=b"wrong", tls=tls)
        async with client:
            with pytest.raises(AuthError):
                await client.req_worker()


async def test_a_wildcard_is_told_to_nobody() -> None:
    more = {"allow_plaintext": True, "advertise_host": "127.0.0.1"}
    async with at("tcp:0.0.0.0:0", **more) as pool, client_of(pool) as client:
        assert pool.address.startswith("tcp:127.0.0.1:") and pool.public_addr() == pool.address
        async with client.lease() as worker:
            assert worker.rpc.address.startswith("tcp:127.0.0.1:")
            assert await worker.call(Plain.square, 2) == 4


async def test_a_cut_connection_to_the_supervisor_costs_no_lease() -> None:
    async with at("tcp:127.0.0.1:0") as pool:
        proxy = Proxy(pool.address)
        address = await proxy.start()
        try:
            client = Client("me", Plain, addrs=[address], token=pool.token)
            async with client, client.lease() as worker:
                gone = client.machine.when_not1("SuperReady")
                proxy.cut()
                await gone
                assert await worker.call(Plain.square, 3) == 9
                await client.machine.when1("SuperReady")
        finally:
            await proxy.close()


async def test_peers_pass_requests_over_tls(tmp_path: Path) -> None:
    tls = files(tmp_path)
    token = b"t" * 32
    async with WatchedSupervisor(
        *(Plain,),
        name="far",
        token=token,
        public_addr="tls:localhost:0",
        local_addr="tls:localhost:0",
        tls=tls,
        opts=short(1, max_per_client=4),
    ) as far:
        await far.all_idle(1)
        async with (
            at(
                "tls:localhost:0", name="near", token=token, tls=tls, peers=[far.local_addr]
            ) as near,
            client_at(near, tls) as client,
            client.lease() as own,
        ):
            async with client.lease() as other:
                assert [row.id for row in await far.workers()] == [other.id]
                assert await other.call(Plain.square, 5) == 25
            assert await own.call(Plain.square, 6) == 36


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"public_addr": "tcp:0.0.0.0:0"}, "allow_plaintext"),
        ({"public_addr": "tls:localhost:0"}, "TlsFiles"),
        ({"tls": TlsFiles(authority="a")}, "nothing uses it"),
        ({"peers": ["tls:host:1"], "token": b"t"}, "TlsFiles"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        Supervisor(Plain, **options)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(OptionError, match=r"missing\.pem"):
        Supervisor(Plain, public_addr="tls:localhost:0", tls=TlsFiles(missing))
    with pytest.raises(OptionError, match=r"missing\.pem"):
        Client("me", Plain, tls=TlsFiles(authority=missing))
    with pytest.raises(OptionError, match="TlsFiles"):
        Client("me", Plain, addrs=["tls:localhost:1"])


def test_a_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    tls = files(tmp_path)
    key = load_pem_private_key(Path(tls.key).read_bytes(), None)
    locked = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open")
    )
    Path(tls.key).write_bytes(locked)
    with pytest.raises(OptionError, match="passphrase"):
        Supervisor(Plain, public_addr="tls:localhost:0", tls=tls)
