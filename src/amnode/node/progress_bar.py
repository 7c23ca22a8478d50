"""A bar in the terminal for what a job says of its progress; needs rich."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from amnode.errors import OptionError
from amnode.node.progress import Progress
from amnode.node.submitted import OnProgress

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def progress_bar(
    description: str = "Working", *, console: Console | None = None
) -> Generator[OnProgress, None, None]:
    """Shows a bar for the body of a `with`, and gives what to pass as `on_progress`.

        with amnode.progress_bar("Indexing") as bar:
            await worker.options(on_progress=bar).call(Library.index, path)

    One bar follows one call at a time; the next call begins it anew.

    Args:
        description: what stands before the bar, until the job has a note of its own.
        console: a `rich.console.Console`; standard error by default.

    Raises:
        OptionError: rich is not installed.
    """
    try:
        from rich.console import Console as TheConsole
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars
    except ImportError as error:
        raise OptionError(
            "A progress bar needs rich: pip install 'amnode[cli]', or pass a callback of "
            "your own as on_progress."
        ) from error
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console or TheConsole(stderr=True),
    )
    with bars:
        bar = bars.add_task(description, total=None)

        def show(progress: Progress) -> None:
            bars.update(
                bar,
                completed=progress.done,
                total=progress.total,
                description=progress.note or description,
            )

        yield show
