"""A bar shows what the job says, and its lack says what to install."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from amnode import OptionError, Progress, progress_bar


def test_it_shows_the_newest_and_the_note() -> None:
    out = io.StringIO()
    with progress_bar("Counting", console=Console(file=out, width=100)) as bar:
        bar(Progress(3, 10))
        bar(Progress(10, 10, "the last"))
    assert "the last" in out.getvalue()
    assert "10/10" in out.getvalue()


def test_without_a_total_and_a_note() -> None:
    out = io.StringIO()
    with progress_bar("Counting", console=Console(file=out, width=100)) as bar:
        bar(Progress(3))
    assert "Counting" in out.getvalue()
    assert "3/?" in out.getvalue()


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(OptionError, match=r"amnode\[cli\]"), progress_bar():
        pass
