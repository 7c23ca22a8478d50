"""What is forked is what a command would have started, only sooner; nothing of it is left."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from amnode.errors import LaunchError
from amnode.launch import forkserver, process
from amnode.launch.command import ENTRY, CommandLauncher
from amnode.launch.fork_channel import Channel, Started
from amnode.launch.forkserver import ForkServerLauncher, can_fork, choose
from amnode.launch.process import ChildProcess, LaunchSpec, Process, ServedProcess
from tests.launch.conftest import Fifo

pytestmark = [pytest.mark.needs("pidfd"), pytest.mark.needs("proc")]

HERE = str(Path(__file__).parent)


class Forks:
    """Starts processes by fork, and ends what a test leaves."""

    def __init__(self, directory: Path, fifo: Fifo) -> None:
        self.directory = directory
        self.fifo = fifo
        self.started: list[Process] = []
        self.launcher = self.new_launcher()

    def new_launcher(self, **kwargs: Any) -> ForkServerLauncher:
        kwargs = {"modules": ["forked"], "path": [HERE, *sys.path], **kwargs}
        return ForkServerLauncher(output=self.directory / "server", **kwargs)

    def spec(self, run: str, payload: bytes | str = b"", **kwargs: Any) -> LaunchSpec:
        payload = payload.encode() if isinstance(payload, str) else payload
        boot = {"run": f"forked:{run}", "path": [HERE], "payload": payload}
        data = msgspec.msgpack.encode(boot)
        kwargs.setdefault("output", self.directory / "output")
        return LaunchSpec(**{"argv": ENTRY, "boot": data, **kwargs})

    async def launch(self, spec: LaunchSpec) -> Process:
        found = await self.launcher.launch(spec)
        self.started.append(found)
        return found

    async def run(self, run: str, payload: bytes | str = b"", **kwargs: Any) -> Process:
        return await self.launch(self.spec(run, payload, **kwargs))

    async def staying(self, run: str = "stay") -> Process:
        """One that has come so far that it waits."""
        found = await self.run(run, str(self.fifo.path))
        assert await self.fifo.line() == (str(found.pid) if run == "stay" else "blocked")
        return found

    async def told(self, payload: str = "", **kwargs: Any) -> dict[str, Any]:
        """What a process says of itself."""
        output = self.directory / f"told-{len(self.started)}"
        found = await self.run("tell", payload, output=output, **kwargs)
        assert (await found.wait()).exit_code == 0, found.tail()
        return json.loads(output.read_text())

    async def family(self) -> Process:
        """One with a child, a child that leads a session, and a daemon."""
        found = await self.run("family", str(self.fifo.path))
        said = {(await self.fifo.line()).split()[0] for _ in range(4)}
        assert said == {"child", "leader", "daemon", "parent"}
        return found

    @property
    def server(self) -> psutil.Process:
        assert self.launcher.server_pid is not None
        return psutil.Process(self.launcher.server_pid)

    async def end(self) -> None:
        for found in self.started:
            if found.kill():
                await found.wait()
        await self.launcher.close()


@pytest.fixture
async def forks(tmp_path: Path, fifo: Fifo) -> AsyncIterator[Forks]:
    found = Forks(tmp_path, fifo)
    yield found
    await found.end()


@pytest.fixture(params=["new kernel", "old kernel"])
def group_signals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that signals a group through a pidfd, and one that does not."""
    if request.param == "old kernel":
        monkeypatch.setattr(process, "_GROUP", 1 << 30)


# -- what a process is given -----------------------------------------------------------------


