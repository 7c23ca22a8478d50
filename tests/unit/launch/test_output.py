from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.launch.output import LINE_LIMIT, last_lines, shown

#: Bytes in which line ends, control characters and broken UTF-8 are common.
JUNK = st.lists(
    st.sampled_from([b"\n", b"\r", b"\r\n", b"\x1b[2J", b"\x00", b"\xff", "é\u2028".encode()])
    | st.binary(max_size=5)
    | st.text(max_size=5).map(lambda text: text.encode("utf-8", "surrogatepass"))
).map(b"".join)
PLAIN = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), max_size=20)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", ()),
        (b"\n", ("",)),
        (b"one\ntwo\n", ("one", "two")),
        (b"one\ntwo and no en", ("one", "two and no en")),
        (b"one\r\ntwo\rthree", ("one", "two", "three")),
        (b"one\n\n\n", ("one", "", "")),
        ("größer €\n".encode(), ("größer €",)),
        (b"a\tb", ("a\tb",)),
        # broken UTF-8: a byte that is none, a character cut short, a lone surrogate
        (b"\xffa", ("\\xffa",)),
        ("€".encode()[:2], ("\\xe2\\x82",)),
        (b"\xed\xa0\x80", ("\\xed\\xa0\\x80",)),
        # what drives a terminal, or reads backwards in it
        (b"\x1b[31mred\x07\x00", ("\\x1b[31mred\\x07\\x00",)),
        ("\u202egnp.exe\u200b".encode(), ("\\u202egnp.exe\\u200b",)),
        # what ends a line for others is shown, and splits none
        ("a\x0bb\x0cc\x1cd\x85e\u2028f".encode(), ("a\\x0bb\\x0cc\\x1cd\\x85e\\u2028f",)),
    ],
)
def test_what_is_shown(data: bytes, lines: tuple[str, ...]) -> None:
    assert last_lines(data, 100) == lines


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(2, ("b", "c")), (3, ("a", "b", "c")), (4, ("a", "b", "c")), (0, ()), (-1, ())],
)
def test_only_the_last_are_shown(lines: int, expected: tuple[str, ...]) -> None:
    assert last_lines(b"a\nb\nc\n", lines) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"alf a line\nb\n", ("b",)),
        (b"\nb\n", ("b",)),  # the line ended just there
        (b"alf a line that never ended", ("...alf a line that never ended",)),
        (b"x" * 5 * LINE_LIMIT, ("..." + "x" * (LINE_LIMIT - 6) + "...",)),
        (b"", ()),
    ],
)
def test_where_the_beginning_is_cut_off_half_a_line_is_left_out(
    data: bytes, expected: tuple[str, ...]
) -> None:
    assert last_lines(data, 10, cut=True) == expected
    assert last_lines(data, 0, cut=True) == ()


def test_a_long_line_is_shown_from_its_beginning() -> None:
    whole, long = "x" * LINE_LIMIT, "y" * (LINE_LIMIT + 1)
    found = last_lines(f"{whole}\n{long}\n".encode(), 10)
    assert found == (whole, "y" * (LINE_LIMIT - 3) + "...")


@given(JUNK, st.integers(1, 10), st.booleans())
def test_nothing_that_is_shown_is_obeyed(data: bytes, lines: int, cut: bool) -> None:
    found = last_lines(data, lines, cut=cut)
    assert len(found) <= lines
    for line in found:
        assert len(line) <= LINE_LIMIT
        assert all(c.isprintable() or c == "\t" for c in line)
        line.encode()  # does not raise: it can be written anywhere


@given(JUNK, st.integers(1, 10))
def test_fewer_lines_are_the_last_of_more(data: bytes, lines: int) -> None:
    assert last_lines(data, lines) == last_lines(data, 10_000)[-lines:]


@given(st.binary(max_size=20).filter(lambda b: not {10, 13} & set(b)), JUNK)
def test_what_stands_before_the_cut_changes_nothing(half: bytes, data: bytes) -> None:
    data += b"end"
    assert last_lines(half + b"\n" + data, 10_000, cut=True) == last_lines(data, 10_000)


@given(st.text())
def test_text_that_is_shown_stays_so(text: str) -> None:
    assert shown(shown(text)) == shown(text)
    assert (shown(text) == text) == all(c.isprintable() or c == "\t" for c in text)


@given(st.lists(PLAIN, max_size=10))
def test_plain_lines_are_shown_as_they_are(lines: list[str]) -> None:
    assert last_lines("".join(f"{line}\n" for line in lines).encode(), 10) == tuple(lines)
