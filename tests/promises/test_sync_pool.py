"""`SyncPool` is a `Pool` for code without a loop, from any thread. What blocks is interrupted
by Ctrl-C, and then cancelled at its worker. Whatever way the program ends, and if it forgets to
stop the pool, nothing of it is left. In a process forked from the program it says what is
wrong.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any

import pytest

from amnode import (
    ClientOptions,
    JobFailed,
    JobTimeoutError,
    OptionError,
    PoolError,
    PoolSize,
    SupervisorOptions,
    SyncPool,
    WorkerError,
)
from tests.promises.pools import PATIENCE, SHORT, gone
from tests.promises.workers import NoSuchThing, Plain


def _pool(size: int = 1, kind: type[Plain] = Plain, **changes: Any) -> SyncPool:
    return SyncPool(
        kind,
        size=PoolSize(size, size, 0),
        opts=SupervisorOptions(**(SHORT | changes)),
        client_opts=ClientOptions(request_wait=PATIENCE),
    )


def _fifo(directory: Path) -> str:
    path = str(directory / "gate")
    os.mkfifo(path)
    return path


def test_calls_leases_and_the_pool_itself() -> None:
    with _pool(2) as pool:
        pool.when_ready()
        assert pool.call(Plain.square, 7) == 49
        with pytest.raises(JobFailed, match="OddError: so it ends"):
            pool.call(Plain.fail, "so it ends")
        with pytest.raises(JobTimeoutError):
            pool.options(deadline=0.05).call(Plain.last)
        with pool.lease(timeout=PATIENCE) as mine:
            assert [mine.call(Plain.keep, text) for text in "ab"] == [["a"], ["a", "b"]]
            assert mine.call(Plain.epoch) == (mine.id, mine.epoch)
            with pytest.raises(JobTimeoutError):
                mine.options(deadline=0.05).call(Plain.last)
        assert len(pool.workers()) == 2
        pool.set_pool(1, 1, 0)
        assert pool.view().size.max == 1
    pool.stop()  # again changes nothing
    with pytest.raises(PoolError, match="stopped"):
        pool.call(Plain.square, 7)
    with pytest.raises(PoolError, match="started before"):
        pool.start()


def test_futures_are_those_of_concurrent_futures(tmp_path: Path) -> None:
    gate = _fifo(tmp_path)
    with _pool(1) as pool:
        calls = [pool.submit(Plain.square, n) for n in range(9)]
        assert sorted(call.result() for call in as_completed(calls)) == [
            n * n for n in range(9)
        ]
        last = pool.submit(Plain.last)
        waits = pool.submit(Plain.square, 3)
        assert last.cancel() and last.cancel() and last.cancelled()
        assert wait([last, waits]).not_done == set()
        with pytest.raises(CancelledError):
            last.result()
        assert not waits.cancel() and waits.result() == 9
        held = pool.submit(Plain.gate, gate)
        Path(gate).write_text("open")
        assert held.result() == "open"
        with pytest.raises(OptionError, match="is no job"):
            pool.submit("square", 7).result()  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_map_is_an_iterator() -> None:
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        for n in itertools.count():
            read += 1
            yield n

    with _pool(2) as pool:
        for chunk in (None, 1, 7):
            found = pool.map(Plain.square, range(500), chunk=chunk)
            assert list(found) == [n * n for n in range(500)]
            assert list(found) == []
        assert list(pool.map(Plain.add, [1, 2], itertools.count(10))) == [11, 13]
        assert sorted(pool.map(Plain.square, range(50), ordered=False)) == [
            n * n for n in range(50)
        ]
        with pool.map(Plain.square, numbers(), buffer=20) as endless:
            for taken, found_one in enumerate(endless):
                assert found_one == taken * taken
                assert read <= taken + 20
                if taken == 200:
                    break
        assert list(endless) == []
        forgotten = iter(pool.map(Plain.square, numbers(), buffer=20))
        assert next(forgotten) == 0
        del forgotten
        gc.collect()
        assert pool.call(Plain.square, 9) == 81


def test_what_ends_a_map() -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise ZeroDivisionError

    async def later() -> AsyncIterator[int]:
        yield 1

    with _pool(1) as pool:
        found: list[int] = []
        with pytest.raises(ZeroDivisionError):
            found.extend(pool.map(Plain.square, broken()))
        assert found == [0, 1, 4, 9, 16]
        with pytest.raises(JobFailed, match="no"):
            list(pool.map(Plain.fail, ["no"]))
        failed = list(pool.map(Plain.fail, ["no"], return_exceptions=True))
        assert [type(one) for one in failed] == [JobFailed]
        with pytest.raises(WorkerError, match="exited with code 3"):
            list(pool.map(Plain.die, ["exit"]))
        for wrong in (later(), 5):
            with pytest.raises(OptionError):
                pool.map(Plain.square, wrong)  # pyright: ignore[reportArgumentType]
        with pytest.raises(OptionError, match="chunk"):
            pool.map(Plain.square, range(9), chunk=0)
        endless = pool.map(Plain.square, itertools.count())
        assert next(endless) == 0
        pool.stop()
        with pytest.raises(PoolError, match="stopped"):
            list(endless)


def test_many_threads_call_at_once() -> None:
    def some(pool: SyncPool, first: int) -> list[int]:
        return [pool.call(Plain.square, n) for n in range(first, first + 20)]

    with _pool(2) as pool, ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda first: some(pool, first), range(0, 80, 20))
        assert [n for part in found for n in part] == [n * n for n in range(80)]


def test_who_would_wait_for_itself_is_told() -> None:
    told: list[BaseException | None] = []
    done = threading.Event()
    with _pool(1) as pool:

        def call_again(_call: object) -> None:
            with pytest.raises(PoolError, match="its own thread") as caught:
                pool.call(Plain.square, 1)
            told.append(caught.value)
            done.set()

        pool.submit(Plain.square, 1).add_done_callback(call_again)
        assert done.wait(PATIENCE)
    assert len(told) == 1


def test_a_pool_that_is_not_started_says_so() -> None:
    pool = _pool(1)
    with pytest.raises(PoolError, match="not started"):
        pool.call(Plain.square, 1)
    pool.stop()
    with pytest.raises(OptionError, match="max"):
        SyncPool(Plain, max=0)


def test_workers_that_never_start_fail_the_calls_and_say_why() -> None:
    with (
        _pool(1, NoSuchThing, restart_intensity=1) as pool,
        pytest.raises(PoolError, match="there is no licence"),
    ):
        pool.call(Plain.square, 1)


@pytest.mark.needs("proc")
def test_a_forked_process_is_told_and_ends_nothing() -> None:
    with _pool(1) as pool:
        assert pool.call(Plain.square, 2) == 4
        pid = os.fork()
        if pid == 0:  # what fails here must not reach the test runner
            code = 1
            try:
                pool.call(Plain.square, 3)
            except PoolError as error:
                code = 0 if "was forked" in str(error) else 2
            try:
                pool.stop()
                pool._thread.end()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert pool.call(Plain.square, 3) == 9


def test_a_pool_that_is_dropped_is_stopped() -> None:
    pool = _pool(1)
    pool.start()
    pid = pool.call(Plain.pid)
    with pytest.warns(ResourceWarning, match="was not stopped"):
        del pool
        gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("the end of"):
            thread.join(PATIENCE)
    asyncio.run(gone(pid))


PROGRAM = """
import os, sys
from amnode import SyncPool
from tests.promises.workers import Plain

