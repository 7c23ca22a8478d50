"""`PoolExecutor` is a `concurrent.futures.Executor` that goes on when a worker dies, and in
which nothing that cannot be sent hangs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.process
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Future,
    as_completed,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from amnode import CallLostError, ExecutorBrokenError, JobFailed, PoolExecutor, WorkerError
from amnode.errors import Cause
from tests.promises import callables
from tests.promises.pools import PATIENCE


@pytest.fixture
def executor() -> Iterator[PoolExecutor]:
    with PoolExecutor(2) as made:
        yield made


def result(future: Future[Any]) -> Any:
    return future.result(PATIENCE)


def error(future: Future[Any]) -> BaseException | None:
    return future.exception(PATIENCE)


def written(path: Path) -> str:
    """What a call wrote to a file, once it has."""
    assert poll(lambda: path.exists() and bool(path.read_text()))
    return path.read_text()


def poll(condition: Callable[[], bool]) -> bool:
    """Waits for what happens in another process, which nothing here is told of."""
    event = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if condition():
            return True
        event.wait(0.01)
    return condition()


def is_gone(pid: int) -> bool:
    with suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


# -- calls -------------------------------------------------------------------------------------


def test_results_arguments_and_order(executor: PoolExecutor) -> None:
    assert result(executor.submit(pow, 2, 10)) == 1024
    assert result(executor.submit(callables.add, 1, b=2, c=3)) == 6
    assert list(executor.map(callables.square, range(200))) == [n * n for n in range(200)]
    assert list(executor.map(callables.add, [1, 2, 3], [10, 20])) == [11, 22]
    assert list(executor.map(callables.square, range(10), chunksize=3)) == [
        n * n for n in range(10)
    ]
    assert list(executor.map(callables.square, [])) == []


def test_what_a_call_raises_its_future_raises(executor: PoolExecutor) -> None:
    failed = error(executor.submit(callables.fail_deep, "a reason"))
    assert type(failed) is ValueError
    assert failed.args == ("a reason",)
    assert "in fail_deep" in str(failed.__cause__)
    assert "executor_worker" not in str(failed.__cause__)
    left = error(executor.submit(sys.exit, 3))
    assert isinstance(left, SystemExit)
    assert left.code == 3
    assert isinstance(
        error(executor.submit(callables.fail, KeyboardInterrupt())), KeyboardInterrupt
    )
    assert result(executor.submit(callables.square, 3)) == 9


def test_a_lambda_and_a_closure_go_by_value(executor: PoolExecutor) -> None:
    factor = 7
    assert result(executor.submit(lambda n: n * factor, 6)) == 42

    class Local:
        value = 5

    made = result(executor.submit(lambda: Local()))
    assert made.value == 5
    assert isinstance(made, Local)
    assert list(executor.map(lambda n: n + factor, range(5), chunksize=2)) == [7, 8, 9, 10, 11]


def test_callables_run_in_the_main_thread_always_the_same() -> None:
    with PoolExecutor(1) as executor:
        found = {result(executor.submit(callables.thread_and_signals)) for _ in range(5)}
    assert len(found) == 1
    assert found.pop()[0]


def test_large_values_cross_both_ways(executor: PoolExecutor) -> None:
    data = os.urandom(1 << 20) * 8
    assert result(executor.submit(callables.give, data)) == data
    several = [data[: 1 << 16], "text" * 50_000, bytearray(data[:100_000])]
    assert result(executor.submit(callables.give, several)) == several


def test_arrays_cross_and_can_be_changed(executor: PoolExecutor) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1 << 18, dtype="f8").reshape(512, 512)
    small = numpy.arange(5)
    back, same = result(executor.submit(callables.give, [array, small]))
    assert (back == array).all()
    assert (same == small).all()
    back += 1
    assert array[0, 0] == 0
    assert result(executor.submit(numpy.sum, array.T)) == array.sum()


def test_many_calls_from_many_threads(executor: PoolExecutor) -> None:
    def use(start: int) -> None:
        got = executor.map(callables.square, range(start, start + 100))
        sums.append(sum(got) - sum(n * n for n in range(start, start + 100)))

    sums: list[int] = []
    threads = [threading.Thread(target=use, args=(1000 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [0, 0, 0, 0]


def test_calls_of_one_worker_run_in_their_order(tmp_path: Path) -> None:
    with PoolExecutor(1) as executor:
        for n in range(300):
            executor.submit(callables.keep, n)
        assert result(executor.submit(callables.kept)) == list(range(300))


async def test_it_is_an_executor_of_a_running_loop(executor: PoolExecutor) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        assert await loop.run_in_executor(executor, callables.square, 4) == 16
        both = [loop.run_in_executor(executor, callables.square, n) for n in range(20)]
        assert await asyncio.gather(*both) == [n * n for n in range(20)]


def test_executors_in_a_call_of_an_executor(executor: PoolExecutor) -> None:
    assert result(executor.submit(callables.nested, 4)) == [0, 1, 4, 9]


def test_a_call_back_may_make_the_next_call(executor: PoolExecutor) -> None:
    done: Future[int] = Future()
    first = executor.submit(callables.square, 2)
    first.add_done_callback(
        lambda _: executor.submit(callables.square, 3).add_done_callback(
            lambda second: done.set_result(second.result())
        )
    )
    assert result(done) == 9


def test_as_completed_and_wait(executor: PoolExecutor, tmp_path: Path) -> None:
    held = executor.submit(callables.until, str(tmp_path / "go"), "held")
    quick = [executor.submit(callables.square, n) for n in range(5)]
    done, not_done = wait([held, *quick], PATIENCE, return_when="FIRST_COMPLETED")
    assert held in not_done
    assert done
    (tmp_path / "go").touch()
    assert {result(f) for f in as_completed([held, *quick], PATIENCE)} == {
        "held",
        0,
        1,
        4,
        9,
        16,
    }


# -- what cannot be sent -----------------------------------------------------------------------


def test_what_cannot_be_pickled_fails_alone(executor: PoolExecutor) -> None:
    fine = [executor.submit(callables.square, n) for n in range(5)]
    assert "I stay here" in str(error(executor.submit(callables.give, callables.Unpicklable())))
    assert "lock" in str(error(executor.submit(callables.give, threading.Lock())))
    unloadable = error(executor.submit(callables.give, callables.Unloadable()))
    assert isinstance(unloadable, LookupError)
    came = error(executor.submit(callables.unpicklable))
    assert isinstance(came, TypeError)
    assert "The result of unpicklable, a lock, cannot be sent." in came.__notes__
    assert isinstance(error(executor.submit(callables.Unloadable)), LookupError)
    fine += [executor.submit(callables.square, n) for n in range(5)]
    assert [result(f) for f in fine] == [n * n for n in range(5)] * 2


def test_an_exception_that_cannot_cross_comes_as_data(executor: PoolExecutor) -> None:
    for call, kind in (
        (callables.fail_pickily, "PickyError"),
        (callables.fail_locked, "LockedError"),
    ):
        failed = error(executor.submit(call))
        assert isinstance(failed, JobFailed)
        assert failed.error_type == kind
        assert call.__name__ in failed.traceback
    with pytest.raises(TypeError, match="make one there"):
        raise error(executor.submit(callables.give, executor)) or AssertionError


# -- deaths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "cause"), [(3, Cause.EXIT_CODE), (-signal.SIGKILL, Cause.SIGNAL)]
)
def test_a_death_fails_what_ran_on_that_worker_and_nothing_else(
    executor: PoolExecutor, tmp_path: Path, how: int, cause: Cause
) -> None:
    go = tmp_path / "go"
    held = executor.submit(callables.until, str(go), "held")
    died = executor.submit(callables.die, how)
    later = [executor.submit(callables.square, n) for n in range(20)]

    failed = error(died)
    assert isinstance(failed, CallLostError)
    assert isinstance(failed, WorkerError)
    assert isinstance(failed, BrokenProcessPool)
    assert failed.cause is cause
    assert failed.outcome == "unknown"
    assert [result(f) for f in later] == [n * n for n in range(20)]
    go.touch()
    assert result(held) == "held"


def test_a_crash_in_c_says_where_it_was(
    executor: PoolExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    failed = error(executor.submit(callables.segfault))
    assert isinstance(failed, CallLostError)
    assert failed.signal == "SIGSEGV"
    assert any("in segfault" in line for line in failed.output)
    assert capfd.readouterr() == ("", "")


def test_deaths_do_not_count_as_failed_starts() -> None:
    with PoolExecutor(1) as executor:
        for _ in range(8):  # more than the restart intensity
            assert isinstance(error(executor.submit(callables.die, 1)), CallLostError)
        assert result(executor.submit(callables.square, 5)) == 25


def test_many_deaths_among_many_calls(executor: PoolExecutor) -> None:
    futures = [
        executor.submit(callables.die, 1)
        if n % 25 == 0
        else executor.submit(callables.square, n)
        for n in range(150)
    ]
    for n, future in enumerate(futures):
        if n % 25 == 0:
            assert isinstance(error(future), CallLostError)
        else:
            assert result(future) == n * n


@pytest.mark.needs("proc")
@pytest.mark.parametrize("call", [callables.signalled, callables.hold_interpreter])
def test_a_running_call_can_be_killed(
    executor: PoolExecutor, tmp_path: Path, call: Callable[[str], None]
) -> None:
    running = executor.submit(call, str(tmp_path / "pid"))
    pid = int(written(tmp_path / "pid"))
    assert not running.cancel()
    assert executor.kill(running)
    failed = error(running)
    assert isinstance(failed, CallLostError)
    assert "killed" in str(failed)
    assert poll(lambda: is_gone(pid))
    assert result(executor.submit(callables.square, 2)) == 4
    assert not executor.kill(running)


@pytest.mark.needs("proc")
def test_grandchildren_end_with_a_killed_worker(executor: PoolExecutor, tmp_path: Path) -> None:
    running = executor.submit(callables.grandchild, str(tmp_path / "pid"))
    pid = int(written(tmp_path / "pid"))
    assert not is_gone(pid)
    assert executor.kill(running)
    assert isinstance(error(running), CallLostError)
    assert poll(lambda: is_gone(pid))


def test_a_call_that_forks_answers_once(executor: PoolExecutor) -> None:
    first = result(executor.submit(callables.forked))
    assert first > 0
    assert result(executor.submit(callables.square, 3)) == 9


# -- cancelling and shutting down --------------------------------------------------------------


def test_waiting_calls_are_cancelled(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with PoolExecutor(1) as executor:
        assert result(executor.submit(callables.square, 1)) == 1
        held = executor.submit(callables.until, str(go), "held")
        waiting = [executor.submit(callables.square, n) for n in range(10)]
        assert waiting[-1].cancel()
        with pytest.raises(CancelledError):
            waiting[-1].result()
        executor.shutdown(wait=False, cancel_futures=True)
        go.touch()
        assert result(held) == "held"
        done, not_done = wait(waiting, PATIENCE)
    assert not not_done
    assert sum(f.cancelled() for f in waiting) >= 8
    assert all(f.cancelled() or f.exception() is None for f in done)


def test_what_was_submitted_is_done_after_shutdown(tmp_path: Path) -> None:
    executor = PoolExecutor(2)
    futures = [executor.submit(callables.square, n) for n in range(50)]
    executor.shutdown(wait=True)
    assert [f.result(0) for f in futures] == [n * n for n in range(50)]
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(pow, 2, 2)
    executor.shutdown()
    PoolExecutor(2).shutdown()  # one that was never used


def test_an_executor_that_nobody_has_ends_when_it_is_done() -> None:
    future = PoolExecutor(1).submit(callables.square, 6)
    assert result(future) == 36
    assert poll(lambda: not any("amnode" in t.name for t in threading.enumerate()))


def test_nothing_of_a_call_is_kept(executor: PoolExecutor) -> None:
    class Value:
        pass

    value = Value()
    seen = weakref.ref(value)
    future = executor.submit(callables.give, value)
    came = weakref.ref(result(future))
    del value, future
    assert poll(lambda: seen() is None and came() is None)


# -- initializers, limits ----------------------------------------------------------------------


def test_an_initializer_runs_once_in_each_worker() -> None:
    with PoolExecutor(2, initializer=callables.keep, initargs=("begun",)) as executor:
        found = [result(executor.submit(callables.kept)) for _ in range(10)]
    assert found == [["begun"]] * 10


def test_an_initializer_that_raises_breaks_the_executor() -> None:
    with PoolExecutor(2, initializer=callables.fail_to_begin) as executor:
        failed = error(executor.submit(callables.square, 2))
        assert isinstance(failed, ExecutorBrokenError)
        assert isinstance(failed, BrokenExecutor)
        assert "ValueError: no database" in str(failed)
        with pytest.raises(BrokenProcessPool, match="no database"):
            executor.submit(callables.square, 2)


def test_an_initializer_that_kills_its_worker_breaks_it_too() -> None:
    with PoolExecutor(1, initializer=callables.die, initargs=(4,)) as executor:
        failed = error(executor.submit(callables.square, 2))
        assert isinstance(failed, ExecutorBrokenError)
        assert "exited with code 4" in str(failed)


def test_a_worker_does_so_many_calls_and_no_more() -> None:
    with PoolExecutor(1, max_tasks_per_child=3) as executor:
        pids = [result(executor.submit(callables.pid)) for _ in range(9)]
    assert [len({*pids[k : k + 3]}) for k in (0, 3, 6)] == [1, 1, 1]
    assert len({*pids}) == 3


def test_workers_that_do_one_call_each_lose_none() -> None:
    with PoolExecutor(2, max_tasks_per_child=1) as executor:
        assert list(executor.map(callables.square, range(12))) == [n * n for n in range(12)]


def test_map_makes_no_more_calls_than_its_buffer_holds(executor: PoolExecutor) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(1000):
            taken.append(n)
            yield n

    results = executor.map(callables.square, items(), buffersize=5)
    assert next(results) == 0
    assert len(taken) <= 6
    assert sum(results) == sum(n * n for n in range(1000))


def test_map_ends_at_its_timeout_and_cancels_the_rest(tmp_path: Path) -> None:
    with PoolExecutor(1) as executor:
        go = tmp_path / "go"
        results = executor.map(callables.until, [str(go)] * 5, timeout=0.05)
        with pytest.raises(TimeoutError):
            next(results)
        go.touch()


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
        ({"max_tasks_per_child": 1.5}, TypeError, "max_tasks_per_child must be an integer"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
        ({"mp_context": "fork"}, ValueError, "'forkserver', and an initializer"),
        ({"mp_context": "thread"}, ValueError, "must be a context"),
    ],
)
def test_arguments_that_cannot_work(options: dict[str, Any], kind: type, text: str) -> None:
    with pytest.raises(kind, match=text):
        PoolExecutor(**options)


def test_arguments_of_map_that_cannot_work(executor: PoolExecutor) -> None:
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(callables.square, [1], chunksize=0)
    with pytest.raises(ValueError, match="buffersize must be None or > 0"):
        executor.map(callables.square, [1], buffersize=0)
    with pytest.raises(TypeError, match="buffersize must be an integer or None"):
        executor.map(callables.square, [1], buffersize=1.5)


def test_as_many_workers_as_the_standard_executor() -> None:
    assert PoolExecutor()._max_workers == os.cpu_count()


# -- what a worker has of its program ----------------------------------------------------------


@pytest.mark.parametrize("method", [None, "forkserver", "spawn"])
def test_a_worker_is_what_its_program_is(
    method: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXECUTOR_TEST", "is set")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    context = None if method is None else multiprocessing.get_context(method)
    with PoolExecutor(1, context) as executor:
        found = result(executor.submit(callables.surroundings))
    assert found["cwd"] == str(tmp_path)
    assert str(tmp_path) in found["path"]
    assert found["authkey"] == bytes(multiprocessing.current_process().authkey)
    assert found["env"] == "is set"
    assert found["parent"] == os.getpid()


def test_what_a_call_prints_is_on_the_programs_streams(
    executor: PoolExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    result(executor.submit(callables.say, "on one", "on the other"))
    assert capfd.readouterr() == ("on one", "on the other")
