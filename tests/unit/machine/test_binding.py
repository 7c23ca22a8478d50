"""From objects and mappings to handlers, and what is refused at binding."""

from __future__ import annotations

from functools import partial

import pytest

from amnode.errors import BindingError
from amnode.machine.binding import Binding, table_of
from amnode.machine.binding import Handlers as Functions
from amnode.machine.machine import Machine
from amnode.machine.schema import Schema, State
from amnode.machine.transition import Event

SCHEMA = Schema({"Foo": State(), "Bar": State()})


class Handlers:
    FooEnd = None  # switched off, as a subclass may do with an inherited one

    def FooEnter(self, event: object) -> None: ...
    def FooExit(self, event: object) -> None: ...
    def FooFoo(self, event: object) -> None: ...
    def FooBar(self, event: object) -> None: ...
    def AnyEnter(self, event: object) -> None: ...
    async def FooState(self, event: object) -> None: ...
    def Helper(self) -> None: ...
    def lower_state(self) -> None: ...


def test_methods_are_found_by_name() -> None:
    table = table_of(SCHEMA, Handlers())
    assert sorted(table.functions) == [
        "AnyEnter",
        "FooBar",
        "FooEnter",
        "FooExit",
        "FooFoo",
        "FooState",
    ]
    assert table.methods
    assert sorted(table.pairs) == [(0, 0), (0, 1)]
    assert repr(Binding(table, None)).startswith("<Binding 0 of AnyEnter, FooBar")


def test_inherited_methods_count() -> None:
    class More(Handlers):
        def BarState(self, event: object) -> None: ...

    assert {"BarState", "FooEnter"} <= {*table_of(SCHEMA, More()).functions}


def test_mappings_give_functions() -> None:
    table = table_of(SCHEMA, {"FooState": print})
    assert (table.methods, table.functions) == (False, {"FooState": print})


def test_a_method_that_names_no_state_is_told_with_the_nearest_name() -> None:
    class Misspelt:
        def FoState(self, event: object) -> None: ...

    with pytest.raises(BindingError, match=r"FoState names no state.*did you mean FooState"):
        table_of(SCHEMA, Misspelt())
    with pytest.raises(BindingError, match="Baz names no state"):
        table_of(SCHEMA, {"Baz": print})


def test_a_name_that_could_mean_two_things_is_refused() -> None:
    schema = Schema({name: State() for name in ("A", "AB", "BC", "C")})
    with pytest.raises(BindingError, match="ABC could mean A to BC or AB to C"):
        table_of(schema, {"ABC": print})
    schema = Schema({"Any": State(), "A": State(), "State": State()})
    with pytest.raises(
        BindingError, match="AnyState could mean any transition or State of Any"
    ):
        table_of(schema, {"AnyState": print})


@pytest.mark.parametrize("name", ["FooEnter", "FooExit", "FooBar", "BarBar", "AnyEnter"])
def test_what_decides_must_not_be_async(name: str) -> None:
    async def decide(event: object) -> bool:
        return True

    with pytest.raises(BindingError, match=f"{name} decides"):
        table_of(SCHEMA, {name: partial(decide)})


def test_what_looks_like_a_handler_must_be_a_plain_method() -> None:
    class Static:
        @staticmethod
        def FooState(event: object) -> None: ...

    class Instance:
        FooBar = partial(print)

    for source in (Static(), Instance()):
        with pytest.raises(BindingError, match="must be a plain method"):
            table_of(SCHEMA, source)


def test_functions_by_decorator() -> None:
    handlers, seen = Functions(), list[str]()

    @handlers
    def FooState(event: Event) -> None:
        seen.append(event.name)

    @handlers.on("FooEnter", "BarExit")
    def log(event: Event) -> None:
        seen.append(event.name)

    m = Machine(SCHEMA, id="m")
    binding = m.bind(handlers)
    m.add(("Foo", "Bar"))
    m.set("Foo")
    assert seen == ["FooEnter", "FooState", "BarExit"]
    assert sorted(handlers) == ["BarExit", "FooEnter", "FooState"]
    assert len(handlers) == 3
    with pytest.raises(BindingError, match="for handler FooState already"):
        handlers(FooState)
    other = m.bind({})
    assert (binding.id, other.id) == (1, 2)
    m.detach(other)
    m.detach(binding)
    assert m.bind({}).id == 1
