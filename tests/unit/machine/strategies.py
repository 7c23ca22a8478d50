"""Random schemas and scripts, and a recorder that runs one through the real kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from hypothesis import strategies as st

from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED, Result
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event, Transition
from tests.unit.machine.naive import Rule, Script, Seen

#: No two of these names joined are a third, or a name with a suffix.
LETTERS = ("A", "B", "C", "D", "E", "F")
TYPES = ("add", "remove", "set", "toggle")


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Rule]:
    """A valid schema of two to six states and Exception, as the naive kernel takes it."""
    names = list(LETTERS[: draw(st.integers(2, 6))])
    if draw(st.booleans()):
        names[0] = "Heartbeat"
    others = st.lists(st.sampled_from([*names, "Exception"]), max_size=2, unique=True)
    nothing = st.just([])
    found: dict[str, Rule] = {}
    for name in names:
        require, add = draw(nothing | others), draw(nothing | others)
        remove = [s for s in draw(nothing | others) if s not in (*require, *add, name)]
        after = [s for s in draw(nothing | nothing | others) if s != name]
        found[name] = Rule(
            draw(st.integers(0, 3)) == 0,
            draw(st.integers(0, 2)) == 0,
            tuple(require),
            tuple(add),
            tuple(remove),
            tuple(after),
        )
    found["Exception"] = Rule(multi=True)
    return found


def handler_names(names: list[str]) -> list[str]:
    """Every handler that a schema of these states can have."""
    suffixed = [n + suffix for n in names for suffix in ("Enter", "Exit", "State", "End")]
    return [*suffixed, *(a + b for a in names for b in names), "AnyEnter", "AnyState"]


def mutations(names: list[str]) -> st.SearchStrategy[list[tuple[str, list[str]]]]:
    """A few mutations of one or several states."""
    called = st.lists(st.sampled_from(names), min_size=1, max_size=3)
    return st.lists(st.tuples(st.sampled_from(TYPES), called), min_size=1, max_size=8)


@st.composite
def scripts(draw: st.DrawFn, names: list[str]) -> Script:
    """What is bound (nothing, a few, everything), what refuses, what raises, what is nested."""
    every = handler_names(names)
    some = st.frozensets(st.sampled_from(every), max_size=6)
    bound = draw(st.just(frozenset(every)) | some | st.just(frozenset[str]()))
    finals = [n for n in every if n.endswith(("State", "End"))]
    raising = draw(
        st.just(frozenset[str]()) | st.frozensets(st.sampled_from(finals), max_size=2)
    )
    raising |= draw(
        st.just(frozenset[str]()) | st.frozensets(st.sampled_from(every), max_size=1)
    )
    falsy = draw(st.just(frozenset[str]()) | st.frozensets(st.sampled_from(every), max_size=4))
    nested = draw(st.dictionaries(st.sampled_from(every), mutations(names), max_size=3))
    return Script(bound, falsy - frozenset(finals), raising, nested)


def schema_of(rules: Mapping[str, Rule]) -> Schema:
    """The same schema for the real kernel."""
    return Schema({name: State(**asdict(rule)) for name, rule in rules.items()})


class Real:
    """The real kernel, asked and observed as the naive one is."""

    def __init__(self, rules: Mapping[str, Rule], script: Script, *, cached: bool) -> None:
        self.machine = Machine(schema_of(rules), id="real", cached=cached)
        self.script = script
        self.nested = {name: list(wanted) for name, wanted in script.nested.items()}
        self.handlers: list[str] = []
        self.answers: list[str] = []
        self.transitions: list[Seen] = []
        if script.bound:
            self.machine.bind({name: self.handler(name) for name in sorted(script.bound)})

    def handler(self, name: str) -> Callable[[Event], bool]:
        def run(_event: Event) -> bool:
            self.handlers.append(name)
            for type_, called in self.nested.pop(name, ()):
                self.answers.append(self.mutate(type_, called))
            if name in self.script.raising:
                raise ValueError(name)
            return name not in self.script.falsy

        return run

    def mutate(self, type_: str, called: list[str]) -> str:
        result: Result = getattr(self.machine, type_)(called)
        assert bool(result) is (result is not CANCELED)
        return repr(result)

    def transition_end(self, transition: Transition) -> None:
        names = self.machine.state_names
        self.transitions.append(
            Seen(
                transition.type.name.lower(),
                [names[i] for i in transition.called],
                transition.auto,
                transition.accepted,
                self.machine.active_states(),
                list(self.machine.time()),
            )
        )

    def check(self) -> None:
        """The invariants of the clock and of the relations."""
        self.machine._clock.check()
        self.machine._planner.relations.check(self.machine._clock.active())


__all__ = ["CANCELED", "EXECUTED", "Real", "mutations", "rules", "scripts"]
