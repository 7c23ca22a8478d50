"""`amnode inspect` shows what a machine is in, what it did and why, and what may be changed."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from amnode.node.args import WorkerReached
from amnode.node.worker_link import WorkerLink
from tests.cli.running import PATIENCE, amnode, start
from tests.cli.workers import Signal
from tests.promises.pools import client_of, pool


async def test_a_supervisor_shows_its_states_and_its_story() -> None:
    async with pool(1, story=100) as supervisor:
        as_json = await amnode("inspect", "--json", "--story", "1000")
        as_text = await amnode("inspect")
        assert (as_json.code, as_text.code, as_text.err) == (0, 0, "")
        found = as_json.json
        assert (found["machine"], found["kind"]) == (supervisor.machine.id, "supervisor")
        ticks = {row["name"]: row["tick"] for row in found["states"]}
        assert ticks["PoolReady"] == supervisor.machine.tick("PoolReady") == 1
        assert {row["name"] for row in found["states"] if row["active"]} >= {"Start", "Ready"}
        assert {"SetPool", "Draining", "RollingRestart"} <= set(found["may_add"])
        assert "Inspect" not in found["may_add"] and "Start" in found["may_remove"]
        begun = next(entry for entry in found["story"] if "PoolReady" in entry["changes"])
        caused = [entry for entry in found["story"] if entry["cause"] == begun["number"]]
        assert caused  # by PoolReady the heart beats
        assert "SetPool(min: int, max: int, warm: int, [max_per_client: int])" in as_text.out
        assert any(line.split() == ["*", "PoolReady", "1"] for line in as_text.lines)
        assert any("add PoolReady, by " in line for line in as_text.lines)


async def test_a_worker_is_meant_by_its_id_or_its_number() -> None:
    async with pool(2, Signal) as supervisor:
        ids = sorted(row.id for row in await supervisor.workers())
        for named in (ids[0], ids[0].rpartition("-")[2]):
            ended = await amnode("inspect", "--json", named)
            assert (ended.code, ended.json["machine"]) == (0, ids[0])
            assert ended.json["kind"] == "Signal" and ended.json["kept"] == 50
        none = await amnode("inspect", "nobody")
        assert none.code == 1 and all(one in none.err for one in ids)


async def test_what_a_leased_worker_did_is_told_with_its_causes_and_its_errors() -> None:
    async with (
        pool(1, Signal) as supervisor,
        client_of(supervisor, kind=Signal) as client,
        client.lease() as worker,
    ):
        await worker.call(Signal.burn_out)
        await worker.call(Signal.fail)
        ended = await amnode("inspect", "--json", "--relations", "--story", "50", worker.id)
        text = await amnode("inspect", "--all", "--relations", worker.id)
        found = ended.json
        assert found["error"].startswith("RuntimeError: the lamp is loose")
        assert "What the machines did before" not in found["error"]
        broken = next(e for e in found["story"] if e["called"] == ["Broken"])
        assert broken["accepted"] and broken["changes"] == {"Broken": 1}
        rows = {row["name"]: row for row in found["states"]}
        assert rows["Lit"]["relations"] == ["require Powered", "Broken remove it"]
        assert "WorkRequested" not in found["may_add"] and "Lit" in found["may_add"]
        assert text.code == 0 and "last error: RuntimeError: the lamp is loose" in text.out
        assert "Lit(colour: str, [seconds: float])" in text.out
        assert await worker.call(Signal.burn_out) is None  # looking costs the client nothing


async def test_where_no_story_is_kept_it_says_so() -> None:
    async with pool(1):
        for named in ((), ("1",)):
            ended = await amnode("inspect", *named)
            assert "the option `story` is off" in ended.out
            assert (await amnode("inspect", *named, "--json")).json["story"] == []


async def test_it_follows_a_machine_until_ctrl_c() -> None:
    async with pool(1) as supervisor:
        told = await start("inspect", "--follow", "--json")
        assert told.stdout is not None
        async with asyncio.timeout(PATIENCE):
            first = json.loads(await told.stdout.readline())
            assert first["machine"] == supervisor.machine.id
            # What is told is what happens once it follows, which it does when it has answered.
            supervisor.set_pool(1, 2, 0)
            entries = []
            while not any(entry["called"] == ["SetPool"] for entry in entries):
                entries += json.loads(await told.stdout.readline())["story"]
            told.send_signal(signal.SIGINT)
            out, err = await told.communicate()
        assert told.returncode == 130 and b"Traceback" not in err, (out, err)
        # Nothing is kept once nobody follows.
        assert not supervisor.machine._tracers.all


async def test_it_ends_when_what_it_follows_ends() -> None:
    async with pool(1) as supervisor:
        told = await start("inspect", "--follow", "1")
        assert told.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert b"states active" in await told.stdout.readline()
            while b"until Ctrl-C" not in await told.stdout.readline():
                pass
            (row,) = await supervisor.workers()
            assert supervisor._links[row.id].process is not None
            supervisor._links[row.id].kill()
            _, err = await told.communicate()
        assert told.returncode == 3 and b"Traceback" not in err and err


async def test_a_worker_of_another_host_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def elsewhere(link: WorkerLink, _operator_id: str) -> WorkerReached:
        address = "unix:/of/another/host.o"
        return WorkerReached(worker_id=link.worker_id, address=address, secret=b"any")

    monkeypatch.setattr(WorkerLink, "let_in", elsewhere)
    async with pool(1):
        ended = await amnode("inspect", "1")
    assert ended.code == 3 and "/of/another/host.o" in ended.err
    assert "on the host of its supervisor" in ended.err
