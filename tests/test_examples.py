"""The examples run, and show what they say they show. The demo has a test of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

#: What each example prints, as patterns.
PRINTED = {
    "external_program.py": """\
        Two programs are up after .*
        20.22 = 42
        Nobody waited for a start: True
        The program ended: exit code -6 after 'crash'
        6.7 = 42 by the next one
        The worker was ended by SIGKILL
        Its program has ended with it.
        2.3 = 6 by another one""",
    "sqlite_sessions.py": """\
        At first: +ann has 10000, bob has 5000
        While it is not committed: +ann has 10000, bob has 5000
        When it is: +ann has 7500, bob has 7500
        Refused: CHECK constraint failed: .*
        Released without a commit: +ann has 7500, bob has 7500
        In a transaction: True
        Its session was ended by SIGKILL
        Killed in its transaction: +ann has 7500, bob has 7500""",
}

#: What each session of the sandboxes is told; two of them run side by side.
SESSIONS = {
    "ann": ["42", "NameError: name 'y' is not defined", "False"],
    "bob": ["mine 4", "ZeroDivisionError: division by zero"],
    "cy": ["the sandbox is gone: a snippet took longer than 1 s"],
    "dee": ["the sandbox is gone: SIGABRT"],
    "eve": ["MemoryError", "still here"],
}


def run(name: str) -> list[str]:
    """The lines that an example prints."""
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_is_about(name: str) -> None:
    patterns = [line.strip() for line in PRINTED[name].splitlines()]
    lines = run(name)

    assert len(lines) == len(patterns), lines
    for pattern, line in zip(patterns, lines, strict=True):
        assert re.fullmatch(pattern, line), line


def test_sandboxes_keep_what_is_theirs_and_die_alone() -> None:
    *lines, last = run("sandbox.py")
    told: dict[str, list[str]] = {name: [] for name in SESSIONS}
    for line in lines:
        name, kind, text = line.split(maxsplit=2)
        if kind != ">":
            told[name].append(text)

    assert told == SESSIONS
    assert last == "3 sandboxes are ready."


def test_every_example_is_run() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}

    assert names == {*PRINTED, "sandbox.py", "demo.py", "demo_screen.py"}
