"""`amnode crashes` tells which workers died of what, also over a restart of the supervisor."""

from __future__ import annotations

from pathlib import Path

from amnode import SupervisorOptions
from tests.cli.running import Project, amnode
from tests.promises.pools import pool


async def test_a_pool_without_crashes_says_so() -> None:
    async with pool(1):
        assert (await amnode("crashes")).out == "No worker has crashed.\n"
        assert (await amnode("crashes", "--json")).json == []
        missing = await amnode("crashes", "7")
        assert missing.code == 1 and "No crash of '7'" in missing.err


async def test_a_death_is_told_with_all_that_is_known(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up():
        assert (await project.run("call", "say", "before")).code == 0
        died = await project.run("call", "die", "--client", "ann", "--json")
        (record,) = (await project.run("crashes", "--json")).json
        assert (record["number"], record["client"], record["epoch"] > 0) == (1, "ann", True)
        assert record["worker_id"] in died.error["message"]
        report = record["report"]
        assert (report["cause"], report["exit_code"]) == ("exit code", 7)
        assert report["state"] == "leased"
        assert report["output"][-1] == "about to die"
        assert (record["job"], record["progress"]["note"]) == ("die", "nearly dead")
        assert any("Leased began" in line for line in record["transitions"])
        row = (await project.run("crashes")).lines[1].split()
        assert record["worker_id"] in row and "ann" in row
        number = record["worker_id"].rpartition("-")[2]
        for words in (("--last",), ("1",), (number,), (record["worker_id"],)):
            told = await project.run("crashes", *words)
            assert told.code == 0 and "exit code  7" in told.out and "about to die" in told.out
            assert "job        die 90% nearly dead" in told.out


async def test_a_state_directory_remembers_the_last_ones(tmp_path: Path) -> None:
    project = Project(tmp_path, 'state_dir = "state"')
    project.settings.write_text(project.settings.read_text() + "crashes_kept = 2\n")
    async with project.up():
        await project.run("call", "die")
        await project.run("call", "die")
    (project.directory / "state" / "crash-000000000.json").write_text("{}")
    (project.directory / "state" / "crash-000000000.json").chmod(0o600)
    async with project.up() as up:
        await project.run("call", "die")
        records = (await project.run("crashes", "--json")).json
        assert [record["number"] for record in records] == [2, 3]
        assert len({record["worker_id"] for record in records}) == 2
    assert any("crash-000000000.json is no report" in line for line in up.log)
    kept = sorted(path.name for path in (project.directory / "state").glob("crash-*"))
    assert kept[1:] == ["crash-000000002.json", "crash-000000003.json"]


async def test_the_program_is_told_of_crashes_too() -> None:
    async with pool(1) as supervisor:
        (row,) = await supervisor.workers()
        supervisor._links[row.id].kill()
        await supervisor.until(lambda _: bool(supervisor.crashes))
        (record,) = supervisor.crashes
        assert (record.worker_id, record.report.signal) == (row.id, "SIGKILL")
    assert SupervisorOptions().crashes_kept == 20
