"""`amnode inspect`: one machine: its states and clocks, its errors, what it did and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Group, RenderableType

from amnode.cli.machines import Machine, machine
from amnode.cli.shared import NOWHERE, PLAIN, Output, Where, run_async
from amnode.cli.show import console, table, write_json
from amnode.machine.related import inbound, outbound
from amnode.machine.schema import Schema
from amnode.machine.story import Entry, render
from amnode.node.telling import Argument, Inspection
from amnode.rpc.network_machine import NetworkMachine


class StateRow(msgspec.Struct, frozen=True, kw_only=True):
    """One state of a machine.

    Attributes:
        name: of the state.
        active: whether it is.
        tick: how often it has changed.
        relations: what it is and what relates to it, such as "require Start, Ready" and
            "removed by Idle"; only where that was asked for.
    """

    name: str
    active: bool
    tick: int
    relations: tuple[str, ...] = ()


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """A machine at one moment.

    Attributes:
        machine: its id.
        kind: "supervisor", or the kind of the worker.
        queue_tick: how many mutations it has run.
        states: in the order of the schema.
        error: the last error that it recorded, or "".
        trace: where that was raised, or "".
        may_add: the states that an operator may add, each with its arguments.
        may_remove: likewise.
        kept: how many transitions it keeps; 0 where the option `story` is off.
        story: those, oldest first.
    """

    machine: str
    kind: str
    queue_tick: int
    states: tuple[StateRow, ...]
    error: str
    trace: str
    may_add: dict[str, tuple[Argument, ...]]
    may_remove: dict[str, tuple[Argument, ...]]
    kept: int
    story: tuple[Entry, ...]


def inspect(
    named: Annotated[
        str,
        Parameter(
            name="MACHINE",
            help="A worker: its id, or its number. By default the supervisor.",
            show_default=False,
        ),
    ] = "",
    /,
    *,
    all: Annotated[
        bool, Parameter(negative="", help="Also the states that are not active.")
    ] = False,
    relations: Annotated[
        bool, Parameter(negative="", help="Also what relates to each state.")
    ] = False,
    story: Annotated[int, Parameter(help="Show so many of the last transitions at most.")] = 20,
    follow: Annotated[
        bool,
        Parameter(
            name=["--follow", "-f"], negative="", help="Go on with what happens, until Ctrl-C."
        ),
    ] = False,
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Shows one machine: its states and clocks, its last error, what it did and why.

    Each state has a clock that counts its changes: `Idle:7` is active and has begun four times.
    The last transitions are kept where the option `story` of the supervisor, or of the worker,
    says so; `--follow` tells of what happens from now on in any case.
    """
    run_async(_inspect(named, all, relations, story, follow, where, output))


async def _inspect(
    named: str,
    all: bool,
    relations: bool,
    story: int,
    follow: bool,
    where: Where,
    output: Output,
) -> None:
    async with machine(where, named) as looked_at, looked_at.told(follow=follow) as told:
        first = await looked_at.supervisor.within(anext(told))
        found = inspected(looked_at, first, story, relations=relations)
        if output.json:
            write_json(found)
        else:
            console().print(shown(found, all=all, follow=follow))
        async for more in told:
            _tell(more, output)


def inspected(
    looked_at: Machine, told: Inspection, story: int, *, relations: bool
) -> Inspected:
    """All that there is to show."""
    source = looked_at.source
    return Inspected(
        machine=source.source_id,
        kind=looked_at.kind,
        queue_tick=source.queue_tick,
        states=tuple(rows(source, relations=relations)),
        error=told.error,
        trace=told.trace,
        may_add=told.may_add,
        may_remove=told.may_remove,
        kept=told.kept,
        story=told.story[-story:] if story > 0 else (),
    )


def rows(source: NetworkMachine, *, relations: bool) -> Iterator[StateRow]:
    """The states of a machine."""
    for name, tick in source.clock().items():
        related = tuple(_related(source.schema, name)) if relations else ()
        yield StateRow(name=name, active=source.is1(name), tick=tick, relations=related)


def _related(schema: Schema, name: str) -> Iterator[str]:
    yield from (kind for kind in ("auto", "multi") if getattr(schema[name], kind))
    yield from _grouped("{kind} {names}", ((e.kind, e.target) for e in outbound(schema, name)))
    yield from _grouped(
        "{names} {kind} it", ((e.kind, e.source) for e in inbound(schema, name))
    )


def _grouped(form: str, related: Iterable[tuple[str, str]]) -> Iterator[str]:
    by_kind: dict[str, list[str]] = {}
    for kind, name in related:
        by_kind.setdefault(kind, []).append(name)
    for kind, names in by_kind.items():
        yield form.format(kind=kind, names=", ".join(names))


def _tell(more: Inspection, output: Output) -> None:
    if output.json:
        write_json(more)
        return
    if more.missed:
        console().print(f"... {more.missed} transitions were not read in time ...")
    if more.story:
        console().print(render(more.story), soft_wrap=True)


# -- for people ----------------------------------------------------------------------------


def shown(found: Inspected, *, all: bool, follow: bool) -> RenderableType:
    """A machine as text and tables."""
    active = [row for row in found.states if row.active]
    parts: list[RenderableType] = [
        f"{found.machine} ({found.kind}): {len(active)} of {len(found.states)} states active, "
        f"{found.queue_tick} mutations so far",
        "",
        _states(found.states if all else active),
    ]
    if found.error:
        parts += ["", f"last error: {found.error}", *_indented(found.trace)]
    parts += ["", *_changes(found), *_told(found, follow=follow)]
    return Group(*parts)


def _states(listed: Iterable[StateRow]) -> RenderableType:
    shown_rows = [
        ("*" if row.active else "", row.name, str(row.tick), "; ".join(row.relations))
        for row in listed
    ]
    if any(row[3] for row in shown_rows):
        return table(("", "STATE", ">TICK", "RELATIONS"), shown_rows)
    return table(("", "STATE", ">TICK"), [row[:3] for row in shown_rows])


def _changes(found: Inspected) -> Iterator[str]:
    for verb, open_ in (("add", found.may_add), ("remove", found.may_remove)):
        if open_:
            yield f"may {verb}: {', '.join(signature(open_, name) for name in open_)}"


def _told(found: Inspected, *, follow: bool) -> Iterator[str]:
    if found.story:
        yield ""
        yield render(found.story)
    elif follow:
        yield "what it does from now on, until Ctrl-C:"
    elif not found.kept:
        yield "no story: the option `story` is off; --follow tells of what happens from now on"


def signature(open_: dict[str, tuple[Argument, ...]], name: str) -> str:
    """A state with the arguments that it takes: `SetPool(min: int, ..., max_per_client=)`."""
    told = (f"{a.name}: {a.type}" if a.needed else f"[{a.name}: {a.type}]" for a in open_[name])
    return f"{name}({', '.join(told)})" if open_[name] else name


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
