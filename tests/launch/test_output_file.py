"""The output of a process is limited, and what a process puts in its place is not touched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from amnode.launch import output_file
from amnode.launch.output_file import TAIL_BYTES, OutputFile, open_output

LIMIT = 4000


class Written:
    """A file that a process writes to."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self.path = path
        with ExitStack() as undo:
            self.descriptor = open_output(path, undo)
            undo.pop_all()
        self.file = OutputFile.opened(path, self.descriptor, limit)

    def write(self, text: str) -> None:
        os.write(self.descriptor, text.encode())


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Callable[..., Written]]:
    made: list[Written] = []

    def make(limit: int = LIMIT) -> Written:
        made.append(Written(tmp_path / "output", limit))
        return made[-1]

    yield make
    for written in made:
        os.close(written.descriptor)


def lines(first: int, last: int) -> str:
    return "".join(f"line {number}\n" for number in range(first, last))


def test_a_file_within_its_limit_is_not_cut(new: Callable[..., Written]) -> None:
    written = new()
    written.write("x" * LIMIT)
    assert not written.file.cut()
    assert written.path.read_text() == "x" * LIMIT


@pytest.fixture(params=["in place", "written again"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Systems that take bytes out of a file, and such that do not."""
    if request.param == "written again":
        monkeypatch.setattr(output_file, "_take_out", lambda descriptor, length: False)
    return request.param


def test_a_file_past_its_limit_is_cut_to_its_last_part(
    new: Callable[..., Written], way: str
) -> None:
    written = new()
    written.write(lines(0, 1000))
    assert written.file.cut()
    kept = lines(0, 1000)[-LIMIT // 4 :].partition("\n")[2]
    assert written.path.read_text().lstrip("\0") == kept
    assert written.path.stat().st_blocks * 512 <= 2 * 4096
    written.write("what comes next\n")  # as the process goes on
    assert written.path.read_text().lstrip("\0") == kept + "what comes next\n"
    assert written.file.tail(2) == ("line 999", "what comes next")
    assert written.file.tail(1000) == (*kept.splitlines(), "what comes next")
    assert not written.file.cut()
    written.write(lines(1000, 2000))
    assert written.file.cut()
    assert written.file.tail(1) == ("line 1999",)
    assert written.path.stat().st_blocks * 512 <= 2 * 4096


def test_one_that_its_process_emptied_is_cut_again(
    new: Callable[..., Written], way: str
) -> None:
    written = new()
    written.write(lines(0, 1000))
    assert written.file.cut()
    os.truncate(written.path, 0)
    assert not written.file.cut()
    written.write("x\n" * LIMIT)
    assert written.file.cut()
    assert written.file.tail(10000) == ("x",) * ((LIMIT // 4 - 1) // 2)


def test_a_line_longer_than_what_is_kept_is_cut(new: Callable[..., Written], way: str) -> None:
    written = new()
    written.write("x" * 10 * LIMIT)
    assert written.file.cut()
    assert written.path.read_text().lstrip("\0") == "x" * (LIMIT // 4)


def test_what_was_there_before_belongs_to_nobody_after_a_cut(
    new: Callable[..., Written],
) -> None:
    new().write("of the first\n")
    written = new()
    assert written.file.tail(5) == ()
    written.write(lines(0, 1000))
    assert written.file.cut()
    written.write("short\n")
    assert written.file.tail(1) == ("short",)
    assert "of the first" not in written.file.tail(1000)


@pytest.mark.parametrize("limit", [0, LIMIT])
def test_without_a_limit_it_grows(new: Callable[..., Written], limit: int) -> None:
    written = new(limit)
    written.write("x" * (LIMIT + 1))
    assert written.file.cut() is bool(limit)


def test_a_cut_keeps_no_more_than_the_loop_can_write_at_once(
    new: Callable[..., Written], way: str
) -> None:
    written = new(8 * 1024 * 1024)
    for _ in range(9):
        written.write("x" * 1024 * 1024)
    assert written.file.cut()
    assert len(written.path.read_bytes().lstrip(b"\0")) == 1024 * 1024


@pytest.mark.parametrize("instead", ["link", "fifo", "other", "nothing", "directory"])
def test_what_is_in_its_place_is_not_cut(
    new: Callable[..., Written], tmp_path: Path, instead: str
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("x" * 10 * LIMIT)
    written = new()
    written.path.unlink()
    if instead == "link":
        written.path.symlink_to(precious)
    elif instead == "fifo":
        os.mkfifo(written.path)
    elif instead == "other":
        written.path.hardlink_to(precious)
    elif instead == "directory":
        written.path.mkdir()
    assert not written.file.cut()
    assert precious.read_text() == "x" * 10 * LIMIT


def test_what_was_written_since(new: Callable[..., Written]) -> None:
    written = new()
    written.write("before\n")
    position = written.file.end()
    assert written.file.since(position, 5) == ()
    written.write("one\ntwo\n")
    assert written.file.since(position, 5) == ("one", "two")
    assert written.file.since(position, 1) == ("two",)
    assert written.file.tail(5) == ("before", "one", "two")
    written.write("x" * TAIL_BYTES + "\nend\n")
    assert written.file.since(position, 5) == ("end",)


def test_of_a_file_that_is_gone_there_is_nothing(tmp_path: Path) -> None:
    file = OutputFile(tmp_path / "absent", limit=1)
    assert (file.end(), file.tail(5), file.since(0, 5), file.cut()) == (0, (), (), False)


def test_what_is_made_in_vain_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "output"
    with ExitStack() as undo:
        os.close(open_output(path, undo))
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()
    path.touch()
    with ExitStack() as undo:
        os.close(open_output(path, undo))
    assert path.exists()
