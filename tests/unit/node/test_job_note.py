"""A job note says which job runs and how far it is; who reads it takes nothing for granted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amnode import Progress
from amnode.node.job_note import SIZE, JobNote, read_note


def test_what_is_written_is_read() -> None:
    page = bytearray(SIZE)
    note = JobNote(page)
    assert read_note(bytes(page)) == ("", None)
    note.begin("square")
    assert read_note(bytes(page)) == ("square", None)
    note.progress(Progress(1, 4, "a quarter"))
    assert read_note(bytes(page)) == ("square", Progress(1, 4, "a quarter"))
    note.begin("cube")
    assert read_note(bytes(page)) == ("cube", None)
    note.end()
    assert read_note(bytes(page)) == ("", None)


def test_what_is_too_long_is_cut() -> None:
    page = bytearray(SIZE)
    note = JobNote(page)
    note.begin("j" * 1000)
    note.progress(Progress(1, 2, "\N{SNOWMAN}" * 1000))
    assert read_note(bytes(page)) == ("j" * 255, Progress(1, 2))


@given(st.binary(max_size=SIZE + 1))
def test_any_page_can_be_read(page: bytes) -> None:
    for given_page in (page, page[:SIZE].ljust(SIZE, b"\xff")):
        name, progress = read_note(given_page)
        assert isinstance(name, str) and (progress is None or isinstance(progress, Progress))


def test_garbage_for_progress_is_none() -> None:
    page = bytearray(SIZE)
    JobNote(page).begin("square")
    page[256:260] = b"\0\2\xc1\xc1"
    assert read_note(bytes(page)) == ("square", None)
