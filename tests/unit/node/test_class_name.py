"""How a class is named to another process, and found there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from amnode.errors import OptionError
from amnode.node.args import WorkerBoot
from amnode.node.class_name import SCRIPT_NAME, load, name_of

GUARDED = """
from amnode.node.class_name import name_of

class Outer:
    class Inner:
        pass

if __name__ == "__main__":
    name_of(Outer)
"""


@pytest.fixture(autouse=True)
def script_module_is_forgotten() -> Iterator[None]:
    yield
    sys.modules.pop(SCRIPT_NAME, None)


def test_a_class_of_a_module_is_named_by_it_and_found_again() -> None:
    target, script = name_of(WorkerBoot)

    assert (target, script) == ("amnode.node.args:WorkerBoot", "")
    assert load(target, script) is WorkerBoot


def test_a_class_of_a_script_is_found_by_running_it_without_its_program(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(GUARDED)

    found = load(f"{SCRIPT_NAME}:Outer.Inner", str(script))

    assert found.__qualname__ == "Outer.Inner"
    assert found.__module__ == SCRIPT_NAME
    assert name_of(found) == (f"{SCRIPT_NAME}:Outer.Inner", str(script))


def test_a_script_that_runs_its_program_when_imported_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(GUARDED.replace('if __name__ == "__main__":', "if True:"))

    with pytest.raises(OptionError, match='under `if __name__ == "__main__":`'):
        load(f"{SCRIPT_NAME}:Outer", str(script))

    script.write_text(GUARDED)  # and the refusal is over with it
    assert name_of(load(f"{SCRIPT_NAME}:Outer", str(script))) == (
        f"{SCRIPT_NAME}:Outer",
        str(script),
    )


def test_a_local_class_is_refused() -> None:
    class Local:
        pass

    with pytest.raises(OptionError, match="local to a function"):
        name_of(Local)


def test_a_class_that_its_module_has_replaced_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["amnode.node.args"], "WorkerBoot", object)

    with pytest.raises(OptionError, match="not what its module has"):
        name_of(WorkerBoot)
