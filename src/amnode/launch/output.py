r"""The last lines that a process wrote, made safe to show.

What a process prints comes from outside: it can hold half a line, broken UTF-8, and characters
that would forge lines of a log or drive a terminal. All are shown, none is obeyed.

1. A line that is given holds printable characters and tabs, nothing else: controls, escapes,
   separators of lines and marks that turn the direction of text appear as `\x1b` does.
2. It has at most `LINE_LIMIT` characters; where something was left out, it says `...`.
"""

from __future__ import annotations

#: Characters of one line that are kept.
LINE_LIMIT = 1000

_LEFT_OUT = "..."


def last_lines(data: bytes, lines: int, *, cut: bool = False) -> tuple[str, ...]:
    """The last lines of what was written, oldest first, without their ends.

    A last line that has no end yet is one, too. A carriage return ends a line, so that of a
    progress bar the last states are seen.

    Args:
        data: the end of what was written.
        lines: how many at most; none if it is not positive.
        cut: `data` may begin in the middle of a line; the first one is left out, or, where it
            is the only one, is marked.
    """
    found = data.splitlines()
    if not cut or not found:
        return tuple(_line(line) for line in found[-lines:] if lines > 0)
    if len(found) == 1:
        return (_LEFT_OUT + _line(found[0], LINE_LIMIT - len(_LEFT_OUT)),)[: max(lines, 0)]
    return last_lines(b"\n".join(found[1:]) + b"\n", lines)


def shown(text: str) -> str:
    """`text` with what is not printable written as an escape; tabs stay (rule 1)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in text)


def _line(line: bytes, limit: int = LINE_LIMIT) -> str:
    text = shown(line.decode("utf-8", "backslashreplace"))
    return text if len(text) <= limit else text[: limit - len(_LEFT_OUT)] + _LEFT_OUT
