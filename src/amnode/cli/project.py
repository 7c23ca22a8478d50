"""Project: the files of a new project, as text: a typed worker, its test, its supervisor.

Pure: from a name to files. `new` writes them.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping

import msgspec

from amnode.errors import OptionError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,47}\Z")

#: Names that something else already has where the project's package would be imported.
_TAKEN = frozenset((*sys.stdlib_module_names, "amnode", "tests", "pytest"))


class Project(msgspec.Struct, frozen=True):
    """What the things in a new project are called.

    Attributes:
        name: of the project and its directory.
        package: of the Python package.
        worker: of the Worker class.
    """

    name: str
    package: str
    worker: str

    @classmethod
    def named(cls, name: str) -> Project:
        """What things are called in a project of this name.

        Raises:
            OptionError: the name cannot be that of a Python package; says what to change.
        """
        if not _NAME.match(name):
            raise OptionError(
                f"{name!r} cannot be the name of a project: use a letter, then up to 47 "
                "letters, digits, dashes and underscores."
            )
        package = name.lower().replace("-", "_")
        if keyword.iskeyword(package) or package in _TAKEN:
            raise OptionError(
                f"A Python package {package!r} would hide the one that has this name already; "
                f"choose another, such as {name}-worker."
            )
        words = re.split(r"[-_]+", name)
        worker = "".join(word[:1].upper() + word[1:] for word in words)
        return cls(name, package, worker)

    def files(self) -> Mapping[str, str]:
        """The text of each file, by its path in the project."""
        return {
            path.replace("PACKAGE", self.package): self._fill(text)
            for path, text in _FILES.items()
        }

    def _fill(self, text: str) -> str:
        for mark, value in (
            ("PROJECT", self.name),
            ("PACKAGE", self.package),
            ("WORKER", self.worker),
        ):
            text = text.replace(mark, value)
        return text.lstrip("\n")


_WORKER = '''
"""The worker: what runs in each process of the pool, and what it keeps there."""

from amnode import Worker, job


class WORKER(Worker):
    """Keeps notes for whoever has leased it.

    Each worker is a process of its own and serves one client at a time, so what is on `self`
    is that client's alone until its lease ends.
    """

    def __init__(self) -> None:
        super().__init__()
        # What each worker needs for itself: connections, models, a program that it drives.
        self._notes: list[str] = []

    @job
    async def note(self, text: str) -> int:
        """Keeps a note; returns how many there are."""
        self._notes.append(text)
        return len(self._notes)

    @job
    async def longest(self) -> str:
        """The longest note."""
        if not self._notes:
            raise LookupError("There are no notes yet.")
        return max(self._notes, key=len)

    async def on_release(self) -> None:
        """Clears what a client left, so that this worker can serve the next one."""
        self._notes.clear()
'''

_TEST = '''
"""The worker at work, in processes of its own, as in production.

Without `processes=True` workers run in the test itself, where a debugger can stop them.
"""

from collections.abc import AsyncIterator

import pytest
from amnode import JobArgumentsError, WorkerError
from amnode.testing import Running, running

from PACKAGE.worker import WORKER

Pool = Running[WORKER]


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    async with running(WORKER, processes=True) as pool:
        yield pool


async def test_a_worker_keeps_its_state_between_calls(pool: Pool) -> None:
    async with pool.lease() as worker:
        assert await worker.call(WORKER.note, "milk") == 1
        assert await worker.call(WORKER.note, "bread and butter") == 2
        assert await worker.call(WORKER.longest) == "bread and butter"


async def test_nothing_is_left_for_the_next_client(pool: Pool) -> None:
    for _ in range(2):
        async with pool.lease() as worker:
            assert await worker.call(WORKER.note, "mine") == 1


async def test_a_job_that_raises_raises_here(pool: Pool) -> None:
    async with pool.lease() as worker:
        with pytest.raises(LookupError, match="There are no notes yet"):
            await worker.call(WORKER.longest)


async def test_arguments_are_checked_before_anything_runs(pool: Pool) -> None:
    async with pool.lease() as worker:
        with pytest.raises(JobArgumentsError, match="text"):
            await worker.call(WORKER.note, 7)  # type: ignore[arg-type]


async def test_a_worker_that_is_killed_is_replaced(pool: Pool) -> None:
    async with pool.lease() as worker:
        await pool.kill(worker)
        with pytest.raises(WorkerError, match="SIGKILL"):
            await worker.call(WORKER.note, "hello?")
    async with pool.lease() as other:
        assert other.id != worker.id
        assert await other.call(WORKER.note, "hello") == 1
'''

_PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "PROJECT"
version = "0.1.0"
description = "A pool of WORKER workers."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["amnode[cli]"]

[project.optional-dependencies]
dev = ["pytest>=8", "pytest-asyncio>=1"]

[tool.hatch.build.targets.wheel]
packages = ["PACKAGE"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
asyncio_mode = "auto"
asyncio_default_fixture_loop_scope = "function"
filterwarnings = ["error"]
"""

