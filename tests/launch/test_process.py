from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from amnode.errors import LaunchError
from amnode.launch.command import CommandLauncher
from amnode.launch.output_file import TAIL_BYTES, OutputFile
from amnode.launch.process import ChildProcess, ExitRecord, LaunchSpec
from tests.launch.conftest import Children, Signal, no_children

NewLoop = Callable[[], asyncio.AbstractEventLoop]


def corpse(process: ChildProcess) -> None:
    """Returns when the process has ended, before the loop can have noticed."""
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def reap(pid: int) -> None:
    """Takes the corpse of a child away from whoever watches it."""
    os.waitpid(pid, 0)


def run(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True)


def watchers(pid: int) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"wait-{pid}"]


# -- how it ended --------------------------------------------------------------------------

NO_CORE = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"


@pytest.mark.parametrize(
    ("code", "exit_code", "by", "words"),
    [
        ("", 0, "", "exited with code 0"),
        ("sys.exit(7)", 7, "", "exited with code 7"),
        ("sys.exit(256 + 9)", 9, "", "exited with code 9"),
        ("os._exit(3)", 3, "", "exited with code 3"),
        ("raise ValueError", 1, "", "exited with code 1"),
        ("os.kill(0, signal.SIGKILL)", None, "SIGKILL", "killed by SIGKILL"),
        ("os.kill(0, signal.SIGTERM)", None, "SIGTERM", "killed by SIGTERM"),
        (NO_CORE + "os.kill(0, signal.SIGSEGV)", None, "SIGSEGV", "killed by SIGSEGV"),
        ("os.abort()", None, "SIGABRT", "killed by SIGABRT"),
        ("os.kill(0, 40)", None, "signal 40", "killed by signal 40"),
    ],
)
async def test_the_record_says_how_it_ended(
    children: Children, code: str, exit_code: int | None, by: str, words: str
) -> None:
    code = code.replace("os.abort()", NO_CORE + "os.abort()").replace(
        "kill(0", "kill(os.getpid()"
    )
    before = time.monotonic()
    process = await children.python(code)
    record = await process.wait()
    assert record == ExitRecord(process.pid, exit_code, by, True, record.seen_at)
    assert before <= record.seen_at <= time.monotonic()
    assert record.describe() == words
    assert process.exited.result() is record
    assert no_children()


async def test_one_that_is_stopped_has_not_ended(children: Children) -> None:
    process = await children.python("os.kill(os.getpid(), signal.SIGSTOP)")
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)  # noqa: ASYNC222 - see `corpse`
    await asyncio.sleep(0)
    assert not process.exited.done()
    assert process.kill()
    assert (await process.wait()).signal == "SIGKILL"


async def test_many_at_once_each_have_their_own_record(children: Children) -> None:
    started = [await children.sh(f"exit {number}") for number in range(50)]
    records = await asyncio.gather(*(process.wait() for process in started))
    assert [record.exit_code for record in records] == list(range(50))
    assert [record.pid for record in records] == [process.pid for process in started]
    assert no_children()


async def test_fifty_die_together(children: Children) -> None:
    started = [await children.sh("exec /bin/sleep 600") for _ in range(50)]
    assert all(process.kill() for process in started)
    records = await asyncio.gather(*(process.wait() for process in started))
    assert {record.signal for record in records} == {"SIGKILL"}
    assert not any(process.kill() for process in started)
    assert no_children()


# -- signals -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["terminate", "kill"])
async def test_the_group_is_signalled(
    children: Children, signals: list[Signal], name: str
) -> None:
    process = await children.waiting()
    number = {"terminate": signal.SIGTERM, "kill": signal.SIGKILL}[name]
    assert getattr(process, name)()
    assert (await process.wait()).signal == number.name
    assert signals[0].group == process.pid and signals[0].number == number


async def test_one_that_will_not_terminate_is_killed(children: Children) -> None:
    process = await children.waiting(
        "signal.signal(signal.SIGTERM, lambda *_: say('not yet'))\n"
        "say('here')\n"
        "while True: signal.pause()"
    )
    assert process.terminate()
    assert await children.fifo.line() == "not yet"
    assert not process.exited.done()
    assert process.kill()
    assert (await process.wait()).signal == "SIGKILL"


