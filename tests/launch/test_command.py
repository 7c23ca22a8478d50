"""Starting by command: what a process is given, and that a start that fails leaves nothing."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amnode.errors import LaunchError
from amnode.launch.command import CommandLauncher
from amnode.launch.process import LaunchSpec
from tests.launch.conftest import Fifo, Start, no_children


def descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))  # noqa: PTH208 - iterdir() keeps its own open


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """A start that failed left no descriptor, no child, no thread and no file."""
    before = descriptors(), no_children(), set(tmp_path.iterdir()), set(threading.enumerate())
    yield
    gc.collect()
    now = descriptors(), no_children(), set(tmp_path.iterdir()), set(threading.enumerate())
    assert now[0] == before[0]
    assert now[1] == before[1]
    assert now[2] - before[2] <= {tmp_path / "program", tmp_path / "link", tmp_path / "fifo"}
    assert now[3] == before[3]


# -- what it is given ------------------------------------------------------------------------


async def test_environment_and_directory_are_as_told(start: Start, tmp_path: Path) -> None:
    process = await start(
        "/bin/sh", "-c", "echo $NAME; pwd -P", env={"NAME": "x"}, cwd=tmp_path
    )
    await process.wait()
    assert process.tail() == ("x", os.path.realpath(tmp_path))  # noqa: ASYNC240, PTH - in memory


async def test_its_own_environment_is_the_default(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAME", "inherited")
    process = await start("/bin/sh", "-c", "echo $NAME")
    await process.wait()
    assert process.tail() == ("inherited",)
    assert "AM_NODE_BOOT_FD" not in os.environ


async def test_it_has_no_input(start: Start) -> None:
    process = await start("/bin/sh", "-c", "read line && echo read || echo none")
    await process.wait()
    assert process.tail() == ("none",)


async def test_its_output_blocks_as_programs_expect(start: Start) -> None:
    code = "import os; print(os.get_blocking(1), os.get_blocking(2))"
    process = await start(sys.executable, "-I", "-S", "-c", code)
    await process.wait()
    assert process.tail() == ("True True",)


async def test_only_its_owner_may_read_its_output(start: Start, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        await (await start("/bin/true")).wait()
    finally:
        os.umask(before)
    assert (tmp_path / "output").stat().st_mode & 0o7777 == 0o600


@pytest.mark.needs("proc")
async def test_it_inherits_four_descriptors(start: Start) -> None:
    """Its three, and the one with the boot record; none of what is open here.

    What lists them opens one more.
    """
    reading, writing = os.pipe()
    try:
        os.set_inheritable(reading, True)
        process = await start(
            "/bin/sh", "-c", "ls /proc/self/fd; cat /dev/fd/$AM_NODE_BOOT_FD", boot=b"hi"
        )
        await process.wait()
    finally:
        os.close(reading)
        os.close(writing)
    *numbers, record = process.tail()
    assert {"0", "1", "2"} < set(numbers) and len(numbers) == 3 + 2
    assert record == "hi"


async def test_a_record_goes_through_a_pipe_where_there_is_no_memory_file(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    for boot in (b"", b"x" * 4096):
        process = await start("/bin/sh", "-c", "wc -c < /dev/fd/$AM_NODE_BOOT_FD", boot=boot)
        await process.wait()
        assert process.tail(1)[0].strip() == str(len(boot))


async def test_it_never_waits_so_it_cannot_be_cancelled_half_way(
    launcher: CommandLauncher, tmp_path: Path
) -> None:
    spec = LaunchSpec(("/bin/sleep", "600"), b"", tmp_path / "output")
    with pytest.raises(StopIteration) as ended:
        launcher.launch(spec).send(None)
    process = ended.value.value
    process.kill()
    await process.wait()


@pytest.mark.usefixtures("nothing_left")
async def test_one_that_is_cancelled_first_never_starts(
    launcher: CommandLauncher, tmp_path: Path
) -> None:
    spec = LaunchSpec(("/bin/sleep", "600"), b"", tmp_path / "output")
    starting = asyncio.create_task(launcher.launch(spec))
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()


def test_a_spec_does_not_show_what_is_secret(tmp_path: Path) -> None:
    spec = LaunchSpec(("/bin/true",), b"canary", tmp_path, env={"TOKEN": "canary"})
    assert "canary" not in repr(spec)


# -- what cannot be started ------------------------------------------------------------------

Spoil = Callable[[Path], LaunchSpec]


def _program(directory: Path, text: str, mode: int) -> str:
    program = directory / "program"
    program.write_text(text)
    program.chmod(mode)
    return str(program)


def _in_place_of_output(directory: Path, make: Callable[[Path], object], name: str) -> Path:
    make(directory / name)
    return directory / name


IMPOSSIBLE: dict[str, tuple[Spoil, str]] = {
    "missing": (
        lambda d: LaunchSpec(("/no/such/program", "a b"), b"", d / "out"),
        "Cannot start `/no/such/program 'a b'`: No such file or directory: '/no/such/program'. "
        "Check that",
    ),
    "not executable": (
        lambda d: LaunchSpec((_program(d, "", 0o600),), b"", d / "out"),
        "Permission denied",
    ),
    "no program": (
        lambda d: LaunchSpec((_program(d, "\x00", 0o700),), b"", d / "out"),
        "Exec format error",
    ),
    "no directory": (
        lambda d: LaunchSpec(("/bin/true",), b"", d / "out", cwd=d / "absent"),
        "/absent'",
    ),
    "no argv": (lambda d: LaunchSpec((), b"", d / "out"), "no program in its argv"),
    "null in argv": (
        lambda d: LaunchSpec(("/bin/echo", "a\0b"), b"", d / "out"),
        r"Cannot start `/bin/echo 'a\x00b'`: embedded null byte.",
    ),
    "bad variable": (
        lambda d: LaunchSpec(("/bin/true",), b"", d / "out", env={"A=B": ""}),
        "illegal environment variable name",
    ),
    "forged": (
        lambda d: LaunchSpec(("/no/such", "\x1b[2J\nERROR all is lost"), b"", d / "out"),
        r"`/no/such '\x1b[2J\nERROR all is lost'`",
    ),
    "no place for output": (
        lambda d: LaunchSpec(("/bin/true",), b"", d / "absent" / "out"),
        "No such file or directory: ",
    ),
    "output is a link": (
        lambda d: LaunchSpec(
            ("/bin/true",),
            b"",
            _in_place_of_output(d, lambda p: p.symlink_to("/dev/null"), "link"),
        ),
        "no symbolic link",
    ),
    "output is a link to nothing": (
        lambda d: LaunchSpec(
            ("/bin/true",), b"", _in_place_of_output(d, lambda p: p.symlink_to(d / "x"), "link")
        ),
        "no symbolic link",
    ),
    "output is a fifo": (
        lambda d: LaunchSpec(("/bin/true",), b"", _in_place_of_output(d, os.mkfifo, "fifo")),
        "/fifo'",
    ),
    "output is a device": (
        lambda d: LaunchSpec(("/bin/true",), b"", Path("/dev/null")),
        "no regular file: '/dev/null'",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
async def test_what_cannot_be_started_says_why_and_leaves_nothing(
    case: str, launcher: CommandLauncher, tmp_path: Path, nothing_left: None
) -> None:
    make, said = IMPOSSIBLE[case]
    spec = make(tmp_path)
    with pytest.raises(LaunchError) as raised:
        await launcher.launch(spec)
    assert said in str(raised.value)
    assert str(raised.value).isprintable()


async def test_output_that_was_there_before_stays(
    launcher: CommandLauncher, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("kept")
    with pytest.raises(LaunchError):
        await launcher.launch(LaunchSpec(("/no/such",), b"", tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "kept"


async def test_a_fifo_with_a_reader_is_no_output_either(
    launcher: CommandLauncher, fifo: Fifo, nothing_left: None
) -> None:
    with pytest.raises(LaunchError, match="no regular file"):
        await launcher.launch(LaunchSpec(("/bin/true",), b"", fifo.path))


async def test_a_record_that_fits_no_pipe_is_refused(
    launcher: CommandLauncher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nothing_left: None,
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    for size in (2**16 + 1, 2**20):
        spec = LaunchSpec(("/bin/true",), b"x" * size, tmp_path / "out")
        with pytest.raises(LaunchError, match=f"a boot record of {size} bytes fits no pipe"):
            await launcher.launch(spec)


async def test_a_record_that_was_written_in_part_starts_nothing(
    launcher: CommandLauncher, tmp_path: Path, nothing_left: None
) -> None:
    spec = LaunchSpec(("/bin/true",), b"x" * 2**20, tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(LaunchError, match="File too large"):
            await launcher.launch(spec)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_where_no_file_may_be_made_nothing_starts(
    launcher: CommandLauncher, tmp_path: Path, nothing_left: None
) -> None:
    spec = LaunchSpec(("/bin/true",), b"", tmp_path / "read-only" / "out")
    spec.output.parent.mkdir(0o500)
    user = os.geteuid()
    if user == 0:  # whom no permission stops
        os.seteuid(54321)
    try:
        with pytest.raises(LaunchError, match=r"Permission denied: .*/out'\. Check the perm"):
            await launcher.launch(spec)
    finally:
        os.seteuid(user)
        spec.output.parent.rmdir()


#: Starts a process without standard streams of its own, as a daemon may be.
STREAMLESS = """
import asyncio, os, sys
from pathlib import Path
from amnode.launch.command import CommandLauncher
from amnode.launch.process import LaunchSpec

