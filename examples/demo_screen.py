"""How the demo is shown: a progress bar and live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: What a row says, and how much is done of it.
Row = tuple[str, int]


class Screen(Protocol):
    """Where a run is shown. The first row is the whole, the others are the workers."""

    def say(self, text: str) -> None: ...
    def draw(self, total: int, rows: Sequence[Row]) -> None: ...


class Lines:
    """Plain lines: the rows again at each fifth that is done."""

    def __init__(self) -> None:
        self._fifths = 0

    def say(self, text: str) -> None:
        print(text, flush=True)

    def draw(self, total: int, rows: Sequence[Row]) -> None:
        fifths = 5 * rows[0][1] // total
        if fifths > self._fifths:
            self._fifths = fifths
            print(*(text for text, _ in rows), sep="\n", flush=True)


class Terminal:
    """A bar and a live line for each row."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: list[TaskID] = []

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def draw(self, total: int, rows: Sequence[Row]) -> None:
        for _ in rows[len(self._tasks) :]:
            self._tasks.append(self._progress.add_task("", total=total))
        for task, (text, done) in zip(self._tasks, rows, strict=True):
            self._progress.update(task, description=text, completed=done)
        self._progress.refresh()


@contextmanager
def open_screen(*, plain: bool) -> Generator[Screen]:
    """The screen for where the output goes."""
    if plain or not sys.stdout.isatty() or find_spec("rich") is None:
        yield Lines()
        return
    from rich.progress import BarColumn, Progress, TextColumn

    text = TextColumn("{task.description}", markup=False)
    with Progress(BarColumn(12), text, auto_refresh=False) as progress:
        yield Terminal(progress)