async def test_what_is_forked_is_as_a_command_would_start_it(forks: Forks) -> None:
    by_fork = await forks.told("hello")
    forks.launcher, server = CommandLauncher(), forks.launcher
    by_command = await forks.told("hello")
    forks.launcher = server
    assert by_fork["imported in"] == by_fork["parent"] == forks.server.pid
    for name in ("leads", "handlers", "mask", "wakeup", "threads", "path", "payload", "umask"):
        assert by_fork[name] == by_command[name], name
    assert by_fork["gc"] == [True, True] and by_command["gc"] == [True, False]
    assert by_fork["cwd"] == by_command["cwd"] == str(Path.cwd())
    assert by_fork["env"] == by_command["env"]
    for found in (by_fork, by_command):
        assert set(found["descriptors"]) == {"0", "1", "2"}
        assert found["descriptors"]["0"] == "/dev/null"
        assert found["descriptors"]["1"] == found["descriptors"]["2"]
        assert found["descriptors"]["1"].startswith(f"{forks.directory}/told-")


async def test_environment_and_directory_are_as_told(forks: Forks) -> None:
    env = {"NAME": "v", "ODD": os.fsdecode(b"\xff")}
    found = await forks.told(env=env, cwd=forks.directory)
    assert found["cwd"] == os.path.realpath(forks.directory)  # noqa: ASYNC240, PTH - in memory
    assert found["env"] == env


async def test_what_it_inherits_is_of_now_and_not_of_the_server_s_start(
    forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    await forks.told()
    monkeypatch.setenv("LATER", "yes")
    monkeypatch.chdir(forks.directory)
    found = await forks.told()
    assert found["env"]["LATER"] == "yes"
    assert found["cwd"] == os.path.realpath(forks.directory)  # noqa: ASYNC240, PTH - in memory


async def test_no_two_have_the_same_random_numbers(forks: Forks) -> None:
    found = [await forks.told() for _ in range(3)]
    assert len({told["random"] for told in found}) == 3


async def test_the_server_has_no_descriptor_of_its_launcher(forks: Forks) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        process = await forks.staying()
        await forks.launch(forks.spec("end_with", "0"))
        assert len(forks.started) == 2
        await forks.started[1].wait()
        found = [f"{fd}" for fd in Path(f"/proc/{forks.server.pid}/fd").iterdir()]  # noqa: ASYNC240
        # Streams, channel, launcher, and both ends of what wakes it: none is of a child.
        assert len(found) == 3 + 1 + 1 + 2
        process.kill()
    finally:
        os.close(writing)
        os.close(reading)


async def test_a_function_prepares_the_server(forks: Forks) -> None:
    forks.launcher = forks.new_launcher(run="forked:prepare", payload=b"once")
    assert [(await forks.told())["prepared"] for _ in range(2)] == [["once"]] * 2


async def test_handlers_of_the_imports_are_those_of_the_processes(forks: Forks) -> None:
    fifo = str(forks.fifo.path).encode()
    forks.launcher = forks.new_launcher(run="forked:handle_usr1", payload=fifo)
    process = await forks.staying()
    os.kill(process.pid, signal.SIGUSR1)
    assert await forks.fifo.line() == f"handled by {process.pid}"
    found = await forks.told()
    assert "lambda" in found["handlers"]["SIGCHLD"]


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
async def test_a_payload_arrives_whole(forks: Forks, size: int) -> None:
    assert (await forks.told("x" * size))["payload"] == "x" * size


# -- how it ends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "payload", "code", "by"),
    [
        ("end_with", "0", 0, ""),
        ("end_with", "7", 7, ""),
        ("fail", "", 1, ""),
        ("absent", "", 1, ""),
        ("end_by", "9", None, "SIGKILL"),
        ("end_by", "11", None, "SIGSEGV"),
        ("end_by", "40", None, "signal 40"),
    ],
)
async def test_the_record_says_how_it_ended(
    forks: Forks, run: str, payload: str, code: int | None, by: str
) -> None:
    found = await forks.run(run, payload)
    record = await found.wait()
    assert (record.pid, record.exit_code, record.signal) == (found.pid, code, by)
    assert record.known
    assert (found.kill(), found.terminate()) == (False, False)
    if run == "fail":
        assert found.tail()[-1] == "ValueError: no such luck"