async def main():
    for closed in (0, 1, 2):
        os.close(closed)
    program = ("/bin/sh", "-c", "cat; cat /dev/fd/$AM_NODE_BOOT_FD; echo ' loud' >&2")
    process = await CommandLauncher().launch(LaunchSpec(program, b"boot", Path(sys.argv[1])))
    return (await process.wait()).exit_code

sys.exit(asyncio.run(main()))
"""


def test_a_starter_without_standard_streams_gives_what_it_should(tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-c", STREAMLESS, str(output)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, output.read_text()) == (0, "boot loud\n")


async def test_without_descriptors_nothing_is_left_wherever_they_run_out(
    launcher: CommandLauncher, tmp_path: Path
) -> None:
    """With 0, 1, 2, ... free descriptors, until a start works."""
    spec = LaunchSpec(("/bin/true",), b"boot", tmp_path / "out")
    used = {int(name) for name in descriptors()}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [number for number in range(max(used) + 40) if number not in used]
    refused = 0
    try:
        for count in range(20):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], hard))
            try:
                process = await launcher.launch(spec)
            except LaunchError as error:
                assert "No descriptors are left" in str(error)
                assert not (tmp_path / "out").exists()
                refused += 1
                process = None
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            if process is not None:
                assert (await process.wait()).exit_code == 0
                break
            assert no_children()
            assert {int(name) for name in descriptors()} == used
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert process is not None
    assert refused >= 4


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("os.pidfd_open", OSError(errno.EMFILE, "no descriptors")),
        ("os.pidfd_open", KeyboardInterrupt()),
        ("threading.Thread.start", RuntimeError("can't start new thread")),
    ],
)
async def test_one_that_cannot_be_watched_is_ended(
    name: str,
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    nothing_left: None,
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(name, refuse, raising=False)
    launcher = CommandLauncher(use_pidfd=name == "os.pidfd_open")
    expected = LaunchError if isinstance(error, Exception) else type(error)
    with pytest.raises(expected):
        await launcher.launch(LaunchSpec(("/bin/sleep", "600"), b"", tmp_path / "out"))
    assert no_children()


async def test_a_platform_that_cannot_watch_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.delattr(os, "waitid")
        with pytest.raises(LaunchError, match=r"Use Python 3\.13"):
            await CommandLauncher().launch(
                LaunchSpec(("/bin/sleep", "600"), b"", tmp_path / "out")
            )
    assert no_children()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
async def test_where_pidfds_are_refused_a_thread_watches(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    spec = LaunchSpec(("/bin/sh", "-c", "exit 9"), b"", tmp_path / "out")
    process = await CommandLauncher().launch(spec)
    assert (await process.wait()).exit_code == 9


#: Runs without the right to more processes, as a user who has one: root is never refused.
REFUSED = """
import asyncio, os, resource, sys
from pathlib import Path
from amnode.errors import LaunchError
from amnode.launch.command import CommandLauncher
from amnode.launch.process import LaunchSpec

directory = Path(sys.argv[1])

async def main():
    spec = LaunchSpec(("/bin/true",), b"boot", directory / "out")
    before = os.listdir("/dev/fd")
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    if os.getuid() == 0:
        os.setuid(54321)
    try:
        await CommandLauncher().launch(spec)
    except LaunchError as error:
        print(error)
    assert os.listdir("/dev/fd") == before
    assert not list(directory.iterdir())

asyncio.run(main())
"""


def test_a_fork_that_is_refused_says_so_and_leaves_nothing() -> None:
    # Not below the directories of the tests, which another user may not enter.
    with tempfile.TemporaryDirectory(prefix="am-open-", dir="/tmp") as directory:
        Path(directory).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", REFUSED, directory],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "Cannot start `/bin/true`: Resource temporarily unavailable" in done.stdout
    assert "No more processes are allowed" in done.stdout