_SUPERVISOR = """
# The pool: `amnode up` in this directory runs it. Paths are taken from this directory.

worker = "PACKAGE.worker:WORKER"
name = "PROJECT" # by which `amnode ps --at PROJECT` and the like find it
public_addr = "unix:clients.sock" # where programs connect
token_file = "clients.token" # by which they prove themselves; made if it is not there
# state_dir = "state" # with it, workers outlive a supervisor that is started again

[size]
min = 2 # the pool is ready with so many workers
max = 10 # and never has more
warm = 2 # so many are kept idle beside those in use

[options]
story = 100 # `amnode inspect` shows what the supervisor did last
# max_jobs = 1000 # a worker is replaced after so many jobs
# max_rss = 500_000_000 # or when it has become so large, in bytes
"""

_CLIENT = '''
"""A program that uses the pool: `python -m PACKAGE`, while `amnode up` runs."""

import asyncio
import sys
from pathlib import Path

from amnode import Client, ConnectionLost

from PACKAGE.worker import WORKER

HERE = Path(__file__).parents[1]


async def main(texts: list[str]) -> None:
    token = (HERE / "clients.token").read_bytes().strip()
    address = f"unix:{HERE / 'clients.sock'}"
    async with (
        Client("example", WORKER, addrs=[address], token=token) as client,
        client.lease() as worker,  # ours until the end, with all that it keeps
    ):
        for text in texts:
            print(await worker.call(WORKER.note, text), text)
        print("the longest:", await worker.call(WORKER.longest))


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1:] or ["milk", "bread and butter", "salt"]))
    except (FileNotFoundError, ConnectionLost):
        sys.exit("There is no pool here: run `amnode up` in another terminal.")
'''

_README = """
# PROJECT

A pool of `WORKER` workers, on [amnode](https://pypi.org/project/amnode/): warm processes, each
leased to one client at a time, watched, and replaced when they die.

| file | what it is |
|---|---|
| `PACKAGE/worker.py` | the worker: its jobs, and the state that it keeps |
| `PACKAGE/__main__.py` | a program that uses the pool |
| `tests/test_worker.py` | its test, with real processes |
| `amnode.toml` | the supervisor: how many workers, and how they are treated |

## First

    python3 -m venv .venv && . .venv/bin/activate
    pip install -e '.[dev]'
    pytest

## Then

    amnode doctor        # what this machine offers, and what it lacks
    amnode up            # runs the pool, until Ctrl-C

and in another terminal, in this directory:

    python -m PACKAGE
    amnode call note hello
    amnode ps            # who has which worker; live: amnode top
    amnode inspect       # what the supervisor does, and why; a worker: amnode inspect 1
    amnode crashes       # who died, and of what
    amnode stop

Each `amnode call` has a worker to itself for that one call, so `amnode call longest` finds no
notes: what a worker keeps is for the one who has it, and `on_release` clears it.
"""

_IGNORED = """
.venv/
__pycache__/
.pytest_cache/
*.egg-info/
dist/
clients.*
state/
"""

_FILES = {
    "PACKAGE/__init__.py": '"""A pool of WORKER workers."""\n',
    "PACKAGE/__main__.py": _CLIENT,
    "PACKAGE/worker.py": _WORKER,
    "tests/test_worker.py": _TEST,
    "amnode.toml": _SUPERVISOR,
    "pyproject.toml": _PYPROJECT,
    "README.md": _README,
    ".gitignore": _IGNORED,
}
