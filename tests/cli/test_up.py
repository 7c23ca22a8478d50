"""`amnode up` runs a supervisor as its settings say, is found by the other commands, and ends
in order. What is wrong with settings is said with the key.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.cli.running import Project

S = signal.Signals


async def test_it_runs_a_pool_that_is_found_without_an_address(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up() as up:
        listing = (await project.run("ps", "--json")).json
        assert (listing["name"], listing["pid"]) == ("squares", up.process.pid)
        assert listing["pool"]["size"] == {"min": 1, "max": 3, "warm": 1, "max_per_client": 3}
        assert (await project.run("call", "square", 7)).out == "49\n"
        run = tmp_path / "run"
        assert sorted(path.name for path in run.iterdir()) == ["squares.json", "squares.token"]
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (run, *run.iterdir())]
        assert modes == [0o700, 0o600, 0o600]
        up.process.terminate()
        assert await up.ended() == 0
        assert [*run.iterdir()] == []
    assert any("Stopping (SIGTERM)" in line for line in up.log)


async def test_a_class_can_be_named_instead_of_a_file(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up("squares:Squares", "--name", "other", "--size", "1:2:1"):
        listing = (await project.run("ps", "--json", "--at", "other")).json
        assert listing["pool"]["size"]["max"] == 2


async def test_ctrl_c_stops_it_in_order(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up() as up:
        up.process.send_signal(S.SIGINT)
        assert await up.ended() == 130
    assert "Stopped." in up.log[-1] and not any("Traceback" in line for line in up.log)


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.settings.write_text(
        project.settings.read_text().replace("stop_grace = 0.1", "stop_grace = 1000.0")
    )
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    async with project.up() as up:
        call = await project.start("call", "forever", begun)
        with begun.open() as gate:
            assert gate.read() == "begun\n"
        up.process.terminate()
        await up.says("Stopping (SIGTERM); 1 leased")
        up.process.terminate()
        assert await up.ended() == 1
        _, err = await call.communicate()
        assert call.returncode in (1, 3) and b"Traceback" not in err
    assert "at once" in "".join(up.log)


async def test_the_service_manager_is_told(tmp_path: Path) -> None:
    project, address = Project(tmp_path), tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.setblocking(False)
        env = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "20000000"}
        async with project.up(env=env):
            pass
        told: list[str] = []
        while True:
            try:
                told.append(manager.recv(4096).decode())
            except BlockingIOError:
                break
    assert told.index("READY=1") < told.index("STOPPING=1")
    assert "WATCHDOG=1" in told and any(t.startswith("STATUS=The pool is ready") for t in told)


async def test_sighup_gives_the_pool_the_size_of_the_file(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up() as up:
        text = project.settings.read_text()
        project.settings.write_text(text.replace("max = 3", "max = 4").replace("0.0", "1.0"))
        up.process.send_signal(S.SIGHUP)
        assert "At the next start: options" in await up.says("SIGHUP: the pool has 1 to 4")
        assert (await project.run("ps", "--json")).json["pool"]["size"]["max"] == 4
        project.settings.write_text("worker = 3")
        up.process.send_signal(S.SIGHUP)
        assert "worker" in await up.says("SIGHUP: nothing is changed")


async def test_it_logs_as_json_to_a_file(tmp_path: Path) -> None:
    project = Project(tmp_path)
    log = '\n[log]\nformat = "json"\nfile = "log.jsonl"\n'
    project.settings.write_text(project.settings.read_text() + log)
    process = await project.start("up")
    file = project.directory / "log.jsonl"
    try:
        while (await project.run("ps", "--json")).code:
            assert process.returncode is None
        process.terminate()
        _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[-1]["message"] == "Stopped." and lines[-1]["level"] == "info"


async def test_a_state_directory_keeps_workers_over_a_killed_supervisor(tmp_path: Path) -> None:
    project = Project(tmp_path, 'state_dir = "state"', warm=0)
    async with project.up() as up:
        (before,) = (await project.run("ps", "--json")).json["workers"]
        up.process.kill()
        await up.ended()
    gone = await project.run("ps")
    assert gone.code == 3
    async with project.up():
        (after,) = (await project.run("ps", "--json")).json["workers"]
        assert (after["id"], after["pid"]) == (before["id"], before["pid"])
        assert (await project.run("call", "square", 7)).out == "49\n"  # the token is the same


async def test_one_name_runs_once(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up() as up:
        second = await project.run("up")
        assert second.code == 2 and f"pid {up.process.pid}" in second.err


WRONG = {
    "worker = 3": "amnode.toml: worker: expected `str`",
    'worker = "nowhere:Squares"': "there is no module 'nowhere'",
    'worker = "squares:Circles"': "'Circles' is not there in module squares",
    'worker = "squares:Point"': "'Point' is no Worker class",
    'worker = "broken:Squares"': "its module fails: ZeroDivisionError",
    'worker = "squares:Squares"\noperator_file = "none"': "none cannot be read",
}


@pytest.mark.parametrize("text", WRONG)
async def test_what_is_wrong_in_settings_is_named(text: str, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.settings.write_text(text)
    (project.directory / "broken.py").write_text("1 / 0")
    ended = await project.run("up")
    assert (ended.code, ended.out) == (2, "") and WRONG[text] in ended.err


async def test_settings_can_be_checked_alone(tmp_path: Path) -> None:
    project = Project(tmp_path)
    ended = await project.run("up", "--check")
    assert (ended.code, ended.err) == (0, "") and "fine" in ended.out
    missing = await project.run("up", "none.toml", "--check")
    assert missing.code == 2 and "There is no file none.toml" in missing.err


async def test_a_pool_that_fails_to_start_says_of_what(tmp_path: Path) -> None:
    project = Project(tmp_path)
    module = project.directory / "squares.py"
    module.write_text(f"{module.read_text()}\n    def __init__(self):\n        no_licence\n")
    process = await project.start("up")
    try:
        assert process.stderr is not None
        async for line in process.stderr:
            if b"The pool is held back" in line:
                assert b"no_licence" in line
                break
        ps = await project.run("ps")
        assert ps.code == 0 and "held back" in ps.out and "no_licence" in ps.out
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0
