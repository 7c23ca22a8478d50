"""Export and restore: what fits, what does not, and that a restored machine goes on alike."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amnode.errors import ContextExpiredError, MachineDisposedError, MachineError
from amnode.machine.machine import Machine
from amnode.machine.schema import Schema, State
from amnode.machine.snapshot import Snapshot
from amnode.machine.transition import Event
from tests.unit.machine.strategies import Real, mutations, rules, scripts

SCHEMA = Schema({"A": State(), "B": State(require="A"), "C": State(remove="A")})


def machine(**options: Any) -> Machine:
    return Machine(SCHEMA, id="m", **options)


def saved(**changes: Any) -> Snapshot:
    m = machine()
    m.add(("A", "B"))
    return msgspec.structs.replace(m.export(), **changes)


async def test_time_goes_on() -> None:
    m = machine()
    m.add(("A", "B"))
    snapshot = m.export()
    assert snapshot == Snapshot(
        id="m",
        names=("A", "B", "C", "Exception"),
        time=(1, 1, 0, 0),
        active=("A", "B"),
        queue_tick=2,
    )
    read = msgspec.json.decode(msgspec.json.encode(snapshot), type=Snapshot)
    again = machine()
    wait, context = again.when(("A", "B")), again.state_ctx("A")
    ended = again.when1("C", ctx=context)
    again.restore(read)
    assert wait.done()
    with pytest.raises(ContextExpiredError):
        await ended
    assert (str(again), again.queue_tick, again.machine_tick) == ("(A:1 B:1)", 2, 1)
    third = machine()
    third.restore(again.export())
    assert third.machine_tick == 2
    third.restore(third.export())  # nothing moves, but it is another life
    assert third.machine_tick == 3


def test_a_schema_may_have_grown_since() -> None:
    grown = Machine(SCHEMA.grown({"D": State()}), id="m")
    grown.restore(saved())
    assert grown.time() == (1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "other"}, "is of machine other"),
        ({"names": ("A", "C", "B", "Exception")}, "its state C is not the schema's no. 1"),
        ({"names": ("A", "B", "C", "Exception", "D")}, "its state D is not the schema's no. 4"),
        ({"time": (1, 1, 0)}, "it has 4 states"),
        ({"time": (1, 1, 0, -2)}, "it has 4 states"),
        ({"active": ("A",)}, r"ticks say that \['A', 'B'\] are active, not \['A'\]"),
        ({"queue_tick": 0}, "its ticks are 0 and 0"),
        ({"machine_tick": -1}, "its ticks are 2 and -1"),
        ({"time": (0, 1, 0, 0), "active": ("B",)}, "breaks the relations: invariant 2"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    m = machine()
    with pytest.raises(MachineError, match=message):
        m.restore(saved(**changes))
    assert (m.time(), m.machine_tick) == ((0, 0, 0, 0), 0)


async def test_ticks_never_fall() -> None:
    m = machine()
    m.add1("C")
    with pytest.raises(MachineError, match="past the snapshot"):
        m.restore(saved())
    m = machine()
    m.remove1("A")
    m.remove1("A")
    with pytest.raises(MachineError, match="past the snapshot"):
        m.restore(saved())
    await m.dispose()
    for late in (m.export, lambda: m.restore(saved())):
        with pytest.raises(MachineDisposedError):
            late()


def test_not_while_a_transition_runs() -> None:
    m, seen = machine(), list[str]()

    def ask(event: Event) -> None:
        for late in (m.export, lambda: m.restore(saved()), lambda: m.grow({"D": State()})):
            with pytest.raises(MachineError, match="while a transition runs") as caught:
                late()
            seen.append(str(caught.value))

    m.bind({"AState": ask})
    assert m.add1("A")
    assert len(seen) == 3


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_exported_and_restored_it_goes_on_identically(data: st.DataObject) -> None:
    schema = data.draw(rules(), "rules")
    names = list(schema)
    script = data.draw(scripts(names), "script")
    asked = data.draw(mutations(names), "mutations")
    one = Real(schema, script, cached=True)
    one.machine.trace(one)
    cut = data.draw(st.integers(0, len(asked)), "cut")
    for type_, called in asked[:cut]:
        one.mutate(type_, called)
    two = Real(schema, script, cached=data.draw(st.booleans(), "cached"))
    two.nested = {name: list(wanted) for name, wanted in one.nested.items()}
    two.machine.restore(one.machine.export())
    two.machine.trace(two)
    for seen in (one.transitions, one.handlers, one.answers):
        seen.clear()
    for type_, called in asked[cut:]:
        assert one.mutate(type_, called) == two.mutate(type_, called)
        assert one.machine.time() == two.machine.time()
        assert one.machine.active_states() == two.machine.active_states()
        assert one.machine.queue_tick == two.machine.queue_tick
        two.check()
    assert one.transitions == two.transitions
    assert one.handlers == two.handlers
    assert one.answers == two.answers
