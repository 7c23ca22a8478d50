"""How commands show what they have: JSON, tables, numbers that people read.

1. JSON goes out one value a line, and is flushed: who follows sees it at once.
2. On a terminal a table is as wide as that; elsewhere nothing is cut, nothing is drawn and
   nothing is coloured. `NO_COLOR` turns colours off anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

#: Wide enough that no line is broken where nobody looks at it.
_ENDLESS = 100_000

#: Units of time, from the largest: seconds, and what they are called.
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leaves it to `entry`, as for all other output."""
        raise BrokenPipeError


def console() -> Console:
    """The terminal, or what stands for it (rule 2)."""
    if sys.stdout.isatty():
        return _Console(highlight=False, markup=False)
    return _Console(highlight=False, markup=False, width=_ENDLESS, color_system=None)


def write_json(value: object) -> None:
    """Rule 1."""
    sys.stdout.write(msgspec.json.encode(value, enc_hook=_as_plain).decode() + "\n")
    sys.stdout.flush()


def _as_plain(value: object) -> object:
    """What JSON has no form for: an array as a list, anything else as its text."""
    to_list: object = getattr(value, "tolist", None)
    return to_list() if callable(to_list) else str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table; a column whose name begins with `>` is aligned to the right."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.lstrip(">"), justify="right" if right else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def duration(seconds: float) -> str:
    """A time as people say it: 0.4s, 12s, 3m 20s, 2h 5m, 4d 1h."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    for index, (unit, name) in enumerate(_UNITS):
        if whole >= unit:
            below, below_name = _UNITS[index + 1] if index + 1 < len(_UNITS) else (1, "s")
            rest = whole % unit // below
            return f"{whole // unit}{name}" + (f" {rest}{below_name}" if rest else "")
    raise AssertionError("a minute is the smallest unit")


def size(number: int) -> str:
    """Bytes as people say them: 512 B, 43 MB; "-" for 0, which is unknown."""
    if number <= 0:
        return "-"
    amount, unit = float(number), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 999.5 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if amount >= 99.5 or unit == "B" else f"{amount:.1f} {unit}"


def plural(number: int, thing: str) -> str:
    """1 worker, 2 workers."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
