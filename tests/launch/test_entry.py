"""The first lines of a process: what it is told, what it forgets, how it fails."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import msgspec
import pytest

from amnode.launch import entry
from amnode.launch.process import ChildProcess
from tests.launch.conftest import Fifo, Start

COMMAND = (sys.executable, "-m", "amnode.launch.entry")
HERE = str(Path(__file__).parent)


@pytest.fixture  # how a child is watched is nothing that it could notice
def use_pidfd() -> bool:
    return True


def boot(run: str, payload: bytes = b"", path: tuple[str, ...] = (HERE,)) -> bytes:
    return msgspec.msgpack.encode({"run": run, "path": path, "payload": payload})


def output_of(process: ChildProcess) -> str:
    return process._output.path.read_text()


async def run(start: Start, run: str, payload: bytes = b"") -> ChildProcess:
    process = await start(*COMMAND, boot=boot(run, payload))
    await process.wait()
    return process


@pytest.mark.parametrize(
    ("target", "payload", "expected"),
    [("nothing", b"", 0), ("code", b"0", 0), ("code", b"3", 3)],
)
async def test_it_ends_with_what_the_function_returned(
    start: Start, target: str, payload: bytes, expected: int
) -> None:
    process = await run(start, f"targets:{target}", payload)
    assert ((await process.wait()).exit_code, process.tail()) == (expected, ())


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("targets:fail", "ValueError: no such luck"),
        ("targets:absent", "AttributeError: module 'targets' has no attribute 'absent'"),
        (
            "targets:Nested.code",
            "AttributeError: module 'targets' has no attribute 'Nested.code'",
        ),
        ("no_such_module:main", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
async def test_what_it_raises_ends_it_and_is_in_its_output(
    start: Start, target: str, said: str
) -> None:
    process = await run(start, target, b"canary-4711")
    assert (await process.wait()).exit_code == 1
    assert process.tail(40)[0] == "Traceback (most recent call last):"
    assert process.tail()[-1] == said
    assert "canary" not in "".join(process.tail(200))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (b"", "The boot record of 0 bytes is none: Input data was truncated. Start"),
        (b"\xc1", "The boot record of 1 bytes is none: "),
        (msgspec.msgpack.encode({"run": "x:y"}), "The boot record of "),
        (
            msgspec.msgpack.encode({"run": "x:y", "path": [], "payload": b"", "more": 1}),
            "The boot record of ",
        ),
    ],
)
async def test_a_record_that_is_none_ends_it(start: Start, record: bytes, said: str) -> None:
    process = await start(*COMMAND, boot=record)
    assert (await process.wait()).exit_code == 1
    assert process.tail()[-1].startswith(said)


async def test_without_a_launcher_it_says_what_it_is(start: Start) -> None:
    program = "import os, runpy; del os.environ['AM_NODE_BOOT_FD']; "
    program += "runpy.run_module('amnode.launch.entry', run_name='__main__')"
    process = await start(sys.executable, "-c", program)
    assert (await process.wait()).exit_code == 1
    assert process.tail() == (
        "AM_NODE_BOOT_FD is not set: this program is started by a supervisor.",
    )


@pytest.mark.parametrize(
    ("number", "said"), [("99999", "Bad file descriptor"), ("9" * 30, "int")]
)
def test_a_number_that_is_no_descriptor_is_named(
    monkeypatch: pytest.MonkeyPatch, number: str, said: str
) -> None:
    monkeypatch.setenv(entry.BOOT_FD, number)
    with pytest.raises(SystemExit, match=rf"AM_NODE_BOOT_FD is {number}: .*{said}"):
        entry.take_boot()


@pytest.mark.parametrize("number", ["x", "-1", ""])
def test_what_is_no_number_is_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setenv(entry.BOOT_FD, number)
    with pytest.raises(SystemExit, match="not set"):
        entry.take_boot()
    assert entry.BOOT_FD not in os.environ


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 5_000_000])
async def test_a_payload_arrives_whole(start: Start, size: int) -> None:
    process = await run(start, "targets:length", b"abcd" * (size // 4))
    assert process.tail() == (f"{size // 4 * 4} {(b'abcd' * (size // 4))[:4]!r}",)


# -- what it forgets -------------------------------------------------------------------------


@pytest.mark.needs("proc")
async def test_variable_and_descriptor_are_gone_before_the_function_runs(start: Start) -> None:
    process = await run(start, "targets:surroundings")
    found = json.loads("".join(output_of(process)))
    assert entry.BOOT_FD not in found["variables"]
    assert found["descriptors"] == {}


@pytest.mark.needs("proc")
async def test_what_it_starts_inherits_nothing_of_the_record(start: Start) -> None:
    process = await run(start, "targets:relatives", b"canary-0814")
    *numbers, variables = output_of(process).splitlines()
    assert {"0", "1", "2"} < set(numbers)
    assert len(numbers) == 3 + 1, "what lists them opens one more"
    assert variables == "variables: 0"
    assert "canary" not in output_of(process)


@pytest.mark.needs("proc")
async def test_the_secret_is_in_no_place_that_others_read(start: Start, fifo: Fifo) -> None:
    secret = b"canary-0815"
    env = {**os.environ, "FIFO": str(fifo.path)}
    process = await start(*COMMAND, boot=boot("targets:stay", secret), env=env)
    assert await fifo.line() == "staying"
    proc = Path("/proc", str(process.pid))
    for name in ("cmdline", "environ"):
        found = (proc / name).read_bytes()
        assert found, "there was nothing to look through"
        assert secret not in found
    assert secret.decode() not in output_of(process)


@pytest.mark.needs("proc")
async def test_the_first_environment_holds_the_number_alone(start: Start, fifo: Fifo) -> None:
    secret = b"canary-0816"
    env = {**os.environ, "FIFO": str(fifo.path)}
    line = "sleep 600 & echo up > $FIFO; wait"  # exec would empty what is read here
    process = await start("/bin/sh", "-c", line, boot=secret, env=env)
    assert await fifo.line() == "up"
    proc = Path("/proc", str(process.pid))
    variables = (proc / "environ").read_bytes().split(b"\0")
    (found,) = [v for v in variables if v.startswith(entry.BOOT_FD.encode())]
    assert found.partition(b"=")[2].isdigit()
    assert not [v for v in variables if secret in v]
    assert secret not in (proc / "cmdline").read_bytes()


@pytest.mark.parametrize("record", [boot("a:b", b"canary"), b"canary, and no record"])
def test_the_bytes_that_were_read_are_overwritten(
    monkeypatch: pytest.MonkeyPatch, record: bytes
) -> None:
    reading, writing = os.pipe()
    os.write(writing, record)
    os.close(writing)
    monkeypatch.setenv(entry.BOOT_FD, str(reading))
    kept: list[bytearray] = []
    read = entry._read
    monkeypatch.setattr(entry, "_read", lambda fd: kept.append(read(fd)) or kept[0])
    try:
        assert entry.take_boot().payload == b"canary"
    except SystemExit:
        assert record.startswith(b"canary")
    assert kept == [bytearray(len(record))]


def test_a_record_does_not_show_its_payload() -> None:
    assert "canary" not in repr(entry.Boot("a:b", ["/p"], b"canary"))


# -- what it prints --------------------------------------------------------------------------


async def test_lines_that_were_printed_outlive_a_kill(start: Start) -> None:
    env = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    record = boot("targets:print_and_die")
    process = await start(*COMMAND, boot=record, env=env)
    assert (await process.wait()).signal == "SIGKILL"
    assert process.tail() == ("the last words",)


# -- the path, and what a start costs --------------------------------------------------------


async def test_modules_are_looked_for_where_its_starter_does_and_in_its_order(
    start: Start, tmp_path: Path
) -> None:
    wanted = [HERE, *reversed(sys.path), "/not/there"]
    record = boot("targets:surroundings", path=tuple(wanted))
    process = await start(*COMMAND, boot=record, cwd=tmp_path)
    await process.wait()
    path = json.loads(output_of(process))["path"]
    wanted = list(dict.fromkeys(wanted))
    assert path[: len(wanted)] == wanted
    assert str(tmp_path) in path[len(wanted) :], "what it has by itself is kept, behind"
    assert len(path) == len(set(path))


async def test_it_imports_no_loop_and_no_other_layer(start: Start) -> None:
    process = await run(start, "targets:surroundings")
    modules = json.loads(output_of(process))["modules"]
    assert "asyncio" not in modules
    assert "subprocess" not in modules
    assert [m for m in modules if m.startswith("amnode")] == [
        "amnode",
        "amnode.launch",
        "amnode.launch.reaper",
    ]
