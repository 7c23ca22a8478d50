"""`python -m amnode.machine`: a schema drawn and related, a story told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from amnode.machine import __main__ as program
from amnode.machine.machine import Machine
from amnode.machine.schema import Group, Schema, State, States

HERE = __name__


class Door(States):
    Open = State(remove="Closed", tags=("way",))
    Closed = State(auto=True, remove="Open")
    Never = State(require=("Open", "Closed"))
    Shut = Group(Closed, "Never")


SCHEMA = Schema({"A": State(multi=True)})


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "door", sys.modules[HERE])


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = program.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_a_schema_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "door:Door")
    assert code == 1
    assert out.startswith("flowchart LR\n")
    assert out.partition("\n\n")[2] == (
        "Open #way\nClosed auto\nNever\nException multi\n\n"
        "Open remove Closed\nClosed remove Open\nNever require Open\nNever require Closed\n"
        "Shut = Closed Never\n\n"
        "Never can never be active: it needs Open and Closed, but Open removes Closed.\n"
        "Never can never be active: it needs Closed and Open, but Closed removes Open.\n"
    )
    code, out, _ = run(capsys, "door:SCHEMA")
    assert (code, out.splitlines()[-1]) == (0, "No problems.")


def test_diagrams_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "door:Door", "--dot")[1].startswith("digraph machine {\n")
    assert run(capsys, "door:Door", "--svg")[1].startswith("<svg ")
    assert run(capsys, "door:Door", "--mermaid")[1].endswith("class s_Closed auto\n")


def test_relations_of_one_and_between_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "door:Door", "--of", "Open")[1].splitlines() == [
        "Open remove Closed",
        "Closed remove Open",
        "Never require Open",
    ]
    two = run(capsys, "door:Door", "--of", "Never", "--of", "Closed")
    assert two[:2] == (0, "Never require Closed\n")
    assert run(capsys, "door:Door", "--of", "Exception")[1] == "No relations.\n"


def test_a_story_is_told_step_by_step(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    m = Machine(Door, id="door")
    story = m.tell_story()
    m.bind({"OpenState": lambda _: m.remove1("Open") and None})
    m.add1("Closed")
    m.add1("Open")
    path = tmp_path / "run.jsonl"
    path.write_text("".join(story.lines()), encoding="utf-8")
    assert run(capsys, "--story", str(path))[1].splitlines() == [
        "#1 add Closed -> Closed+ 1",
        "   (Closed:1)",
        "#2 add Open -> Closed- 2 Open+ 1",
        "   (Open:1)",
        "  #3 remove Open, by OpenState of #2 -> Open- 2",
        "     ()",
        "  #4 auto add Closed, by OpenState of #2 -> Closed+ 3",
        "     (Closed:3)",
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "Name a schema"),
        (("nowhere:Door",), "There is no 'nowhere:Door'"),
        (("door:Window",), "There is no 'door:Window'"),
        (("door",), "There is no 'door'"),
        ((":Door",), "There is no ':Door'"),
        (("door:HERE",), "must be a States class or a Schema"),
        (("door:Path",), "must be a States class or a Schema"),
        (("door:Door", "--of", "Opn"), "did you mean Open"),
        (("door:Door", "--of", "A", "--of", "B", "--of", "C"), "one state or two, not 3"),
        (("--story", "/nonexistent"), "No such file"),
    ],
)
def test_a_question_that_makes_no_sense(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], message: str
) -> None:
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert message in err


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "amnode.machine", "amnode.machine.mixins:StateSource"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nNo problems.\n")