@pytest.mark.parametrize("name", ["terminate", "kill"])
@pytest.mark.usefixtures("group_signals")
async def test_it_is_signalled(forks: Forks, name: str) -> None:
    process = await forks.staying()
    assert isinstance(process, ServedProcess)
    assert getattr(process, name)() is True
    expected = {"terminate": "SIGTERM", "kill": "SIGKILL"}[name]
    assert (await process.wait()).signal == expected
    assert getattr(process, name)() is False


async def test_its_group_ends_with_it(forks: Forks) -> None:
    process = await forks.run("group", str(forks.fifo.path))
    assert {await forks.fifo.line() for _ in range(2)} == {"member"}
    os.kill(process.pid, signal.SIGKILL)
    assert (await process.wait()).signal == "SIGKILL"
    await forks.fifo.ended()


@pytest.mark.usefixtures("group_signals")
async def test_a_member_of_its_group_is_terminated(forks: Forks) -> None:
    """The process itself takes no notice, so that the end of its group is not by its own."""
    process = await forks.run("group_of_one_that_stays", str(forks.fifo.path))
    assert {await forks.fifo.line() for _ in range(3)} == {"member", "parent"}
    assert process.terminate()
    assert {await forks.fifo.line() for _ in range(2)} == {"terminated", "deaf"}
    assert not process.exited.done()


async def test_fifty_end_together(forks: Forks) -> None:
    started = await asyncio.gather(*(forks.run("end_with", str(n)) for n in range(50)))
    records = await asyncio.gather(*(process.wait() for process in started))
    assert [record.exit_code for record in records] == list(range(50))
    assert forks.server.children() == []


async def test_one_that_ended_before_its_launcher_looked_is_told(forks: Forks) -> None:
    process = await forks.staying()
    gone = psutil.Process(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    gone.wait()
    assert process.kill() is False
    assert (await process.wait()).signal == "SIGKILL"


# -- what it leaves --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "from outside", "server first"])
async def test_everything_that_descends_from_it_ends_with_it(forks: Forks, how: str) -> None:
    process = await forks.family()
    if how == "server first":
        forks.server.kill()
    if how == "from outside":
        os.kill(process.pid, signal.SIGKILL)
    else:
        assert process.kill()
    assert (await process.wait()).signal == "SIGKILL"
    await forks.fifo.ended()


async def test_a_daemon_of_one_that_lives_lives(forks: Forks) -> None:
    process = await forks.family()
    assert (await (await forks.run("end_with", "0")).wait()).exit_code == 0
    children = psutil.Process(process.pid).children(recursive=True)
    assert len([c for c in children if c.status() != psutil.STATUS_ZOMBIE]) == 3
    process.kill()
    await forks.fifo.ended()


@pytest.mark.parametrize("launcher", ["fork", "command"])
async def test_its_daemons_end_with_its_own_orderly_end(forks: Forks, launcher: str) -> None:
    if launcher == "command":
        forks.launcher = CommandLauncher()
    process = await forks.run("daemonise_and_end", str(forks.fifo.path))
    assert (await process.wait()).exit_code == 0
    assert (await forks.fifo.line()).startswith("daemon ")
    await forks.fifo.ended()


async def test_by_command_a_kill_ends_everything_too(forks: Forks) -> None:
    forks.launcher = CommandLauncher()
    process = await forks.family()
    assert process.kill()
    assert (await process.wait()).signal == "SIGKILL"
    await forks.fifo.ended()


async def test_what_the_imports_started_lives_as_long_as_the_server(forks: Forks) -> None:
    forks.launcher = forks.new_launcher(
        run="forked:leave_a_child", payload=str(forks.fifo.path).encode()
    )
    assert (await (await forks.run("end_with", "0")).wait()).exit_code == 0
    helper = int((await forks.fifo.line()).removeprefix("helper "))
    assert psutil.Process(helper).ppid() == forks.server.pid
    assert (await (await forks.run("end_with", "0")).wait()).exit_code == 0
    os.kill(helper, signal.SIGUSR1)
    assert await forks.fifo.line() == "alive"
    await forks.launcher.close()
    await forks.fifo.ended()


# -- what cannot be started ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: {"cwd": d / "absent"}, "No such file or directory: '"),
        (lambda d: {"cwd": d / "output"}, "Not a directory"),
        (lambda d: {"env": {"A=B": ""}}, "illegal environment variable"),
        (lambda d: {"env": {"A": "\0"}}, "illegal environment variable"),
        (lambda d: {"output": d / "absent" / "output"}, "No such file or directory"),
        (lambda d: {"output": Path("/dev/null")}, "no regular file"),
    ],
)
async def test_what_cannot_be_started_says_why_and_leaves_nothing(
    forks: Forks, change: Callable[[Path], dict[str, Any]], said: str
) -> None:
    await forks.told()
    (forks.directory / "output").touch()
    before = set(forks.directory.iterdir())
    spec = forks.spec("stay", str(forks.fifo.path), **change(forks.directory))
    with pytest.raises(LaunchError, match="Cannot start") as raised:
        await forks.launcher.launch(spec)
    assert said in str(raised.value) and str(raised.value).isprintable()
    assert set(forks.directory.iterdir()) == before
    await forks.told()
    assert forks.server.children() == []


