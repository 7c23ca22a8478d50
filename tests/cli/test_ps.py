"""`amnode ps` shows who holds which worker, who waits, and why the pool is not growing."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.cli.running import Project, amnode
from tests.promises.pools import client_of, pool


def directory_of(address: str) -> str:
    """The directory of a supervisor, by one of its addresses."""
    return str(Path(address.removeprefix("unix:")).parent)


async def test_it_shows_who_holds_which_worker_and_who_waits() -> None:
    async with (
        pool(2) as supervisor,
        client_of(supervisor, "ann") as ann,
        client_of(supervisor, "bob") as bob,
        ann.lease() as worker,
        ann.lease(),
    ):
        asked = asyncio.create_task(bob.req_worker())
        await supervisor.until(lambda view: view.counts.waiting == 1)

        as_json = await amnode("ps", "--json")
        as_text = await amnode("ps")

        assert (as_json.code, as_json.err, as_text.code, as_text.err) == (0, "", 0, "")
        listing = as_json.json
        assert listing["pid"] == os.getpid() and listing["kind"] == "Plain"
        row = next(row for row in listing["workers"] if row["id"] == worker.id)
        assert (row["condition"], row["client"], row["epoch"]) == ("leased", "ann", 1)
        assert row["leased_for"] > 0 and row["memory"] > 0 and row["pid"] > 0
        (waiter,) = listing["waiters"]
        assert (waiter["client"], waiter["place"], waiter["held"]) == ("bob", 1, 0)
        assert listing["pool"]["why_not_growing"] == "there are 2 workers, of at most 2"
        assert "not growing: there are 2 workers, of at most 2" in as_text.lines
        assert any(
            line.split()[:4] == [worker.id, str(row["pid"]), "leased", "ann"]
            for line in as_text.lines
        )
        asked.cancel()


async def test_a_supervisor_is_found_by_name_directory_and_address() -> None:
    async with pool(1) as supervisor:
        directory = directory_of(supervisor.local_addr)
        for at in (supervisor.name, directory, supervisor.local_addr):
            ended = await amnode("ps", "--json", "--at", at)
            assert ended.code == 0 and ended.json["name"] == supervisor.name
        by_variable = await amnode("ps", "--json", env={"AMNODE_AT": directory})
        assert by_variable.json["name"] == supervisor.name


async def test_only_workers_in_a_state_are_shown_if_so_asked() -> None:
    async with pool(2) as supervisor, client_of(supervisor) as client, client.lease() as worker:
        busy = await amnode("ps", "--json", "--state", "busy")
        assert [row["id"] for row in busy.json["workers"]] == [worker.id]
        wrong = await amnode("ps", "--state", "sleepy")
        assert wrong.code == 2 and "sleepy" in wrong.err and "idle" in wrong.err


async def test_the_job_of_each_is_shown_and_how_far_it_is(tmp_path: Path) -> None:
    project, begun = Project(tmp_path, max=1, warm=0), tmp_path / "begun"
    os.mkfifo(begun)
    async with project.up():
        call = await project.start("call", "forever", begun)
        with begun.open() as gate:
            assert gate.read() == "begun\n"
        (row,) = (await project.run("ps", "--json")).json["workers"]
        assert row["job"] == "forever"
        assert row["progress"] == {"done": 1.0, "total": 4.0, "note": "waiting"}
        assert "forever 25% waiting" in (await project.run("ps")).out
        call.terminate()
        await call.communicate()
        await project.run("call", "square", 7)
        (row,) = (await project.run("ps", "--json")).json["workers"]
        assert (row["job"], row["progress"]) == ("", None)


async def test_among_several_one_has_to_be_named() -> None:
    async with pool(1) as left, pool(1) as right:
        unclear = await amnode("ps")
        assert unclear.code == 2 and "--at" in unclear.err
        assert left.name in unclear.err
        at = directory_of(right.local_addr)
        assert (await amnode("ps", "--json", "--at", at)).json["local_addr"] == right.local_addr
