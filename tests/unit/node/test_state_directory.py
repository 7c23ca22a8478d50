"""A state directory is for one owner and one supervisor, and says what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from amnode.errors import StateDirectoryError
from amnode.node.policy.adopt_records import WorkerRecord
from amnode.node.state_directory import StateDirectory


def _record(name: str = "nw-a-1", **more: object) -> WorkerRecord:
    return WorkerRecord(worker_id=name, kind="a", secret=b"s" * 32, **more)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def _open(path: Path) -> StateDirectory:
    return StateDirectory(str(path))


def test_it_is_made_for_its_owner_alone(path: Path) -> None:
    state = _open(path)
    state.write(_record())
    assert path.stat().st_mode & 0o777 == 0o700
    assert {f.name: f.stat().st_mode & 0o777 for f in path.iterdir()} == {
        "lock": 0o600,
        "generation": 0o600,
        "nw-a-1.worker": 0o600,
    }
    state.close()
    state.close()


def test_each_start_is_a_generation_and_finds_what_the_last_one_left(path: Path) -> None:
    state = _open(path)
    assert state.generation == 1 and state.records() == []
    state.write(_record("nw-b-1"))
    state.write(_record())
    state.write(_record(pid=7, address="unix:/x"))
    state.close()
    state = _open(path)
    assert state.generation == 2
    assert state.records() == [_record(pid=7, address="unix:/x"), _record("nw-b-1")]
    state.forget("nw-a-1")
    state.forget("nw-a-1")
    assert state.records() == [_record("nw-b-1")]
    state.close()


def test_one_supervisor_at_a_time_has_it(path: Path) -> None:
    state = _open(path)
    with pytest.raises(StateDirectoryError, match="in use by another supervisor"):
        _open(path)
    assert path.joinpath("generation").read_bytes() == b"1\n"
    state.close()
    _open(path).close()


def test_what_was_half_written_is_of_no_account(path: Path) -> None:
    state = _open(path)
    path.joinpath("nw-a-1.worker.new").write_bytes(b"half")
    assert state.records() == []
    assert not path.joinpath("nw-a-1.worker.new").exists()
    state.close()


def _link_directory(path: Path) -> None:
    path.parent.joinpath("real").mkdir(mode=0o700)
    path.symlink_to(path.parent / "real")


def _open_directory(path: Path) -> None:
    path.mkdir()
    path.chmod(0o750)


def _file(path: Path) -> None:
    path.touch(0o600)


def _no_parent(path: Path) -> None:
    path.parent.rmdir()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_link_directory, "symbolic link is refused"),
        (_open_directory, "open to others .mode 750"),
        (_file, "is no directory"),
        (_no_parent, "cannot be made"),
    ],
)
def test_a_directory_that_is_not_safe_is_refused(
    path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    spoil(path)
    with pytest.raises(StateDirectoryError, match=why):
        _open(path)


@pytest.mark.parametrize("name", ["lock", "generation", "nw-a-1.worker"])
@pytest.mark.parametrize("how", ["link", "open", "directory", "fifo"])
def test_a_file_that_is_not_safe_is_refused_by_name(path: Path, name: str, how: str) -> None:
    _open(path).close()
    file = path / name
    file.unlink(missing_ok=True)
    if how == "link":
        path.parent.joinpath("real").touch(0o600)
        file.symlink_to(path.parent / "real")
    elif how == "open":
        file.touch()
        file.chmod(0o644)
    elif how == "directory":
        file.mkdir(mode=0o700)
    else:
        os.mkfifo(file, 0o600)
    with pytest.raises(StateDirectoryError, match=name):
        state = _open(path)
        try:
            state.records()
        finally:
            state.close()


@pytest.mark.parametrize("data", [b"{}", b"x" * 70_000, b""])
def test_garbage_is_refused_by_name(path: Path, data: bytes) -> None:
    state = _open(path)
    path.joinpath("nw-a-1.worker").touch(0o600)
    path.joinpath("nw-a-1.worker").write_bytes(data)
    with pytest.raises(StateDirectoryError, match=r"nw-a-1\.worker cannot be used"):
        state.records()
    state.close()


def test_a_record_under_another_name_is_refused(path: Path) -> None:
    state = _open(path)
    state.write(_record())
    path.joinpath("nw-a-1.worker").rename(path / "nw-b-1.worker")
    with pytest.raises(StateDirectoryError, match="record of nw-a-1"):
        state.records()
    state.close()


def test_garbage_in_the_generation_lets_go_of_the_lock(path: Path) -> None:
    _open(path).close()
    path.joinpath("generation").write_bytes(b"many")
    for _ in range(2):
        with pytest.raises(StateDirectoryError, match="no number of starts"):
            _open(path)


def test_what_cannot_be_written_says_so_and_leaves_the_old_one(path: Path) -> None:
    state = _open(path)
    path.joinpath("nw-a-1.worker").mkdir(mode=0o700)
    with pytest.raises(StateDirectoryError, match=r"nw-a-1\.worker .*cannot be written"):
        state.write(_record())
    assert not path.joinpath("nw-a-1.worker.new").exists()
    state.close()


def test_a_foreign_owner_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _open(path).close()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(StateDirectoryError, match=f"belongs to user {owner}"):
        _open(path)