async def test_a_module_that_cannot_be_imported_is_said_with_its_last_lines(
    forks: Forks, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nraise ValueError('\\x1b[2Jnot today')\n")
    forks.launcher = forks.new_launcher(modules=["broken"], path=[str(tmp_path), *sys.path])
    spec = forks.spec("stay")
    starts = (forks.launcher.launch(spec) for _ in range(3))
    for error in await asyncio.gather(*starts, return_exceptions=True):
        assert isinstance(error, LaunchError)
        assert "ValueError: \\x1b[2Jnot today" in str(error)
        assert "broken.py" in str(error)
    assert not spec.output.exists()
    (tmp_path / "broken.py").write_text("it_is = 'whole again'\n")
    assert (await (await forks.run("end_with", "3")).wait()).exit_code == 3


async def test_a_server_that_dies_of_its_imports_says_so(forks: Forks) -> None:
    forks.launcher = forks.new_launcher(run="forked:crash")
    with pytest.raises(LaunchError, match="killed by SIGKILL while it imported"):
        await forks.run("stay")


async def test_imports_that_take_too_long_are_given_up(forks: Forks) -> None:
    forks.launcher = forks.new_launcher(start_timeout=0.0)
    with pytest.raises(LaunchError, match=r"within 0\.0 s"):
        await forks.run("stay")


async def test_a_server_that_cannot_be_started_says_why(
    forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forkserver, "_SERVER", ("/no/such/program",))
    with pytest.raises(LaunchError, match="Cannot start `/no/such/program`"):
        await forks.run("stay")
    monkeypatch.undo()
    assert (await (await forks.run("end_with", "3")).wait()).exit_code == 3


async def test_imports_that_start_threads_are_told_and_nothing_is_forked(
    forks: Forks, tmp_path: Path
) -> None:
    launcher = forks.new_launcher(run="forked:start_thread")
    forks.launcher = launcher
    process = await forks.run("end_with", "5")
    assert isinstance(process, ChildProcess)
    assert "started threads (sleeper)" in launcher.fallback
    assert launcher.server_pid is None
    assert (await process.wait()).exit_code == 5
    assert isinstance(await forks.run("end_with", "5"), ChildProcess)


async def test_a_program_of_its_own_is_started_by_command(forks: Forks) -> None:
    spec = forks.spec("stay", argv=("/bin/sh", "-c", "exit 4"))
    process = await forks.launch(spec)
    assert (await process.wait()).exit_code == 4
    assert isinstance(process, ChildProcess) and not forks.launcher.fallback


async def test_what_cannot_say_that_it_is_there_is_ended(
    forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher may not have one more descriptor when it comes."""
    await forks.told()
    receive = Channel.receive

    def without(channel: Channel) -> Any:
        found = receive(channel)
        if found is None or not isinstance(found[0], Started):
            return found
        os.close(found[1][0])
        return found[0], []

    with monkeypatch.context() as patch:
        patch.setattr(Channel, "receive", without)
        with pytest.raises(LaunchError, match="No descriptors are left"):
            await forks.launcher.launch(forks.spec("stay", str(forks.fifo.path)))
    await forks.told()
    for child in forks.server.children():
        child.wait()


# -- cancelled -------------------------------------------------------------------------------


async def test_a_start_that_is_cancelled_at_any_turn_leaves_nothing(forks: Forks) -> None:
    await forks.told()
    spec = forks.spec("stay", str(forks.fifo.path), output=forks.directory / "cancelled")
    for turns in range(40):
        start = asyncio.create_task(forks.launcher.launch(spec))
        for _ in range(turns):
            await asyncio.sleep(0)
        start.cancel()
        await asyncio.wait([start])
        if not start.cancelled():
            start.result().kill()
            await start.result().wait()
            spec.output.unlink()
        assert not spec.output.exists()
    await forks.launcher.close()
    assert await forks.fifo._reader.read() is not None  # whoever opened it has gone


async def test_a_start_that_is_cancelled_in_the_turn_in_which_it_comes_leaves_nothing(
    forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    await forks.told()
    server = forks.server
    spec = forks.spec("stay", str(forks.fifo.path), output=forks.directory / "cancelled")
    start = asyncio.create_task(forks.launcher.launch(spec))
    take = forkserver._Server._take_started

    def take_and_cancel(*args: Any) -> None:
        take(*args)
        start.cancel()

    monkeypatch.setattr(forkserver._Server, "_take_started", take_and_cancel)
    await asyncio.wait([start])
    assert start.cancelled() and not spec.output.exists()
    await forks.launcher.close()
    assert not server.is_running(), "it stays as long as a process of it lives"


async def test_the_first_start_can_be_cancelled_and_the_server_is_there_for_the_next(
    forks: Forks,
) -> None:
    start = asyncio.create_task(forks.launcher.launch(forks.spec("stay")))
    await asyncio.sleep(0)
    start.cancel()
    await asyncio.wait([start])
    assert start.cancelled()
    assert (await (await forks.run("end_with", "3")).wait()).exit_code == 3


async def test_a_launcher_that_is_closed_while_its_server_starts_leaves_nothing(
    forks: Forks,
) -> None:
    start = asyncio.create_task(forks.launcher.launch(forks.spec("stay")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await forks.launcher.close()
    await asyncio.wait([start])
    assert isinstance(start.exception(), LaunchError)


async def test_one_that_is_closed_starts_nothing(forks: Forks) -> None:
    await forks.launcher.close()
    await forks.launcher.close()
    with pytest.raises(LaunchError, match="closed before"):
        await forks.run("stay")


async def test_what_lives_when_its_launcher_is_closed_goes_on_and_its_end_is_told(
    forks: Forks,
) -> None:
    process = await forks.staying()
    server = forks.server
    await forks.launcher.close()
    assert server.is_running() and not process.exited.done()
    os.kill(process.pid, signal.SIGUSR2)
    assert (await process.wait()).signal == "SIGUSR2"
    server.wait()


# -- the death of the server -----------------------------------------------------------------


async def test_a_dead_server_is_replaced_and_what_it_forked_lives_on(forks: Forks) -> None:
    process = await forks.staying()
    first = forks.server.pid
    os.kill(first, signal.SIGKILL)
    assert (await forks.told())["parent"] != first
    assert forks.server.pid != first
    assert not process.exited.done()
    assert process.terminate()
    record = await process.wait()
    assert record.signal == "SIGTERM" or not record.known


async def test_where_the_kernel_cannot_say_the_end_is_unknown(
    forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "exit_of", lambda pidfd: None)
    monkeypatch.setattr(process, "_REAP_TIMEOUT", 0.0)
    found = await forks.staying()
    forks.server.kill()
    forks.server.wait()
    found.kill()
    record = await found.wait()
    assert (record.known, record.describe()) == (False, "ended, nobody knows how")


async def test_a_server_that_stands_still_is_replaced(forks: Forks) -> None:
    forks.launcher = forks.new_launcher(fork_timeout=0.2)
    await forks.told()
    forks.server.suspend()
    with pytest.raises(LaunchError, match=r"did not answer within 0\.2 s"):
        await forks.run("stay", str(forks.fifo.path))
    assert (await (await forks.run("end_with", "3")).wait()).exit_code == 3


async def test_the_end_of_a_process_whose_server_stands_still_is_seen(
    forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_REAP_TIMEOUT", 0.0)
    found = await forks.staying()
    forks.server.suspend()
    found.kill()
    assert (await found.wait()).known is False
    forks.server.resume()


#: A program that is no fork server, and says something else on its channel.
IMPOSTOR = """
import sys
from amnode.launch.entry import take_boot
from amnode.launch.fork_channel import Channel, Preload
import msgspec, signal
preload = msgspec.msgpack.decode(take_boot().payload, type=Preload)
Channel.inherited(preload.channel)._socket.send(bytes.fromhex(sys.argv[1]))
signal.pause()
"""


@pytest.mark.parametrize("what", [b"\xc1nonsense", msgspec.msgpack.encode(["fork", 1])])
async def test_a_server_that_speaks_nonsense_is_ended(
    forks: Forks, what: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (sys.executable, "-c", IMPOSTOR, what.hex())
    with monkeypatch.context() as patch:
        patch.setattr(forkserver, "_SERVER", program)
        with pytest.raises(LaunchError, match="killed by SIGKILL while it imported"):
            await forks.run("stay")
    await forks.told()


async def test_a_request_that_the_server_cannot_read_ends_it(forks: Forks) -> None:
    await forks.told()
    server = forks.launcher._server
    assert server is not None
    server._channel.send(Started(1, 1))
    record = await server.process.wait()
    assert record.exit_code == 1
    assert "A fork server is not told" in server.process.tail()[-1]


#: Starts a server, and a copy of itself that has all of its descriptors, and says who is who.
COPIED = """
import asyncio, os, signal, sys
sys.path.insert(0, "tests/launch")
from pathlib import Path
from amnode.launch.forkserver import ForkServerLauncher
from amnode.launch.process import LaunchSpec
import msgspec

async def main():
    directory = Path(sys.argv[1])
    launcher = ForkServerLauncher(output=directory / "server", modules=["msgspec"])
    record = {"run": "os:fsencode", "path": [], "payload": b""}
    argv = (sys.executable, "-m", "amnode.launch.entry")
    spec = LaunchSpec(argv, msgspec.msgpack.encode(record), directory / "output")
    await (await launcher.launch(spec)).wait()
    copy = os.fork()
    if copy == 0:
        signal.pause()
    print(launcher.server_pid, copy, flush=True)
    signal.pause()

asyncio.run(main())
"""


def test_a_copy_of_the_launcher_does_not_keep_the_server(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COPIED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        server, copy = map(int, program.stdout.readline().split())
        descriptor = os.pidfd_open(server)
        try:
            program.kill()
            assert select.select([descriptor], [], [], 10)[0], "the server stays for the copy"
        finally:
            os.close(descriptor)
            os.kill(copy, signal.SIGKILL)


# -- which way -------------------------------------------------------------------------------


def test_the_fork_server_is_chosen_where_there_is_something_to_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_fork()
    assert isinstance(choose(output=tmp_path, modules=["forked"]), ForkServerLauncher)
    assert isinstance(choose(output=tmp_path, run="forked:prepare"), ForkServerLauncher)
    assert isinstance(choose(output=tmp_path), CommandLauncher)

    def refuse(pid: int) -> int:
        raise OSError(errno.ENOSYS, "no such call")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert isinstance(choose(output=tmp_path, modules=["forked"]), CommandLauncher)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not can_fork()
