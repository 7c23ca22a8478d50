"""The pages say what the code says: examples run, tables are current, links lead somewhere."""

from __future__ import annotations

import builtins
import os
import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
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
_LINES = r"((?:(?!```)[^\n]*\n)*?)"
EXAMPLE = re.compile(rf"^```python\n{_LINES}```\n{_LINES}```text\n{_LINES}```", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s#:]*)(?:#([^)\s]*))?\)")
NAME = re.compile(r"`([A-Z]\w+(?:Error|Lost|Failed|Cancelled))`")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INCLUDED = re.compile(r"^```\{include\} (\S+)$", re.MULTILINE)


def programs_of(page: Path) -> list[tuple[str, str]]:
    """The programs of a page, each with its output."""
    found = EXAMPLE.findall(page.read_text(encoding="utf-8"))
    return [(program, output) for program, _between, output in found]


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


#: The pages that are followed to their end: files are written, and commands run, as they say.
FOLLOWED = [
    "docs/tutorial.md",
    "docs/howto/testing.md",
    "docs/howto/browsers.md",
    "docs/howto/models.md",
]
#: What a page needs and the machine may not have, as a file beside the others.
PLAYWRIGHT = """
class Browser:  # which is page, context and all the rest of it
    def on(self, event, callback): ...
    async def start(self): return self
    async def launch(self): return self
    async def new_context(self): return self
    async def new_page(self): return self
    async def goto(self, url): self.url = url
    async def title(self):
        return "Example Domain" if "example" in self.url else "Welcome to Python.org"
    async def screenshot(self): return b"PNG"
    async def close(self): ...
    async def stop(self): ...
    @property
    def chromium(self): return self

def async_playwright(): return Browser()
"""
STAND_INS = {"docs/howto/browsers.md": {"playwright/async_api.py": PLAYWRIGHT}}
#: A block of a page: its language, the name of its file if it is one, and what is in it.
STEP = re.compile(r"^```(\w+)\n(?:# (\w+\.\w+)\n)?(.*?)^```", re.MULTILINE | re.DOTALL)
#: What is another one in each run: workers, processes and times.
VARYING = [
    (re.compile(r"nw-(\w+)-[0-9a-f]{6}-\d+"), r"nw-\1"),
    (re.compile(r"\bpid \d+"), "pid"),
    (re.compile(r"\b\d+(\.\d+)? ?(s|ms|MB|seconds)\b"), "so much"),
    (re.compile(r" +(\d{3,})? *"), " "),  # columns, and pids in them
    (re.compile(r" $", re.MULTILINE), ""),
]


def settled(text: str) -> str:
    """What a program printed, without what varies."""
    for found, shown in VARYING:
        text = found.sub(shown, text)
    return text


class Reader:
    """Who does what a page says, in a directory of their own.

    Args:
        directory: where everything happens.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"AMNODE_RUN_DIR": str(directory / "run"), "PYTHONUNBUFFERED": "1"}
        self._environment = os.environ | {"PATH": path} | own

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            ["/bin/sh", "-ec", command],
            cwd=self.directory,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=25,
            check=False,
        )

    @contextmanager
    def serving(self, command: str) -> Generator[None]:
        """Leaves `amnode up` running, once it is ready; the page has to stop it."""
        log = self.directory / "up.log"
        with log.open("w") as output:
            up = subprocess.Popen(
                ["/bin/sh", "-ec", f"exec {command}"],
                cwd=self.directory,
                env=self._environment,
                stdout=output,
                stderr=output,
            )
        try:
            while self.run("amnode wait PoolReady --timeout 10").returncode:
                assert up.poll() is None, log.read_text()
            yield
            assert up.wait(10) == 0, log.read_text()
        finally:
            up.terminate()
            up.wait(10)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", FOLLOWED)
def test_who_follows_a_page_gets_what_it_says(name: str, tmp_path: Path) -> None:
    reader, said = Reader(tmp_path), ""
    for file, text in STAND_INS.get(name, {}).items():
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(text, encoding="utf-8")
    with ExitStack() as background:
        for language, file, text in STEP.findall((ROOT / name).read_text(encoding="utf-8")):
            if file:
                (tmp_path / file).write_text(text, encoding="utf-8")
            elif text.startswith("amnode up"):
                background.enter_context(reader.serving(text))
            elif language == "sh":
                ended = reader.run(text)
                said = ended.stdout
                assert ended.returncode == 0, f"{text}{said}"
            elif language == "text":
                assert settled(said) == settled(text)


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
    shown = re.findall(r"\.\. auto\w+:: amnode\.(\w+)\b(?!\.)", reference)

    assert sorted(shown) == sorted(amnode.__all__), "say what it is in docs/reference/api.md"


@pytest.mark.parametrize("page", PROSE, ids=name_of)
def test_the_errors_that_it_names_can_be_imported(page: Path) -> None:
    names = set(NAME.findall(page.read_text(encoding="utf-8")))
    ours = {name for name in names if name != "CancelledError" and not hasattr(builtins, name)}

    assert ours <= set(amnode.__all__)


def test_every_promise_names_tests_that_there_are() -> None:
    page = (ROOT / "docs/promises.md").read_text(encoding="utf-8")
    promises = [part for part in page.split("\n## ")[1:] if not part.startswith("And ")]

    assert len(promises) >= 21
    for promise in promises:
        (line,) = re.findall(r"^Tests: (.*)\.$", promise, re.MULTILINE)
        for path, _ in LINK.findall(line):
            tests = (ROOT / "docs" / path).read_text(encoding="utf-8")
            assert re.search(r"^(async )?def test_", tests, re.MULTILINE), path


def test_the_wire_format_names_the_defaults_that_the_options_have() -> None:
    page = (ROOT / "docs/reference/wire-format.md").read_text(encoding="utf-8")
    options = amnode.RpcOptions()

    for name in ("chunk_size", "credit", "stream_credit", "frame_limit"):
        (shown,) = re.findall(rf"`{name}`(?: bytes)? \((\d+ [KM]iB) by default", page)
        number, unit = shown.split()
        assert int(number) * {"KiB": 1024, "MiB": 1024**2}[unit] == getattr(options, name), name
