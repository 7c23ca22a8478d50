"""Diagrams, line by line."""

from __future__ import annotations

from amnode.machine.diagram import dot, mermaid
from amnode.machine.schema import Group, State, States


class Door(States):
    Open = State(remove="Closed", add="Lit")
    Closed = State(auto=True, remove=("Open",))
    Locked = State(require="Closed", remove="Lit")
    Lit = State(multi=True, after="Open")
    Shut = Group(Closed, Locked)


def test_mermaid() -> None:
    assert mermaid(Door.schema(), active=("Lit", "Closed")).splitlines() == [
        "flowchart LR",
        '    s_Open["Open"]',
        '    s_Closed["Closed"]',
        '    s_Locked["Locked"]',
        '    s_Lit[["Lit"]]',
        '    s_Exception[["Exception"]]',
        "    s_Open ==>|add| s_Lit",
        "    s_Open x--x|remove| s_Closed",
        "    s_Locked -->|require| s_Closed",
        "    s_Locked --x|remove| s_Lit",
        "    s_Lit -.->|after| s_Open",
        "    classDef auto stroke-dasharray: 4",
        "    class s_Closed auto",
        "    classDef active fill:#cfc",
        "    class s_Closed,s_Lit active",
    ]


def test_dot() -> None:
    assert dot(Door.schema(), active=("Closed",)).splitlines() == [
        "digraph machine {",
        "    rankdir=LR;",
        "    node [shape=box];",
        '    "Open";',
        '    "Closed" [style="dashed,filled"];',
        '    "Locked";',
        '    "Lit" [peripheries=2];',
        '    "Exception" [peripheries=2];',
        '    subgraph cluster_0 { label="Shut"; "Closed"; "Locked"; }',
        '    "Open" -> "Lit" [label="add", style=bold];',
        '    "Open" -> "Closed" [label="remove", arrowhead=tee, dir=both, arrowtail=tee];',
        '    "Locked" -> "Closed" [label="require"];',
        '    "Locked" -> "Lit" [label="remove", arrowhead=tee];',
        '    "Lit" -> "Open" [label="after", style=dotted];',
        "}",
    ]


def test_a_schema_without_anything() -> None:
    assert mermaid(States.schema()) == 'flowchart LR\n    s_Exception[["Exception"]]\n'
    assert dot(States.schema()).count("\n") == 5
