"""`amnode new` writes a project that is right as it is written, and never over anything."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.cli.running import PATIENCE, amnode, environment, start


async def test_the_test_of_a_new_project_passes(tmp_path: Path) -> None:
    made = await amnode("new", "note-keeper", cwd=tmp_path)
    assert (made.code, made.err) == (0, "") and "Next: cd note-keeper" in made.out
    project = tmp_path / "note-keeper"
    # Only what amnode and pytest need is on the path: the project finds its own package itself.
    source = str(Path(__file__).parents[2] / "src")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
        cwd=project,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(PYTHONPATH=source),
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert b"5 passed" in out


async def test_it_is_formatted_and_without_faults(tmp_path: Path) -> None:
    await amnode("new", "note-keeper", cwd=tmp_path)
    for words in (("check",), ("format", "--check", "--diff")):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ruff", *words, "--isolated", "--no-cache", "."),
            cwd=tmp_path / "note-keeper",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()


async def test_its_pool_runs_and_its_program_uses_it(tmp_path: Path) -> None:
    await amnode("new", "note-keeper", cwd=tmp_path)
    project, source = tmp_path / "note-keeper", str(Path(__file__).parents[2] / "src")
    env = {"PYTHONPATH": source, "AMNODE_RUN_DIR": str(tmp_path / "run")}
    code, text = await _program(project, env)
    assert code == 1 and "run `amnode up`" in text
    up = await start("up", cwd=project, env=env)
    try:
        await _ready(project, env)
        code, text = await _program(project, env)
        assert code == 0 and text.splitlines()[-1] == "the longest: bread and butter", text
        called = await amnode("call", "note", "hello", cwd=project, env=env)
        assert (called.code, called.out.strip()) == (0, "1")
        looked = await amnode("inspect", "--json", cwd=project, env=env)
        assert looked.json["machine"] == "ns-note-keeper" and looked.json["story"]
    finally:
        stopped = await amnode("stop", cwd=project, env=env)
        await up.communicate()
    assert stopped.code == up.returncode == 0
    ignored = (project / ".gitignore").read_text(encoding="utf-8").split()
    assert (project / "clients.token").exists() and "clients.*" in ignored


async def _program(project: Path, env: dict[str, str]) -> tuple[int | None, str]:
    """Runs the program of the project."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "note_keeper"),
        cwd=project,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(**env),
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def _ready(project: Path, env: dict[str, str]) -> None:
    """Waits until the pool is there, and then until it is ready."""
    async with asyncio.timeout(PATIENCE):
        while True:
            ready = await amnode("wait", "PoolReady", cwd=project, env=env)
            if ready.code != 3:  # there is a supervisor
                break
    assert ready.code == 0, ready.err


async def test_what_is_written_is_told_and_has_the_names_of_the_project(tmp_path: Path) -> None:
    made = await amnode("new", "a/Log_reader", "--json", cwd=tmp_path)
    assert made.code == 0
    assert (made.json["name"], made.json["worker"]) == (
        "Log_reader",
        "log_reader.worker:LogReader",
    )
    written = [tmp_path / name for name in made.json["files"]]
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert not any(mark in text for mark in ("PROJECT", "PACKAGE", "WORKER"))
        assert text.endswith("\n") and not text.startswith("\n")


async def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert (await amnode("new", "mine", cwd=tmp_path)).code == 0  # it was empty
    kept = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    (tmp_path / "mine" / "amnode.toml").unlink()
    again = await amnode("new", "mine", cwd=tmp_path)
    assert again.code == 2 and "not empty" in again.err
    assert not (tmp_path / "mine" / "amnode.toml").exists()
    assert (tmp_path / "mine" / "README.md").read_text(encoding="utf-8") == kept
    (tmp_path / "file").touch()
    assert (await amnode("new", "file", cwd=tmp_path)).code == 2


@pytest.mark.parametrize("name", ["7up", "class", "json", "amnode", "tests", "a b", "x" * 49])
async def test_a_name_that_cannot_be_a_package_is_refused(name: str, tmp_path: Path) -> None:
    ended = await amnode("new", name, cwd=tmp_path)
    assert ended.code == 2 and "Traceback" not in ended.err
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240 - an empty directory of the test


async def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    ended = await amnode("new", "/proc/nothing/here")
    assert ended.code == 1 and ended.err.startswith("amnode: ") and "Traceback" not in ended.err
