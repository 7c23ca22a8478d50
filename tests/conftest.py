"""What holds for every test: its loop, its temporary directory, and that it leaves nothing.

- Tests run on uvloop where it exists; `AM_NODE_TEST_LOOP=asyncio` selects the standard loop.
- A test that leaves a process, task, thread, socket, descriptor or temporary file fails, and
  says what it left. Whatever has to be closed belongs to the test or a fixture of function
  scope: the guard knows no wider one.
- `@pytest.mark.needs("pidfd")` skips a test where the platform lacks the thing. With CI=true
  in the environment every other skip is a failure.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from tests import leaks

# -- the loop ------------------------------------------------------------------------------


def _loop_factory() -> tuple[str, Callable[[], asyncio.AbstractEventLoop]]:
    wanted = os.environ.get("AM_NODE_TEST_LOOP", "uvloop")
    if wanted not in ("uvloop", "asyncio"):
        raise pytest.UsageError(f"AM_NODE_TEST_LOOP is {wanted!r}; it is uvloop or asyncio.")
    if wanted == "uvloop":
        try:
            import uvloop

            return "uvloop", uvloop.new_event_loop
        except ImportError:  # no uvloop for this platform
            pass
    return "asyncio", asyncio.new_event_loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return dict([_loop_factory()])


def pytest_report_header(config: pytest.Config) -> str:
    return f"event loop: {_loop_factory()[0]}"


# -- nothing is left -----------------------------------------------------------------------


def pytest_collection_finish(session: pytest.Session) -> None:
    # Each test is followed by a collection; what all of them share need not be looked at.
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    leaks.set_cookie()
    # A process that belongs to this one, and that some tests would be the first to need.
    resource_tracker.ensure_running()
    # The first loop opens what belongs to the process, such as libuv's signal pipe.
    for new_loop in (_loop_factory()[1], asyncio.new_event_loop):
        new_loop().close()


@pytest.fixture(scope="session", autouse=True)
def _base_of_tmp_path(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Settles where pytest's own temporary files go before a test changes TMPDIR."""
    tmp_path_factory.getbasetemp()


@pytest.fixture(autouse=True)
def leak_guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Fails a test that leaves something. Set up first, so that it looks last: after the loop.

    Gives the list of what others find while the test is taken down.
    """
    # Short, since the path of a Unix socket has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp" if os.name == "posix" else None))
    monkeypatch.setenv("TMPDIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    before = leaks.Before()
    found: list[str] = []
    yield found
    found += before.leaks() + leaks.left_files(directory)
    shutil.rmtree(directory, ignore_errors=True)
    if found:
        pytest.fail("\n  ".join(["the test left behind:", *found]), pytrace=False)


@pytest.fixture
async def running_loop() -> asyncio.AbstractEventLoop:
    """The loop of the test."""
    return asyncio.get_running_loop()


@pytest.fixture(autouse=True)
def loop_guard(
    leak_guard: list[str], running_loop: asyncio.AbstractEventLoop
) -> Iterator[None]:
    """Looks before the loop closes, which would cancel tasks and close sockets by itself.

    What raises in a callback of the loop, where nobody can catch it, fails the test too.
    """

    def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        error = context.get("exception")
        if isinstance(error, pytest.fail.Exception):
            # The time is up: pytest-timeout raises in a signal handler, which uvloop takes
            # for one of its callbacks. Cancelling shows where each task was.
            for task in asyncio.all_tasks(loop):
                task.cancel(str(error))
        else:
            leak_guard.append(f"an error that nobody caught: {context['message']}: {error!r}")

    running_loop.set_exception_handler(on_error)
    before = leaks.InLoop(running_loop)
    yield
    leak_guard += before.leaks()

    # What the loop has to close for the test it reports by warning, and uvloop never returns
    # where the warning raises. Both settings last to the end of this test's teardown.
    warnings.simplefilter("always", ResourceWarning)
    warnings.showwarning = lambda message, *_: leak_guard.append(f"closed late: {message}")


# -- skipped is failed, where it counts ----------------------------------------------------


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


_PLATFORM: dict[str, Callable[[], bool]] = {
    "pidfd": _has_pidfd,
    "proc": Path("/proc/self/environ").exists,
    "IPv6 on loopback": _has_ipv6,
}
_LACKS = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for thing in mark.args:
            if not _PLATFORM[thing]():
                item.stash[_LACKS] = True
                pytest.skip(f"this platform has no {thing}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not item.stash.get(_LACKS, False) and not hasattr(report, "wasxfail"):
        _no_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _no_skip(report)
    return report


def _no_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and os.environ.get("CI", "").lower() in ("1", "true"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure where CI is true: {report.longrepr}"
