"""What is in a new project, and what it may be called."""

from __future__ import annotations

import ast
import tomllib

import pytest

from amnode.cli.project import Project
from amnode.errors import OptionError


@pytest.mark.parametrize(
    ("name", "package", "worker"),
    [
        ("squares", "squares", "Squares"),
        ("note-keeper", "note_keeper", "NoteKeeper"),
        ("Log_reader", "log_reader", "LogReader"),
        ("a1", "a1", "A1"),
    ],
)
def test_names(name: str, package: str, worker: str) -> None:
    assert Project.named(name) == Project(name, package, worker)


@pytest.mark.parametrize("name", ["", "7up", "a.b", "a b", "-a", "ä", "x" * 49])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="cannot be the name"):
        Project.named(name)


@pytest.mark.parametrize("name", ["class", "json", "amnode", "tests", "pytest", "JSON"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"such as {name}-worker"):
        Project.named(name)


def test_the_files_are_what_their_names_say() -> None:
    files = Project.named("note-keeper").files()
    assert "note_keeper/worker.py" in files
    for path, text in files.items():
        if path.endswith(".py"):
            ast.parse(text)
        if path.endswith(".toml"):
            tomllib.loads(text)
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["name"] == "note-keeper"
    assert tomllib.loads(files["amnode.toml"])["worker"] == "note_keeper.worker:NoteKeeper"
