"""The last lines that a process wrote, made safe to show.

What a worker prints comes from outside: it can hold half a line, broken UTF-8, and control
characters that would forge log lines or drive a terminal. All are shown, none is obeyed.
"""

from __future__ import annotations

#: Characters of one line that are kept.
LINE_LIMIT = 1000


def last_lines(data: bytes, lines: int, *, cut: bool = False) -> tuple[str, ...]:
    """The last `lines` lines of `data`, oldest first, without their ends.

    Args:
        data: the end of what was written.
        lines: how many at most.
        cut: `data` begins in the middle of a line, which is then left out.
    """
    found = data.splitlines()  # at line feeds and carriage returns; text has more line ends
    if cut and len(found) > 1:
        found = found[1:]
    return tuple(_safe(line) for line in found[-lines:]) if lines > 0 else ()


def _safe(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace")
    shown = "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)
    return shown if len(shown) <= LINE_LIMIT else shown[: LINE_LIMIT - 3] + "..."
