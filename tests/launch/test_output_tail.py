"""A tail gives each whole line once, in order, whatever happens to the file meanwhile."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from amnode.launch.output_file import TAIL_BYTES, read_since
from amnode.node.output_tail import Tail


def test_lines_are_given_when_they_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("one\ntwo\nthr")
    tail = Tail(lambda: file, 10)
    assert tail.read(ended=False) == ("one", "two")
    assert tail.read(ended=False) == ()
    with file.open("a") as out:
        out.write("ee\nfour")
    assert tail.read(ended=False) == ("three",)
    assert tail.read(ended=True) == ("four",)
    assert tail.read(ended=True) == ()


def test_only_the_last_of_those_that_are_there(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("one\ntwo\nthree\n")
    assert Tail(lambda: file, 2).read(ended=False) == ("two", "three")
    nothing = Tail(lambda: file, 0)
    assert nothing.read(ended=False) == ()
    with file.open("a") as out:
        out.write("four\n")
    assert nothing.read(ended=False) == ("four",)


def test_of_much_output_the_first_line_is_a_whole_one(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("".join(f"line {n}\n" for n in range(20_000)))
    lines = Tail(lambda: file, 1_000_000).read(ended=True)
    assert lines[-1] == "line 19999" and lines[0] == f"line {20_000 - len(lines)}"


def test_a_line_without_end_is_cut_and_not_kept_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"")
    tail = Tail(lambda: file, 0)
    file.write_bytes(b"x" * 3 * TAIL_BYTES)
    assert [len(tail.read(ended=False)) for _ in range(3)] == [0, 1, 1]


def test_a_file_that_is_gone_or_was_emptied(tmp_path: Path) -> None:
    file = tmp_path / "log"
    tail = Tail(lambda: file, 10)
    assert tail.read(ended=True) == ()
    file.write_text("a line that is long\n")
    assert tail.read(ended=False) == ("a line that is long",)
    file.write_text("new\n")
    assert tail.read(ended=False) == ("new",)


def test_what_was_taken_out_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with file.open("wb") as out:
        out.truncate(1 << 20)
        out.seek(1 << 20)
        out.write(b"after the hole\n")
    data, end = read_since(file, 0)
    assert data.strip(b"\0") == b"after the hole\n" and end == (1 << 20) + 15


@given(st.lists(st.sampled_from(["a", "b\n", "\n", "cc\ndd"]), max_size=12))
def test_nothing_is_lost_or_doubled(pieces: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "log"
        file.touch()
        tail, found = Tail(lambda: file, 1_000), []
        for piece in pieces:
            with file.open("a") as out:
                out.write(piece)
            found += tail.read(ended=False)
        found += tail.read(ended=True)
    assert found == "".join(pieces).splitlines()
