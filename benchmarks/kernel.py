"""A warm mutation of a machine, beside a bare method call that updates a list.

The machines have 3, 20 and 200 states, all active but what is toggled: what is independent of
a mutation should cost it nothing.

    python benchmarks/kernel.py
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from amnode.machine.machine import Machine
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from benchmarks.harness import Case, Run, compare

SIZES = (3, 20, 200)
BASELINE = "a method call that updates a list"


class Bare:
    """The least that a mutation could be."""

    def __init__(self) -> None:
        self.ticks = [0, 0, 0]

    def add1(self, state: int) -> None:
        self.ticks[state] += 1


def bare(count: int) -> None:
    add1 = Bare().add1
    for _ in range(count):
        add1(1)


def machine(size: int, *, handlers: bool = False, **toggled: State) -> Machine:
    """A machine of `size` states, of which every third requires the first."""
    names = [f"S{i}" for i in range(size - len(toggled) - 1)]
    states = {
        name: State(require=names[:1] if i and i % 3 == 0 else ())
        for i, name in enumerate(names)
    }
    made = Machine(Schema({**states, **toggled}), id="benchmark")
    made.add(names)
    if handlers:
        made.bind(Handlers())
    return made


class Handlers:
    """One final handler for each direction."""

    def __init__(self) -> None:
        self.called = 0

    def AState(self, _event: Event) -> None:
        self.called += 1

    def AEnd(self, _event: Event) -> None:
        self.called += 1


def one(made: Machine, count: int) -> None:
    add1, remove1 = made.add1, made.remove1
    for _ in range(count // 2):
        add1("A")
        remove1("A")


def several(made: Machine, count: int) -> None:
    add, remove, states = made.add, made.remove, ("A", "B")
    for _ in range(count // 2):
        add(states)
        remove(states)


def again(made: Machine, count: int) -> None:
    add1 = made.add1
    for _ in range(count):
        add1("A")


async def waited(made: Machine, count: int) -> None:
    """Each wait is made, resolved and looked at; 1000 others stay."""
    others = [made.when1("B") for _ in range(1000)]
    for _ in range(count):
        wait = made.when1("A")
        made.add1("A")
        made.remove1("A")
        assert wait.done()
    for other in others:
        other.cancel()


async def bare_futures(count: int) -> None:
    make = asyncio.get_running_loop().create_future
    for _ in range(count):
        make().set_result(None)


def sized(
    what: str, run: Callable[[Machine, int], object], goal: float, **how: bool
) -> list[Case]:
    cases: list[Case] = []
    for size in SIZES:
        made = machine(size, A=State(), **({"B": State()} if run is several else {}), **how)
        cases.append(Case(f"{what}, {size} states", partial(run, made), BASELINE, bare, goal))
    return cases


def multi(size: int) -> Run:
    return partial(again, machine(size, A=State(multi=True)))


def main() -> None:
    compare(
        "a warm mutation",
        [
            *sized("add1, remove1", one, 4),
            *sized("add, remove of two", several, 6),
            *sized("one final handler", one, 10, handlers=True),
            *(Case(f"add1 of a Multi, {n} states", multi(n), BASELINE, bare, 4) for n in SIZES),
        ],
        clock=time.process_time,
    )
    waiting = machine(20, A=State(), B=State())
    compare(
        "waiting",
        [
            Case(
                "when1, add1, remove1; 1000 others wait",
                partial(waited, waiting),
                "making and resolving a future",
                bare_futures,
            )
        ],
        clock=time.process_time,
    )


if __name__ == "__main__":
    main()
