"""A warm mutation of a machine, beside a bare method call that updates a list.

The machines have 3, 20 and 200 states, all active but what is toggled: what is independent of
a mutation should cost it nothing. Other libraries do the same work in the same run. What is not
a ratio (memory, the time that making takes) stands beside its goal below.

    python benchmarks/kernel.py

docs/benchmarks.md shows the figures, and how they can mislead.
"""

from __future__ import annotations

import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from amnode.machine.machine import Machine
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event
from amnode.machine.waits import Wait

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from benchmarks.harness import Case, Figure, Run, Setup, compare, figures
from benchmarks.libraries import installed, turned

SIZES = (3, 20, 200)
FLAGS = (3, 8, 20, 200)
BASELINE = "a method call that updates a list"
TOGGLES = 40_000
MANY = 100_000


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


class Tracer:
    """An observer; of a type that is known, and attached to another machine only."""

    def transition_end(self, transition: object) -> None: ...


# -- a warm mutation -------------------------------------------------------------------------


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


def untraced() -> Run:
    """A tracer came and went, and another machine has one."""
    machine(3).trace(Tracer())
    made, tracer = machine(20, A=State()), Tracer()
    made.trace(tracer)
    one(made, 2)
    made.untrace(tracer)
    one(made, 2)
    return partial(one, made)


def in_other_libraries() -> list[Case]:
    cases: list[Case] = []
    for name, (version, make) in installed().items():
        for what, handler in (("one change", False), ("with a handler", True)):
            run = turned(make, handler=handler)
            cases.append(Case(f"{name} {version}, {what}", run, BASELINE, bare))
    return cases


# -- plans that do not explode ---------------------------------------------------------------


def flags(count: int) -> Machine:
    names = [f"S{i}" for i in range(count - 1)]
    return Machine(Schema({name: State() for name in names}), id="flags")


def random_names(size: int) -> list[str]:
    chosen = random.Random(size)
    return [f"S{chosen.randrange(size - 1)}" for _ in range(TOGGLES)]


def toggle(made: Machine, names: Sequence[str], count: int) -> None:
    toggle1 = made.toggle1
    for name in islice(cycle(names), count):
        toggle1(name)


def exploding(size: int) -> Case:
    """The random ones start with a machine and a schema that nobody has used."""
    names, warm = random_names(size), flags(size)
    toggle(warm, ["S0"], 2)

    def fresh() -> Run:
        return partial(toggle, flags(size), names)

    return Case(
        f"random toggles of {size} flags",
        Setup(fresh, TOGGLES),
        "toggling one flag",
        partial(toggle, warm, ["S0"]),
        2,
    )


def kept_by_plans(size: int) -> Figure:
    names, made = random_names(size), flags(size)
    kept = _kept(lambda: toggle(made, names, TOGGLES))
    return Figure(f"kept after random toggles of {size} flags", kept / 1024, "KiB", 1024)


# -- waits -----------------------------------------------------------------------------------


def waiting(others: int) -> Setup:
    """A wait is made, resolved and looked at, while others stay."""

    def make() -> Run:
        made = machine(20, A=State(), B=State())
        pending = [made.when1("B") for _ in range(others)]
        return partial(waited, made, pending)

    return Setup(make, 2000)


def waited(made: Machine, pending: Sequence[Wait], count: int) -> None:
    for _ in range(count):
        wait = made.when1("A")
        made.add1("A")
        made.remove1("A")
        assert wait.done()
    assert not any(other.done() for other in pending[:1])


# -- making machines ---------------------------------------------------------------------------


def making(handlers: bool, count: int) -> list[Machine]:
    schema, owner = SCHEMA, Handlers()
    made = [Machine(schema, id="made") for _ in range(count)]
    for each in made if handlers else ():
        each.bind(owner)
        each.add1("A")
    return made


SCHEMA = Schema({"A": State(), **{f"S{i}": State() for i in range(18)}})


def machines() -> list[Figure]:
    made = making(False, 1)
    seconds = min(_seconds(lambda: making(False, 10_000)) for _ in range(5)) / 10_000
    fresh = _kept(lambda: made.extend(making(False, 1000))) / 1000
    five = ("A", "S0", "S1", "S2", "S3")
    used = _kept(lambda: [made.add(five) for made in made[1:]]) / 1000 + fresh
    many: list[Machine] = []
    total = _kept(lambda: many.extend(making(True, MANY)))
    return [
        Figure("making a machine of 20 states", seconds * 1e6, "µs", 5),
        Figure("it keeps", fresh, "bytes", 1024),
        Figure("it keeps, five states active", used, "bytes", 1024),
        Figure(f"{MANY:,} with handlers, one state active", total / 2**20, "MiB", 1024),
    ]


def _seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def _kept(run: Callable[[], object]) -> int:
    """The bytes that are held afterwards and were not before."""
    gc.collect()
    tracemalloc.start()
    result = run()
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del result
    return kept


def main() -> None:
    compare(
        "a warm mutation",
        [
            *sized("add1, remove1", one, 4),
            *sized("add, remove of two", several, 6),
            *sized("one final handler", one, 10, handlers=True),
            *(Case(f"add1 of a Multi, {n} states", multi(n), BASELINE, bare, 4) for n in SIZES),
            Case("add1, remove1, a tracer gone", untraced(), BASELINE, bare, 4),
            *in_other_libraries(),
        ],
        clock=time.process_time,
    )
    compare("plans", [exploding(size) for size in FLAGS], clock=time.process_time)
    compare(
        "waiting",
        [
            Case(
                f"when1, add1, remove1; {MANY:,} others wait",
                waiting(MANY),
                "the same with 1 other",
                waiting(1),
                1.2,
            )
        ],
        clock=time.process_time,
    )
    figures("memory and making", [*map(kept_by_plans, FLAGS), *machines()])


if __name__ == "__main__":
    main()
