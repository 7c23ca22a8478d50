"""The directory of a supervisor goes with it, or with the last worker that outlives it."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amnode.node import private_directory


@pytest.fixture
def abandoned() -> Path:
    """A directory of two workers, whose supervisor is dead."""
    path, lock = private_directory.create()
    os.close(lock)
    for name in ("a", "b"):
        Path(path, f"{name}.log").touch()
    return Path(path)


@pytest.fixture
def held() -> Iterator[Path]:
    """The directory of one worker, whose supervisor lives."""
    path, lock = private_directory.create()
    Path(path, "a.log").touch()
    yield Path(path)
    os.close(lock)
    private_directory.remove(path)


def test_it_is_for_its_user_alone() -> None:
    path, lock = private_directory.create()
    assert Path(path).stat().st_mode & 0o777 == 0o700
    os.close(lock)
    private_directory.remove(path)
    assert not Path(path).exists()


def test_the_last_worker_removes_it(abandoned: Path) -> None:
    assert not private_directory.remove_abandoned(str(abandoned), "a")
    assert abandoned.exists()
    assert private_directory.remove_abandoned(str(abandoned), "b")
    assert not abandoned.exists()


def test_one_that_is_gone_is_gone(abandoned: Path) -> None:
    private_directory.remove(str(abandoned))
    assert private_directory.remove_abandoned(str(abandoned), "a")


def test_while_its_supervisor_lives_it_stays(held: Path) -> None:
    assert not private_directory.remove_abandoned(str(held), "a")
    assert held.exists()


def test_two_workers_at_the_same_time_leave_nothing(
    abandoned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one ends while the first has looked around and still holds the lock."""
    second = threading.Thread(
        target=private_directory.remove_abandoned, args=(str(abandoned), "b")
    )
    tried = threading.Event()
    flock, listdir = fcntl.flock, os.listdir

    def flock_of(file: int, how: int) -> None:
        if threading.current_thread() is not second:
            flock(file, how)
        elif how & fcntl.LOCK_NB:
            try:
                flock(file, how)
            finally:
                tried.set()
        else:
            tried.set()
            flock(file, how)

    def listdir_of(path: Any) -> list[str]:
        found = listdir(path)
        if threading.current_thread() is not second and second.ident is None:
            assert "b.log" in found
            second.start()
            assert tried.wait(10)
        return found

    monkeypatch.setattr(fcntl, "flock", flock_of)
    monkeypatch.setattr(os, "listdir", listdir_of)
    private_directory.remove_abandoned(str(abandoned), "a")
    assert second.ident is not None, "It looks around in another way now: change the test."
    second.join()
    assert not abandoned.exists()
