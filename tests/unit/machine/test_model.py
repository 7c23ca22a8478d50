"""The kernel against its naive reading, over random schemas, handlers and mutations.

Each example runs the same mutations through the naive kernel and through the real one, with
the plan cache and without it, with an observer and without one, and compares all that can be
seen: results, ticks, machine order, queue tick, handlers, and every transition.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.machine.naive import Naive
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
