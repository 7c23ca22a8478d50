"""The pages say what the code says: examples run, tables are current, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import amnode
from docs.generate import PAGES

ROOT = Path(__file__).parent.parent
PROSE = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: A program, and what it prints.
EXAMPLE = re.compile(r"```python\n(.*?)```.*?```text\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")
NAME = re.compile(r"`([A-Z]\w+(?:Error|Lost|Failed|Cancelled))`")


#: Which examples of a page are programs that print what stands below them.
PROGRAMS = [
    ("README.md", 0),
    ("docs/concepts.md", 0),
    *(("docs/machine.md", k) for k in range(4)),
    *(("docs/remote.md", k) for k in range(2)),
]


@pytest.mark.parametrize(("name", "count"), [("docs/machine.md", 4), ("docs/remote.md", 2)])
def test_every_program_of_a_page_is_run(name: str, count: int) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    assert len(EXAMPLE.findall(page)) == page.count("```python") == count


@pytest.mark.parametrize(("page", "number"), PROGRAMS)
def test_its_example_prints_what_it_says(page: str, number: int, tmp_path: Path) -> None:
    program, output = EXAMPLE.findall((ROOT / page).read_text(encoding="utf-8"))[number]
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


@pytest.mark.parametrize("page", PROSE, ids=lambda path: path.name)
def test_its_links_lead_to_files_that_exist(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))

    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PROSE, ids=lambda path: path.name)
def test_the_errors_that_it_names_can_be_imported(page: Path) -> None:
    names = set(NAME.findall(page.read_text(encoding="utf-8")))
    ours = {name for name in names if name != "CancelledError"}

    assert ours <= set(amnode.__all__)


def test_the_wire_format_names_the_defaults_that_the_options_have() -> None:
    page = (ROOT / "docs/reference/wire-format.md").read_text(encoding="utf-8")
    options = amnode.RpcOptions()

    for name in ("chunk_size", "credit", "stream_credit", "frame_limit"):
        (shown,) = re.findall(rf"`{name}`(?: bytes)? \((\d+ [KM]iB) by default", page)
        number, unit = shown.split()
        assert int(number) * {"KiB": 1024, "MiB": 1024**2}[unit] == getattr(options, name), name
