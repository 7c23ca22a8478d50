"""A schema as a picture: SVG, without any program that draws.

An outline says what requires what: each state stands under the state that it requires. To its
right, an arrow goes to what it adds, and a line with a bar to what it removes, with a bar at
both ends for two that remove each other. Auto states are dashed, Multi ones doubled, active
ones filled. A requirement that is not above a state is named in its box.

1. What is drawn is a function of the schema alone, so that a picture can be compared.
2. `after` says nothing of which states there can be, and is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from html import escape

import msgspec

from amnode.machine.related import Relation, relations
from amnode.machine.schema import Schema

_ROW, _BOX, _INDENT, _CHAR, _MARGIN = 24, 18, 22, 6.7, 10
_COLOURS = {"add": "#2a7d46", "remove": "#b3362b"}


class _Place(msgspec.Struct, frozen=True):
    """Where the box of a state is."""

    left: float
    right: float
    middle: float


def svg(schema: Schema, active: Collection[str] = ()) -> str:
    """A picture, as the text of an SVG file.

    Args:
        schema: the states.
        active: names of states to show as active.
    """
    parents = {name: _parent(schema, name) for name in schema}
    rows = list(_outline(schema, parents, "", 0))
    labels = {name: _label(schema, name, parents) for name in schema}
    places = {
        name: _Place(
            _MARGIN + _INDENT * depth,
            _MARGIN + _INDENT * depth + 12 + _CHAR * len(labels[name]),
            _MARGIN + _ROW * row + _BOX / 2,
        )
        for row, (name, depth) in enumerate(rows)
    }
    edge = max(place.right for place in places.values())
    arcs = [_arc(schema, arc, places, edge) for arc in _arcs(schema)]
    width = max([edge, *(reach for reach, _ in arcs)]) + _MARGIN
    height = 2 * _MARGIN + _ROW * len(rows)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
            f'width="{width:.0f}" height="{height}" font-family="monospace" font-size="11">',
            f'<rect width="{width:.0f}" height="{height}" fill="white"/>',
            *(
                _stem(places[name], places[parent])
                for name, parent in parents.items()
                if parent
            ),
            *(line for _, line in arcs),
            *(
                _box(schema, name, labels[name], places[name], name in active)
                for name in places
            ),
            "</svg>\n",
        ]
    )


def _parent(schema: Schema, name: str) -> str:
    """The requirement under which a state stands: the deepest, the first of equal ones."""
    depths = {one: _depth(schema, one, {name}) for one in schema[name].require}
    parent = max(depths, key=depths.__getitem__, default="")
    return parent if depths.get(parent, -1) >= 0 else ""


def _depth(schema: Schema, name: str, below: set[str]) -> int:
    """How many requirements are above a state; less than none if they go in a circle."""
    if name in below:
        return -len(schema)
    above = [_depth(schema, one, below | {name}) for one in schema[name].require]
    return 1 + max(above, default=-1)


def _outline(
    schema: Schema, parents: dict[str, str], parent: str, depth: int
) -> Iterator[tuple[str, int]]:
    """The states under another one, in the order of the schema, each with its depth."""
    for name in schema:
        if parents[name] == parent:
            yield name, depth
            yield from _outline(schema, parents, name, depth + 1)


def _label(schema: Schema, name: str, parents: dict[str, str]) -> str:
    """The name, with those requirements that the outline does not show above it."""
    above: list[str] = []
    parent = parents[name]
    while parent:
        above.append(parent)
        parent = parents[parent]
    others = [one for one in schema[name].require if one not in above]
    return f"{name} (and {', '.join(others)})" if others else name


def _stem(place: _Place, parent: _Place) -> str:
    """From the box of a state to that of what it requires."""
    x = parent.left + _INDENT / 2
    down, up = place.middle, parent.middle + _BOX / 2
    return (
        f'<path d="M{x:.1f} {up:.1f} V{down:.1f} H{place.left:.1f}" fill="none" stroke="#888"/>'
    )


def _arcs(schema: Schema) -> Iterator[Relation]:
    """What adds and removes, of two states that remove each other only the first."""
    for edge in relations(schema):
        if edge.kind not in _COLOURS:
            continue
        if _mutual(schema, edge) and schema.index(edge.source) > schema.index(edge.target):
            continue
        yield edge


def _mutual(schema: Schema, edge: Relation) -> bool:
    return edge.kind == "remove" and edge.source in schema[edge.target].remove


def _arc(
    schema: Schema, edge: Relation, places: dict[str, _Place], right: float
) -> tuple[float, str]:
    """How far a curve reaches to the right, and the curve."""
    start, end = places[edge.source], places[edge.target]
    bend = right + 16 + abs(end.middle - start.middle) * 0.3
    colour = _COLOURS[edge.kind]
    curve = (
        f"M{start.right:.1f} {start.middle:.1f} C{bend:.1f} {start.middle:.1f} "
        f"{bend:.1f} {end.middle:.1f} {end.right:.1f} {end.middle:.1f}"
    )
    ends = _head(end, edge.kind) + (_head(start, "remove") if _mutual(schema, edge) else "")
    verb = "and" if _mutual(schema, edge) else f"{edge.kind}s"
    said = f"{edge.source} {verb} {edge.target}"
    said += " remove each other" if _mutual(schema, edge) else ""
    line = (
        f'<g fill="none" stroke="{colour}"><title>{escape(said)}</title>'
        f'<path d="{curve}"/><path d="{ends}" fill="{colour}"/></g>'
    )
    return right + (bend - right) * 0.75, line  # a curve stays within 3/4 of its handles


def _head(place: _Place, kind: str) -> str:
    """The end of a curve at a box: a bar, or the head of an arrow."""
    x, y = place.right, place.middle
    if kind == "remove":
        return f"M{x + 2:.1f} {y - 4:.1f} v8"
    return f"M{x:.1f} {y:.1f} l7 -3 v6 z"


def _box(schema: Schema, name: str, label: str, place: _Place, is_active: bool) -> str:
    state, wide = schema[name], place.right - place.left
    dash = ' stroke-dasharray="4"' if state.auto else ""
    fill = "#ccffcc" if is_active else "white"
    top = place.middle - _BOX / 2
    lines = [
        f'<rect x="{place.left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{_BOX}" '
        f'rx="3" fill="{fill}" stroke="black"{dash}/>'
    ]
    if state.multi:
        lines.append(
            f'<rect x="{place.left + 2:.1f}" y="{top + 2:.1f}" width="{wide - 4:.1f}" '
            f'height="{_BOX - 4}" rx="2" fill="none" stroke="black" stroke-width="0.6"/>'
        )
    x, y = place.left + 6, place.middle + 4
    lines.append(f'<text x="{x:.1f}" y="{y:.1f}">{escape(label)}</text>')
    return "\n".join(lines)