@pytest.mark.parametrize("name", ["terminate", "kill"])
async def test_after_its_end_nothing_is_sent(
    children: Children, signals: list[Signal], name: str
) -> None:
    process = await children.sh("exit 0")
    living = repr(process)
    await process.wait()
    signals.clear()
    assert getattr(process, name)() is False
    assert signals == []
    assert repr(process) != living


@pytest.mark.parametrize("name", ["terminate", "kill"])
async def test_an_end_that_the_loop_has_not_seen_yet_is_one(
    children: Children, signals: list[Signal], name: str
) -> None:
    process = await children.sh("exit 5")
    assert repr(process) == f"<ChildProcess {process.pid}>"
    corpse(process)
    assert getattr(process, name)() is False
    assert signals == [Signal(process.pid, signal.SIGKILL, psutil.STATUS_ZOMBIE)]
    assert (await process.wait()).exit_code == 5


# -- its group -----------------------------------------------------------------------------

FAMILY = """
if os.fork() == 0:
    if os.fork() == 0:
        say("grandchild of it")
    else:
        say("child of it")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
"""


@pytest.mark.parametrize(
    "end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "raise ValueError"]
)
async def test_what_is_left_of_its_group_ends_with_it(children: Children, end: str) -> None:
    process = await children.python(f"{FAMILY}\nsignal.sigwait([signal.SIGUSR1])\n{end}")
    said = {await children.fifo.line(), await children.fifo.line()}
    assert said == {"child of it", "grandchild of it"}
    os.kill(process.pid, signal.SIGUSR1)
    await process.wait()
    await children.fifo.ended()


