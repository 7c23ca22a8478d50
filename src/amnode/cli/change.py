"""`amnode add`, `amnode remove`: states of a machine, as far as it opens them to operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from amnode.cli.inspect import signature
from amnode.cli.machines import Machine, OfWorker, machine
from amnode.cli.shared import NOWHERE, PLAIN, Output, Where, run_async
from amnode.cli.show import write_json
from amnode.errors import OptionError, ProtocolError, RefusedError
from amnode.machine.queue import CANCELED
from amnode.rpc.network_machine import NetworkMachine

States = Annotated[str, Parameter(name="STATE", help="The states, in one mutation.")]
Args = Annotated[
    str,
    Parameter(
        help="The arguments, as a JSON object. `amnode inspect` shows which a state takes.",
        show_default=False,
    ),
]


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """A mutation that was carried out.

    Attributes:
        machine: its id.
        states: those that were called, with their ticks afterwards.
        active: all that are active afterwards.
    """

    machine: str
    states: dict[str, int]
    active: tuple[str, ...]


def add(
    *states: States,
    args: Args = "",
    worker: OfWorker = "",
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Adds states to a machine, with what follows from that by its relations.

    What operators may add is what the supervisor opens to them, such as `Draining`, and what a
    Worker class opens to its clients; `amnode inspect` lists it. All else is refused, with 4.
    """
    _change("add", states, args, worker, where, output)


def remove(
    *states: States,
    args: Args = "",
    worker: OfWorker = "",
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Removes states from a machine, with what needs them.

    See `amnode add --help` for what is open.
    """
    _change("remove", states, args, worker, where, output)


def _change(
    verb: str, states: Sequence[str], args: str, worker: str, where: Where, output: Output
) -> None:
    if not states:
        raise OptionError(f"Name a state to {verb}; `amnode inspect` lists what is open.")
    done = run_async(_changed(verb, states, decoded(args), worker, where))
    if output.json:
        write_json(done)
    else:
        ticks = " ".join(f"{name}:{tick}" for name, tick in done.states.items())
        print(f"{done.machine}: {ticks}, with {' '.join(done.active) or 'nothing'} active")


async def _changed(
    verb: str, states: Sequence[str], args: Any, worker: str, where: Where
) -> Changed:
    async with machine(where, worker) as changed:
        source = changed.source
        mutate = source.add if verb == "add" else source.remove
        try:
            result = await changed.supervisor.within(mutate(states, args))
        except ProtocolError as error:  # they are not what the state takes
            raise OptionError(f"{error} {await _takes(changed, verb, states)}") from None
        if result is CANCELED:
            raise RefusedError(refusal(source, verb, states))
        return Changed(
            machine=source.source_id,
            states=source.clock(states),
            active=tuple(name for name in source.clock() if source.is1(name)),
        )


async def _takes(changed: Machine, verb: str, states: Sequence[str]) -> str:
    """What these states take, in words."""
    async with changed.told(follow=False) as told:
        found = await changed.supervisor.within(anext(told))
    open_ = found.may_add if verb == "add" else found.may_remove
    return f"It is {' '.join(signature(open_, name) for name in states if name in open_)}."


def decoded(args: str) -> Any:
    """The arguments, as what JSON says.

    Raises:
        OptionError: that is no JSON object.
    """
    if not args:
        return None
    try:
        return msgspec.json.decode(args, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise OptionError(
            f"--args is no JSON object: {error}. Such as: --args '{{\"min\": 2}}'."
        ) from None


def refusal(source: NetworkMachine, verb: str, states: Sequence[str]) -> str:
    """What to say of a mutation that was canceled, and nobody said why."""
    said = f"{source.source_id} did not {verb} {' '.join(states)}"
    if verb == "add" and (reasons := list(_in_the_way(source, states))):
        return f"{said}: {'; '.join(reasons)}."
    return f"{said}: a handler of it said no."


def _in_the_way(source: NetworkMachine, states: Sequence[str]) -> Iterator[str]:
    """Relations by which states cannot come now, as far as the replica knows."""
    schema = source.schema
    for name in states:
        for needed in schema[name].require:
            if source.not1(needed) and needed not in states:
                yield f"{name} requires {needed}, which is not active"
        for other in schema.names:
            if source.is1(other) and name in schema[other].remove and other not in states:
                yield f"{other} is active, and keeps {name} out"
