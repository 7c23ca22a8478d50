"""A schema as a diagram: Mermaid, for pages, and dot, for Graphviz.

States are boxes (auto dashed, Multi doubled, active ones filled), relations are arrows: solid
for `require`, thick for `add`, crossed for `remove` (one line for two that remove each other),
dotted for `after`. Groups are frames in dot, and left out in Mermaid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from amnode.machine.related import Relation, relations
from amnode.machine.schema import Schema

_MERMAID = {"require": "-->|require|", "add": "==>|add|", "after": "-.->|after|"}
_DOT = {
    "require": 'label="require"',
    "add": 'label="add", style=bold',
    "after": 'label="after", style=dotted',
}


def mermaid(schema: Schema, active: Collection[str] = ()) -> str:
    """A flow chart for Mermaid.

    Args:
        schema: the states.
        active: names of states to show as active.
    """
    lines = ["flowchart LR"]
    for name in schema:
        shape = f'[["{name}"]]' if schema[name].multi else f'["{name}"]'
        lines.append(f"    s_{name}{shape}")
    for edge in _edges(schema):
        if edge.kind == "remove":
            arrow = "x--x|remove|" if _mutual(schema, edge) else "--x|remove|"
        else:
            arrow = _MERMAID[edge.kind]
        lines.append(f"    s_{edge.source} {arrow} s_{edge.target}")
    autos = [f"s_{name}" for name in schema if schema[name].auto]
    if autos:
        lines.append("    classDef auto stroke-dasharray: 4")
        lines.append(f"    class {','.join(autos)} auto")
    filled = [f"s_{name}" for name in schema if name in active]
    if filled:
        lines.append("    classDef active fill:#cfc")
        lines.append(f"    class {','.join(filled)} active")
    return "\n".join(lines) + "\n"


def dot(schema: Schema, active: Collection[str] = ()) -> str:
    """A directed graph for Graphviz.

    Args:
        schema: the states.
        active: names of states to show as active.
    """
    lines = ["digraph machine {", "    rankdir=LR;", "    node [shape=box];"]
    lines += [f"    {_node(schema, name, name in active)};" for name in schema]
    for k, (group, members) in enumerate(schema.groups.items()):
        names = " ".join(f'"{name}";' for name in members)
        lines.append(f'    subgraph cluster_{k} {{ label="{group}"; {names} }}')
    for edge in _edges(schema):
        if edge.kind == "remove":
            both = ", dir=both, arrowtail=tee" if _mutual(schema, edge) else ""
            look = f'label="remove", arrowhead=tee{both}'
        else:
            look = _DOT[edge.kind]
        lines.append(f'    "{edge.source}" -> "{edge.target}" [{look}];')
    return "\n".join([*lines, "}"]) + "\n"


def _node(schema: Schema, name: str, active: bool) -> str:
    styles = [word for word, on in (("dashed", schema[name].auto), ("filled", active)) if on]
    looks = ["peripheries=2"] if schema[name].multi else []
    if styles:
        looks.append(f'style="{",".join(styles)}"')
    return f'"{name}" [{", ".join(looks)}]' if looks else f'"{name}"'


def _edges(schema: Schema) -> Iterator[Relation]:
    """All relations, but of two states that remove each other only the first."""
    for edge in relations(schema):
        if _mutual(schema, edge) and schema.index(edge.source) > schema.index(edge.target):
            continue
        yield edge


def _mutual(schema: Schema, edge: Relation) -> bool:
    return edge.kind == "remove" and edge.source in schema[edge.target].remove
