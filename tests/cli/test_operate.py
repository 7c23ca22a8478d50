"""Operators resize, restart, drain and stop a running pool by commands."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.running import Project, amnode, start
from tests.promises.pools import client_of, pool
from tests.promises.workers import Plain


async def test_set_pool_changes_what_is_named_and_holds_at_once() -> None:
    async with pool(1, most=2) as supervisor:
        ended = await amnode("set-pool", "--min", 3, "--max", 4, "--json")
        assert ended.json == {"min": 3, "max": 4, "warm": 0, "max_per_client": 4}
        await supervisor.all_idle(3)
        quota = await amnode("set-pool", "--max-per-client", 2)
        assert quota.out == "min 3, max 4, warm 0, 2 at most a client\n"
        for words, text in ((("--max", 0), "max is 0"), ((), "--warm")):
            wrong = await amnode("set-pool", *words)
            assert wrong.code == 2 and text in wrong.err
        assert supervisor.view().size.max == 4


async def test_restart_replaces_every_worker() -> None:
    async with pool(2, most=3) as supervisor:
        before = {row.id for row in await supervisor.workers()}
        ended = await amnode("restart", "--json")
        assert ended.code == 0 and ended.json["done"] and ended.json["workers"] == 2
        assert not before & {row.id for row in await supervisor.workers()}


async def test_a_restart_that_cannot_be_is_refused_with_the_reason() -> None:
    async with pool(2):
        ended = await amnode("restart")
        assert ended.code == 1 and "min and max are both 2" in ended.err


async def test_a_restart_goes_on_past_the_time_that_was_waited() -> None:
    async with pool(1, most=2) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            late = await amnode("restart", "--within", 0.1)
            assert late.code == 5 and "it goes on" in late.err
            assert supervisor.view().to_restart == 1
            unwatched = await amnode("restart", "--no-wait")
            assert unwatched.code == 0 and "being replaced" in unwatched.out
            assert await worker.call(Plain.square, 7) == 49
        await supervisor.until(lambda view: not view.to_restart)


async def test_drain_waits_for_the_last_lease_and_resume_ends_it() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        async with client.lease():
            assert (await amnode("drain", "--within", 0.1)).code == 5
        assert (await amnode("drain")).code == 0
        assert supervisor.view().drained
        assert "drained" in (await amnode("ps")).out
        resumed = await amnode("resume", "--json")
        assert resumed.json["done"] and not supervisor.view().draining


async def test_ctrl_c_leaves_a_drain_and_the_drain_goes_on() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client, client.lease():
        program = await start("drain")
        await supervisor.until(lambda view: view.draining)
        program.send_signal(signal.SIGINT)
        out, err = await program.communicate()
        assert (program.returncode, out) == (130, b"") and b"Traceback" not in err
        assert supervisor.view().draining


async def test_stop_returns_when_the_program_has_ended(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up() as up:
        ended = await project.run("stop", "--json")
        assert ended.code == 0 and ended.json["done"] and ended.json["name"] == "squares"
        assert await up.ended() == 0
    assert any("an operator asked for it" in line for line in up.log)
    again = await project.run("stop")
    assert again.code == 3 and "amnode up" in again.err


async def test_stop_can_wait_for_the_leases_first() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        async with client.lease() as worker:
            program = await start("stop", "--drain")
            await supervisor.until(lambda view: view.draining)
            assert await worker.call(Plain.square, 7) == 49
        out, err = await program.communicate()
        assert (program.returncode, err) == (0, b"") and b"stopped" in out


@pytest.mark.parametrize("command", ["set-pool --min 1", "restart", "drain", "resume", "stop"])
async def test_the_clients_token_operates_nothing(command: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    async with pool(1, token=b"of the clients") as supervisor:
        token.write_bytes(supervisor.token)
        token.chmod(0o600)
        for address in (supervisor.local_addr, supervisor.address):
            where = ("--at", address, "--operator-file", token)
            ended = await amnode(*command.split(), *where)
            assert ended.code == 4 and "Traceback" not in ended.err
        assert not (supervisor.view().draining or supervisor.view().stopping)
