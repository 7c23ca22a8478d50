"""How a class is named to another process, and found there again."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from amnode import OptionError
from amnode.node.class_name import SCRIPT_NAME, load, name_of
from tests.promises import workers


class Here:
    class Inner:
        pass


def test_a_class_of_a_module() -> None:
    assert name_of(workers.Plain) == ("tests.promises.workers:Plain", "")
    assert load("tests.promises.workers:Plain", "") is workers.Plain


def test_a_class_in_a_class() -> None:
    target, script = name_of(Here.Inner)
    assert (target, script) == (f"{__name__}:Here.Inner", "")


def test_a_local_class_is_refused() -> None:
    class Local:
        pass

    with pytest.raises(OptionError, match="top level of a module"):
        name_of(Local)


def test_a_class_that_its_module_does_not_have_is_refused() -> None:
    replaced = type("Here", (), {"__module__": __name__, "__qualname__": "Here"})
    with pytest.raises(OptionError, match="is not what its module has"):
        name_of(replaced)
    gone = type("Gone", (), {"__module__": "no.such.module", "__qualname__": "Gone"})
    with pytest.raises(OptionError, match=r"no\.such\.module:Gone"):
        name_of(gone)


def _main(monkeypatch: pytest.MonkeyPatch, file: str | None) -> type:
    main = ModuleType("__main__")
    main.__spec__ = None
    if file is not None:
        main.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", main)
    return type("Mine", (), {"__module__": "__main__", "__qualname__": "Mine"})


def test_a_class_of_a_script_is_run_from_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "class Mine:\n    pass\n"
        "NAME = __name__\n"
        "if __name__ == '__main__':\n    raise SystemExit('the program ran again')\n"
    )
    cls = _main(monkeypatch, str(script))
    target, named = name_of(cls)
    assert (target, named) == (f"{SCRIPT_NAME}:Mine", str(script.resolve()))
    monkeypatch.delitem(sys.modules, SCRIPT_NAME, raising=False)
    found = load(target, named)
    assert found.__name__ == "Mine"
    assert sys.modules[SCRIPT_NAME].NAME == SCRIPT_NAME
    monkeypatch.delitem(sys.modules, SCRIPT_NAME)


@pytest.mark.parametrize("file", [None, "<stdin>"])
def test_one_that_was_typed_in_is_refused(
    monkeypatch: pytest.MonkeyPatch, file: str | None
) -> None:
    cls = _main(monkeypatch, file)
    with pytest.raises(OptionError, match="Put it in a file"):
        name_of(cls)


def test_a_program_run_as_a_module_is_found_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cls = _main(monkeypatch, "/somewhere/program.py")
    sys.modules["__main__"].__spec__ = type("Spec", (), {"name": "package.program"})()
    assert name_of(cls) == ("package.program:Mine", "")
