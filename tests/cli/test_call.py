"""`amnode call` calls a job with arguments as a person writes them, and prints the result."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.cli.running import Project


async def test_arguments_are_json_words_and_names(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up():
        for words, out in (
            (("square", "7"), "49\n"),
            (("square", "n=-8"), "64\n"),
            (("square", "-9"), "81\n"),
            (("greet", "ann"), "hello ann\n"),
            (("greet", '"ann"', "times=2"), "hello ann hello ann\n"),
            (("greet", "12"), "hello 12\n"),
            (("greet", "ann", "--json"), '"hello ann"\n'),
            (("swap", '{"x": 1, "y": 2}'), '{"x":2,"y":1}\n'),
            (("say", "hi"), "null\n"),
        ):
            ended = await project.run("call", *words)
            assert (ended.code, ended.out, ended.err) == (0, out, ""), words


async def test_what_does_not_fit_is_said_before_anything_runs(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up():
        for words, text in (
            (("sqare", "7"), "did you mean square?"),
            (("square", "x"), "Argument n is 'x': Expected `int`"),
            (("square", "[1"), "which is no JSON"),
            (("square",), "missing a required argument: 'n'"),
            (("square", "1", "2"), "too many positional arguments"),
            (("swap", '{"z": 1}'), "missing required field `x`"),
        ):
            ended = await project.run("call", *words)
            assert ended.code == 2 and text in ended.err and "Traceback" not in ended.err, words
        listing = (await project.run("ps", "--json")).json
        assert [row["jobs_done"] for row in listing["workers"]] == [0, 0]


async def test_its_jobs_are_listed(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up():
        as_text = await project.run("call")
        assert "square(n: int) -> int" in as_text.out
        as_json = await project.run("call", "--json")
        assert as_json.json[0] == {
            "name": "square",
            "signature": "(n: int) -> int",
            "doc": "The square of a number.",
        }


async def test_how_a_job_ends_is_the_exit_code(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up():
        failed = await project.run("call", "fail")
        assert failed.code == 1 and "ValueError: this job fails" in failed.err
        died = await project.run("call", "die", "--json")
        assert died.code == 1 and died.error["error"] == "WorkerError"
        assert "exited with code 7" in died.error["message"]
        late = await project.run("call", "forever", os.devnull, "--deadline", 0.1)
        assert late.code == 5 and "deadline" in late.err


async def test_a_stream_is_printed_item_by_item(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up():
        assert (await project.run("call", "upto", 3)).lines == ["0", "1", "2"]
        assert (await project.run("call", "parts", "ab cd")).out == "abcd"
        assert (await project.run("call", "parts", "ab cd", "--json")).lines == [
            '"YWI="',
            '"Y2Q="',
        ]
        broken = await project.run("call", "upto", 99)
        assert broken.code == 1 and broken.lines == ["0", "1", "2"]
        assert "raised TooFar: that is too far" in broken.err
        call = await project.start("call", "upto", 1_000_000_000)
        for _ in range(3):
            assert await call.stdout.readline()
        call.stdout._transport.close()  # as with `| head`
        _, err = await call.communicate()
        assert (call.returncode, err) == (141, b"")
        assert (await project.run("call", "square", 7)).out == "49\n"


async def test_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up():
        ended = await project.run("call", "slow")
        assert (ended.code, ended.out, ended.err) == (0, "1\n", "")


async def test_no_worker_in_time_is_a_timeout(tmp_path: Path) -> None:
    project = Project(tmp_path)
    async with project.up():
        await project.run("drain")
        ended = await project.run("call", "square", 7, "--wait", 0.1)
        assert ended.code == 5 and "came free in 0.1 s" in ended.err


async def test_another_token_is_refused_and_a_public_address_is_enough(tmp_path: Path) -> None:
    project, token = Project(tmp_path), tmp_path / "token"
    async with project.up():
        wrong = await project.run("call", "square", 7, env={"AMNODE_TOKEN": "wrong"})
        assert wrong.code == 4 and "--token-file" in wrong.err
        address = (await project.run("ps", "--json")).json["public_addr"]
        words = ("call", "square", 7, "--at", address)
        nothing = await project.run(*words)
        assert nothing.code == 2 and "AMNODE_WORKER" not in nothing.out
        env = {
            "AMNODE_WORKER": "squares:Squares",
            "AMNODE_TOKEN": (tmp_path / "run" / "squares.token").read_text().strip(),
        }
        assert (await project.run(*words, env=env)).out == "49\n"
        token.write_text(env.pop("AMNODE_TOKEN"))
        token.chmod(0o600)
        assert (await project.run(*words, "--token-file", token, env=env)).out == "49\n"


async def test_ctrl_c_cancels_the_job_and_frees_the_worker(tmp_path: Path) -> None:
    project, begun = Project(tmp_path, max=1, warm=0), tmp_path / "begun"
    os.mkfifo(begun)
    async with project.up():
        call = await project.start("call", "forever", begun)
        with begun.open() as gate:
            assert gate.read() == "begun\n"
        call.send_signal(signal.SIGINT)
        out, err = await call.communicate()
        assert (call.returncode, out) == (130, b"") and b"Traceback" not in err
        assert (await project.run("call", "square", 7)).out == "49\n"
