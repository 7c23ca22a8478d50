"""What descends from a process is found and ended, and nothing else is."""

from __future__ import annotations

import os
import resource
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from amnode.launch import reaper
from amnode.launch.reaper import (
    Reaper,
    become_subreaper,
    children_of,
    end_descendants,
    has_ended,
    parent_of,
    send,
    state_of,
)

pytestmark = [pytest.mark.needs("pidfd"), pytest.mark.needs("proc")]


class Tree:
    """A child that has children of its own, as many and as deep as is wanted."""

    def __init__(self, depth: int, width: int) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            become_subreaper()  # as a worker is one
            _grow(depth, width, writing)
        os.close(writing)
        self.reading = reading
        count = sum(width**level for level in range(depth + 1))
        for _ in range(count):  # each says that it is there
            assert os.read(reading, 1) == b"."

    def below(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def end(self) -> None:
        """Ends it; says which below it were not ended."""
        left = [process for process in self.below() if not dies(process.pid)]
        for process in left:
            process.kill()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.reading)
        assert not left


def dies(pid: int) -> bool:
    """Whether a process that was sent a signal ends, or has ended; not whether it is reaped."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10.0)[0])
    finally:
        os.close(descriptor)


def _grow(depth: int, width: int, writing: int) -> None:
    """Never returns; every process leads a session, so that no group reaches it."""
    os.setsid()
    for _ in range(width if depth else 0):
        if os.fork() == 0:
            _grow(depth - 1, width, writing)
    os.write(writing, b".")
    while True:
        signal.pause()


@pytest.fixture
def tree() -> Iterator[Tree]:
    found = Tree(depth=3, width=2)
    yield found
    found.end()


# -- finding ---------------------------------------------------------------------------------


def test_children_are_found(tree: Tree) -> None:
    assert tree.pid in children_of(os.getpid())
    expected = [child.pid for child in psutil.Process(tree.pid).children()]
    assert sorted(children_of(tree.pid)) == sorted(expected) and len(expected) == 2
    end_descendants(tree.pid)


def test_children_are_found_where_the_kernel_keeps_no_lists(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sorted(children_of(tree.pid))
    read = reaper._read

    def without_lists(path: str) -> bytes:
        if path.endswith("/children"):
            raise FileNotFoundError(path)
        return read(path)

    monkeypatch.setattr(reaper, "_read", without_lists)
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert sorted(children_of(tree.pid)) == expected
    end_descendants(tree.pid)
    assert all(dies(pid) for pid in expected)


def test_of_one_that_is_gone_there_is_nothing() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    descriptor = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    assert (children_of(pid), parent_of(pid), state_of(pid)) == ([], 0, "")
    assert has_ended(descriptor) and send(descriptor, signal.SIGKILL) is False
    end_descendants(pid)
    os.close(descriptor)


def test_a_name_that_looks_like_more_changes_nothing() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open("/proc/self/comm", "w") as comm:  # noqa: PTH123 - a child of a fork
            comm.write("x) Z 1 1 (y")
        os.write(writing, b".")
        signal.pause()
    assert os.read(reading, 1) == b"."
    assert psutil.Process(pid).name() == "x) Z 1 1 (y"
    assert (parent_of(pid), state_of(pid) in "RS") == (os.getpid(), True)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reading)
    os.close(writing)


# -- ending ----------------------------------------------------------------------------------


def test_everything_below_it_is_ended_and_nothing_else(tree: Tree) -> None:
    other = Tree(depth=1, width=1)
    below = tree.below()
    assert len(below) == 14
    end_descendants(tree.pid)
    assert all(dies(process.pid) for process in below)
    assert state_of(tree.pid) in ("R", "S"), "the process itself goes on"
    assert [state_of(p.pid) in ("R", "S") for p in other.below()] == [True]
    end_descendants(other.pid)
    other.end()


@pytest.mark.parametrize("left", [2, 3, 4, 7])
def test_with_few_descriptors_all_are_ended_in_the_end(tree: Tree, left: int) -> None:
    below = [process.pid for process in tree.below()]
    with _descriptors_left(left):
        while any(state_of(pid) not in ("Z", "") for pid in below):
            end_descendants(tree.pid)


def test_where_not_one_can_be_held_it_is_told(tree: Tree) -> None:
    with _descriptors_left(1), pytest.raises(OSError, match="Too many open files"):
        end_descendants(tree.pid)
    end_descendants(tree.pid)


@contextmanager
def _descriptors_left(count: int) -> Iterator[None]:
    """Only so many can be opened meanwhile, wherever there are gaps among those that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open("/dev/null", os.O_RDONLY)]
    highest = max(int(name) for name in os.listdir("/dev/fd"))  # noqa: PTH208 - numbers
    while taken[-1] < highest:
        taken.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def test_a_child_of_somebody_else_is_not_taken_for_one(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number that was listed may belong to another process a moment later."""
    stranger = Tree(depth=0, width=0)
    listed = children_of

    def with_stranger(pid: int) -> list[int]:
        return [*listed(pid), stranger.pid] if pid == tree.pid else listed(pid)

    monkeypatch.setattr(reaper, "children_of", with_stranger)
    end_descendants(tree.pid)
    assert state_of(stranger.pid) in ("R", "S")
    stranger.end()


def test_where_there_is_no_pidfd_nothing_is_sent(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(os, "pidfd_open")
        end_descendants(tree.pid)
    assert all(state_of(process.pid) in ("R", "S") for process in tree.below())
    end_descendants(tree.pid)


# -- a fork server's -------------------------------------------------------------------------


def test_an_orphan_that_may_not_be_ended_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Reaper()
    asked: list[int] = []

    def kill(pid: int, number: int) -> None:
        asked.append(pid)
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(reaper, "children_of", lambda pid: [12345])
    assert found.has_children
    assert (found.reap(), asked) == ([], [12345])
    assert not found.has_children, "who waits for the last child waits for ever otherwise"
    assert (found.reap(), asked) == ([], [12345])


def test_where_there_are_no_subreapers_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper.sys, "platform", "darwin")
    assert become_subreaper() is False
