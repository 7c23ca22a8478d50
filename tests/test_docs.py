"""The pages say what the code says: examples run, tables are current, links lead somewhere."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from pathlib import Path

import pytest

import amnode
from docs.generate import PAGES

ROOT = Path(__file__).parent.parent
PAGES_OF_DOCS = sorted(
    page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts
)
PROSE = [*sorted(ROOT.glob("*.md")), *PAGES_OF_DOCS]
#: A program, and what it prints; there is no other block between them.
EXAMPLE = re.compile(
    r"^```python\n(.*?)^```\n(?:(?!```)[^\n]*\n)*?^```text\n(.*?)^```", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\(([^)\s#:]*)(?:#([^)\s]*))?\)")
NAME = re.compile(r"`([A-Z]\w+(?:Error|Lost|Failed|Cancelled))`")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INCLUDED = re.compile(r"^```\{include\} (\S+)$", re.MULTILINE)


def programs_of(page: Path) -> list[tuple[str, str]]:
    """The programs of a page, each with its output."""
    return EXAMPLE.findall(page.read_text(encoding="utf-8"))


def name_of(page: Path) -> str:
    """What a page is called in the name of a test."""
    return page.relative_to(ROOT).as_posix()


def places_of(page: Path) -> set[str]:
    """What can be linked to in a page: its headings, as GitHub and the site name them."""
    text = page.read_text(encoding="utf-8")
    if found := INCLUDED.search(text):
        return places_of(page.parent / found[1])
    titles = HEADING.findall(BLOCK.sub("", text))
    words = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.replace(" ", "-") for title in words}


#: Which examples are programs that print what stands below them: all that have that.
PROGRAMS = [(name_of(page), k) for page in PROSE for k in range(len(programs_of(page)))]
#: The pages of which every example is one.
RUN_WHOLE = ["docs/concepts.md", "docs/index.md", "docs/machine.md", "docs/remote.md"]


@pytest.mark.parametrize("name", RUN_WHOLE)
def test_every_program_of_a_page_is_run(name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    assert len(EXAMPLE.findall(page)) == page.count("```python") > 0


@pytest.mark.parametrize(("page", "number"), PROGRAMS)
def test_its_example_prints_what_it_says(page: str, number: int, tmp_path: Path) -> None:
    program, output = programs_of(ROOT / page)[number]
    script = tmp_path / "example.py"
    script.write_text(program, encoding="utf-8")

    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=25, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == output


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")

    assert page == PAGES[name](), "run `python docs/generate.py`"


@pytest.mark.parametrize("page", PROSE, ids=name_of)
def test_its_links_lead_to_places_that_exist(page: Path) -> None:
    broken: list[str] = []
    for path, place in LINK.findall(page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        is_page = target.suffix == ".md"
        if not target.exists() or (place and is_page and place not in places_of(target)):
            broken.append(f"{path}#{place}")

    assert broken == []


def test_every_public_name_is_in_the_reference() -> None:
    reference = "".join(
        (ROOT / "docs/reference" / name).read_text(encoding="utf-8")
        for name in ("api.md", "errors.md")
    )
    shown = re.findall(r"\.\. auto\w+:: amnode\.(\w+)", reference)

    assert sorted(shown) == sorted(amnode.__all__), "say what it is in docs/reference/api.md"


@pytest.mark.parametrize("page", PROSE, ids=name_of)
def test_the_errors_that_it_names_can_be_imported(page: Path) -> None:
    names = set(NAME.findall(page.read_text(encoding="utf-8")))
    ours = {name for name in names if name != "CancelledError" and not hasattr(builtins, name)}

    assert ours <= set(amnode.__all__)


def test_the_wire_format_names_the_defaults_that_the_options_have() -> None:
    page = (ROOT / "docs/reference/wire-format.md").read_text(encoding="utf-8")
    options = amnode.RpcOptions()

    for name in ("chunk_size", "credit", "stream_credit", "frame_limit"):
        (shown,) = re.findall(rf"`{name}`(?: bytes)? \((\d+ [KM]iB) by default", page)
        number, unit = shown.split()
        assert int(number) * {"KiB": 1024, "MiB": 1024**2}[unit] == getattr(options, name), name
