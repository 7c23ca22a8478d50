"""Pictures: what stands under what, and which lines go where."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from amnode.machine.picture import svg
from amnode.machine.schema import Schema, State, States
from amnode.node.states import ClientStates, SupervisorStates, WorkerStates

SVG = "{http://www.w3.org/2000/svg}"


class Door(States):
    Open = State(remove="Closed", add="Lit")
    Closed = State(auto=True, remove=("Open",))
    Locked = State(require="Closed", remove="Lit")
    Lit = State(multi=True, after="Open")
    Guarded = State(require=("Lit", "Closed", "Locked"))


def outline_of(picture: str) -> list[str]:
    """The texts from top to bottom, each as far to the right as it stands."""
    found = [
        (float(text.attrib["y"]), float(text.attrib["x"]), str(text.text))
        for text in ET.fromstring(picture).iter(f"{SVG}text")
    ]
    return [" " * int((x - 16) / 11) + text for _, x, text in sorted(found)]


def boxes_of(picture: str, **attributes: str) -> int:
    root = ET.fromstring(picture)
    rects = list(root.iter(f"{SVG}rect"))[1:]  # the first one is the ground
    wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
    return sum(wanted.items() <= rect.attrib.items() for rect in rects)


def test_what_is_required_stands_above() -> None:
    assert outline_of(svg(Door.schema())) == [
        "Open",
        "Closed",
        "  Locked",
        "    Guarded (and Lit)",
        "Lit",
        "Exception",
    ]


def test_lines_say_what_they_mean() -> None:
    titles = re.findall(r"<title>(.*?)</title>", svg(Door.schema()))
    assert titles == [
        "Open adds Lit",
        "Open and Closed remove each other",
        "Locked removes Lit",
    ]


def test_boxes_say_what_a_state_is() -> None:
    picture = svg(Door.schema(), active=("Lit",))
    assert boxes_of(picture, stroke_dasharray="4") == 1
    assert boxes_of(picture, stroke_width="0.6") == 2, "Lit and Exception"
    assert boxes_of(picture, fill="#ccffcc") == 1
    assert boxes_of(picture, fill="white") == 5


def test_states_that_require_each_other_stand_for_themselves() -> None:
    schema = Schema(
        {"A": State(require=("B",)), "B": State(require=("A",)), "C": State(require=("A",))}
    )
    assert outline_of(svg(schema)) == ["A (and B)", "B (and A)", "C (and A)", "Exception"]


@pytest.mark.parametrize("states", [WorkerStates, SupervisorStates, ClientStates])
def test_every_state_is_drawn_once_and_inside(states: type[States]) -> None:
    picture = svg(states.schema())
    drawn = [line.strip().partition(" ")[0] for line in outline_of(picture)]
    assert sorted(drawn) == sorted(states.schema())
    root = ET.fromstring(picture)
    for rect in root.iter(f"{SVG}rect"):
        right = float(rect.attrib.get("x", 0)) + float(rect.attrib["width"])
        assert right <= float(root.attrib["width"])