async def test_the_group_is_killed_while_the_corpse_holds_its_number(
    children: Children, signals: list[Signal]
) -> None:
    process = await children.sh("exit 0")
    await process.wait()
    assert signals == [Signal(process.pid, signal.SIGKILL, psutil.STATUS_ZOMBIE)]


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
async def test_a_system_that_will_not_signal_a_corpse_is_no_matter(
    children: Children, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    def killpg(group: int, number: int) -> None:
        raise error

    process = await children.sh("exit 4")
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", killpg)
        assert (await process.wait()).exit_code == 4
    assert no_children()


# -- reaped by somebody else ---------------------------------------------------------------


async def test_one_that_somebody_else_reaped_ended_somehow(
    children: Children, signals: list[Signal]
) -> None:
    process = await children.sh("exit 6")
    reap(process.pid)
    assert process.terminate() is False and process.kill() is False
    record = await process.wait()
    assert (record.known, record.exit_code, record.signal) == (False, None, "")
    assert record.describe() == "ended, nobody knows how"
    assert signals == []  # its number may be a stranger's


async def test_one_that_somebody_else_reaps_later_is_noticed(children: Children) -> None:
    process = await children.waiting()
    os.kill(process.pid, signal.SIGKILL)
    reap(process.pid)
    assert (await process.wait()).known is False


async def test_where_the_kernel_reaps_all_children_ends_are_noticed(
    children: Children, signals: list[Signal]
) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = await children.sh("exit 6")
        assert (await process.wait()).known is False
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert signals == []


async def test_one_that_is_gone_before_it_is_watched_has_ended(
    children: Children, signals: list[Signal], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pidfd_open(pid: int) -> int:
        reap(pid)
        raise ProcessLookupError(errno.ESRCH, "No such process")

    monkeypatch.setattr(os, "pidfd_open", pidfd_open, raising=False)
    launcher = CommandLauncher()
    process = await launcher.launch(children.spec("/bin/true"))
    assert (await process.wait()).known is False
    assert signals == []


async def test_one_that_is_gone_and_cannot_be_watched_is_sent_nothing(
    children: Children, signals: list[Signal], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pidfd_open(pid: int) -> int:
        reap(pid)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", pidfd_open, raising=False)
    with pytest.raises(LaunchError, match="Too many open files"):
        await CommandLauncher().launch(children.spec("/bin/true"))
    assert signals == []


# -- who waits -----------------------------------------------------------------------------


async def test_a_cancelled_wait_leaves_the_future_to_the_others(children: Children) -> None:
    process = await children.waiting()
    waits = [asyncio.create_task(process.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waits[0].cancel()
    await asyncio.wait([waits[0]])
    assert waits[0].cancelled() and not process.exited.done()
    process.kill()
    records = await asyncio.gather(*waits[1:], process.wait())
    assert all(record is process.exited.result() for record in records)


async def test_whoever_cancels_the_future_cancels_only_his_own(children: Children) -> None:
    process = await children.waiting()
    mine, other = process.exited, process.exited
    mine.cancel()
    waits = [asyncio.create_task(waiting(process.exited)) for _ in range(2)]
    await asyncio.sleep(0)
    waits[0].cancel()
    process.kill()
    assert await other == await waits[1] == await process.wait() == process.exited.result()
    assert mine.cancelled() and waits[0].cancelled()


async def waiting(exited: asyncio.Future[ExitRecord]) -> ExitRecord:
    return await exited


# -- watching ------------------------------------------------------------------------------


async def test_a_thread_waits_only_where_there_is_no_pidfd(
    children: Children, use_pidfd: bool
) -> None:
    process = await children.waiting()
    threads = watchers(process.pid)
    assert len(threads) == (0 if use_pidfd else 1)
    process.kill()
    await process.wait()
    for thread in threads:
        thread.join()  # and so it ends with the child


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, None])
async def test_a_system_without_pidfds_is_watched_by_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    def pidfd_open(pid: int) -> int:
        assert number is not None
        raise OSError(number, os.strerror(number))

    if number is None:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    else:
        monkeypatch.setattr(os, "pidfd_open", pidfd_open, raising=False)
    spec = LaunchSpec(("/bin/sh", "-c", "exit 2"), b"", tmp_path / "output.log")
    process = await CommandLauncher().launch(spec)
    assert (await process.wait()).exit_code == 2


def test_outside_a_loop_there_is_no_process(use_pidfd: bool, tmp_path: Path) -> None:
    popen = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, start_new_session=True)
    with popen, pytest.raises(RuntimeError, match="no running event loop"):
        ChildProcess(popen, OutputFile(tmp_path), use_pidfd=use_pidfd)
    assert popen.returncode == -signal.SIGKILL


@pytest.mark.needs("pidfd")
def test_one_that_a_loop_cannot_watch_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loop:
        def create_future(self) -> None: ...

        def add_reader(self, fd: int, callback: object) -> None:
            os.fstat(fd)
            raise RuntimeError("this loop watches no descriptors")

    monkeypatch.setattr(asyncio, "get_running_loop", Loop)
    popen = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, start_new_session=True)
    with popen, pytest.raises(RuntimeError, match="watches no descriptors"):
        ChildProcess(popen, OutputFile(tmp_path))
    assert popen.returncode == -signal.SIGKILL


# -- what Popen believes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "returncode"), [("exit 3", 3), ("kill -KILL $$", -9), ("reaped elsewhere", 0)]
)
async def test_popen_waits_for_no_number_that_is_a_stranger_s(
    use_pidfd: bool, tmp_path: Path, script: str, returncode: int
) -> None:
    popen = run(script)
    process = ChildProcess(popen, OutputFile(tmp_path), use_pidfd=use_pidfd)
    if script == "reaped elsewhere":
        reap(popen.pid)
    await process.wait()
    # Both return at once where it is set, and Popen's end warns where it is not.
    assert popen.returncode == popen.poll() == popen.wait() == returncode


# -- a loop that is closed -----------------------------------------------------------------


def started_on_a_closed_loop(
    new_loop: NewLoop, use_pidfd: bool, output: Path
) -> tuple[ChildProcess, subprocess.Popen[bytes]]:
    popen = run("exec /bin/sleep 600")

    async def start() -> ChildProcess:
        process = ChildProcess(popen, OutputFile(output), use_pidfd=use_pidfd)
        process.exited.add_done_callback(lambda _: None)  # somebody waits to this day
        return process

    loop = new_loop()
    try:
        return loop.run_until_complete(start()), popen
    finally:
        loop.close()


