"""The kernel against its naive reading, over random schemas, handlers and mutations.

Each example runs the same mutations through the naive kernel and through the real one, with
the plan cache and without it, with an observer and without one, and compares all that can be
seen: results, ticks, machine order, queue tick, handlers, and every transition.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from amnode.machine.schema import State
from tests.unit.machine.naive import Naive, Rule, Script
from tests.unit.machine.strategies import Real, mutations, rules, scripts


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_real_and_naive_agree(data: st.DataObject) -> None:
    schema = data.draw(rules(), "rules")
    names = list(schema)
    script = data.draw(scripts(names), "script")
    naive = Naive(schema, script)
    cached, afresh, unseen = (
        Real(schema, script, cached=True),
        Real(schema, script, cached=False),
        Real(schema, script, cached=True),
    )
    for real in (cached, afresh):
        real.machine.trace(real)
    for type_, called in data.draw(mutations(names), "mutations"):
        ticks = list(naive.ticks.values())
        expected = naive.mutate(type_, called)
        for real in (cached, afresh, unseen):
            assert real.mutate(type_, called) == expected
            assert snapshot(real.machine) == (
                list(naive.ticks.values()),
                naive.order,
                naive.queue_tick,
            )
            assert real.handlers == naive.handlers
            assert real.answers == naive.answers
            real.check()
        assert cached.transitions == naive.transitions
        assert afresh.transitions == naive.transitions
        assert all(a <= b for a, b in zip(ticks, naive.ticks.values(), strict=True))
        canceled_changes_nothing(naive, ticks, script.raising)
        for seen in (naive, cached, afresh):
            seen.transitions.clear()
            seen.handlers.clear()
        unseen.handlers.clear()


def snapshot(machine: Any) -> tuple[list[int], list[str], int]:
    return list(machine.time()), machine.active_states(), machine.queue_tick


def canceled_changes_nothing(naive: Naive, before: list[int], raising: frozenset[str]) -> None:
    """A canceled mutation changes no tick, unless a final handler raised."""
    for seen in naive.transitions:
        finals = {n for n in naive.handlers if n in raising and n.endswith(("State", "End"))}
        if not seen.accepted and not finals:
            assert seen.ticks == before
        before = seen.ticks


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_asking_changes_nothing_and_says_what_will_be(data: st.DataObject) -> None:
    schema = data.draw(rules(), "rules")
    names = list(schema)
    script = replace(data.draw(scripts(names), "script"), raising=frozenset(), nested={})
    real = Real(schema, script, cached=True)
    for type_, called in data.draw(mutations(names), "mutations"):
        if type_ not in ("add", "remove"):
            real.mutate(type_, called)
            continue
        before = snapshot(real.machine)
        can = real.machine.can_add if type_ == "add" else real.machine.can_remove
        expected = can(called)
        assert snapshot(real.machine) == before
        assert real.mutate(type_, called) == ("EXECUTED" if expected else "CANCELED")
        real.check()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_machine_that_grew_is_as_if_it_always_had_been_so(data: st.DataObject) -> None:
    schema = data.draw(rules(), "rules")
    names = list(schema)
    script = data.draw(scripts(names), "script")
    known = data.draw(st.sampled_from(names), "known")
    new = {"New": Rule(require=(known,)), "Other": Rule(auto=True, require=("New",))}
    grown, always = (Real(r, script, cached=True) for r in (schema, {**schema, **new}))
    asked = data.draw(mutations(names), "mutations")
    cut = data.draw(st.integers(0, len(asked)), "cut")
    # An automatic state that cannot be reached yet may still change the order in which others
    # are, and so which of their handlers have run when one raises.
    assume(
        _after(schema, script, asked[:cut]) == _after({**schema, **new}, script, asked[:cut])
    )
    for real in (grown, always):
        for type_, called in asked[:cut]:
            if type_ != "set":
                real.mutate(type_, called)
    grown.machine.grow({name: State(**asdict(rule)) for name, rule in new.items()})
    assert grown.machine.time()[: len(names)] == always.machine.time()[: len(names)]
    for type_, called in [("add", ["New"]), *asked[cut:], ("add", ["New"])]:
        assert grown.mutate(type_, called) == always.mutate(type_, called)
        assert grown.machine.clock() == always.machine.clock()
        grown.check()


def _after(schema: dict[str, Rule], script: Script, asked: list[Any]) -> tuple[Any, ...]:
    """What some mutations leave, but for the states that are new."""
    naive = Naive(schema, script)
    for type_, called in asked:
        if type_ != "set":
            naive.mutate(type_, called)
    old = [tick for name, tick in naive.ticks.items() if name not in ("New", "Other")]
    return old, naive.order, naive.queue_tick
