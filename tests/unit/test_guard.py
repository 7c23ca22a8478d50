"""The guard of the tests, tested: each kind of leak fails the test that made it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import pytest

Reports: TypeAlias = Mapping[str, Mapping[str, str]]

REPOSITORY = Path(__file__).resolve().parents[2]

#: Run in this order, in a session of its own. What is leaked is kept, or it would be collected.
LEAKING = """
import asyncio, os, socket, subprocess, tempfile, threading
from pathlib import Path

import pytest

from tests import conftest, leaks

leaks.PATIENCE = 0.2
conftest._PLATFORM["wings"] = lambda: False
KEPT = []


def test_child():
    KEPT.append(subprocess.Popen(["sleep", "600"]))

def test_clean_after_child():
    subprocess.run(["true"], check=True)

def test_grandchild():
    KEPT.append(subprocess.Popen(["sh", "-c", "sleep 601; true"]))

def test_orphan():
    subprocess.run(["sh", "-c", "sleep 602 >/dev/null 2>&1 &"], check=True)

def test_zombie():
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.returncode = 0  # or the destructor of Popen would reap it

def test_thread():
    threading.Thread(target=threading.Event().wait, name="stray", daemon=True).start()

def test_file():
    KEPT.append(open("/dev/null"))

def test_reopened():
    fd = os.open("/dev/zero", 0)
    os.dup2(fd, KEPT[-1].fileno())  # another file under a number that was open before
    os.close(fd)

def test_socket():
    KEPT.append(socket.socket())

def test_temporary_file():
    tempfile.mkstemp(prefix="stray", dir=None)

def test_temporary_file_of_child():
    subprocess.run(["sh", "-c", 'echo > "$TMPDIR/stray"'], check=True)

async def test_task():
    KEPT.append(asyncio.create_task(asyncio.Event().wait(), name="stray"))

async def test_server():
    path = tempfile.gettempdir() + "/s"
    KEPT.append(await asyncio.start_unix_server(lambda r, w: None, path))
    os.unlink(path)

async def test_connection():
    a, b = socket.socketpair()
    KEPT.append(await asyncio.open_connection(sock=a))
    b.close()

async def test_callback():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)

async def test_task_error():
    async def fail():
        raise ValueError("unheard")

    asyncio.create_task(fail())
    await asyncio.sleep(0)

@pytest.mark.timeout(0.2)
async def test_hanging():
    await asyncio.Event().wait()

@pytest.fixture
async def closing():
    server = await asyncio.start_unix_server(lambda r, w: None, tempfile.gettempdir() + "/s")
    yield
    server.close()
    await server.wait_closed()
    Path(tempfile.gettempdir(), "s").unlink(missing_ok=True)

async def test_clean_async(closing):
    task = asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    task.cancel()

async def test_clean_process():
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    await asyncio.to_thread(int)

def test_clean_dying():
    process = subprocess.Popen(["sh", "-c", "sleep 0.05 & exec true"])
    process.wait()

def test_clean_tmp_path(tmp_path):
    (tmp_path / "x").write_text("")

def test_skipped():
    pytest.skip("no reason")

@pytest.mark.needs("wings")
def test_excused():
    raise AssertionError
"""


def _run(directory: Path, **environ: str) -> Reports:
    """Runs `LEAKING`; of each test what is said, by kind: failure, error, skipped."""
    test, report = directory / "test_leaking.py", directory / "report.xml"
    test.write_text(LEAKING)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:randomly"]
    command += ["-p", "no:cacheprovider", "-c", str(REPOSITORY / "pyproject.toml")]
    command += ["--rootdir", str(directory), f"--junitxml={report}", str(test)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environ},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for case in ElementTree.parse(report).iter("testcase"):  # twice where teardown fails too
        said = found[case.attrib["name"]]
        said |= {part.tag: f"{part.attrib.get('message')}\n{part.text}" for part in case}
    return found


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def reports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Reports:
    return _run(tmp_path_factory.mktemp("leaking"), AM_NODE_TEST_LOOP=request.param, CI="true")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("child", "child): sleep 600"),
        ("grandchild", "orphan or grandchild): sleep 601"),
        pytest.param(
            "orphan", "orphan or grandchild): sleep 602", marks=pytest.mark.needs("proc")
        ),
        ("zombie", "(zombie, child)"),
        ("thread", "thread 'stray' (daemon)"),
        ("file", "descriptor"),
        ("reopened", "descriptor"),
        ("socket", "descriptor"),
        ("temporary_file", "temporary file /tmp/am-"),
        ("temporary_file_of_child", "temporary file /tmp/am-"),
        ("task", "task stray of"),
        ("server", "descriptor"),
        ("connection", "descriptor"),
        ("callback", "ZeroDivisionError"),
        ("task_error", "unheard"),
    ],
)
def test_a_leak_fails_its_test_and_is_named(reports: Reports, name: str, said: str) -> None:
    assert said in reports[f"test_{name}"]["error"]


def test_a_test_that_hangs_is_ended(reports: Reports) -> None:
    """Each loop has its way to swallow what pytest-timeout raises in a signal handler."""
    assert "Timeout (>0.2s)" in reports["test_hanging"]["failure"]


def test_clean_tests_pass(reports: Reports) -> None:
    clean = {name: said for name, said in reports.items() if name.startswith("test_clean")}
    assert len(clean) == 5
    assert not any(clean.values()), clean


def test_a_skip_is_a_failure_unless_the_platform_lacks_something(
    reports: Reports,
) -> None:
    assert "failure" in reports["test_skipped"]
    assert set(reports["test_excused"]) == {"skipped"}
