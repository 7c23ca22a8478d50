"""`amnode logs` shows what workers write, at once, and what those wrote that are gone."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from tests.cli.running import PATIENCE, Project


async def line_of(program: asyncio.subprocess.Process) -> str:
    assert program.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return (await program.stdout.readline()).decode().rstrip("\n")


async def test_what_was_written_is_shown_by_worker(tmp_path: Path) -> None:
    project = Project(tmp_path, max=1, warm=0)
    async with project.up():
        for text in ("one", "two", '"\\u001b[31mthree"'):
            await project.run("call", "say", text)
        (row,) = (await project.run("ps", "--json")).json["workers"]
        everyone = await project.run("logs")
        lines = ["one", "two", "\\x1b[31mthree"]
        assert everyone.lines == [f"{row['id']}  {line}" for line in lines]
        number = row["id"].rpartition("-")[2]
        for worker in (row["id"], number):
            assert (await project.run("logs", worker)).lines == lines
        assert (await project.run("logs", number, "-n", 1)).lines == lines[-1:]
        as_json = await project.run("logs", number, "-n", 1, "--json")
        assert as_json.json == {"worker_id": row["id"], "line": "\\x1b[31mthree"}


async def test_the_dead_are_still_heard(tmp_path: Path) -> None:
    project = Project(tmp_path, max=2, warm=0)
    project.settings.write_text(project.settings.read_text() + "outputs_kept = 1\n")
    async with project.up():
        dead: list[str] = []
        for text in ("first", "second"):
            await project.run("call", "say", text)
            await project.run("call", "die")
            dead.append((await project.run("crashes", "--json")).json[-1]["worker_id"])
        gone = await project.run("logs", dead[0])
        assert gone.code == 1 and dead[1] in gone.err
        assert (await project.run("logs", dead[1])).lines == ["second", "about to die"]
        followed = await project.run("logs", "-f", dead[1])
        assert followed.lines == ["second", "about to die"]


async def test_a_worker_is_followed_to_its_end(tmp_path: Path) -> None:
    project = Project(tmp_path, max=1, warm=0)
    async with project.up():
        await project.run("call", "say", "before")
        number = (await project.run("ps", "--json")).json["workers"][0]["id"].rpartition("-")[2]
        program = await project.start("logs", number, "--follow")
        assert await line_of(program) == "before"
        await project.run("call", "say", "after")
        assert await line_of(program) == "after"
        await project.run("call", "die")
        assert await line_of(program) == "about to die"
        assert (await program.communicate(), program.returncode) == ((b"", b""), 0)


async def test_all_are_followed_new_ones_too_until_ctrl_c(tmp_path: Path) -> None:
    project = Project(tmp_path, max=1, warm=0)
    async with project.up():
        program = await project.start("logs", "-f", "-n", "0", "--json")
        said: list[Any] = []
        await project.run("call", "say", "x")
        for text in ("die", "say"):  # what was said before the program looked may be left out
            await project.run("call", text, *(["from the new one"] if text == "say" else []))
        while not said or said[-1]["line"] != "from the new one":
            said.append(json.loads(await line_of(program)))
        program.send_signal(signal.SIGINT)
        _, err = await program.communicate()
        assert program.returncode == 130 and b"Traceback" not in err


async def test_it_ends_with_its_supervisor(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up():
        await project.run("call", "say", "x")
        program = await project.start("logs", "-f")
        await line_of(program)
        await project.run("stop")
        _, err = await program.communicate()
        assert program.returncode == 3 and b"Traceback" not in err


async def test_an_unknown_worker_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up():
        listing = (await project.run("ps", "--json")).json
        ended = await project.run("logs", "99")
        assert ended.code == 1 and "'99'" in ended.err
        assert all(row["id"] in ended.err for row in listing["workers"])