def main():
    pool = SyncPool(Plain, min=1, max=1, warm=0)
    {body}

if __name__ == "__main__":
    main()
"""


def _program(tmp_path: Path, body: str) -> subprocess.Popen[str]:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(body=body))
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("pool.start(); print(pool.call(Plain.pid))", 0, ""),
        ("pool.start(); print(pool.call(Plain.pid)); pool.submit(Plain.last)", 0, ""),
        ("pool.start(); print(pool.call(Plain.pid)); sys.exit(7)", 7, ""),
        ("pool.start(); print(pool.call(Plain.pid)); raise KeyError('odd')", 1, "KeyError"),
    ],
    ids=["returns", "returns with a call open", "exits", "raises"],
)
async def test_a_program_that_forgets_its_pool_leaves_nothing(
    tmp_path: Path, body: str, code: int, said: str
) -> None:
    program = _program(tmp_path, f"global kept; kept = pool; {body}")
    out, errors = await asyncio.to_thread(program.communicate, timeout=2 * PATIENCE)
    assert program.returncode == code, errors
    assert said in errors and (said or not errors)
    await gone(int(out))


@pytest.mark.parametrize(
    "wait",
    [
        "pool.call(Plain.last)",
        "pool.submit(Plain.last).result()",
        "list(pool.map(Plain.keep, iter(lambda: 'x', '')))",
        "[*pool.map(Plain.ignore_cancels, [0])]",
    ],
)
@pytest.mark.parametrize("how", ["with pool:", "pool.start()\n    if True:"])
async def test_an_interrupt_leaves_nothing(tmp_path: Path, wait: str, how: str) -> None:
    body = f"{how}\n        print(pool.call(Plain.pid), flush=True)\n        {wait}"
    program = _program(tmp_path, body)
    assert program.stdout is not None
    pid = int(await asyncio.to_thread(program.stdout.readline))
    program.send_signal(signal.SIGINT)
    _, errors = await asyncio.to_thread(program.communicate, timeout=2 * PATIENCE)
    assert program.returncode == -signal.SIGINT, errors
    assert re.search(r"^KeyboardInterrupt$", errors, re.MULTILINE)
    await gone(pid)
