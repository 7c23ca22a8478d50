"""What a command says, and how it ends, when there is no supervisor or it says no."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.running import amnode, start
from tests.promises.pools import pool


async def test_where_nobody_runs_it_says_what_to_do() -> None:
    plain = await amnode("ps")
    assert (plain.code, plain.out) == (3, "")
    assert plain.err.startswith("amnode: No supervisor runs here") and "amnode up" in plain.err
    as_json = await amnode("ps", "--json", "--at", "squares")
    assert as_json.code == as_json.error["exit"] == 3
    assert (
        as_json.error["error"] == "ConnectionLost" and "'squares'" in as_json.error["message"]
    )


async def test_a_directory_without_a_supervisor_is_named(tmp_path: Path) -> None:
    ended = await amnode("ps", "--at", tmp_path)
    assert ended.code == 3 and str(tmp_path) in ended.err


async def test_the_clients_token_does_not_operate(tmp_path: Path) -> None:
    token = tmp_path / "token"
    async with pool(1, token=b"of the clients") as supervisor:
        token.write_bytes(supervisor.token)
        token.chmod(0o600)
        ended = await amnode("ps", "--at", supervisor.local_addr, "--operator-file", token)
        assert (
            ended.code == 4
            and "operators' secret" in ended.err
            and "Traceback" not in ended.err
        )


async def test_the_operators_secret_opens_an_address(tmp_path: Path) -> None:
    async with pool(1) as supervisor:
        file = tmp_path / "operators.json"
        file.write_bytes(
            (Path(supervisor.local_addr[5:]).parent / "operators.json").read_bytes()
        )
        words = ("ps", "--at", supervisor.local_addr, "--operator-file", file)
        file.chmod(0o640)
        open_to_others = await amnode(*words)
        assert open_to_others.code == 2 and f"chmod go-rwx {file}" in open_to_others.err
        file.chmod(0o600)
        assert (await amnode(*words)).code == 0


async def test_a_supervisor_that_is_stopped_still_is_a_timeout() -> None:
    async with pool(1) as supervisor:
        program = await start("ps", "--timeout", "0.05", "--at", supervisor.local_addr)
        # This loop, which is the supervisor's too, does nothing else until the program ends.
        os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - see above
        out, err = await program.communicate()
    assert program.returncode == 5 and b"did not answer in 0.05 s" in err and out == b""


async def test_help_and_version_are_there_without_a_supervisor() -> None:
    for words in ((), ("--help",), ("ps", "--help")):
        ended = await amnode(*words)
        assert (ended.code, ended.err) == (0, "") and "Usage: amnode" in ended.out
    assert (await amnode("--version")).out.startswith("amnode ")


@pytest.mark.parametrize("words", [("pss",), ("ps", "--wrong"), ("ps", "--timeout", "soon")])
async def test_what_makes_no_sense_is_a_usage_error(words: tuple[str, ...]) -> None:
    ended = await amnode(*words)
    assert (ended.code, ended.out) == (2, "")
    assert words[-1] in ended.err and "--help" in ended.err and "Traceback" not in ended.err


async def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    async with pool(1):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            ended = await amnode("ps", stdout=writing)
        finally:
            os.close(writing)
        assert (ended.code, ended.err) == (141, "")
