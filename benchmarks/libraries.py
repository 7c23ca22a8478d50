"""A switch, off and on, in other libraries: each does the work that one toggle of a flag is.

What is not installed is named and left out: pip install 'amnode[bench]'. Each library is used
as its documentation shows; where it offers a leaner way (no automatic transitions), that one.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from benchmarks.harness import Run

#: Makes the two calls that turn a switch on and off; with True, turning it calls one handler.
Make = Callable[[bool], tuple[Callable[[], object], Callable[[], object]]]


class Count:
    """What the handlers do."""

    def __init__(self) -> None:
        self.called = 0

    def add(self, *_: object) -> None:
        self.called += 1


def with_transitions(handler: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    from transitions import Machine

    class Switch:
        go: Any
        back: Any

    switch, count = Switch(), Count()
    after = {"after": count.add} if handler else {}
    Machine(
        model=switch,
        states=["off", "on"],
        initial="off",
        auto_transitions=False,
        transitions=[
            {"trigger": "go", "source": "off", "dest": "on", **after},
            {"trigger": "back", "source": "on", "dest": "off", **after},
        ],
    )
    return switch.go, switch.back


def with_pysm(handler: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    from pysm import Event, State, StateMachine

    count = Count()
    machine, off, on = StateMachine("switch"), State("off"), State("on")
    machine.add_state(off, initial=True)
    machine.add_state(on)
    after = {"after": count.add} if handler else {}
    machine.add_transition(off, on, events=["go"], **after)
    machine.add_transition(on, off, events=["back"], **after)
    machine.initialize()
    return lambda: machine.dispatch(Event("go")), lambda: machine.dispatch(Event("back"))


def with_automat(handler: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    from automat import TypeMachineBuilder

    class Switch(Protocol):
        def go(self) -> None: ...
        def back(self) -> None: ...

    builder = TypeMachineBuilder(Switch, Count)
    off, on = builder.state("off"), builder.state("on")
    if handler:

        def counted(switch: Switch, count: Count) -> None:
            count.called += 1

        off.upon(Switch.go).to(on)(counted)
        on.upon(Switch.back).to(off)(counted)
    else:
        off.upon(Switch.go).to(on).returns(None)
        on.upon(Switch.back).to(off).returns(None)
    switch = builder.build()(Count())
    return switch.go, switch.back


def with_python_statemachine(
    handler: bool,
) -> tuple[Callable[[], object], Callable[[], object]]:
    from statemachine import State, StateMachine

    class Switch(StateMachine):
        off = State(initial=True)
        on = State()
        go = off.to(on)
        back = on.to(off)

    class Counted(Switch):
        def __init__(self) -> None:
            self.called = 0
            super().__init__()

        def after_transition(self) -> None:
            self.called += 1

    switch: Any = Counted() if handler else Switch()
    return switch.go, switch.back


LIBRARIES: dict[str, Make] = {
    "transitions": with_transitions,
    "pysm": with_pysm,
    "Automat": with_automat,
    "python-statemachine": with_python_statemachine,
}


def installed() -> dict[str, tuple[str, Make]]:
    """The version and the switch of those that are installed, by name; names the others."""
    found: dict[str, tuple[str, Make]] = {}
    for name, make in LIBRARIES.items():
        try:
            found[name] = importlib.metadata.version(name), make
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed, and left out.")
    return found


def turned(make: Make, *, handler: bool) -> Run:
    """Turns a switch on and off again, half as often each."""
    return partial(_turn, *make(handler))


def _turn(go: Callable[[], object], back: Callable[[], object], count: int) -> None:
    for _ in range(count // 2):
        go()
        back()