def test_one_whose_loop_is_closed_can_still_be_ended(
    new_loop: NewLoop, use_pidfd: bool, tmp_path: Path, signals: list[Signal]
) -> None:
    process, popen = started_on_a_closed_loop(new_loop, use_pidfd, tmp_path)
    threads = watchers(process.pid)
    assert process.kill() is True
    corpse(process)
    assert process.kill() is False
    assert popen.returncode == -signal.SIGKILL and no_children()
    assert len(signals) == 2 and signals[1].state == psutil.STATUS_ZOMBIE
    for thread in threads:
        thread.join()


def test_one_whose_loop_is_closed_and_that_nobody_holds_leaves_no_descriptor(
    new_loop: NewLoop, use_pidfd: bool, tmp_path: Path
) -> None:
    process, popen = started_on_a_closed_loop(new_loop, use_pidfd, tmp_path)
    threads = watchers(process.pid)
    descriptors = len(os.listdir("/dev/fd"))  # noqa: PTH208 - numbers, not paths
    del process
    gc.collect()
    assert len(os.listdir("/dev/fd")) == descriptors - use_pidfd  # noqa: PTH208
    assert popen.poll() is None  # whoever loses sight of a process does not kill it
    popen.kill()
    popen.wait()
    for thread in threads:
        thread.join()


def test_one_that_is_lost_while_it_runs_is_warned_of(new_loop: NewLoop, tmp_path: Path) -> None:
    process, popen = started_on_a_closed_loop(new_loop, True, tmp_path)
    pid = process.pid
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del process, popen
        gc.collect()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert [str(w.message) for w in warned] == [f"subprocess {pid} is still running"]


# -- what it wrote -------------------------------------------------------------------------


async def test_the_last_lines_of_a_dead_process(children: Children) -> None:
    process = await children.python(
        r"""
        os.write(1, b"first\nsecond\n")
        os.write(2, b"\x1b[2Jforged\r\nbinary \xff\x00\n")
        os.write(1, b"and then it")
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    await process.wait()
    lines = ("first", "second", "\\x1b[2Jforged", "binary \\xff\\x00", "and then it")
    assert process.tail() == lines
    assert process.tail(2) == lines[-2:]
    assert process.tail(0) == ()


async def test_only_the_end_of_much_output_is_read(children: Children) -> None:
    process = await children.python(
        f"os.write(1, b''.join(b'line %d\\n' % n for n in range({TAIL_BYTES})))"
    )
    await process.wait()
    assert children.spec("").output.stat().st_size > 5 * TAIL_BYTES
    shown = process.tail(TAIL_BYTES)
    first = TAIL_BYTES - len(shown)
    assert shown == tuple(f"line {n}" for n in range(first, TAIL_BYTES))
    assert TAIL_BYTES - 20 <= sum(len(line) + 1 for line in shown) <= TAIL_BYTES


async def test_what_is_written_is_there_while_it_runs(children: Children) -> None:
    process = await children.waiting("os.write(1, b'working')")
    assert process.tail() == ("working",)
    process.kill()
    await process.wait()


async def test_lines_of_an_earlier_process_are_not_its_own(children: Children) -> None:
    for number in range(3):
        process = await children.sh(f"printf 'line {number}, half '")
        await process.wait()
        assert process.tail() == (f"line {number}, half ",)


async def test_a_file_that_was_emptied_is_all_its_own(children: Children) -> None:
    await (await children.sh("echo something long that was there before")).wait()
    process = await children.sh(f": > {children.spec('').output}; echo anew")
    await process.wait()
    assert process.tail() == ("anew",)


@pytest.mark.parametrize("instead", ["nothing", "mkdir", "mkfifo", "ln -s /etc/passwd"])
async def test_without_its_file_there_are_no_lines(children: Children, instead: str) -> None:
    output = children.spec("").output
    make = ":" if instead == "nothing" else f"{instead} {output}"
    process = await children.sh(f"echo hello; rm {output}; {make}")
    assert (await process.wait()).exit_code == 0
    assert process.tail() == ()
