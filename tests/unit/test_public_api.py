"""The public names: each is there, is what its module has, and is imported on first use."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import amnode

TREE = ast.parse(Path(amnode.__file__).read_text(encoding="utf-8"))


def _for_type_checkers() -> dict[str, str]:
    """The names that a type checker is told of, with their modules."""
    return {
        alias.name: str(node.module)
        for node in ast.walk(TREE)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("amnode.")
        for alias in node.names
    }


@pytest.mark.parametrize("name", amnode.__all__)
def test_a_public_name_is_what_its_module_has(name: str) -> None:
    module = _for_type_checkers()[name]
    assert getattr(amnode, name) is getattr(import_module(module), name)


def test_type_checkers_and_programs_are_told_of_the_same_names() -> None:
    assert sorted(_for_type_checkers()) == sorted(amnode.__all__)
    assert dir(amnode) == sorted(amnode.__all__)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'amnode' has no attribute 'Nothing'"):
        _ = amnode.Nothing


def test_importing_the_package_imports_nothing_of_it() -> None:
    probe = "import sys, amnode; print([m for m in sys.modules if m.startswith('amnode.')])"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
