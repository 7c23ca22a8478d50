"""The kernel once more, as the naive reading of its rules: names, lists and no memory.

It is slow, keeps no masks, no plans and no order but a list, and shares no code with
`amnode.machine`. Tests run the same mutations through both and compare all that can be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

EXECUTED, CANCELED = "EXECUTED", "CANCELED"


@dataclass
class Rule:
    """One state of a schema; `Exception` is Multi without more."""

    auto: bool = False
    multi: bool = False
    require: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass
class Asked:
    """A mutation on its way."""

    type: str
    called: list[str]
    auto: bool = False
    prepended: bool = False
    quiet: bool = False


@dataclass
class Seen:
    """What one transition looked like from outside."""

    type: str
    called: list[str]
    auto: bool
    accepted: bool
    active: list[str]
    ticks: list[int]


@dataclass
class Script:
    """What handlers do: which refuse, which raise, and what they ask for when first called."""

    bound: frozenset[str] = frozenset()
    falsy: frozenset[str] = frozenset()
    raising: frozenset[str] = frozenset()
    nested: Mapping[str, list[tuple[str, list[str]]]] = field(default_factory=dict)


class Refused(Exception):
    """A negotiation handler said no, or raised."""


class Naive:
    """A machine as the rules read."""

    def __init__(self, rules: Mapping[str, Rule], script: Script) -> None:
        self.rules = dict(rules)
        self.names = list(rules)
        self.script = script
        self.nested = {name: list(wanted) for name, wanted in script.nested.items()}
        self.ticks = dict.fromkeys(self.names, 0)
        self.order: list[str] = []
        self.queue: list[Asked] = []
        self.queue_tick = 1
        self.running = False
        self.handlers: list[str] = []
        self.answers: list[str] = []
        self.transitions: list[Seen] = []

    # -- what is asked -------------------------------------------------------------------

    def mutate(self, type_: str, states: Iterable[str]) -> str:
        called = list(dict.fromkeys(states))
        if type_ == "toggle":
            type_ = "remove" if all(s in self.order for s in called) else "add"
        if self.running:
            return self.enqueue(Asked(type_, called))
        self.queue_tick += 1
        self.running = True
        result = self.transition(Asked(type_, called))
        while self.queue:
            asked = self.queue.pop(0)
            self.queue_tick += not asked.prepended
            self.transition(asked)
        self.running = False
        return EXECUTED if result else CANCELED

    def enqueue(self, asked: Asked) -> str:
        none_active = not any(s in self.order for s in asked.called)
        if asked.type == "remove" and not self.queue and none_active:
            return EXECUTED
        if not any(self.rules[s].multi for s in asked.called):
            for other in self.queue:
                if other.type == asked.type and set(other.called) == set(asked.called):
                    return EXECUTED
        self.queue.append(asked)
        appended = sum(not other.prepended for other in self.queue)
        return f"Queued({self.queue_tick + appended})"

    # -- steps 1 to 6 --------------------------------------------------------------------

    def targets(self, asked: Asked) -> list[str]:
        called, rules = asked.called, self.rules
        others = [s for s in self.order if s not in called]
        start = {"add": [*called, *others], "remove": others, "set": list(called)}[asked.type]

        def brings(state: str) -> tuple[str, ...]:
            again = rules[state].multi and state in called and asked.type != "remove"
            return rules[state].add if again or state not in self.order else ()

        def met(states: list[str]) -> list[str]:
            kept = [s for s in states if all(r in states for r in rules[s].require)]
            return states if kept == states else met(kept)

        listed = start
        for state in listed:
            listed.extend(s for s in brings(state) if s not in listed)
        listed = met(listed)
        blocked: list[str] = []
        for state in reversed(listed):
            removers = [s for s in listed if s != state and state in rules[s].remove]
            if any(s not in blocked for s in removers):
                blocked.append(state)
        listed = [s for s in listed if s not in blocked]
        walk = listed[::-1]
        for state in walk:
            for new in brings(state):
                removes = any(s in rules[new].remove or new in rules[s].remove for s in listed)
                if new not in listed and not removes:
                    listed.insert(0, new)
                    walk.append(new)
        return self.arranged(met(listed))

    def arranged(self, states: list[str]) -> list[str]:
        topology: list[str] = []

        def visit(state: str, path: tuple[str, ...]) -> None:
            if state in topology or state in path:
                return
            for needed in self.rules[state].require:
                visit(needed, (*path, state))
            topology.append(state)

        for state in self.names:
            if self.rules[state].require:
                visit(state, ())
        waiting = [s for s in states if s not in topology]
        waiting += [s for s in topology if s in states]
        done: list[str] = []
        while waiting:
            free = [s for s in waiting if not any(a in waiting for a in self.rules[s].after)]
            done.append((free or waiting)[0])
            waiting.remove(done[-1])
        return done

    # -- steps 7 to 11 -------------------------------------------------------------------

    def transition(self, asked: Asked) -> bool:
        targets = self.targets(asked)
        met = any if asked.auto else all
        accepted = asked.type == "remove" or met(s in targets for s in asked.called)
        ticks = dict(self.ticks)
        if accepted:
            try:
                targets = self.negotiated(asked, targets)
            except Refused:
                accepted = False
        if accepted:
            accepted = self.change(asked, targets)
        changed = ticks != self.ticks
        self.transitions.append(
            Seen(
                asked.type,
                list(asked.called),
                asked.auto,
                accepted,
                list(self.order),
                list(self.ticks.values()),
            )
        )
        quiet = asked.type == "add" and asked.called in (["Healthcheck"], ["Heartbeat"])
        if accepted and changed and not asked.auto and not quiet and not asked.quiet:
            self.try_autos()
        return accepted

    def try_autos(self) -> None:
        removed = [s for active in self.order for s in self.rules[active].remove]
        autos = [s for s in self.names if self.rules[s].auto and s not in self.order]
        autos = [s for s in autos if s not in removed]
        if autos:
            self.queue.insert(0, Asked("add", autos, auto=True, prepended=True))

    def moved(self, asked: Asked, targets: list[str]) -> tuple[list[str], list[str]]:
        """The states that are deactivated, and those that are activated (or called again)."""
        again = [s for s in asked.called if self.rules[s].multi and asked.type != "remove"]
        ended = [s for s in self.order if s not in targets]
        return ended, [s for s in targets if s not in self.order or s in again]

    def negotiated(self, asked: Asked, targets: list[str]) -> list[str]:
        ended, begun = self.moved(asked, targets)
        struck: list[str] = []

        def ask(names: Iterable[tuple[str, str]]) -> None:
            for name, entered in names:
                if self.call(asked, name):
                    continue
                strikes = asked.auto and entered and self.rules[entered].auto
                if not strikes or name in self.script.raising:
                    raise Refused
                struck.append(entered)

        stay = [s for s in targets if s in self.order and asked.type != "remove"]
        ask([(f"{s}Exit", "") for s in ended])
        ask([(f"{s}Enter", s) for s in begun])
        ask([(s * 2, s) for s in stay])
        entered = [s for s in targets if s not in struck]
        ask([(x + y, y) for x in self.order for y in entered if x != y])
        if struck and all(s in struck for s in targets):
            raise Refused
        ask([("AnyEnter", "")])
        if asked.auto:
            left = [s for s in asked.called if s in targets and s not in struck]
            return self.targets(Asked(asked.type, left, auto=True))
        return targets

    def change(self, asked: Asked, targets: list[str]) -> bool:
        ended, begun = self.moved(asked, targets)
        for state in ended:
            self.ticks[state] += 1
        for state in begun:
            self.ticks[state] += 2 if state in self.order else 1
        self.order = targets
        todo = list(begun)
        steps: list[tuple[str, Callable[[], object]]] = []
        steps += [(f"{s}End", lambda: None) for s in ended]
        steps += [(f"{s}State", lambda: todo.pop(0)) for s in begun]
        steps += [("AnyState", lambda: None)]
        for name, complete in steps:
            if name in self.script.raising and name in self.script.bound:
                self.call(asked, name)
                self.undo(todo)
                return False
            self.call(asked, name)
            complete()
        return True

    def undo(self, states: list[str]) -> None:
        """States end whose final handler has not completed, and what requires them."""
        ending = list(states)
        for state in ending:
            ending += [
                s for s in self.order if state in self.rules[s].require and s not in ending
            ]
        for state in ending:
            self.ticks[state] += 1
            self.order.remove(state)

    def call(self, asked: Asked, name: str) -> bool:
        if name not in self.script.bound:
            return True
        self.handlers.append(name)
        for type_, called in self.nested.pop(name, ()):
            self.answers.append(self.mutate(type_, called))
        if name in self.script.raising:
            if "Exception" not in asked.called:
                error = Asked("add", ["Exception"], prepended=True, quiet=asked.auto)
                self.queue.insert(0, error)
            return False
        return name not in self.script.falsy
